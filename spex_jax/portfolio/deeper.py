"""The Gram scan of one order more, where what it has found speaks for it.

Such a pass costs seconds, and a smooth game gains nothing by it: its energy
falls off with the order, so that the largest sets that a scan finds hold next
to none. It is run where

- it is affordable (`fourier.high_order`), and a set of its order that holds
  half of what is left would be significant; and
- the sets found of order 3 and more hold a twentieth of the energy found, or
  nothing was found. On recorded games at 512 and 1,024 masks they hold at most
  .013 in networks, forests and retraining, .025 in a largest of sums, .11 to
  .54 in what was planted; of 400 functions whose orders are drawn evenly from
  1 to 5, the least has .051.

Shapes: n players, B masks, K sets.
"""

import numpy as np

from spex_jax import base
from spex_jax.fourier import gram, high_order, sparse
from spex_jax.portfolio import folds as folds_lib
from spex_jax.portfolio import members, policy


def deepened(
  masks: base.Masks,
  values: np.ndarray,
  folds: np.ndarray,
  fit: folds_lib.Fit,
  max_order: int | None = None,
  weights: np.ndarray | None = None,
) -> tuple[folds_lib.Fit, str]:
  """A scan of one order more, on what a scan leaves.

  Each fit accepts sets by its own samples alone; all of them share what the
  scan of all samples nominates (`fourier.high_order` says why that is fair).

  Args:
    masks: bool `[B, n]`.
    values: `[B]`.
    folds: int `[B]`; the fit to all but the first of them, which every caller
      needs, decides whether more is scanned.
    fit: what `members.gram_fit` gave for them.
    max_order: the largest sets, as for `members.gram_fit`.
    weights: `[B]`, those of `fit`; with these nothing deeper is scanned.

  Returns:
    The deeper fit, or `fit` where there is nothing deeper; and a sentence on
    what was scanned and what not.
  """
  masks = base.check_masks(masks)
  num_masks, n = masks.shape
  scanned = members.scanned_order(n, num_masks, max_order)
  note = f" All sets of up to {scanned} were scanned; "
  if scanned >= min(n, max_order or n):
    return fit, ""
  if weights is not None:
    return fit, note + "larger ones were not, as masks have weights."
  order = high_order.next_order(n, num_masks, scanned)
  if order is None:
    return fit, note + "larger ones are beyond the cost of a scan."
  most = folds != folds[0]
  if not _is_sparse(fit(most), most.sum(), order):
    return fit, note + "none of them asks for larger ones, which were not."
  every = np.ones(num_masks, bool)
  support, nominees = high_order.search(masks, values, _sets(fit(every)), order)
  rows = high_order.num_rows(n, num_masks, order)
  by = "" if rows == num_masks else f", by {rows:,} of {num_masks:,} masks"
  note = (
    f" All sets of up to {scanned} were scanned, then those of {order} on what "
    f"these left{by}; larger ones were not."
  )
  if not ((support < n).sum(axis=1) == order).any():
    return fit, note
  done = {every.tobytes(): members.refit_scan(masks, values, support)}

  def deeper(rows):
    key = rows.tobytes()
    if key not in done:
      sets = gram.grow_support(
        masks[rows],
        values[rows],
        _sets(fit(rows)),
        scanned,
        candidates=nominees,
      )
      done[key] = members.refit_scan(masks[rows], values[rows], sets)
    return done[key]

  return deeper, note


def _sets(function: sparse.SparseFourier) -> np.ndarray:
  """Its sets but for the empty one, `[K, D]`."""
  players = np.asarray(function.players)
  return players[(players < function.n).any(axis=1)].astype(np.int64)


def _is_sparse(function, num_masks, order):
  """Whether what a scan found asks for sets of the next order."""
  share = gram.needed_share(function.n, order, num_masks)
  if share > policy.POLICY.most_needed:
    return False
  orders = np.asarray(function.orders)
  coefs = np.asarray(function.coefs)[orders > 0]
  energy = (coefs / np.abs(coefs).max(initial=1e-300)) ** 2
  high = energy[orders[orders > 0] >= 3].sum()
  return high >= policy.POLICY.least_high * energy.sum()
