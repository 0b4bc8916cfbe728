"""Figures of training examples: who helps or harms a prediction, and together.

Shapes: H by W pixels, 3 colours or none.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from spex_jax import base
from spex_jax.fourier import score
from spex_jax.report import plots

if TYPE_CHECKING:
  import matplotlib.figure


class Shown(NamedTuple):
  """A training example, or a set of them, with what it is worth.

  Attributes:
    players: the number of one player, or those of several.
    value: its score, or their interaction, in the units of the values.
    std: its standard error, or None.
  """

  players: tuple[int, ...]
  value: float
  std: float | None = None


class Point(NamedTuple):
  """A test point and those who move it.

  Attributes:
    title: what the point is called, in words.
    helpful, harmful: single players, best and worst first.
    synergy, redundancy: sets of positive and of negative interaction.
  """

  title: str
  helpful: Sequence[Shown]
  harmful: Sequence[Shown]
  synergy: Sequence[Shown]
  redundancy: Sequence[Shown]


def images(
  points: Sequence[Point],
  tests: Sequence[base.Array],
  train: base.Array,
  names: Sequence[str],
  *,
  units: str,
  title: str = "",
  top: int = 3,
) -> "matplotlib.figure.Figure":
  """A row for each test point: its image, and those of training examples.

  Args:
    points: the test points, each with who moves it.
    tests: the image of each point, `[H, W]` or `[H, W, 3]`.
    train: `[n, H, W]` or `[n, H, W, 3]`, the image of each player.
    names: the names of the players.
    units: the units of the values.
    title: the text over the figure; "" for none.
    top: how many helpful and harmful ones; of sets the strongest pair of each
      sign is shown.
  """
  train = np.asarray(train)
  columns = 1 + 2 * top + 4
  figure = plots.blank(1.25 * columns, 1.75 * len(points) + 0.6, arranged=True)
  grid = figure.subplots(len(points), columns, squeeze=False)
  heads = ["test point", *["helpful"] * top, *["harmful"] * top]
  heads += ["synergy", "", "redundancy", ""]
  # A row: the test image, single examples, then the strongest pairs.
  for number, (point, test, row) in enumerate(zip(points, tests, grid)):
    for axes in row:
      axes.set_axis_off()
      axes.set_box_aspect(train.shape[1] / train.shape[2])  # Empty ones, too.
    _picture(row[0], np.asarray(test), point.title, "black")
    singles = [(row[1 : 1 + top], point.helpful)]
    singles.append((row[1 + top : 1 + 2 * top], point.harmful))
    for places, shown in singles:
      for axes, item in zip(places, shown):
        (player,) = item.players
        text = f"{names[player]}\n{_value(item)}"
        _picture(axes, train[player], text, _colour(item.value))
    pairs = [
      (row[1 + 2 * top :][:2], point.synergy),
      (row[-2:], point.redundancy),
    ]
    for places, shown in pairs:
      for item in shown[:1]:
        for place, (axes, player) in enumerate(zip(places, item.players)):
          text = names[player] + ("" if place else f"\n{_value(item)}")
          _picture(axes, train[player], text, _colour(item.value))
    # Heads of columns, over the first row alone.
    if not number:
      for axes, head in zip(row, heads):
        if head:
          axes.annotate(
            head,
            (0.5, 1.42),
            xycoords="axes fraction",
            ha="center",
            fontsize=9,
            weight="bold",
          )
  # One line: below stand the heads.
  words = f"{title} (values in {units})".strip()
  figure.suptitle(plots.escape(words), fontsize=10)
  return figure


def bars(
  points: Sequence[Point], names: Sequence[str], *, units: str, title: str = ""
) -> "matplotlib.figure.Figure":
  """Signed bars for each test point, with 95 % intervals where known.

  Args:
    points: the test points, each with who moves it.
    names: the names of the players.
    units: the units of the values.
    title: the text over the figure; "" for none.
  """
  lists = [
    [*p.helpful, *reversed(p.harmful), *p.synergy, *reversed(p.redundancy)]
    for p in points
  ]
  tallest = max(map(len, lists), default=1)
  figure = plots.blank(
    5.5 * len(points), 1.6 + 0.3 * max(tallest, 1), arranged=True
  )
  for axes, point, items in zip(
    figure.subplots(1, len(points), squeeze=False)[0], points, lists
  ):
    values = [item.value for item in items]
    axes.barh(
      range(len(items)),
      values,
      color=[_colour(value) for value in values],
      xerr=[score.WIDE * (item.std or 0.0) for item in items],
      error_kw={"lw": 0.8},
    )
    labels = [
      plots.escape(" &\n".join(names[p] for p in item.players))
      for item in items
    ]
    axes.set_yticks(range(len(items)), labels, fontsize=7)
    axes.invert_yaxis()
    axes.axvline(0, color="black", lw=0.8)
    axes.set_xlabel(plots.escape(units))
    axes.spines[["top", "right"]].set_visible(False)
    axes.set_title(plots.escape(point.title), fontsize=9)
  figure.suptitle(plots.escape(title), fontsize=10)
  return figure


def table(point: Point, names: Sequence[str], units: str) -> Any:
  """A rich table of one test point, intervals of 95 % where known."""
  from rich import box, table, text  # Slow to import.

  title = text.Text(point.title, style="table.title")
  rows = table.Table(box=box.SIMPLE_HEAD, title=title, title_justify="left")
  rows.add_column(units, justify="right")
  known = any(item.std is not None for item in (*point.helpful, *point.harmful))
  if known:
    rows.add_column("95 % interval")
  rows.add_column("")
  rows.add_column("training examples")
  for kind in ("helpful", "harmful", "synergy", "redundancy"):
    for item in getattr(point, kind):
      cells = [f"{item.value:+.3g}"]
      if known:
        half = score.WIDE * (item.std or 0)
        low, high = item.value - half, item.value + half
        cells.append("" if item.std is None else f"[{low:+.3g}, {high:+.3g}]")
      cells += [kind, " & ".join(names[player] for player in item.players)]
      rows.add_row(*map(text.Text, cells))
    rows.add_section()
  return rows


def _picture(axes, pixels: np.ndarray, text: str, color: str) -> None:
  if pixels.ndim == 3:  # Colours are of bytes, or in [0, 1].
    pixels = np.clip(pixels / (255 if pixels.max() > 1 else 1), 0, 1)
  axes.imshow(pixels, cmap="gray_r")
  axes.set_title(plots.escape(text), fontsize=7, color=color)


def _value(item: Shown) -> str:
  error = "" if item.std is None else f" ± {score.WIDE * item.std:.2g}"
  return f"{item.value:+.3g}{error}"


def _colour(value: float) -> str:
  return plots.POSITIVE if value > 0 else plots.NEGATIVE
