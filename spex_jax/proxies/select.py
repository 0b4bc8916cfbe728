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
_LEAST_SPLIT = 16  # Fewer samples are not split to compare orders.


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
  guess = np.stack([f(samples.masks) for f in functions], axis=1)
  return np.asarray(score.r2(samples.values, guess))


def by_lasso(samples: Samples, max_order: int | None = None) -> Answer:
  """Lasso on order 1 or 2, whichever predicts a tenth held in better.

  Args:
    samples: at least one mask. Fewer than 16 are fitted by order 1 alone,
      fewer than 3 by their mean.
    max_order: 1 forbids pairs.
  """
  num_masks, n = samples.masks.shape
  if num_masks < 3:
    mean = samples.values.mean(axis=0)
    functions = [sparse.SparseFourier.from_terms(n, [((), v)]) for v in mean]
    return Answer(functions, "lasso", ["Under 3 masks: only their mean."])
  order, notes = 1, []
  if n > 1 and (max_order is None or max_order > 1):
    if num_masks < _LEAST_SPLIT:
      notes.append(f"{num_masks} masks are too few to judge pairs: order 1.")
    else:
      rest, test = split(samples, max(4, num_masks // 10))
      scores = [_mean(r2(test, _lassos(rest, k))) for k in (1, 2)]
      order = 1 + int(scores[1] > scores[0])
      notes.append(
        f"Lasso of order {order}: on {len(test.masks)} masks that were kept "
        f"aside, order 1 has R^2 {scores[0]:.3f} and order 2 {scores[1]:.3f}."
      )
  return Answer(_lassos(samples, order), "lasso", notes)


def by_plan(
  plan: spex.QueryPlan, values: np.ndarray, max_order: int | None = None
) -> Answer:
  """SPEX or lasso on the masks of a plan alone.

  Both decode the nested plan of half the masks and predict the other half.

  Args:
    plan: of N masks.
    values: `[N, T]`, equal for equal masks.
    max_order: of the lasso.
  """
  answer = by_spex(plan, values)
  if is_explained(plan, values, answer):
    return answer._replace(notes=[*answer.notes, _EXACT_NOTE])
  if plan.num_bits < 2:
    note = "The plan is too small to compare SPEX with the lasso."
    return answer._replace(notes=[*answer.notes, note])
  half, index = plan.shrink(plan.num_bits - 1)
  samples = Samples(plan.masks(), values)
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

  Args:
    plan: of N masks.
    values: `[N, T]`.
    extra: uniform masks outside the plan; the first `num_test` judge, the
      others serve the lasso, and all of them the winner's last fit.
    num_test: at least 1.
    max_order: of the lasso.
  """
  answer = by_spex(plan, values)
  test = extra.at(slice(num_test))
  scores = [_mean(r2(test, answer.functions))]
  if scores[0] > 1 - _EXPLAINED:
    return answer._replace(notes=[*answer.notes, _EXACT_NOTE])
  planned = Samples(plan.masks(), values)
  samples = planned.join(extra.at(slice(num_test, None)))
  scores.append(_mean(r2(test, by_lasso(samples, max_order).functions)))
  note = _comparison(scores, f"{num_test} masks that neither had seen")
  everything = planned.join(extra)
  if _prefers_spex(scores):
    functions = [
      _refit(everything.masks, column, function)
      for column, function in zip(everything.values.T, answer.functions)
    ]
    return answer._replace(functions=functions, notes=[note, *answer.notes])
  answer = by_lasso(everything, max_order)
  return answer._replace(notes=[note, *answer.notes])


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


def is_explained(
  plan: spex.QueryPlan, values: np.ndarray, answer: Answer
) -> bool:
  """Whether an answer gives the plan's own values to the last digits.

  And with few sets: beyond an eighth of the masks they may interpolate.
  """
  if max(int(f.count) for f in answer.functions) > plan.num_masks // 8:
    return False
  return _mean(r2(Samples(plan.masks(), values), answer.functions)) > (
    1 - _EXPLAINED
  )


def merge(
  masks: np.ndarray, values: np.ndarray, *, strict: bool
) -> tuple[Samples, np.ndarray, np.ndarray | None, list[str]]:
  """Joins equal masks by the mean of their values.

  Returns:
    The samples, in order of first occurrence; `[B]` the sample of each row;
    `[T]` standard deviation among equal masks, None if all differ; notes.

  Raises:
    ValueError: equal masks of different values, if `strict`.
  """
  first, inverse = packing.distinct_masks(masks)
  num_repeats = len(masks) - len(first)
  if not num_repeats:
    return Samples(masks, values), inverse, None, []
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
  return Samples(masks[first], means * size), inverse, noise, notes


def unseen(
  held_out: tuple[base.Masks, base.Values], samples: Samples
) -> Samples:
  """The held-out masks that are not among the samples, each once.

  Raises:
    ValueError: none is left, or other players or targets.
  """
  masks = base.check_masks(held_out[0], samples.masks.shape[1])
  values = base.check_values(held_out[1], len(masks))
  values = values.reshape(len(masks), -1)
  if values.shape[1] != samples.values.shape[1]:
    raise ValueError(
      f"Held-out values have {values.shape[1]} targets; the samples have "
      f"{samples.values.shape[1]}."
    )
  num_seen = len(samples.masks)
  first = packing.distinct_masks(np.concatenate([samples.masks, masks])).first
  rows = first[first >= num_seen] - num_seen
  if not len(rows):
    raise ValueError("Every held-out mask is among the samples, or none came.")
  return Samples(masks[rows], values[rows])


def split(samples: Samples, num_test: int) -> tuple[Samples, Samples]:
  """Splits off `num_test` rows, spread by golden-ratio steps: no randomness."""
  num_masks = len(samples.masks)
  steps = np.arange(num_masks, dtype=np.uint64) * np.uint64(2654435769)
  order = np.argsort(steps & np.uint64(0xFFFFFFFF), kind="stable")
  return samples.at(np.sort(order[num_test:])), samples.at(
    np.sort(order[:num_test])
  )


def _lassos(samples, order):
  return [lasso.fit(samples.masks, v, order) for v in samples.values.T]


def _refit(masks, values, function):
  """The same sets on all samples."""
  rows = int(function.count)
  players = np.asarray(function.players)[:rows]
  found = regress.refit(masks, values, players, function.n)
  kept = (found.coefs != 0) | (players == function.n).all(axis=1)
  return sparse.SparseFourier.from_players(
    function.n, players[kept], found.coefs[kept]
  )


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
