"""What is studied: pictures to activations; and units whose truth is known.

A synthetic unit is an exact predicate of what is on a picture, which it sees
for itself. Its level grows with the area of what it fires for: .5 for the
smallest, near 1 for a thing that fills its cell, .75 for a background; OR takes
the larger of two, AND the smaller, AND-NOT the first where the second is away.

Shapes: B pictures, uint8 `[H, W, 3]` each; maps `[B, h, w]`.
"""

import dataclasses
from collections.abc import Sequence
from typing import Any, NamedTuple, Protocol

import numpy as np

from spex_jax.agents.find import functions
from spex_jax.agents.maia import unit_labels
from spex_jax.agents.world import concepts, rendering, scenes, seeing

_GROUND = 0.75  # The level of a background.
# Of the data set, the share of scenes that must make a unit fire, and may.
RARE, OFTEN = 0.012, 0.6
_FORMS = (
  ("shape",), ("colour",), ("texture",), ("colour", "shape"),
  ("texture", "shape"), ("texture", "colour"), ("background",),
)  # fmt: skip


class Seen(NamedTuple):
  """What a unit made of pictures.

  Attributes:
    activations: float64 `[B]`, one number for each picture.
    maps: float32 `[B, h, w]`, where on each picture, of any height and width.
  """

  activations: np.ndarray
  maps: np.ndarray


class System(Protocol):
  """A unit; it may be noisy, but gives the same for the same picture."""

  @property
  def name(self) -> str:
    """Of the unit, fit for a file's name."""
    ...

  def call(self, pictures: Sequence[np.ndarray]) -> Seen:
    """What it makes of pictures, all of one size.

    Raises:
      ValueError: a broken picture, by its number.
    """
    ...


def checked(pictures: Sequence[np.ndarray]) -> np.ndarray:
  """Pictures as one array, uint8 `[B, H, W, 3]`.

  Raises:
    ValueError: one that is broken or of another size, by its number.
  """
  found = []
  for number, picture in enumerate(pictures):
    try:
      found.append(seeing.check(picture))
    except ValueError as error:
      raise ValueError(f"Picture {number}: {error}") from error
    if found[-1].shape != found[0].shape:
      raise ValueError(
        f"Picture {number} is {list(found[-1].shape)}, the first is "
        f"{list(found[0].shape)}: one size a call."
      )
  return np.stack(found) if found else np.zeros((0, 1, 1, 3), np.uint8)


@dataclasses.dataclass(frozen=True)
class Synthetic:
  """A unit of known truth.

  Attributes:
    name: the name of the unit, fit for a file's name.
    truth: the label that says when it fires.
    noise: standard deviation of normal noise, keyed by the picture.
  """

  name: str
  truth: unit_labels.Label
  noise: float = 0.0

  def call(self, pictures: Sequence[np.ndarray]) -> Seen:
    """See `System`. A blank picture has nothing on it.

    Raises:
      ValueError: a picture that the world did not draw, by its number.
    """
    given = checked(pictures)
    levels, maps = np.zeros(len(given)), np.zeros(given.shape[:3], np.float32)
    for number, picture in enumerate(given):
      try:
        scene = seeing.see(picture)
      except ValueError as error:
        if seeing.is_blank(picture):
          continue
        raise ValueError(f"Picture {number}: {error}") from error
      levels[number], maps[number] = self._level(scene, len(picture))
    if self.noise:
      rows = given.reshape(len(given), -1)
      levels += self.noise * functions.noise("normal", self.name, rows)
    return Seen(levels, maps)

  def _level(
    self, scene: scenes.Scene, size: int
  ) -> tuple[float, np.ndarray | float]:
    if not self.truth.holds(scene):
      return 0.0, 0.0
    parts = rendering.masks(scene, size)
    shares = rendering.areas(scene, size) * scenes.GRID**2
    own, where = [], np.zeros((size, size), bool)
    for concept in self.truth.concepts:
      if not concept.holds(scene):
        continue
      if concept.background is not None:
        own.append(_GROUND)
        where |= ~parts.any(0)
        continue
      found = [concept.matches(thing) for thing in scene.things]
      own.append(0.5 + 0.5 * shares[found].max())
      where |= parts[found].any(0)
    return (min if self.truth.kind == "and" else max)(own), where


def generate(
  seed: int, kind: str, index: int, seen: Sequence[scenes.Scene]
) -> unit_labels.Label:
  """The truth of a unit; the same seed, kind and index give the same.

  Two concepts do not imply each other, one at most is a background, and "and"
  has at most one of two words. Truths are drawn until one fires for at least
  1.2 % and at most 60 % of a data set: no unit that exemplars do not show.

  Args:
    seed: an integer, the seed of all units.
    kind: how concepts are joined, one of `unit_labels.KINDS`.
    index: of the unit in its kind.
    seen: the scenes of the data set, which must show the unit.

  Raises:
    ValueError: another kind, or a data set that shows too little.
  """
  if kind not in unit_labels.KINDS:
    raise ValueError(
      f"No kind {kind!r}; there are {', '.join(unit_labels.KINDS)}."
    )
  rng = functions.rng(seed, "maia", kind, index)
  for _ in range(1000):
    own = [_concept(rng) for _ in range(1 if kind == "one" else 2)]
    if len(own) == 2:
      one, other = own
      if one.implies(other) or other.implies(one):
        continue
      if one.background and other.background:
        continue
      if kind == "and" and len(one.attributes) + len(other.attributes) > 3:
        continue
    label = unit_labels.Label(kind, tuple(own))
    share = np.mean([label.holds(scene) for scene in seen]) if seen else 0
    if RARE <= share <= OFTEN:
      return label
  raise ValueError(
    f"No unit of kind {kind!r} fires for {RARE:.1%} to {OFTEN:.0%} of "
    f"{len(seen)} scenes: give more."
  )


def _concept(rng: np.random.Generator) -> concepts.Concept:
  known: dict[str, Any] = {
    **scenes.ATTRIBUTES,
    "background": scenes.BACKGROUNDS,
  }
  form = _FORMS[rng.integers(len(_FORMS))]
  return concepts.Concept(**{n: str(rng.choice(known[n])) for n in form})
