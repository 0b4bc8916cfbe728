"""Figures of interactions, drawn without a display.

Every function returns a `matplotlib.figure.Figure` of its own, outside of
pyplot: nothing is shown, and no global state is touched. `save` writes one.
Positive values are red, negative ones blue, in every figure.

Shapes: H by W pixels.
"""

import os
import pathlib
from typing import TYPE_CHECKING

import numpy as np

from spex_jax import base
from spex_jax.fourier import score
from spex_jax.indices import interactions as interactions_lib
from spex_jax.report import fonts

if TYPE_CHECKING:
  import matplotlib.figure

Interactions = interactions_lib.Interactions
Set = tuple[tuple[int, ...], float]

_MAP = "RdBu_r"
ROW, _LINE = 0.32, 0.155  # Inches: a bar with its label, a further line.
_OUTSIDE, _LETTER = 1.12, 0.034  # Of a circle's radius: names, a letter.
# Letters in a line: of a bar's label, a legend's, a node's.
_TICK, _LEGEND, _NODE = 40, 44, 26
_MOST_LINES = 12  # Of a label.
POSITIVE, NEGATIVE = "#b2182b", "#2166ac"
# Colours of sets, in the order of their strength: Okabe and Ito's, which the
# colour-blind tell apart. Signs are by dashes, besides.
LINKS = ("#009e73", "#d55e00", "#0072b2", "#cc79a7", "#e69f00", "#56b4e9")
# Letters stay text in a PDF, with their font; in an SVG they are outlines, as
# its reader may not have the font.
_FORMATS = {"pdf.fonttype": 42, "ps.fonttype": 42, "svg.fonttype": "path"}
_CONTOURS = 48  # Cells of a photograph's outlines, on its longer side.


def image(
  pixels: base.Array,
  owner: base.Array,
  interactions: Interactions,
  *,
  title: str = "",
  top: int = 6,
) -> "matplotlib.figure.Figure":
  """An image, its strongest sets, and its first-order values as a heatmap.

  Sets of negative value are dashed. Colours of the heatmap are those of its
  bar; of a photograph it has the outlines. Without larger sets there is no
  panel of them.

  Args:
    pixels: `[H, W]` grey, or `[H, W, 3]` in [0, 1].
    owner: int `[H, W]`: the player of each pixel.
    interactions: the values of these players and their sets.
    title: the text over the figure; "" for none.
    top: how many sets of two or more players to link.
  """
  pixels, owner = np.asarray(pixels), np.asarray(owner)
  singles, larger = _split(interactions)
  larger = larger[:top]
  labels = [
    f"{value:+.3g}  {label(interactions, players, wrap=_LEGEND)}"
    for players, value in larger
  ]
  below = sum(text.count("\n") + 1 for text in labels)
  wide = 11 if larger else 7.6
  figure = blank(wide, 4.2 + _LINE * max(below - top, 0), arranged=True)
  panels = figure.subplots(1, 3 if larger else 2)
  left, middle = panels[0], panels[-1]
  rows, columns = _grid(owner)
  for axes in panels:
    axes.set_xticks(columns, range(len(columns)), fontsize=7)
    axes.set_yticks(rows, range(len(rows)), fontsize=7)
    axes.tick_params(length=2)
  left.imshow(pixels, cmap="gray")
  left.set_title("input")

  values = np.zeros(interactions.n + 1)  # The last: pixels that nobody owns.
  for (player,), value in singles:
    values[player] = value
  limit = float(np.abs(values).max()) or 1.0
  heat = middle.imshow(values[owner], cmap=_MAP, vmin=-limit, vmax=limit)
  if pixels.ndim == 3:
    _outlines(middle, pixels.mean(axis=2))
  middle.set_title("first order")
  # Room from all panels, so that they stay as large and as far apart.
  bar = figure.colorbar(heat, ax=list(panels), shrink=0.75, pad=0.02)
  bar.set_label(values_in(interactions))
  if larger:
    _linked(panels[1], pixels, owner, larger, labels, values_in(interactions))
  figure.suptitle(escape(title))
  return figure


def _outlines(axes, grey: np.ndarray) -> None:
  """Lines of equal brightness, of an image that is averaged over cells."""
  step = -(-max(grey.shape) // _CONTOURS)
  rows, columns = (size // step for size in grey.shape)
  if min(rows, columns) < 2 or not np.ptp(grey):
    return
  cells = grey[: rows * step, : columns * step]
  cells = cells.reshape(rows, step, columns, step).mean(axis=(1, 3))
  places = [(np.arange(k) + 0.5) * step - 0.5 for k in (columns, rows)]
  axes.contour(
    *places, cells, levels=5, colors="black", linewidths=0.4, alpha=0.6
  )


def _linked(axes, pixels, owner, larger, labels, values: str) -> None:
  """Frames of the members of sets, and lines between them."""
  from matplotlib import lines, patches  # Slow to import.

  axes.imshow(pixels, cmap="gray", alpha=0.35)
  axes.set_title("strongest sets")
  handles = []
  boxes = {p: _box(owner, p) for players, _ in larger for p in players}
  for left_edge, top_edge, width, height in boxes.values():
    axes.add_patch(
      patches.Rectangle(
        (left_edge, top_edge), width, height, fill=False, edgecolor="#555555"
      )
    )
  for number, (players, value) in enumerate(larger):
    color, style = LINKS[number % len(LINKS)], "-" if value > 0 else "--"
    # A player of several sets has a mark for each, around its centre.
    angle = 2 * np.pi * number / max(len(larger), 1)
    place = 0.5 + 0.25 * np.array([np.cos(angle), np.sin(angle)])
    marks = np.asarray([boxes[p][:2] + place * boxes[p][2:] for p in players])
    middle_point = marks.mean(axis=0)
    for mark in marks:
      axes.plot(*zip(mark, middle_point), color=color, lw=1.5, ls=style)
    axes.plot(*marks.T, "o", color=color, ms=3.5)
    handles.append(
      lines.Line2D([], [], color=color, lw=2, ls=style, label=labels[number])
    )
  axes.legend(
    handles=handles,
    title=f"{values}; dashed: negative",
    title_fontsize=8,
    loc="upper center",
    bbox_to_anchor=(0.5, -0.08),
    fontsize=8,
    frameon=False,
  )


def bars(
  interactions: Interactions, *, title: str = "", top: int = 15
) -> "matplotlib.figure.Figure":
  """The strongest sets of any order, as signed bars.

  They have 95 % intervals where standard errors are known.

  Args:
    interactions: the values of players and sets.
    title: the text over the figure; "" for none.
    top: how many sets are shown, the strongest.
  """
  found = interactions.top(top)
  sets = list(found)
  labels = [
    label(interactions, players, " &\n", wrap=_TICK) for players, _ in sets
  ]
  heights = np.array([height(text) for text in labels])
  middles = np.cumsum(heights) - heights / 2
  total = float(heights.sum()) or ROW
  figure = blank(8, 1.4 + total, arranged=True)
  axes = figure.subplots()
  values = [value for _, value in sets]
  colors = [ink(value) for value in values]
  axes.barh(
    middles, values, 0.8 * ROW, color=colors, xerr=whiskers(found),
    error_kw={"lw": 0.8},
  )  # fmt: skip
  axes.set_yticks(middles, labels, fontsize=8)
  axes.set_ylim(total, 0)
  axes.axvline(0, color="black", lw=0.8)
  axes.set_xlabel(values_in(interactions))
  axes.spines[["top", "right"]].set_visible(False)
  axes.set_title(escape(title))
  return figure


def network(
  interactions: Interactions, *, title: str = "", top: int = 20
) -> "matplotlib.figure.Figure":
  """Players on a circle; pairs are links, larger sets are tinted polygons.

  A node's area is its first-order value, a link's width (a polygon's
  strength) its interaction; a legend says so.

  Args:
    interactions: the values of players and sets.
    title: the text over the figure; "" for none.
    top: how many sets of two or more players; only their players, and as
      many of the strongest alone, are drawn.
  """
  from matplotlib import lines, patches  # Slow to import.

  singles, larger = _split(interactions)
  larger = larger[:top]
  shown = sorted(
    {p for players, _ in larger for p in players}
    | {players[0] for players, _ in singles[:top]}
  )
  texts = {p: label(interactions, (p,), wrap=_NODE) for p in shown}
  longest = max(
    (len(line) for t in texts.values() for line in t.split("\n")), default=0
  )
  limit = max(1.5, _OUTSIDE + _LETTER * longest)  # Room for long names.
  figure = blank(7 * limit / 1.5, 7 * limit / 1.5, arranged=True)
  axes = figure.subplots()
  axes.set_aspect("equal")
  axes.axis("off")
  # Players stand on a circle.
  angles = np.pi / 2 - 2 * np.pi * np.arange(len(shown)) / max(len(shown), 1)
  places = dict(zip(shown, np.stack([np.cos(angles), np.sin(angles)], axis=1)))
  # Sets, as lines and areas between them.
  biggest = max((abs(value) for _, value in larger), default=1.0) or 1.0
  for players, value in larger[::-1]:  # The strongest on top.
    color = ink(value)
    strength = abs(value) / biggest
    corners = np.asarray([places[p] for p in players])
    if len(players) == 2:
      axes.plot(*corners.T, color=color, lw=0.5 + 5 * strength, alpha=0.7)
    else:
      axes.add_patch(
        patches.Polygon(corners, color=color, alpha=0.08 + 0.25 * strength)
      )
  # Players themselves, with their names outside.
  first = {players[0]: value for players, value in singles}
  most = max((abs(value) for value in first.values()), default=1.0) or 1.0
  for player, place in places.items():
    value = first.get(player, 0.0)
    size = 20 + 500 * abs(value) / most
    axes.scatter(*place, s=size, color=ink(value), zorder=3)
    angle = np.degrees(np.arctan2(place[1], place[0]))
    turned = abs(angle) > 90  # Text on the left half reads towards the node.
    axes.text(
      _OUTSIDE * place[0],
      _OUTSIDE * place[1],
      texts[player],
      rotation=angle + 180 if turned else angle,
      rotation_mode="anchor",
      ha="right" if turned else "left",
      va="center",
      fontsize=9,
    )
  axes.set_xlim(-limit, limit)
  axes.set_ylim(-limit, limit)
  axes.legend(
    handles=[
      lines.Line2D([], [], color=POSITIVE, lw=3, label="positive"),
      lines.Line2D([], [], color=NEGATIVE, lw=3, label="negative"),
    ],
    title="area, width, tint: size",
    title_fontsize=8,
    loc="lower right",
    fontsize=8,
    frameon=False,
  )
  values = values_in(interactions)
  axes.set_title(f"{escape(title)}\n{values}" if title else values)
  return figure


def save(
  figure: "matplotlib.figure.Figure", path: str | os.PathLike, dpi: int = 150
) -> None:
  """Writes a figure, whole or not at all; the suffix gives the format.

  Fonts are within the file, whichever it is.
  """
  import matplotlib  # Slow to import.

  path = pathlib.Path(path)
  temporary = path.with_name(f".{path.stem}.{os.getpid()}{path.suffix}")
  try:
    with matplotlib.rc_context(_FORMATS):
      figure.savefig(temporary, dpi=dpi, bbox_inches="tight")
    temporary.replace(path)
  finally:
    temporary.unlink(missing_ok=True)


def blank(
  width: float, height: float, *, arranged: bool = False
) -> "matplotlib.figure.Figure":
  """An empty figure, in inches; `arranged` fits its axes to their labels."""
  from matplotlib import figure  # Slow to import.

  class Dressed(figure.Figure):
    """Texts get fonts that have their characters, whenever it is drawn."""

    def draw(self, renderer):
      fonts.dress(self)
      super().draw(renderer)

  layout = "constrained" if arranged else None
  return Dressed(figsize=(width, height), layout=layout)


def ink(value: float) -> str:
  """The colour of a value: grey of 0."""
  return "#777777" if value == 0 else POSITIVE if value > 0 else NEGATIVE


def height(label: str) -> float:
  """Inches of a row that is as high as its label, of two lines at least."""
  return ROW + _LINE * max(label.count("\n") - 1, 0)


def whiskers(interactions: Interactions) -> np.ndarray | None:
  """Half of each value's 95 % interval; None where no errors are known."""
  return None if interactions.std is None else score.WIDE * interactions.std


def values_in(interactions: Interactions) -> str:
  """The index and its units."""
  return escape(f"{interactions.index} ({interactions.units or 'value'})")


def escape(text: str) -> str:
  """Text as it is: no formula between dollars, no box for a character."""
  return fonts.shown(text).replace("$", r"\$")


def _box(owner: np.ndarray, player: int) -> np.ndarray:
  """A player's bounding box: left, top, width and height."""
  rows, cols = np.nonzero(owner == player)
  return np.array(
    [cols.min() - 0.5, rows.min() - 0.5, np.ptp(cols) + 1, np.ptp(rows) + 1]
  )


def _grid(owner: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
  """Centres of the rows and columns of patches, if the players are a grid."""
  centres = []
  for axis in (0, 1):
    other = 1 - axis
    edges = np.flatnonzero(np.diff(owner, axis=axis).any(axis=other)) + 1
    edges = np.concatenate([[0], edges, [owner.shape[axis]]])
    centres.append((edges[:-1] + edges[1:] - 1) / 2)
  rows, columns = centres
  if len(rows) * len(columns) != len(np.unique(owner)):
    return np.zeros(0), np.zeros(0)  # Other shapes have no such numbers.
  return rows, columns


def _split(interactions: Interactions) -> tuple[list[Set], list[Set]]:
  """Single players and larger sets, each with the strongest first."""
  sets = list(interactions)
  return (
    [item for item in sets if len(item[0]) == 1],
    [item for item in sets if len(item[0]) > 1],
  )


def label(
  interactions: Interactions,
  players: tuple[int, ...],
  joint: str = ", ",
  *,
  wrap: int,
) -> str:
  """A set's names, joined; in lines of about `wrap` letters.

  Long names are broken and never shortened, as their ends may be all that
  tells them apart. Of a very large set the first are named, and the others
  counted.
  """
  labels = interactions.labels()
  lines = [""]
  for number, player in enumerate(players):
    if len(lines) > _MOST_LINES:
      lines.append(f"… and {len(players) - number} more")
      break
    name = fonts.shown(labels[player])  # Spelt first: that may be long.
    if number + 1 < len(players):
      name += joint.rstrip("\n")
    full = len(lines[-1]) + len(name.rstrip()) > wrap
    if lines[-1] and (full or joint.endswith("\n")):
      lines.append("")
    # Evenly, so that no line is left with a letter or two.
    count = max(1, -(-len(name.rstrip()) // wrap))
    size = -(-len(name) // count)
    pieces = [name[i : i + size] for i in range(0, len(name), size)]
    lines[-1] += fonts.forward(pieces[0])
    lines += map(fonts.forward, pieces[1:])
  return escape("\n".join(line.rstrip() for line in lines))
