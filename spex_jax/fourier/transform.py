"""The dense fast Walsh-Hadamard transform, and Fourier coefficients by it.

Index i of a transformed axis stands for the mask, or the set, whose bit j is
`(i >> j) & 1`; a set bit means "kept", or "in the set". This is the order of
`masks.sampling.enumerate_masks`.

Method: with R = 32, the Hadamard matrix of size R^p is a product of p factors
H_R, and each is one matrix product that contracts the leading axis and
appends it at the end; after p of them every axis is back in its place. So
the work is p products that XLA runs at the speed of memory, and the program
has p operations whatever the size.

Shapes: n players, N = 2^n masks.
Cost: about 64 * N * n / 5 flops. Error: below (n + 32) * eps * sum|x|.
"""

import chex
import jax
import jax.numpy as jnp
import numpy as np

from spex_jax import base

_BITS = 5  # Bits per product; measured on 2 CPU cores against 4, 6 and 7.
_SMALL = 1 << 12  # Up to here a row stays in cache, and a batch stays in front.


def walsh_hadamard(x: base.Array, axis: int = -1) -> jax.Array:
  """Returns `y[k] = sum_i (-1)^<k, i> x[i]` along one axis (batched).

  Unnormalised: applied twice it multiplies by N. Linear and symmetric, so
  that forward and reverse derivatives cost one transform each.

  Args:
    x: `[..., N, ...]`, an array of N entries along `axis`, a power of two. Sums
      run in its dtype; integers and booleans are cast to the default float.
      float64 needs `jax.enable_x64`, as everywhere in JAX.
    axis: the axis to transform.

  Returns:
    An array of the shape of `x`.

  Raises:
    ValueError: N is not a power of two, or there is no such axis.
  """
  x = jnp.asarray(x)
  if not jnp.issubdtype(x.dtype, jnp.inexact):
    x = x.astype(jnp.zeros(()).dtype)
  if not -x.ndim <= axis < x.ndim:
    raise ValueError(f"axis {axis} is not an axis of shape {x.shape}.")
  size = x.shape[axis]
  n = size.bit_length() - 1
  if size != 1 << max(n, 0):
    raise ValueError(
      f"Need 2**n entries along axis {axis}, one per mask; got {size}."
    )
  if n == 0:
    return x
  moved = jnp.moveaxis(x, axis, -1)
  rows = moved.reshape(-1, size)
  if size <= _SMALL:
    for bits in _factor_bits(n):
      blocks = rows.reshape(-1, 1 << bits, size >> bits)
      rows = _contract(blocks, 1, bits).reshape(-1, size)
  else:
    # The batch is an axis like the others: it ends in front.
    flat = rows.T
    for bits in _factor_bits(n):
      flat = _contract(flat.reshape(1 << bits, -1), 0, bits)
    rows = flat.reshape(-1, size)
  return jnp.moveaxis(rows.reshape(moved.shape), -1, axis)


def fourier_from_values(values: base.Array, axis: int = -1) -> jax.Array:
  """Returns `F(S) = 2^-n sum_m f(m) chi_S(m)` for every S.

  Args:
    values: `[..., N, ...]` f at every mask along `axis`, in index order, in
      the units of the value function.
    axis: the axis of masks.

  Returns:
    The same shape and units; F(0) is the mean of f.

  Raises:
    ValueError: N is not a power of two.
  """
  return walsh_hadamard(values, axis) / np.shape(values)[axis]


def _factor_bits(n: int) -> list[int]:
  """Splits n bits into the fewest factors of at most `_BITS`, near equal."""
  num_factors = -(-n // _BITS)
  small, larger = divmod(n, num_factors)
  return [small + 1] * larger + [small] * (num_factors - larger)


def _contract(x: jax.Array, axis: int, bits: int) -> jax.Array:
  """Multiplies `axis`, of size 2^bits, by H and moves it to the end."""
  chex.assert_axis_dimension(x, axis, 1 << bits)
  index = np.arange(1 << bits)
  parity = np.bitwise_count(index[:, None] & index) & 1
  return jax.lax.dot_general(
    x,
    jnp.asarray(1 - 2.0 * parity, x.dtype),
    (((axis,), (0,)), ((), ())),
    precision=jax.lax.Precision.HIGHEST,  # No TF32: factors are exact.
  )
