"""The Gaussian process as members: as it is, reweighted, with directions.

Shapes: n players, B masks, K sets.
"""

from typing import NamedTuple

import numpy as np

from spex_jax import base
from spex_jax.fourier import lasso, regress
from spex_jax.portfolio import folds as folds_lib
from spex_jax.portfolio import members, policy
from spex_jax.proxies import (
  boosting,
  gaussian,
  mixed,
  readout,
  reweighted,
  spectrum,
  threads,
)
from spex_jax.proxies import out_of_fold as out_of_fold_lib


def by_gaussian(
  masks: base.Masks,
  values: np.ndarray,
  max_order: int | None = None,
  baseline: np.ndarray | None = None,
  weights: np.ndarray | None = None,
) -> list[members.Member]:
  """A Gaussian process, read out as its largest coefficients, with errors.

  And, with masks enough, no `max_order` and no weights, the same reweighted,
  and the same with directions (not where these are hopeless).

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
    weights: `[B]` of the values, of mean 1; None for equal ones.

  Raises:
    FloatingPointError: a kernel matrix that float64 cannot factorise.
  """
  subset = _subset(masks, values, weights)
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
      subset.masks,
      subset.values,
      spread=spread,
      most_tuned=most_tuned,
      weights=subset.weights,
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
      folds_lib.error(subset.values, guess, known, subset.weights)
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
    out_of_fold = _without(
      subset.values, trial.mean, out.fourier, out.missed, subset.weights
    )
  rest = lasso.evaluate(subset.rest_masks, out.fourier)
  note = _process_note(posterior, trial, out)
  out_of_fold = subset.join(out_of_fold, rest)
  found = [members.Member("gaussian", out.fourier, out_of_fold, note, std)]
  if max_order is not None or weights is not None:
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
      subset.masks,
      subset.values,
      spread=spread,
      groups=groups,
      weights=subset.weights,
    )
    for spread in spreads
  ]
  errors = [
    folds_lib.error(subset.values, trial.mean, weights=subset.weights)
    for trial in trials
  ]
  best = int(np.argmin(errors))
  return trials[best], spreads[best]


class _Subset(NamedTuple):
  """Samples that a process sees, by `rows`, and the rest, which test it."""

  rows: np.ndarray
  masks: np.ndarray
  values: np.ndarray
  rest: np.ndarray
  rest_masks: np.ndarray
  weights: np.ndarray | None

  @property
  def determined(self) -> bool:
    """Whether parameters of a fit to all hardly know a value by heart."""
    each = policy.POLICY.determined_each
    return len(self.rows) >= each * self.masks.shape[1]

  def join(self, out_of_fold, tested):
    out = np.empty(len(self.rows) + len(self.rest))
    out[self.rows], out[self.rest] = out_of_fold, tested
    return out


def _subset(masks, values, weights):
  order = regress.spread_order(len(values))
  limit = most_masks()
  rows, rest = np.sort(order[:limit]), np.sort(order[limit:])
  known = members.part(weights, rows)
  return _Subset(rows, masks[rows], values[rows], rest, masks[rest], known)


def _limited(subset, spread, max_order):
  """Out-of-fold predictions of what is read out, which lacks larger sets."""

  def fit(train):
    part = gaussian.fit(
      subset.masks[train],
      subset.values[train],
      spread=spread,
      weights=members.part(subset.weights, train),
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
  return members.Member(
    "gaussian reweighted", found.fourier, out_of_fold, note, std
  )


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
  ratio, flat = np.sqrt(error / least), members.flat(out_of_fold, subset.values)
  return members.Member(
    "gaussian with directions",
    out.fourier,
    out_of_fold,
    note,
    lambda players: np.maximum(std(players) * ratio, flat(players)),
  )


def _without(values, out_of_fold, function, missed, weights=None):
  """Out-of-fold predictions of a readout, by those of the whole process.

  What is left out adds its energy to the mean square error (the posterior
  expectation of both is a sum: Parseval), so residuals are widened to it.

  Args:
    values: `[B]`.
    out_of_fold: `[B]` predictions by the whole mean.
    function: the expansion that is read out.
    missed: the share of the energy that it lacks.
    weights: `[B]` of the values.
  """
  scale = np.abs(values).max() or 1.0
  held = ((np.asarray(function.coefs)[1:] / scale) ** 2).sum()
  lost = held * missed / max(1.0 - missed, 1e-2)
  error = folds_lib.error(values, out_of_fold, weights=weights)
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
