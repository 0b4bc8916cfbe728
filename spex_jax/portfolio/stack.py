"""One answer from several members: the best, or a weighted mean of them.

The weights are what predicts values that the members have not seen best.
Expansions are linear, so a weighted mean of members is an expansion too
(Wolpert 1992; weights that are not negative and sum to 1: Breiman 1996).
Residuals out of fold are first made as large as those of a fit to all samples
are expected to be (`folds.Growth`), so that members compare as they will be.

Random masks leave characters orthogonal, so that a coefficient errs by at least
`flat`, the root of the mean square error out of fold over the masks, whatever a
process believes of itself: a kink is wrong where nobody looked. A coefficient
far below `flat` errs less, as it was shrunk. If the sets about it have true
coefficients of deviation t, their estimates are w z, with z the truth and noise
of `flat`, and w = t^2 / (t^2 + flat^2): they are of deviation t sqrt(w), and of
mean square error w flat^2. Where t is small, that is flat times their
deviation, or flat times sqrt(pi / 2) times their mean size. So an estimate
tells its own error; errors are the smaller of both.

Shapes: n players, B masks, M members, K sets.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from spex_jax import base
from spex_jax.fourier import regress, score, sparse
from spex_jax.portfolio import folds as folds_lib
from spex_jax.portfolio import members as members_lib
from spex_jax.portfolio import policy, precision

_SIZE = np.sqrt(np.pi / 2)  # The deviation of normal numbers over their size.


class Stacked(NamedTuple):
  """One target's answer.

  Attributes:
    function: the expansion.
    out_of_fold: float64 `[B]`, each value predicted without it.
    growth_std: standard error of the logarithm of the mean square error, of
      what the members' `Growth` was taken for.
    weights: the stacking weights that are not 0, by name.
    std: `[K]` standard errors of the coefficients, or None; `standard_errors`.
    note: a sentence or two on which members have weights, and why.
  """

  function: sparse.SparseFourier
  out_of_fold: np.ndarray
  growth_std: float
  weights: dict[str, float]
  std: np.ndarray | None
  note: str


def stack(
  masks: base.Masks,
  values: np.ndarray,
  members: Sequence[members_lib.Member],
  weights: np.ndarray | None = None,
) -> Stacked:
  """Joins members that were fitted to the same samples.

  Args:
    masks: bool `[B, n]`.
    values: `[B]`.
    members: one or more, each with the empty set among its sets.
    weights: `[B]` of the values' squares, of mean 1; None for equal ones.
  """
  unit, middle, scale = (
    part[..., 0] for part in regress.standardise(values[:, None], True, weights)
  )
  guesses = np.stack(
    [(_grown(m, values) - middle) / scale for m in members], axis=1
  )
  # Rows times the roots of their weights: sums of squares are weighted.
  rooted = (unit, guesses)
  if weights is not None:
    root = np.sqrt(weights)
    rooted = unit * root, guesses * root[:, None]
  truth, seen = rooted
  errors = ((seen - truth[:, None]) ** 2).mean(axis=0)
  best = int(np.argmin(errors))
  shares = np.zeros(len(members))
  shares[best] = 1.0
  mixed = _weigh(truth, seen)
  together = float(((seen @ mixed - truth) ** 2).mean())
  gain = 1 - together / errors[best] if errors[best] > 0 else 0.0
  if gain > 0:
    shares = mixed
  chosen = np.flatnonzero(shares).tolist()
  joined = guesses @ shares
  merged = sparse.weighted_sum(
    [members[i].function for i in chosen], shares[chosen]
  )
  error = float(((seen @ shares - truth) ** 2).mean())
  held = float(((np.asarray(merged.coefs)[1:] / scale) ** 2).sum())
  dropped = policy.POLICY.dropped * min(error, held)
  function = _thin(merged, dropped, scale)
  # They all see the same samples: the errors of the heaviest stand for all.
  std = None
  predicted = joined * scale + middle
  flat = folds_lib.character_error(predicted, values, weights)
  for i in sorted(chosen, key=lambda i: -shares[i]):
    errors_of = members[i].errors
    if errors_of is not None:
      own = errors_of(np.asarray(function.players))
      std = standard_errors(np.asarray(function.coefs), own, flat)
      break
  named = {members[i].name: float(shares[i]) for i in chosen}
  growth_std = float(sum(members[i].growth.std * shares[i] for i in chosen))
  return Stacked(
    function,
    predicted,
    growth_std,
    named,
    std,
    _note(unit, guesses, members, named, gain, weights),
  )


def standard_errors(
  coefs: np.ndarray, own: np.ndarray, flat: float
) -> np.ndarray:
  """Standard errors `[K]` of coefficients that may have been shrunk.

  Args:
    coefs: `[K]`, that of the empty set first, which is never shrunk.
    own: `[K]` what a member believes; 0 is exact, and stays 0.
    flat: what a regression on characters that leaves as much as the answer
      would err by.
  """
  least = np.where(own > 0, np.maximum(own, flat), 0.0)
  size = _SIZE * np.abs(coefs)
  size[:1] = np.inf
  # Divided first, so that no square overflows.
  share = np.minimum(size, least) / np.where(least > 0, least, 1.0)
  return least * np.sqrt(share)


def best(
  values: np.ndarray,
  members: Sequence[members_lib.Member],
  weights: np.ndarray | None = None,
) -> members_lib.Member:
  """The member of least error on values `[B]` that it has not seen."""
  return min(
    members,
    key=lambda m: folds_lib.error(values, _grown(m, values), weights=weights),
  )


def _grown(member, values):
  """Predictions out of fold that err as a fit to all samples would."""
  return values + (member.out_of_fold - values) * np.sqrt(member.growth.share)


def gain(
  values: np.ndarray,
  out_of_fold: np.ndarray,
  other: np.ndarray,
  weights: np.ndarray | None = None,
) -> tuple[float, float]:
  """What predictions gain in R^2 over others, and its standard error.

  Args:
    values: `[B]`, not all equal.
    out_of_fold: `[B]` predictions of them.
    other: `[B]`.
    weights: `[B]` of the values' squares, of mean 1; None for equal ones.
  """
  scale = np.abs(values).max()  # So that no square overflows.
  before, after = ((values - guess) / scale for guess in (other, out_of_fold))
  gains = before**2 - after**2
  total = np.var(values / scale)
  if weights is not None:
    gains = gains * weights
    unit, _, size = regress.standardise(values[:, None], True, weights)
    total = float((size[0] / scale) ** 2) if unit.any() else total
  error = gains.std() / np.sqrt(len(gains))
  return float(gains.mean() / total), float(error / total)


def sparse_scores(
  values: np.ndarray,
  function: sparse.SparseFourier,
  out_of_fold: np.ndarray,
  growth_std: float = 0.0,
  weights: np.ndarray | None = None,
) -> dict[str, tuple[float, float]]:
  """R^2 of the "10", "30" and "100" largest sets of an answer, and of "all".

  "all" is that of the out-of-fold predictions; fewer sets lose the energy of
  those left out, by Parseval. That is the posterior expectation where
  coefficients are posterior means; where they were not shrunk, their noise
  is counted as if it were missed, and a small k is put slightly too low.
  Beside each is its standard error: `score.r2_std` as of masks apart, half as
  much again for what folds have in common, and that of the growth.

  Args:
    values: `[B]`.
    function: the answer.
    out_of_fold: `[B]` predictions of the values.
    growth_std: the standard error of the growth, as in `Stacked`.
    weights: `[B]` of the values' squares, of mean 1; None for equal ones.
  """
  whole, _ = precision.r2(values, out_of_fold, weights)
  grown = (1 - whole) * growth_std
  # Fits to folds share samples, and err together: Nadeau and Bengio 2003.
  together = policy.POLICY.folds_together
  error = lambda lost: float(
    np.hypot(
      together * precision.r2(values, out_of_fold, weights, lost)[1], grown
    )
  )
  unit, _, scale = regress.standardise(values[:, None], True, weights)
  coefs = np.asarray(function.coefs)[1 : int(function.count)] / scale[0]
  total = float((unit**2).mean()) or 1.0
  if weights is not None:
    total = 1.0  # The weighted mean.
  sizes = policy.POLICY.shown_sizes
  lost = {str(k): float((coefs[k:] ** 2).sum()) / total for k in sizes}
  lost["all"] = 0.0
  return {name: (whole - part, error(part)) for name, part in lost.items()}


def _weigh(unit, guesses):
  """Weights of least error that are not negative and sum to 1."""
  import scipy.optimize

  # A heavy row for the sum: the guesses share what it leaves to them.
  heavy = 1e3 * np.sqrt(len(unit))
  rows = np.concatenate([guesses, np.full((1, guesses.shape[1]), heavy)])
  weights, _ = scipy.optimize.nnls(rows, np.append(unit, heavy))
  least = policy.POLICY.least_weight
  weights = np.where(weights < least, 0.0, weights)
  return weights / weights.sum()


def _thin(function, energy, scale):
  """Without the smallest sets that together hold at most `energy * scale^2`.

  Of what is left, the `most_terms` largest.
  """
  coefs = np.asarray(function.coefs)  # The empty set, then by size.
  left = np.cumsum((coefs[:0:-1] / scale) ** 2)
  dropped = int(np.searchsorted(left, energy, side="right"))
  kept = max(0, len(coefs) - 1 - dropped)
  return function.truncate(min(kept, policy.POLICY.most_terms))


def _note(unit, guesses, members, named, gain, weights):
  scores = ", ".join(
    f"{m.name} {score.shown(*precision.r2(unit, guess, weights))}"
    for m, guess in zip(members, guesses.T)
  )
  who = " + ".join(f"{w:.2f} {name}" for name, w in named.items())
  if len(named) == 1:
    who = next(iter(named))
    why = "it predicts values it has not seen best"
  else:
    why = f"together they leave {gain:.0%} less unexplained than the best alone"
  return f"Answered by {who}: {why}. R^2 on values not seen: {scores}."
