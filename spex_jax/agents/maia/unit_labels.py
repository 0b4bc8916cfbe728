"""What is said of a unit: a concept, or two with "or", "and", "but not".

  red circle
  red circle or striped thing
  grass background and moon
  red thing but not circle

Two concepts of "or" and "and" stand in the order of the alphabet, so that
labels that mean the same are the same text.
"""

import dataclasses
import itertools
from collections.abc import Mapping, Sequence

import numpy as np

from spex_jax.agents.world import concepts as concepts_lib
from spex_jax.agents.world import scenes

KINDS = ("one", "or", "and", "and-not")
NOTHING = "nothing"
_WORDS = {"or": " or ", "and": " and ", "and-not": " but not "}
_SYMMETRIC = ("or", "and")


@dataclasses.dataclass(frozen=True)
class Label:
  """When a unit fires.

  Attributes:
    kind: of `KINDS`; "none" for a unit that never fires.
    concepts: two, one of "one", none of "none".

  Raises:
    ValueError: another kind, or another number of concepts.
  """

  kind: str
  concepts: tuple[concepts_lib.Concept, ...] = ()

  def __post_init__(self):
    counts = dict.fromkeys(KINDS, 2) | {"one": 1, "none": 0}
    if counts.get(self.kind) != len(self.concepts):
      raise ValueError(
        f"A label of kind {self.kind!r} with {len(self.concepts)} concepts; "
        f"kinds have {counts}."
      )
    if self.kind in _SYMMETRIC:
      ordered = tuple(sorted(self.concepts, key=str))
      object.__setattr__(self, "concepts", ordered)

  def holds(self, scene: scenes.Scene) -> bool:
    """Whether the unit should fire."""
    return self.of([concept.holds(scene) for concept in self.concepts])

  def of(self, there: Sequence[bool]) -> bool:
    """The same, from which concepts are there."""
    if self.kind == "and-not":
      return there[0] and not there[1]
    return all(there) if self.kind == "and" else any(there)

  def __str__(self) -> str:
    if not self.concepts:
      return NOTHING
    return _WORDS.get(self.kind, "").join(map(str, self.concepts))


def parse(text: str) -> Label:
  """The label that a text is, as `str` writes it.

  Raises:
    ValueError: it is none.
  """
  said = " ".join(text.lower().strip(" .\"'").split())
  if said == NOTHING:
    return Label("none")
  for kind, word in [*_WORDS.items()][::-1]:
    one, found, other = said.partition(word)
    if found:
      return Label(kind, (concepts_lib.parse(one), concepts_lib.parse(other)))
  return Label("one", (concepts_lib.parse(said),))


def of_interactions(
  players: Sequence[concepts_lib.Concept],
  values: Mapping[tuple[int, ...], float],
  least: float,
) -> Label | None:
  """The label whose signature interactions have, over which concepts are there.

  Of levels in [0, 1]: OR is x + y - xy, AND is xy, AND-NOT is x - xy.

  Args:
    players: the concepts, in the order of the players' numbers.
    values: sets of one or two players to their Moebius coefficients.
    least: what a coefficient must be, to be one.

  Returns:
    None where the coefficients are of no label.
  """
  loud = {who: v for who, v in values.items() if who and abs(v) >= least}
  singles = sorted(who[0] for who in loud if len(who) == 1)
  pairs = [who for who in loud if len(who) == 2]
  if any(loud[i,] < 0 for i in singles) or len(pairs) > 1:
    return None
  if len(singles) == 1 and not pairs:
    return Label("one", (players[singles[0]],))
  if len(pairs) != 1:
    return None
  (pair,) = pairs
  own = tuple(players[i] for i in pair)
  if loud[pair] > 0:
    return None if singles else Label("and", own)
  if singles == [*pair]:
    return Label("or", own)
  if len(singles) == 1 and singles[0] in pair:
    (other,) = {*pair} - {*singles}
    return Label("and-not", (players[singles[0]], players[other]))
  return None


def scene_of(
  there: Sequence[concepts_lib.Concept],
  away: Sequence[concepts_lib.Concept],
  rng: np.random.Generator,
  size: str | None = None,
  background: str | None = None,
) -> scenes.Scene:
  """A scene with some concepts, one thing each, and without others.

  Args:
    there: present, of which one may be a background.
    away: concepts that no thing and no background may have.
    rng: a NumPy generator, whose state moves on.
    size: of all things; None at random.
    background: where no concept is one; None at random, but none that is away.

  Raises:
    ValueError: that cannot be: one there implies one away, or two backgrounds.
  """
  grounds = [c.background for c in there if c.background]
  if len(grounds) > 1:
    raise ValueError(
      f"A scene has one background: not {' and '.join(grounds)}."
    )
  if not grounds:
    gone = {c.background for c in away}
    free = [name for name in scenes.BACKGROUNDS if name not in gone]
    grounds = [background or str(rng.choice(free))]
  things = [
    concepts_lib.embody(concept, rng, away, size)
    for concept in there
    if concept.background is None
  ]
  return scenes.Scene((*scattered(things, rng),), grounds[0])


def scattered(
  things: Sequence[scenes.Thing], rng: np.random.Generator
) -> list[scenes.Thing]:
  """The same things, at most nine, in cells drawn anew."""
  cells = [*scenes.POSITIONS.values()]
  order = rng.permutation(len(cells))
  return [
    dataclasses.replace(thing, row=cells[at][0], column=cells[at][1])
    for thing, at in zip(things, order)
  ]


def subsets(count: int) -> list[tuple[bool, ...]]:
  """All 2^count choices."""
  return [*itertools.product((False, True), repeat=count)]
