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

import jax
import numpy as np

from spex_jax import base

Penalty = Literal["lasso", "ridge", "none"]

_LASSO = tuple(10.0 ** (-k / 2) for k in range(13))
_RIDGE = tuple(10.0**-k for k in range(7))
_ROWS = 4096  # Masks turned into characters at once.
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
    dtype: of the result. +-1 is exact in any.

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
    penalty: "lasso", "ridge", or "none" for least squares, of least norm
      where there are fewer masks than sets.
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
  if penalty not in ("lasso", "ridge", "none"):
    raise ValueError(
      f"penalty must be 'lasso', 'ridge' or 'none'; got {penalty!r}."
    )
  grid = penalties
  if grid is None:
    grid = _LASSO if penalty == "lasso" else _RIDGE
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
  x = design(masks, players, n)
  constants = np.flatnonzero((np.asarray(players) == masks.shape[1]).all(1))
  constant = int(constants[0]) if len(constants) else None
  y, offset, scale = _standardise(y.reshape(len(y), -1), constant is not None)
  fits = []
  with one_blas_thread():
    grams, products, energies = _gram_by_fold(x, y, _split(len(x), folds, key))
    for t in range(y.shape[1]):
      problem = _Problem(grams, products[..., t], energies[:, t], constant)
      result = _choose(problem, penalty, sorted(grid, reverse=True))
      if result is None:
        coefs = np.linalg.lstsq(x.astype(np.float64), y[:, t])[0]
        result = coefs, 0.0, 0.0, "none"
      coefs = result[0] * scale[t]
      if constant is not None:
        coefs[constant] += offset[t]
      fits.append((coefs, *result[1:]))
  coefs, chosen, score, fit = map(np.asarray, zip(*fits))
  if single:
    return Refit(coefs[0], chosen[0], score[0], fit[0])
  return Refit(coefs, chosen, score, fit)


class _Problem(NamedTuple):
  """One target's sums by fold; index -1 of the products is the total."""

  grams: np.ndarray  # [F + 1, K, K]
  products: np.ndarray  # [F + 1, K]
  energies: np.ndarray  # [F + 1]
  constant: int | None


def _split(num_masks, folds, key):
  """Returns index arrays of near-equal folds that partition the masks."""
  if key is not None:
    order = np.asarray(jax.random.permutation(key, num_masks))
  else:
    # Golden-ratio steps: no fold follows the order of a query plan.
    steps = np.arange(num_masks, dtype=np.uint64) * np.uint64(2654435769)
    order = np.argsort(steps & np.uint64(0xFFFFFFFF), kind="stable")
  return np.array_split(order, max(1, min(folds, num_masks)))


def _standardise(y, centre):
  """Returns y of mean 0 and deviation 1, and what undoes it, by target."""
  largest = np.abs(y).max(axis=0)
  largest = np.where(largest > 0, largest, 1.0)
  y = y / largest  # First, so that no sum or square overflows.
  mean = y.mean(axis=0) * centre
  y = y - mean
  deviation = np.sqrt((y**2).mean(axis=0))
  # Differences of rounding size are a constant function's.
  flat = deviation <= 4 * np.finfo(np.float64).eps
  y = np.where(flat, 0.0, y)
  deviation = np.where(flat, 1.0, deviation)
  return y / deviation, mean * largest, deviation * largest


def _gram_by_fold(x, y, parts):
  num_sets, num_targets = x.shape[1], y.shape[1]
  grams = np.empty((len(parts) + 1, num_sets, num_sets))
  products = np.empty((len(parts) + 1, num_sets, num_targets))
  energies = np.empty((len(parts) + 1, num_targets))
  for f, rows in enumerate(parts):
    chunk = x[rows]
    grams[f] = chunk.T @ chunk
    products[f] = chunk.T.astype(np.float64) @ y[rows]
    energies[f] = (y[rows] ** 2).sum(axis=0)
  for sums in (grams, products, energies):
    sums[-1] = sums[:-1].sum(axis=0)
  return grams, products, energies


def _choose(problem, penalty, grid):
  """Returns (coefs, penalty, score, fit), or None if only an SVD will do."""
  gram, product, energy = (sums[-1] for sums in problem[:3])
  if len(gram) == 0 or energy == 0:
    return np.zeros(len(gram)), 0.0, float(energy == 0), "none"
  names, coefs = _candidates(
    gram, product, energy, problem.constant, penalty, grid
  )
  usable = np.isfinite(coefs).all(axis=1)
  if not usable.any():
    return None
  errors = np.where(usable, 0.0, np.inf)
  num_folds = len(problem.grams) - 1
  for f in range(num_folds if num_folds > 1 else 0):
    _, c = _candidates(
      gram - problem.grams[f],
      product - problem.products[f],
      energy - problem.energies[f],
      problem.constant,
      penalty,
      grid,
    )
    error = problem.energies[f] - 2 * c @ problem.products[f]
    error += ((c @ problem.grams[f]) * c).sum(axis=1)
    errors += np.where(np.isfinite(error), np.maximum(error, 0), np.inf)
  if not np.isfinite(errors.min()) or num_folds < 2:
    best, score = int(np.argmax(usable)), 0.0
  else:
    # The first within rounding of the best: candidates run sparse to dense.
    best = int(np.argmax(errors <= errors.min() + _TIE * energy))
    score = float(1 - errors[best] / energy)
  fit, chosen = names[best]
  return coefs[best], chosen, score, fit


def _candidates(gram, product, energy, constant, penalty, grid):
  """Fits every candidate to one set of sums.

  Returns:
    A list of (fit, penalty), the same for every fold, and coefficients
    `[C, K]`; NaN where the least squares of a candidate are not unique.
  """
  num_sets, count = len(gram), gram[0, 0]  # +-1 columns: the masks' number.
  rest = np.arange(num_sets)
  row, intercept = np.zeros(num_sets), 0.0
  if constant is not None:
    rest = np.delete(rest, constant)
    row, intercept = gram[constant], product[constant]
    gram_c = (gram - np.outer(row, row) / count)[np.ix_(rest, rest)]
    product_c = (product - intercept / count * row)[rest]
    energy = energy - intercept**2 / count
  else:
    gram_c, product_c = gram, product
  gram_c, product_c = gram_c / count, product_c / count
  names, fits = [], []
  if penalty == "lasso":
    paths = _lasso(gram_c, product_c, energy / count, grid, count / 2)
    last, relaxed = None, None
    for p, path in zip(grid, paths):
      names += [("relaxed", p), ("lasso", p)]
      active = path != 0  # NaN counts as active, so that nothing is solved.
      if 2 * active.sum() > len(rest) or not np.isfinite(path).all():
        # Near-full supports cost most and gain nothing on least squares.
        relaxed = np.full(len(rest), np.nan)
      elif last is None or (active != last).any():
        relaxed = _least_squares(gram_c, product_c, active)
      last = active
      fits += [relaxed, path]
  elif penalty == "ridge":
    names += [("ridge", p) for p in grid if p > 0]
    fits += [_ridge(gram_c, product_c, p) for p in grid if p > 0]
  names.append(("none", 0.0))
  fits.append(_least_squares(gram_c, product_c, np.ones(len(rest), bool)))
  coefs = np.zeros((len(fits), num_sets))
  coefs[:, rest] = fits
  if constant is not None:
    coefs[:, constant] = (intercept - coefs[:, rest] @ row[rest]) / count
  return names, coefs


def _lasso(gram, product, energy, grid, most):
  """Coordinate descent on the Gram, warm along the grid: `[P, K]`.

  Once a fit has more than `most` sets, smaller penalties only fit noise, ever
  more slowly: they are left NaN.
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
        tol=1e-6,
      )[1]
      coefs = out[i] = path[:, 0]
  return out


def _ridge(gram, product, penalty):
  from scipy import linalg

  loaded = gram + penalty * np.eye(len(gram))
  return linalg.solve(loaded, product, assume_a="pos")


def _least_squares(gram, product, active):
  """Least squares on the active columns, or NaN where it is not unique."""
  from scipy import linalg

  out = np.zeros(len(gram))
  if not active.any():
    return out
  sub, target = gram[np.ix_(active, active)], product[active]
  try:
    factor = linalg.cho_factor(sub, lower=True)
  except linalg.LinAlgError:
    return np.full(len(gram), np.nan)
  # The diagonal of the Gram is near 1: a pivot this small is no column.
  if np.diag(factor[0]).min() < 1e-5:
    return np.full(len(gram), np.nan)
  solution = np.asarray(linalg.cho_solve(factor, target))
  solution += np.asarray(linalg.cho_solve(factor, target - sub @ solution))
  out[active] = solution
  return out
