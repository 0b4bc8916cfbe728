"""Scenes of the world as strokes, and strokes as code of four languages.

One statement a stroke, which can be taken away alone. Deviations from the
world's own pictures: a background has no grain, and a texture lies on the
middle of a thing, not up to its edges.

Units: a picture is `SIDE` wide and high; x goes right, y down.
"""

import dataclasses
import math
from collections.abc import Sequence

import numpy as np

from spex_jax.agents.world import rendering, scenes

SIDE = 96
_CELL = SIDE / scenes.GRID
_POINTS = 216 / SIDE  # Of a matplotlib figure of 3 inches, a unit.
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


_BEFORE = {
  "matplotlib": """\
import matplotlib.pyplot as plt
from matplotlib.patches import Ellipse, Polygon
fig = plt.figure(figsize=(3, 3))
ax = fig.add_axes((0, 0, 1, 1), xlim=(0, 96), ylim=(96, 0))
_ = ax.axis("off")
""",
  "svg": '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 96 96">\n',
  "tikz": (
    "\\begin{tikzpicture}[x=1pt,y=-1pt]\n\\clip (0,0) rectangle (96,96);\n"
  ),
  "processing": "void setup() {\nsize(96, 96);\nnoStroke();\n",
}
_AFTER = {
  "svg": "</svg>\n",
  "tikz": "\\end{tikzpicture}\n",
  "processing": "}\n",
}
LANGUAGES = tuple(_BEFORE)


def write(strokes: Sequence[Stroke], language: str) -> str:
  """The code of strokes.

  Raises:
    ValueError: a language that is not known.
  """
  if language not in LANGUAGES:
    raise ValueError(
      f"No language {language!r}; there are {', '.join(LANGUAGES)}."
    )
  lines = [_SAID[language](stroke) + "\n" for stroke in strokes]
  return _BEFORE[language] + "".join(lines) + _AFTER.get(language, "")


def _number(value: float) -> str:
  return f"{value:.1f}".removesuffix(".0")


def _ring(stroke: Stroke) -> tuple[list[str], float]:
  """Middle and half the sides of a ring's middle line, and its width."""
  (x, y), (a, b) = stroke.points
  inner = 13 / 16  # Between 5 / 8 and 1.
  wide = (a + b) / 2 * 3 / 8
  return [_number(v) for v in (x, y, inner * a, inner * b)], wide


def _pairs(stroke: Stroke, form: str, between: str) -> str:
  return between.join(
    form.format(_number(x), _number(y)) for x, y in stroke.points
  )


def _flat(stroke: Stroke) -> list[str]:
  return [_number(v) for point in stroke.points for v in point]


def _matplotlib(stroke: Stroke) -> str:
  colour = "#{:02x}{:02x}{:02x}".format(*stroke.colour)
  if stroke.kind == "polygon":
    corners = _pairs(stroke, "({}, {})", ", ")
    return f'ax.add_patch(Polygon([{corners}], color="{colour}", lw=0))'
  twice = lambda text: _number(2 * float(text))
  if stroke.kind == "ellipse":
    x, y, a, b = _flat(stroke)
    how = f'color="{colour}", lw=0'
  else:
    (x, y, a, b), wide = _ring(stroke)
    how = f'fill=False, ec="{colour}", lw={_number(wide * _POINTS)}'
  return f"ax.add_patch(Ellipse(({x}, {y}), {twice(a)}, {twice(b)}, {how}))"


def _svg(stroke: Stroke) -> str:
  colour = "#{:02x}{:02x}{:02x}".format(*stroke.colour)
  if stroke.kind == "polygon":
    return f'<polygon points="{_pairs(stroke, "{},{}", " ")}" fill="{colour}"/>'
  if stroke.kind == "ellipse":
    x, y, a, b = _flat(stroke)
    how = f'fill="{colour}"'
  else:
    (x, y, a, b), wide = _ring(stroke)
    how = f'fill="none" stroke="{colour}" stroke-width="{_number(wide)}"'
  return f'<ellipse cx="{x}" cy="{y}" rx="{a}" ry="{b}" {how}/>'


def _tikz(stroke: Stroke) -> str:
  colour = "{{rgb,255:red,{};green,{};blue,{}}}".format(*stroke.colour)
  if stroke.kind == "polygon":
    return (
      f"\\fill[fill={colour}] {_pairs(stroke, '({},{})', ' -- ')} -- cycle;"
    )
  if stroke.kind == "ellipse":
    x, y, a, b = _flat(stroke)
    how = f"\\fill[fill={colour}]"
  else:
    (x, y, a, b), wide = _ring(stroke)
    how = f"\\draw[draw={colour},line width={_number(wide)}pt]"
  return f"{how} ({x},{y}) ellipse [x radius={a}, y radius={b}];"


def _processing(stroke: Stroke) -> str:
  colour = "{}, {}, {}".format(*stroke.colour)
  if stroke.kind == "polygon":
    corners = _pairs(stroke, "vertex({}, {});", " ")
    return f"fill({colour}); beginShape(); {corners} endShape(CLOSE);"
  twice = lambda text: _number(2 * float(text))
  if stroke.kind == "ellipse":
    x, y, a, b = _flat(stroke)
    return f"fill({colour}); ellipse({x}, {y}, {twice(a)}, {twice(b)});"
  (x, y, a, b), wide = _ring(stroke)
  return (
    f"noFill(); stroke({colour}); strokeWeight({_number(wide)}); "
    f"ellipse({x}, {y}, {twice(a)}, {twice(b)}); noStroke();"
  )


_SAID = {
  "matplotlib": _matplotlib, "svg": _svg, "tikz": _tikz,
  "processing": _processing,
}  # fmt: skip
