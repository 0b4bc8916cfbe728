"""The portfolio: which decoder explains these samples best.

Decoders are compared on masks that neither of them has seen, by R^2 averaged
over targets; the winner then speaks from all samples. SPEX that explains its
own plan to the last digit needs no comparison: noise cannot do that.

Shapes: n players, B masks, T targets.
"""

from typing import NamedTuple

import numpy as np

from spex_jax import base
from spex_jax.fourier import lasso, regress, score, sparse, spex
from spex_jax.masks import packing

_EXPLAINED = 1e-9  # Share of the energy left by an exact SPEX decode.
_REPEATABLE = 1e-6  # Differences below this share of max|f| are rounding.
_GAIN = 1e-6  # Of R^2, below which more sets gain nothing.
_LEAST_SPLIT = 16  # Fewer samples are not split to compare orders.
MASK_BYTES = 1 << 28  # Masks held unpacked at once.
LASSO_ORDER = 2


class Samples(NamedTuple):
  """Distinct masks bool `[B, n]` with their values float64 `[B, T]`."""

  masks: np.ndarray
  values: np.ndarray

  def at(self, rows) -> "Samples":
    """The samples of some rows."""
    return Samples(self.masks[rows], self.values[rows])

  def join(self, other: "Samples") -> "Samples":
    """These and the others, in this order."""
    return Samples(*(np.concatenate(pair) for pair in zip(self, other)))


class Answer(NamedTuple):
  """One expansion a target, the decoder that found them, and why it."""

  functions: list[sparse.SparseFourier]
  method: str
  notes: list[str]


def r2(samples: Samples, functions: list[sparse.SparseFourier]) -> np.ndarray:
  """R² of one function a target, `[T]`; see `fourier.score.r2`."""
  guess = [lasso.evaluate(samples.masks, f) for f in functions]
  guess = np.stack(guess, axis=1)
  return np.asarray(score.r2(samples.values, guess))


def by_lasso(samples: Samples, max_order: int | None = None) -> Answer:
  """Lasso of order 1 or 2, or the mean: what predicts a tenth kept aside best.

  Args:
    samples: at least one mask. Fewer than 16 are fitted by order 1 alone,
      fewer than 3 by their mean.
    max_order: 1 forbids pairs; above 2 changes nothing, and a note says so.
  """
  num_masks = len(samples.masks)
  if num_masks < 3:
    note = "Under 3 masks: only their mean."
    return Answer(_means(samples), "lasso", [note])
  notes = _order_notes(max_order)
  if num_masks < _LEAST_SPLIT:
    notes.append(f"{num_masks} masks are too few to judge pairs: order 1.")
    return Answer(_lassos(samples, 1), "lasso", notes)
  rest, test = split(samples, max(4, num_masks // 10))
  answer, _ = _best_lasso(rest, test, max_order)
  return _on_all(answer, samples)


def by_plan(
  plan: spex.QueryPlan, values: np.ndarray, max_order: int | None = None
) -> Answer:
  """SPEX or lasso on the masks of a plan alone.

  Both decode the nested plan of half the masks and predict the other half.

  Args:
    plan: of N masks; of one too large to be held in memory SPEX is not
      compared.
    values: `[N, T]`, equal for equal masks.
    max_order: of the lasso.
  """
  answer = by_spex(plan, values)
  if plan.num_masks * plan.n > MASK_BYTES:
    note = "The plan is too large for a lasso to be tried beside it."
    return answer._replace(notes=[*answer.notes, note])
  samples = Samples(plan.masks(), values)
  if is_explained(samples, answer):
    return answer._replace(notes=[*answer.notes, _EXACT_NOTE])
  if plan.num_bits < 2:
    note = "The plan is too small to compare SPEX with the lasso."
    return answer._replace(notes=[*answer.notes, note])
  half, index = plan.shrink(plan.num_bits - 1)
  other = np.delete(np.arange(plan.num_masks), index)
  test = samples.at(other)
  scores = (
    _mean(r2(test, by_spex(half, values[index]).functions)),
    _mean(r2(test, by_lasso(samples.at(index), max_order).functions)),
  )
  note = _comparison(scores, f"the other half of the plan ({len(other)} masks)")
  if not _prefers_spex(scores):
    answer = by_lasso(samples, max_order)
  return answer._replace(notes=[note, *answer.notes])


def compare(
  plan: spex.QueryPlan,
  values: np.ndarray,
  extra: Samples,
  num_test: int,
  max_order: int | None = None,
) -> Answer:
  """SPEX or lasso, where there are further uniform masks beside a plan.

  Uniform masks judge everything, the order of the lasso too: on the masks of
  a plan, sets of high order look like sets of low order.

  Args:
    plan: of N masks, which fit in memory.
    values: `[N, T]`.
    extra: uniform masks outside the plan; the first `num_test` judge, the
      others serve the lasso, and all of them the winner's last fit.
    num_test: at least 1.
    max_order: of the lasso.
  """
  answer = by_spex(plan, values)
  test = extra.at(slice(num_test))
  spoken = _mean(r2(test, answer.functions))
  if spoken > 1 - _EXPLAINED:
    return answer._replace(notes=[*answer.notes, _EXACT_NOTE])
  planned = Samples(plan.masks(), values)
  samples = planned.join(extra.at(slice(num_test, None)))
  rival, best = _best_lasso(samples, test, max_order)
  scores = spoken, best
  note = _comparison(scores, f"{num_test} masks that neither had seen")
  winner = answer if _prefers_spex(scores) else rival
  winner = _on_all(winner, planned.join(extra))
  return winner._replace(notes=[note, *winner.notes])


_EXACT_NOTE = "SPEX explains the values to the last digits; no lasso was tried."


def by_spex(plan: spex.QueryPlan, values: np.ndarray) -> Answer:
  """SPEX on the values `[N, T]` of a plan, whatever it may find."""
  result = spex.decode(plan, values)
  num_targets = values.shape[1]
  functions = [result.fourier.target(t) for t in range(num_targets)]
  left = np.asarray(result.energy_left)
  ends = ", ".join(sorted(set(result.status)))
  note = (
    f"SPEX on {plan.num_masks} masks, sets of up to {plan.code.t}, ended as "
    f"{ends}; it leaves {left.max():.2g} of the variance of its samples."
  )
  return Answer(functions, "spex", [note])


def is_explained(samples: Samples, answer: Answer) -> bool:
  """Whether an answer gives its own samples to the last digits.

  And with few sets: beyond an eighth of the masks they may interpolate.
  """
  most = max(int(f.count) for f in answer.functions)
  if most > len(samples.masks) // 8:
    return False
  return _mean(r2(samples, answer.functions)) > 1 - _EXPLAINED


class Merged(NamedTuple):
  """Values of equal masks, joined by their mean.

  Attributes:
    values: float64 `[U, T]`, one row for each distinct mask.
    noise: `[T]` standard deviation among equal masks; None if all differ.
    notes: what to tell about it.
  """

  values: np.ndarray
  noise: np.ndarray | None
  notes: list[str]


def merge(
  distinct: packing.Distinct, values: np.ndarray, *, strict: bool
) -> Merged:
  """Joins the values `[B, T]` of equal masks.

  Raises:
    ValueError: equal masks of different values, if `strict`.
  """
  first, inverse = distinct
  num_repeats = len(values) - len(first)
  if not num_repeats:
    return Merged(values, None, [])
  size = np.abs(values).max(axis=0)
  size = np.where(size > 0, size, 1.0)
  unit = values / size
  counts = np.bincount(inverse)[:, None]
  means = np.zeros((len(first), values.shape[1]))
  np.add.at(means, inverse, unit)
  means /= counts
  left = unit - means[inverse]
  noise = np.sqrt((left**2).sum(axis=0) / num_repeats) * size
  notes = [f"{num_repeats} repeated masks were merged by their mean."]
  if (np.abs(left).max(axis=0) > _REPEATABLE).any():
    text = f"{num_repeats} repeats of equal masks have other values"
    if strict:
      raise ValueError(f"{text}; mend the samples, or use strict=False.")
    notes.append(f"{text}; see the noise floor.")
  return Merged(means * size, noise, notes)


def unseen(
  held_out: tuple[base.Masks, base.Values],
  n: int,
  num_targets: int,
  hashes: np.ndarray,
) -> Samples:
  """The held-out masks that are not among the samples, each once.

  Args:
    held_out: masks and values.
    n: players, and `num_targets` targets, of the samples.
    num_targets: T.
    hashes: uint64 `[B, 2]` of the samples' masks, of `masks.packing`.

  Raises:
    ValueError: none is left, or other players or targets.
  """
  masks = base.check_masks(held_out[0], n)
  none = "Every held-out mask is among the samples, or none came."
  if not len(masks):
    raise ValueError(none)
  values = base.check_values(held_out[1], len(masks)).reshape(len(masks), -1)
  if values.shape[1] != num_targets:
    raise ValueError(
      f"Held-out values have {values.shape[1]} targets; the samples have "
      f"{num_targets}."
    )
  both = np.concatenate([hashes, packing.hash_masks(masks, bits=128)])
  first = packing.distinct_hashes(both).first
  rows = first[first >= len(hashes)] - len(hashes)
  if not len(rows):
    raise ValueError(none)
  return Samples(masks[rows], values[rows])


def split(samples: Samples, num_test: int) -> tuple[Samples, Samples]:
  """Splits off `num_test` rows, spread by golden-ratio steps: no randomness."""
  order = regress.spread_order(len(samples.masks))
  return samples.at(np.sort(order[num_test:])), samples.at(
    np.sort(order[:num_test])
  )


def _best_lasso(
  samples: Samples, test: Samples, max_order: int | None
) -> tuple[Answer, float]:
  """The mean, order 1 or order 2: the best on `test`, and its score there."""
  n = samples.masks.shape[1]
  best, functions = "the mean alone", _means(samples)
  top, told = _mean(r2(test, functions)), []
  for order in (1, 2):
    if order > min(n, max_order or LASSO_ORDER) or top > 1 - _EXPLAINED:
      break  # Nothing can win against an exact fit.
    fitted = _lassos(samples, order)
    found = _mean(r2(test, fitted))
    told.append(f"order {order} R^2 {found:.3f}")
    if found > top + _GAIN:
      best, functions, top = f"order {order}", fitted, found
  note = (
    f"Lasso, {best}: on {len(test.masks)} masks that were kept aside "
    f"it has R^2 {top:.3f} ({', '.join(told) or 'exact'})."
  )
  return Answer(functions, "lasso", [*_order_notes(max_order), note]), top


def _on_all(answer: Answer, samples: Samples) -> Answer:
  """The same sets, refitted on all samples."""
  functions = [
    lasso.refit_sets(samples.masks, column, function)
    for column, function in zip(samples.values.T, answer.functions)
  ]
  return answer._replace(functions=functions)


def _order_notes(max_order):
  if max_order is None or max_order <= LASSO_ORDER:
    return []
  return [
    f"The lasso fits sets of up to {LASSO_ORDER}, not max_order={max_order}."
  ]


def _lassos(samples, order):
  return lasso.fit_targets(samples.masks, samples.values, order)


def _means(samples):
  n = samples.masks.shape[1]
  size = np.abs(samples.values).max(axis=0)
  size = np.where(size > 0, size, 1.0)  # No sum overflows.
  means = ((samples.values / size).mean(axis=0) * size).tolist()
  return [sparse.SparseFourier.from_terms(n, [((), v)]) for v in means]


def _prefers_spex(scores):
  # Far sparser, it speaks unless it leaves a tenth more unexplained.
  return 1 - scores[0] <= 1.1 * (1 - scores[1])


def _comparison(scores, where):
  winner = "SPEX" if _prefers_spex(scores) else "the lasso"
  return (
    f"{winner} was chosen: R^2 on {where} is {scores[0]:.3f} for SPEX and "
    f"{scores[1]:.3f} for the lasso."
  )


def _mean(scores: base.Array) -> float:
  # One hopeless target must not outvote the others.
  return float(np.maximum(scores, -1.0).mean())
