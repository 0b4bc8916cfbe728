"""Retraining on subsets: what it must equal, and what may not leak."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from spex_jax.influence import examples, subsets
from spex_jax.models import mlp
from spex_jax.training import learners, linear, loop

_N, _D, _T, _CLASSES = 24, 4, 5, 3
_KEY = jax.random.key(7)
_RECIPE = loop.Recipe(num_epochs=3, batch_size=8, learning_rate=0.05)
_NET = mlp.network(mlp.Config(_D, _CLASSES, (6,), "leaky_relu"))


def _data(seed=0):
  rng = np.random.default_rng(seed)
  x, test = rng.normal(size=(_N, _D)), rng.normal(size=(_T, _D))
  slopes = rng.normal(size=(_D, _CLASSES))
  return (
    {"x": x, "y": (x @ slopes).argmax(axis=1)},
    {"x": test, "y": (test @ slopes).argmax(axis=1)},
  )


def _masks(count=10, seed=3):
  return np.random.default_rng(seed).random((count, _N)) < 0.6


def _logits(params, x):
  return _NET.apply(params, features=x).logits


def _learner(recipe=_RECIPE, **more):
  return learners.classifier(
    "mlp 4-6-3", _NET.init, _logits, _CLASSES, recipe, **more
  )


def _retrainer(learner=None, data=None, **more):
  settings = {"key": _KEY, "seeds": "common", "microbatch": 4, "batch_size": 8}
  train, test = data or _data()
  return examples.Retrainer(
    learner or _learner(), train, test, **settings | more
  )


@pytest.fixture(scope="module")
def common():
  return _retrainer()


@pytest.fixture(scope="module")
def independent():
  return _retrainer(seeds="independent", num_seeds=2)


@pytest.mark.slow
def test_equals_one_plain_training(common):
  """The same as `loop.train` by itself, with the weights of the mask."""
  train, test = jax.tree.map(
    lambda a: a.astype("f4") if a.dtype.kind == "f" else a, _data()
  )
  masks = _masks(3)
  values = common.run(masks, seed=1).values
  words = examples._words(common._words, b"common", 1)
  key = jax.random.wrap_key_data(jnp.asarray(words), impl="threefry2x32")
  for mask, value in zip(masks, values):
    trained = loop.train(
      *(
        jax.random.fold_in(key, loop._cause(name)) for name in ("init", "order")
      ),
      train,
      mask.astype(np.float32),
      init=_NET.init,
      losses=lambda params, batch: (
        -jax.nn.log_softmax(_logits(params, batch["x"]))[
          jnp.arange(8), batch["y"]
        ]
      ),
      recipe=_RECIPE,
    )
    logits = np.asarray(_logits(trained.params, test["x"]))
    right = np.eye(_CLASSES, dtype=bool)[test["y"]]
    expected = logits[right] - np.where(right, -np.inf, logits).max(axis=1)
    # Nine Adam steps in float32, batched otherwise.
    np.testing.assert_allclose(value, expected, rtol=0, atol=2e-5)


@pytest.mark.slow
def test_content_of_a_dropped_example_cannot_matter(common):
  mask = _masks(1)
  for learner in (None, linear.logistic(1.0, _CLASSES)):
    train, test = _data()
    changed = {"x": train["x"].copy(), "y": train["y"].copy()}
    changed["x"][~mask[0]] = 1e4
    changed["y"][~mask[0]] = 0
    one = (
      (_retrainer(learner, (train, test)) if learner else common)
      .run(mask)
      .values
    )
    other = _retrainer(learner, (changed, test)).run(mask).values
    if learner is None:
      np.testing.assert_array_equal(one, other)
    else:
      # Newton starts elsewhere, and products of weights of 0 are summed in
      # blocks: the solution is the same to its tolerance.
      np.testing.assert_allclose(one, other, rtol=1e-3, atol=1e-3)


@pytest.mark.slow
def test_weight_masks_equal_physical_subsets():
  """Of full batches, where order cannot matter: sums in another order."""
  recipe = loop.Recipe(20, _N, 0.1, "sgd", denominator="weight")
  masks = _masks(1)
  train, test = _data()
  values = _retrainer(_learner(recipe)).run(masks).values
  for mask, value in zip(masks, values):
    part = {name: leaf[mask] for name, leaf in train.items()}
    small = loop.Recipe(20, int(mask.sum()), 0.1, "sgd", denominator="weight")
    alone = _retrainer(_learner(small), (part, test), batch_size=8)
    everyone = np.ones((1, mask.sum()), bool)
    np.testing.assert_allclose(
      value, alone.run(everyone).values[0], rtol=0, atol=2e-5
    )
  slots = _retrainer(
    _learner(loop.Recipe(20, 20, 0.1, "sgd", denominator="weight"), capacity=20)
  )
  np.testing.assert_allclose(slots.run(masks).values, values, atol=2e-5, rtol=0)


@pytest.mark.slow
def test_devices_and_chunks_change_no_bit(common):
  """Of common numbers; the bank's tests do it with independent ones."""
  masks = _masks(21)
  expected = common.run(masks, 1).values
  for count, batch in ((1, 16), (2, 8)):
    other = _retrainer(devices=jax.devices()[:count], batch_size=batch)
    np.testing.assert_array_equal(other.run(masks, 1).values, expected)


@pytest.mark.slow
def test_common_numbers_are_shared_and_independent_ones_are_not(
  common, independent
):
  masks = np.concatenate([_masks(2), _masks(2)[:1]])
  one, other = common.run(masks, 0).values, common.run(masks, 1).values
  assert not np.allclose(one, other)
  np.testing.assert_array_equal(one[0], one[2])
  # A mask's own numbers do not depend on the request it stands in.
  alone = independent.run(masks[1:2], 1).values
  np.testing.assert_array_equal(alone[0], independent.run(masks, 1).values[1])
  # Nothing but the initialisation and order tells a mask's seeds apart.
  still = loop.Recipe(1, _N, 1e-6, "sgd")
  shared = _retrainer(_learner(still)).run(masks).values
  np.testing.assert_allclose(shared[0], shared[1], atol=1e-4, rtol=0)
  apart = _retrainer(_learner(still), seeds="independent").run(masks).values
  assert np.abs(apart[0] - apart[1]).max() > 0.01


@pytest.mark.slow
def test_values_are_means_over_seeds(independent):
  masks = _masks(3)
  runs = [independent.run(masks, seed).values for seed in range(2)]
  np.testing.assert_allclose(independent(masks), np.mean(runs, axis=0))


@pytest.mark.slow
def test_it_compiles_once():
  chex.clear_trace_counter()
  learner = _learner()
  counted = chex.assert_max_traces(
    learner.fit, n=3
  )  # Shapes, their check, and once to run.
  object.__setattr__(learner, "fit", counted)
  made = _retrainer(learner)
  for seed in range(3):
    made.run(_masks(5), seed)


def test_noise_is_measured(independent):
  """Against the same sums written out."""
  masks = _masks(6)
  runs = np.stack([independent.run(masks, s).values for s in range(3)], axis=1)
  noise = independent.noise(masks, 3)
  variance = runs.var(axis=1, ddof=1).mean(axis=0)
  np.testing.assert_allclose(noise.std, np.sqrt(variance))
  assert noise.num_masks == 6
  assert ((noise.share > 0) & (noise.share <= 1)).all()
  rng = np.random.default_rng(0)
  signal = rng.normal(size=(4000, 1, 1))
  noisy = signal + 0.5 * rng.normal(size=(4000, 3, 2))
  # A variance of .25 beside one of 1; four standard errors of 4,000 masks.
  np.testing.assert_allclose(examples.noise_of(noisy).share, 0.2, atol=0.02)
  with pytest.raises(ValueError, match="two seeds or more"):
    independent.noise(masks, 1)


def test_diverged_trainings_are_marked_and_left_out():
  """Learning rates of these blow up the loss of some subsets only."""
  train, test = _data()
  train["x"][0] = 1.5e19  # Overflows float32 once squared and summed.
  learner = linear.ridge(1e-3, num_classes=_CLASSES, output="margin")
  made = _retrainer(learner, (train, test))
  masks = _masks(6)
  masks[:, 0] = [False, True, False, True, False, False]
  runs = made.run(masks)
  np.testing.assert_array_equal(runs.diverged, masks[:, 0])
  assert np.isnan(runs.values[masks[:, 0]]).all()
  assert np.isfinite(runs.values[~masks[:, 0]]).all()
  assert made.num_diverged == 2
  with pytest.raises(ValueError, match="All 1 trainings diverged for 2 masks"):
    made(masks)
  values = np.array([[[1.0], [np.nan]], [[2.0], [4.0]]])
  np.testing.assert_array_equal(
    examples.mean_over_seeds(values), [[1.0], [3.0]]
  )


@pytest.mark.slow
def test_groups_are_players():
  groups = np.arange(_N) % 5
  groups[:3] = -1  # Always there.
  players = subsets.players_of(groups)
  assert players.names == ("0", "1", "2", "3", "4")
  made = _retrainer(players=players)
  masks = np.eye(5, dtype=bool)
  whole = (groups < 0) | (groups[None] == np.arange(5)[:, None])
  np.testing.assert_allclose(
    made.run(masks).values,
    _retrainer().run(whole).values,
    rtol=0, atol=1e-5,
  )  # fmt: skip
  with pytest.raises(ValueError, match="Example 1 has the group NaN"):
    subsets.players_of(np.array([0, np.nan, 1]))
  named = subsets.players_of(np.array(["b", "a", "b"]))
  assert named.names == ("a", "b") and named.owner.tolist() == [1, 0, 1]
  groups = subsets.clusters(np.eye(4).repeat(6, axis=0), 4, seed=0)
  assert len(set(groups[::6])) == 4
  assert (groups.reshape(4, 6) == groups[::6, None]).all()


@pytest.mark.slow
def test_float64_is_a_choice():
  learner = linear.logistic(1.0, _CLASSES)
  precise = _retrainer(learner, dtype="float64").run(_masks(3)).values
  plain = _retrainer(learner).run(_masks(3)).values
  error = np.abs(precise - plain).max()
  assert 0 < error < 1e-3
  assert not np.array_equal(precise, precise.astype(np.float32))


def test_exact_game_of_ridge():
  """All 4,096 subsets of 12 groups: what theory says of the whole game."""
  from spex_jax.masks import sampling

  rng = np.random.default_rng(0)
  x, y = rng.normal(size=(_N, _D)), rng.normal(size=_N)
  players = subsets.players_of(np.arange(_N) // 2)
  made = _retrainer(
    linear.ridge(1.0),
    ({"x": x, "y": y}, {"x": x[:2], "y": y[:2]}),
    players=players, dtype="float64", degenerate="train",
    microbatch=64, batch_size=512,
  )  # fmt: skip
  masks = sampling.enumerate_masks(12)
  values = made(masks)
  signs = 1 - 2.0 * masks
  banzhaf = np.stack(
    [
      values[masks[:, i]].mean(axis=0) - values[~masks[:, i]].mean(axis=0)
      for i in range(12)
    ]
  )
  fourier = signs.T @ values / len(masks)
  np.testing.assert_allclose(banzhaf, -2 * fourier, atol=1e-12)
  # The least squares of all masks is the linear datamodel: the same again.
  design = np.hstack([masks, np.ones((len(masks), 1))])
  linear_fit = np.linalg.lstsq(design, values, rcond=None)[0][:12]
  np.testing.assert_allclose(linear_fit, banzhaf, atol=1e-10)
  for row in (0, 1000, 4095):
    kept = players.kept(masks[row])
    part = np.hstack([x, np.ones((_N, 1))])[np.asarray(kept)]
    gram = part.T @ part + np.diag([1.0] * _D + [0.0 if row else 1.0])
    theta = np.linalg.solve(gram, part.T @ y[np.asarray(kept)])
    expected = np.hstack([x[:2], np.ones((2, 1))]) @ theta
    np.testing.assert_allclose(values[row], expected, atol=1e-10)


@pytest.mark.slow
def test_bad_masks_are_refused(common):
  masks = _masks(4)
  masks[2] = False
  with pytest.raises(ValueError, match=r"1 masks keep no example .*row 2"):
    common.run(masks)
  labels = _data()[0]["y"]
  masks[2] = labels == 1
  with pytest.raises(ValueError, match=r"one class only .*row 2"):
    common.run(masks)
  assert np.isfinite(_retrainer(degenerate="train").run(masks).values).all()
  with pytest.raises(ValueError, match="expected n=24"):
    common.run(masks[:, 1:])
  with pytest.raises(ValueError, match="keeps 24 examples; .* room for 10"):
    _retrainer(_learner(capacity=10)).run(np.ones((1, _N), bool))
  with pytest.raises(ValueError, match="capacity=7 is below batch_size=8"):
    _learner(capacity=7)
  with pytest.raises(ValueError, match="seed index must be at least 0"):
    common.run(masks[:1], -1)


def test_bad_data_are_refused():
  train, test = _data()
  bad = {"x": train["x"].copy(), "y": train["y"]}
  bad["x"][5, 0] = np.nan
  with pytest.raises(ValueError, match=r"hold NaN or infinity \(first: 5\)"):
    _retrainer(data=(bad, test))
  bad["x"][5, 0] = 1e30
  with pytest.raises(ValueError, match="hold 1e[+]30, whose square overflows"):
    _retrainer(data=(bad, test))
  with pytest.raises(ValueError, match="must lie in 0..2"):
    _retrainer(data=(train, test | {"y": np.full(_T, 3)}))
  with pytest.raises(TypeError, match="Labels must be integers"):
    _retrainer(data=(train | {"y": train["y"] * 1.0}, test))
  with pytest.raises(ValueError, match="there are 24"):
    _retrainer(players=subsets.players_of(np.arange(5)))
  for name, value in (
    ("seeds", "random"), ("degenerate", "skip"), ("dtype", "float16"),
    ("num_seeds", 0),
  ):  # fmt: skip
    with pytest.raises(ValueError, match=name):
      _retrainer(**{name: value})
  with pytest.raises(ValueError, match="No example belongs"):
    subsets.players_of(np.array([-1, -1]))
  with pytest.raises(ValueError, match="1 names for 2 groups"):
    subsets.players_of(np.array([0, 1]), ["a"])


@pytest.mark.slow
def test_fifty_thousand_examples():
  """Ridge on weight masks, and a network on index subsets."""
  n, kept = 50_000, 300
  rng = np.random.default_rng(5)
  x = rng.normal(size=(n, 3))
  train = {"x": x, "y": (x @ [1.0, -1.0, 0.5] > 0).astype(int)}
  test = {"x": rng.normal(size=(_T, 3)), "y": np.arange(_T) % 2}
  masks = np.zeros((3, n), bool)
  masks[0] = rng.random(n) < 0.5
  masks[1:, :] = rng.permuted(np.tile(np.arange(n) < kept, (2, 1)), axis=1)
  learner = linear.ridge(2.0, num_classes=2, output="logit")
  made = _retrainer(
    learner, (train, test), dtype="float64", microbatch=1, batch_size=1
  )
  assert made.n == n
  for mask, values in zip(masks, made.run(masks).values):
    rows = x[mask] - x[mask].mean(axis=0)
    goal = 2 * np.eye(2)[train["y"][mask]] - 1
    slopes = np.linalg.solve(rows.T @ rows + 2.0 * np.eye(3), rows.T @ goal)
    said = (test["x"] - x[mask].mean(axis=0)) @ slopes + goal.mean(axis=0)
    expected = said[np.arange(_T), test["y"]]
    np.testing.assert_allclose(values, expected, rtol=0, atol=1e-9)
  net = mlp.network(mlp.Config(3, 2, (4,)))
  few = learners.classifier(
    "mlp 3-4-2",
    net.init,
    lambda params, x: net.apply(params, features=x).logits,
    2,
    loop.Recipe(1, 50, 0.05),
    capacity=kept,
  )
  runs = _retrainer(few, (train, test), microbatch=2, batch_size=2)
  values = runs.run(masks[1:]).values
  # Where the others are elsewhere, the same: six steps touch 300 examples.
  away = train | {"x": np.where(masks[1:].any(axis=0)[:, None], x, 9.0)}
  again = _retrainer(few, (away, test), microbatch=2, batch_size=2)
  np.testing.assert_array_equal(again.run(masks[1:]).values, values)
  with pytest.raises(ValueError, match="the learner has room for 300"):
    runs.run(masks[:1])
