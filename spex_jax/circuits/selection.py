"""Circuits from scores: which edges to keep.

Scores are effects of corrupting an edge, in the units of the metric, so that a
negative one belongs to an edge that the behaviour needs. `by` says which edges
come first: "size", the largest whatever their sign; "helpful", the most
negative. By size a circuit keeps what works against the behaviour, too, and so
comes near the model; by "helpful" it may overshoot it many times.

`top` and `threshold` look at edges one by one, and many of what they take may
lie on no path from `embed` to the output (`Circuit.connected`). `greedy` and
`programme` take connected ones.

Sources: EAP-IG (`apply_topn`, `apply_greedy`); the integer programme, positive
share and bootstrap of "Finding Good Circuits by Better Edge Selection"
(2510.25786). Ours differs in that nodes of grouped keys and values share rows.

Shapes: E edges, W writers, N pairs.
"""

import heapq
from typing import Any

import jax
import numpy as np

from spex_jax import base
from spex_jax.circuits import graph as graph_lib

BY = ("size", "helpful")
_CANDIDATES = 4000  # Edges that a programme chooses among.
_DRAWS = 200  # Of pairs anew.


def top(
  graph: graph_lib.Graph,
  scores: base.Array,
  n: int,
  by: str = "size",
  *,
  connected: bool = False,
  level: str = "edge",
) -> graph_lib.Circuit:
  """The n edges that come first, or what else is scored.

  Args:
    graph: the graph of E edges that scores are of.
    scores: `[E]`; `[P, E]`, `[W]` or `[F]` of another level.
    n: how many of them are kept.
    by: what comes first, one of `BY`.
    connected: as many of the first edges as leave at most n when pruned, and
      those.
    level: what is scored, one of `graph.LEVELS`.

  Raises:
    ValueError: scores that are NaN or of another shape, n outside 0..E, or
      another `by`.
  """
  gain = _gain(graph, scores, by, level)
  order = np.argsort(-gain, axis=None, kind="stable")
  n = _number(gain.size, n)

  def first(count):
    kept = np.zeros(gain.size, bool)
    kept[order[:count]] = True
    return graph_lib.Circuit(graph, kept.reshape(gain.shape), level)

  if not connected:
    return first(n)
  low, high = n, gain.size  # Pruned sizes grow with what is taken.
  while low < high:
    middle = (low + high + 1) // 2
    if first(middle).connected <= n:
      low = middle
    else:
      high = middle - 1
  return first(low).prune()


def threshold(
  graph: graph_lib.Graph,
  scores: base.Array,
  least: float,
  by: str = "size",
  *,
  level: str = "edge",
) -> graph_lib.Circuit:
  """The edges whose size, or whose negative score, is at least this.

  Raises:
    ValueError: as `top`.
  """
  kept = _gain(graph, scores, by, level) >= least
  return graph_lib.Circuit(graph, kept, level)


def greedy(
  graph: graph_lib.Graph, scores: base.Array, n: int, by: str = "size"
) -> graph_lib.Circuit:
  """From the output backwards: the best edge into what is there already.

  An edge makes its writer a node of the circuit, and all edges into it can be
  chosen from then on. What leads nowhere at the end is pruned, so that a few
  edges may be missing.

  Raises:
    ValueError: as `top`.
  """
  gain = _gain(graph, scores, by)
  starts = {r.start + i * r.before: r for r in graph.readers
            for i in range(r.rows)}  # fmt: skip
  firsts = sorted(starts)
  waiting: list[tuple[float, int]] = []
  open_rows: set[int] = set()

  def expose(slot: int) -> None:
    if slot in open_rows:
      return
    open_rows.add(slot)
    first = firsts[slot]
    for edge in range(first, first + starts[first].before):
      heapq.heappush(waiting, (-gain[edge], edge))

  expose(len(firsts) - 1)
  kept: list[int] = []
  nodes: set[int] = set()
  n = _number(graph.num_edges, n)
  while waiting and len(kept) < n:
    _, edge = heapq.heappop(waiting)
    kept.append(edge)
    writer = int(graph.writer[edge])
    if writer not in nodes:
      nodes.add(writer)
      for slot in np.flatnonzero(graph.moved[:, writer]):
        expose(int(slot))
  return graph.circuit(kept).prune()


def programme(
  graph: graph_lib.Graph,
  scores: base.Array,
  n: int,
  by: str = "size",
  *,
  helpful_share: float = 0.0,
  time_limit: float = 60.0,
) -> graph_lib.Circuit:
  """The connected circuit of at most n edges with the largest sum of scores.

  An integer programme for HiGHS: x of an edge, y of a node, both 0 or 1;
  maximise the sum of x times its gain, where an edge needs its writer and a
  node that reads it, and an inner node an edge into it and one out of it. The
  edges are those of the 4,000 or 4 n largest gains, whichever are more, and of
  a greedy circuit.

  Args:
    graph: the graph of E edges that scores are of.
    scores: float `[E]`, one for each edge.
    n: the largest number of edges.
    by: one of `BY`: gains are sizes, or negative scores.
    helpful_share: at least this share of the edges has a negative score.
    time_limit: seconds; the best circuit found by then is returned, which is
      no worse than the greedy one.

  Raises:
    ValueError: as `top`; a share outside 0..1, or one that cannot be had.
  """
  import scipy.optimize  # Slow to import.
  import scipy.sparse

  gain = _gain(graph, scores, by)
  scores, n = np.asarray(scores, np.float64), _number(graph.num_edges, n)
  if not 0 <= helpful_share <= 1:
    raise ValueError(f"helpful_share must lie in 0..1; got {helpful_share}.")
  # The edges that it may choose from.
  start = greedy(graph, scores, n, by)
  order = np.argsort(-gain, kind="stable")[: max(_CANDIDATES, 4 * n)]
  among = (graph.circuit(order) | start).prune()
  edges = among.numbers
  if not len(edges) or not n:
    return graph.empty
  unit = np.abs(gain[edges]).max() or 1.0
  # Bounds: connectedness, the number of edges, the share of helpful ones.
  rows, columns, values, upper = _constraints(graph, edges)
  num_rows = len(upper)
  limits = [np.zeros(len(edges)), np.ones(len(edges))]
  sizes = np.concatenate([limits[1], np.zeros(len(graph.writers))])
  extra, bounds = [sizes], [float(n)]
  if helpful_share:
    share = (helpful_share - (scores[edges] < 0)).astype(np.float64)
    extra.append(np.concatenate([share, np.zeros(len(graph.writers))]))
    bounds.append(0.0)
  matrix = scipy.sparse.vstack(
    [
      scipy.sparse.csr_array(
        (values, (rows, columns)), shape=(num_rows, len(sizes))
      ),
      scipy.sparse.csr_array(np.stack(extra)),
    ]
  )
  # Solved; if time ran out, the greedy circuit may be better.
  result = scipy.optimize.milp(
    np.concatenate([-gain[edges] / unit, np.zeros(len(graph.writers))]),
    constraints=scipy.optimize.LinearConstraint(
      matrix, -np.inf, np.concatenate([upper, bounds])
    ),
    integrality=np.ones(len(sizes)),
    bounds=scipy.optimize.Bounds(0, 1),
    options={"time_limit": time_limit, "mip_rel_gap": 1e-4},
  )
  if result.x is None:
    if result.status == 1 and not helpful_share:  # Out of time, empty-handed.
      return start
    raise ValueError(
      f"No circuit of at most {n} edges was found with a share of "
      f"{helpful_share:g} helpful ones: {result.message}"
    )
  found = graph.circuit(edges[result.x[: len(edges)] > 0.5]).prune()
  better = gain[start.kept].sum() > gain[found.kept].sum()
  return start if better and not helpful_share else found


def consistent(
  values: base.Array, key: base.Key, *, level: float = 0.95
) -> np.ndarray:
  """Which edges have a score whose sign does not hang on the choice of pairs.

  Pairs are drawn anew with replacement, 200 times; an edge is consistent if at
  least `level` of the means have the sign of the mean of all.

  Args:
    values: `[N, E]`, scores of every pair.
    key: a random key, consumed.
    level: the share of draws that must have the sign, in [0, 1].

  Returns:
    bool `[E]`; an edge of score 0 is not consistent. Scores of the others are
    set to 0 (`scores * consistent(...)`) before a circuit is chosen.

  Raises:
    ValueError: values of another rank, NaN, or a level outside 0..1.
  """
  values = np.asarray(values, np.float64)
  if values.ndim != 2 or not np.isfinite(values).all():
    raise ValueError(
      f"Scores by pair must be finite and [N, E]; got {values.shape}."
    )
  if not 0 <= level <= 1:
    raise ValueError(f"level={level}: out of range.")
  count = len(values)
  drawn = np.asarray(jax.random.randint(key, (_DRAWS, count), 0, count))
  counts = np.stack([np.bincount(row, minlength=count) for row in drawn])
  sign = np.sign(values.mean(axis=0))
  agrees = np.sign(counts @ values / count) == sign
  return (agrees.mean(axis=0) >= level) & (sign != 0)


def _constraints(graph, edges) -> tuple[Any, Any, Any, np.ndarray]:
  """Rows, columns, values and upper bounds of what must not be exceeded.

  Columns: x of the edges, then y of the writers.
  """
  num, start = len(edges), np.arange(len(edges))
  writer, slot = graph.writer[edges], graph.slot[edges]
  last = int(graph.slot[-1])
  rows, columns, values, upper = [], [], [], []
  count = 0

  def add(row, column, value):
    rows.append(np.asarray(row))
    columns.append(np.asarray(column))
    values.append(np.full(len(rows[-1]), value, np.float64))

  add(start, start, 1)  # An edge needs its writer: x <= y.
  add(start, num + writer, -1)
  upper.append(np.zeros(num))
  count += num
  inner = np.flatnonzero(slot != last)  # And a node that reads it.
  add(count + np.arange(len(inner)), inner, 1)
  for row, edge in enumerate(inner):
    nodes = np.flatnonzero(graph.moved[slot[edge]])
    add(np.full(len(nodes), count + row), num + nodes, -1)
  upper.append(np.zeros(len(inner)))
  count += len(inner)
  for node in np.unique(writer):  # A node has an edge out of it, and into it.
    out = np.flatnonzero(writer == node)
    into = np.flatnonzero(graph.moved[slot, node])
    for way in [out] if node == 0 else [out, into]:
      add([count], [num + node], 1)
      add(np.full(len(way), count), way, -1)
      upper.append(np.zeros(1))
      count += 1
  joined = [np.concatenate(part) for part in (rows, columns, values, upper)]
  return joined[0], joined[1], joined[2], joined[3]


def _gain(
  graph: graph_lib.Graph, scores: base.Array, by: str, level: str = "edge"
) -> np.ndarray:
  """What comes first, largest first: float64, of the shape of scores."""
  if by not in BY:
    raise ValueError(f"by={by!r}: choose one of {', '.join(BY)}.")
  scores = check(graph, scores, level)
  return np.abs(scores) if by == "size" else -scores


def check(
  graph: graph_lib.Graph, scores: base.Array, level: str = "edge"
) -> np.ndarray:
  """Scores as float64 `[E]`; `[P, E]`, `[W]` or `[F]` of another level.

  Raises:
    ValueError: another shape, or NaN or infinity, with the edge.
  """
  scores, size = np.asarray(scores, np.float64), graph.size(level)
  rank = 1 + (level == "position")
  if scores.ndim != rank or scores.shape[-1] != size:
    raise ValueError(
      f"Scores must be [{'P, ' * (rank - 1)}{size}], one for each {level}; got "
      f"{scores.shape}. Of several pairs take the mean first."
    )
  bad = np.flatnonzero(~np.isfinite(scores))
  if len(bad):
    first = int(bad[0])
    name = graph.name(first % size) if level in ("edge", "position") else first
    raise ValueError(
      f"{len(bad)} scores are NaN or infinite, the first that of {level} "
      f"{name}."
    )
  return scores


def _number(most: int, n: int) -> int:
  n = base.check_integer(n, "The number of edges")
  if not 0 <= n <= most:
    raise ValueError(f"The number of edges must lie in 0..{most}; got {n}.")
  return n
