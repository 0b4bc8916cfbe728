"""Training against a plain Python loop, and what weights of 0 must mean."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from spex_jax.training import loop

_N = 12


def _data(seed=0):
  rng = np.random.default_rng(seed)
  x = rng.normal(size=(_N, 3)).astype(np.float32)
  return {"x": x, "y": x @ np.float32([1, -2, 0.5])}


def _init(key):
  return {"w": jax.random.normal(key, (3,))}


def _losses(params, batch):
  return (batch["x"] @ params["w"] - batch["y"]) ** 2


_RECIPE = loop.Recipe(num_epochs=3, batch_size=5, learning_rate=0.05)


def _train(weights=None, data=None, recipe=_RECIPE, seeds=(0, 1), **kwargs):
  weights = np.ones(_N) if weights is None else weights
  data = _data() if data is None else data
  keys = (jax.random.key(seed) for seed in seeds)
  return loop.train(
    *keys, data, weights, init=_init, losses=_losses, recipe=recipe, **kwargs
  )


@pytest.mark.slow
@pytest.mark.parametrize("denominator", ["batch", "weight"])
def test_equals_a_python_loop(denominator):
  """The same orders, written out: one step after another, by hand."""
  recipe = loop.Recipe(3, 5, 0.05, "sgd", "cosine", 0.01, denominator)
  weights = np.random.default_rng(5).uniform(0, 2, _N).astype(np.float32)
  trained = _train(weights, recipe=recipe)
  data, params = _data(), _init(jax.random.key(0))
  rule = loop.optimizer(recipe, 6)
  state = rule.init(params)
  order_key = jax.random.fold_in(jax.random.key(1), loop._cause("order"))
  losses = []
  for epoch in range(3):
    key = jax.random.fold_in(order_key, epoch)
    order = np.asarray(jax.random.permutation(key, _N))
    for start in (0, 5):
      rows = order[start : start + 5]
      divisor = 5 if denominator == "batch" else weights[rows].sum()
      error = data["x"][rows] @ np.asarray(params["w"]) - data["y"][rows]
      losses.append((weights[rows] * error**2).sum() / divisor)
      slope = 2 * (weights[rows] * error) @ data["x"][rows] / divisor
      updates, state = rule.update({"w": jnp.asarray(slope)}, state, params)
      params = optax.apply_updates(params, updates)
  # Six steps of float32 sums of five products.
  np.testing.assert_allclose(trained.params["w"], params["w"], rtol=1e-5)
  np.testing.assert_allclose(trained.losses, losses, rtol=1e-4, atol=1e-6)


def test_steps_of_the_host_are_those_of_the_scan():
  weights = np.random.default_rng(6).uniform(0, 2, _N).astype(np.float32)
  recipe = loop.Recipe(3, 5, 0.05, "adam", "cosine")
  noise = lambda key, x: {**x, "x": x["x"] + jax.random.normal(key, (3,))}
  given: dict = {"recipe": recipe, "augment": noise}
  expected = _train(weights, **given)
  keys = (jax.random.key(seed) for seed in (0, 1))
  found = loop.stepwise(
    *keys, _data(), weights, init=_init, losses=_losses, **given
  )
  # Six steps of float32.
  np.testing.assert_allclose(found.params["w"], expected.params["w"], rtol=1e-4)
  np.testing.assert_allclose(found.losses, expected.losses, rtol=1e-4)


@pytest.mark.parametrize("optimizer", ["adam", "adamw", "sgd"])
@pytest.mark.parametrize("schedule", ["constant", "cosine", "triangle"])
def test_every_rule_learns(optimizer, schedule):
  recipe = loop.Recipe(90, 4, 0.1, optimizer, schedule)
  trained = jax.jit(lambda: _train(recipe=recipe))()
  assert trained.losses.shape == (270,)
  assert trained.losses[-10:].mean() < 0.05 * trained.losses[:10].mean()


@pytest.mark.slow
@pytest.mark.parametrize("segment", [4, 30])
def test_segments_change_no_value(segment):
  recipe = loop.Recipe(9, 5, 0.05, "sgd", "cosine")
  plain = jax.jit(lambda: _train(recipe=recipe))()
  parted = jax.jit(lambda: _train(recipe=recipe, segment=segment))()
  np.testing.assert_allclose(parted.losses, plain.losses, rtol=1e-5)
  np.testing.assert_allclose(parted.params["w"], plain.params["w"], rtol=1e-5)


def test_an_empty_segment_is_refused():
  with pytest.raises(ValueError, match="segment must be at least 1; got 0"):
    _train(segment=0)


def test_content_of_a_dropped_example_cannot_matter():
  weights = np.ones(_N)
  weights[[2, 7]] = 0
  changed = _data()
  changed["x"] = changed["x"].copy()
  changed["x"][[2, 7]] = 1e6
  for denominator in ("batch", "weight"):
    recipe = loop.Recipe(3, 5, 0.05, denominator=denominator)
    one = _train(weights, recipe=recipe)
    other = _train(weights, changed, recipe=recipe)
    np.testing.assert_array_equal(one.params["w"], other.params["w"])
  kept = _train(np.ones(_N), changed)
  assert not np.allclose(kept.params["w"], one.params["w"])


def test_no_example_at_all_leaves_the_parameters():
  recipe = loop.Recipe(2, 5, 0.05, "sgd", denominator="weight")
  trained = _train(np.zeros(_N), recipe=recipe)
  np.testing.assert_array_equal(
    trained.params["w"], _init(jax.random.key(0))["w"]
  )
  assert not np.asarray(trained.losses).any()


@pytest.mark.slow
def test_keys_have_separate_causes():
  same = _train(seeds=(0, 1))
  np.testing.assert_array_equal(same.losses, _train(seeds=(0, 1)).losses)
  other_init = _train(seeds=(2, 1))
  other_order = _train(seeds=(0, 2))
  assert not np.allclose(same.losses, other_init.losses)
  assert not np.allclose(same.losses, other_order.losses)


@pytest.mark.slow
def test_vmap_over_weights_equals_a_loop_and_compiles_once():
  weights = (np.random.default_rng(0).random((4, _N)) < 0.5).astype(np.float32)
  chex.clear_trace_counter()
  one = jax.jit(chex.assert_max_traces(lambda w: _train(w).params["w"], n=1))
  looped = np.stack([one(w) for w in weights])
  batched = jax.vmap(lambda w: _train(w).params["w"])(jnp.asarray(weights))
  np.testing.assert_allclose(batched, looped, rtol=1e-5, atol=1e-6)


@pytest.mark.slow
def test_augmentation_is_keyed_by_step_and_example():
  """Dropping an example leaves the augmentation of the others as it was."""

  def augment(key, example):
    noise = 0.1 * jax.random.normal(key, example["x"].shape)
    return {"x": example["x"] + noise, "y": example["y"]}

  plain, noisy = _train(), _train(augment=augment)
  assert not np.allclose(plain.losses, noisy.losses)
  seen = {}

  def losses(params, batch):
    for x, y in zip(np.asarray(batch["x"]), np.asarray(batch["y"])):
      seen.setdefault(float(y), []).append(x)
    return _losses(params, batch)

  with jax.disable_jit():
    loop.train(
      jax.random.key(0),
      jax.random.key(1),
      _data(),
      np.ones(_N),
      init=_init,
      losses=lambda p, b: losses(p, b),
      recipe=loop.Recipe(2, 12, 0.05),
      augment=augment,
    )
  # Two epochs: two augmentations of each example, all of them different.
  views = [x for xs in seen.values() for x in xs]
  assert len(seen) == _N
  assert len({tuple(np.round(x.astype(float), 6)) for x in views}) == 2 * _N


def test_divergence_is_a_value():
  recipe = loop.Recipe(40, 4, 1e6, "sgd")
  trained = _train(recipe=recipe)
  assert not np.isfinite(trained.losses).all()


def test_bad_data_are_refused_by_name():
  bad = _data()
  bad["x"][3, 1] = np.nan
  weights = np.ones(_N)
  weights[3] = 0
  with pytest.raises(ValueError, match=r"\['x'\]: 1 examples .* \(first: 3\)"):
    loop.check(bad, weights)
  short = {"x": bad["x"].astype(jnp.bfloat16)}
  with pytest.raises(ValueError, match=r"1 examples .* \(first: 3\)"):
    loop.check(short, weights)
  with pytest.raises(ValueError, match="not negative"):
    loop.check(_data(), -weights)
  with pytest.raises(ValueError, match=r"\['x'\] has shape \(12, 3\)"):
    loop.check(_data(), weights[:-1])
  with pytest.raises(ValueError, match=r"must be \[N\]"):
    _train(np.ones((2, _N)))
  loop.check(_data(), weights)


@pytest.mark.parametrize(
  "kwargs, message",
  [
    ({"optimizer": "lion"}, "optimizer='lion': choose from adam"),
    ({"schedule": "step"}, "schedule='step'"),
    ({"denominator": "n"}, "denominator='n'"),
    ({"num_epochs": 0}, "at least 1"),
    ({"learning_rate": 0.0}, "learning_rate > 0"),
    ({"weight_decay": 0.1}, "needs optimizer='adamw'"),
  ],
)
def test_bad_recipes_are_refused(kwargs, message):
  settings = {"num_epochs": 1, "batch_size": 2, "learning_rate": 0.1} | kwargs
  with pytest.raises(ValueError, match=message):
    loop.Recipe(**settings)


def test_a_batch_above_the_data_is_refused():
  with pytest.raises(ValueError, match="batch_size=13 exceeds the 12"):
    _train(recipe=loop.Recipe(1, 13, 0.1))
