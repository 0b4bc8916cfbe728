"""Circuits as SVG: text, without a library and without anything from outside.

Layers stand one above the other, `embed` below and the output above. An edge
into a head is a whole line into its query, a dashed one into its key, a dotted
one into its value. What helps the behaviour is blue and ends in an arrow, what
works against it is orange and ends in a bar. The stronger, the wider. Pointing
at a node or an edge shows its name and score.
"""

import html
import re
from collections.abc import Sequence

import numpy as np

from spex_jax import base
from spex_jax.circuits import graph as graph_lib
from spex_jax.circuits import selection

_COLOURS = ("#0b5cad", "#c8500a")  # Helps, works against.
_DASHES = {"q": "", "k": "7 4", "v": "1.5 4"}
_PORTS = {"q": -11.0, "k": 0.0, "v": 11.0}
_STEP, _ROW, _BOX, _MARGIN = 58.0, 66.0, (44.0, 22.0), 36.0
_LEAST = 560.0
_BULGE = 90.0  # How far lines that pass nodes of one column go aside, at most.
_FAN = 0.12, 14.0  # How far lines leave a node's middle towards their ends.
_SWEEPS = 6  # Of ordering the nodes of a row by their neighbours.
_INSIDE = re.compile(r"blocks\.(\d+)\.(?:heads\.(\d+)|mlp)")
_INTO = re.compile(r"blocks\.(\d+)\.(?:attn\.([qkv])_in|mlp\.read)")
_MOST = 2000  # Edges that a picture can hold.


def svg(
  circuit: graph_lib.Circuit, scores: base.Array | None = None, title: str = ""
) -> str:
  """A picture of a circuit; of 20 to 400 edges it can be read.

  Args:
    circuit: any of a transformer, not empty.
    scores: `[E]`, negative for what helps; equal ones by default.
    title: what stands above the picture; "" for nothing.

  Raises:
    ValueError: an empty circuit, one of more than 2,000 edges, NaN scores.
  """
  graph, numbers = circuit.graph, circuit.numbers
  circuit.check(graph)
  if not 0 < len(numbers) <= _MOST:
    raise ValueError(
      f"A picture is of 1..{_MOST} edges; this circuit has {len(numbers)}."
    )
  if scores is None:
    scores = -np.ones(graph.num_edges)
  scores = selection.check(graph, scores)
  # Places of nodes, and the size of the picture.
  ends = [_ends(graph, int(i), circuit) for i in numbers]
  nodes = sorted({node for a, into, _ in ends for node in (a, *into)})
  names = [*graph.writers, graph.readers[-1].name]
  places = _places(nodes, ends, names)
  width = max(x for x, _ in places.values()) + _MARGIN + _BOX[0] / 2 + _BULGE
  if width < _LEAST:  # The legend's; what is narrower stands in the middle.
    places = {n: (x + (_LEAST - width) / 2, y) for n, (x, y) in places.items()}
    width = _LEAST
  top = 34.0 if title else 10.0
  height = max(y for _, y in places.values()) + _MARGIN + top + 46
  strongest = np.abs(scores[numbers]).max() or 1.0
  lines = [
    f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width:.0f} '
    f'{height:.0f}" width="{width:.0f}" height="{height:.0f}" '
    'font-family="Helvetica,Arial,sans-serif" font-size="11">',
    f"<title>{html.escape(title or 'circuit')}</title>",
    _defs(),
    f'<rect width="{width:.0f}" height="{height:.0f}" fill="white"/>',
  ]
  if title:
    lines.append(
      f'<text x="{_MARGIN:.0f}" y="22" font-size="14">{html.escape(title)}'
      "</text>"
    )
  flip = lambda y: height - 46 - _MARGIN / 2 - y
  # The strongest are drawn last, above the others.
  for i in np.argsort(np.abs(scores[numbers]), kind="stable"):
    number, (source, into, kind) = int(numbers[i]), ends[i]
    score = float(scores[number])
    share = (abs(score) / strongest) ** 0.5
    against = score > 0
    tip = html.escape(f"{graph.name(number)}: {score:+.4g}")
    x0, y0 = places[source]
    paths = []
    for node in into:
      x1, y1 = places[node]
      x1 += _PORTS.get(kind, 0.0)
      start, end = flip(y0) - _BOX[1] / 2, flip(y1) + _BOX[1] / 2 + 5
      bend = 0.45 * (start - end)
      far = abs(x1 - x0) < _STEP and start - end > _ROW
      aside = min(20 + 0.1 * (start - end), _BULGE) if far else 0.0
      out = x0 + float(np.clip(_FAN[0] * (x1 - x0), -_FAN[1], _FAN[1]))
      paths.append(
        f"M{out:.1f} {start:.1f}C{out + aside:.1f} {start - bend:.1f} "
        f"{x1 + aside:.1f} "
        f"{end + bend:.1f} {x1:.1f} {end:.1f}"
      )
    dash = _DASHES.get(kind, "")
    style = f' stroke-dasharray="{dash}"' if dash else ""
    lines.append(
      f'<g class="edge {kind or "one"} {"against" if against else "helps"}">'
      f"<title>{tip}</title>"
      + "".join(
        f'<path d="{path}" fill="none" stroke="{_COLOURS[against]}" '
        f'stroke-width="{0.7 + 3.3 * share:.2f}" '
        f'stroke-opacity="{0.35 + 0.6 * share:.2f}"{style} '
        f'marker-end="url(#{"bar" if against else "arrow"})"/>'
        for path in paths
      )
      + "</g>"
    )
  # Nodes and the legend stand above the edges.
  for node in nodes:
    x, y = places[node]
    lines.append(_node(names[node], label(names[node]), x, flip(y)))
  lines += [*_legend(height), "</svg>"]
  return "\n".join(lines) + "\n"


def label(name: str) -> str:
  """A short name of a node: `3.2` for a head, `mlp 3`, `embed`, `output`."""
  inside = _INSIDE.fullmatch(name)
  if inside is None:
    return "embed" if name == "embed" else "output"
  return f"{inside[1]}.{inside[2]}" if inside[2] else f"mlp {inside[1]}"


def _level(name: str) -> float:
  """Where its row stands: heads of a layer below its MLP."""
  inside = _INSIDE.fullmatch(name)
  if inside is None:
    return -1.0 if name == "embed" else np.inf
  return int(inside[1]) + 0.5 * (inside[2] is None)


def _ends(
  graph: graph_lib.Graph, number: int, circuit: graph_lib.Circuit
) -> tuple[int, tuple[int, ...], str]:
  """The writer, the nodes that read, and "q", "k", "v" or "".

  Of heads that share a row those that write to the circuit, or all.
  """
  reader = graph.readers[graph.reader[number]]
  into = np.flatnonzero(graph.fed[graph.slot[number]])
  writing = into[np.isin(into, graph.writer[circuit.kept])]
  into = writing if len(writing) else into
  inside = _INTO.fullmatch(reader.name)
  kind = inside[2] or "" if inside else ""
  source = int(graph.writer[number])
  return source, tuple(into.tolist()) or (len(graph.writers),), kind


def _places(
  nodes: Sequence[int],
  ends: Sequence[tuple[int, tuple[int, ...], str]],
  names: Sequence[str],
) -> dict[int, tuple[float, float]]:
  """The middle of every node, upwards: rows by layer, few crossings in them."""
  before: dict[int, set[int]] = {node: set() for node in nodes}
  after: dict[int, set[int]] = {node: set() for node in nodes}
  for source, into, _ in ends:
    for node in into:
      before[node].add(source)
      after[source].add(node)
  levels = [_level(names[node]) for node in nodes]
  used = sorted({np.floor(level) for level in levels})
  depth = {
    node: used.index(np.floor(level)) + 0.6 * (level % 1 > 0 or level == np.inf)
    for node, level in zip(nodes, levels)
  }
  mlps = [node for node, level in zip(nodes, levels) if level % 1 > 0]
  rows: dict[float, list[int]] = {}
  for node in nodes:
    rows.setdefault(depth[node], []).append(node)
  x = {n: float(i) for row in rows.values() for i, n in enumerate(row)}
  for sweep in range(_SWEEPS):
    near = before if sweep % 2 == 0 else after
    for level in sorted(rows, reverse=sweep % 2 == 1):
      row = rows[level]
      wish = {
        n: float(np.mean([x[m] for m in near[n]])) if near[n] else x[n]
        for n in row
      }
      row.sort(key=lambda n: (wish[n], n))
      middle = (len(row) - 1) / 2
      x |= {n: i - middle for i, n in enumerate(row)}
  # MLPs stand beside the heads, not one above the other.
  right = max(x.values()) + 1.2
  for i, node in enumerate(mlps):
    x[node] = right + 0.9 * (i % 3)
  least = min(x.values())
  side = _MARGIN + _BOX[0] / 2
  return {
    n: (side + (x[n] - least) * _STEP, _MARGIN + depth[n] * _ROW) for n in nodes
  }


def _node(name: str, short: str, x: float, y: float) -> str:
  wide, tall = _BOX
  round_ = 11 if short[0].isdigit() else 2
  return (
    f'<g class="node"><title>{html.escape(name)}</title>'
    f'<rect x="{x - wide / 2:.1f}" y="{y - tall / 2:.1f}" width="{wide:.0f}" '
    f'height="{tall:.0f}" rx="{round_}" fill="white" stroke="#333"/>'
    f'<text x="{x:.1f}" y="{y + 4:.1f}" text-anchor="middle">'
    f"{html.escape(short)}</text></g>"
  )


def _defs() -> str:
  arrow, bar = "M0 0L7 3.5L0 7z", "M0 0H2V8H0z"
  shapes = [
    ("arrow", arrow, 7, 3.5, _COLOURS[0]),
    ("bar", bar, 2, 4, _COLOURS[1]),
  ]
  return "<defs>" + "".join(
    f'<marker id="{name}" viewBox="0 0 8 8" refX="{x}" refY="{y}" '
    'markerWidth="8" markerHeight="8" markerUnits="userSpaceOnUse" '
    f'orient="auto"><path d="{path}" fill="{colour}"/></marker>'
    for name, path, x, y, colour in shapes
  ) + "</defs>"  # fmt: skip


def _legend(height: float) -> list[str]:
  """What lines mean, below the picture."""
  lines, x, y = [], _MARGIN, height - 20
  entries = [
    ("into q, mlp, output", 0, ""), ("into k", 0, "7 4"),
    ("into v", 0, "1.5 4"), ("helps", 0, ""), ("works against", 1, ""),
  ]  # fmt: skip
  for text, against, dash in entries:
    into = text.startswith("into")
    colour = "#333" if into else _COLOURS[against]
    mark = f' marker-end="url(#{"bar" if against else "arrow"})"'
    mark = "" if into else mark
    style = f' stroke-dasharray="{dash}"' if dash else ""
    lines.append(
      f'<path d="M{x:.0f} {y:.0f}h26" stroke="{colour}" stroke-width="2"'
      f"{style}{'' if into else mark}/>"
      f'<text x="{x + 32:.0f}" y="{y + 4:.0f}">{text}</text>'
    )
    x += 46 + 6.2 * len(text)
  return lines
