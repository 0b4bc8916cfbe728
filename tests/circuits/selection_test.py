"""Circuits from scores, against what is too simple to be wrong."""

import itertools

import jax
import numpy as np
import pytest

from spex_jax.circuits import graph as graph_lib
from spex_jax.circuits import selection
from tests.circuits.graph_test import network

_GRAPH = graph_lib.Graph.of(network())
_TINY = graph_lib.Graph.of(network(num_blocks=1, num_heads=1, num_kv_heads=1))
_SCORES = np.random.default_rng(0).normal(size=len(_GRAPH))


@pytest.mark.parametrize("by", selection.BY)
def test_top_and_threshold(by):
  gain = np.abs(_SCORES) if by == "size" else -_SCORES
  for n in (0, 7, len(_GRAPH)):
    found = selection.top(_GRAPH, _SCORES, n, by)
    assert len(found) == n
    assert not n or gain[found.kept].min() >= gain[~found.kept].max(initial=-9)
  least = np.sort(gain)[-7]
  found = selection.threshold(_GRAPH, _SCORES, least, by)
  assert found == selection.top(_GRAPH, _SCORES, 7, by)


def test_top_can_count_what_is_connected():
  n = 40
  found = selection.top(_GRAPH, _SCORES, n, connected=True)
  order = np.argsort(-np.abs(_SCORES))
  sizes = [_GRAPH.circuit(order[:m]).connected for m in range(len(order) + 1)]
  most = max(m for m, size in enumerate(sizes) if size <= n)
  assert found == _GRAPH.circuit(order[:most]).prune()


def _greedy(graph, gain, n):
  """Looks at all edges in every step."""
  kept, nodes = [], set()
  output = graph.slot[-1]
  for _ in range(n):
    open_ = [
      e
      for e in range(len(graph))
      if e not in kept
      and (
        graph.slot[e] == output or graph.moved[graph.slot[e]][[*nodes]].any()
      )
    ]
    if not open_:
      break
    best = max(open_, key=lambda e: (gain[e], -e))
    kept.append(best)
    nodes.add(int(graph.writer[best]))
  return graph.circuit(kept).prune()


@pytest.mark.parametrize("n", [0, 1, 12, 60])
def test_greedy_is_that_by_steps(n):
  found = selection.greedy(_GRAPH, _SCORES, n)
  assert found == _greedy(_GRAPH, np.abs(_SCORES), n)
  assert found.connected == len(found)


@pytest.mark.parametrize("by", selection.BY)
def test_the_programme_is_the_best_of_all_circuits(by):
  """All 2^12 sets of edges of one block with one head."""
  scores = np.random.default_rng(3).normal(size=len(_TINY))
  gain = np.abs(scores) if by == "size" else -scores
  best: dict[int, float] = {}
  for bits in itertools.product([False, True], repeat=len(_TINY)):
    circuit = _TINY.circuit(np.array(bits))
    if circuit.connected == len(circuit):
      best[len(circuit)] = max(
        best.get(len(circuit), -np.inf), gain[circuit.kept].sum()
      )
  for n in range(1, len(_TINY) + 1):
    found = selection.programme(_TINY, scores, n, by)
    assert len(found) == found.connected <= n
    want = max(value for size, value in best.items() if size <= n)
    # The solver's own tolerance, 1e-4 of the value.
    assert gain[found.kept].sum() >= want - 2e-4 * abs(want)


def test_the_programme_is_no_worse_than_greedy():
  for n in (5, 20, 60):
    value = lambda circuit: np.abs(_SCORES)[circuit.kept].sum()
    found = selection.programme(_GRAPH, _SCORES, n)
    assert len(found) == found.connected <= n
    assert value(found) >= value(selection.greedy(_GRAPH, _SCORES, n)) - 1e-3


def test_a_share_of_helpful_edges():
  n = 24
  found = selection.programme(_GRAPH, _SCORES, n, helpful_share=0.9)
  assert (_SCORES[found.kept] < 0).mean() >= 0.9
  assert found.connected == len(found) > 10
  with pytest.raises(ValueError, match=r"0\.\.1"):
    selection.programme(_GRAPH, _SCORES, n, helpful_share=2)


def test_consistent_signs():
  rng = np.random.default_rng(0)
  values = np.stack(
    [
      -1 + 0.1 * rng.normal(size=20),  # Always below zero.
      rng.permutation(np.repeat([-1.0, 1.0], 10)) + 0.01,
      np.zeros(20),
    ],
    axis=1,
  )
  found = selection.consistent(values, jax.random.key(0))
  np.testing.assert_array_equal(found, [True, False, False])


@pytest.mark.parametrize(
  ("ask", "complaint"),
  [
    (lambda: selection.top(_GRAPH, _SCORES[:3], 1), "one for each edge"),
    (lambda: selection.top(_GRAPH, _SCORES, 999), r"lie in 0\.\.\d+; got 999"),
    (lambda: selection.top(_GRAPH, _SCORES, 1, "best"), "choose one of size"),
    (
      lambda: selection.greedy(_GRAPH, np.where(_SCORES > 2, np.nan, 0.0), 1),
      "NaN or infinite, the first that of edge .* -> ",
    ),
    (
      lambda: selection.consistent(np.full((2, 2), np.nan), jax.random.key(0)),
      "finite",
    ),
  ],
)
def test_bad_scores(ask, complaint):
  with pytest.raises(ValueError, match=complaint):
    ask()
