"""Coefficients of a Gaussian process against sums over all sets."""

import numpy as np
import pytest

from spex_jax.proxies import gaussian, spectrum
from tests.proxies import process


def _in_features(posterior):
  """Mean and covariance of all coefficients, by the normal equations."""
  sets = process.subsets(posterior.n)
  x = process.characters(posterior.signs, sets)
  noise = process.noise_variance(posterior.params)
  precision = np.diag(
    1 / process.prior_variances(posterior.params, posterior.n)
  )
  covariance = np.linalg.inv(precision + x.T @ x / noise)
  return covariance @ x.T @ posterior.unit / noise, covariance


@pytest.mark.parametrize("n", range(1, 7))
def test_prior_variances_make_the_kernel(n):
  params = process.draw_params(np.random.default_rng(n), n)
  signs = 1.0 - 2.0 * process.draw_masks(n, 7, n)
  sets = process.subsets(n)
  w = spectrum.prior_variance(params, process.padded(n, sets))
  np.testing.assert_allclose(w, process.prior_variances(params, n), rtol=1e-13)
  x = process.characters(signs, sets)
  # 2^n terms of both signs, of the sum k(s, s) in absolute values.
  np.testing.assert_allclose(
    (x * w) @ x.T,
    process.kernel(params, signs, signs),
    rtol=0,
    atol=1e-13 * w.sum(),
  )


def test_prior_variance_of_the_empty_set_without_columns():
  params = process.draw_params(np.random.default_rng(0), 3)
  found = spectrum.prior_variance(params, np.zeros((1, 0), int))
  np.testing.assert_allclose(
    found, process.prior_variances(params, 3)[:1], rtol=1e-13
  )


@pytest.mark.parametrize("num_masks, n", [(1, 1), (2, 1), (3, 5), (25, 5)])
def test_posterior_is_that_of_all_characters(num_masks, n):
  posterior = process.draw(num_masks, num_masks, n)
  mean, covariance = _in_features(posterior)
  sets = process.padded(n, process.subsets(n))
  expected = 2.0 * mean
  expected[0] += 3.0
  # The oracle inverts a matrix whose condition is under 1e5.
  tight = {"rtol": 1e-9, "atol": 1e-10}
  np.testing.assert_allclose(spectrum.coefs(posterior, sets), expected, **tight)
  np.testing.assert_allclose(
    spectrum.standard_errors(posterior, sets) ** 2,
    4.0 * np.diagonal(covariance),
    **tight,
  )
  test = process.draw_masks(99, 30, n)
  x = process.characters(1.0 - 2.0 * test, process.subsets(n))
  middle = gaussian.predict_mean(posterior, test)
  np.testing.assert_allclose(middle, x @ expected, **tight)


@pytest.mark.parametrize("n", [1, 4, 10])
def test_energy_is_that_of_the_dense_transform(n):
  posterior = process.draw(n, 30, n)
  masks = (np.arange(1 << n)[:, None] >> np.arange(n)) & 1
  mean = (gaussian.predict_mean(posterior, masks) - 3.0) / 2.0
  x = process.characters(1.0 - 2.0 * masks, process.subsets(n))
  coefs = x.T @ mean / len(masks)
  expected = (coefs[1:] ** 2).sum()
  # Energy is the whole less the empty set's, by subtraction.
  rounding = 1e-12 * (posterior.weights**2).sum()
  np.testing.assert_allclose(
    spectrum.energy(posterior), expected, rtol=1e-10, atol=rounding
  )


# 90 % of unit normals lie within this.
_Z = 1.6448536269514722


def test_standard_errors_cover_draws_from_the_prior():
  """Exactly 90 % for every coefficient, where the parameters are known."""
  n, num_masks, draws = 12, 200, 2000
  rng = np.random.default_rng(8)
  params = process.draw_params(rng, n)
  masks = process.draw_masks(8, num_masks, n)
  sets = process.subsets(n)
  w = process.prior_variances(params, n)
  truth = rng.normal(size=(draws, len(sets))) * np.sqrt(w)
  values = truth @ process.characters(1.0 - 2.0 * masks, sets).T
  values += np.sqrt(process.noise_variance(params)) * rng.normal(
    size=values.shape
  )
  read = np.array([*range(20), *range(100, 4000, 200)])
  rows = process.padded(n, sets)[read]
  first = process.condition(params, masks, values[0])
  std = spectrum.standard_errors(first, rows)  # The same for all values.
  inside = np.zeros(len(read))
  for y, f in zip(values, truth):
    posterior = first.replace(unit=y, weights=first.inverse @ y)
    found = spectrum.coefs(posterior, rows)
    inside += np.abs(found - f[read]) < _Z * std
  # Draws are independent: each count is binomial, its deviation 13 of 2,000.
  # Four and a half of them in any of 40 counts: one chance in 3,700.
  assert np.abs(inside - 0.9 * draws).max() < 4.5 * np.sqrt(draws * 0.9 * 0.1)


@pytest.mark.slow
def test_standard_errors_cover_with_tuned_parameters():
  """About 90 % where the parameters are learnt from the same values."""
  n, num_masks, draws = 12, 200, 5
  rng = np.random.default_rng(9)
  params = gaussian.start(n)._replace(
    relevance=np.full(n, -1.5), noise=np.asarray(-3.0)
  )
  sets = process.subsets(n)
  w = process.prior_variances(params, n)
  few = [k for k, s in enumerate(sets) if 0 < len(s) <= 2]
  rows = process.padded(n, sets)[few]
  inside = []
  for _ in range(draws):
    masks = rng.random((num_masks, n)) < 0.5
    truth = rng.normal(size=len(sets)) * np.sqrt(w)
    values = process.characters(1.0 - 2.0 * masks, sets) @ truth
    values += np.sqrt(process.noise_variance(params)) * rng.normal(
      size=num_masks
    )
    posterior = gaussian.fit(masks, values)
    z = spectrum.coefs(posterior, rows) - truth[few]
    z /= spectrum.standard_errors(posterior, rows)
    inside.append(np.abs(z) < _Z)
  # 390 coefficients, hardly correlated: five binomial deviations of 1.5 %.
  assert abs(np.mean(inside) - 0.9) < 0.076
