"""How far to trust an answer: its errors on masks that it has not seen.

Shapes: n players, B masks, T targets, E errors.
"""

from typing import NamedTuple

import numpy as np

from spex_jax.fourier import lasso, score
from spex_jax.portfolio import policy, select, stack
from spex_jax.portfolio.samples import Samples


class Judged(NamedTuple):
  """How far to trust an answer.

  Attributes:
    by_terms: `[T]` R^2 by number of sets, see `stack.sparse_scores`.
    by_terms_std: `[T]` standard errors of them.
    errors: `[T, E]` the sizes |f - answer|, ascending; of more than 1,000, E
      evenly spaced ones, the last among them.
    num_masks: the number of masks behind them.
  """

  by_terms: dict[str, np.ndarray]
  by_terms_std: dict[str, np.ndarray]
  errors: np.ndarray
  num_masks: int


def judge(
  answer: select.Answer,
  samples: Samples | None,
  test: Samples | None,
  *,
  least: int | None = None,
) -> Judged | None:
  """On held-out masks; without any, on samples by fits that never saw them.

  Args:
    answer: what is judged.
    samples: what it was fitted to, if they are at hand.
    test: the held-out masks, if any.
    least: fewer held-out masks tell nothing; by default `least_judging`, and 2
      of those that a user chose.

  Returns:
    None where there is nothing to judge by.
  """
  if test is not None and len(test.masks) < (
    policy.POLICY.least_judging if least is None else least
  ):
    return None
  if test is not None:
    values = test.values
    out_of_fold = select.guesses(test, answer)
  elif samples is not None and answer.out_of_fold is not None:
    values, out_of_fold = samples.values, answer.out_of_fold
  else:
    return None
  scores = []
  for t, function in enumerate(answer.functions):
    truth, guess = values[:, t], out_of_fold[:, t]
    if test is not None:
      floor = 0.0 if answer.moved is None else answer.moved[t]
      scores.append(_scores(test.masks, truth, function, guess, floor))
    else:
      growth_std = 0.0 if answer.growth_std is None else answer.growth_std[t]
      weights = None if answer.weights is None else answer.weights[t]
      scores.append(
        stack.sparse_scores(truth, function, guess, growth_std, weights)
      )
  by_terms, by_terms_std = (
    {k: np.asarray([one[k][i] for one in scores]) for k in scores[0]}
    for i in range(2)
  )
  errors = np.sort(np.abs(values - out_of_fold), axis=0).T
  kept = min(len(values), policy.POLICY.most_errors)
  # Rank r of the e kept is rank ceil(r m / e) of all m.
  ranks = -(-np.arange(1, kept + 1) * len(values) // kept)
  return Judged(by_terms, by_terms_std, errors[:, ranks - 1], len(values))


def _scores(masks, values, function, whole, moved):
  """As `stack.sparse_scores`, measured.

  Few masks may miss where the answer is far off, a kink say: each errs at least
  as `moved` of the samples, which are more, has it.
  """
  least = moved / np.sqrt(max(1, len(values) - 1))
  judged = lambda guess: (
    float(score.r2(values, guess)),
    max(float(score.r2_std(values, guess)), least),
  )
  everything, num_sets = judged(whole), int((function.orders > 0).sum())
  found = {
    str(k): everything
    if k >= num_sets
    else judged(lasso.evaluate(masks, function.truncate(k)))
    for k in policy.POLICY.shown_sizes
  }
  return found | {"all": everything}
