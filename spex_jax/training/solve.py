"""Many small positive definite systems at once, in plain JAX.

On a CPU, batched factorisations of LAPACK split their batch over a pool of
threads that the program itself runs in: two devices of one process can wait for
each other forever (seen with two devices on two cores). This is arithmetic and
products alone, and the same on every kind of device.

Shapes: D unknowns, K right sides.
"""

import chex
import jax
import jax.numpy as jnp

_BLOCK = 8


def positive_definite(matrix: jax.Array, right: jax.Array) -> jax.Array:
  """Solves `matrix @ x = right` by a blocked Cholesky factorisation. Unbatched.

  Args:
    matrix: `[D, D]`, symmetric; the part above the diagonal is not read.
    right: `[D, K]`.

  Returns:
    `[D, K]`; NaN where the matrix is not positive definite.
  """
  chex.assert_shape(matrix, (len(matrix), len(matrix)))
  chex.assert_shape(right, (len(matrix), None))
  chex.assert_type([matrix, right], float)
  width = len(matrix)
  # The right sides ride along as further rows: what becomes of them is
  # L^-1 right.
  rest = jnp.concatenate([matrix, right.T])
  panels = []
  for start in range(0, width, _BLOCK):
    size = min(_BLOCK, width - start)
    panel = _panel(rest[:, :size])
    panels.append(panel)
    below = panel[size:]
    inner = below[: width - start - size]
    rest = rest[size:, size:] - product(below, inner.T)
  # Back from the last block: L' x = y.
  found = jnp.zeros((0, right.shape[1]), right.dtype)
  for panel in reversed(panels):
    size = panel.shape[1]
    lower, inner = panel[:size], panel[size : size + len(found)]
    y = panel[size + len(found) :].T - product(inner.T, found)
    found = jnp.concatenate([_back(lower, y), found])
  return found


def product(left: jax.Array, right: jax.Array) -> jax.Array:
  """A matrix product in full precision.

  Accelerators round float32 factors to 10 bits (TF32) or 7 otherwise, and a
  solution would be no better than that.
  """
  chex.assert_type([left, right], float)
  return jnp.matmul(left, right, precision=jax.lax.Precision.HIGHEST)


def _panel(columns: jax.Array) -> jax.Array:
  """Factors the leading columns `[M, b]`, their square on top."""
  chex.assert_rank(columns, 2)
  size = columns.shape[1]
  numbers = jnp.arange(size)

  def step(j, panel):
    column = jax.lax.dynamic_index_in_dim(panel, j, axis=1, keepdims=False)
    pivot = jax.lax.dynamic_index_in_dim(column, j, keepdims=False)
    column = column / jnp.sqrt(pivot)
    # Entry i of the column scales column i of the panel, for i after j.
    later = jnp.where(numbers > j, column[:size], 0)
    panel = panel - column[:, None] * later[None]
    return jnp.where((numbers == j)[None], column[:, None], panel)

  return jax.lax.fori_loop(0, size, step, columns)


def _back(lower: jax.Array, y: jax.Array) -> jax.Array:
  """Solves `lower.T @ x = y`, `[b, K]`."""
  chex.assert_equal_shape_prefix([lower, y], 1)
  size = len(lower)
  numbers = jnp.arange(size)

  def step(turn, x):
    j = size - 1 - turn
    row = jax.lax.dynamic_index_in_dim(lower, j, keepdims=False)
    one = jax.lax.dynamic_index_in_dim(x, j, keepdims=False) / row[j]
    x = x - jnp.where(numbers < j, row, 0)[:, None] * one[None]
    return jnp.where((numbers == j)[:, None], one[None], x)

  return jax.lax.fori_loop(0, size, step, y)
