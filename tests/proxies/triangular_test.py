"""Blockwise inverses against NumPy's."""

import jax
import numpy as np
import pytest

from spex_jax.proxies import triangular


@pytest.fixture(autouse=True)
def _small_blocks(monkeypatch):
  monkeypatch.setattr(triangular, "_LEAST", 64)


def _factor(size, seed=0):
  rng = np.random.default_rng(seed)
  below = np.tril(rng.normal(size=(size, size)), -1) / np.sqrt(max(size, 1))
  return below + np.diag(rng.uniform(0.5, 2.0, size))


# One row, odd halves, the least that is halved, and all halvings.
@pytest.mark.slow
@pytest.mark.parametrize("size", [0, 1, 2, 63, 127, 128, 129, 301, 1024, 1100])
def test_inverse_and_square(size):
  factor = _factor(size)
  with jax.enable_x64(True):
    inverse = np.asarray(jax.jit(triangular.invert)(factor))
    square = np.asarray(jax.jit(triangular.square)(factor))
  # Sums of `size` products, of a factor whose condition is a few hundred.
  atol = 1e-16 * (size + 1) * 1e3
  np.testing.assert_allclose(inverse @ factor, np.eye(size), atol=atol)
  np.testing.assert_allclose(square, factor.T @ factor, atol=atol)
  assert (inverse == np.tril(inverse)).all()


def test_what_is_not_finite_stays():
  factor = _factor(300)
  factor[200, 200] = np.nan
  with jax.enable_x64(True):
    inverse = np.asarray(jax.jit(triangular.invert)(factor))
    square = np.asarray(jax.jit(triangular.square)(factor))
  assert np.isnan(inverse[200, 200]) and np.isnan(square[200, 200])
  singular = _factor(300)
  singular[100, 100] = 0.0
  with jax.enable_x64(True):
    inverse = np.asarray(jax.jit(triangular.invert)(singular))
  assert not np.isfinite(inverse).all()
