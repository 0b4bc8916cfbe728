"""R², removal curves, supports and rankings, by hand and by brute force."""

import itertools
import math

import numpy as np
import pytest
import scipy.stats

from spex_jax.fourier import sparse
from spex_jax.indices import metrics


def _random(n, num_terms, order, seed=0):
  rng = np.random.default_rng(seed)
  rows = np.full((num_terms, order), n)
  for row in rows:
    size = rng.integers(1, order + 1)
    row[:size] = rng.choice(n, size, replace=False)
  return sparse.SparseFourier.from_players(n, rows, rng.normal(size=num_terms))


def _masks(n, num=200, seed=5):
  return np.random.default_rng(seed).random((num, n)) < 0.5


def test_r2_of_a_guess_beyond_squares_is_the_lowest_float():
  lowest = np.finfo(np.float64).min
  assert metrics.r2(np.array([0.0, 1.0]), np.array([0.0, 1e200])) == lowest


def test_r2_by_hand():
  # Total 2, error 0.5.
  assert metrics.r2([0.0, 1.0, 2.0], [0.5, 1.0, 2.5]) == pytest.approx(0.75)
  assert metrics.r2([0.0, 2.0], [1.0, 1.0]) == 0.0
  assert metrics.r2([0.0, 2.0], [2.0, 0.0]) == -3.0


def test_r2_of_targets():
  truth = np.array([[0.0, 7.0], [2.0, 7.0]])
  guess = np.array([[0.0, 7.0], [0.0, 7.5]])
  np.testing.assert_allclose(metrics.r2(truth, guess), [-1.0, 0.0])


@pytest.mark.parametrize(
  "truth, guess, expected",
  [
    ([3.0, 3.0], [3.0, 3.0], 1.0),
    ([3.0, 3.0], [3.0, 3.0 + 1e-14], 1.0),
    ([3.0, 3.0], [3.0, 3.0 + 1e-12], 0.0),
    ([0.0, 0.0], [0.0, 0.0], 1.0),
    ([3.0, 3.0], [3.0, 3.1], 0.0),
    ([3.0], [3.0], 1.0),
    ([3.0], [4.0], 0.0),
  ],
)
def test_r2_of_a_constant_is_one_or_zero(truth, guess, expected):
  assert metrics.r2(truth, guess) == expected


@pytest.mark.parametrize(
  "truth, guess, message",
  [
    ([1.0, 2.0], [1.0], r"got \(2,\) and \(1,\)"),
    ([], [], r"at least one"),
    ([np.nan, 1.0], [0.0, 1.0], "NaN or infinity for 1 of 2"),
    ([0.0, 1.0], [0.0, np.inf], "guesses hold NaN or infinity"),
  ],
)
def test_r2_bad_input(truth, guess, message):
  with pytest.raises(ValueError, match=message):
    metrics.r2(truth, guess)


def test_faithfulness():
  fourier, masks = _random(10, 20, 3), _masks(10)
  values = fourier(masks)
  assert metrics.faithfulness(fourier, masks, values) == 1.0
  noise = np.random.default_rng(1).normal(size=len(values))
  actual = metrics.faithfulness(fourier, masks, values + noise)
  assert actual == pytest.approx(
    1 - (noise**2).mean() / (values + noise).var(), abs=1e-12
  )
  both = sparse.SparseFourier.stack([fourier, fourier])
  two = np.stack([values, -values], axis=1)
  first, second = metrics.faithfulness(both, masks, two)
  assert first == 1.0
  assert second < 0


def test_removal_curve_finds_the_most_influential_sets():
  n = 8
  fourier = _random(n, 20, 3)
  calls = []

  def value_fn(masks):
    calls.append(len(masks))
    return 2 * fourier(masks) + 1

  actual = metrics.removal_curve(fourier, value_fn, [0, 1, 3, n])
  assert calls == [5]  # One batch: the full mask and four others.
  full = fourier(np.ones((1, n), bool))[0]
  assert actual.full == pytest.approx(2 * full + 1)
  for k, mask, predicted, change in zip(
    actual.counts, actual.masks, actual.predicted, actual.actual
  ):
    assert (~mask).sum() == k
    best = 0.0
    for removed in itertools.combinations(range(n), int(k)):
      trial = np.ones((1, n), bool)
      trial[0, list(removed)] = False
      best = max(best, abs(full - fourier(trial)[0]))
    assert abs(predicted) == pytest.approx(best, abs=1e-12)
    assert change == pytest.approx(2 * predicted, abs=1e-12)
  assert set(actual.status) == {"optimal"}


def test_removal_curve_of_a_function_that_is_zero():
  fourier = sparse.SparseFourier.from_terms(30, {(i,): 0.0 for i in range(30)})
  actual = metrics.removal_curve(fourier, fourier, [0, 4])
  assert (~actual.masks).sum(axis=1).tolist() == [0, 4]
  assert actual.predicted.tolist() == actual.actual.tolist() == [0, 0]
  assert metrics.removal_curve(fourier, fourier, []).masks.shape == (0, 30)


def test_removal_curve_bad_input():
  fourier = _random(5, 4, 2)
  with pytest.raises(TypeError, match="must be an integer; got 1.5"):
    metrics.removal_curve(fourier, fourier, [1, 1.5])
  with pytest.raises(ValueError, match=r"counts must lie in 0..5; got \[6\]"):
    metrics.removal_curve(fourier, fourier, [6])
  with pytest.raises(ValueError, match="needs one target"):
    metrics.removal_curve(fourier, lambda m: np.ones((len(m), 2)), [1])
  with pytest.raises(ValueError, match="NaN or infinity for 2 of 2"):
    metrics.removal_curve(fourier, lambda m: np.full(len(m), np.nan), [1])


def test_spearman():
  rng = np.random.default_rng(0)
  a = rng.integers(0, 5, 50).astype(float)  # Ties.
  b = a + rng.normal(size=50)
  # Two formulas for one number, a few roundings apart.
  expected = scipy.stats.spearmanr(a, b).statistic
  assert metrics.spearman(a, b) == pytest.approx(expected, abs=1e-12)
  assert metrics.spearman([1.0, 2.0, 3.0], [9.0, 5.0, 1.0]) == pytest.approx(-1)
  with pytest.raises(ValueError, match="second scores rank nothing"):
    metrics.spearman([1.0, 2.0], [4.0, 4.0])
  with pytest.raises(ValueError, match="first scores rank nothing: 1"):
    metrics.spearman([1.0], [4.0])
  with pytest.raises(ValueError, match="one length"):
    metrics.spearman([1.0], [4.0, 5.0])
  with pytest.raises(ValueError, match="must be finite"):
    metrics.spearman([1.0, np.nan], [4.0, 5.0])


@pytest.mark.parametrize(
  "correlation, reference",
  [
    (metrics.spearman, scipy.stats.spearmanr),
    (metrics.pearson, scipy.stats.pearsonr),
  ],
)
def test_correlations_of_columns(correlation, reference):
  rng = np.random.default_rng(3)
  a = rng.integers(0, 6, (40, 4)).astype(float)  # Ties.
  b = a + rng.normal(size=a.shape)
  b[:, 2] = 0.1  # Its mean is not 0.1 in floats.
  expected = [reference(a[:, t], b[:, t]).statistic for t in (0, 1, 3)]
  actual = correlation(a, b, constant=0.0)
  assert actual.dtype == np.float64 and actual[2] == 0.0
  # 40 sums of products, a few roundings each.
  np.testing.assert_allclose(actual[[0, 1, 3]], expected, atol=1e-13)
  np.testing.assert_array_equal(correlation(b, a, constant=0.0), actual)
  assert correlation(a[:, 0], b[:, 0]) == pytest.approx(expected[0], abs=1e-13)
  np.testing.assert_allclose(correlation(a, a), 1.0, rtol=1e-15)
  np.testing.assert_array_equal(
    correlation(a[:1], b[:1], constant=-2.0), [-2.0] * 4
  )
  np.testing.assert_array_equal(
    correlation(a[:0], b[:0], constant=-2.0), [-2.0] * 4
  )
  with pytest.raises(ValueError, match=r"second scores .* in column 2: 40 of"):
    correlation(a, b)
  with pytest.raises(ValueError, match=r"got \(40, 4\) and \(40,\)"):
    correlation(a, b[:, 0])
  with pytest.raises(ValueError, match=r"got \(1, 40, 4\)"):
    correlation(a[None], b[None])


def test_pearson_by_its_definition():
  rng = np.random.default_rng(4)
  a = rng.normal(size=30)
  b = 0.3 * a + rng.normal(size=30)
  left, right = (
    [x - math.fsum(part) / 30 for x in part.tolist()] for part in (a, b)
  )
  total = lambda x, y: math.fsum(p * q for p, q in zip(x, y))
  expected = total(left, right) / math.sqrt(
    total(left, left) * total(right, right)
  )
  assert metrics.pearson(a, b) == pytest.approx(expected, abs=1e-14)
  # Squares that overflow or vanish; a shift of 1e6 costs six digits.
  for scale, shift, atol in ((1e300, 0, 1e-14), (1e-300, 0, 1e-14),
                             (-1, 1e6, 1e-8)):  # fmt: skip
    actual = metrics.pearson(a * scale + shift, b)
    assert actual == pytest.approx(np.sign(scale) * expected, abs=atol)
  # The two smallest numbers, and neighbours near 1, still vary.
  assert metrics.pearson([0.0, 5e-324], [0.0, 5e-324]) == 1.0
  assert metrics.pearson([1.0, np.nextafter(1, 2)], [2.0, 1.0]) == -1.0
  with pytest.raises(ValueError, match="scores correlate with nothing: 2"):
    metrics.pearson([4.0, 4.0], [1.0, 2.0])


def test_top_k_agreement():
  a, b = [5.0, -4.0, 3.0, 0.0], [0.0, 9.0, 1.0, -8.0]
  assert metrics.top_k_agreement(a, b, 1) == 0.0
  assert metrics.top_k_agreement(a, b, 2) == 0.5
  assert metrics.top_k_agreement(a, b, 4) == 1.0
  for k in (0, 5):
    with pytest.raises(ValueError, match=rf"k must lie in 1..4; got {k}"):
      metrics.top_k_agreement(a, b, k)
