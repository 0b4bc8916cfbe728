"""Tests of the dense Walsh-Hadamard transform against its definition."""

import chex
import hypothesis
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import strategies as st

from spex_jax.fourier import transform


def _by_definition(x):
  """The defining double sum along the last axis, float64."""
  index = np.arange(x.shape[-1])
  popcount = np.vectorize(lambda i: int(i).bit_count())
  parity = popcount(index[:, None] & index) % 2
  return np.asarray(x, np.float64) @ np.where(parity == 1, -1.0, 1.0)


def _tolerance(x, n):
  # At most one rounding per addition in a product of 32 terms, then n / 5
  # products: n + 32 steps, on sums that never exceed sum|x|.
  return (n + 32) * np.finfo(x.dtype).eps * np.abs(x).sum(-1).max()


@pytest.mark.parametrize("n", [0, 1, 2, 4, 5, 6, 9, 11])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("wrap", [lambda f: f, jax.jit], ids=["eager", "jit"])
def test_matches_definition(n, dtype, wrap):
  x = np.random.default_rng(n).normal(size=(3, 2**n)).astype(dtype)
  with jax.enable_x64(dtype == np.float64):
    actual = np.asarray(wrap(transform.walsh_hadamard)(x))
  assert actual.dtype == dtype and actual.shape == x.shape
  np.testing.assert_allclose(
    actual, _by_definition(x), rtol=0, atol=_tolerance(x, n)
  )


@pytest.mark.parametrize("n", [13, 14])
@pytest.mark.parametrize("batch", [1, 3])
def test_large_path_transforms_characters(n, batch):
  """Above the cache size: the transform of chi_S is N at S, exactly."""
  sets = np.random.default_rng(0).integers(2**n, size=batch)
  index = np.arange(2**n)
  chars = 1.0 - 2 * (np.bitwise_count(sets[:, None] & index) & 1)
  expected = np.zeros((batch, 2**n))
  expected[np.arange(batch), sets] = 2**n
  actual = transform.walsh_hadamard(chars.astype(np.float32))
  np.testing.assert_array_equal(actual, expected)  # Small integers: exact.


@pytest.mark.parametrize("axis", [0, 1, 2, -1, -2, -3])
def test_any_axis(axis):
  x = np.random.default_rng(0).normal(size=(4, 8, 16)).astype(np.float32)
  expected = np.moveaxis(_by_definition(np.moveaxis(x, axis, -1)), -1, axis)
  actual = transform.walsh_hadamard(x, axis)
  np.testing.assert_allclose(actual, expected, rtol=0, atol=1e-4)


def test_vmap_is_a_loop():
  x = np.random.default_rng(0).normal(size=(5, 64)).astype(np.float32)
  looped = np.stack([transform.walsh_hadamard(row) for row in x])
  batched = jax.vmap(transform.walsh_hadamard)(x)
  np.testing.assert_allclose(batched, looped, rtol=0, atol=_tolerance(x, 6))


def _count(jaxpr, name):
  return sum(eqn.primitive.name == name for eqn in jaxpr.eqns)


@pytest.mark.parametrize("size", [2**7, 2**13])
def test_derivatives_are_one_transform(size):
  x = np.random.default_rng(1).normal(size=size).astype(np.float32)
  v = np.random.default_rng(2).normal(size=size).astype(np.float32)
  expected = transform.walsh_hadamard(v)
  _, forward = jax.jvp(transform.walsh_hadamard, (x,), (v,))
  (reverse,) = jax.vjp(transform.walsh_hadamard, x)[1](v)
  atol = 2 * _tolerance(v, 13)
  np.testing.assert_allclose(forward, expected, rtol=0, atol=atol)
  np.testing.assert_allclose(reverse, expected, rtol=0, atol=atol)

  def pullback(v):
    return jax.linear_transpose(transform.walsh_hadamard, x)(v)[0]

  once = _count(jax.make_jaxpr(transform.walsh_hadamard)(x), "dot_general")
  back = _count(jax.make_jaxpr(pullback)(v), "dot_general")
  assert once == back > 0


@hypothesis.settings(deadline=None, max_examples=25)
@hypothesis.given(n=st.integers(0, 9), seed=st.integers(0, 2**31))
def test_round_trip_and_parseval(n, seed):
  values = np.random.default_rng(seed).normal(size=2**n)
  with jax.enable_x64(True):
    coefs = np.asarray(transform.fourier_from_values(values))
    back = np.asarray(transform.walsh_hadamard(coefs))
  np.testing.assert_allclose(back, values, rtol=0, atol=1e-13)
  np.testing.assert_allclose((coefs**2).sum(), (values**2).mean(), rtol=1e-12)
  np.testing.assert_allclose(coefs[0], values.mean(), rtol=0, atol=1e-14)
  np.testing.assert_allclose(coefs.sum(), values[0], rtol=0, atol=1e-12)


def test_fourier_divides_by_its_own_axis():
  values = np.ones((4, 2), np.float32)
  coefs = transform.fourier_from_values(values, axis=0)
  np.testing.assert_array_equal(coefs, [[1, 1], [0, 0], [0, 0], [0, 0]])


@pytest.mark.parametrize("dtype", [np.int32, np.bool_, np.uint8])
def test_integers_become_floats(dtype):
  actual = transform.walsh_hadamard(np.array([1, 0, 1, 1], dtype))
  assert actual.dtype == jnp.float32
  np.testing.assert_array_equal(actual, [3, 1, -1, 1])


@pytest.mark.parametrize("size", [0, 3, 6, 12])
def test_other_sizes_raise(size):
  with pytest.raises(ValueError, match=rf"Need 2\*\*n entries.*got {size}"):
    transform.walsh_hadamard(np.zeros(size, np.float32))


@pytest.mark.parametrize("shape, axis", [((), -1), ((4,), 1), ((4, 4), -3)])
def test_missing_axis_raises(shape, axis):
  with pytest.raises(ValueError, match="is not an axis"):
    transform.walsh_hadamard(np.zeros(shape, np.float32), axis)


def test_compiles_once():
  chex.clear_trace_counter()
  fn = jax.jit(chex.assert_max_traces(transform.walsh_hadamard, n=1))
  for seed in range(3):
    fn(np.random.default_rng(seed).normal(size=16).astype(np.float32))
