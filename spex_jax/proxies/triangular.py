"""Inverses of lower triangular matrices, by blocks: all in matrix products.

A triangular solve against the identity does not know that half of both is
zero, and runs on one thread where LAPACK does it. Halving leaves .7 B^3
multiply-adds in place of the 1.5 of a solve and a product.

Shapes: B rows.
"""

import chex
import jax
import jax.numpy as jnp

_HALVINGS = 3  # Each doubles the time of compilation.
_LEAST = 256  # Rows of half a block that is worth halving.


def invert(factor: jax.Array, halvings: int = _HALVINGS) -> jax.Array:
  """The inverse of a lower triangular `factor` `[B, B]`; NaN if there is none.

  [[A, 0], [C, D]] has the inverse [[A', 0], [-D' C A', D']].
  """
  chex.assert_shape(factor, (len(factor), len(factor)))
  chex.assert_type(factor, float)
  size = len(factor)
  if not halvings or size < 2 * _LEAST:
    identity = jnp.eye(size, dtype=factor.dtype)
    return jax.scipy.linalg.solve_triangular(factor, identity, lower=True)
  half = size // 2
  first = invert(factor[:half, :half], halvings - 1)
  last = invert(factor[half:, half:], halvings - 1)
  below = -(last @ (factor[half:, :half] @ first))
  above = jnp.zeros((half, size - half), factor.dtype)
  return jnp.block([[first, above], [below, last]])


def square(factor: jax.Array, halvings: int = _HALVINGS) -> jax.Array:
  """`factor^T factor` of a lower triangular `factor` `[B, B]`.

  Of [[A, 0], [C, D]] it is [[A^T A + C^T C, C^T D], [D^T C, D^T D]].
  """
  chex.assert_shape(factor, (len(factor), len(factor)))
  chex.assert_type(factor, float)
  size = len(factor)
  if not halvings or size < 2 * _LEAST:
    return factor.T @ factor
  half = size // 2
  below, corner = factor[half:, :half], factor[half:, half:]
  first = square(factor[:half, :half], halvings - 1) + below.T @ below
  side = below.T @ corner
  last = square(corner, halvings - 1)
  return jnp.block([[first, side], [side.T, last]])
