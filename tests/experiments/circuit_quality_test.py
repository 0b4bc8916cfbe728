"""What the table of circuits says of overlap, on a tiny network."""

import dataclasses

import pytest

from experiments import bench_circuits, circuit_quality, rows
from spex_jax.circuits import graph as graph_lib
from spex_jax.circuits import scores, selection

pytestmark = pytest.mark.slow
_NAMES = ("eap", "eap-ig", "relp")
_CONFIG = dataclasses.replace(
  circuit_quality.QUICK, scores=(*_NAMES, "exact edges"), candidates=1.0
)


@pytest.fixture(scope="module")
def given():
  net, params = bench_circuits.network((2, 8, 2), 11, 4)
  net = dataclasses.replace(net, params=params)
  pairs = bench_circuits.random_pairs(4, 4, 11)
  return net, pairs[:2], pairs[2:]


def test_overlap_is_with_circuits_of_exact_effects(
  given, tmp_path, monkeypatch
):
  net, fitted, _ = given
  monkeypatch.setattr(circuit_quality, "SHARES", (0.1, 0.2, 0.4, 0.8))
  kept = rows.Kept(tmp_path)
  told = list(circuit_quality._closeness(*given, _CONFIG, kept))
  found = [row for row in told if row["scores"] == "overlap"]
  graph = graph_lib.Graph.of(net)
  # All edges are candidates: what every edge does, cut alone, is known.
  truth = scores.score(
    net, net.params, fitted, circuit_quality._METRIC, method="exact"
  ).mean()
  mine = {
    name: scores.score(
      net, net.params, fitted, circuit_quality._METRIC, check=0,
      **circuit_quality._SCORES[name],
    ).mean()
    for name in _NAMES
  }  # fmt: skip
  sizes = [max(1, round(x * len(graph))) for x in circuit_quality.SHARES]
  paths = [n for n in sizes if selection.greedy(graph, truth, n)]
  assert [row["edges"] for row in found] == paths and len(paths) > 1
  for row in found:
    assert (row["candidates"], row["others"]) == (len(graph), 0)
    best = {*selection.greedy(graph, truth, row["edges"]).edges}
    shared, near = row["shared edges"], row["faithfulness"]
    for name in _NAMES:
      own = {*selection.greedy(graph, mine[name], row["edges"]).edges}
      assert shared[name] == round(len(own & best) / len(best), 3)
    agree = sum(
      (shared[a] > shared[b]) == (abs(1 - near[a]) < abs(1 - near[b]))
      for a, b in (_NAMES[:2], _NAMES[::2], _NAMES[1:])
      if shared[a] != shared[b] and near[a] != near[b]
    )
    assert row["agree"] == [agree, 3]

  def called(*args, **words):
    raise AssertionError("computed anew")

  monkeypatch.setattr(scores, "score", called)
  monkeypatch.setattr(circuit_quality.exact, "of_pairs", called)
  assert list(circuit_quality._closeness(*given, _CONFIG, kept)) == told


def test_edges_of_large_effect_that_no_score_names_are_counted(given):
  net, fitted, _ = given
  graph = graph_lib.Graph.of(net)
  config = dataclasses.replace(_CONFIG, candidates=0.1, others=10**6)
  truth = scores.score(
    net, net.params, fitted, circuit_quality._METRIC, method="exact"
  ).mean()
  # A score that is wrong about everything.
  bad = {"eap": 1 / (1e-9 + abs(truth))}
  _, _, facts = circuit_quality._of_edges(
    net, fitted, config, graph, bad, rows.Kept(None)
  )
  assert facts["candidates"] == round(0.1 * len(graph))
  assert facts["candidates"] + facts["others"] == len(graph)
  assert facts["missed"] == facts["others"]
