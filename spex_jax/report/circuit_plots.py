"""Figures of circuits: faithfulness by size, their edges, maps of patches.

Shapes: K sizes, R random circuits, I rows, J columns.
"""

import math
import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from spex_jax import base
from spex_jax.report import plots

if TYPE_CHECKING:
  import matplotlib.figure

_MOST = 40  # Labels of an axis.
_DASHES = {"q": "-", "k": "--", "v": ":", "": "-"}
_INSIDE = re.compile(r"blocks\.(\d+)\.(?:heads\.(\d+)|mlp.*)")


def curves(
  sizes: base.Array,
  curve: base.Array,
  *,
  random: base.Array | None = None,
  connected: base.Array | None = None,
  chosen: tuple[float, float] | None = None,
  title: str = "",
) -> "matplotlib.figure.Figure":
  """Faithfulness against the number of edges, which is on a logarithmic axis.

  Args:
    sizes: `[K]`, edges asked for.
    curve: `[K]`, faithfulness: 1 is the whole model, 0 the corrupted run.
    random: `[R, K]`, of random circuits as large; their range is a band.
    connected: `[K]`, edges that are left when what dangles is pruned.
    chosen: edges and faithfulness of one circuit, marked.
    title: the text over the figure; "" for none.
  """
  figure = plots.blank(6.4, 4.2, arranged=True)
  axes = figure.subplots()
  sizes, curve = np.asarray(sizes), np.asarray(curve)
  axes.axhline(1, color="0.6", linewidth=0.8, linestyle="--")
  axes.axhline(0, color="0.6", linewidth=0.8)
  if random is not None and len(random):
    low, high = np.min(random, axis=0), np.max(random, axis=0)
    axes.fill_between(sizes, low, high, color="0.8", label="random circuits")
  axes.plot(sizes, curve, "o-", color=plots.NEGATIVE, label="by scores")
  if connected is not None:
    for x, y, left in zip(sizes, curve, np.asarray(connected)):
      axes.annotate(
        f"{left:,}", (x, y), textcoords="offset points", xytext=(0, 6),
        ha="center", fontsize=7, color="0.3",
      )  # fmt: skip
  if chosen is not None:
    axes.plot(
      *chosen, "*", color=plots.POSITIVE, markersize=13, label="the circuit"
    )
  axes.set_xscale("log")
  axes.margins(y=0.1)  # For what stands above points.
  axes.set_xlabel("edges kept" + " (beside points: connected)"
                  * (connected is not None))  # fmt: skip
  axes.set_ylabel("faithfulness")
  axes.set_title(plots.escape(title), fontsize=10)
  axes.legend(frameon=False, fontsize=8)
  return figure


def circuit(
  edges: Sequence[Mapping[str, Any]], *, title: str = ""
) -> "matplotlib.figure.Figure":
  """Nodes by layer and the edges between them; of 400 or fewer it can be read.

  Blue edges help the behaviour (negative scores), red ones work against it.
  Whole lines enter queries, MLPs and the output, dashed ones keys, dotted ones
  values.

  Args:
    edges: as `circuits.graph.Graph.drawn` gives them.
    title: the text over the figure; "" for none.

  Raises:
    ValueError: no edge, or a score that is NaN.
  """
  from matplotlib import patches  # Slow to import.

  sizes = [abs(edge["score"]) for edge in edges]
  if not sizes or not all(map(math.isfinite, sizes)):
    raise ValueError(f"Need edges with finite scores; got {len(sizes)}.")
  names = {name for edge in edges for name in (edge["from"], *edge["into"])}
  rows: dict[float, list[str]] = {}
  for name in sorted(names, key=lambda name: (_level(name), _head(name), name)):
    rows.setdefault(_level(name), []).append(name)
  wide = max(map(len, rows.values()))
  figure = plots.blank(
    max(5.0, 0.62 * wide + 1), 0.62 * len(rows) + 1, arranged=True
  )
  axes = figure.subplots()
  axes.axis("off")
  places = {
    name: ((i + 1) / (len(row) + 1) * (wide + 1), float(level))
    for level, row in enumerate(rows.values())
    for i, name in enumerate(row)
  }
  most = max(sizes) or 1.0
  for edge in sorted(edges, key=lambda edge: abs(edge["score"])):
    share = math.sqrt(abs(edge["score"]) / most)
    for name in edge["into"]:
      start, end = places[edge["from"]], places[name]
      # Past rows between, aside.
      far = end[1] - start[1] > 1 and abs(end[0] - start[0]) < 0.5
      axes.add_patch(
        patches.FancyArrowPatch(
          start, end, arrowstyle="-|>", mutation_scale=7, shrinkA=9, shrinkB=9,
          connectionstyle=f"arc3,rad={0.25 if far else 0.0}",
          ls=_DASHES[edge["kind"]], lw=0.5 + 2 * share,
          alpha=0.35 + 0.6 * share,
          color=plots.POSITIVE if edge["score"] > 0 else plots.NEGATIVE,
        )
      )  # fmt: skip
  for name, (x, y) in places.items():
    axes.text(
      x, y, plots.escape(_short(name)), ha="center", va="center", fontsize=7,
      zorder=3, bbox={"boxstyle": "round", "fc": "white", "ec": "0.5"},
    )  # fmt: skip
  axes.set(xlim=(0, wide + 1), ylim=(-0.6, len(rows) - 0.4))
  axes.set_title(plots.escape(title), fontsize=10, wrap=True)
  return figure


def _level(name: str) -> float:
  """Where a node stands above others: heads below the MLP of their block."""
  inside = _INSIDE.fullmatch(name)
  if not inside:
    return -1.0 if name == "embed" else math.inf
  return int(inside[1]) + (0.5 if inside[2] is None else 0.0)


def _head(name: str) -> int:
  inside = _INSIDE.fullmatch(name)
  return int(inside[2] or 0) if inside else 0


def _short(name: str) -> str:
  inside = _INSIDE.fullmatch(name)
  if not inside:
    return {"final_norm.in": "output"}.get(name, name)
  return f"mlp {inside[1]}" if inside[2] is None else f"{inside[1]}.{inside[2]}"


def heatmap(
  values: base.Array,
  rows: Sequence[str],
  columns: Sequence[str],
  *,
  row_name: str = "",
  column_name: str = "",
  units: str = "",
  title: str = "",
) -> "matplotlib.figure.Figure":
  """Values as colours, red above zero and blue below; the first row is lowest.

  Args:
    values: float `[I, J]`, finite, one for each cell.
    rows: I labels, from below to above.
    columns: J labels, from left to right.
    row_name: what rows are, along the axis.
    column_name: what columns are, along the axis.
    units: the units of the values, told beside their colours.
    title: the text over the figure; "" for none.

  Raises:
    ValueError: other than I and J labels.
  """
  values = np.asarray(values, np.float64)
  if values.shape != (len(rows), len(columns)):
    raise ValueError(
      f"Values {values.shape} have {len(rows)} rows' and {len(columns)} "
      "columns' labels."
    )
  # Cells as large as their labels, of however many lines.
  high, across = (
    max((name.count("\n") + 1 for name in names), default=1)
    for names in (rows, columns)
  )
  high, across = max(0.24, 0.13 * high), max(0.34, 0.05 + 0.13 * across)
  wide = min(across * len(columns) + 2.2, 14.0)
  figure = plots.blank(max(wide, 4.0), min(high * len(rows) + 1.6, 12.0),
                       arranged=True)  # fmt: skip
  axes = figure.subplots()
  limit = float(np.abs(values).max(initial=0)) or 1.0
  drawn = axes.imshow(
    values, cmap="RdBu_r", vmin=-limit, vmax=limit, origin="lower",
    aspect="auto",
  )  # fmt: skip
  for axis, names in ((axes.yaxis, rows), (axes.xaxis, columns)):
    step = -(-len(names) // _MOST)
    at = range(0, len(names), step)
    axis.set_ticks(at, [plots.escape(names[i]) for i in at], fontsize=7)
  axes.tick_params(axis="x", rotation=90 if max(map(len, columns)) > 3 else 0)
  axes.set_xlabel(column_name)
  axes.set_ylabel(row_name)
  axes.set_title(plots.escape(title), fontsize=10)
  figure.colorbar(drawn, ax=axes, label=units)
  return figure
