"""Semivalues of training examples: marginal contributions, averaged by a law.

A semivalue is `E[f(S + i) - f(S)]` where S keeps every other player with a
probability p that is itself drawn from a law; the law names the value:

  Shapley   p uniform: `Beta(1, 1)` (Ghorbani and Zou 2019, arXiv 1904.02868)
  Beta      p by a Beta law (Kwon and Zou 2022, arXiv 2110.14049)
  Banzhaf   p = 1/2 (Wang and Jia 2023, arXiv 2205.15466)
  AME       p from a grid (Lin et al. 2022, arXiv 2206.10013)

Three ways to one: `of_expansion` sums Fourier coefficients, exactly;
`banzhaf` and `ame` read a bank of masks drawn by their law; `by_permutations`
asks a value function for the marginals along random orders. `interactions`
lists the sets of examples that matter together.

The value of the empty mask is part of a Shapley value, and a model trained on
nothing may have none: give `empty` then.

Shapes: n examples, B masks, T targets, P permutations.
"""

import dataclasses
import math
from collections.abc import Sequence
from fractions import Fraction
from typing import NamedTuple

import jax
import numpy as np

from spex_jax import base
from spex_jax.api import Explanation
from spex_jax.fourier import normal, regress, sparse
from spex_jax.indices import attribution, mobius
from spex_jax.indices import interactions as interactions_lib


class Beta(NamedTuple):
  """p ~ Beta(beta, alpha); a large alpha speaks of small subsets.

  Kwon and Zou's order of the two: Beta(16, 1) weighs small subsets most.
  """

  alpha: float
  beta: float

  def moments(self, count: int) -> list[Fraction]:
    """`E p^r` for r = 0..count - 1, exactly."""
    alpha, beta = Fraction(self.alpha), Fraction(self.beta)
    if alpha <= 0 or beta <= 0:
      raise ValueError(f"Need alpha and beta above 0; got {self}.")
    out = [Fraction(1)]
    for r in range(count - 1):
      out.append(out[-1] * (beta + r) / (alpha + beta + r))
    return out[:count]


class Grid(NamedTuple):
  """p from a few probabilities, equally likely."""

  keep: tuple[float, ...]

  def moments(self, count: int) -> list[Fraction]:
    """`E p^r` for r = 0..count - 1, exactly."""
    keep = [Fraction(p) for p in check_keep(self.keep)]
    return [
      sum((p**r for p in keep), Fraction(0)) / len(keep) for r in range(count)
    ]


SHAPLEY = Beta(1, 1)
BANZHAF = Grid((0.5,))
AME = Grid((0.2, 0.4, 0.6, 0.8))  # The grid of the AME paper.


def check_keep(keep: Sequence[float]) -> list[float]:
  """Raises ValueError unless all are probabilities inside (0, 1)."""
  if not len(keep) or not all(0 < p < 1 for p in keep):
    raise ValueError(f"Probabilities must lie inside (0, 1); got {keep}.")
  return list(keep)


def of_expansion(
  fourier: sparse.SparseFourier, law: Beta | Grid = SHAPLEY
) -> attribution.Attribution:
  """A semivalue from Fourier coefficients, in exact weights.

  score_i = sum_{S with i} w(|S|) F(S) with w(s) = -2 E (1 - 2p)^(s - 1): the
  derivative by i is -2 sum F(S) chi_{S - i}, and a player kept with
  probability p has E chi = 1 - 2p.

  Args:
    fourier: an expansion on n players, of one target or T.
    law: the law of p. For an expansion that is exact the values are, too.

  Returns:
    Scores; `baseline` is f(none), so that Shapley's meet f(all).
  """
  many = fourier.num_targets
  functions = (
    [fourier] if many is None else [fourier.target(t) for t in range(many)]
  )
  n = fourier.n
  scores, baseline = np.zeros((len(functions), n)), np.zeros(len(functions))
  moments = law.moments(int(fourier.orders.max(initial=0)) + 1)

  def weight(s: int, t: int) -> Fraction:
    if not t:
      return Fraction(1)
    return -2 * sum(
      (math.comb(s - 1, r) * (-2) ** r * moments[r] for r in range(s)),
      Fraction(0),
    )

  for t, function in enumerate(functions):
    players, coefs = mobius.terms_of(function)
    found = mobius.superset_sums(n, players, coefs, weight, 1)
    baseline[t], sets, values = found.split_empty()
    scores[t, sets.min(axis=1, initial=n)] = values
  return attribution.Attribution(scores, baseline, _title(law))


def banzhaf(masks: base.Masks, values: base.Values) -> attribution.Attribution:
  """Data Banzhaf by maximum sample reuse: every mask serves every example.

  score_i = mean of f over masks with i, less the mean over those without.

  Args:
    masks: bool `[B, n]`, every player kept with probability 1/2. (Another
      probability p gives the p-weighted Banzhaf value.)
    values: `[B]` or `[B, T]`.

  Returns:
    Scores with standard errors, `sqrt(var_with / B_with + var_without /
    B_without)`; `baseline` puts the mean prediction at the mean value.

  Raises:
    ValueError: a player whom every mask keeps, or none; or what
      `attribution.samples` refuses.
  """
  masks, values = attribution.samples(masks, values)
  kept = masks.sum(axis=0).astype(np.float64)
  lost = len(masks) - kept
  stuck = np.flatnonzero((kept == 0) | (lost == 0))
  if len(stuck):
    raise ValueError(
      f"Maximum sample reuse compares masks with and without a player; "
      f"{len(stuck)} of {masks.shape[1]} are always kept or always dropped "
      f"(first: player {stuck[0]})."
    )
  # So that squares do not cancel, overflow or vanish.
  centred, offset, scale = regress.standardise(values)
  counts = np.stack([kept, lost])[:, None]  # [2, 1, n]
  with_player = centred.T @ masks.astype(np.float64)
  sums = np.stack([with_player, centred.sum(axis=0)[:, None] - with_player])
  squares = (centred**2).T @ masks.astype(np.float64)
  squares = np.stack([squares, (centred**2).sum(axis=0)[:, None] - squares])
  means = sums / counts
  scores = (means[0] - means[1]) * scale[:, None]
  std = None
  if counts.min() >= 2:
    spread = np.maximum(squares - counts * means**2, 0) / (counts - 1)
    std = np.sqrt((spread / counts).sum(axis=0)) * scale[:, None]
  baseline = offset - scores @ masks.mean(axis=0)
  return attribution.Attribution(scores, baseline, "Banzhaf (MSR)", std)


@dataclasses.dataclass(frozen=True)
class AmeMasks:
  """Masks of the AME design.

  Attributes:
    masks: bool `[B, n]`.
    keep: float64 `[B]`, the probability behind each mask.
  """

  masks: np.ndarray
  keep: np.ndarray


def ame_masks(
  key: base.Key, num_masks: int, n: int, law: Grid = AME
) -> AmeMasks:
  """Draws masks whose probability is itself drawn from the law's grid.

  Raises:
    ValueError: probabilities outside (0, 1), or a negative number of masks.
  """
  grid = np.asarray(check_keep(law.keep))
  choice_key, mask_key = jax.random.split(key)
  chosen = jax.random.randint(choice_key, (num_masks,), 0, len(grid))
  keep = grid[np.asarray(chosen)]
  # Uniform numbers below p, per mask: `biased` knows p per player only.
  draws = jax.random.uniform(mask_key, (num_masks, n), "float32")
  return AmeMasks(np.asarray(draws) < keep[:, None], keep)


def ame(
  design: AmeMasks,
  values: base.Values,
  *,
  law: Grid = AME,
  penalty: str = "lasso",
) -> attribution.Attribution:
  """Average marginal effects by one regression (Lin et al. 2022, section 4).

  A player's column is 1 / (sqrt(v) p) where it is kept and -1 / (sqrt(v)
  (1 - p)) where not, v = E[1 / (p (1 - p))]: columns are then uncorrelated, of
  variance 1, and the best linear coefficients are AME / sqrt(v).

  Args:
    design: the masks that `ame_masks` drew.
    values: `[B]` or `[B, T]`.
    law: the law that the masks were drawn by.
    penalty: "lasso", its size by cross-validation per target, as in the
      paper; or "none", least squares.

  Raises:
    ValueError: another penalty, a `keep` that is not the law's, or fewer
      than 3 masks.
  """
  if penalty not in ("lasso", "none"):
    raise ValueError(f"penalty must be 'lasso' or 'none'; got {penalty!r}.")
  masks, values = attribution.samples(design.masks, values)
  keep = np.asarray(design.keep, np.float64)
  grid = np.asarray(check_keep(law.keep))
  if keep.shape != masks.shape[:1] or not np.isin(keep, grid).all():
    raise ValueError(
      f"keep must hold one of {grid.tolist()} for each of {len(masks)} masks."
    )
  scale = np.sqrt((1 / (grid * (1 - grid))).mean())
  x = np.where(masks, 1 / keep[:, None], -1 / (1 - keep[:, None])) / scale
  kind = "shrunk" if penalty == "lasso" else "none"
  scores = regress.refit_columns(x, values, kind).coefs[:, 1:] * scale
  baseline = values.mean(axis=0) - scores @ masks.mean(axis=0)
  return attribution.Attribution(scores, baseline, "AME")


@dataclasses.dataclass(frozen=True)
class Orders:
  """What `by_permutations` found, and what it cost.

  Attributes:
    attribution: the scores, their standard errors over permutations, and
      f(none) as the baseline.
    num_asked: masks that the value function was asked for.
    cut: float64 `[P]`, the share of each order that truncation left unasked.
  """

  attribution: attribution.Attribution
  num_asked: int
  cut: np.ndarray


def by_permutations(
  value_fn: base.ValueFn,
  n: int,
  *,
  key: base.Key,
  num_permutations: int,
  law: Beta = SHAPLEY,
  tolerance: float = 0.0,
  empty: base.Array | None = None,
  stride: int = 8,
) -> Orders:
  """Shapley and Beta values by marginals along random orders (TMC-Shapley).

  All permutations grow together, `stride` players between two questions, so
  that a compiled evaluator sees large batches. Once an order is within
  `tolerance` of f(all) in every target, the rest of its players get 0 there
  (truncation; Ghorbani and Zou 2019, algorithm 1).

  Args:
    value_fn: bool masks `[B, n]` to values `[B]` or `[B, T]`. It is asked for
      one player alone, too: a retrainer needs `degenerate="train"`.
    n: number of players.
    key: consumed.
    num_permutations: P.
    law: the law of p: a marginal after s others weighs n C(n - 1, s)
      E p^s (1 - p)^(n - 1 - s), which is 1 for Shapley.
    tolerance: the distance from f(all) at which an order ends, as a share of
      |f(all) - f(none)|; 0 asks for everything, and the Shapley scores then
      sum to f(all) - f(none), exactly.
    empty: `[T]`, the value of the empty mask; None asks for it.
    stride: players added to each order between two questions.

  Raises:
    ValueError: n, P or stride below 1, a tolerance outside [0, 1), an `empty`
      of another shape, or values that are not finite.
  """
  for name, number in [
    ("n", n), ("num_permutations", num_permutations), ("stride", stride),
  ]:  # fmt: skip
    if base.check_integer(number, name) < 1:
      raise ValueError(f"{name} must be at least 1; got {number}.")
  if not 0 <= tolerance < 1:
    raise ValueError(f"tolerance must lie in [0, 1); got {tolerance}.")
  weights = _position_weights(n, law)
  # Both ends of every order.
  ends = np.ones((1, n), bool)
  if empty is None:
    ends = np.concatenate([ends, np.zeros((1, n), bool)])
  values = _ask(value_fn, ends)
  full = values[0]
  none = values[1] if empty is None else np.asarray(empty, np.float64)
  none = np.atleast_1d(none)
  if none.shape != full.shape or not np.isfinite(none).all():
    raise ValueError(
      f"empty must be {len(full)} finite values, one per target; got {none}."
    )
  close = tolerance * np.abs(full - none)
  # The orders, which grow together.
  draws = jax.random.bits(key, (num_permutations, n), "uint32")
  orders = np.asarray(draws).argsort(axis=1, kind="stable")
  ranks = orders.argsort(axis=1, kind="stable")
  total, squares = np.zeros((2, n, len(full)))
  # Squares are of gains over a power of two above them all.
  exponents = normal.exponents_of(total)
  last = np.broadcast_to(none, (num_permutations, len(full))).copy()
  live, asked = np.arange(num_permutations), len(ends)
  cut = np.zeros(num_permutations)
  for start in range(0, n, stride):
    if tolerance:
      far = (np.abs(full - last[live]) > close).any(axis=1)
      cut[live[~far]] = (n - start) / n
      live = live[far]
    if not len(live):
      break
    stop = min(start + stride, n)
    # The last prefix is everybody, whose value is known.
    sizes = np.arange(start + 1, min(stop, n - 1) + 1)
    values = np.zeros((len(live), stop - start, len(full)))
    values[:, -1] = full
    if len(sizes):
      prefixes = ranks[live][:, None] < sizes[:, None]
      found = _ask(value_fn, prefixes.reshape(-1, n))
      values[:, : len(sizes)] = found.reshape(len(live), len(sizes), -1)
      asked += len(found)
    # The marginal of each new player, by its position.
    before = np.concatenate([last[live][:, None], values[:, :-1]], axis=1)
    gains = weights[start:stop, None] * (values - before)
    np.add.at(total, orders[live, start:stop], gains)
    lower = exponents
    exponents = np.maximum(
      lower, normal.exponents_of(gains.reshape(-1, len(full)))
    )
    squares *= np.ldexp(1.0, 2 * (lower - exponents))
    gains = np.ldexp(gains, -exponents)
    np.add.at(squares, orders[live, start:stop], gains**2)
    last[live] = values[:, -1]
  mean, std = total / num_permutations, None
  if num_permutations > 1:
    unit = np.ldexp(mean, -exponents)
    spread = np.maximum(squares / num_permutations - unit**2, 0)
    std = np.ldexp(np.sqrt(spread / (num_permutations - 1)), exponents).T
  found = attribution.Attribution(mean.T, none, _title(law), std)
  return Orders(found, asked, cut)


def interactions(
  found: Explanation | sparse.SparseFourier,
  *,
  target: int | None = None,
  index: str = "BII",
  order: int = 2,
  names: Sequence[str] | None = None,
) -> tuple[interactions_lib.Interactions, interactions_lib.Interactions]:
  """Synergies and redundancies: sets of two examples and more, by sign.

  A positive interaction raises the output by more than its parts do one by
  one (synergy); a negative one says that the parts replace each other, as two
  copies of a helpful example do (redundancy). For harmful examples the words
  swap: two copies of one have a positive interaction.

  Args:
    found: what `spex_jax.decode` or `explain` gave, or its expansion.
    target: the index of a test point; None where there is one.
    index: "BII", derivatives averaged over all subsets; "Moebius", at the
      empty one; or another of `indices.table`.
    order: the largest sets.
    names: the names of the examples.

  Raises:
    ValueError: an order below 2, an unknown index, or several targets and no
      choice of one.
  """
  from spex_jax.indices import table

  if order < 2:
    raise ValueError(f"Interactions are of order 2 and more; got {order}.")
  if isinstance(found, Explanation):
    listed = found.interactions(index, order, names, target=target)
  else:
    fourier = found if target is None else found.target(target)
    listed = table.interactions(fourier, index, order, names=names)
  several = (listed.players < listed.n).sum(axis=1) >= 2
  parts = []
  for sign in (1, -1):
    rows = several & (sign * listed.values > 0)
    parts.append(
      dataclasses.replace(
        listed,
        players=listed.players[rows],
        values=listed.values[rows],
        std=None if listed.std is None else listed.std[rows],
      )
    )
  return parts[0], parts[1]


def _position_weights(n: int, law: Beta) -> np.ndarray:
  """`[n]`: n C(n - 1, s) E p^s (1 - p)^(n - 1 - s), for s players before."""
  alpha, beta = float(law.alpha), float(law.beta)
  law.moments(1)  # Refuses parameters that are not positive.
  # From s to s + 1, E p^s q^r = B(beta + s, alpha + r) / B(beta, alpha) and the
  # binomial each change by one factor; by logarithms, none overflows. Shapley's
  # ratios are exactly 1.
  s = np.arange(n - 1, dtype=np.float64)
  ratios = ((beta + s) * (n - 1 - s)) / ((alpha + n - 2 - s) * (s + 1))
  logs = np.append(0.0, np.cumsum(np.log(ratios)))
  weights = np.exp(logs - logs.max())
  return weights * (n / weights.sum())


def _ask(value_fn: base.ValueFn, masks: np.ndarray) -> np.ndarray:
  """Values float64 `[B, T]`, checked."""
  values = base.check_values(base.ask(value_fn, masks), len(masks))
  return values.reshape(len(masks), -1)


def _title(law: Beta | Grid) -> str:
  if law == SHAPLEY:
    return "Shapley"
  if law == BANZHAF:
    return "Banzhaf"
  if isinstance(law, Beta):
    return f"Beta({law.alpha:g}, {law.beta:g}) Shapley"
  return "AME"
