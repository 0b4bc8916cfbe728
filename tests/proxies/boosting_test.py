"""Boosted trees against a recursive float64 oracle, and their settings."""

import jax
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from spex_jax.fourier import score
from spex_jax.proxies import boosting, growing, trees
from tests import functions

_EPS = np.finfo(np.float32).eps


def _data(seed, num_masks=200, n=8, noise=0.3):
  rng = np.random.default_rng(seed)
  masks = rng.integers(0, 2, (num_masks, n)).astype(bool)
  weights = rng.normal(size=n)
  values = masks @ weights + 2.0 * masks[:, 0] * masks[:, n - 1]
  return masks, values + noise * rng.normal(size=num_masks)


def _grid(depths, rates=(0.1,)):
  return [boosting.Config(d, r) for d in depths for r in rates]


def _validated(masks, values, configs, folds=None, num_trees=1000):
  if folds is None:
    folds = boosting.spread_folds(len(masks))
  key = jax.random.key(0)
  return boosting.cross_validate(
    masks, values, folds, configs, num_trees=num_trees, key=key
  )


def _scores(masks, values, config, num_trees, **settings):
  """R^2 of five folds pooled, after 0..M trees."""
  ids = boosting.spread_folds(len(masks))
  seen = np.arange(6)[:, None] != ids
  start, grown = functions.staged(
    masks, values, seen, config, num_trees, **settings
  )
  return start.scores(grown[2])


def _oracle_tree(masks, residual, depth, min_leaf):
  """One tree by exhaustive search: nested (player, left, right) or a value."""
  mean = residual.mean() if len(residual) else 0.0
  if depth == 0:
    return mean
  gain = lambda r: r.sum() ** 2 / len(r)
  best, player = gain(residual) * (1 + 1e-6) + 1e-9, None
  for i in range(masks.shape[1]):
    ones = masks[:, i]
    if min(ones.sum(), (~ones).sum()) >= min_leaf:
      found = gain(residual[ones]) + gain(residual[~ones])
      if found > best:
        best, player = found, i
  if player is None:
    return mean
  ones = masks[:, player]
  return player, *(
    _oracle_tree(masks[side], residual[side], depth - 1, min_leaf)
    for side in (~ones, ones)
  )


def _oracle_value(tree, mask):
  while isinstance(tree, tuple):
    tree = tree[2] if mask[tree[0]] else tree[1]
  return tree


def _oracle(masks, values, test, depth, num_trees, rate, min_leaf):
  out, fitted = np.full(len(test), values.mean()), values.mean()
  for _ in range(num_trees):
    tree = _oracle_tree(masks, values - fitted, depth, min_leaf)
    fitted = fitted + rate * np.array([_oracle_value(tree, m) for m in masks])
    out += rate * np.array([_oracle_value(tree, m) for m in test])
  return out


@pytest.mark.parametrize(("depth", "min_leaf"), [(3, 10), (4, 1)])
def test_trees_are_those_of_an_exhaustive_search(depth, min_leaf):
  masks, values = _data(depth)
  test, _ = _data(50, 64)
  fitted = functions.grown(
    masks, values, depth=depth, num_trees=12, rate=0.3, min_leaf=min_leaf
  )
  expected = _oracle(masks, values, test, depth, 12, 0.3, min_leaf)
  # Each of 12 trees subtracts a float32 mean of numbers of size max|v|, whose
  # sum over at most B masks errs by sqrt(B) roundings.
  atol = 12 * np.sqrt(len(masks)) * _EPS * np.abs(values).max()
  actual = trees.predict(fitted, test)
  np.testing.assert_allclose(actual, expected, rtol=0, atol=atol)


def test_predictions_walk_the_trees():
  masks, values = _data(1)
  fitted = functions.grown(masks, values, depth=3, num_trees=7, min_leaf=5)
  test, _ = _data(2, 77)
  expected = np.full(len(test), float(fitted.bias))
  for row, mask in enumerate(test):
    padded = np.append(mask, False)
    for feature, leaf in zip(fitted.feature, fitted.leaf):
      node = 0
      for _ in range(3):
        node = 2 * node + 1 + padded[feature[node]]
      expected[row] += leaf[node - 7]
  # Sums of 8 float64 numbers in another order.
  np.testing.assert_allclose(trees.predict(fitted, test), expected, rtol=1e-13)
  assert fitted.depth == 3
  assert fitted.num_trees == 7


@pytest.mark.slow
@pytest.mark.parametrize(("depth", "rate"), [(3, 0.1), (5, 0.1)])
def test_as_accurate_as_lightgbm(depth, rate):
  lightgbm = pytest.importorskip("lightgbm")
  masks, values = _data(3, 512, 30, noise=0.5)
  test, truth = _data(3, 1024, 30, noise=0.0)
  fitted = functions.grown(masks, values, depth=depth, num_trees=300, rate=rate)
  peer = lightgbm.LGBMRegressor(
    max_depth=depth,
    n_estimators=300,
    learning_rate=rate,
    n_jobs=1,
    verbose=-1,
    deterministic=True,
    force_row_wise=True,
  ).fit(masks, values)
  ours = score.r2(truth, trees.predict(fitted, test))
  # The project's bound; ties that rounding decides are all that differs.
  assert abs(ours - score.r2(truth, peer.predict(test))) < 0.01


def test_settings_limit_the_trees():
  masks, values = _data(4)
  grow = lambda **kw: functions.grown(masks, values, num_trees=5, depth=3, **kw)
  index = lambda fitted: trees.leaf_index(fitted, masks)
  counts = np.bincount(index(grow(min_leaf=30))[0], minlength=8)
  assert counts[counts > 0].min() >= 30
  assert len(counts[counts > 0]) > 2


@pytest.mark.slow
def test_shares_draw_masks():
  masks, values = _data(5)
  grow = lambda seed, **kw: functions.grown(
    masks, values, num_trees=40, depth=3, key=jax.random.key(seed), **kw
  )
  half, again, other = (grow(seed, row_share=0.5) for seed in (0, 0, 1))
  np.testing.assert_array_equal(half.leaf, again.leaf)
  assert (half.feature != other.feature).any()
  # Some 15 masks cannot be split into twice 20; some 100 can.
  assert (grow(0, row_share=0.075).feature == 8).all()
  assert (half.feature < 8).any()


def test_shares_draw_players():
  masks, values = _data(5)
  grow = lambda share: functions.grown(
    masks,
    values,
    num_trees=40,
    depth=3,
    key=jax.random.key(0),
    column_share=share,
  )
  used = lambda fitted: [
    set(tree[tree < 8].tolist()) for tree in fitted.feature
  ]
  # Three levels of few players: a tree asks for no more than it was given.
  few, all_of_them = used(grow(0.2)), used(grow(1.0))
  assert max(map(len, few)) < max(map(len, all_of_them))
  # Over 40 trees each player has its turn: .8^40 is 1e-4.
  assert set.union(*few) == set(range(8))
  np.testing.assert_array_equal(
    grow(1.0).leaf, functions.grown(masks, values, num_trees=40, depth=3).leaf
  )


@pytest.mark.slow
def test_cross_validation_fits_each_fold_apart():
  masks, values = _data(6)
  folds = boosting.spread_folds(200) * 7 - 2  # Any integers will do.
  configs = _grid((2, 3), (0.1, 0.3))
  found = _validated(masks, values, configs, folds=folds, num_trees=60)
  staged = {config: _scores(masks, values, config, 60) for config in configs}
  # Rounding of float32 sums breaks no tie.
  best = 1 - max(scores.max() for scores in staged.values())
  chosen = staged[found.config][found.num_trees]
  assert 1 - chosen <= best * (1 + 2e-6)
  settings = found.config._asdict() | {"num_trees": max(found.num_trees, 1)}
  predictions = np.zeros(200)
  for f, name in enumerate(np.unique(folds)):
    out = folds == name
    alone = functions.grown(masks[~out], values[~out], **settings)
    predictions[out] = trees.predict(alone, masks[out])
    np.testing.assert_array_equal(alone.feature, found.fold_trees[f].feature)
  # float32 sums over other paddings, twice the roundings of the oracle test.
  atol = 2 * 60 * np.sqrt(200) * _EPS * np.abs(values).max()
  np.testing.assert_allclose(found.predictions, predictions, rtol=0, atol=atol)
  # The staged score is the same number, summed in float32.
  reached = score.r2(values, found.predictions)
  np.testing.assert_allclose(chosen, reached, atol=1e-4)
  whole = functions.grown(masks, values, **settings)
  np.testing.assert_array_equal(whole.feature, found.trees.feature)


def test_one_long_fit_answers_every_smaller_number_of_trees():
  masks, values = _data(7)
  long = _scores(masks, values, boosting.Config(2, 0.2), 70)
  short = _validated(masks, values, _grid((2,), (0.2,)), num_trees=11)
  assert short.num_trees == 11
  reached = score.r2(values, short.predictions)
  np.testing.assert_allclose(long[11], reached, atol=1e-5)


def test_growth_stops_when_validation_stops_improving():
  rng = np.random.default_rng(8)
  masks = rng.integers(0, 2, (200, 6)).astype(bool)
  values = masks[:, 0] + rng.normal(size=200)
  config = boosting.Config(2, 0.3)
  early = _scores(masks, values, config, 400, patience=20)
  late = _scores(masks, values, config, 400)
  assert len(early) < len(late) == 401
  np.testing.assert_array_equal(early, late[: len(early)])
  # What it stopped after: so many trees without a better score.
  assert len(early) - 1 - early.argmax() >= 20


def test_slow_learners_give_up_but_not_where_they_would_win(monkeypatch):
  masks, values = _data(21, noise=0.05)
  grow_all, counts = growing.grow_all, {}

  def counted(*args, **settings):
    grown = grow_all(*args, **settings)
    counts[settings["settings"].rate] = len(grown[2])
    return grown

  monkeypatch.setattr(growing, "grow_all", counted)
  found = _validated(masks, values, _grid((2,), (0.001, 0.3)), num_trees=400)
  assert list(counts) == [0.3, 0.001] and counts[0.001] < 400
  assert found.config.rate == 0.3
  slow = _scores(masks, values, boosting.Config(2, 0.001), 400)
  assert slow.max() < score.r2(values, found.predictions)
  # Noise: the slow one overfits less, and is let to go on.
  noisy = values + 8 * np.random.default_rng(0).normal(size=200)
  found = _validated(masks, noisy, _grid((2,), (0.01, 1.0)), num_trees=400)
  assert found.config.rate == 0.01


@given(
  scale=st.sampled_from([1e30, 1e-30, -1.0, 3.0]),
  offset=st.sampled_from([0.0, 1e4, -7.0]),
)
def test_units_and_offsets_change_nothing(scale, offset):
  masks, values = _data(10)
  plain = trees.predict(
    functions.grown(masks, values, depth=3, num_trees=30), masks
  )
  moved = functions.grown(
    masks, scale * (values + offset), depth=3, num_trees=30
  )
  # The offset costs its digits in float64, then float32 as in the oracle test.
  atol = 30 * np.sqrt(200) * _EPS * np.abs(values).max()
  actual = trees.predict(moved, masks) / scale - offset
  np.testing.assert_allclose(actual, plain, rtol=0, atol=atol)


@pytest.mark.parametrize("constant", [0.0, 2.5, 1e30, -1e-30, 0.1])
def test_constant_values_give_the_constant(constant):
  masks, _ = _data(11)
  values = np.full(200, constant)
  found = _validated(masks, values, _grid((3,)))
  assert found.num_trees == 0
  np.testing.assert_array_equal(found.predictions, values)
  fitted = functions.grown(masks, values, depth=3, num_trees=3)
  assert (fitted.feature == 8).all()
  np.testing.assert_array_equal(trees.predict(fitted, masks), values)


def test_two_distinct_values_are_learnt():
  masks, _ = _data(12)
  values = np.where(masks[:, 3], 1e4 + 1.0, 1e4)
  found = _validated(masks, values, _grid((3,)))
  assert score.r2(values, found.predictions) > 1 - 1e-6
  assert set(found.trees.feature.ravel().tolist()) == {3, 8}


@pytest.mark.slow
def test_too_few_to_split_give_the_mean():
  masks, values = _data(13, 30)
  fitted = functions.grown(masks, values, depth=3, num_trees=4)  # 30 < 2 * 20.
  # Each tree adds the float32 mean of residuals whose mean is 0.
  atol = 4 * np.sqrt(30) * _EPS * np.abs(values).max()
  np.testing.assert_allclose(
    trees.predict(fitted, masks), values.mean(), rtol=0, atol=atol
  )
  folds = boosting.spread_folds(3, 5)
  assert sorted(folds) == [0, 1, 2]  # Fewer samples than folds: one each.
  found = _validated(masks[:3], values[:3], _grid((3,)), num_trees=2)
  assert found.num_trees == 0
  assert np.isfinite(found.predictions).all()


def test_a_single_player_and_duplicate_masks():
  masks = np.array([[False], [True]] * 100)
  values = np.where(masks[:, 0], 3.0, 1.0) + np.tile([0.1, 0.1, -0.1, -0.1], 50)
  found = _validated(masks, values, _grid((3,)), num_trees=200)
  # Equal masks with other values: their mean is the best there is.
  np.testing.assert_allclose(
    trees.predict(found.trees, [[False], [True]]), [1.0, 3.0], atol=0.02
  )


def test_sizes_that_pad_alike_compile_once():
  for num_masks, n in ((130, 9), (150, 14), (160, 16)):
    masks, values = _data(14, num_masks, n)
    functions.grown(masks, values, num_trees=10, depth=2, rate=num_masks / 1000)
    if num_masks == 130:
      before = growing._grow_chunk.count()
  assert growing._grow_chunk.count() == before


def test_truncate_keeps_the_first_trees():
  masks, values = _data(15)
  long = functions.grown(masks, values, depth=3, num_trees=20)
  short = functions.grown(masks, values, depth=3, num_trees=8)
  np.testing.assert_array_equal(trees.truncate(long, 8).leaf, short.leaf)
  none = trees.predict(trees.truncate(long, 0), masks)
  np.testing.assert_allclose(none, values.mean(), rtol=1e-12)
  with pytest.raises(ValueError, match="num_trees must lie in 0..20; got 21"):
    trees.truncate(long, 21)


@pytest.mark.parametrize(
  ("change", "error", "message"),
  [
    (dict(depth=0), ValueError, "depth must lie in 1..12; got 0"),
    (dict(depth=2.0), TypeError, "depth must be an integer; got 2.0"),
    (dict(rate=0.0), ValueError, r"rate must lie in \(0, 1\]; got 0.0"),
    (dict(rate=np.nan), ValueError, "rate must lie in"),
    (dict(min_leaf=0), ValueError, "min_leaf must be at least 1"),
    (dict(row_share=1.5), ValueError, "row_share must lie in"),
    (dict(column_share=0.0), ValueError, "column_share must lie in"),
  ],
)
def test_bad_configurations_are_refused(change, error, message):
  config = boosting.Config(3, 0.1)._replace(**change)
  with pytest.raises(error, match=message):
    _validated(*_data(16), [config])


@pytest.mark.parametrize(
  ("change", "error", "message"),
  [
    (dict(folds=np.zeros(200, int)), ValueError, "at least two folds"),
    (dict(folds=np.arange(3)), ValueError, r"shape \(200,\); got \(3,\)"),
    (dict(folds=np.ones(200)), TypeError, "folds must be integers"),
    (dict(configs=()), ValueError, "at least one configuration"),
    (dict(num_trees=0), ValueError, "num_trees must be at least 1"),
    (dict(values=np.zeros((200, 2))), ValueError, "Need one target"),
    (dict(values=np.full(200, np.nan)), ValueError, "NaN or infinity for 200"),
    (dict(values=np.zeros(3)), ValueError, "one value per mask"),
    (dict(masks=np.zeros((200, 0))), ValueError, "at least one player"),
    (dict(masks=np.full((200, 2), 2)), ValueError, "only 0 and 1"),
  ],
)
def test_bad_cross_validations_are_refused(change, error, message):
  masks, values = _data(17)
  settings = dict(masks=masks, values=values, configs=_grid((3,))) | change
  with pytest.raises(error, match=message):
    _validated(**settings)


def test_predictions_refuse_other_players():
  masks, values = _data(18)
  fitted = functions.grown(masks, values, depth=3, num_trees=1)
  with pytest.raises(ValueError, match="expected n=8"):
    trees.predict(fitted, masks[:, :4])
