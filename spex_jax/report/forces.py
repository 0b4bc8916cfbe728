"""Figures of how sets add up: waterfall, force, upset, and pairs as a matrix.

They take the strongest sets of an index, whatever their order, and count what
they leave out. Names of any length are broken into lines, or stand below.
"""

from typing import TYPE_CHECKING

import numpy as np

from spex_jax.indices import interactions as interactions_lib
from spex_jax.report import circuit_plots, plots

if TYPE_CHECKING:
  import matplotlib.figure

Interactions = interactions_lib.Interactions

_INSIDE = 0.03  # Of a force's width: a part that has room for its number.
_MOST = 24  # Letters of a row of a matrix or an upset's.


def waterfall(
  interactions: Interactions, *, title: str = "", top: int = 12
) -> "matplotlib.figure.Figure":
  """From the baseline to the sum of all sets, the strongest first.

  The last step is of all sets that are not shown. Where the index is efficient
  the sum is f(all); of others it is what the index adds up to.

  Args:
    interactions: the values of players and sets.
    title: the text over the figure; "" for none.
    top: how many sets have a step of their own.
  """
  labels, values = _steps(interactions, top)
  ends = interactions.baseline + np.cumsum([0.0, *values])
  heights = np.array([plots.height(label) for label in ["", *labels, ""]])
  middles = np.cumsum(heights) - heights / 2
  figure = plots.blank(8, 1.3 + float(heights.sum()), arranged=True)
  axes = figure.subplots()
  for place, value, start in zip(middles[1:], values, ends):
    color = plots.ink(value)
    axes.barh(place, value, 0.7 * plots.ROW, left=start, color=color)
    axes.annotate(
      f"{value:+.3g}", (start + max(value, 0), place), xytext=(3, 0),
      textcoords="offset points", va="center", fontsize=7, color=color,
    )  # fmt: skip
  for upper, lower, at in zip(middles, middles[1:], ends):
    axes.plot([at, at], [upper, lower], color="0.5", lw=0.7, ls=":")
  axes.plot(ends[[0, -1]], middles[[0, -1]], "D", color="black", ms=4)
  names = [f"none: {ends[0]:+.4g}", *labels, f"all together: {ends[-1]:+.4g}"]
  axes.set_yticks(middles, names, fontsize=8)
  axes.set_ylim(float(heights.sum()), 0)
  axes.use_sticky_edges = False  # Room beside bars, for their values.
  axes.margins(x=0.12)
  axes.set_xlabel(plots.values_in(interactions))
  axes.spines[["top", "right"]].set_visible(False)
  axes.set_title(plots.escape(title))
  return figure


def force(
  interactions: Interactions, *, title: str = "", top: int = 10
) -> "matplotlib.figure.Figure":
  """What pushes the value up, and what pulls it down, on one line.

  Parts left of the value raise it, parts right of it lower it; their numbers
  are those of the list below, which is sorted by size.

  Args:
    interactions: the values of players and sets.
    title: the text over the figure; "" for none.
    top: how many sets have a part of their own.
  """
  labels, values = _steps(interactions, top)
  total = interactions.baseline + float(np.sum(values))
  lines = sum(label.count("\n") + 1 for label in labels)
  below = 0.4 + 0.16 * lines
  figure = plots.blank(8, 1.9 + below)
  room = 1.9 + below
  axes = figure.add_axes((0.06, (below + 0.55) / room, 0.88, 0.6 / room))
  # Parts from the total outwards: to its left what raises it.
  wide = float(np.abs(values).sum()) or 1.0
  left = right = total
  for number, value in enumerate(values, 1):
    if value == 0:
      continue
    start = left - value if value > 0 else right
    left, right = left - max(value, 0.0), right - min(value, 0.0)
    color = plots.ink(value)
    axes.barh(
      0, abs(value), 0.9, left=start, color=color, edgecolor="white", lw=0.8
    )
    if abs(value) > _INSIDE * wide:
      axes.text(
        start + abs(value) / 2, 0, str(number), color="white", fontsize=8,
        ha="center", va="center",
      )  # fmt: skip
  # The total, the baseline, and the axis.
  axes.axvline(total, color="black", lw=1.5)
  axes.annotate(
    f"all {total:+.4g}", (total, 0.5), xytext=(0, 4), fontsize=8, ha="center",
    textcoords="offset points",
  )  # fmt: skip
  axes.plot(interactions.baseline, -0.62, "^", color="0.35", ms=6,
            clip_on=False)  # fmt: skip
  axes.set(ylim=(-0.6, 0.6), yticks=[])
  axes.set_xlabel(
    f"{plots.values_in(interactions)}; triangle: none, "
    f"{interactions.baseline:+.4g}",
    fontsize=8,
  )
  axes.tick_params(labelsize=7)
  axes.spines[["top", "right", "left"]].set_visible(False)
  # The list of parts, under the axis.
  y = below - 0.1
  for number, (label, value) in enumerate(zip(labels, values), 1):
    color = plots.ink(value)
    figure.text(
      0.06, y / room, f"{number}  {value:+.3g}", color=color, fontsize=8,
      va="top",
    )  # fmt: skip
    figure.text(0.2, y / room, label, fontsize=8, va="top")
    y -= 0.16 * (label.count("\n") + 1)
  figure.suptitle(plots.escape(title), y=1 - 0.12 / room, fontsize=10)
  return figure


def upset(
  interactions: Interactions, *, title: str = "", top: int = 20
) -> "matplotlib.figure.Figure":
  """Values of the strongest sets above, their members as dots below.

  Every member of a shown set has a row, whether or not it has a value of its
  own; bars have 95 % intervals where standard errors are known.

  Args:
    interactions: the values of players and sets.
    title: the text over the figure; "" for none.
    top: how many sets are shown, the strongest.
  """
  found = interactions.top(top)
  sets = list(found)
  rows = sorted({player for players, _ in sets for player in players})
  names = [plots.label(interactions, (p,), wrap=_MOST) for p in rows]
  heights = np.array([0.1 + 0.15 * (name.count("\n") + 1) for name in names])
  middles = np.cumsum(heights) - heights / 2
  below = float(heights.sum()) or plots.ROW
  figure = plots.blank(
    2.6 + 0.28 * max(len(sets), 6), 2.8 + below, arranged=True
  )
  above, dots = figure.subplots(
    2, 1, sharex=True, height_ratios=(1.9, max(below, 0.3))
  )
  values = [value for _, value in sets]
  colors = [plots.ink(v) for v in values]
  above.bar(range(len(sets)), values, 0.7, color=colors,
            yerr=plots.whiskers(found), error_kw={"lw": 0.8})  # fmt: skip
  above.axhline(0, color="black", lw=0.8)
  above.set_ylabel(plots.values_in(interactions), fontsize=8)
  above.tick_params(axis="x", length=0)
  above.spines[["top", "right", "bottom"]].set_visible(False)
  place = dict(zip(rows, middles))
  for row, middle in enumerate(middles):
    if row % 2 == 0:
      half = heights[row] / 2
      dots.axhspan(middle - half, middle + half, color="0.94", lw=0)
  for x, ((players, _), color) in enumerate(zip(sets, colors)):
    ys = [place[p] for p in players]
    dots.plot([x, x], [min(ys), max(ys)], color=color, lw=1.5)
    dots.plot([x] * len(ys), ys, "o", color=color, ms=5)
  dots.set_yticks(middles, names, fontsize=8)
  dots.set_ylim(below, 0)
  dots.set_xticks([])
  dots.tick_params(length=0)
  dots.spines[:].set_visible(False)
  figure.suptitle(plots.escape(title), fontsize=10)
  return figure


def pairs(
  interactions: Interactions, *, title: str = "", top: int = 30
) -> "matplotlib.figure.Figure":
  """A matrix of players: pairs beside the diagonal, single players on it.

  Args:
    interactions: the values; sets of three or more have no place here.
    title: the text over the figure; "" for none.
    top: the most players, those of the largest sums of |value|.
  """
  size = np.zeros(interactions.n)
  small = [item for item in interactions if len(item[0]) <= 2]
  for players, value in small:
    size[list(players)] += abs(value)
  kept = np.sort(np.argsort(-size, kind="stable")[:top])
  place = {int(player): i for i, player in enumerate(kept)}
  values = np.zeros((len(kept), len(kept)))
  for players, value in small:
    if all(player in place for player in players):
      i, j = place[players[0]], place[players[-1]]
      values[i, j] = values[j, i] = value
  names = [plots.label(interactions, (int(p),), wrap=_MOST) for p in kept]
  if len(kept) < interactions.n:
    title = f"{title} ({len(kept)} of {interactions.n} players)".strip()
  return circuit_plots.heatmap(
    values, names, names, units=plots.values_in(interactions), title=title
  )


def _steps(
  interactions: Interactions, top: int
) -> tuple[list[str], list[float]]:
  """Labels and values of the strongest sets, and of all others together."""
  sets = list(interactions.top(top))
  labels = [
    plots.label(interactions, players, " & ", wrap=2 * _MOST)
    for players, _ in sets
  ]
  values = [value for _, value in sets]
  if more := len(interactions) - len(sets):
    labels.append(f"{more:,} other set{'s' * (more > 1)}")
    values.append(float(np.sum(interactions.values[len(sets) :])))
  return labels, values
