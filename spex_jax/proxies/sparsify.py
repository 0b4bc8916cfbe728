"""From a dense expansion to a sparse one, by validation.

A proxy (an ensemble of trees, say) names sets and how large their
coefficients are. How many to keep, and whether to take the coefficients as
they are or fit them again, is what the held-out folds decide, and the uncut
expansion competes: no accuracy that they can see is lost.

Candidates, on the K strongest sets of sizes c, with standardised values:
  cut      the coefficients as they are
  ridge    |y - X b|^2 + penalty sum_k b_k^2 / w_k,   w_k ~ |c_k|^p of sum 1
  lasso    1/(2B) |y - X b|^2 + penalty sum_k |b_k| / v_k,   the same of max 1
  relaxed  least squares on that lasso's support
With p = 0 these are the plain ones; p = 2 is a Gaussian prior of which the
proxy tells the variances (the penalty is then noise over signal), and the
weighted lasso is the adaptive lasso of Zou (2006). The constant is never
penalised. The sums are Gram matrices: exact in float32, solved in float64.

Shapes: n players, B masks, K sets, F folds, C candidates.
"""

from collections.abc import Sequence
from typing import NamedTuple

import chex
import numpy as np

from spex_jax.fourier import moments, regress, sparse

_MOST_SETS = 1000  # Their Gram matrix takes 8 MB, a solution 15 ms.
_TIE = 2e-3  # Errors that differ by less, relatively, are equal.
# The best of some 150 refits seems to gain 2.6 standard errors where it loses.
_SURE = 3.0
_RIDGE = (1e-3, 1e-2, 0.03, 0.1, 0.3, 1.0, 10.0)
_LASSO = tuple(10.0 ** (-k / 2) for k in range(2, 11))


class Candidate(NamedTuple):
  """One way to sparsify; see the module header.

  Attributes:
    kind: "cut", "ridge", "lasso", "relaxed", or "whole" for no cut.
    size: K, the number of sets; 0 for "whole".
    power: p, the power of the weights.
    penalty: the size of the penalty, free of the values' units.
    averaged: whether the answer is the mean of this and the uncut one.
  """

  kind: str
  size: int = 0
  power: float = 0.0
  penalty: float = 0.0
  averaged: bool = False

  def __str__(self) -> str:
    if self.averaged:
      return f"{self._replace(averaged=False)}, averaged with the whole"
    if self.kind == "whole":
      return "the whole expansion"
    if not self.size:
      return "the mean alone"
    if self.kind == "cut":
      return f"the {self.size} strongest sets as they are"
    return (
      f"a {self.kind} fit of the {self.size} strongest sets (penalty "
      f"{self.penalty:.2g}, weights of power {self.power:g})"
    )


class Sparsified(NamedTuple):
  """The winner.

  Attributes:
    fourier: the expansion fitted to all masks, without zero coefficients.
    candidate: the way it was found.
    predictions: float64 `[B]`, the prediction of each mask by the fit that
      never saw its fold.
  """

  fourier: sparse.SparseFourier
  candidate: Candidate
  predictions: np.ndarray


def sparsify(
  masks: np.ndarray,
  values: np.ndarray,
  folds: np.ndarray,
  fold_functions: Sequence[sparse.SparseFourier],
  function: sparse.SparseFourier,
  predictions: np.ndarray,
) -> Sparsified:
  """Chooses a candidate on held-out folds and applies it to all masks.

  Args:
    masks: bool `[B, n]`.
    values: float64 `[B]`.
    folds: int `[B]` ids 0..F-1.
    fold_functions: F expansions, strongest sets first after the empty one;
      the f-th never saw fold f.
    function: the expansion fitted to all masks.
    predictions: float64 `[B]`, those of the uncut expansions of the folds.

  Returns:
    The candidate of the least pooled error; among those within 0.2 % of it
    the one of the fewest sets. A refit that does not beat the uncut expansion
    by three standard errors is averaged with it: the best of many fits to few
    masks looks better than it is.
  """
  chex.assert_shape([values, folds, predictions], (len(masks),))
  candidates = _candidates(int(function.count) - 1)
  outs, terms = [], []
  with regress.one_blas_thread():
    for f, fitted in enumerate(fold_functions):
      held = folds == f
      constants, coefs = _fit(masks[~held], values[~held], fitted, candidates)
      x = _design(masks[held], fitted, coefs.shape[1])
      outs.append(constants[:, None] + coefs @ x.T.astype(np.float64))
      terms.append((coefs != 0).sum(axis=1))
  guess = np.empty((len(candidates) + 1, len(masks)))
  for f, out in enumerate(outs):
    guess[:-1, folds == f] = out
  guess[-1] = predictions
  size = np.abs(values).max() or 1.0
  squares = ((guess - values) / size) ** 2
  errors = squares.sum(axis=1)
  errors = np.where(np.isfinite(errors), errors, np.inf)
  num_terms = np.append(np.mean(terms, axis=0), int(function.count))
  candidates.append(Candidate("whole"))
  close = errors <= (1 + _TIE) * errors.min()
  best = int(np.where(close, num_terms, np.inf).argmin())
  chosen = candidates[best]
  fourier = _apply(masks, values, function, chosen)
  gains = squares[-1] - squares[best]
  unsure = gains.sum() <= _SURE * gains.std() * np.sqrt(len(gains))
  if chosen.kind in ("cut", "whole") or not unsure:
    return Sparsified(fourier, chosen, guess[best])
  return Sparsified(
    sparse.weighted_sum([fourier, function], [0.5, 0.5]),
    chosen._replace(averaged=True),
    (guess[best] + predictions) / 2,
  )


def _apply(masks, values, function, candidate):
  if candidate.kind == "whole":
    return function
  with regress.one_blas_thread():
    constants, coefs = _fit(masks, values, function, [candidate])
    if not np.isfinite(coefs).all():  # Its support has outgrown the masks.
      candidate = candidate._replace(kind="lasso")
      constants, coefs = _fit(masks, values, function, [candidate])
  kept = np.flatnonzero(coefs[0])
  players = np.asarray(function.players)[np.append(0, 1 + kept)]
  return sparse.SparseFourier.from_players(
    function.n, players, np.append(constants[0], coefs[0, kept])
  )


def _candidates(most):
  """All ways to try with at most so many sets; the first is the mean alone."""
  if not most:
    return [Candidate("cut")]
  sizes = [k for k in (10, 30, 100, 300, _MOST_SETS) if k < most]
  if most <= _MOST_SETS:
    sizes.append(most)
  out = [Candidate("cut", k) for k in (0, *sizes)]
  for k in sizes:
    # Of many sets, those fits that the proxy's sizes guide alone do well.
    powers = (0.0, 1.0, 2.0) if k <= 300 else (2.0,)
    out += [Candidate("ridge", k, p, x) for p in powers for x in _RIDGE]
    if k < 100 and k != most:
      continue  # A lasso of more sets finds these.
    powers = (0.0, 0.5, 1.0) if k <= 300 else (1.0,)
    for p in powers:
      out += [Candidate("lasso", k, p, x) for x in _LASSO]
      out += [Candidate("relaxed", k, p, x) for x in _LASSO]
  return out


def _design(masks, function, size):
  players = np.asarray(function.players)[1 : size + 1]
  return regress.design(masks, players, function.n)


def _fit(masks, values, function, candidates):
  """Fits candidates: constants `[C]` and coefficients `[C, K]`.

  NaN where a support has too many sets for so many masks.
  """
  # A fold may have found fewer sets than were asked for.
  found = int(function.count) - 1
  candidates = [c._replace(size=min(c.size, found)) for c in candidates]
  size = max(c.size for c in candidates)
  num_masks = len(masks)
  y, mean, scale = (
    part[..., 0] for part in regress.standardise(values[:, None])
  )
  x = _design(masks, function, size)
  offset = x.mean(axis=0, dtype=np.float64)
  gram = (x.T @ x).astype(np.float64) / num_masks - np.outer(offset, offset)
  product = (x.T.astype(np.float64) @ y) / num_masks
  own = np.asarray(function.coefs, np.float64)
  sizes = np.abs(own[1 : size + 1]) / (np.abs(own[1:]).max(initial=0.0) or 1.0)
  whole = moments.Moments(gram, product, float((y**2).mean()), num_masks - 1)
  coefs = np.zeros((len(candidates), size))
  paths = {}
  for row, candidate in enumerate(candidates):
    k = candidate.size
    if not k:
      continue
    if candidate.kind == "cut":
      coefs[row, :k] = own[1 : k + 1] / scale
      continue
    sums, weight = whole.leading(k), sizes[:k] ** candidate.power
    if candidate.kind == "ridge":
      coefs[row, :k] = _ridge(sums, weight, candidate.penalty, num_masks)
    else:
      key = k, candidate.power
      if key not in paths:
        alone = len(candidates) == 1
        grid = [candidate.penalty] if alone else list(_LASSO)
        paths[key] = dict(zip(grid, _lasso(sums, weight, grid, num_masks)))
      path = paths[key][candidate.penalty]
      if candidate.kind == "relaxed":
        path = _relax(sums, path, num_masks)
      coefs[row, :k] = path
  constants = mean - scale * (coefs @ offset)
  for row, candidate in enumerate(candidates):
    if candidate.kind == "cut" and candidate.size:
      constants[row] = own[0]
  return constants, scale * coefs


def _ridge(sums, weight, penalty, num_masks):
  root = np.sqrt(weight / weight.sum())
  return root * sums.scaled(root).ridge(penalty / num_masks)


def _lasso(sums, weight, grid, num_masks):
  """The path along a falling grid `[G, k]`; NaN once it is too dense."""
  paths = sums.scaled(weight).lasso(grid, num_masks / 2, tolerance=1e-4)
  return weight * paths


def _relax(sums, path, num_masks):
  active = path != 0
  if not np.isfinite(path).all() or 3 * active.sum() > num_masks:
    return np.full(len(path), np.nan)
  return sums.least_squares(active)
