"""Circuits found by running circuits: ACDC and greedy elimination.

  acdc     from the output to the input, an edge is removed if the metric falls
           by less than a threshold without it (Conmy et al. 2023, arXiv
           2304.14997, algorithm 1)
  greedy   from a pool of edges, those whose removal changes least are removed,
           round by round

All measure circuits as `judging` does, many in one compiled call. Scores by
gradients (`scores`) are cheaper, and say where to look.

Shapes: E edges, N pairs, B of a batch.
"""

import dataclasses
from collections.abc import Callable
from typing import Any

import numpy as np

from spex_jax import shown
from spex_jax.circuits import graph as graph_lib
from spex_jax.circuits import judges, metrics
from spex_jax.circuits import pairs as pairs_lib
from spex_jax.models import sites

_GUESSES = 64  # Removals that are guessed in one call, at most.
_STARTS = 4  # Blocks from which ACDC runs.

Told = Callable[[int, int], None]


@dataclasses.dataclass(frozen=True, eq=False)
class Found(shown.Shown):
  """What a search found.

  Attributes:
    circuit: the circuit of the edges that are left.
    metric: float, the mean metric of that circuit where it was found.
    runs: forwards that the search took, in pairs.
    history: rows of what was done, each `(what, edges left, mean metric)`.
    scores: float64 `[E]`, how strongly each edge is kept: larger is more. By
      `acdc` the fall that its removal caused when it was asked, and 0 where
      it went unasked, as nobody read it; by `greedy` the round in which it
      went, infinite for what is left; by those of `trained` the logit of its
      gate. Minus infinity by the first two for an edge that was not there.
  """

  circuit: graph_lib.Circuit
  metric: float
  runs: int
  history: tuple[tuple[str, int, float], ...]
  scores: np.ndarray

  def sheet(self) -> shown.Sheet:
    """The circuit, and what the search did as facts."""
    facts = {
      "metric": f"{self.metric:.4g}",
      "cost": f"{self.runs:,} forwards",
      "steps": f"{len(self.history):,}",
    }
    rows = self.circuit.sheet()
    return rows._replace(facts={**rows.facts, **facts})


def acdc(
  net: sites.Network,
  params: Any,
  pairs: pairs_lib.Pairs,
  metric: metrics.Metric,
  threshold: float,
  *,
  one_by_one: bool = False,
  **settings: Any,
) -> Found:
  """Removes edges that do not matter, from the output to the input.

  All edges into the readers at one point of the stream are asked at once,
  given what was decided behind them: those whose removal, each alone, lowers
  the mean metric by less than `threshold` go together. The paper asks one by
  one, each given all before it; `one_by_one` does that, row by row, in the
  order of effects: many removals are guessed in one call, and those up to the
  first that fails are taken. Edges from writers that nobody reads any more go
  without being asked.

  Args:
    net: a network with edges.
    params: the parameters of the network.
    pairs: N pairs of prompts, a clean and a corrupted one.
    metric: such as `metrics.kl`, the paper's; higher is better.
    threshold: tau, above 0, in the units of the metric.
    one_by_one: whether edges are asked one by one, as the paper does.
    **settings: further arguments of `judges.Judge`.

  Raises:
    ValueError: a threshold that is not positive; as `judges.faithfulness`.
  """
  if not threshold > 0:
    raise ValueError(f"The threshold must be positive; got {threshold}.")
  judge, graph, kept = begun(net, params, pairs, metric, None, settings)
  value = float(judge(kept[None]).mean())
  _check(value)
  scores = np.where(kept, np.inf, -np.inf)
  history = []
  for edges in reversed(_points(graph)):
    reader = graph.edge(edges[0])[1]
    block = _start(judge.net, reader)
    live = graph_lib.Circuit(graph, kept).prune().kept
    if (live != kept).any():
      scores[kept & ~live] = 0
      kept, value = live, float(judge(live[None]).mean())
    edges = edges[kept[edges]]
    if one_by_one:
      kept, value = _guessed(
        judge, kept, edges, value, threshold, scores, block
      )
    elif len(edges):
      scores[edges] = value - _without(judge, kept, edges, block)
      gone = edges[scores[edges] < threshold]
      if len(gone):
        kept = kept.copy()
        kept[gone] = False
        value = float(judge(kept[None]).mean())
    history.append((reader, int(kept.sum()), value))
  circuit = graph_lib.Circuit(graph, kept).prune()
  scores[kept & ~circuit.kept] = 0
  value = float(judge(circuit.kept[None]).mean())
  return Found(circuit, value, judge.runs, tuple(history), scores)


def greedy(
  net: sites.Network,
  params: Any,
  pairs: pairs_lib.Pairs,
  metric: metrics.Metric,
  edges: int,
  *,
  pool: graph_lib.Circuit | None = None,
  share: float = 0.2,
  **settings: Any,
) -> Found:
  """Removes the edges that change least, until so many are left.

  In every round all single removals are run, and the share that moves the mean
  metric least, away from the whole model's or towards it, goes; what dangles
  then goes, too, where that leaves enough.

  Args:
    net: a network with edges.
    params: the parameters of the network.
    pairs: N pairs of prompts, a clean and a corrupted one.
    metric: one example's logits to a number: what is to stay.
    edges: how many edges are left in the end.
    pool: where to begin, such as the strongest by scores; all by default.
    share: of what is left, removed in a round; the smaller, the dearer.
    **settings: further arguments of `judges.Judge`.

  Raises:
    ValueError: a number of edges below 1 or above the pool's, or a share
      outside (0, 1]; as `judges.faithfulness`.
  """
  if not 0 < share <= 1:
    raise ValueError(f"A share lies in (0, 1]; got {share}.")
  judge, graph, kept = begun(net, params, pairs, metric, pool, settings)
  begin = int(kept.sum())
  if not 1 <= edges <= begin:
    raise ValueError(
      f"Of a pool of {begin} edges 1 to {begin} can be left; got {edges}."
    )
  scores = np.full(graph.num_edges, -np.inf)
  scores[kept] = np.inf
  history, aim = [], judge.clean.mean()
  value, rounds = float(judge(kept[None]).mean()), 0
  _check(value)
  while (count := int(kept.sum())) > edges:
    live = graph_lib.Circuit(graph, kept).prune().kept
    if edges <= live.sum() < count:
      scores[kept & ~live] = rounds
      kept = live
      continue
    asked = np.flatnonzero(kept)
    values = _without(judge, kept, asked)
    size = min(max(1, int(share * count)), count - edges)
    # Farther from the whole model is worse; of equal ones the least change.
    cost = np.abs(values - aim) + 1e-6 * np.abs(values - value)
    gone = asked[np.argsort(cost, kind="stable")[:size]]
    kept = kept.copy()
    kept[gone] = False
    scores[gone] = rounds
    value = float(judge(kept[None]).mean())
    rounds += 1
    history.append((f"round {rounds}", int(kept.sum()), value))
  circuit = graph_lib.Circuit(graph, kept)
  return Found(circuit, value, judge.runs, tuple(history), scores)


def begun(net, params, pairs, metric, start, settings):
  """A judge, its graph, and the edges to begin with."""
  graph = graph_lib.Graph.of(net) if start is None else start.graph
  net, params = judges.fitting(net, params, graph)
  metrics.check(metric, net.config.vocab_size)
  judge = judges.Judge(net, params, pairs, metric, **settings)
  kept = np.ones(graph.num_edges, bool) if start is None else start.kept.copy()
  return judge, graph, kept


def _check(value: float) -> None:
  if not np.isfinite(value):
    raise ValueError(f"The metric of the whole circuit is {value}.")


def _points(graph: graph_lib.Graph) -> list[np.ndarray]:
  """The edges into the readers at each point of the stream, in order."""
  found: dict[str, list[np.ndarray]] = {}
  for reader in graph.readers:
    # q, k and v of a block read at one point; MLPs and the output alone.
    point = reader.name
    for kind in "qkv":
      point = point.replace(f"attn.{kind}_in", "attn")
    own = np.arange(reader.start, reader.start + reader.rows * reader.before)
    found.setdefault(point, []).append(own)
  return [np.concatenate(parts) for parts in found.values()]


def _start(net: sites.Network, reader: str) -> int:
  """The block from which circuits that are whole before a reader are run.

  One of few, as each has a program of its own.
  """
  num = net.config.num_blocks
  if not reader.startswith("blocks."):
    return num
  stride = -(-num // _STARTS)
  return int(reader.split(".")[1]) // stride * stride


def _without(
  judge: judges.Judge, kept: np.ndarray, edges: np.ndarray, start: int = 0
) -> np.ndarray:
  """The mean metric without each of the edges: float64 `[len(edges)]`."""
  found = []
  for first in range(0, len(edges), judges.ROWS):
    part = edges[first : first + judges.ROWS]
    rows = np.repeat(kept[None], len(part), axis=0)
    rows[np.arange(len(part)), part] = False
    found.append(judge(rows, start).mean(axis=1))
  return np.concatenate(found)


def _guessed(judge, kept, edges, value, threshold, scores, start):
  """ACDC, one edge after the other, in calls that guess removals ahead.

  What is left and the mean metric there. The order is that of the effects of
  single removals, the smallest first.
  """
  if not len(edges):
    return kept, value
  alone = value - _without(judge, kept, edges, start)
  left = list(edges[np.argsort(alone, kind="stable")])
  while left:
    # The circuit after the removal of the first, the first two, and so on.
    ahead = left[:_GUESSES]
    rows = np.repeat(kept[None], len(ahead), axis=0)
    for k, edge in enumerate(ahead):
      rows[k:, edge] = False
    values = judge(rows, start).mean(axis=1)
    falls = np.concatenate([[value], values[:-1]]) - values
    bad = np.flatnonzero(falls >= threshold)
    taken = int(bad[0]) if len(bad) else len(ahead)
    scores[ahead[: taken + 1]] = falls[: taken + 1]
    if taken:
      kept, value = rows[taken - 1], float(values[taken - 1])
    left = left[taken + 1 :]
  return kept, value
