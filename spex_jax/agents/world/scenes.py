"""Scenes: things in a grid of three by three cells, on a background.

A hierarchy of four: textures fill shapes, shapes make objects, objects and
shapes stand in scenes. One thing a cell, so that none hides another and every
picture can be read back. Rows go down, columns right, both from 0.

`VERSION` changes whenever a scene would be drawn otherwise: results name it.
"""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

VERSION = 1
GRID = 3  # Rows and columns.
# Red, green, blue; none of them, full or shaded, is a background's.
COLOURS: dict[str, tuple[int, int, int]] = {
  "red": (214, 39, 40), "orange": (255, 127, 14), "yellow": (240, 220, 40),
  "green": (44, 160, 44), "blue": (31, 80, 200), "purple": (130, 60, 180),
  "pink": (240, 130, 190), "brown": (120, 72, 40), "white": (255, 255, 255),
  "black": (12, 12, 12),
}  # fmt: skip
TEXTURES = ("solid", "striped", "dotted", "checked")
# Half the side of a thing's box, of a cell's 4,096 units.
SIZES = {"small": 1150, "medium": 1500, "large": 1880}
SHAPES = (
  "circle", "square", "triangle", "diamond", "cross", "ring", "star", "moon",
)  # fmt: skip
# Of parts that have a colour of their own; no thing's.
INKS: dict[str, tuple[int, int, int]] = {
  "ink": (70, 70, 76), "wood": (148, 96, 64), "stem": (60, 118, 46),
  "pollen": (250, 236, 150),
}  # fmt: skip
# A part: its shape, its ink (None for the thing's own colour and texture),
# where its middle is, and half its sides, of the thing's box from -1,024 to
# 1,024; a negative height stands on its head. Later parts cover earlier ones.
Part = tuple[str, str | None, int, int, int, int]
OBJECTS: dict[str, tuple[Part, ...]] = {
  "house": (
    ("square", None, 0, 400, 800, 624),
    ("triangle", "wood", 0, -560, 1024, 464),
    ("square", "ink", 0, 680, 200, 344),
  ),
  "tree": (
    ("square", "wood", 0, 624, 200, 400),
    ("circle", None, 0, -300, 800, 724),
  ),
  "car": (
    ("square", None, 0, 200, 1024, 360),
    ("square", None, 0, -300, 560, 300),
    ("circle", "ink", -560, 560, 300, 300),
    ("circle", "ink", 560, 560, 300, 300),
  ),
  "bicycle": (
    ("triangle", None, 0, -60, 640, -560),
    ("ring", "ink", -560, 460, 464, 464),
    ("ring", "ink", 560, 460, 464, 464),
  ),
  "face": (
    ("circle", None, 0, 0, 1024, 1024),
    ("circle", "ink", -380, -260, 180, 180),
    ("circle", "ink", 380, -260, 180, 180),
    ("square", "ink", 0, 460, 420, 110),
  ),
  "flower": (
    ("square", "stem", 0, 640, 110, 384),
    ("cross", None, 0, -300, 800, 724),
    ("circle", "pollen", 0, -300, 300, 300),
  ),
  "boat": (
    ("triangle", None, 0, -300, 600, 724),
    ("square", "wood", 0, 700, 1024, 300),
  ),
  "snowman": (
    ("circle", None, 0, 420, 700, 604),
    ("circle", None, 0, -440, 480, 480),
    ("square", "ink", 0, -900, 420, 124),
  ),
}
BACKGROUNDS = (
  "plain", "grass", "sky", "sand", "water", "snow", "brick", "night",
)  # fmt: skip
POSITIONS: dict[str, tuple[int, int]] = {
  "top left": (0, 0), "top": (0, 1), "top right": (0, 2),
  "left": (1, 0), "centre": (1, 1), "right": (1, 2),
  "bottom left": (2, 0), "bottom": (2, 1), "bottom right": (2, 2),
}  # fmt: skip
LEVELS: dict[str, tuple[str, ...]] = {
  "textures": TEXTURES, "shapes": SHAPES, "objects": tuple(OBJECTS),
  "scenes": BACKGROUNDS,
}  # fmt: skip
# What a thing is, and what it may be.
ATTRIBUTES: dict[str, tuple[str, ...]] = {
  "shape": (*SHAPES, *OBJECTS), "colour": tuple(COLOURS),
  "size": tuple(SIZES), "texture": TEXTURES,
}  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Thing:
  """One thing.

  Attributes:
    shape: what it is, a word of `SHAPES` or `OBJECTS`.
    colour: its colour, a word of `COLOURS`.
    size: its size, a word of `SIZES`.
    texture: how it is filled, a word of `TEXTURES`.
    row: of its cell, from 0 at the top to 2.
    column: of its cell, from 0 at the left to 2.

  Raises:
    ValueError: a word or a place that there is not.
  """

  shape: str
  colour: str
  size: str = "medium"
  texture: str = "solid"
  row: int = 1
  column: int = 1

  def __post_init__(self):
    for name, known in ATTRIBUTES.items():
      if (given := getattr(self, name)) not in known:
        raise ValueError(f"No {name} {given!r}; there are {', '.join(known)}.")
    if (self.row, self.column) not in POSITIONS.values():
      raise ValueError(
        f"Row {self.row}, column {self.column}: both are from 0 to {GRID - 1}."
      )

  @property
  def position(self) -> str:
    """The name of its cell."""
    return _NAMED[self.row, self.column]


@dataclasses.dataclass(frozen=True)
class Scene:
  """Things on a background.

  Attributes:
    things: at most nine, each in a cell of its own.
    background: what is behind the things, a word of `BACKGROUNDS`.

  Raises:
    ValueError: two things in a cell, or a background that there is not.
  """

  things: tuple[Thing, ...] = ()
  background: str = "plain"

  def __post_init__(self):
    if self.background not in BACKGROUNDS:
      raise ValueError(
        f"No background {self.background!r}; there are "
        f"{', '.join(BACKGROUNDS)}."
      )
    cells = [(thing.row, thing.column) for thing in self.things]
    for cell in cells:
      if cells.count(cell) > 1:
        raise ValueError(f"Two things at the {_NAMED[cell]}: one fits.")

  def free(self) -> list[tuple[int, int]]:
    """The cells that are empty, the middle first."""
    used = {(thing.row, thing.column) for thing in self.things}
    return [cell for cell in _ORDER if cell not in used]

  def kept(self, mask: Sequence[Any]) -> "Scene":
    """The things where `mask`, one a thing, holds; on the same background."""
    things = (t for t, keep in zip(self.things, mask, strict=True) if keep)
    return Scene(tuple(things), self.background)


_NAMED = {cell: name for name, cell in POSITIONS.items()}
_ORDER = sorted(POSITIONS.values(), key=lambda cell: (cell != (1, 1), cell))
# Where one thing is to another.
RELATIONS: dict[str, Callable[[Thing, Thing], bool]] = {
  "left of": lambda a, b: a.column < b.column,
  "right of": lambda a, b: a.column > b.column,
  "above": lambda a, b: a.row < b.row,
  "below": lambda a, b: a.row > b.row,
}


def relations(scene: Scene) -> list[tuple[int, str, int]]:
  """All that hold: the number of a thing, the relation, that of the other."""
  return [
    (i, name, j)
    for i, one in enumerate(scene.things)
    for j, other in enumerate(scene.things)
    for name, holds in RELATIONS.items()
    if i != j and holds(one, other)
  ]


def draw(
  rng: np.random.Generator,
  low: int = 2,
  high: int = 5,
  choices: Mapping[str, Sequence[str]] | None = None,
) -> Scene:
  """A scene at random, all words alike.

  Args:
    rng: a NumPy generator, whose state moves on.
    low: the least number of things, 0 or more.
    high: the largest number of things, 9 or fewer.
    choices: of `ATTRIBUTES` and "background": the words to draw from.

  Raises:
    ValueError: other numbers than 0 to 9, or a name that `choices` may not
      have.
  """
  if not 0 <= low <= high <= len(_ORDER):
    raise ValueError(
      f"low={low}, high={high}: from 0 to {len(_ORDER)} things, one a cell."
    )
  known = {**ATTRIBUTES, "background": BACKGROUNDS}
  own = known | dict(choices or {})
  if more := own.keys() - known.keys():
    raise ValueError(f"choices: {sorted(more)} are not of {', '.join(known)}.")
  background = str(rng.choice(own.pop("background")))
  count = int(rng.integers(low, high + 1))
  cells = rng.permutation(len(_ORDER))[:count]
  things = [
    Thing(**{name: str(rng.choice(words)) for name, words in own.items()},
          row=_ORDER[cell][0], column=_ORDER[cell][1])
    for cell in cells
  ]  # fmt: skip
  return Scene(tuple(things), background)


def to_json(scene: Scene) -> dict[str, Any]:
  """As JSON, with the version."""
  return {"version": VERSION, **dataclasses.asdict(scene)}


def from_json(body: Mapping[str, Any]) -> Scene:
  """The scene of `to_json`.

  Raises:
    ValueError: another version, or no scene.
  """
  try:
    if body["version"] != VERSION:
      raise ValueError(
        f"a scene of version {body['version']!r}; this draws {VERSION}"
      )
    things = tuple(Thing(**thing) for thing in body["things"])
    return Scene(things, body["background"])
  except (KeyError, TypeError) as error:
    raise ValueError(f"No scene: {type(error).__name__}: {error}.") from error
