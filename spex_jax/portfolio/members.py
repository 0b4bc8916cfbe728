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
from spex_jax.proxies import (
  boosting,
  gaussian,
  mixed,
  proxyspex,
  readout,
  reweighted,
  spectrum,
  threads,
)
from spex_jax.proxies import out_of_fold as out_of_fold_lib


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


def mean(masks: base.Masks, values: np.ndarray) -> Member:
  """The mean alone; what every other member must beat."""
  count = len(values)
  unit, middle, scale = (
    part[..., 0] for part in regress.standardise(values[:, None])
  )
  out_of_fold = -unit / max(1, count - 1) * scale + middle
  function = sparse.SparseFourier.from_terms(
    masks.shape[1], [((), float(middle))]
  )
  errors = _flat(out_of_fold, values)
  return Member("mean", function, out_of_fold, "The mean.", errors)


def by_lasso(
  masks: base.Masks,
  values: np.ndarray,
  folds: np.ndarray,
  order: int,
  *,
  relaxed: bool = False,
  baseline: np.ndarray | None = None,
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
  """

  def fit(rows):
    if rows.sum() < policy.POLICY.least_fitted:
      return mean(masks[rows], values[rows]).function
    return lasso.fit_targets(
      masks[rows],
      values[rows, None],
      order,
      penalty="lasso" if relaxed else "shrunk",
      penalties=None if relaxed else policy.POLICY.lasso_penalties,
    )[0]

  n = masks.shape[1]
  most = policy.POLICY.pairs_to_a_mask * len(values)
  if baseline is not None and order == 2 and n * (n - 1) > most:
    return None
  name = f"lasso{order}" + " relaxed" * relaxed
  note = lambda _: f"Lasso on sets of up to {order}."
  return _refitted(name, note, masks, values, folds, fit, baseline)


def by_trees(
  masks: base.Masks,
  values: np.ndarray,
  folds: np.ndarray,
  max_order: int | None = None,
) -> Member:
  """ProxySPEX: boosted trees, cut and refitted only where validation gains.

  No tree is deeper than `max_order`, nor than 5.
  """
  deepest = policy.POLICY.tree_depth
  depth = min(max_order or deepest, deepest)
  found = proxyspex.fit(masks, values, folds=folds, max_order=depth)
  errors = _flat(found.predictions, values)
  note = " ".join(found.notes)
  return Member("proxyspex", found.fourier, found.predictions, note, errors)


def by_gaussian(
  masks: base.Masks,
  values: np.ndarray,
  max_order: int | None = None,
  baseline: np.ndarray | None = None,
) -> list[Member]:
  """A Gaussian process, read out as its largest coefficients, with errors.

  And, with masks enough and no `max_order`, the same reweighted, and the same
  with directions (not where these are hopeless).

  How far relevances may spread follows from the masks to a player: little
  below 2, far above 8, and by out-of-fold predictions between. Beyond
  `most_masks()` the process sees a part of the samples, and the others test
  it. With a `max_order`, its out-of-fold predictions are those of processes
  fitted to the other folds and read out to that order.

  Args:
    masks: bool `[B, n]`.
    values: `[B]`.
    max_order: the largest sets that are read out.
    baseline: out-of-fold predictions `[B]` of another member, NaN where it has
      none; where the process leaves several times as much of 50 values or
      more, it is not a member: the list is empty.

  Raises:
    FloatingPointError: a kernel matrix that float64 cannot factorise.
  """
  subset = _subset(masks, values)
  masks_each = len(subset.rows) / masks.shape[1]
  # Parameters of fewer masks predict worse; where a group is dear, they are
  # many, and half of them are nearly as good as all.
  wide = masks_each < policy.POLICY.few_each
  groups = policy.POLICY.groups
  if len(subset.rows) > policy.POLICY.many_masks:
    groups = policy.POLICY.groups_of_many
  elif len(subset.rows) > policy.POLICY.least_wide and wide:
    groups = policy.POLICY.groups_of_wide
  spreads = gaussian.SPREADS
  if wide:
    spreads = spreads[:1]
  elif masks_each >= policy.POLICY.many_each:
    spreads = spreads[-1:]
  # A step costs the cube: half of many masks tune nearly as well.
  half = len(subset.rows) // policy.POLICY.tuned_one_in
  most_tuned = min(
    max(half, policy.POLICY.least_tuned), policy.POLICY.most_tuned
  )

  def fitted(spread):
    return gaussian.fit(
      subset.masks, subset.values, spread=spread, most_tuned=most_tuned
    )

  posterior = None
  if subset.determined:
    spread = spreads[0]
    posterior = fitted(spread)
    trial = out_of_fold_lib.by_fit(posterior, groups=policy.POLICY.groups)
  else:
    trial, spread = _tried(subset, spreads, groups)
  if baseline is not None:
    baseline = baseline[subset.rows]
    known = np.isfinite(baseline)
    error, least = (
      folds_lib.error(subset.values, guess, known)
      for guess in (trial.mean, baseline)
    )
    enough = known.sum() >= policy.POLICY.least_compared
    if enough and error > policy.POLICY.far * least:
      return []
  posterior = posterior or fitted(spread)
  # What the process believes of its errors, corrected by those it made.
  inflation = np.sqrt(np.mean(((trial.mean - subset.values) / trial.std) ** 2))

  def std(players):
    return spectrum.standard_errors(posterior, players) * inflation

  out = readout.expand(posterior, policy.POLICY.most_terms, max_order=max_order)
  if max_order is not None and max_order < masks.shape[1]:
    out_of_fold = _limited(subset, spread, max_order)
  else:
    out_of_fold = _without(subset.values, trial.mean, out.fourier, out.missed)
  rest = lasso.evaluate(subset.rest_masks, out.fourier)
  note = _process_note(posterior, trial, out)
  out_of_fold = subset.join(out_of_fold, rest)
  found = [Member("gaussian", out.fourier, out_of_fold, note, std)]
  if max_order is not None:
    return found
  more = []
  enough = len(subset.rows) >= policy.POLICY.least_refined
  if enough and not wide:
    more.append(lambda: _reweighted(subset, posterior, trial, out.missed, std))
  if enough and masks_each >= policy.POLICY.directed_each:
    more.append(
      lambda: _with_directions(
        subset, posterior, trial, spread, most_tuned, std
      )
    )
  found += threads.side_by_side(lambda refined: refined(), more)
  return [member for member in found if member is not None]


def _tried(subset, spreads, groups):
  """The best of predictions by fits to other groups, and its spread."""
  trials = [
    out_of_fold_lib.predict(
      subset.masks, subset.values, spread=spread, groups=groups
    )
    for spread in spreads
  ]
  errors = [folds_lib.error(subset.values, trial.mean) for trial in trials]
  best = int(np.argmin(errors))
  return trials[best], spreads[best]


class _Subset(NamedTuple):
  """Samples that a process sees, by `rows`, and the rest, which test it."""

  rows: np.ndarray
  masks: np.ndarray
  values: np.ndarray
  rest: np.ndarray
  rest_masks: np.ndarray

  @property
  def determined(self) -> bool:
    """Whether parameters of a fit to all hardly know a value by heart."""
    each = policy.POLICY.determined_each
    return len(self.rows) >= each * self.masks.shape[1]

  def join(self, out_of_fold, tested):
    out = np.empty(len(self.rows) + len(self.rest))
    out[self.rows], out[self.rest] = out_of_fold, tested
    return out


def _subset(masks, values):
  order = regress.spread_order(len(values))
  limit = most_masks()
  rows, rest = np.sort(order[:limit]), np.sort(order[limit:])
  return _Subset(rows, masks[rows], values[rows], rest, masks[rest])


def _limited(subset, spread, max_order):
  """Out-of-fold predictions of what is read out, which lacks larger sets."""

  def fit(train):
    part = gaussian.fit(
      subset.masks[train], subset.values[train], spread=spread
    )
    most = policy.POLICY.most_terms
    return readout.expand(part, most, max_order=max_order).fourier

  folds = boosting.spread_folds(len(subset.rows))
  return folds_lib.predict(subset.masks, subset.values, folds, fit)


def _reweighted(subset, posterior, trial, missed, std):
  """The process with a variance for each of its largest sets, or None."""
  left = np.empty(len(subset.rows))

  def left_out(group):
    part, params = group
    others = np.delete(np.arange(len(left)), part)
    blind = gaussian.condition_on(
      params, subset.masks[others], subset.values[others]
    )
    return reweighted.fit(blind, subset.masks, subset.values).left_out[part]

  try:
    predicted = threads.side_by_side(left_out, trial.groups)
    found = reweighted.fit(
      posterior, subset.masks, subset.values, policy.POLICY.most_terms
    )
  except FloatingPointError:
    return None
  for (part, _), values in zip(trial.groups, predicted):
    left[part] = values
  left = _without(subset.values, left, found.fourier, missed)
  out_of_fold = subset.join(
    left, lasso.evaluate(subset.rest_masks, found.fourier)
  )
  note = "The process with a variance for each of its largest sets."
  return Member("gaussian reweighted", found.fourier, out_of_fold, note, std)


def _with_directions(subset, posterior, trial, spread, most_tuned, std):
  """The process with directions, where they come near it, or None."""
  if subset.determined:  # Halves say enough of a few parameters more.
    trial = out_of_fold_lib.by_fit(posterior, policy.POLICY.groups_of_many)
  half = len(subset.rows) // policy.POLICY.tuned_one_in
  half = max(policy.POLICY.least_turned, half)
  try:
    directed = out_of_fold_lib.predict(
      subset.masks,
      subset.values,
      spread=spread,
      most_tuned=min(policy.POLICY.most_turned, half),
      warm_start=trial,
    )
    error, least = (
      folds_lib.error(subset.values, one.mean) for one in (directed, trial)
    )
    if error > policy.POLICY.hopeless * least:
      return None
    found = gaussian.fit(
      subset.masks,
      subset.values,
      spread=spread,
      params=gaussian.with_directions(posterior.params),
      most_tuned=most_tuned,
    )
  except FloatingPointError:
    return None
  out = mixed.expand(found, policy.POLICY.most_terms)
  out_of_fold = subset.join(
    _without(subset.values, directed.mean, out.fourier, out.missed),
    lasso.evaluate(subset.rest_masks, out.fourier),
  )
  note = "The process with directions: " + _process_note(found, directed, out)
  # Its kernel has no variance for each set; the product kernel's errors, as
  # much smaller as its predictions are better, but no smaller than those of a
  # regression that leaves as much: a kink is wrong where nobody looked.
  ratio, flat = np.sqrt(error / least), _flat(out_of_fold, subset.values)
  return Member(
    "gaussian with directions",
    out.fourier,
    out_of_fold,
    note,
    lambda players: np.maximum(std(players) * ratio, flat(players)),
  )


def _without(values, out_of_fold, function, missed):
  """Out-of-fold predictions of a readout, by those of the whole process.

  What is left out adds its energy to the mean square error (the posterior
  expectation of both is a sum: Parseval), so residuals are widened to it.

  Args:
    values: `[B]`.
    out_of_fold: `[B]` predictions by the whole mean.
    function: the expansion that is read out.
    missed: the share of the energy that it lacks.
  """
  scale = np.abs(values).max() or 1.0
  held = ((np.asarray(function.coefs)[1:] / scale) ** 2).sum()
  lost = held * missed / max(1.0 - missed, 1e-2)
  error = folds_lib.error(values, out_of_fold)
  if not error > 0:
    return out_of_fold
  return values + (out_of_fold - values) * np.sqrt(1.0 + lost / error)


def _process_note(posterior, trial, out):
  note = (
    f"Gaussian process on {len(posterior.signs)} masks, noise "
    f"{posterior.noise_std:.3g}; its {int(out.fourier.count) - 1} largest sets "
    f"leave {out.missed:.1g} of its energy."
  )
  rising = float(np.maximum(posterior.rising, trial.rising))  # NaN stays.
  if np.isnan(rising):
    note += " Its likelihood could not be followed to the end: not finite."
  elif rising > policy.POLICY.rising:
    note += f" Its likelihood was still rising, by {rising:.1f} nats a step."
  return note


def most_masks() -> int:
  """Masks of a Gaussian process: 16,384 on an accelerator, 4,096 on a CPU."""
  import jax

  on_cpu = jax.default_backend() == "cpu"
  return policy.POLICY.cpu_masks if on_cpu else gaussian.MOST_MASKS


def scanned_order(n: int, num_masks: int, max_order: int | None = None) -> int:
  """The largest sets that a scan of so many samples affords and can tell."""
  order = gram.affordable_order(n, num_masks, policy.POLICY.scan_flops)
  most = policy.POLICY.most_needed
  while order > 1 and gram.needed_share(n, order, num_masks) > most:
    order -= 1
  return min(order, max_order or order)


def gram_fit(
  masks: base.Masks, values: np.ndarray, max_order: int | None = None
) -> folds_lib.Fit | None:
  """A Gram scan of any of the samples, each done once.

  Args:
    masks: bool `[B, n]`.
    values: `[B]`.
    max_order: the largest sets to scan for.

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
      sets = gram.grow_support(masks[rows], values[rows], nothing, order)
      done[key] = refit_scan(masks[rows], values[rows], sets)
    return done[key]

  return fit


def refit_scan(
  masks: base.Masks, values: np.ndarray, sets: np.ndarray
) -> sparse.SparseFourier:
  """The expansion on the sets `[K, D]` of a scan, and the empty set."""
  n = masks.shape[1]
  sets = np.concatenate([np.full((1, sets.shape[1]), n), sets])
  found = regress.refit(masks, values, sets, penalty="ridge")
  return sparse.SparseFourier.from_players(n, sets, found.coefs)


def by_gram(
  masks: base.Masks,
  values: np.ndarray,
  folds: np.ndarray,
  fit: folds_lib.Fit | None,
  baseline: np.ndarray | None = None,
) -> Member | None:
  """The Gram scan: all significant sets of low order.

  Args:
    masks: bool `[B, n]`.
    values: `[B]`.
    folds: int `[B]`.
    fit: what `gram_fit` returned.
    baseline: out-of-fold predictions of the best member so far; where the
      first fold leaves far more than it does, the others are not run.

  Returns:
    None where there is no fit, or it is hopeless.
  """
  if fit is None:
    return None
  note = lambda found: (
    f"Gram scan of sets of up to {int(found.orders.max(initial=0))}."
  )
  return _refitted("gram", note, masks, values, folds, fit, baseline)


def _refitted(name, note, masks, values, folds, fit, baseline):
  """A member that is fitted anew to each fold's rest; None if hopeless."""
  out_of_fold = folds_lib.predict(masks, values, folds, fit, baseline)
  if out_of_fold is None:
    return None
  growth = folds_lib.growth(masks, values, folds, fit, out_of_fold)
  function = fit(np.ones(len(values), bool))
  errors = _flat(out_of_fold, values)
  return Member(name, function, out_of_fold, note(function), errors, growth)


def _flat(out_of_fold, values):
  """One error for every set."""
  size = folds_lib.character_error(out_of_fold, values)
  return lambda players: np.full(len(players), size)
