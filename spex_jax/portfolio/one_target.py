"""One target's answer: the members of a method, joined or the best of them.

Shapes: n players, B masks.
"""

from collections.abc import Sequence

import numpy as np

from spex_jax import base
from spex_jax.fourier import regress
from spex_jax.portfolio import (
  deeper,
  members,
  policy,
  precision,
  process_members,
  stack,
)
from spex_jax.portfolio import folds as folds_lib
from spex_jax.proxies import threads

_ALMOST = 1e-5  # Share of the deviation that an exact scan may leave.


def answer(
  masks: base.Masks,
  values: np.ndarray,
  method: str,
  max_order: int | None,
  std: np.ndarray | None = None,
) -> tuple[stack.Stacked, np.ndarray | None]:
  """The members of a method, stacked, or the mean; and the masks' weights.

  Where masks were asked unequally often (`precision`), members are fitted again
  if a stack leaves so much less than was thought that weights change.

  Args:
    masks: bool `[B, n]`, 8 or more.
    values: `[B]`, about 0.
    method: one of `select.PROXIES`, or "auto".
    max_order: the largest sets, as for `select.by_proxies`.
    std: `[B]` standard errors of the values by their noise; None where all are
      known equally well.

  Returns:
    The answer, and weights `[B]` of mean 1, or None for equal ones.
  """
  if std is None or base.is_constant(values):
    return _equal(masks, values, method, max_order), None
  tau = precision.first_deviation(masks, values, std)
  weights = precision.weights(tau, std)
  for count in range(policy.POLICY.weights_fits):
    found, left_out = fitted(masks, values, method, max_order, weights)
    mean = members.mean(masks, values, weights)
    if method != "auto":
      found = [stack.best(values, [mean, *found], weights)]
    stacked = stack.stack(masks, values, found, weights)
    left = values - stacked.out_of_fold
    tau = min(tau, precision.deviation(left, std))
    better = precision.weights(tau, std)
    last = count + 1 == policy.POLICY.weights_fits
    if last or precision.alike(weights, better):
      break
    weights = better
  note = stacked.note + left_out
  if weights is not None:
    note += " Masks asked more often weigh more, by the noise of their repeats."
  stacked = stacked._replace(note=note)
  if method != "auto":
    return stacked, weights
  gain, error = stack.gain(
    values, stacked.out_of_fold, mean.out_of_fold, weights
  )
  if gain > policy.POLICY.gain_sure * error:
    return stacked, weights
  # Where little is explained, repeats help less.
  tau = precision.deviation(values - values.mean(), std, 1)
  weights_of_mean = precision.weights(tau, std)
  mean = members.mean(masks, values, weights_of_mean)
  gain, error = precision.gain(left, values - mean.out_of_fold, std)
  if gain > policy.POLICY.gain_sure * error:
    return stacked, weights
  note = (
    "Answered by mean: by the others values not seen are likelier by "
    f"{gain:.3f} nats, under twice its standard error, {error:.3f}."
  )
  alone = stack.stack(masks, values, [mean], weights_of_mean)
  return alone._replace(note=note), weights_of_mean


def _equal(masks, values, method, max_order):
  """The answer where all masks weigh the same."""
  mean = members.mean(masks, values)
  if base.is_constant(values):
    note = f"All {len(values)} values are equal to rounding: only their mean."
    return stack.stack(masks, values, [mean])._replace(note=note)
  found, left_out = fitted(masks, values, method, max_order)
  if method != "auto":
    found = [stack.best(values, [mean, *found])]
  stacked = stack.stack(masks, values, found)
  gain, error = stack.gain(values, stacked.out_of_fold, mean.out_of_fold)
  if method != "auto" or gain > policy.POLICY.gain_sure * error:
    return stacked._replace(note=stacked.note + left_out)
  note = (
    f"Answered by mean: the others gain R^2 {gain:.3f} over it on values not "
    f"seen, under twice its standard error, {error:.3f}."
  )
  return stack.stack(masks, values, [mean])._replace(note=note)


def fitted(
  masks: base.Masks,
  values: np.ndarray,
  method: str,
  max_order: int | None,
  weights: np.ndarray | None = None,
) -> tuple[list[members.Member], str]:
  """The members of a method, and what to tell of one that is left out."""
  folds = folds_lib.spread(len(values))
  if method == "lasso":
    most = policy.POLICY.lasso_order
    largest = min(masks.shape[1], max_order or most, most)
    lassos = [
      members.by_lasso(
        masks, values, folds, order, relaxed=relaxed, weights=weights
      )
      for order in range(1, largest + 1)
      for relaxed in (True, False)
    ]
    return present(lassos), ""
  if method == "proxyspex":
    return [members.by_trees(masks, values, folds, max_order, weights)], ""
  if method == "gaussian":
    alone = process_members.by_gaussian(
      masks, values, max_order, weights=weights
    )
    return present(alone), ""
  fit = members.gram_fit(masks, values, max_order, weights)
  if method == "gram":
    if fit is None:
      least = policy.POLICY.least_scanned
      raise ValueError(
        f"The Gram scan needs at least {least} masks, and few enough players; "
        f"got {len(masks)} masks of {masks.shape[1]} players."
      )
    fit, left_out = deeper.deepened(
      masks, values, folds, fit, max_order, weights
    )
    scanned = members.by_gram(masks, values, folds, fit, weights=weights)
    return present([scanned]), left_out
  # The quick and decisive ones first: an exact scan needs no comparison.
  deviation = regress.standardise(values[:, None])[2][0]
  scan = lambda baseline: members.by_gram(
    masks, values, folds, fit, baseline, weights
  )
  exact = scan(values + _ALMOST * deviation)
  if exact is not None:
    left = (exact.out_of_fold - values) / deviation
    if np.sqrt((left**2).mean()) <= _ALMOST:
      return [exact], ""
  left_out = ""
  if fit is not None:
    fit, left_out = deeper.deepened(
      masks, values, folds, fit, max_order, weights
    )
  first = None if fit is None else folds_lib.first_fold(masks, folds, fit)

  def processes():
    try:
      found = process_members.by_gaussian(
        masks, values, max_order, first, weights
      )
    except FloatingPointError as error:
      return [], f" No Gaussian process: {error}"
    far = " No Gaussian process: a Gram scan is far ahead of it."
    return found, "" if found else far

  # They know nothing of one another, and a first call compiles one beside the
  # other.
  trees = lambda: (
    [members.by_trees(masks, values, folds, max_order, weights)],
    "",
  )
  found: list[members.Member | None] = [members.mean(masks, values, weights)]
  if weights is not None:
    # Few masks may hold most of the weight, too few for the others' parameters.
    found.append(members.by_lasso(masks, values, folds, 1, weights=weights))
  for some, note in threads.side_by_side(lambda f: f(), [trees, processes]):
    found += some
    left_out += note
  # Weak where the others are strong: then one fold of these tells.
  baseline = stack.best(values, present(found), weights).out_of_fold
  most = policy.POLICY.lasso_order
  if min(masks.shape[1], max_order or most) >= most:
    found.append(
      members.by_lasso(
        masks,
        values,
        folds,
        most,
        relaxed=True,
        baseline=baseline,
        weights=weights,
      )
    )
  found.append(scan(baseline))
  return present(found), left_out


def present(
  found: Sequence[members.Member | None],
) -> list[members.Member]:
  """The members that are there, and whose predictions are finite."""
  return [
    member
    for member in found
    if member is not None and np.isfinite(member.out_of_fold).all()
  ]
