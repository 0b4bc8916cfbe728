"""R² beside any offset, and its standard error by what it promises."""

import numpy as np
import pytest

from spex_jax.fourier import score


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
