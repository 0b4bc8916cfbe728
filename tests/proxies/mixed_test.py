"""The readout of a process with directions, against all 2^n masks and sets."""

import numpy as np
import pytest

from spex_jax.fourier import lasso
from spex_jax.proxies import gaussian, mixed
from tests.proxies import process


def _every_coef(posterior):
  """All sets and their coefficients: means over all masks, by definition."""
  n = posterior.n
  masks = (np.arange(2**n)[:, None] >> np.arange(n)) & 1 == 1
  signs = 1.0 - 2.0 * masks
  cross = process.kernel(posterior.params, signs, posterior.signs)
  values = cross @ posterior.weights * posterior.scale + posterior.mean
  sets = process.subsets(n)
  return dict(zip(sets, process.characters(signs, sets).T @ values / 2**n))


def _terms(function):
  return dict(function.terms())


def _rounding(posterior):
  """Of sums over samples: products of n factors, each of 1e-16."""
  kernel = process.kernel(posterior.params, posterior.signs, posterior.signs)
  size = np.abs(posterior.weights).sum() * kernel.max() * posterior.scale
  return 1e-15 * 100 * posterior.n * size


@pytest.mark.parametrize("seed, n, rank", [(0, 1, 1), (1, 2, 4), (2, 7, 2)])
def test_every_coefficient_is_exact(seed, n, rank):
  posterior = process.draw(seed, 30, n, rank=rank)
  found = mixed.expand(posterior)
  expected = _every_coef(posterior)
  actual = _terms(found.fourier)
  assert set(actual) == set(expected)
  atol = _rounding(posterior)
  for players, coef in expected.items():
    np.testing.assert_allclose(actual[players], coef, rtol=1e-10, atol=atol)
  assert found.missed < 1e-20


@pytest.mark.parametrize("num_terms", [0, 1, 5, 40, 127, 500])
def test_the_largest_are_kept_and_what_is_missed_is_measured(num_terms):
  posterior = process.draw(2, 30, 7, rank=2)
  found = mixed.expand(posterior, num_terms)
  expected = _every_coef(posterior)
  empty = expected.pop(())
  ranked = sorted(expected, key=lambda s: -abs(expected[s]))
  actual = _terms(found.fourier)
  np.testing.assert_allclose(actual.pop(()), empty)
  assert set(actual) == set(ranked[:num_terms])
  left = sum(expected[s] ** 2 for s in ranked[num_terms:])
  share = left / sum(c**2 for c in expected.values())
  # Measured at 2,048 masks: a mean square and a variance, each within 10 %.
  np.testing.assert_allclose(found.missed, share, rtol=0.25, atol=1e-20)


@pytest.mark.slow
def test_growing_a_few_sets_finds_the_largest(monkeypatch):
  """Of 2^12 sets, levels of 64 are grown and 60 sets kept."""
  posterior = process.draw(5, 40, 12, rank=3)
  expected = _every_coef(posterior)
  expected.pop(())
  monkeypatch.setattr(mixed, "_GROWN", 64)
  found = mixed.expand(posterior, 60)
  actual = _terms(found.fourier)
  actual.pop(())
  held = sum(c**2 for c in actual.values())
  best = sum(sorted((c**2 for c in expected.values()), reverse=True)[:60])
  assert len(actual) == 60
  assert held > 0.98 * best
  for players, coef in actual.items():
    np.testing.assert_allclose(coef, expected[players], rtol=1e-8, atol=1e-10)


@pytest.mark.slow
def test_it_predicts_as_the_process_does():
  posterior = process.draw(3, 40, 9, rank=4)
  masks = process.draw_masks(8, 50, 9)
  function = mixed.expand(posterior).fourier
  np.testing.assert_allclose(
    lasso.evaluate(masks, function),
    gaussian.predict_mean(posterior, masks),
    rtol=1e-9,
    atol=_rounding(posterior),
  )


def test_a_process_without_directions_is_read_elsewhere():
  with pytest.raises(ValueError, match="no directions; see proxies.readout"):
    mixed.expand(process.draw(0, 10, 3))
