"""Weights of masks asked unequally often, and answers that know them."""

import numpy as np
import pytest

import spex_jax as spex
from spex_jax.fourier import score
from spex_jax.masks import packing
from spex_jax.portfolio import members, precision, select, stack
from spex_jax.portfolio import samples as samples_lib

_N = 6
_EFFECTS = np.arange(1.0, _N + 1)


def _shapley(found):
  table = found.interactions("SV")
  values, std = np.zeros(_N), np.zeros(_N)
  for players, value, error in zip(table.players, table.values, table.std):
    values[players[0]], std[players[0]] = value, error
  return values, std


def _game(seed, effects=_EFFECTS, noise=8.0):
  """24 masks of 6 players, 12 of them asked 101 times; values with noise."""
  rng = np.random.default_rng(seed)
  every = (np.arange(1 << _N)[:, None] >> np.arange(_N)) & 1 == 1
  few = every[rng.permutation(1 << _N)[:24]]
  masks = np.concatenate([few, *[few[:12]] * 100])
  return masks, masks @ effects + noise * rng.normal(size=len(masks))


def _least_squares(masks, values):
  """The effects of players by all rows, none of them merged."""
  x = np.column_stack([np.ones(len(masks)), masks])
  return np.linalg.lstsq(x, values, rcond=None)[0][1:]


def test_the_deviation_beside_noise_is_found():
  rng = np.random.default_rng(0)
  std = 2.0 / np.sqrt(rng.integers(1, 30, 5000))
  left = np.sqrt(0.5 + std**2) * rng.normal(size=5000)
  found = precision.deviation(left, std)
  # The variance of 5,000 squares puts .5 wrong by some .03.
  assert abs(found**2 - 0.5) < 0.1
  weights = precision.weights(found, std)
  np.testing.assert_allclose(
    weights * (found**2 + std**2), weights[0] * (found**2 + std[0] ** 2)
  )
  assert abs(weights.mean() - 1) < 1e-12
  far = precision.deviation(1e200 * left, 1e200 * std)
  np.testing.assert_allclose(far, 1e200 * found, rtol=1e-6)


def test_degrees_of_freedom_are_given_back():
  rng = np.random.default_rng(1)
  std = 3.0 / np.sqrt(rng.integers(1, 30, 200))
  found = []
  for _ in range(50):
    x = rng.normal(size=(200, 20))
    root = 1 / np.sqrt(1 + std**2)
    y = rng.normal(size=200) / root
    fit = np.linalg.lstsq(x * root[:, None], y * root)[0]
    found.append(precision.deviation(y - x @ fit, std, 20) ** 2)
  # Each is some .15 wrong; without the degrees of freedom .1 are lost.
  assert abs(np.mean(found) - 1) < 0.06


def test_what_noise_explains_alone_is_weighed_by_repeats():
  counts = np.repeat([1, 101], 12)
  std = 8.0 / np.sqrt(counts)
  assert precision.deviation(np.full(24, 1e-3), std) == 0
  np.testing.assert_allclose(
    precision.weights(0.0, std), counts / counts.mean(), rtol=1e-9
  )


def test_gain_is_that_of_normal_likelihoods():
  rng = np.random.default_rng(3)
  std = 2.0 / np.sqrt(rng.integers(1, 30, 4000))
  left = np.hypot(1.0, std) * rng.normal(size=4000)
  other = np.hypot(3.0, std) * rng.normal(size=4000)
  found, error = precision.gain(left, other, std)
  expected = np.log(np.hypot(3.0, std) / np.hypot(1.0, std)).mean()
  assert abs(found - expected) < 3 * error < 0.1
  assert precision.gain(left, left, std) == (0, 0)


def test_no_weights_where_they_would_gain_nothing():
  counts = np.repeat([1, 2], [23, 1])
  assert precision.weights(3.0, 0.1 / np.sqrt(counts)) is None
  assert precision.weights(0.0, np.full(24, 5.0)) is None


@pytest.mark.parametrize("lost", [0.0, 0.2])
def test_r2_of_whole_weights_is_that_of_repeated_rows(lost):
  rng = np.random.default_rng(1)
  values, counts = rng.normal(size=40), rng.integers(1, 5, 40)
  guess = values + 0.4 * rng.normal(size=40)
  found, error = precision.r2(values, guess, counts / counts.mean(), lost)
  many = np.repeat(values, counts), np.repeat(guess, counts)
  np.testing.assert_allclose(found, score.r2(*many), rtol=1e-12)
  # Repeated rows are no news, so that the error is larger than theirs.
  assert error > score.r2_std(*many, lost)
  equal = precision.r2(values, guess, np.ones(40), lost)
  np.testing.assert_allclose(equal, precision.r2(values, guess, None, lost))


def test_merged_values_know_their_errors_where_masks_differ_in_repeats():
  masks = np.eye(3, dtype=bool)[[0, 1, 2, 0, 0]]
  values = np.array([[1.0], [5.0], [7.0], [2.0], [3.0]])
  distinct = packing.distinct_masks(masks)
  found = samples_lib.merge(distinct, values, strict=False)
  # Squares of 1, 0 and 1 about the mean, over two repeats.
  np.testing.assert_allclose(found.std[:, 0], 1 / np.sqrt([3, 1, 1]))
  same = np.where(masks[:, :1], 2.0, values)
  assert samples_lib.merge(distinct, same, strict=False).std is None
  twice = np.tile(np.arange(3), 2)
  noisy = np.arange(6.0)[:, None]
  distinct = packing.distinct_masks(masks[twice])
  assert samples_lib.merge(distinct, noisy, strict=False).std is None


def test_members_of_whole_weights_meet_rows_repeated():
  rng = np.random.default_rng(2)
  masks = rng.random((60, 5)) < 0.5
  values, counts = masks @ np.arange(5.0), rng.integers(1, 6, 60)
  values = values + rng.normal(size=60)
  weights = counts / counts.mean()
  found = members.mean(masks, values, weights)
  many = np.repeat(values, counts)
  np.testing.assert_allclose(np.asarray(found.function.coefs), [many.mean()])
  row = (counts @ values - counts[3] * values[3]) / (counts.sum() - counts[3])
  np.testing.assert_allclose(found.out_of_fold[3], row, rtol=1e-12)
  other = found._replace(name="other", out_of_fold=values * 0.7)
  joined = stack.stack(masks, values, [found, other], weights)
  again = stack.stack(
    np.repeat(masks, counts, axis=0),
    many,
    [m._replace(out_of_fold=np.repeat(m.out_of_fold, counts))
     for m in (found, other)],
  )  # fmt: skip
  np.testing.assert_allclose(
    joined.weights["other"], again.weights["other"], rtol=1e-6
  )


@pytest.fixture(scope="module")
def answers():
  """Games of 8 seeds with their answers."""
  games = [_game(seed) for seed in range(8)]
  return [
    (masks, values, spex.decode(masks, values)) for masks, values in games
  ]


def test_repeats_count_as_in_least_squares_on_all_rows(answers):
  errors, least, stated = [], [], []
  for masks, values, found in answers:
    own, std = _shapley(found)
    assert found.method != "mean"
    errors.append(np.sqrt(np.mean((own - _EFFECTS) ** 2)))
    other = _least_squares(masks, values) - _EFFECTS
    least.append(np.sqrt(np.mean(other**2)))
    stated.append(np.sqrt(np.mean(std**2)))
  assert np.median(errors) < 1.3 * np.median(least)
  ratio = np.sqrt(np.mean(np.square(errors)) / np.mean(np.square(stated)))
  assert 1 / 1.5 < ratio < 1.5


@pytest.mark.slow
def test_noise_alone_is_answered_by_the_mean():
  found = []
  for seed in range(6):
    masks, values = _game(seed, effects=np.zeros(_N))
    found.append(spex.decode(masks, values))
  assert sum(each.method == "mean" for each in found) >= 5
  # The mean of masks of variance 64 / 101 by far the most.
  assert max(abs(float(f.fourier.coefs[0])) for f in found) < 1.5


def test_the_order_of_rows_changes_rounding_alone(answers):
  masks, values, found = answers[0]
  _, first = np.unique(packing.hash_masks(masks)[:, 0], return_index=True)
  first = np.sort(first)  # Who comes first decides on folds.
  rest = np.setdiff1d(np.arange(len(masks)), first)
  rows = np.append(first, np.random.default_rng(0).permutation(rest))
  again = spex.decode(masks[rows], values[rows])
  # A sum of a hundred values in another order, through tuned parameters.
  np.testing.assert_allclose(_shapley(again)[0], _shapley(found)[0], rtol=1e-5)


def test_repeats_that_say_nothing_change_nothing():
  masks, values = _game(0, noise=0.0)
  alone = spex.decode(masks[:24], values[:24])
  again = spex.decode(masks, values)
  one, other = (np.asarray(each.fourier.coefs) for each in (alone, again))
  # A mean of equal values is theirs but for rounding.
  np.testing.assert_allclose(one, other, rtol=0, atol=1e-9)
  assert alone.method == again.method
  assert not any("weigh" in note for note in again.notes)


def test_masks_asked_equally_often_have_no_weights():
  masks, values = _game(1)
  twice = values[:24] + np.random.default_rng(0).normal(size=24)
  found = spex.decode(
    np.tile(masks[:24], (2, 1)), np.append(values[:24], twice)
  )
  alone = spex.decode(masks[:24], (values[:24] + twice) / 2)
  one, other = (np.asarray(each.fourier.coefs) for each in (alone, found))
  np.testing.assert_allclose(one, other, rtol=0, atol=1e-6)
  assert alone.method == found.method


def _kept(seed):
  """400 noisy values of 12 players that are kept with .9, and the truth."""
  rng = np.random.default_rng(seed)
  effects = np.arange(1.0, 13.0) / 3
  masks = rng.random((400, 12)) < 0.9
  return masks, masks @ effects + 4 * rng.normal(size=400), effects


def _merged(masks, values):
  distinct = packing.distinct_masks(masks)
  merged = samples_lib.merge(distinct, values[:, None], strict=False)
  samples = samples_lib.Samples(masks[distinct.first], merged.values)
  return samples, merged.std


def _missed(answer, effects):
  """Root mean square error of the effects, by sets of one player."""
  function = answer.functions[0]
  found = np.zeros(12)
  for players, coef in zip(np.asarray(function.players), function.coefs):
    real = players[players < 12]
    if len(real) == 1:
      found[real[0]] = -2 * coef
  return np.sqrt(np.mean((found - effects) ** 2))


@pytest.mark.slow
def test_masks_that_keep_most_players_are_told_better_than_before():
  errors = []
  for seed in range(5):
    masks, values, effects = _kept(seed)
    samples, std = _merged(masks, values)
    assert std is not None
    errors.append([
      _missed(select.by_proxies(samples, "lasso", 1, each), effects)
      for each in (std, None)
    ])  # fmt: skip
  weighted, plain = np.mean(errors, axis=0)
  assert weighted < 0.8 * plain


@pytest.mark.parametrize("method", select.PROXIES)
def test_every_method_takes_weights_for_each_target(method):
  masks, values, _ = _kept(0)
  exact = 1.0 * masks[:, 1] - masks[:, 4]
  found = spex.decode(
    masks, np.stack([values, exact], axis=1), method=method, max_order=2
  )
  weighed = [note for note in found.notes if "weigh more" in note]
  assert len(weighed) == 1 and weighed[0].startswith("Target 0")
  assert found.faithfulness[1] > 0.9 and (found.faithfulness_std > 0).any()
  assert found.coef_std is None  # These masks are not uniform.


def test_few_masks_have_weights_too():
  wide = (np.arange(6)[:, None] >> np.arange(3) & 1).astype(bool)
  errors = []
  for seed in range(10):
    rng = np.random.default_rng(seed)
    rows = np.append(np.arange(12) % 6, rng.integers(0, 4, 400))
    values = 9.0 * wide[rows, 1] + 4 * rng.normal(size=412)
    samples, std = _merged(wide[rows], values)
    found = select.by_proxies(samples, std=std)
    assert "too few" in found.notes[0] and found.weights is None
    gap = found.functions[0](wide) - 9.0 * wide[:, 1]
    plain = select.by_proxies(samples).functions[0](wide) - 9.0 * wide[:, 1]
    errors.append([np.abs(gap).max(), np.abs(plain).max()])
  weighted, plain = np.mean(errors, axis=0)
  assert weighted < plain
