"""Components by layer: their values as a heat map, their sets as arcs.

Shapes: n players, L layers.
"""

import itertools
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from spex_jax.indices import interactions as interactions_lib
from spex_jax.report import plots

if TYPE_CHECKING:
  import matplotlib.figure

_STYLES = (("-", "--"), ("-.", ":"))  # Of positive and negative sets.
_CELLS = 40  # Columns that still get cells of their own width.


def grid(
  interactions: interactions_lib.Interactions,
  layer_of: Sequence[str],
  *,
  title: str = "",
  top: int = 8,
) -> "matplotlib.figure.Figure":
  """Layers from below to above, their components side by side.

  A cell's colour is a component's value; arcs join the strongest sets.

  Args:
    interactions: the values of n components and their sets.
    layer_of: n names: the layer of each. Components of a layer stand in their
      order.
    title: the text over the figure; "" for none.
    top: how many sets of two or more components to join.

  Raises:
    ValueError: other than n names.
  """
  from matplotlib import lines, patches  # Slow to import.

  if len(layer_of) != interactions.n:
    raise ValueError(f"Need {interactions.n} layers; got {len(layer_of)}.")
  # A row for each layer, a column for each of its components.
  names = list(dict.fromkeys(map(str, layer_of)))
  row = np.array([names.index(str(name)) for name in layer_of])
  column = np.zeros(len(row), int)
  for number in range(len(names)):
    own = row == number
    column[own] = np.arange(own.sum())
  columns = int(column.max()) + 1
  values = np.full((len(names), columns), np.nan)
  values[row, column] = 0.0
  larger = []
  for players, value in interactions:
    if len(players) == 1:
      values[row[players[0]], column[players[0]]] = value
    elif len(larger) < top:
      larger.append((players, value))
  # First order as a heatmap.
  limit = float(np.nanmax(np.abs(values))) or 1.0
  width = min(12.0, 3.5 + 0.3 * min(columns, _CELLS))
  height = max(2.6, 1.2 + 0.42 * len(names) + 0.22 * len(larger))
  figure = plots.blank(width, height, arranged=True)
  axes = figure.subplots()
  axes.set_facecolor("#eeeeee")  # Where a layer has no component.
  heat = axes.imshow(
    values,
    cmap="RdBu_r",
    vmin=-limit,
    vmax=limit,
    origin="lower",
    aspect="auto",
    interpolation="nearest",
  )
  bar = figure.colorbar(heat, ax=axes, shrink=0.9)
  bar.set_label(plots.values_in(interactions))
  axes.set_yticks(range(len(names)), [plots.escape(name) for name in names])
  axes.tick_params(labelsize=8, length=2)
  axes.set_xlabel("component of the layer")
  # Larger sets as arcs.
  handles = []
  labels = interactions.labels()
  for number, (players, value) in enumerate(larger):
    turn, color = divmod(number, len(plots.LINKS))
    color = plots.LINKS[color]
    style = _STYLES[turn % 2][value < 0]  # Where colours come again, others.
    places = [(int(column[p]), int(row[p])) for p in players]
    for a, b in itertools.pairwise(places):
      # Bent, so that arcs within a layer leave its row.
      bend = 0.35 if a[1] == b[1] else 0.12
      axes.add_patch(
        patches.FancyArrowPatch(
          a, b, connectionstyle=f"arc3,rad={bend}", arrowstyle="-",
          color=color, lw=1.8, ls=style, clip_on=False,
        )
      )  # fmt: skip
    axes.plot(*zip(*places), "o", color=color, ms=4)
    text = f"{value:+.3g}  {', '.join(labels[p] for p in players)}"
    handles.append(
      lines.Line2D(
        [], [], color=color, lw=2, ls=style, label=plots.escape(text)
      )
    )
  if handles:
    figure.legend(
      handles=handles,
      title=f"{plots.values_in(interactions)}; dashed or dotted: negative",
      title_fontsize=8,
      loc="outside lower center",
      fontsize=7,
      frameon=False,
    )
  if title:
    axes.set_title(plots.escape(title), fontsize=9, wrap=True)
  return figure
