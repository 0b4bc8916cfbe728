"""Are reported interactions real? Retrain the corners of each, and measure.

For a pair {a, b} and a context R of other examples the corners are both,
either, and neither of the two, and the measured interaction is

  f(R + a + b) - f(R + a) - f(R + b) + f(R),

for a set of d examples the same sum over its 2^d corners. Its mean over
uniform contexts is the Banzhaf interaction ("BII") of the set, at the empty
context the Moebius coefficient, and in the context of everybody else what
removing the set from the full data shows. Every seed is asked for the same
masks, all sets and contexts in one request.

Uncertainty: contexts and seeds are crossed, so the variance of the mean is
taken as `var(context means) / C + var(seed means) / S`, which counts the
residual twice and is thus on the safe side, with Welch and Satterthwaite's
degrees of freedom. The verdict is Holm's at the given level, over all sets of
the report: the chance that any set without an interaction survives is below
1 - level.

Shapes: n examples, K sets, d players in one, C contexts, S seeds, T targets.
"""

import dataclasses
import itertools
from collections.abc import Sequence
from typing import Literal, NamedTuple

import numpy as np

from spex_jax import base, shown
from spex_jax.fourier import score
from spex_jax.indices import interactions as interactions_lib
from spex_jax.masks import packing

Verdict = Literal["survives", "unproved", "contradicted"]
_MOST_PLAYERS = 8  # Of one set: 256 corners in each context.
# Of the largest |value|, in sums of 256 corners: a spread below it is none.
_ROUNDING = 16 * base.ROUNDING


class Reported(NamedTuple):
  """One interaction that somebody claims.

  Attributes:
    players: the set, two players or more.
    estimate: the interaction, in the units of the values.
    target: the column of the values that it speaks of.
  """

  players: tuple[int, ...]
  estimate: float
  target: int = 0


@dataclasses.dataclass(frozen=True)
class Row:
  """One interaction, measured.

  Attributes:
    reported: what was claimed.
    measured: the mean over contexts and seeds.
    low, high: its interval at the report's level, for this set alone.
    p_value: two-sided, of the hypothesis of no interaction.
    verdict: "survives" where Holm's test finds an interaction of the claimed
      sign, "contradicted" where of the other, else "unproved".
    both, neither: mean values with all of the set, and with none of it.
    either: `[d]` mean values with one player alone.
  """

  reported: Reported
  measured: float
  low: float
  high: float
  p_value: float
  verdict: Verdict
  both: float
  neither: float
  either: np.ndarray

  @property
  def covered(self) -> bool:
    """Whether the interval holds the estimate."""
    return self.low <= self.reported.estimate <= self.high


@dataclasses.dataclass(frozen=True)
class Report(shown.Shown):
  """All interactions, measured; prints as a table.

  Attributes:
    rows: the measured interactions, in the order of the claims.
    level: the level of the intervals and of the verdicts.
    num_contexts: C.
    num_seeds: S.
    num_masks: distinct masks that each seed was asked for.
    names: the names of the examples, or None.
  """

  rows: tuple[Row, ...]
  level: float
  num_contexts: int
  num_seeds: int
  num_masks: int
  names: tuple[str, ...] | None = None

  def count(self, verdict: Verdict) -> int:
    return sum(row.verdict == verdict for row in self.rows)

  def sheet(self) -> shown.Sheet:
    """A row of every claim, in their order."""
    fields = ("measured", "low", "high", "both", "neither", "verdict")
    contradicted = self.count("contradicted")
    title, _, cost = self._told().partition("; ")
    return shown.Sheet(
      title,
      {
        "set": [self._named(row) for row in self.rows],
        "target": [row.reported.target for row in self.rows],
        "estimate": [row.reported.estimate for row in self.rows],
      }
      | {name: [getattr(row, name) for row in self.rows] for name in fields},
      trust=[("contradicted", f"{contradicted}", contradicted > 0)],
      facts={"cost": cost},
    )

  def _told(self) -> str:
    return (
      f"{self.count('survives')} of {len(self.rows)} interactions survive, "
      f"{self.count('contradicted')} contradicted; {self.num_contexts} "
      f"contexts, {self.num_seeds} seeds, {self.num_masks} masks a seed, level "
      f"{self.level:g}"
    )

  def _named(self, row: Row) -> str:
    who = row.reported.players
    return " + ".join(str(i) if not self.names else self.names[i] for i in who)

  def __str__(self) -> str:
    lines = [self._told()]
    table = [
      (
        "set", "target", "estimate", "measured", "interval", "both", "either",
        "neither", "verdict",
      )
    ]  # fmt: skip
    for row in self.rows:
      table.append(
        (
          self._named(row),
          str(row.reported.target),
          f"{row.reported.estimate:+.4g}",
          f"{row.measured:+.4g}",
          f"[{row.low:+.4g}, {row.high:+.4g}]",
          f"{row.both:.4g}",
          ", ".join(f"{value:.4g}" for value in row.either),
          f"{row.neither:.4g}",
          row.verdict,
        )
      )
    widths = [max(map(len, column)) for column in zip(*table)]
    for cells in table:
      padded = [cell.ljust(width) for cell, width in zip(cells, widths)]
      lines.append("  ".join(padded).rstrip())
    return "\n".join(lines)


def reported(
  found: interactions_lib.Interactions, count: int, *, target: int = 0
) -> list[Reported]:
  """The `count` strongest sets of two players or more, as claims.

  The index says which contexts prove it: "BII" uniform ones, "Moebius" the
  empty one.

  Raises:
    ValueError: a negative count.
  """
  if count < 0:
    raise ValueError(f"count must be at least 0; got {count}.")
  several = ((s, v) for s, v in found if len(s) >= 2)
  return [Reported(s, v, target) for s, v in itertools.islice(several, count)]


def four_corners(
  claims: Sequence[Reported],
  value_fns: Sequence[base.ValueFn],
  contexts: base.Masks,
  *,
  level: float = 0.95,
  names: Sequence[str] | None = None,
) -> Report:
  """Measures every claimed interaction by asking for its corners.

  Args:
    claims: sets, their estimates and targets.
    value_fns: one per seed, each bool `[B, n]` to `[B]` or `[B, T]`: for a
      retrainer, `[lambda m, s=s: retrainer.run(m, s).values for s in seeds]`.
      Independent seeds measure what holds under any; common random numbers
      what holds under this one.
    contexts: bool `[C, n]`; what a set's own players are in them is
      overwritten. Uniform draws for "BII"; one row of False for "Moebius"; one
      row of True for the neighbourhood of the full data.
    level: the level of intervals and verdicts, inside (0, 1).
    names: the names of the n examples, for printing.

  Returns:
    A report with one row per claim.

  Raises:
    TypeError: players that are no integers.
    ValueError: no claim, no seed, fewer than two contexts and seeds in
      product, a set of one player, of more than 8, or with a player twice or
      out of range, a target that the values lack, or values that are not
      finite or of differing shapes.
  """
  contexts = base.check_masks(contexts)
  num_contexts, n = contexts.shape
  claims, sets = _checked(claims, n)
  if names is not None and len(names) != n:
    raise ValueError(f"Need {n} names, one per example; got {len(names)}.")
  if not 0 < level < 1:
    raise ValueError(f"level must lie in (0, 1); got {level}.")
  if not value_fns or num_contexts * len(value_fns) < 2:
    raise ValueError(
      f"An interval needs two contexts or two seeds; got {num_contexts} and "
      f"{len(value_fns)}."
    )
  # All corners of all sets, each distinct mask asked for once.
  blocks = [corner_masks(players, contexts) for players in sets]
  masks = np.concatenate([block.reshape(-1, n) for block in blocks])
  distinct = packing.distinct_masks(masks)
  values = _ask(value_fns, masks[distinct.first])[:, distinct.inverse]
  # The effect of each set in every context and seed.
  start, measured = 0, []
  size = np.abs(values).max()
  for claim, players, block in zip(claims, sets, blocks):
    if not 0 <= claim.target < values.shape[2]:
      raise ValueError(
        f"The values have {values.shape[2]} targets; {claim} names another."
      )
    stop = start + block.shape[0] * block.shape[1]
    corners = values[:, start:stop, claim.target]
    corners = corners.reshape(len(value_fns), *block.shape[:2])  # [S, C, 2^d]
    start = stop
    order = len(players)
    missing = order - np.bitwise_count(np.arange(1 << order)).astype(int)
    effects = corners @ (-1.0) ** missing
    measured.append((_interval(effects, level, size), corners.mean((0, 1))))
  # Verdicts that allow for the number of claims.
  verdicts = _holm([m[0][3] for m in measured], 1 - level)
  rows = []
  for claim, ((mean, low, high, p_value), corners), found in zip(
    claims, measured, verdicts
  ):
    agrees = mean * claim.estimate > 0
    verdict = "unproved"
    if found:
      verdict = "survives" if agrees else "contradicted"
    rows.append(
      Row(
        claim, mean, low, high, p_value, verdict,
        both=float(corners[-1]),
        neither=float(corners[0]),
        either=corners[1 << np.arange(len(claim.players))],
      )
    )  # fmt: skip
  return Report(
    rows=tuple(rows),
    level=level,
    num_contexts=num_contexts,
    num_seeds=len(value_fns),
    num_masks=len(distinct.first),
    names=None if names is None else tuple(map(str, names)),
  )


def corner_masks(players: Sequence[int], contexts: base.Masks) -> np.ndarray:
  """The corners of a set in every context: bool `[C, 2^d, n]`.

  Bit j of a corner's number says whether the set's player j is in it.

  Args:
    players: the d players of the set.
    contexts: bool `[C, n]`; what the players are in them is overwritten.
  """
  order = len(players)
  out = np.repeat(base.check_masks(contexts)[:, None], 1 << order, axis=1)
  bits = (np.arange(1 << order)[:, None] >> np.arange(order)[None]) & 1
  out[:, :, np.asarray(players)] = bits.astype(bool)[None]
  return out


def _checked(claims, n):
  if not claims:
    raise ValueError("There is no interaction to check.")
  claims = [Reported(*claim) for claim in claims]
  sets = []
  for claim in claims:
    players = base.check_players(np.asarray([claim.players]), n)[0]
    if (players == n).any():
      raise ValueError(f"Players must lie in 0..{n - 1}; {claim} has {n}.")
    if not 2 <= len(players) <= _MOST_PLAYERS:
      raise ValueError(
        f"A set needs 2 to {_MOST_PLAYERS} players; {claim} has {len(players)}."
      )
    if not np.isfinite(claim.estimate):
      raise ValueError(f"The estimate of {claim} is not finite.")
    sets.append(players)
  # Players ascend, so that `either` and the printed names go together.
  claims = [
    claim._replace(players=tuple(players.tolist()))
    for claim, players in zip(claims, sets)
  ]
  return claims, sets


def _ask(value_fns, masks):
  """float64 `[S, B, T]`."""
  out = []
  for number, value_fn in enumerate(value_fns):
    values = base.check_values(base.ask(value_fn, masks), len(masks))
    out.append(values.reshape(len(masks), -1))
    if out[-1].shape != out[0].shape:
      raise ValueError(
        f"Seed 0 answers {out[0].shape[1]} targets, seed {number} "
        f"{out[-1].shape[1]}."
      )
  return np.stack(out)


def _interval(effects, level, size):
  """Mean, ends, and p of `[S, C]` effects; see the module header."""
  import scipy.stats  # Slow to import.

  mean = float(effects.mean())
  parts = [
    (means.var(ddof=1) / len(means), len(means) - 1)
    for means in (effects.mean(axis=0), effects.mean(axis=1))
    if len(means) > 1
  ]
  variance = sum(part for part, _ in parts)
  exact = _ROUNDING * size
  if np.sqrt(variance) <= exact:  # The same in all contexts, for all seeds.
    p_value = 0.0 if abs(mean) > exact else 1.0
    return mean, mean - exact, mean + exact, p_value
  freedom = variance**2 / sum(part**2 / free for part, free in parts)
  std = float(np.sqrt(variance))
  half = score.half_width(std, freedom, level)
  p_value = 2 * float(scipy.stats.t.sf(abs(mean) / std, freedom))
  return mean, mean - half, mean + half, p_value


def _holm(p_values, alpha):
  """Which nulls fall, at a family-wise error of alpha (Holm 1979)."""
  p_values = np.asarray(p_values)
  order = np.argsort(p_values, kind="stable")
  limits = alpha / np.arange(len(order), 0, -1)
  stands = p_values[order] > limits
  first = int(stands.argmax()) if stands.any() else len(order)
  out = np.zeros(len(order), bool)
  out[order[:first]] = True
  return out
