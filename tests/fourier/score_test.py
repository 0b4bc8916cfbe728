"""R², its error, correlations and intervals: by hand, by scipy, by promise."""

import math

import numpy as np
import pytest
import scipy.stats

from spex_jax.fourier import score


def test_r2_of_a_guess_beyond_squares_is_the_lowest_float():
  lowest = np.finfo(np.float64).min
  assert score.r2(np.array([0.0, 1.0]), np.array([0.0, 1e200])) == lowest


def test_r2_by_hand():
  # Total 2, error 0.5.
  assert score.r2([0.0, 1.0, 2.0], [0.5, 1.0, 2.5]) == pytest.approx(0.75)
  assert score.r2([0.0, 2.0], [1.0, 1.0]) == 0.0
  assert score.r2([0.0, 2.0], [2.0, 0.0]) == -3.0


def test_r2_of_targets():
  truth = np.array([[0.0, 7.0], [2.0, 7.0]])
  guess = np.array([[0.0, 7.0], [0.0, 7.5]])
  np.testing.assert_allclose(score.r2(truth, guess), [-1.0, 0.0])


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
  assert score.r2(truth, guess) == expected


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
    score.r2(truth, guess)


@pytest.mark.parametrize("offset", [0.0, 1e9, -1e12, 1.7e18])
def test_r2_beside_an_offset(offset):
  # Steps that float64 resolves beside the offset: exact in every case.
  step = max(1.0, 64 * np.spacing(abs(offset)))
  spread = step * np.random.default_rng(0).integers(-50, 50, 500)
  truth = offset + spread
  middle = truth[0] + (truth - truth[0]).mean()
  rounding = 1e-6
  for guess, expected in (
    (truth, 1.0),
    (np.full(500, middle), 0.0),
    (2 * middle - truth, -3.0),
  ):
    assert score.r2(truth, guess) == pytest.approx(expected, abs=rounding)


def test_only_rounding_is_constant():
  ulp = np.spacing(1e10)
  truth = np.array([1e10, 1e10 + 100 * ulp])
  assert score.r2(truth, truth) == 1 and score.r2(truth, truth[::-1]) == -3
  truth = np.array([1e10, 1e10 + ulp])
  assert score.r2(truth, truth[::-1]) == 1
  assert score.r2(truth, truth + 1.0) == 0
  assert score.r2_std(truth, truth + 1.0) == 0


def test_the_standard_error_is_calibrated():
  rng = np.random.default_rng(0)
  truth = rng.normal(size=(200, 2000))  # 2,000 draws of 200 masks.
  guess = truth + 0.5 * rng.normal(size=truth.shape)
  found, std = score.r2(truth, guess), score.r2_std(truth, guess)
  # R² of so many draws has the deviation that each draw states of itself, and
  # 90 % intervals hold the truth; 3 standard errors of these shares.
  assert std.mean() == pytest.approx(found.std(), rel=0.1)
  inside = (np.abs(found - 0.75) < 1.645 * std).mean()
  assert abs(inside - 0.9) < 0.03
  one = score.r2_std(truth[:, 0], guess[:, 0])
  assert isinstance(one, float) and one == pytest.approx(std[0])
  # Neither the units nor the offset matter.
  np.testing.assert_allclose(
    score.r2_std(1e9 * truth + 1e12, 1e9 * guess + 1e12), std, rtol=1e-2
  )


def test_an_error_beyond_float64_and_of_one_mask_is_finite():
  most = np.finfo(np.float64).max
  assert score.r2_std([1.0, 2.0], [1e200, 2.0]) == most
  assert score.r2_std([1.0], [1.0]) in (0.0, most)


@pytest.mark.parametrize(
  "value, std, expected",
  [
    (0.97642, 0.0041, "0.976 ± 0.004"),
    (0.97642, 0.00041, "0.9764 ± 0.0004"),
    (1.0, 1e-12, "1.000 ± 0.000"),
    (0.5, 0.0, "0.5"),
    (0.5, None, "0.5"),
    (-1234.5, 200.0, "-1234 ± 2e+02"),
  ],
)
def test_shown(value, std, expected):
  assert score.shown(value, std) == expected


def test_spearman():
  rng = np.random.default_rng(0)
  a = rng.integers(0, 5, 50).astype(float)  # Ties.
  b = a + rng.normal(size=50)
  # Two formulas for one number, a few roundings apart.
  expected = scipy.stats.spearmanr(a, b).statistic
  assert score.spearman(a, b) == pytest.approx(expected, abs=1e-12)
  assert score.spearman([1.0, 2.0, 3.0], [9.0, 5.0, 1.0]) == pytest.approx(-1)
  with pytest.raises(ValueError, match="second scores rank nothing"):
    score.spearman([1.0, 2.0], [4.0, 4.0])
  with pytest.raises(ValueError, match="first scores rank nothing: 1"):
    score.spearman([1.0], [4.0])
  with pytest.raises(ValueError, match="one length"):
    score.spearman([1.0], [4.0, 5.0])
  with pytest.raises(ValueError, match="must be finite"):
    score.spearman([1.0, np.nan], [4.0, 5.0])


@pytest.mark.parametrize(
  "correlation, reference",
  [
    (score.spearman, scipy.stats.spearmanr),
    (score.pearson, scipy.stats.pearsonr),
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
  assert score.pearson(a, b) == pytest.approx(expected, abs=1e-14)
  # Squares that overflow or vanish; a shift of 1e6 costs six digits.
  for scale, shift, atol in ((1e300, 0, 1e-14), (1e-300, 0, 1e-14),
                             (-1, 1e6, 1e-8)):  # fmt: skip
    actual = score.pearson(a * scale + shift, b)
    assert actual == pytest.approx(np.sign(scale) * expected, abs=atol)
  # The two smallest numbers, and neighbours near 1, still vary.
  assert score.pearson([0.0, 5e-324], [0.0, 5e-324]) == 1.0
  assert score.pearson([1.0, np.nextafter(1, 2)], [2.0, 1.0]) == -1.0
  with pytest.raises(ValueError, match="scores correlate with nothing: 2"):
    score.pearson([4.0, 4.0], [1.0, 2.0])


def test_top_k_agreement():
  a, b = [5.0, -4.0, 3.0, 0.0], [0.0, 9.0, 1.0, -8.0]
  assert score.top_k_agreement(a, b, 1) == 0.0
  assert score.top_k_agreement(a, b, 2) == 0.5
  assert score.top_k_agreement(a, b, 4) == 1.0
  for k in (0, 5):
    with pytest.raises(ValueError, match=rf"k must lie in 1..4; got {k}"):
      score.top_k_agreement(a, b, k)


def test_auroc_counts_pairs():
  rng = np.random.default_rng(1)
  scores = rng.integers(0, 5, 60).astype(float)  # Ties, too.
  inside = rng.random(60) < 0.3
  ahead = scores[inside][:, None] - scores[~inside][None]
  expected = ((ahead > 0) + 0.5 * (ahead == 0)).mean()
  np.testing.assert_allclose(score.auroc(scores, inside), expected)
  scores[inside], scores[~inside] = np.inf, -np.inf
  assert score.auroc(scores, inside) == 1
  for bad, which in (
    (scores[:-1], inside), (scores * np.nan, inside), (scores, ~inside | True),
  ):  # fmt: skip
    with pytest.raises(ValueError, match="Need scores|NaN|nothing to tell"):
      score.auroc(bad, which)
