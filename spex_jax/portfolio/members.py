"""The decoders of the portfolio, each with out-of-fold predictions.

A member is fitted to all samples, and predicts each of them by a fit that has
not seen it, so that members can be compared, and stacked, without a mask being
set aside.

Shapes: n players, B masks, K sets.
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from spex_jax import base
from spex_jax.fourier import gram, lasso, regress, sparse
from spex_jax.portfolio import folds as folds_lib
from spex_jax.portfolio import policy
from spex_jax.proxies import proxyspex


class Member(NamedTuple):
  """One decoder's answer for one target.

  Attributes:
    name: the name of the decoder.
    function: the expansion fitted to all samples.
    out_of_fold: float64 `[B]`, each value predicted without it.
    note: a sentence on how it was fitted.
    errors: players `[K, D]` to the standard errors `[K]` of their Fourier
      coefficients, in the units of the values; None where nothing is known.
    growth: the fall of its mean square error with the masks that fits out of
      fold lack.
  """

  name: str
  function: sparse.SparseFourier
  out_of_fold: np.ndarray
  note: str
  errors: Callable[[np.ndarray], np.ndarray] | None = None
  growth: folds_lib.Growth = folds_lib.Growth()


def mean(
  masks: base.Masks, values: np.ndarray, weights: np.ndarray | None = None
) -> Member:
  """The mean alone; what every other member must beat.

  Args:
    masks: bool `[B, n]`.
    values: `[B]`.
    weights: `[B]` of the values, of mean 1; None for equal ones.
  """
  count = len(values)
  unit, middle, scale = (
    part[..., 0] for part in regress.standardise(values[:, None], True, weights)
  )
  if weights is None:
    out_of_fold = -unit / max(1, count - 1) * scale + middle
  else:
    rest = np.maximum(weights.sum() - weights, np.finfo(float).tiny)
    out_of_fold = -unit * weights / rest * scale + middle
  function = sparse.SparseFourier.from_terms(
    masks.shape[1], [((), float(middle))]
  )
  errors = flat(out_of_fold, values, weights)
  return Member("mean", function, out_of_fold, "The mean.", errors)


def by_lasso(
  masks: base.Masks,
  values: np.ndarray,
  folds: np.ndarray,
  order: int,
  *,
  relaxed: bool = False,
  baseline: np.ndarray | None = None,
  weights: np.ndarray | None = None,
) -> Member | None:
  """Lasso on the sets of order 1, or 1 and 2 (screened).

  Args:
    masks: bool `[B, n]`.
    values: `[B]`.
    folds: int `[B]`.
    order: 1 or 2.
    relaxed: let unshrunk fits of the supports compete (`regress`): exact
      where there is no noise, and easily misled where there is much.
    baseline: a member to beat, as for `by_gram`.
    weights: `[B]` of the values, of mean 1; None for equal ones.
  """

  def fit(rows):
    known = part(weights, rows)
    if rows.sum() < policy.POLICY.least_fitted:
      return mean(masks[rows], values[rows], known).function
    return lasso.fit_targets(
      masks[rows],
      values[rows, None],
      order,
      penalty="lasso" if relaxed else "shrunk",
      penalties=None if relaxed else policy.POLICY.lasso_penalties,
      weights=known,
    )[0]

  n = masks.shape[1]
  most = policy.POLICY.pairs_to_a_mask * len(values)
  if baseline is not None and order == 2 and n * (n - 1) > most:
    return None
  name = f"lasso{order}" + " relaxed" * relaxed
  note = lambda _: f"Lasso on sets of up to {order}."
  return _refitted(name, note, masks, values, folds, fit, baseline, weights)


def by_trees(
  masks: base.Masks,
  values: np.ndarray,
  folds: np.ndarray,
  max_order: int | None = None,
  weights: np.ndarray | None = None,
) -> Member:
  """ProxySPEX: boosted trees, cut and refitted only where validation gains.

  No tree is deeper than `max_order`, nor than 5. Trees know no weights `[B]`:
  these count in the errors alone.
  """
  deepest = policy.POLICY.tree_depth
  depth = min(max_order or deepest, deepest)
  found = proxyspex.fit(masks, values, folds=folds, max_order=depth)
  errors = flat(found.predictions, values, weights)
  note = " ".join(found.notes)
  return Member("proxyspex", found.fourier, found.predictions, note, errors)


def scanned_order(n: int, num_masks: int, max_order: int | None = None) -> int:
  """The largest sets that a scan of so many samples affords and can tell."""
  order = gram.affordable_order(n, num_masks, policy.POLICY.scan_flops)
  most = policy.POLICY.most_needed
  while order > 1 and gram.needed_share(n, order, num_masks) > most:
    order -= 1
  return min(order, max_order or order)


def gram_fit(
  masks: base.Masks,
  values: np.ndarray,
  max_order: int | None = None,
  weights: np.ndarray | None = None,
) -> folds_lib.Fit | None:
  """A Gram scan of any of the samples, each done once.

  Args:
    masks: bool `[B, n]`.
    values: `[B]`.
    max_order: the largest sets to scan for.
    weights: `[B]` of the values, of mean 1; None for equal ones.

  Returns:
    None where a scan of all is not affordable, or of too few masks.
  """
  masks = base.check_masks(masks)
  order = scanned_order(masks.shape[1], len(values), max_order)
  if order < 1 or len(values) < policy.POLICY.least_scanned:
    return None
  done: dict[bytes, sparse.SparseFourier] = {}

  def fit(rows):
    key = np.packbits(rows).tobytes()
    if key not in done:
      nothing = np.zeros((0, gram.MAX_ORDER), np.int64)
      known = part(weights, rows)
      sets = gram.grow_support(
        masks[rows], values[rows], nothing, order, weights=known
      )
      done[key] = refit_scan(masks[rows], values[rows], sets, known)
    return done[key]

  return fit


def refit_scan(
  masks: base.Masks,
  values: np.ndarray,
  sets: np.ndarray,
  weights: np.ndarray | None = None,
) -> sparse.SparseFourier:
  """The expansion on the sets `[K, D]` of a scan, and the empty set."""
  n = masks.shape[1]
  sets = np.concatenate([np.full((1, sets.shape[1]), n), sets])
  found = regress.refit(masks, values, sets, penalty="ridge", weights=weights)
  return sparse.SparseFourier.from_players(n, sets, found.coefs)


def by_gram(
  masks: base.Masks,
  values: np.ndarray,
  folds: np.ndarray,
  fit: folds_lib.Fit | None,
  baseline: np.ndarray | None = None,
  weights: np.ndarray | None = None,
) -> Member | None:
  """The Gram scan: all significant sets of low order.

  Args:
    masks: bool `[B, n]`.
    values: `[B]`.
    folds: int `[B]`.
    fit: what `gram_fit` returned.
    baseline: out-of-fold predictions of the best member so far; where the
      first fold leaves far more than it does, the others are not run.
    weights: `[B]` those of the fit.

  Returns:
    None where there is no fit, or it is hopeless.
  """
  if fit is None:
    return None
  note = lambda found: (
    f"Gram scan of sets of up to {int(found.orders.max(initial=0))}."
  )
  return _refitted("gram", note, masks, values, folds, fit, baseline, weights)


def part(weights: np.ndarray | None, rows: np.ndarray) -> np.ndarray | None:
  """The weights of some rows, of mean 1 again."""
  return None if weights is None else weights[rows] / weights[rows].mean()


def _refitted(name, note, masks, values, folds, fit, baseline, weights):
  """A member that is fitted anew to each fold's rest; None if hopeless."""
  out_of_fold = folds_lib.predict(masks, values, folds, fit, baseline, weights)
  if out_of_fold is None:
    return None
  growth = folds_lib.growth(masks, values, folds, fit, out_of_fold, weights)
  function = fit(np.ones(len(values), bool))
  errors = flat(out_of_fold, values, weights)
  return Member(name, function, out_of_fold, note(function), errors, growth)


def flat(
  out_of_fold: np.ndarray,
  values: np.ndarray,
  weights: np.ndarray | None = None,
) -> Callable[[np.ndarray], np.ndarray]:
  """`errors` of a `Member`: one for every set, by its predictions `[B]`."""
  size = folds_lib.character_error(out_of_fold, values, weights)
  return lambda players: np.full(len(players), size)
