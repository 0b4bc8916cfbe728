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

Shapes: n players, B masks, K sets, D the largest order, T targets, F folds.
"""

import contextlib
import functools
import warnings
from collections.abc import Sequence
from typing import Literal, NamedTuple

import chex
import jax
import numpy as np

from spex_jax import base

Penalty = Literal["lasso", "shrunk", "ridge", "none"]

_LASSO = tuple(10.0 ** (-k / 2) for k in range(13))
_RIDGE = tuple(10.0**-k for k in range(7))
_ROWS = 4096  # Masks turned into characters at once.
_CELLS = 1 << 25  # Characters held at once for a Gram: 128 MB.
_SMALL = 1000  # Columns below which threads cost more than they bring.
_TIE = 1e-14  # Held-out energy, as a share, below which rounding decides.


class Refit(NamedTuple):
  """What a refit found; with T targets each field has a leading T.

  Attributes:
    coefs: float64 `[K]`, in the units of the values and the order of the sets.
    penalty: the penalty chosen, 0 for least squares.
    score: R^2 on the held-out folds at that choice; 0 where least squares of
      least norm had to do, or one mask left nothing to hold out.
    fit: "lasso", "relaxed" (least squares on the lasso's support), "ridge" or
      "none" (least squares on all sets).
  """

  coefs: np.ndarray
  penalty: np.ndarray
  score: np.ndarray
  fit: np.ndarray


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
    dtype: the result's. +-1 is exact in any.

  Returns:
    `[B, K]` of +-1, row-major. Cost: K * D * B byte operations.

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
  n: int | None = None,
  *,
  penalty: Penalty = "lasso",
  penalties: Sequence[float] | None = None,
  folds: int = 5,
  key: base.Key | None = None,
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
    n: number of players; that of `masks` if None.
    penalty: "lasso", "shrunk", "ridge", or "none" for least squares, of
      least norm where there are fewer masks than sets.
    penalties: the grid, in standard deviations of the values (module header);
      None for 1e-6 to 1.
    folds: cross-validation folds; fewer masks than folds leave out one each.
    key: shuffles the folds. None: fixed folds, spread by a Weyl sequence.

  Returns:
    A `Refit`. The same input gives the same output.

  Raises:
    ValueError: an unknown penalty, a negative one, fewer than 2 folds, values
      that are not finite or do not match, or fewer than 3 masks under a
      penalty.
    TypeError: values that are not real numbers.
  """
  if penalty not in ("lasso", "shrunk", "ridge", "none"):
    raise ValueError(
      f"penalty must be 'lasso', 'shrunk', 'ridge' or 'none'; got {penalty!r}."
    )
  grid = penalties
  if grid is None:
    grid = _RIDGE if penalty == "ridge" else _LASSO
  if any(not 0 <= p < np.inf for p in grid):
    raise ValueError(f"Penalties must be finite and at least 0; got {grid}.")
  if folds < 2:
    raise ValueError(f"Need at least 2 folds; got {folds}.")
  masks = base.check_masks(masks, n)
  y = base.check_values(values, len(masks))
  if penalty != "none" and len(masks) < 3:
    raise ValueError(
      f"Cross-validation needs at least 3 masks; got {len(masks)}. "
      "Use penalty='none'."
    )
  single = y.ndim == 1
  players = np.asarray(players)
  design(masks[:0], players)  # Refuses bad players.
  constants = np.flatnonzero((players == masks.shape[1]).all(axis=1))
  constant = int(constants[0]) if len(constants) else None
  y, offset, scale = standardise(y.reshape(len(y), -1), constant is not None)
  with one_blas_thread():
    parts = _split(len(masks), folds, key)
    problem = _Problem(*_gram_by_fold(masks, players, y, parts), constant)
    fits = _choose(problem, penalty, sorted(grid, reverse=True))
    if any(fit is None for fit in fits):
      x = design(masks, players, dtype=np.float64)
      least = np.linalg.lstsq(x, y)[0]
      fits = [
        (least[:, t], 0.0, 0.0, "none") if fit is None else fit
        for t, fit in enumerate(fits)
      ]
  for t, fit in enumerate(fits):
    fits[t] = coefs, *_ = fit[0] * scale[t], *fit[1:]
    if constant is not None:
      coefs[constant] += offset[t]
  coefs, chosen, score, fit = map(np.asarray, zip(*fits))
  if single:
    return Refit(coefs[0], chosen[0], score[0], fit[0])
  return Refit(coefs, chosen, score, fit)


class _Problem(NamedTuple):
  """The sums by fold; index -1 of each is the total."""

  grams: np.ndarray  # [F + 1, K, K]
  products: np.ndarray  # [F + 1, K, T]
  energies: np.ndarray  # [F + 1, T]
  constant: int | None


class _Centred:
  """One Gram matrix without the constant, a mean over masks; for all targets.

  What depends on the columns alone is worked out once, when first needed.
  """

  def __init__(self, gram: np.ndarray, constant: int | None):
    self.count = gram[0, 0]  # +-1 columns: the masks' number.
    self.constant = constant
    self.rest = np.arange(len(gram))
    self.row = np.zeros(len(gram))
    if constant is not None:
      self.rest = np.delete(self.rest, constant)
      self.row = gram[constant]
      inner = np.delete(np.delete(gram, constant, 0), constant, 1)
      row = self.row[self.rest]
      self.gram = (inner - np.outer(row, row) / self.count) / self.count
    else:
      self.gram = gram / self.count
    self._factors: dict[float, tuple | None] = {}

  def rank(self) -> int:
    """The most columns that may be independent at so many masks."""
    return int(self.count) - (self.constant is not None)

  def solve(self, product: np.ndarray, loading: float) -> np.ndarray:
    """Ridge on all columns, or least squares: NaN where it is not unique."""
    if loading not in self._factors:
      loaded = self.gram + loading * np.eye(len(self.gram))
      unique = loading > 0 or len(loaded) <= self.rank()
      self._factors[loading] = _factor(loaded) if unique else None
    factor = self._factors[loading]
    return _solve(self.gram, factor, product, loading)


def spread_order(num_masks: int) -> np.ndarray:
  """A fixed permutation by golden-ratio steps: no run of it follows a plan."""
  steps = np.arange(num_masks, dtype=np.uint64) * np.uint64(2654435769)
  return np.argsort(steps & np.uint64(0xFFFFFFFF), kind="stable")


def _split(num_masks, folds, key):
  """Returns index arrays of near-equal folds that partition the masks."""
  if key is not None:
    order = np.asarray(jax.random.permutation(key, num_masks))
  else:
    order = spread_order(num_masks)
  return np.array_split(order, max(1, min(folds, num_masks)))


def standardise(
  y: np.ndarray, centre: bool = True
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
  """Returns y `[B, T]` of mean 0 and deviation 1, and what undoes it: `[T]`s.

  y = unit * deviation + mean; the unit values of a function that is constant
  to rounding are 0, and its deviation 1. Without `centre` the mean is left in,
  and 0 returned.
  """
  chex.assert_rank(y, 2)
  flat = base.is_constant(y) if centre else ~y.any(axis=0)
  start = base.origin(y) * centre
  y = y - start
  largest = np.abs(y).max(axis=0)
  largest = np.where(largest > 0, largest, 1.0)
  y = y / largest  # First, so that no sum or square overflows.
  mean = y.mean(axis=0) * centre
  y = y - mean
  deviation = np.sqrt((y**2).mean(axis=0))
  y = np.where(flat, 0.0, y)
  deviation = np.where(flat, 1.0, deviation)
  return y / deviation, start + mean * largest, deviation * largest


def _gram_by_fold(masks, players, y, parts):
  num_sets, num_targets = len(players), y.shape[1]
  grams = np.zeros((len(parts) + 1, num_sets, num_sets))
  products = np.zeros((len(parts) + 1, num_sets, num_targets))
  energies = np.zeros((len(parts) + 1, num_targets))
  size = max(_ROWS, _CELLS // max(1, num_sets))
  for f, part in enumerate(parts):
    for start in range(0, len(part), size):
      rows = part[start : start + size]
      chunk = design(masks[rows], players)
      grams[f] += chunk.T @ chunk
      products[f] += chunk.T.astype(np.float64) @ y[rows]
      energies[f] += (y[rows] ** 2).sum(axis=0)
  for sums in (grams, products, energies):
    sums[-1] = sums[:-1].sum(axis=0)
  return grams, products, energies


def _choose(problem, penalty, grid):
  """Returns (coefs, penalty, score, fit) of each target.

  Or None where only an SVD will do.
  """
  num_targets = problem.energies.shape[1]
  out: list = [None] * num_targets
  live = []
  for t, energy in enumerate(problem.energies[-1]):
    if problem.grams.shape[1] == 0 or energy == 0:
      zeros = np.zeros(problem.grams.shape[1])
      out[t] = zeros, 0.0, float(energy == 0), "none"
    else:
      live.append(t)
  if not live:
    return out
  gram, product, energy = (sums[-1] for sums in problem[:3])
  names, coefs, errors = [], {}, {}
  centred = _Centred(gram, problem.constant)
  for t in live:
    names, coefs[t] = _candidates(
      centred, product[:, t], energy[t], penalty, grid
    )
    errors[t] = np.where(np.isfinite(coefs[t]).all(axis=1), 0.0, np.inf)
  live = [t for t in live if np.isfinite(errors[t]).any()]
  num_folds = len(problem.grams) - 1
  for f in range(num_folds if num_folds > 1 else 0):
    centred = _Centred(gram - problem.grams[f], problem.constant)
    for t in live:
      left = problem.products[f, :, t]
      _, c = _candidates(
        centred,
        product[:, t] - left,
        energy[t] - problem.energies[f, t],
        penalty,
        grid,
      )
      error = problem.energies[f, t] - 2 * c @ left
      error += ((c @ problem.grams[f]) * c).sum(axis=1)
      errors[t] += np.where(np.isfinite(error), np.maximum(error, 0), np.inf)
  for t in live:
    if num_folds < 2 or not np.isfinite(errors[t].min()):
      usable = np.isfinite(coefs[t]).all(axis=1)
      best, score = int(np.argmax(usable)), 0.0
    else:
      # The first within rounding of the best: candidates run sparse to dense.
      close = errors[t] <= errors[t].min() + _TIE * energy[t]
      best = int(np.argmax(close))
      score = float(1 - errors[t][best] / energy[t])
    fit, chosen = names[best]
    out[t] = coefs[t][best], chosen, score, fit
  return out


def _candidates(centred, product, energy, penalty, grid):
  """Fits every candidate to one target's sums.

  Returns:
    A list of (fit, penalty), the same for every fold, and coefficients
    `[C, K]`; NaN where the least squares of a candidate are not unique.
  """
  gram, rest, count = centred.gram, centred.rest, centred.count
  intercept = 0.0
  if centred.constant is not None:
    intercept = product[centred.constant]
    energy = energy - intercept**2 / count
  product = (product - intercept / count * centred.row)[rest] / count
  names, fits = [], []
  if penalty in ("lasso", "shrunk"):
    paths = lasso_path(gram, product, energy / count, grid, count / 2)
    last, relaxed = None, None
    for p, path in zip(grid, paths):
      if penalty == "shrunk":
        names.append(("lasso", p))
        fits.append(path)
        continue
      names += [("relaxed", p), ("lasso", p)]
      active = path != 0  # NaN counts as active, so that nothing is solved.
      if 2 * active.sum() > len(rest) or not np.isfinite(path).all():
        # Near-full supports cost most and gain nothing on least squares.
        relaxed = np.full(len(rest), np.nan)
      elif last is None or (active != last).any():
        relaxed = _least_squares(gram, product, active, centred.rank())
      last = active
      fits += [relaxed, path]
  elif penalty == "ridge":
    names += [("ridge", p) for p in grid if p > 0]
    fits += [centred.solve(product, p) for p in grid if p > 0]
  names.append(("none", 0.0))
  fits.append(centred.solve(product, 0.0))
  coefs = np.zeros((len(fits), len(centred.row)))
  coefs[:, rest] = fits
  if centred.constant is not None:
    known = coefs[:, rest] @ centred.row[rest]
    coefs[:, centred.constant] = (intercept - known) / count
  return names, coefs


def lasso_path(
  gram: np.ndarray,
  product: np.ndarray,
  energy: float,
  grid: Sequence[float],
  most: float,
  tolerance: float = 1e-6,
) -> np.ndarray:
  """Coordinate descent on the Gram, warm along P falling penalties: `[P, K]`.

  Sums are means over masks, of centred columns: `gram` `[K, K]`, `product`
  `[K]`, `energy` that of the values. Once a fit has more than `most` sets,
  smaller penalties only fit noise, ever more slowly: they are left NaN. The
  tolerance is of the duality gap, a share of the energy.
  """
  from sklearn import exceptions, linear_model

  out = np.zeros((len(grid), len(gram)))
  if len(gram) == 0 or energy <= 0:
    return out
  gram = np.ascontiguousarray(gram)
  # With the Gram given, `X` and `y` serve only for their number of rows (1:
  # the sums are means already) and for |y|^2 in the stopping rule.
  rows, target = np.zeros((1, len(gram)), order="F"), np.sqrt([energy])
  coefs = out[0]
  with warnings.catch_warnings():
    # A fit that has not converged is judged by its error, like any other.
    warnings.simplefilter("ignore", exceptions.ConvergenceWarning)
    for i, alpha in enumerate(grid):
      if np.count_nonzero(coefs) > most:
        out[i:] = np.nan
        break
      path = linear_model.lasso_path(
        rows,
        target,
        alphas=[max(alpha, 1e-12)],
        coef_init=coefs.copy(),
        precompute=gram,
        Xy=product,
        check_input=False,
        tol=tolerance,
        random_state=0,  # Without, NumPy's global generator moves.
      )[1]
      coefs = out[i] = path[:, 0]
  return out


def _least_squares(gram, product, active, rank):
  """Least squares on the active columns, or NaN where it is not unique."""
  out = np.zeros(len(gram))
  if active.any():
    sub = gram[np.ix_(active, active)]
    factor = _factor(sub) if len(sub) <= rank else None
    out[active] = _solve(sub, factor, product[active], 0.0)
    if np.isnan(out).any():
      out[:] = np.nan
  return out


def _factor(gram):
  """The Cholesky factor, or None where columns depend on each other."""
  from scipy import linalg

  if not len(gram):
    return gram, True
  try:
    factor = linalg.cho_factor(gram, lower=True)
  except linalg.LinAlgError:
    return None
  # The diagonal of the Gram is near 1: a pivot this small is no column.
  return None if np.diag(factor[0]).min() < 1e-5 else factor


def _solve(gram, factor, product, loading):
  from scipy import linalg

  if factor is None:
    return np.full(len(gram), np.nan)
  if not len(gram):
    return np.zeros(0)
  solution = np.asarray(linalg.cho_solve(factor, product))
  left = product - gram @ solution - loading * solution
  return solution + np.asarray(linalg.cho_solve(factor, left))
