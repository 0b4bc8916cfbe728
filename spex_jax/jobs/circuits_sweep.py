"""Circuits as items of a sweep: resumed, spread, one table in the end.

`build` of a sweep names one of these:

  spex_jax.jobs.circuits_sweep:sizes   a task and a method: circuits of every
                                       size of `shares`, by its scores, and
                                       random ones behind them
  spex_jax.jobs.circuits_sweep:exact   every edge cut alone; row i is edge i

A row is a circuit, as the mask of its edges; its values are the metric on every
pair, of `exact` less that of the clean run. So a long sweep of exact effects
goes on where it was killed, and a table of tasks and methods is a sweep over
`task`, `method`, `backward`.

Shapes: C circuits, E edges, N pairs.
"""

import dataclasses
import pathlib
from typing import Any

import numpy as np

from spex_jax import settings
from spex_jax.circuits import ablations, curves, judges, runs, taps
from spex_jax.circuits import exact_effects as exact_lib
from spex_jax.circuits import graph as graph_lib
from spex_jax.circuits import pairs as pairs_lib
from spex_jax.jobs import circuits, circuits_find
from spex_jax.sweeps import evaluating, grid

_ANCHORS = 2  # Rows whose values show whether an item is what it was.


@dataclasses.dataclass(frozen=True)
class Sizes(grid.Plan):
  """Beside the settings of `spex circuit find`."""

  shares: tuple[float, ...] = settings.field(
    curves.FRACTIONS, "of all edges, a circuit each", above=0, high=1
  )


def classes_of(builder: str) -> tuple[type[settings.Settings], ...]:
  """The classes of the settings of `sizes` or `exact`."""
  plan = Sizes if builder == "sizes" else grid.Plan
  return plan, circuits_find.OfModel


def sizes(config: Any) -> evaluating.Item:
  """Circuits by the scores of one half of the pairs, judged on the other.

  Raises:
    ValueError: what `spex circuit find` refuses, or more rows than circuits.
  """
  plan, asked = _read(config, "sizes")
  net, pairs, metric = _opened(asked)
  half = -(-len(pairs) // 2)
  found = circuits.scored_by(
    asked, net, pairs[:half], metric, size=asked.batch_size, seed=asked.seed
  )
  graph, mean, _ = circuits_find.used(asked, found)
  choose = circuits_find.choice(asked, graph, mean)
  counts = [max(1, round(share * graph.num_edges)) for share in plan.shares]
  kept = [choose(count).prune().kept for count in counts]
  rng = np.random.default_rng(asked.seed)
  for _ in range(asked.random):
    order = rng.permutation(graph.num_edges)
    kept += [graph.circuit(order[:count]).prune().kept for count in counts]
  _check_rows(plan.rows, len(kept), "circuits")
  params = net.params
  net, params = judges.fitting(net, params, graph)
  judge = judges.Judge(
    net, params, pairs[half:], metric,
    ablation=asked.ablation, size=asked.batch_size, seed=asked.seed,
  )  # fmt: skip
  rows = np.stack(kept)
  return evaluating.Item(
    graph.num_edges,
    len(pairs) - half,
    lambda start, stop: rows[start:stop],
    lambda masks: judge(np.asarray(masks, bool)),
    _ANCHORS,
  )


def exact(config: Any) -> evaluating.Item:
  """Every edge cut alone, on all pairs.

  Raises:
    ValueError: what `spex circuit find` refuses, more rows than edges, or
      an ablation that cannot be had.
  """
  plan, asked = _read(config, "exact")
  net, pairs, metric = _opened(asked)
  level = taps.Level.of(net, "edge")
  graph = level.graph
  _check_rows(plan.rows, graph.num_edges, "edges")
  size = asked.batch_size or runs.batch_size(pairs)
  fixed = ablations.stand_ins(
    net, net.params, pairs, asked.ablation, size=size, seed=asked.seed
  )

  def values(masks: np.ndarray) -> np.ndarray:
    which = np.asarray(masks, bool).argmin(axis=1)
    return exact_lib.of_pairs(
      net, net.params, metric, level, pairs, fixed, which, size
    ).T

  return evaluating.Item(
    graph.num_edges, len(pairs), lambda a, b: ~_units(graph, a, b), values,
    _ANCHORS,
  )  # fmt: skip


def _read(config: Any, builder: str) -> Any:
  plan, asked = settings.read(config, *classes_of(builder))
  if asked.level != "edge":
    raise ValueError(f"Sweeps are of edges; got level={asked.level!r}.")
  return plan, asked


def _units(graph: graph_lib.Graph, start: int, stop: int) -> np.ndarray:
  """One edge each: bool `[stop - start, E]`."""
  return np.arange(graph.num_edges) == np.arange(start, stop)[:, None]


def _opened(asked: circuits_find.OfModel) -> tuple[Any, pairs_lib.Pairs, Any]:
  found = circuits_find.question(asked, pathlib.Path())
  return found.net, found.pairs, circuits.metric_of(asked, found.net)


def _check_rows(rows: int, most: int, what: str) -> None:
  if rows > most:
    raise ValueError(f"rows={rows:,}: this item has {most:,} {what}.")
