"""Shapley and Banzhaf values as what masks are drawn for.

Masks come in pairs with their complements, whose halved differences hold the
odd orders alone, on which these values depend. Sizes are drawn as the roots of
Shapley's kernel (`proxies.kernel_shap`), the full and the empty mask are always
asked, and sizes that the budget covers are asked in full; for Banzhaf values
masks are uniform. Then

  phi = values of processes on the differences (`proxies.odd`)
        + c times a weighted regression on what they leave of them, out of fold.

At c = 1 the second term estimates, without bias but for that of a regression,
what the processes miss, so their prior need not be true (a control variate, as
in regression-adjusted KernelSHAP, Witter et al. 2025, arXiv 2506.11849, with
processes in place of trees). Where all that it holds is no more than its own
error, adding it would add the error alone: c is Stein's shrinkage, by the
positive part, of the term towards 0 (Efron and Morris 1973). Of fewer than two
pairs for each player one direction has nearly all of the error, and Stein's
factor knows nothing: there each direction of the errors has its own, with the
variance of means that is likeliest. Of a size asked in part, a share h, the
masks asked are known and those left out are as far from the processes as one
that they have not seen: residuals are h times those of the fit and 1 - h times
those left out. Standard errors are the sandwich's (HC3) of the residuals left
out, times 1 - h, noise of f counting in full, by the process or by masks asked
twice, whichever says more: those at c = 1, as what the processes miss is not
known to be less, but the share of each variance that is shrunk away, or more of
few pairs, is the mean over players.

Shapes: n players, B pairs, T targets.
"""

import math
from typing import NamedTuple

import jax
import numpy as np

from spex_jax import base
from spex_jax.masks import ask as ask_lib
from spex_jax.masks import request
from spex_jax.portfolio import additive, policy, samples, select, staged
from spex_jax.proxies import kernel_shap, odd

INDICES = request.DRAWN

_RANK = 1e-10  # Singular values below this share of the largest are 0.


class _Fit(NamedTuple):
  """Values and standard errors `[n]`, and the share of g left, out of fold."""

  values: np.ndarray
  std: np.ndarray
  left: float


def checked(
  index: str | None, method: str, goal: float | None, max_order: int | None
) -> str | None:
  """The index that masks are drawn for, by its own name, or None.

  Args:
    index: the name of an index, in any case of letters; None for none.
    method: the method given to `explain`; only "auto" has masks to give.
    goal: the R^2 at which to stop, which no mask is held out to measure.
    max_order: the largest sets asked of `explain`; values of players count sets
      of all sizes.

  Raises:
    ValueError: an index that is no aim, or what goes with none.
  """
  if index is None:
    return None
  known = {name.casefold(): name for name in INDICES}
  name = known.get(str(index).casefold())
  if name is None:
    raise ValueError(
      f"index={index!r}: masks are drawn for {' or '.join(INDICES)}. For "
      "another index leave it out, and read interactions(...) of the answer."
    )
  if method != "auto":
    raise ValueError(
      f"index={index!r} goes with method='auto'; {method} has its own masks."
    )
  if goal is not None:
    raise ValueError(
      f"index={index!r} holds out no mask; leave target_faithfulness out."
    )
  if max_order is not None:
    raise ValueError(
      f"index={index!r} counts sets of all sizes; leave max_order out."
    )
  return name


def least_budget(n: int) -> int:
  """The fewest masks: n pairs and both ends, or all where these are fewer."""
  return min(2 * n + 2, 1 << n)


def ask_and_fit(
  ask: ask_lib.Asker, key: base.Key, index: str, *, strict: bool = False
) -> select.Answer:
  """Asks for masks and computes an index, with standard errors.

  Args:
    ask: the function, with its budget, and at least 2 players; not all masks.
    key: consumed.
    index: one of `INDICES`.
    strict: whether values that do not repeat are an error.

  Returns:
    Functions of order 1, as `additive.function` makes them of the values.

  Raises:
    ValueError: a budget below `least_budget`.
  """
  n, budget = ask.n, ask.budget
  if budget < least_budget(n):
    raise ValueError(
      f"index={index!r} needs a budget of at least {least_budget(n)} masks for "
      f"{n} players; the budget is {budget}."
    )
  ends = staged.corners(n)
  design_key, order_key = jax.random.split(key)
  masks, weights = kernel_shap.design(
    design_key, budget - len(ends), n, ends, uniform=index == "BV"
  )
  values = ask(np.concatenate([ends, masks]))
  ask.repeat(np.concatenate([ends, masks]), values, strict=strict)
  noise = np.asarray(ask.noise)  # Of rounding, none.
  noise = np.where(noise > ask_lib.repeatable(values), noise, 0.0)
  if base.is_constant(values).all():
    return staged.constant(n, values, [], ask.asked)
  empty = values[1]
  # The ends first; the others in an order that their sizes do not know.
  order = 1 + np.asarray(jax.random.permutation(order_key, len(masks) // 2))
  order = np.append(0, order)
  halves = (values[0::2] / 2 - values[1::2] / 2)[order]
  pairs = np.concatenate([ends, masks])[0::2][order]
  own = 0.0 if index == "SV" else 1 / math.comb(n, n // 2)  # Of the ends.
  weights = np.append(own, weights[0::2])[order]
  functions, stds, left = [], [], []
  for t, column in enumerate(halves.T):
    found = _fit(pairs, weights, column, index, float(noise[t]))
    function = additive.function(float(empty[t]), found.values)
    functions.append(function)
    stds.append(_of_coefs(function, found.std, index))
    left.append(found.left)
  note = (
    f"{'Shapley' if index == 'SV' else 'Banzhaf'} values by processes on the "
    f"differences of {len(pairs)} pairs, which leave {np.mean(left):.2g} of "
    "their energy, out of fold, and a regression on what they leave."
  )
  return select.Answer(
    functions,
    index,
    [note],
    std=stds,
    confounded=samples.confounded(np.concatenate([ends, masks])),
  )


def _fit(pairs, weights, halves, index, noise):
  """Values of one target from pairs, of which the ends are the first.

  Args:
    pairs: bool `[B, n]`, one mask of each.
    weights: `[B]` of the regression.
    halves: `[B]` differences.
    index: one of `INDICES`.
    noise: standard deviation of a value of f that is asked again.
  """
  n = pairs.shape[1]
  ends = np.arange(len(pairs)) == 0
  top = np.abs(halves).max()
  if not top:
    return _Fit(np.zeros(n), np.zeros(n), 0.0)
  halves = halves / top  # No square overflows or vanishes.
  efficient = index == "SV"
  law = (odd.shapley_law if efficient else odd.banzhaf_law)(n)
  found = odd.fit(pairs, halves, ends & efficient, law)
  known = _shares(pairs)
  inside, outside = halves - found.fitted, halves - found.left_out
  x = 1.0 * pairs - 0.5
  values = found.values
  if efficient:
    x -= x.mean(axis=1, keepdims=True)
    values = values + (2 * halves[0] - values.sum()) / n
  moments = (weights[:, None] * x).T
  solve = np.linalg.pinv(moments @ x, rcond=_RANK, hermitian=True) @ moments
  missed = solve @ (known * inside + (1 - known) * outside)
  if efficient:
    missed -= missed.mean()  # Rounding, where players are as many as pairs.
  # So that no residual is blown up without limit.
  most = policy.POLICY.most_leverage
  leverage = np.einsum("bn,nb->b", x, solve)
  error = outside - x @ (solve @ outside)
  error = np.abs(error) / (1 - leverage.clip(max=most))
  # A pair that the regression meets by itself says nothing of its error.
  usual = np.sqrt((outside[1:] ** 2).mean()) if len(outside) > 1 else 0.0
  error = np.where(leverage > most, np.maximum(error, usual), error)
  drawn = (1 - known) * error**2
  covariance = solve * drawn @ solve.T
  few = leverage.mean() > 0.5  # Two pairs for each player.
  missed, shrunk = (_by_direction if few else _shrunk)(missed, covariance)
  values = values + missed
  # What is shrunk away has the errors of the processes, alike for all players;
  # nor do fewer than two pairs for each player tell players apart.
  alike = max(shrunk, 2 * leverage.mean() - 1)
  variance = np.diagonal(covariance)
  variance = variance + alike * (variance.mean() - variance)
  # Of a difference; that of the ends is shared by all.
  noisy = max(found.noise_std, noise / top / math.sqrt(2)) ** 2
  variance = variance + solve**2 @ (known * noisy)
  if efficient and noise:
    variance = variance + 4 * noisy / n**2
  std = np.sqrt(variance)
  # Of the ends alone where all else is 0.
  energy = (halves[1:] ** 2).sum() or (halves**2).sum()
  left = (outside[1:] ** 2).sum() / energy
  return _Fit(top * values, top * std, float(left))


def _shrunk(values, covariance):
  """Stein's estimate of normal means about 0 that were found with errors.

  Args:
    values: `[n]` what was found.
    covariance: `[n, n]` of its errors. Where these go together or differ the
      players count as (sum of variances)^2 / (sum of squares of it).

  Returns:
    `[n]`, and the share that was taken away.
  """
  total, energy = np.trace(covariance), values @ values
  if not total or not energy:
    return values, 0.0
  count = 1 / ((covariance / total) ** 2).sum()
  gone = min(1.0, max(0.0, 1 - 2 / count) * total / energy)
  return (1 - gone) * values, gone


def _by_direction(values, covariance):
  """The same, each direction of the errors times t / (t + its variance)."""
  variances, vectors = np.linalg.eigh(covariance)
  is_known = variances <= _RANK * variances[-1]
  along = vectors.T @ values
  found = along[~is_known] ** 2
  if not len(found):
    return values, 0.0
  # Of the means' own variance t, the likeliest.
  top = max(found.max(), variances[-1])
  tried = np.append(0.0, top * np.logspace(-8, 1, 181))
  total = tried[:, None] + variances[~is_known]
  own = tried[(np.log(total) + found / total).sum(axis=1).argmin()]
  share = np.ones(len(values))
  share[~is_known] = own / (own + variances[~is_known])
  gone = (variances * (1 - share)).sum() / variances[~is_known].sum()
  return vectors @ (share * along), float(gone)


def _shares(pairs):
  """`[B]` the share of the pairs of its size that are asked, of each pair."""
  n = pairs.shape[1]
  sizes = pairs.sum(axis=1)
  sizes = np.minimum(sizes, n - sizes)
  counts = np.bincount(sizes)
  # Whole numbers, as floats end near n = 1,030.
  total = [
    math.comb(n, s) // (2 if 2 * s == n else 1) for s in range(n // 2 + 1)
  ]
  shares = [count / all_ for count, all_ in zip(counts.tolist(), total)]
  return np.asarray(shares)[sizes]


def _of_coefs(function, std, index):
  """Standard errors of the coefficients: a value is -2 times one of them."""
  # The empty set: f(none) and half of all values, whose sum may be known.
  none = 0.0 if index == "SV" else np.hypot.reduce(std)
  players = np.asarray(function.players)[: int(function.count), 0]
  return np.append(std, none)[players] / 2
