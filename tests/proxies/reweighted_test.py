"""Tests of `proxies.reweighted`, against feature space by dense algebra."""

import numpy as np
import pytest

from spex_jax.fourier import regress
from spex_jax.masks import sampling
from spex_jax.proxies import gaussian, reweighted, spectrum

_N = 6


def _samples(num_masks=40, seed=0):
  rng = np.random.default_rng(seed)
  masks = sampling.enumerate_masks(_N)[rng.permutation(2**_N)[:num_masks]]
  s = 1.0 - 2.0 * masks
  values = s[:, 0] + 0.7 * s[:, 1] * s[:, 2] + 0.1 * rng.normal(size=num_masks)
  return masks, 5.0 + 3.0 * values


def _all_sets():
  every = sampling.enumerate_masks(_N)
  order = np.argsort(~every, axis=1, kind="stable")
  return np.where(np.take_along_axis(every, order, axis=1), order, _N)


def _expected(posterior, masks, values):
  """Bayesian regression on all 2^n characters, each with its variance."""
  sets = _all_sets()
  w = spectrum.prior_variance(posterior.params, sets)
  mean = spectrum.coefs(posterior, sets) / posterior.scale
  std = spectrum.standard_errors(posterior, sets) / posterior.scale
  w = np.where((sets < _N).any(axis=1), mean**2 + std**2, w)
  x = regress.design(masks, sets, dtype=np.float64)
  noise = np.exp(posterior.params.noise) + gaussian.LEAST_NOISE
  unit = (values - posterior.mean) / posterior.scale
  precision = np.diag(1 / w) + x.T @ x / noise
  coefs = np.linalg.solve(precision, x.T @ unit / noise)
  return sets, coefs * posterior.scale, w, noise


def test_coefficients_are_those_of_regression_on_all_characters():
  masks, values = _samples()
  posterior = gaussian.fit(masks, values)
  found = reweighted.fit(posterior, masks, values).fourier
  sets, coefs, *_ = _expected(posterior, masks, values)
  every = sampling.enumerate_masks(_N)
  expected = regress.design(every, sets, dtype=np.float64) @ coefs
  # 64 sums in float64, through a matrix of condition about 1e6.
  np.testing.assert_allclose(
    found(every), expected + posterior.mean, rtol=1e-7, atol=1e-7
  )


def test_left_out_is_what_is_predicted_without_the_value():
  masks, values = _samples()
  posterior = gaussian.fit(masks, values)
  found = reweighted.fit(posterior, masks, values).left_out
  sets, _, w, noise = _expected(posterior, masks, values)
  x = regress.design(masks, sets, dtype=np.float64)
  unit = (values - posterior.mean) / posterior.scale
  for i in (0, 13, 39):
    rest = np.delete(np.arange(40), i)
    gram = (x[rest] * w) @ x[rest].T + noise * np.eye(39)
    guess = (x[i] * w) @ x[rest].T @ np.linalg.solve(gram, unit[rest])
    expected = guess * posterior.scale + posterior.mean
    np.testing.assert_allclose(found[i], expected, rtol=1e-6)


def test_only_the_largest_change(monkeypatch):
  monkeypatch.setattr(reweighted, "_SETS", 0)
  masks, values = _samples()
  posterior = gaussian.fit(masks, values)
  found = reweighted.fit(posterior, masks, values)
  np.testing.assert_allclose(
    found.left_out, gaussian.leave_one_out(posterior)[0], rtol=1e-8
  )
  every = sampling.enumerate_masks(_N)
  np.testing.assert_allclose(
    found.fourier(every), gaussian.predict_mean(posterior, every), rtol=1e-7
  )


@pytest.mark.slow
def test_strong_sets_are_shrunk_less():
  masks, values = _samples(60)
  posterior = gaussian.fit(masks, values)
  found = dict(reweighted.fit(posterior, masks, values).fourier.terms())
  before = spectrum.coefs(posterior, np.array([[1, 2]]))[0]
  assert abs(found[(1, 2)] - 2.1) < abs(before - 2.1) + 0.02
  weak = [c for s, c in found.items() if len(s) > 2]
  assert np.abs(weak).max() < 0.2


def test_new_masks_beside_those_of_the_posterior():
  """A posterior of half the masks decides variances; all masks condition."""
  masks, values = _samples(60)
  posterior = gaussian.fit(masks[:30], values[:30])
  found = reweighted.fit(posterior, masks, values)
  assert found.left_out.shape == (60,)
  left = values[30:] - found.left_out[30:]
  assert (left**2).mean() < 0.2 * values.var()


@pytest.mark.parametrize("scale", [1e30, 1e-30])
def test_units_change_nothing(scale):
  masks, values = _samples()
  plain = reweighted.fit(gaussian.fit(masks, values), masks, values)
  values = values * scale
  other = reweighted.fit(gaussian.fit(masks, values), masks, values)
  np.testing.assert_allclose(other.left_out / scale, plain.left_out, rtol=1e-6)
