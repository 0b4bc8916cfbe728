"""Coefficients on a known support, refitted by penalised least squares.

All fits run on Gram matrices. The columns are characters, +-1, so a float32
Gram is exact (below 2^24 masks); one per fold, and everything else follows
from them: the training Gram is the total less the fold's, and a held-out
error is y'y - 2 c'q + c'G c. The arithmetic after that is float64, on the
host, on values that are centred and scaled, so that offsets and units of any
size change nothing.

Penalties, in the units of the standard deviation of the values:
  lasso   1/(2B) |y - X c|^2 + penalty |c|_1      "a coefficient below this
                                                   share of std(y) is cut"
  shrunk  the same, without the relaxed fits of the lasso below
  ridge   1/B |y - X c|^2 + penalty |c|^2         "shrunk by 1 / (1 + it)"
both from 1e-6 to 1, as in the SPEX paper (arXiv 2502.13870, section 4).
Deviations from it: each lasso support also competes with the plain least
squares on it (the relaxed lasso of Meinshausen 2007), and least squares on
all columns is a candidate of both, so that noiseless values are refitted
without shrinkage. The empty set is never penalised.

Weights of masks multiply their squares, here and held out: rows times their
roots. Such columns are not +-1, so that their sums are float64.

Shapes: n players, B masks, K sets, D the largest order, T targets, F folds.
"""

import contextlib
import functools
from collections.abc import Sequence
from typing import Literal, NamedTuple

import chex
import numpy as np

from spex_jax import base
from spex_jax.fourier import moments

Penalty = Literal["lasso", "shrunk", "ridge", "none"]

_LASSO = tuple(10.0 ** (-k / 2) for k in range(13))
_RIDGE = tuple(10.0**-k for k in range(7))
_ROWS = 4096  # Masks turned into characters at once.
_CELLS = 1 << 25  # Characters held at once for a Gram: 128 MB.
_SMALL = 1000  # Columns below which threads cost more than they bring.
_FOLDS = 5  # Of cross-validation; fewer masks leave out one each.
_TIE = 1e-14  # Held-out energy, as a share, below which rounding decides.


class Refit(NamedTuple):
  """What a refit found; with T targets each field has a leading T.

  Attributes:
    coefs: float64 `[K]`, in the units of the values and the order of the sets.
    score: R^2 on the held-out folds at the penalty chosen; 0 where least
      squares of least norm had to do, or one mask left nothing to hold out.
  """

  coefs: np.ndarray
  score: np.ndarray


@functools.cache
def _blas():
  import scipy.linalg  # Loads the libraries that the controller looks for.
  import threadpoolctl

  del scipy
  return threadpoolctl.ThreadpoolController()


def one_blas_thread() -> contextlib.AbstractContextManager[None]:
  """A context in which BLAS runs on one thread.

  The problems here are small; BLAS's threads spin against XLA's, and a
  Cholesky of 300 columns then took 0.4 s in place of 1 ms.
  """
  return _blas().limit(limits=1, user_api="blas")


def blas_threads(size: int) -> contextlib.AbstractContextManager[None]:
  """`one_blas_thread` for matrices of up to 1,000 columns; else a no-op."""
  if size <= _SMALL:
    return one_blas_thread()
  return contextlib.nullcontext()


def design(
  masks: base.Masks,
  players: base.Array,
  n: int | None = None,
  *,
  dtype: type = np.float32,
) -> np.ndarray:
  """Returns the characters of K sets at B masks, a host array.

  Args:
    masks: bool `[B, n]`.
    players: int `[K, D]` padded with n, as in `SparseFourier.players`.
    n: number of players; that of `masks` if None.
    dtype: the dtype of the result; +-1 is exact in any.

  Returns:
    `[B, K]` characters, +-1, row-major. Cost: K * D * B byte operations.

  Raises:
    ValueError: shapes that disagree, or players outside 0..n.
  """
  masks = base.check_masks(masks, n)
  num_masks, n = masks.shape
  players = np.asarray(players)
  if players.ndim != 2:
    raise ValueError(f"Players must be [K, D]; got shape {players.shape}.")
  if players.size and (players.min() < 0 or players.max() > n):
    raise ValueError(f"Players must lie in 0..{n - 1} (padding is {n}).")
  used, index = np.unique(players, return_inverse=True)
  index = index.reshape(players.shape)
  real = used < n
  out = np.empty((num_masks, len(players)), dtype)
  for start in range(0, num_masks, _ROWS):
    chunk = masks[start : start + _ROWS]
    bits = np.zeros((len(used), len(chunk)), np.uint8)  # Padding stays 0.
    bits[real] = chunk[:, used[real]].T
    parity = np.zeros((len(players), len(chunk)), np.uint8)
    for column in index.T:
      parity ^= bits[column]
    out[start : start + _ROWS] = 1 - 2 * parity.astype(np.int8).T
  return out


def refit(
  masks: base.Masks,
  values: base.Values,
  players: base.Array,
  *,
  penalty: Penalty = "lasso",
  penalties: Sequence[float] | None = None,
  weights: np.ndarray | None = None,
) -> Refit:
  """Fits the coefficients of K given sets to B values.

  Where a row of `players` is the empty set, a constant is fitted without
  penalty; without one the function fitted has mean 0. Sets that these masks
  cannot tell apart share their coefficient (least norm) under "none" and
  "ridge".

  Args:
    masks: bool `[B, n]`.
    values: `[B]` or `[B, T]`, finite, of any scale and offset. Targets share
      the Gram matrices and choose their penalties apart.
    players: int `[K, D]`, padded with n.
    penalty: "lasso", "shrunk", "ridge", or "none" for least squares, of
      least norm where there are fewer masks than sets.
    penalties: the grid, in standard deviations of the values (module header);
      None for 1e-6 to 1.
    weights: `[B]` of the masks, above 0 and of mean 1; None for equal ones.

  Returns:
    A `Refit`. The same input gives the same output.

  Raises:
    ValueError: an unknown penalty, a negative one, values that are not finite
      or do not match, or fewer than 3 masks under a penalty.
    TypeError: values that are not real numbers.
  """
  masks = base.check_masks(masks)
  players = np.asarray(players)
  design(masks[:0], players)  # Refuses bad players.
  constants = np.flatnonzero((players == masks.shape[1]).all(axis=1))[:1]
  order = np.concatenate(
    [constants, np.delete(np.arange(len(players)), constants)]
  )
  columns = lambda rows, dtype=np.float32: design(
    masks[rows], players[order], dtype=dtype
  )
  found = _refit(
    columns,
    len(masks),
    values,
    len(order),
    len(constants),
    penalty,
    penalties,
    weights,
  )
  return found._replace(coefs=found.coefs[..., np.argsort(order)])


def refit_columns(
  x: np.ndarray, values: base.Values, penalty: Penalty = "shrunk"
) -> Refit:
  """The same for columns `[B, K]` of numbers of variance about 1.

  Coefficients are `[1 + K]`, or `[T, 1 + K]`: a constant leads.
  """
  columns = lambda rows, dtype=np.float64: np.concatenate(
    [np.ones((len(rows), 1), dtype), x[rows]], axis=1
  )
  return _refit(columns, len(x), values, 1 + x.shape[1], 1, penalty, None)


def _refit(
  columns,
  num_masks,
  values,
  num_sets,
  free,
  penalty,
  penalties,
  weights=None,
):
  """By columns of given rows, of which the first `free` are constants."""
  if penalty not in ("lasso", "shrunk", "ridge", "none"):
    raise ValueError(
      f"penalty must be 'lasso', 'shrunk', 'ridge' or 'none'; got {penalty!r}."
    )
  grid = penalties
  if grid is None:
    grid = _RIDGE if penalty == "ridge" else _LASSO
  if any(not 0 <= p < np.inf for p in grid):
    raise ValueError(f"Penalties must be finite and at least 0; got {grid}.")
  y = base.check_values(values, num_masks)
  if penalty != "none" and num_masks < 3:
    raise ValueError(
      f"Cross-validation needs at least 3 masks; got {num_masks}. "
      "Use penalty='none'."
    )
  single = y.ndim == 1
  y, offset, scale = standardise(y.reshape(len(y), -1), free > 0, weights)
  if weights is not None:
    root, plain = np.sqrt(weights)[:, None], columns
    y = y * root
    columns = lambda rows, _=None: plain(rows, np.float64) * root[rows]
  parts = np.array_split(spread_order(num_masks), min(_FOLDS, num_masks) or 1)
  with one_blas_thread():
    folds = _sums_by_fold(columns, num_sets, y, parts)
    fits = _choose(folds, free, penalty, sorted(grid, reverse=True))
    if any(fit is None for fit in fits):
      least = np.linalg.lstsq(columns(np.arange(num_masks), np.float64), y)[0]
      fits = [
        (least[:, t], 0.0) if fit is None else fit for t, fit in enumerate(fits)
      ]
  coefs, score = map(np.asarray, zip(*fits))
  coefs *= scale[:, None]
  coefs[:, :free] += offset[:, None]
  return Refit(coefs[0], score[0]) if single else Refit(coefs, score)


class _Sums(NamedTuple):
  """Over some masks; constants, if there are, are the first columns."""

  gram: np.ndarray  # [K, K]
  product: np.ndarray  # [K, T]
  energy: np.ndarray  # [T]
  rows: np.ndarray  # [] int, how many

  def less(self, other: "_Sums") -> "_Sums":
    return _Sums(*(a - b for a, b in zip(self, other)))

  def centred(self, free: int) -> moments.Moments:
    """Of the columns behind `free` constants, one or none."""
    count = self.gram[0, 0]  # +-1 or 1: the masks' number, or weight.
    row, top = self.gram[:free, free:], self.product[:free]
    gram = self.gram[free:, free:] - row.T @ row / count
    product = self.product[free:] - row.T @ top / count
    energy = self.energy - (top**2).sum(axis=0) / count
    return moments.Moments(
      gram / count, product / count, energy / count, int(self.rows) - free
    )


def spread_order(num_masks: int) -> np.ndarray:
  """A fixed permutation by golden-ratio steps: no run of it follows a plan."""
  steps = np.arange(num_masks, dtype=np.uint64) * np.uint64(2654435769)
  return np.argsort(steps & np.uint64(0xFFFFFFFF), kind="stable")


def standardise(
  y: np.ndarray, centre: bool = True, weights: np.ndarray | None = None
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
  """Returns y `[B, T]` of mean 0 and deviation 1, and what undoes it: `[T]`s.

  y = unit * deviation + mean; the unit values of a function that is constant
  to rounding are 0, and its deviation 1. Without `centre` the mean is left in,
  and 0 returned. With `weights` `[B]` both are weighted means.
  """
  chex.assert_rank(y, 2)
  flat = base.is_constant(y) if centre else ~y.any(axis=0)
  start = base.origin(y) * centre
  y = y - start
  largest = np.abs(y).max(axis=0)
  largest = np.where(largest > 0, largest, 1.0)
  y = y / largest  # First, so that no sum or square overflows.
  mean = _mean(y, weights) * centre
  y = y - mean
  deviation = np.sqrt(_mean(y**2, weights))
  y = np.where(flat, 0.0, y)
  deviation = np.where(flat, 1.0, deviation)
  return y / deviation, start + mean * largest, deviation * largest


def _mean(y, weights):
  """`[T]` of `[B, T]`."""
  if weights is None:
    return y.mean(axis=0)
  return (weights / weights.sum()) @ y


def _sums_by_fold(columns, num_sets, y, parts) -> list[_Sums]:
  size = max(_ROWS, _CELLS // max(1, num_sets))
  out = []
  for part in parts:
    sums = _Sums(
      np.zeros((num_sets, num_sets)),
      np.zeros((num_sets, y.shape[1])),
      np.zeros(y.shape[1]),
      np.asarray(len(part)),
    )
    for start in range(0, len(part), size):
      rows = part[start : start + size]
      chunk = columns(rows)
      sums.gram[:] += chunk.T @ chunk
      sums.product[:] += chunk.T.astype(np.float64) @ y[rows]
      sums.energy[:] += (y[rows] ** 2).sum(axis=0)
    out.append(sums)
  return out


def _choose(folds: list[_Sums], free, penalty, grid):
  """Returns (coefs, score) of each target; None where only an SVD will do."""
  total = _Sums(*(np.sum(parts, axis=0) for parts in zip(*folds)))
  num_sets, num_targets = total.product.shape
  out: list = [None] * num_targets
  live = []
  for t, energy in enumerate(total.energy):
    if num_sets == 0 or energy == 0:
      out[t] = np.zeros(num_sets), float(energy == 0)
    else:
      live.append(t)
  coefs, errors = {}, {}
  for t, found in _candidates(total, free, penalty, grid, live):
    coefs[t] = found
    errors[t] = np.where(np.isfinite(found).all(axis=1), 0.0, np.inf)
  live = [t for t in live if np.isfinite(errors[t]).any()]
  for fold in folds if len(folds) > 1 else []:
    rest = total.less(fold)
    for t, c in _candidates(rest, free, penalty, grid, live):
      error = fold.energy[t] - 2 * c @ fold.product[:, t]
      error += ((c @ fold.gram) * c).sum(axis=1)
      errors[t] += np.where(np.isfinite(error), np.maximum(error, 0), np.inf)
  for t in live:
    if len(folds) < 2 or not np.isfinite(errors[t].min()):
      usable = np.isfinite(coefs[t]).all(axis=1)
      best, score = int(np.argmax(usable)), 0.0
    else:
      # The first within rounding of the best: candidates run sparse to dense.
      close = errors[t] <= errors[t].min() + _TIE * total.energy[t]
      best = int(np.argmax(close))
      score = float(1 - errors[t][best] / total.energy[t])
    out[t] = coefs[t][best], score
  return out


def _candidates(sums, free, penalty, grid, live):
  """Fits every candidate to the sums of each live target.

  Yields:
    t and coefficients `[C, K]`, of the same C candidates for every fold; NaN
    where the least squares of a candidate are not unique.
  """
  if not live:
    return
  row, top = sums.gram[:free, free:], sums.product[:free]
  whole, count = sums.centred(free), sums.gram[0, 0]
  loadings = [p for p in grid if p > 0] if penalty == "ridge" else []
  plain = [whole.ridge(p) for p in (*loadings, 0.0)]
  for t in live:
    fits = []
    if penalty in ("lasso", "shrunk"):
      fits = _lassos(whole.target(t), penalty, grid, sums.rows)
    fits = np.array([*fits, *(each[:, t] for each in plain)])
    constants = (top[:, t] - fits @ row.T) / count
    yield t, np.concatenate([constants, fits], axis=1)


def _lassos(sums, penalty, grid, rows):
  fits, last, relaxed = [], None, None
  for path in sums.lasso(grid, rows / 2):
    if penalty == "lasso":
      active = path != 0  # NaN counts as active, so that nothing is solved.
      if 2 * active.sum() > len(path) or not np.isfinite(path).all():
        # Near-full supports cost most and gain nothing on least squares.
        relaxed = np.full(len(path), np.nan)
      elif last is None or (active != last).any():
        relaxed = sums.least_squares(active)
      last = active
      fits.append(relaxed)
    fits.append(path)
  return fits
