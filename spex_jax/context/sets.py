"""Sources that count only together: "either of" and "both of".

A set is what the model itself says it is. With all sources kept but some, does
the answer still stand?

  both    each source of the set is needed: without any one of them the answer
          falls
  either  the answer falls without the whole set, and stands while any one
          source of it is left

that is, minimal sets whose removal fells the answer: those of one source
belong to "both" together, each larger one is an "either". What tips the answer
by a trifle is not reported: losing one source of a "both" costs a tenth of the
whole effect at least, and an "either" must show in its corners: losing it costs
`_PART` of the whole effect, and so much of that is their interaction. The
answer stands ("greedy") where greedy decoding would still give it, token by
token: jointness shows there, while ln p saturates and a joint pair's
interaction in it may have either sign. Where the answer is not the greedy one
even with all sources, or is long, it stands ("midpoint") where its probability,
the geometric mean over tokens, is nearer to that with all sources than to that
with none.

The number of a set is its interaction at the model's own corners, all other
sources kept: sum over subsets T of (-1)^|T| v(all but T); below 0 where one
makes up for the other. Its interval is of the same interaction on average over
random contexts, from the masks that were asked: of least squares, 90 %. An
"either" whose interval says that its sources add to each other does not stand.

The strength of a source, which citations rank by, is its value, or what the
answer loses by the dearest minimal removal that fells it and takes the source
away: of a needed source it alone, of an "either" the set (`strengths`). A
source that counts only beside another has little of a sum's shares, and costs
all of the answer.

Shapes: n sources, B masks.
"""

import dataclasses
import itertools
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from spex_jax.context import fitting

_GREEDY = 16  # Tokens of a span that are asked to stay as they are, at most.
_MOST = 3  # Sources in an "either"; corners grow as 2^m.
_BOTH = 4  # And in a "both".
# Of the whole effect: four recorded pairs of equal facts have .80 and more;
# what a prompt shows besides has up to .26 of cost, .21 of interaction.
_PART = 0.4
_TRIFLE = 0.1  # Of the whole effect; recorded needed ones have .14 and more.
_NORMAL = 1.6449  # 90 % of a normal distribution, both sides.
CANDIDATES = 24  # Sources that are looked at, the strongest first.


@dataclasses.dataclass(frozen=True)
class CueSet:
  """Some sources that count together.

  Attributes:
    sources: the numbers of the sources, ascending.
    kind: "either", where one is enough, or "both", where all are needed.
    value: the interaction at the model's corners, in units of the value.
    corners: kept sources of the set to the value, all other sources kept.
    interval: of the interaction averaged over the contexts of the masks, or
      None where they do not tell.
  """

  sources: tuple[int, ...]
  kind: str
  value: float
  corners: dict[tuple[int, ...], float]
  interval: tuple[float, float] | None = None

  @property
  def loss(self) -> float:
    """What the value loses without the whole set, all others kept."""
    return self.corners[self.sources] - self.corners[()]

  def words(self) -> str:
    """Such as "either of [2], [5]"."""
    listed = ", ".join(f"[{i}]" for i in self.sources)
    many = "both" if len(self.sources) == 2 else "all"
    return f"{'either' if self.kind == 'either' else many} of {listed}"


def criterion(scores, start: int, stop: int, full: int, none: int):
  """How it is decided whether an answer stands, and what decides it.

  Args:
    scores: `scoring.Scores` that has the rows `full` and `none`.
    start: the first token of the span, from 0.
    stop: the token behind the last one of the span.
    full: the row of `scores` with all sources.
    none: the row of `scores` without any.

  Returns:
    "greedy" or "midpoint", and a function of `Scores` to bool `[B]`.
  """
  length = stop - start
  if length <= _GREEDY and scores.greedy(start, stop)[full]:
    return "greedy", lambda found: found.greedy(start, stop)
  mean = lambda found: np.exp(found.of("log_probability", start, stop) / length)
  both = mean(scores)
  middle = (both[full] + both[none]) / 2
  return "midpoint", lambda found: mean(found) > middle


def find(
  n: int,
  order: Sequence[int],
  stands: Callable[[np.ndarray], np.ndarray],
  values: Callable[[np.ndarray], np.ndarray],
  room: Callable[[np.ndarray], int],
  spare: int,
) -> tuple[tuple[CueSet, ...], tuple[int, ...], int]:
  """The sets of an answer that stands with all sources and falls with none.

  None where it is likelier without any source. Leaving sources out one by one
  takes half of the room at most.

  Args:
    n: the number of sources.
    order: the numbers of the sources, the likeliest first.
    stands: masks bool `[B, n]` to bool `[B]`; asks the model.
    values: masks to `[B]`, of the same masks.
    room: masks to how many of them would have to be asked.
    spare: how many masks may still be asked.

  Returns:
    The sets, the sources that are needed each, and among how many sources, the
    strongest, they were looked for; n where there is nothing to find.
  """
  ends = np.array([[True] * n, [False] * n])
  if stands(ends).tolist() != [True, False]:
    return (), (), n
  everything, nothing = values(ends)
  whole = float(everything - nothing)
  if whole <= 0:
    return (), (), n

  def affordable(removals, most):
    """Those of a list of removals that are known, or may be asked."""
    nonlocal spare
    masks = np.array([_without(n, each) for each in removals]).reshape(-1, n)
    taken = []
    for row, mask in enumerate(masks):
      cost = room(mask[None])
      if cost <= most:
        spare, most = spare - cost, most - cost
        taken.append(row)
    return [removals[row] for row in taken], masks[taken]

  def measured(kind, each, most):
    """A set by its corners, or None where they are too many to ask."""
    subsets = [
      part
      for size in range(len(each) + 1)
      for part in itertools.combinations(each, size)
    ]
    if room(np.array([_without(n, part) for part in subsets])) > most:
      return None
    _, masks = affordable(subsets, most)
    corner = values(masks)
    signed = sum((-1) ** len(t) * v for t, v in zip(subsets, corner.tolist()))
    corners = {
      tuple(i for i in each if i not in gone): float(v)
      for gone, v in zip(subsets, corner)
    }
    return CueSet(each, kind, float(signed), corners)

  # Half of the room is left for sets.
  singles, masks = affordable([(i,) for i in order[:CANDIDATES]], spare // 2)
  looked = [i for (i,) in singles]
  stays, cost = stands(masks), everything - values(masks)
  needed = [i for i, stay in zip(looked, stays) if not stay]
  weighty = [i for i, lost in zip(looked, cost) if lost >= _TRIFLE * whole]
  weighty = [i for i in weighty if i in needed]
  out = []
  for size in range(min(len(weighty), _BOTH), 1, -1):
    both = measured("both", tuple(sorted(weighty[:size])), (spare + 1) // 2)
    if both is not None:
      out.append(both)
      break
  others = [i for i in looked if i not in needed]
  seen = len(looked)
  for size in range(2, _MOST + 1):
    # Where the answer stands even without all of them there is no "either".
    all_gone, masks = affordable([tuple(others)], spare)
    if len(others) < size or (all_gone and stands(masks)[0]):
      break
    # Pairs of the strongest come first.
    ranks = sorted(itertools.combinations(range(len(others)), size), key=max)
    removals = [tuple(sorted(others[k] for k in each)) for each in ranks]
    asked, masks = affordable(removals if all_gone else [], spare)
    if size == 2 and not asked:
      seen = len(needed)
    fell = [each for each, stay in zip(asked, stands(masks)) if not stay]
    lost = dict(zip(asked, (everything - values(masks)).tolist()))
    for each in fell:
      # Of copies that make up for one another it has the sign of (-1)^(m + 1).
      sign = (-1) ** (size + 1)
      found = None
      if lost[each] >= _PART * whole:
        found = measured("either", each, spare)
      if found is not None and sign * found.value >= _PART * whole:
        out.append(found)
    if fell:
      break  # Minimal ones of the next size would be rare, and weak.
  out.sort(key=lambda found: -abs(found.value))
  return tuple(out), tuple(sorted(needed)), seen


def interval(
  masks: np.ndarray, values: np.ndarray, pair: Sequence[int]
) -> tuple[float, float] | None:
  """Of a set's interaction on average over masks: least squares, 90 %.

  The coefficient of the product of its players, each -1/2 or 1/2, beside all
  main effects and smaller products of the set: its Banzhaf interaction where
  masks are uniform. None for too few masks, or products that they do not tell
  apart.

  Args:
    masks: bool `[B, n]`, True for sources that are kept.
    values: float `[B]`, of these masks.
    pair: the numbers of two sources or more.
  """
  x = masks - 0.5
  products = [
    x[:, list(each)].prod(axis=1)
    for size in range(2, len(pair) + 1)
    for each in itertools.combinations(pair, size)
  ]
  columns = np.column_stack([np.ones(len(x)), x, *products])
  free = len(x) - columns.shape[1]
  if free < 1:
    return None
  coefs, _, rank, _ = np.linalg.lstsq(columns, values)
  if rank < columns.shape[1]:
    return None
  error = values - columns @ coefs
  cov = np.linalg.inv(columns.T @ columns)
  half = _NORMAL * math.sqrt(error @ error / free * cov[-1, -1])
  return float(coefs[-1] - half), float(coefs[-1] + half)


def contradicted(found: CueSet) -> bool:
  """Whether the interval of an "either" says that its sources add up."""
  if found.kind != "either" or found.interval is None:
    return False
  sign = (-1) ** (len(found.sources) + 1)
  return max(sign * end for end in found.interval) < 0


def strengths(
  values: np.ndarray, sets: Sequence[CueSet], needed: Mapping[int, float]
) -> np.ndarray:
  """How much an answer stands on each source: float64 `[n]`.

  The larger of a source's value and of what the answer loses by a minimal
  removal that fells it and holds the source, see the module; in units of the
  value. They are for ranking, and do not add up.

  Args:
    values: `[n]`, of each source.
    sets: that stand; of them each "either" is such a removal.
    needed: sources that are one alone, to the loss.
  """
  out = np.array(values, np.float64)
  for source, loss in needed.items():
    out[source] = max(out[source], loss)
  for each in sets:
    if each.kind == "either":
      at = list(each.sources)
      out[at] = np.maximum(out[at], each.loss)
  return out


def ranked(strengths: np.ndarray) -> np.ndarray:
  """Sources, the strongest first; of equal ones the first: int `[n]`."""
  return np.argsort(-strengths, kind="stable")


def _without(n, gone):
  mask = np.ones(n, bool)
  mask[list(gone)] = False
  return mask


@dataclasses.dataclass(frozen=True)
class Total:
  """One token's account: what the context did to it, and by which sets.

  Attributes:
    token: the index of the token in the response.
    piece: the text of the token.
    none: ln p without any source, nats.
    pcxmi: v(all) - v(none) as the model gave them: P-CXMI, nats.
    values: float64 `[n]`, each source's share.
    sets: those of more than one source, strongest first, and their Moebius
      coefficients.
    sum: the sum of all Moebius coefficients.
    known: whether every subset was asked. If so the sum is a check; else it is
      P-CXMI by construction, as the fit is made to meet both ends.
  """

  token: int
  piece: str
  none: float
  pcxmi: float
  values: np.ndarray
  sets: tuple[tuple[tuple[int, ...], float], ...]
  sum: float
  known: bool

  @property
  def holds(self) -> bool:
    """Whether the sum is P-CXMI, to 1e-6 nats or of its size; see `known`."""
    return abs(self.sum - self.pcxmi) <= 1e-6 * max(1.0, abs(self.pcxmi))

  def to_dict(self) -> dict[str, Any]:
    """As JSON takes it, without the sets."""
    return {
      "token": self.token,
      "piece": self.piece,
      "none": self.none,
      "pcxmi": self.pcxmi,
      "values": self.values.tolist(),
      "sum": self.sum,
      "holds": self.holds,
      "known": self.known,
    }

  def __str__(self) -> str:
    equal = "equal" if self.known else "equal, by construction"
    return (
      f"{self.piece!r}: P-CXMI {self.pcxmi:+.4f} nats, sum of sets "
      f"{self.sum:+.4f} ({equal if self.holds else 'NOT equal'})"
    )


def totals(
  masks: np.ndarray,
  log_probs: np.ndarray,
  pieces: Sequence[str],
  sets: tuple[tuple[int, ...], ...],
  full: int,
  none: int,
) -> list[Total]:
  """The account of every token from one set of masks.

  Args:
    masks: bool `[B, n]`, True for sources that are kept.
    log_probs: float64 `[B, R]`, of each token under each mask, nats.
    pieces: the texts of the R tokens.
    sets: those among which each effect is shared, where not all masks are
      known; else it is all sets.
    full: the row of `masks` with all sources.
    none: the row of `masks` without any.
  """
  n = masks.shape[1]
  empty = log_probs[none]
  total = log_probs[full] - empty
  known = len(masks) == 1 << n
  if known:
    sets, moebius = fitting.all_moebius(masks, log_probs)
  else:
    moebius = fitting.refit(masks, log_probs, sets, empty, total)
  values = fitting.shapley(n, sets, moebius)
  out = []
  for t, piece in enumerate(pieces):
    order = np.argsort(-np.abs(moebius[:, t]), kind="stable")
    strongest = tuple(
      (sets[k], float(moebius[k, t])) for k in order if len(sets[k]) > 1
    )
    out.append(
      Total(
        t, piece, float(empty[t]), float(total[t]), values[:, t], strongest,
        math.fsum(moebius[:, t]), known,
      )
    )  # fmt: skip
  return out
