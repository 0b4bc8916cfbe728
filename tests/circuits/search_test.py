"""Searches, against the same done one circuit at a time."""

import numpy as np
import pytest

from spex_jax.circuits import graph as graph_lib
from spex_jax.circuits import judges, metrics, search
from tests.circuits import tiny

pytestmark = pytest.mark.usefixtures("float64")

_METRIC = metrics.kl
_SIZE = {"size": 2}


def _setting():
  net, params = tiny.network(num_blocks=1)
  pairs = tiny.pairs(2)
  graph = graph_lib.Graph.of(net)
  judge = judges.Judge(net, params, pairs, _METRIC, **_SIZE)
  value = lambda kept: float(judge(kept[None]).mean())
  return net, params, pairs, graph, value


def _point(graph, number):
  """Which readers read at one point."""
  name = graph.edge(number)[1]
  return name[:-4] if name.endswith(("q_in", "k_in", "v_in")) else name


def _points(graph):
  names = [_point(graph, number) for number in range(graph.num_edges)]
  return [
    [i for i, name in enumerate(names) if name == one]
    for one in dict.fromkeys(names)
  ]


def _prune(graph, kept):
  return graph_lib.Circuit(graph, kept).prune().kept.copy()


def test_acdc_asks_all_edges_of_a_point_at_once():
  net, params, pairs, graph, value = _setting()
  kept, threshold = np.ones(graph.num_edges, bool), 0.001
  for edges in reversed(_points(graph)):
    kept = _prune(graph, kept)
    whole, gone = value(kept), []
    for edge in edges:
      if kept[edge]:
        without = kept.copy()
        without[edge] = False
        if whole - value(without) < threshold:
          gone.append(edge)
    kept[gone] = False
  found = search.acdc(net, params, pairs, _METRIC, threshold, **_SIZE)
  expected = graph_lib.Circuit(graph, kept).prune()
  assert found.circuit == expected
  assert 0 < len(expected) < graph.num_edges
  np.testing.assert_allclose(found.metric, value(expected.kept), atol=1e-12)
  assert found.history[0][0] == "final_norm.in" and found.runs > 0
  # What went, asked or dangling, is not among the strongest.
  assert (found.scores[~expected.kept] < threshold).all()
  assert np.isfinite(found.scores).all()


def test_acdc_one_by_one_is_that_of_the_paper():
  net, params, pairs, graph, value = _setting()
  kept, threshold = np.ones(graph.num_edges, bool), 0.001
  for edges in reversed(_points(graph)):
    kept = _prune(graph, kept)

    def without(edge, kept):
      less = kept.copy()
      less[edge] = False
      return less

    whole = value(kept)
    inside = [edge for edge in edges if kept[edge]]
    # The order is that of effects, as `acdc` has it.
    for edge in sorted(inside, key=lambda e: whole - value(without(e, kept))):
      less = without(edge, kept)
      if value(kept) - value(less) < threshold:
        kept = less
  found = search.acdc(
    net, params, pairs, _METRIC, threshold, one_by_one=True, **_SIZE
  )
  assert found.circuit == graph_lib.Circuit(graph, kept).prune()
  assert 0 < len(found.circuit) < graph.num_edges


def test_acdc_at_the_largest_threshold_keeps_nothing():
  net, params, pairs, *_ = _setting()
  acdc = lambda threshold: search.acdc(
    net, params, pairs, _METRIC, threshold, **_SIZE
  )
  assert len(acdc(1e9).circuit) == 0
  with pytest.raises(ValueError, match="threshold must be positive"):
    acdc(0.0)


def test_greedy_removes_what_changes_least():
  net, params, pairs, graph, value = _setting()
  kept, aim = np.ones(graph.num_edges, bool), 0.0  # Of the clean run, by KL.
  while kept.sum() > 5:
    live = _prune(graph, kept)
    if 5 <= live.sum() < kept.sum():
      kept = live
      continue
    asked = np.flatnonzero(kept)
    cost = []
    for edge in asked:
      less = kept.copy()
      less[edge] = False
      cost.append(abs(value(less) - aim))
    count = min(max(1, int(0.3 * kept.sum())), int(kept.sum()) - 5)
    kept[asked[np.argsort(cost, kind="stable")[:count]]] = False
  found = search.greedy(net, params, pairs, _METRIC, 5, share=0.3, **_SIZE)
  np.testing.assert_allclose(found.metric, value(kept), atol=1e-9)
  assert len(found.circuit) == 5
  assert (np.isinf(found.scores) == found.circuit.kept).all()
  with pytest.raises(ValueError, match="can be left"):
    search.greedy(net, params, pairs, _METRIC, 999, **_SIZE)
