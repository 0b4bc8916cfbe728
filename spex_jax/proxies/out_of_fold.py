"""Out-of-fold predictions of a Gaussian process.

Shapes: n players, B masks.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from spex_jax import base
from spex_jax.fourier import regress
from spex_jax.proxies import gaussian, threads

_STEPS = 15  # Of a group, in place of those of `gaussian.fit`.


class OutOfFold(NamedTuple):
  """Predictions of values that neither parameters nor weights have seen.

  Attributes:
    mean: `[B]` predictions, in the units of the values.
    std: `[B]` their standard deviations, noise included.
    rising: the worst `gaussian.Posterior.rising` of the groups, NaN before all.
    groups: each group's rows, and parameters tuned on all others.
  """

  mean: np.ndarray
  std: np.ndarray
  rising: float
  groups: list[tuple[np.ndarray, gaussian.Params]]


def predict(
  masks: base.Masks,
  values: base.Values,
  *,
  spread: float = gaussian.SPREADS[-1],
  groups: int = 2,
  most_tuned: int = 1024,
  warm_start: OutOfFold | None = None,
  weights: np.ndarray | None = None,
) -> OutOfFold:
  """Each group's values, by parameters tuned on the other groups.

  The weights are those of all values but one (`gaussian.leave_one_out`): far
  cheaper than a fit for each fold, and as little flattered, as long as few
  parameters are tuned on many masks; what it costs is that they see fewer.

  Args:
    masks: bool `[B, n]`, B >= 2.
    values: `[B]`, finite.
    spread: how far players may differ, as for `gaussian.fit`.
    groups: their number, from 2; fewer masks than groups are a group each.
    most_tuned: how many masks are tuned on, as for `gaussian.fit`.
    warm_start: the predictions of a product kernel on the same samples; its
      groups are taken, and their parameters with directions added.
    weights: `[B]` of the values, as for `gaussian.fit`.

  Raises:
    ValueError: a single mask, or what `gaussian.fit` refuses.
  """
  masks = base.check_masks(masks)
  values = base.check_values(values, len(masks))
  if len(masks) < 2:
    raise ValueError("Cross-prediction needs at least 2 masks; got 1.")
  signs, unit, mean, scale = gaussian.standard(masks, values, weights)
  parts = _parts(len(unit), groups)

  def tuned_on(rows, params):
    known = None if weights is None else weights[rows]
    own, shift, size = regress.standardise(unit[rows, None], True, known)
    found, rising = gaussian.tuned(
      signs[rows], own[:, 0], spread, params, most_tuned, _STEPS, known
    )
    return found, rising, shift[0], size[0]

  begin: Sequence[gaussian.Params | None] = [None] * len(parts)
  if warm_start is not None:
    parts = [part for part, _ in warm_start.groups]
    begin = [
      gaussian.with_directions(params) for _, params in warm_start.groups
    ]
  elif len(parts) == 4 and len(unit) >= 2 * gaussian.FIRST:
    # The long first round, once for two groups: on the half with neither.
    first, last = (
      np.sort(np.concatenate(two)) for two in (parts[:2], parts[2:])
    )
    halves = threads.side_by_side(
      lambda rows: tuned_on(rows, None)[0], (last, first)
    )
    begin = [halves[0]] * 2 + [halves[1]] * 2

  def left_out(group):
    part, params = group
    rest = np.delete(np.arange(len(unit)), part)
    # The group must not shift the mean that its values are predicted from.
    own, rising, shift, size = tuned_on(rest, params)
    seen = (unit - shift) / size
    posterior = gaussian.conditioned(
      own, signs, seen, shift, size, rising, weights
    )
    mean, std = gaussian.leave_one_out(posterior)
    return own, rising, mean[part], std[part]

  found = threads.side_by_side(left_out, zip(parts, begin))
  middle, width = np.zeros(len(unit)), np.ones(len(unit))
  for part, (_, _, centre, std) in zip(parts, found):
    middle[part], width[part] = centre * scale + mean, std * scale
  # NaN stays.
  worst = float(np.max([rising for _, rising, _, _ in found]))
  groups_found = [(part, own) for part, (own, *_) in zip(parts, found)]
  return OutOfFold(middle, width, worst, groups_found)


def by_fit(posterior: gaussian.Posterior, groups: int = 4) -> OutOfFold:
  """Each value by all others, with the parameters of a fit to all of them.

  Without a fit for each group. The parameters have seen the value, which
  flatters by about their number in as many values: for masks that are many
  times the players.

  Args:
    posterior: the fit; its samples are those predicted.
    groups: the number of groups of rows returned.
  """
  mean, std = gaussian.leave_one_out(posterior)
  parts = [
    (part, posterior.params) for part in _parts(len(posterior.unit), groups)
  ]
  return OutOfFold(mean, std, float(posterior.rising), parts)


def _parts(count, groups):
  """Rows of each group, spread evenly."""
  order = regress.spread_order(count)
  return np.array_split(order, max(2, min(groups, count)))
