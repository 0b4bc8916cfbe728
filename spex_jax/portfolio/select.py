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
from spex_jax.portfolio import (
  few,
  members,
  one_target,
  policy,
  precision,
  stack,
)
from spex_jax.portfolio import folds as folds_lib
from spex_jax.portfolio.samples import Confounded, Samples, confounded, uneven

_EXPLAINED = 1e-9  # Share of the energy left by an exact SPEX decode.


class Answer(NamedTuple):
  """One expansion a target, the decoder that found them, and why it.

  Attributes:
    functions: T expansions.
    method: the decoder that answered.
    notes: sentences on why it was chosen, and how it was fitted.
    out_of_fold: `[B, T]` predictions of the samples by fits that have not seen
      them, of the same masks in the same order; or None.
    growth_std: `[T]` the `growth_std` of each `stack.Stacked`; or None.
    moved: `[T]` the standard deviation of what a mask moves R^2 by, out of
      fold; or None.
    std: standard errors of the coefficients of each function; or None.
    confounded: players that the masks fitted to cannot tell apart; or None.
    weights: T times the weights `[B]` of the samples, by which each target was
      fitted and its `out_of_fold` is to be judged, or None for equal ones.
  """

  functions: list[sparse.SparseFourier]
  method: str
  notes: list[str]
  out_of_fold: np.ndarray | None = None
  growth_std: np.ndarray | None = None
  moved: np.ndarray | None = None
  std: list[np.ndarray] | None = None
  confounded: Confounded | None = None
  weights: list[np.ndarray | None] | None = None


PROXIES = ("proxyspex", "gaussian", "gram", "lasso")


def by_proxies(
  samples: Samples,
  method: str = "auto",
  max_order: int | None = None,
  std: np.ndarray | None = None,
) -> Answer:
  """What any masks allow: one of `PROXIES`, or the best of them stacked.

  Args:
    samples: one mask or more. Fewer than 8 are answered by order 1, fewer
      than 4 by their mean.
    method: one of `PROXIES`, or "auto".
    max_order: the largest sets; the lasso's have at most 2, the trees' 5.
    std: `[B, T]` standard errors of the values, as in `samples.Merged`; None
      where all are known equally well, for all that is known.
  """
  # Without what all values share, which would cost the others their digits.
  origin = base.origin(samples.values)
  values = samples.values - origin
  values[:, base.is_constant(samples.values)] = 0.0
  centred = Samples(samples.masks, values)
  answer = _shifted(_by_proxies(centred, method, max_order, std), origin)
  if note := uneven(samples.masks):
    answer = answer._replace(notes=[*answer.notes, note], std=None)
  return answer._replace(confounded=confounded(samples.masks))


def _shifted(answer, by):
  """The answer with `by` `[T]` added to its functions."""
  out_of_fold = answer.out_of_fold
  return answer._replace(
    functions=[f.shifted(c) for f, c in zip(answer.functions, by.tolist())],
    out_of_fold=None if out_of_fold is None else out_of_fold + by,
  )


def _by_proxies(samples, method, max_order, std):
  num_masks = len(samples.masks)
  if num_masks < policy.POLICY.least_fitted:
    least = policy.POLICY.least_fitted
    note = f"{num_masks} masks, under {least}: only their mean."
    means = [
      members.mean(samples.masks, column).function
      for column in samples.values.T
    ]
    return Answer(means, "mean", [note])
  if num_masks < policy.POLICY.least_split:
    return Answer(*few.fitted(samples, _errors(samples, std)))
  notes = _order_notes(max_order) if method == "lasso" else []
  fits = [
    one_target.answer(samples.masks, column, method, max_order, known)
    for column, known in zip(samples.values.T, _errors(samples, std))
  ]
  answers = [answer for answer, _ in fits]
  single = len(answers) == 1
  for t, answer in enumerate(answers):
    notes.append(answer.note if single else f"Target {t}: {answer.note}")
  std = [answer.std for answer in answers if answer.std is not None]
  chosen = {name for answer in answers for name in answer.weights}
  out_of_fold = np.stack([answer.out_of_fold for answer in answers], axis=1)
  moved = np.atleast_1d(score.r2_std(samples.values, out_of_fold))
  for t, (_, weights) in enumerate(fits):
    if weights is not None:
      both = samples.values[:, t], out_of_fold[:, t]
      moved[t] = precision.r2(*both, weights)[1]
  with np.errstate(over="ignore"):  # An error beyond float64 is no error.
    moved = moved * np.sqrt(num_masks - 1)
  return Answer(
    [answer.function for answer in answers],
    _named(chosen) if method == "auto" else method,
    notes,
    out_of_fold,
    np.array([answer.growth_std for answer in answers]),
    np.where(np.isfinite(moved), moved, 0.0),
    std if len(std) == len(answers) else None,
    weights=[weights for _, weights in fits],
  )


def _errors(samples, std):
  """T standard errors `[B]` of the values, or None."""
  if std is None:
    return [None] * samples.values.shape[1]
  return [each if each.any() else None for each in std.T]


def _named(names):
  return (
    names.pop() if len(names) == 1 else "stack of " + ", ".join(sorted(names))
  )


def fit_members(masks: base.Masks, values: np.ndarray) -> list[members.Member]:
  """The members of `auto`; a Gram scan alone where it leaves nothing.

  Args:
    masks: bool `[B, n]`, 8 or more.
    values: `[B]`, not all equal, and about 0.
  """
  return one_target.fitted(masks, values, "auto", None)[0]


def suspects_planted(samples: Samples, max_order: int | None = None) -> bool:
  """Whether nothing that is quick explains half of these samples.

  Lasso and Gram scan: what they miss may be sets of high order, which only a
  plan finds, or noise. Targets that are constant say nothing.
  """
  folds = folds_lib.spread(len(samples.masks))
  scores = []
  values = samples.values[:, ~base.is_constant(samples.values)]
  if not values.shape[1]:
    return False
  for column in (values - base.origin(values)).T:
    found = [
      members.mean(samples.masks, column),
      members.by_lasso(samples.masks, column, folds, 1),
    ]
    baseline = stack.best(column, one_target.present(found))
    fit = members.gram_fit(samples.masks, column, max_order)
    scanned = members.by_gram(
      samples.masks, column, folds, fit, baseline.out_of_fold
    )
    out_of_fold = (scanned or baseline).out_of_fold
    scores.append(float(score.r2(column, out_of_fold)))
  return float(np.maximum(scores, -1.0).mean()) < policy.POLICY.planted_r2


def by_plan(
  plan: spex.QueryPlan, values: np.ndarray, max_order: int | None = None
) -> Answer:
  """SPEX or lasso on the masks of a plan alone.

  Both decode the nested plan of half the masks and predict those of the other
  half that it lacks.

  Args:
    plan: a plan of N masks; SPEX is not compared on one too large to be held
      in memory.
    values: `[N, T]`, equal for equal masks.
    max_order: the largest sets of the lasso.
  """
  answer = by_spex(plan, values)
  if plan.num_masks * plan.n > policy.POLICY.unpacked_bytes:
    note = "The plan is too large for a lasso to be tried beside it."
    return answer._replace(notes=[*answer.notes, note])
  samples = planned(plan, values)
  if is_explained(samples, answer):
    return answer._replace(notes=[*answer.notes, _EXACT_NOTE])
  small = "The plan is too small to compare SPEX with the lasso."
  if plan.num_bits < 2:
    return answer._replace(notes=[*answer.notes, small])
  half, index = plan.shrink(plan.num_bits - 1)
  seen = planned(half, values[index])
  # Of few players some masks of the other half are in this one, too.
  both = packing.distinct_masks(np.concatenate([seen.masks, samples.masks]))
  fresh = both.first - len(seen.masks)
  test = samples.at(fresh[fresh >= 0])
  if len(test.masks) < policy.POLICY.least_split:
    return answer._replace(notes=[*answer.notes, small])
  scores = (
    mean_score(test, by_spex(half, values[index])),
    mean_score(test, _lasso(seen, max_order)),
  )
  where = f"the other half of the plan ({len(test.masks)} masks)"
  note = _comparison(scores, where)
  if not prefers_spex(scores):
    answer = _lasso(samples, max_order)
  return answer._replace(notes=[note, *answer.notes])


def planned(plan: spex.QueryPlan, values: np.ndarray) -> Samples:
  """The masks of a plan and their values `[N, T]`, each mask once.

  Of few players a plan has many masks several times. Whoever predicts out of
  fold must not see a mask's twin, nor count it as evidence of its own.
  """
  first = plan.distinct().first
  return Samples(plan.masks()[first], values[first])


def _lasso(samples, max_order):
  return by_proxies(samples, "lasso", max_order)


def compare(
  plan: spex.QueryPlan,
  values: np.ndarray,
  uniform: Samples,
  max_order: int | None = None,
) -> Answer:
  """SPEX, or the proxies, where there are uniform masks beside a plan.

  Uniform masks alone judge: on the masks of a plan, sets of high order look
  like sets of low order. SPEX has not seen them; the proxies predict each of
  them without it.

  Args:
    plan: N masks, which fit in memory.
    values: `[N, T]`.
    uniform: masks outside the plan, at least 1.
    max_order: the largest sets of the proxies.
  """
  answer = by_spex(plan, values)
  reached = mean_score(uniform, answer)
  if reached.value > 1 - _EXPLAINED:
    return answer._replace(notes=[*answer.notes, _EXACT_NOTE])
  own = planned(plan, values)
  baseline = by_proxies(uniform.join(own), "auto", max_order)
  best = Score(-1.0, 0.0)
  if baseline.out_of_fold is not None:
    best = _score(uniform.values, baseline.out_of_fold[: len(uniform.masks)])
  scores = reached, best
  where = f"{len(uniform.masks)} masks that neither had seen"
  note = _comparison(scores, where)
  if prefers_spex(scores):
    winner = refitted(answer, own.join(uniform))
  else:
    winner = baseline._replace(out_of_fold=None)
  return winner._replace(notes=[note, *winner.notes])


_EXACT_NOTE = "SPEX explains the values to the last digits; no proxy was tried."


def by_spex(plan: spex.QueryPlan, values: np.ndarray) -> Answer:
  """SPEX on the values `[N, T]` of a plan, whatever it may find."""
  result = spex.decode(plan, values)
  num_targets = values.shape[1]
  functions = [result.fourier.target(t) for t in range(num_targets)]
  left = np.asarray(result.energy_left)
  alike, number = None, plan.num_masks
  if plan.num_masks * plan.n <= policy.POLICY.unpacked_bytes:
    alike = confounded(plan.masks())
    # Of few players a plan has masks twice, which were asked once.
    number = len(plan.distinct().first)
  ends = ", ".join(sorted(set(result.status)))
  note = (
    f"SPEX on {number} masks, sets of up to {plan.code.t}, ended as "
    f"{ends}; it leaves {left.max():.2g} of the variance of its samples."
  )
  # What an exact decode leaves is rounding.
  spreads = regress.standardise(values)[2] * np.sqrt(left * (left > _EXPLAINED))
  std = [_flat(f, spread, number) for f, spread in zip(functions, spreads)]
  return Answer(functions, "spex", [note], std=std, confounded=alike)


def _flat(function, spread, number):
  """Errors of regression on characters, which a plan leaves orthogonal."""
  free = max(1.0, number - int(function.count))
  return np.full(function.coefs.shape, spread / np.sqrt(free))


def is_explained(samples: Samples, answer: Answer) -> bool:
  """Whether an answer gives its own samples to the last digits.

  And with few sets: beyond an eighth of the masks they may interpolate.
  """
  most = max(int(f.count) for f in answer.functions)
  if most > len(samples.masks) // policy.POLICY.exact_one_in:
    return False
  return mean_score(samples, answer).value > 1 - _EXPLAINED


class Score(NamedTuple):
  """R^2, averaged over targets, each at least -1, and its standard error."""

  value: float
  std: float

  def __str__(self) -> str:
    return score.shown(*self)


def mean_score(samples: Samples, answer: Answer) -> Score:
  """How well an answer gives the values of samples."""
  return _score(samples.values, guesses(samples, answer))


def guesses(samples: Samples, answer: Answer) -> np.ndarray:
  """`[B, T]` what an answer says of the masks of samples."""
  guesses = [lasso.evaluate(samples.masks, f) for f in answer.functions]
  return np.stack(guesses, axis=1)


def _score(values: np.ndarray, guess: np.ndarray) -> Score:
  # One hopeless target must not outvote the others.
  found = np.atleast_1d(score.r2(values, guess))
  std = np.where(found > -1, score.r2_std(values, guess), 0.0)
  varies = ~(base.is_constant(values) & (found >= 1))
  if varies.any():  # A constant that is met says nothing of the others.
    found, std = found[varies], std[varies]
  with np.errstate(over="ignore"):
    return Score(float(np.maximum(found, -1.0).mean()), float(std.mean()))


def refitted(answer: Answer, samples: Samples) -> Answer:
  """The same sets, refitted on all samples."""
  functions = [
    lasso.refit_sets(samples.masks, column, function)
    for column, function in zip(samples.values.T, answer.functions)
  ]
  std = answer.std
  if std is not None:  # Sets may have gone, and masks have come.
    answer = answer._replace(functions=functions)
    unit, _, scale = regress.standardise(samples.values)
    missed = samples.values - guesses(samples, answer)
    rest, _, left = regress.standardise(missed)
    # What an exact decode leaves is rounding.
    left *= rest.any(axis=0) & ((left / scale) ** 2 > _EXPLAINED)
    std = [_flat(f, spread, len(unit)) for f, spread in zip(functions, left)]
  return answer._replace(functions=functions, std=std)


def _order_notes(max_order):
  most = policy.POLICY.lasso_order
  if max_order is None or max_order <= most:
    return []
  return [f"The lasso fits sets of up to {most}, not max_order={max_order}."]


def prefers_spex(scores: tuple[Score, Score]) -> bool:
  """Whether SPEX answers, of its score and that of the proxies.

  Far sparser, it does unless it leaves a tenth more unexplained; but not where
  it is worse than the mean.
  """
  by_spex, by_baseline = (found.value for found in scores)
  if by_spex < 0:
    return by_spex >= by_baseline
  return 1 - by_spex <= policy.POLICY.spex_leaves * (1 - by_baseline)


def _comparison(scores, where):
  winner = "SPEX" if prefers_spex(scores) else "a proxy"
  return (
    f"{winner} was chosen: R^2 on {where} is {scores[0]} for SPEX and "
    f"{scores[1]} for the proxies."
  )
