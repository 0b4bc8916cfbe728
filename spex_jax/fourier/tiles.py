"""A Gram matrix in square tiles on a device, and its blocked Cholesky factor.

For more columns than LAPACK on the host would like: only tiles on and below the
diagonal are held, in float32, which is exact for masks up to 2^24 rows. The
factor is float32, too; its solutions are refined against residuals in float64
until they no longer change, which Gram matrices of random masks allow (their
condition is some hundreds to some thousands).

Memory on the device, for n columns, tiles of side b, T targets, r rows a call:
  sums    2 n (n + b) + 8 n T bytes
  solve   as much again for the factor, 40 n T, 16 b^2 for a tile in float64
  rows    5 r (n + T)
n = 100,000 with b = 8,192, T = 1,000: 22 GB of tiles, 22 of the factor, 4 of
solutions; on one device of 80 GB. The work is B n^2 + n^3 / 3 multiply-adds.

Shapes: n columns, T targets, b side of a tile, q tiles a side.
"""

import functools
from typing import Any

import chex
import jax
import jax.numpy as jnp
import numpy as np

_MOST_ROWS = 1 << 24  # Above, float32 no longer counts.
_REFINEMENTS = 20
_SETTLED = 1e-12  # Share of the solution at which corrections end, ...
_CLOSE = 1e-6  # ... and that the last of them all may have.


class Tiles:
  """Gram matrix and products of masks on a device; used by `normal.Normal`."""

  def __init__(self, n: int, num_targets: int, tile: int):
    if tile < 1:
      raise ValueError(f"Tiles need a side of at least 1; got {tile}.")
    self._n, self._tile, self._count = n, min(tile, n), 0
    self._device = jax.devices()[0]
    self._side = -(-n // self._tile)
    shape = (self._tile, self._tile)
    zeros = functools.partial(jnp.zeros, device=self._device)
    self._gram = {
      (i, j): zeros(shape, jnp.float32)
      for i in range(self._side)
      for j in range(i + 1)
    }
    with jax.enable_x64(True):
      self._product = [
        zeros((self._tile, num_targets), jnp.float64) for _ in range(self._side)
      ]

  def add(self, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Takes in masks `[r, n]` and values `[r, T]`, in float32.

    Returns the sums of the masks' columns.
    """
    if x.dtype != bool:
      raise TypeError(f"Tiles hold sums of masks; got {x.dtype}.")
    if self._count + len(x) > _MOST_ROWS:
      raise ValueError(
        f"Tiles count in float32, up to {_MOST_ROWS} rows; merge on the host."
      )
    self._count += len(x)
    put = functools.partial(jax.device_put, device=self._device)
    y = put(y.astype(np.float32))
    parts = [
      put(_padded(x[:, i * self._tile : (i + 1) * self._tile], self._tile))
      for i in range(self._side)
    ]
    for (i, j), tile in self._gram.items():
      self._gram[i, j] = _add_gram(tile, parts[i], parts[j])
    with jax.enable_x64(True):
      for i, part in enumerate(parts):
        self._product[i] = _add_product(self._product[i], part, y)
    return x.sum(axis=0, dtype=np.float64)

  def scale(self, ratio: np.ndarray) -> None:
    """Multiplies the products of each target by a number, `[T]`."""
    with jax.enable_x64(True):
      self._product = [part * ratio[None] for part in self._product]

  def merge(self, other: Any, ratio: np.ndarray, shift: np.ndarray) -> None:
    """Takes in the sums of another.

    `shift` `[n, T]` is added to products, its own times `ratio` `[T]`.
    """
    if self._tile != other._tile or self._count + other._count > _MOST_ROWS:
      raise ValueError("Tiles of another side, or too many rows, do not merge.")
    self._count += other._count
    for key, tile in other._gram.items():
      self._gram[key] = self._gram[key] + tile
    with jax.enable_x64(True):
      for i, part in enumerate(self._blocks(shift)):
        more = other._product[i] * ratio[None] + part
        self._product[i] = self._product[i] + more

  def product(self) -> np.ndarray:
    """float64 `[n, T]` on the host."""
    return np.concatenate([np.asarray(p) for p in self._product])[: self._n]

  def solve(
    self,
    columns: np.ndarray,
    count: int,
    loading: np.ndarray,
    right: np.ndarray,
    among: np.ndarray,
  ) -> np.ndarray | None:
    """Weights of the columns `among`; None where they are not unique."""
    with jax.enable_x64(True):
      # A column that is left out, or fills up a tile, is one of its own.
      live = self._blocks(among.astype(np.float64))
      means = self._blocks(np.where(among, columns, 0.0) / np.sqrt(count))
      ridge = self._blocks(np.where(among, loading, 1.0), 1.0)
      sides = self._blocks(np.where(among[:, None], right, 0.0))
      centred = functools.partial(_centred, dtype=jnp.float32)
      factor = {
        (i, j): centred(
          tile, live[i], live[j], means[i], means[j], ridge[i], i == j
        )
        for (i, j), tile in self._gram.items()
      }
    # A Cholesky factor in float32, tile by tile.
    for j in range(self._side):
      factor[j, j] = _cholesky(factor[j, j])
      for i in range(j + 1, self._side):
        factor[i, j] = _below(factor[j, j], factor[i, j])
      for i in range(j + 1, self._side):
        for k in range(j + 1, i + 1):
          factor[i, k] = _minus(factor[i, k], factor[i, j], factor[k, j])
    if not all(bool(_sound(factor[j, j])) for j in range(self._side)):
      return None

    def residual(weights):
      out = list(sides)
      for (i, j), tile in self._gram.items():
        part = _centred(
          tile, live[i], live[j], means[i], means[j], ridge[i], i == j,
          dtype=jnp.float64,
        )  # fmt: skip
        out[i] = out[i] - part @ weights[j]
        if i != j:
          out[j] = out[j] - part.T @ weights[i]
      return out

    # Refined in float64 until it settles.
    with jax.enable_x64(True):
      weights = [jnp.zeros_like(side) for side in sides]
      left = sides
      before = change = whole = np.inf
      for _ in range(_REFINEMENTS):
        step = self._substitute(factor, left)
        weights = [w + s for w, s in zip(weights, step)]
        change = max(float(jnp.abs(s).max()) for s in step)
        whole = max(float(jnp.abs(w).max()) for w in weights)
        if not np.isfinite(change) or change > before:
          return None  # Too close to singular for a factor in float32.
        if change <= _SETTLED * whole:
          break
        before = change
        left = residual(weights)
      else:
        if change > _CLOSE * whole:
          return None  # Still on its way.
      found = np.concatenate([np.asarray(w) for w in weights])[: self._n]
    return found[among]

  def _substitute(self, factor, right):
    """Forwards, then backwards, in float32; float64 out."""
    y = [part.astype(jnp.float32) for part in right]
    for j in range(self._side):
      y[j] = _forwards(factor[j, j], y[j])
      for i in range(j + 1, self._side):
        y[i] = y[i] - _times(factor[i, j], y[j])
    for j in reversed(range(self._side)):
      for i in range(j + 1, self._side):
        y[j] = y[j] - _times(factor[i, j].T, y[i])
      y[j] = _backwards(factor[j, j], y[j])
    return [part.astype(jnp.float64) for part in y]

  def _blocks(self, array: np.ndarray, fill: float = 0.0) -> list[jax.Array]:
    """Rows of a host array by tile, filled up, on the device."""
    spare = self._side * self._tile - self._n
    padding = ((0, spare),) + ((0, 0),) * (array.ndim - 1)
    whole = np.pad(array, padding, constant_values=fill)
    return [
      jax.device_put(part, self._device) for part in np.split(whole, self._side)
    ]


def _padded(x: np.ndarray, size: int) -> np.ndarray:
  return np.pad(x, ((0, 0), (0, size - x.shape[1])))


_EXACT = jax.lax.Precision.HIGHEST


@functools.partial(jax.jit, donate_argnums=0)
def _add_gram(tile, a, b):
  chex.assert_shape(tile, (a.shape[1], b.shape[1]))
  chex.assert_equal_shape_prefix([a, b], 1)
  # Zeros and ones are exact in any format that products may be taken in.
  return tile + a.astype(jnp.float32).T @ b.astype(jnp.float32)


@functools.partial(jax.jit, donate_argnums=0)
def _add_product(total, a, y):
  chex.assert_shape(total, (a.shape[1], y.shape[1]))
  chex.assert_equal_shape_prefix([a, y], 1)
  part = jnp.matmul(a.astype(jnp.float32).T, y, precision=_EXACT)
  return total + part.astype(jnp.float64)


@functools.partial(jax.jit, static_argnames=("dtype",))
def _centred(tile, live_a, live_b, mean_a, mean_b, ridge, diagonal, dtype):
  chex.assert_equal_shape([live_a, mean_a])
  chex.assert_equal_shape([live_b, mean_b])
  chex.assert_shape(tile, (*live_a.shape, *live_b.shape))
  kept = live_a[:, None] * live_b[None]
  whole = tile.astype(jnp.float64) * kept - mean_a[:, None] * mean_b[None]
  return (whole + diagonal * jnp.diag(ridge)).astype(dtype)


@functools.partial(jax.jit, donate_argnums=0)
def _cholesky(tile):
  chex.assert_shape(tile, (len(tile), len(tile)))
  return jnp.linalg.cholesky(tile, symmetrize_input=False)


@functools.partial(jax.jit, donate_argnums=1)
def _below(corner, tile):
  chex.assert_shape(corner, (tile.shape[1], tile.shape[1]))
  return jax.lax.linalg.triangular_solve(
    corner, tile, left_side=False, lower=True, transpose_a=True
  )


@functools.partial(jax.jit, donate_argnums=0)
def _minus(tile, a, b):
  chex.assert_shape(tile, (len(a), len(b)))
  return tile - jnp.matmul(a, b.T, precision=_EXACT)


@jax.jit
def _times(a, b):
  chex.assert_rank([a, b], 2)
  return jnp.matmul(a, b, precision=_EXACT)


@jax.jit
def _forwards(corner, right):
  chex.assert_shape(corner, (len(right), len(right)))
  return jax.lax.linalg.triangular_solve(
    corner, right, left_side=True, lower=True
  )


@jax.jit
def _backwards(corner, right):
  chex.assert_shape(corner, (len(right), len(right)))
  return jax.lax.linalg.triangular_solve(
    corner, right, left_side=True, lower=True, transpose_a=True
  )


@jax.jit
def _sound(corner):
  chex.assert_rank(corner, 2)
  return jnp.isfinite(corner).all()
