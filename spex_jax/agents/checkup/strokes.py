"""Scenes of the world as strokes, and strokes as code of four languages.

One statement a stroke, which can be taken away alone. Deviations from the
world's own pictures: a background has no grain, and a texture lies on the
middle of a thing, not up to its edges.

Units: a picture is `SIDE` wide and high; x goes right, y down.
"""

import dataclasses
import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from spex_jax.agents.world import rendering, scenes

SIDE = 96
_CELL = SIDE / scenes.GRID
_BANDS = 5  # Of a texture.
_INNER = 0.55  # Of a box, what a texture covers; of a square's, all.
_MOON = math.acos(0.6875)  # Where its two circles meet: at the outer, ...
_MOON_IN = math.acos(0.25)  # ... and at the inner, of .75 about (.5, 0).
_CORNERS: dict[str, list[tuple[float, float]]] = {
  "square": [(-1, -1), (1, -1), (1, 1), (-1, 1)],
  "diamond": [(0, -1), (1, 0), (0, 1), (-1, 0)],
  "triangle": [(0, -1), (1, 1), (-1, 1)],
  "cross": [
    (x / 3, y / 3)
    for x, y in [(-1, -3), (1, -3), (1, -1), (3, -1), (3, 1), (1, 1), (1, 3),
                 (-1, 3), (-1, 1), (-3, 1), (-3, -1), (-1, -1)]
  ],
  "star": [
    (x / 3, y / 2)
    for x, y in [(0, -2), (1, -1), (3, -1), (2, 0), (3, 1), (1, 1), (0, 2),
                 (-1, 1), (-3, 1), (-2, 0), (-3, -1), (-1, -1)]
  ],
  "moon": [
    (math.cos(a), math.sin(a))
    for a in np.linspace(_MOON, 2 * math.pi - _MOON, 12).tolist()
  ] + [
    (0.5 + 0.75 * math.cos(a), 0.75 * math.sin(a))
    for a in np.linspace(2 * math.pi - _MOON_IN, _MOON_IN, 12).tolist()
  ],
}  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Stroke:
  """One statement of a drawing.

  Attributes:
    kind: "polygon", "ellipse" or "ring".
    colour: red, green, blue, to 255.
    points: corners; of the others the middle, then half the sides.
  """

  kind: str
  colour: tuple[int, ...]
  points: tuple[tuple[float, float], ...]


def of_scene(scene: scenes.Scene) -> list[Stroke]:
  """The strokes of a scene, its background first, later ones on top."""
  base = rendering.ground(scene.background, 32)
  colours, counts = np.unique(base.reshape(-1, 3), axis=0, return_counts=True)
  ground = tuple(map(int, colours[counts.argmax()]))
  # A little more, so that no edge is left.
  full = tuple((x, y) for x, y in ((-2, -2), (98, -2), (98, 98), (-2, 98)))
  found = [Stroke("polygon", ground, full)]
  for thing in scene.things:
    found += _of_thing(thing)
  return found


def _of_thing(thing: scenes.Thing) -> list[Stroke]:
  x, y = (thing.column + 0.5) * _CELL, (thing.row + 0.5) * _CELL
  radius = scenes.SIZES[thing.size] / 4096 * _CELL
  own = scenes.COLOURS[thing.colour]
  parts = scenes.OBJECTS.get(
    thing.shape, ((thing.shape, None, 0, 0, 1024, 1024),)
  )
  found = []
  for shape, ink, left, top, wide, high in parts:
    part = [radius * v / 1024 for v in (left, top, wide, high)]
    colour = own if ink is None else scenes.INKS[ink]
    box = (x + part[0], y + part[1], part[2], part[3])
    found.append(_of_shape(shape, colour, box))
    if ink is None:
      inner = 1.0 if shape == "square" else _INNER
      box = (*box[:2], inner * box[2], inner * box[3])
      found += _marks(thing.texture, rendering.shaded(own), box)
  return found


def _of_shape(shape, colour, box) -> Stroke:
  x, y, a, b = box
  if shape in _CORNERS:
    corners = tuple((x + a * u, y + b * v) for u, v in _CORNERS[shape])
    return Stroke("polygon", colour, corners)
  kind = "ring" if shape == "ring" else "ellipse"
  return Stroke(kind, colour, ((x, y), (abs(a), abs(b))))


def _marks(texture, colour, box) -> list[Stroke]:
  """The shaded bands or cells of a texture, each a polygon."""
  x, y, a, b = box
  cells = [(i, j) for i in range(_BANDS) for j in range(_BANDS)]
  if texture == "striped":
    spots = [(i, 0, _BANDS) for i in (1, 3)]
  elif texture == "dotted":
    spots = [(i, j, 1) for i, j in cells if i % 2 and j % 2]
  elif texture == "checked":
    spots = [(i, j, 1) for i, j in cells if (i + j) % 2]
  else:
    spots = []
  side = 2 / _BANDS
  return [
    _of_shape("square", colour, (
      x + a * (side * (j + wide / 2) - 1), y + b * (side * (i + 0.5) - 1),
      a * side * wide / 2, b * side / 2,
    ))
    for i, j, wide in spots
  ]  # fmt: skip


class _Dialect(NamedTuple):
  """How a language says a stroke; `%` fills in texts by name.

  Attributes:
    before: what stands before all strokes.
    after: what stands behind them.
    colour: of three numbers.
    corner: of x and y.
    between: corners.
    polygon: of colour and corners.
    ellipse: of colour, middle x and y, half the sides a and b, and the whole
      ones wide and high.
    ring: likewise, with the width of its line.
    unit: what that is measured in, of `SIDE`.
  """

  before: str
  after: str
  colour: str
  corner: str
  between: str
  polygon: str
  ellipse: str
  ring: str
  unit: float = 1.0


_ELLIPSE = "ax.add_patch(Ellipse((%(x)s, %(y)s), %(wide)s, %(high)s, "
_SVG = '<ellipse cx="%(x)s" cy="%(y)s" rx="%(a)s" ry="%(b)s" '
_TIKZ = " (%(x)s,%(y)s) ellipse [x radius=%(a)s, y radius=%(b)s];"
_DIALECTS = {
  "matplotlib": _Dialect(
    """\
import matplotlib.pyplot as plt
from matplotlib.patches import Ellipse, Polygon
fig = plt.figure(figsize=(3, 3))
ax = fig.add_axes((0, 0, 1, 1), xlim=(0, 96), ylim=(96, 0))
_ = ax.axis("off")
""",
    "", "#%02x%02x%02x", "(%s, %s)", ", ",
    'ax.add_patch(Polygon([%(corners)s], color="%(colour)s", lw=0))',
    _ELLIPSE + 'color="%(colour)s", lw=0))',
    _ELLIPSE + 'fill=False, ec="%(colour)s", lw=%(line)s))',
    216 / SIDE,  # Points of a figure of 3 inches.
  ),
  "svg": _Dialect(
    '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 96 96">\n',
    "</svg>\n", "#%02x%02x%02x", "%s,%s", " ",
    '<polygon points="%(corners)s" fill="%(colour)s"/>',
    _SVG + 'fill="%(colour)s"/>',
    _SVG + 'fill="none" stroke="%(colour)s" stroke-width="%(line)s"/>',
  ),
  "tikz": _Dialect(
    "\\begin{tikzpicture}[x=1pt,y=-1pt]\n\\clip (0,0) rectangle (96,96);\n",
    "\\end{tikzpicture}\n",
    "{rgb,255:red,%d;green,%d;blue,%d}", "(%s,%s)", " -- ",
    "\\fill[fill=%(colour)s] %(corners)s -- cycle;",
    "\\fill[fill=%(colour)s]" + _TIKZ,
    "\\draw[draw=%(colour)s,line width=%(line)spt]" + _TIKZ,
  ),
  "processing": _Dialect(
    "void setup() {\nsize(96, 96);\nnoStroke();\n", "}\n",
    "%d, %d, %d", "vertex(%s, %s);", " ",
    "fill(%(colour)s); beginShape(); %(corners)s endShape(CLOSE);",
    "fill(%(colour)s); ellipse(%(x)s, %(y)s, %(wide)s, %(high)s);",
    "noFill(); stroke(%(colour)s); strokeWeight(%(line)s); "
    "ellipse(%(x)s, %(y)s, %(wide)s, %(high)s); noStroke();",
  ),
}  # fmt: skip
LANGUAGES = tuple(_DIALECTS)


def write(strokes: Sequence[Stroke], language: str) -> str:
  """The code of strokes.

  Raises:
    ValueError: a language that is not known.
  """
  if language not in LANGUAGES:
    raise ValueError(
      f"No language {language!r}; there are {', '.join(LANGUAGES)}."
    )
  own = _DIALECTS[language]
  lines = [_said(stroke, own) + "\n" for stroke in strokes]
  return own.before + "".join(lines) + own.after


def _number(value: float) -> str:
  return f"{value:.1f}".removesuffix(".0")


def _said(stroke: Stroke, own: _Dialect) -> str:
  values = {"colour": own.colour % stroke.colour}
  if stroke.kind == "polygon":
    corners = (own.corner % (_number(x), _number(y)) for x, y in stroke.points)
    return own.polygon % (values | {"corners": own.between.join(corners)})
  (x, y), (a, b) = stroke.points
  form = own.ellipse
  if stroke.kind == "ring":  # Its line lies between 5 / 8 and 1.
    form = own.ring
    values["line"] = _number((a + b) / 2 * 3 / 8 * own.unit)
    a, b = 13 / 16 * a, 13 / 16 * b
  values |= {name: _number(v) for name, v in zip("xyab", (x, y, a, b))}
  for name, half in (("wide", "a"), ("high", "b")):
    values[name] = _number(2 * float(values[half]))
  return form % values
