"""Least squares on any number of rows: exact normal equations, in streams.

Rows come in chunks and are not kept; their sums are, and merge:

  gram     sum x x'    exact for masks: chunks of float32 hold whole numbers
                       below 2^24, and the total is float64 (or such a number)
  product  sum x (y - o)  by chunks, in float32 for float32 values, else in
                       float64; the total is float64. The origin o is the mean
                       of the first rows, so that an offset costs no digits
  and sums of x, of y - o and of its squares, float64

Values are summed over a power of two of each target's own, which rises with the
largest of them: nothing is rounded, and no square overflows or vanishes.

From them follow, for all targets at once, the least squares and ridge fits with
an intercept, which is not penalised: centred sums, a Cholesky factor. The
loading is in the units of a column's variance: `(cov + loading) w = cov_y`.

On the host (BLAS and LAPACK; twice as fast there as XLA's products, which do
not know that a Gram matrix is symmetric) the Gram matrix takes 8 n^2 bytes and
a factor the same. On an accelerator it lies in tiles: see `tiles`.

Shapes: n columns, B rows so far, T targets.
"""

from collections.abc import Sequence
from typing import Any

import chex
import numpy as np

from spex_jax import base
from spex_jax.fourier import moments, regress, tiles

_CELLS = 1 << 25  # Of x held at once as floats: 128 MB.
_MOST_ROWS = 1 << 16
EVERY = 5  # One row in so many is held out to choose by, ...
_MOST_HELD = 4096  # ... but no more than these.


class Normal:
  """The sums of a least squares problem; see the module's header.

  Attributes:
    n: columns.
    num_targets: T.
    count: B.
    columns: float64 `[n]` sums of x.
    exponents: int `[T]`; y, here below, stands for values over 2^exponents.
    sums: float64 `[T]` of y less `origin`; `squares` of their squares.
    origin: float64 `[T]`.
  """

  def __init__(
    self,
    n: int,
    num_targets: int,
    *,
    tile: int | None = None,
  ):
    """No rows yet.

    Args:
      n: columns, at least 1.
      num_targets: T, at least 1.
      tile: side of the tiles on JAX's default device; None for the host.
    """
    if n < 1 or num_targets < 1:
      raise ValueError(f"Need n >= 1 and T >= 1; got {n}, {num_targets}.")
    self.n, self.num_targets, self.count = n, num_targets, 0
    self.columns = np.zeros(n)
    self.exponents = exponents_of(np.zeros((1, num_targets)))
    self.origin = np.zeros(num_targets)
    self.sums, self.squares = np.zeros(num_targets), np.zeros(num_targets)
    self._sums: _Host | tiles.Tiles = _Host(n, num_targets)
    if tile is not None:
      self._sums = tiles.Tiles(n, num_targets, tile)

  def add(self, x: base.Array, y: base.Array) -> "Normal":
    """Takes rows in; returns itself.

    Args:
      x: bool masks, or floats, `[b, n]`.
      y: `[b, T]`, finite, float32 or float64.

    Raises:
      ValueError: shapes that do not fit, or NaN and infinity.
    """
    x, y = np.asarray(x), np.asarray(y)
    if x.shape != (len(y), self.n) or y.shape[1:] != (self.num_targets,):
      raise ValueError(
        f"Need x [b, {self.n}] and y [b, {self.num_targets}]; got {x.shape} "
        f"and {y.shape}."
      )
    if y.dtype != np.float32:
      y = y.astype(np.float64)
    size = max(1024, min(_MOST_ROWS, _CELLS // self.n))
    for start in range(0, len(x), size):
      rows = slice(start, start + size)
      self._add(x[rows], y[rows])
    return self

  def _add(self, x, y):
    finite = np.isfinite(y).all(axis=0)
    if not finite.all():
      raise ValueError(
        f"The values of targets {np.flatnonzero(~finite)[:5]} hold NaN or "
        "infinity."
      )
    self._raise_to(exponents_of(y))
    y = np.ldexp(y, -self.exponents)
    if not self.count:
      # To float32, so that subtracting it leaves float32 values such.
      self.origin = y.mean(axis=0, dtype=np.float64).astype(np.float32)
      self.origin = self.origin.astype(np.float64)
    y = y - self.origin.astype(y.dtype)
    self.count += len(x)
    self.sums += y.sum(axis=0, dtype=np.float64)
    self.squares += np.einsum("bt,bt->t", y, y, dtype=np.float64)
    self.columns += self._sums.add(x, y)

  def _raise_to(self, exponents):
    """Exponents of at least so much; what was summed follows."""
    exponents = np.maximum(self.exponents, exponents)
    if self.count and (exponents > self.exponents).any():
      ratio = np.ldexp(1.0, self.exponents - exponents)
      self.origin, self.sums = ratio * self.origin, ratio * self.sums
      self.squares = ratio**2 * self.squares
      self._sums.scale(ratio)
    self.exponents = exponents

  def merge(self, other: "Normal") -> "Normal":
    """Takes in the rows of another, made alike; returns itself.

    Raises:
      ValueError: other columns or targets, or sums that lie elsewhere.
    """
    if (other.n, other.num_targets) != (self.n, self.num_targets):
      raise ValueError(
        f"Sums of {self.n} columns and {self.num_targets} targets cannot take "
        f"in those of {other.n} and {other.num_targets}."
      )
    if type(other._sums) is not type(self._sums):
      raise ValueError("Sums in tiles and sums on the host do not merge.")
    self._raise_to(other.exponents)
    ratio = np.ldexp(1.0, other.exponents - self.exponents)
    if not self.count:
      self.origin = ratio * other.origin
    sums, shift = ratio * other.sums, ratio * other.origin - self.origin
    self._sums.merge(other._sums, ratio, np.outer(other.columns, shift))
    self.squares += (
      ratio**2 * other.squares + 2 * shift * sums + other.count * shift**2
    )
    self.sums += sums + other.count * shift
    self.columns += other.columns
    self.count += other.count
    return self

  @property
  def varies(self) -> np.ndarray:
    """Which columns of masks are neither all 0 nor all 1: bool `[n]`."""
    return (self.columns > 0) & (self.columns < self.count)

  def solve(
    self, loading: float | base.Array = 0.0, among: np.ndarray | None = None
  ) -> np.ndarray | None:
    """Weights float64 `[n, T]`; None where least squares is not unique.

    Args:
      loading: a number of at least 0, for all columns or `[n]` of them.
      among: bool `[n]`, the columns with a weight; others have 0. All if None.

    Raises:
      ValueError: no rows, or a loading that is negative or not finite.
    """
    loading = np.broadcast_to(np.asarray(loading, np.float64), (self.n,))
    if not (np.isfinite(loading).all() and (loading >= 0).all()):
      raise ValueError("A loading must be finite and at least 0.")
    if not self.count:
      raise ValueError("No rows were added: nothing can be fitted.")
    among = np.ones(self.n, bool) if among is None else among
    out = np.zeros((self.n, self.num_targets))
    if (loading[among] == 0).all() and self.count - 1 < among.sum():
      return None
    if among.any():
      found = self._sums.solve(
        self.columns, self.count, loading * self.count, self._right(), among
      )
      if found is None:
        return None
      out[among] = np.ldexp(found, self.exponents)
    return out

  def solve_each(
    self,
    loadings: Sequence[Any] | np.ndarray,
    chosen: np.ndarray,
    among: np.ndarray | None = None,
  ) -> np.ndarray:
    """Weights float64 `[n, T]`, each target's at a loading of its own.

    Args:
      loadings: candidates, each as `solve` takes them.
      chosen: int `[T]`, the index of each target's candidate.
      among: the columns with a weight, as in `solve`.

    Raises:
      ValueError: a loading at which the fit is not unique, or as `solve`.
    """
    chex.assert_shape(chosen, (self.num_targets,))
    out = np.zeros((self.n, self.num_targets))
    for number in np.unique(chosen):
      found = self.solve(loadings[number], among)
      if found is None:
        raise ValueError(
          f"{self.count} rows of {self.n} columns have no single fit at a "
          f"loading of {np.max(loadings[number]):.3g}: give a larger one."
        )
      if (chosen == number).all():
        return found
      out[:, chosen == number] = found[:, chosen == number]
    return out

  def intercept(self, weights: np.ndarray) -> np.ndarray:
    """The constant `[T]` that goes with weights `[n, T]`."""
    chex.assert_shape(weights, (self.n, self.num_targets))
    mean = np.ldexp(self.origin + self.sums / self.count, self.exponents)
    return mean - self.columns / self.count @ weights

  def errors(self, weights: np.ndarray, among: np.ndarray) -> np.ndarray | None:
    """Standard errors `[n, T]` of `weights`, the last fit without a loading.

    Of errors that are independent and of one size for each target; 0 for
    columns that are not `among`. None where as many are unknown as rows, and
    for tiles, whose inverse is not formed. Fits that leave less than 1e-14 of
    the energy leave rounding.

    Raises:
      ValueError: the last solution had a loading, or rows came since.
    """
    free = self.count - 1 - int(among.sum())
    if free < 1 or not isinstance(self._sums, _Host):
      return None
    energy = self.squares - self.sums**2 / self.count
    weights = np.ldexp(weights, -self.exponents)
    left = energy - np.einsum("nt,nt->t", weights, self._right())
    left = np.maximum(left, 0.0) / free
    out = np.zeros((self.n, self.num_targets))
    if among.any():
      if not self._sums.has_factor:
        raise ValueError("Errors are those of the last fit without a loading.")
      inverse = self._sums.inverse_diagonal()
      out[among] = np.ldexp(np.sqrt(np.outer(inverse, left)), self.exponents)
    return out

  def _right(self) -> np.ndarray:
    """Centred sums of x and y, `[n, T]`."""
    mean = self.sums / self.count
    return self._sums.product() - np.outer(self.columns, mean)


class _Host:
  """Gram matrix and products in NumPy."""

  def __init__(self, n: int, num_targets: int):
    self._gram = np.zeros((n, n))
    self._product = np.zeros((n, num_targets))
    # Of the last solution without a loading, for its errors.
    self._factor: np.ndarray | None = None

  def add(self, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Takes rows in; returns the sums of their columns."""
    self._factor = None
    with regress.blas_threads(self._gram.shape[0]):
      # Masks in float32 are exact; measurements are not.
      wide = x.astype(np.float32 if x.dtype == bool else np.float64)
      self._gram += wide.T @ wide  # BLAS knows it as symmetric.
      self._product += wide.astype(y.dtype, copy=False).T @ y
      return np.ones(len(wide), wide.dtype) @ wide

  def scale(self, ratio: np.ndarray) -> None:
    self._product *= ratio

  def merge(self, other: Any, ratio: np.ndarray, shift: np.ndarray) -> None:
    self._factor = None
    self._gram += other._gram
    self._product += ratio * other._product + shift

  def product(self) -> np.ndarray:
    return self._product

  @property
  def has_factor(self) -> bool:
    return self._factor is not None

  def _centred(self, columns, count, among):
    if among.all():
      gram = self._gram
    else:
      gram, columns = self._gram[np.ix_(among, among)], columns[among]
    centred = np.outer(columns, columns / -count)
    centred += gram
    return centred

  def solve(
    self,
    columns: np.ndarray,
    count: int,
    loading: np.ndarray,
    right: np.ndarray,
    among: np.ndarray,
  ) -> np.ndarray | None:
    """Weights of the columns `among`."""
    from scipy import linalg

    self._factor = None
    gram = self._centred(columns, count, among)
    with regress.blas_threads(len(gram)):
      # In LAPACK's order of columns, so that nothing is copied.
      factor = moments.factor(gram.T, loading[among])
      if factor is None:
        return None
      if not loading[among].any():
        self._factor = factor[0]
      if not among.all():
        right = right[among]
      return np.asarray(linalg.cho_solve(factor, right, check_finite=False))

  def inverse_diagonal(self) -> np.ndarray:
    """The diagonal of the inverse of the centred Gram matrix last solved."""
    from scipy import linalg

    assert self._factor is not None
    lapack: Any = linalg.lapack
    with regress.blas_threads(len(self._factor)):
      inverse, _ = lapack.dtrtri(self._factor, lower=1)
    return (np.tril(inverse) ** 2).sum(axis=0)


def exponents_of(values: np.ndarray) -> np.ndarray:
  """int `[T]`: the powers of two just above all |values| `[B, T]`.

  To scale by where values come in parts: no digit is rounded. -1,100, below
  that of any number, where all are 0.
  """
  largest = np.maximum(values.max(axis=0), -values.min(axis=0))
  return np.where(largest > 0, np.frexp(largest)[1], -1100)


def held_out(count: int, before: int = 0, held: int = 0) -> np.ndarray:
  """Which of `count` further rows choose penalties: bool `[count]`.

  Every fifth, and no more than 4,096 in all.

  Args:
    count: the number of further rows.
    before: the number of rows in front of them.
    held: how many rows of those in front were held out.
  """
  apart = (before + np.arange(count)) % EVERY == EVERY - 1
  return apart & (held + np.cumsum(apart) <= _MOST_HELD)


def choose(
  sums: Normal,
  held_out: tuple[base.Array, base.Array],
  loadings: Sequence[Any] | np.ndarray,
  among: np.ndarray | None = None,
) -> tuple[np.ndarray, np.ndarray]:
  """The loading that predicts held-out rows best, for each target.

  Args:
    sums: the sums of the rows to fit.
    held_out: x `[b, n]` and y `[b, T]`, not among them.
    loadings: candidates, each as `Normal.solve` takes them.
    among: the columns with a weight, as in `Normal.solve`.

  Returns:
    int `[T]`, the index of the best of `loadings` (the first of equal ones),
    and float64 `[T]`, the root of its mean squared error.

  Raises:
    ValueError: no candidate has a unique solution.
  """
  x, y = held_out
  y = np.asarray(y, np.float64)
  exponents = np.maximum(sums.exponents, exponents_of(y))
  errors = np.full((len(loadings), sums.num_targets), np.inf)
  for number, loading in enumerate(loadings):
    weights = sums.solve(loading, among)
    if weights is not None:
      guess = sums.intercept(weights) + _product(x, weights)
      left = np.ldexp(y - guess, -exponents)
      errors[number] = (left**2).mean(axis=0)
  if not np.isfinite(errors).any(axis=0).all():
    raise ValueError("No loading gave a unique fit; add a positive one.")
  least = np.ldexp(np.sqrt(errors.min(axis=0)), exponents)
  return errors.argmin(axis=0), least


def _product(x: base.Array, weights: np.ndarray) -> np.ndarray:
  """`x @ weights`, masks in parts."""
  size = max(256, _CELLS // 4 // x.shape[1])
  return np.concatenate(
    [
      np.asarray(x[start : start + size], np.float64) @ weights
      for start in range(0, len(x), size)
    ]
  )
