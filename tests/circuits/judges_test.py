"""Circuits judged in one call, against one run for each circuit and pair."""

import jax.numpy as jnp
import numpy as np
import pytest

from spex_jax.circuits import completeness, curves, identities, judges, metrics
from spex_jax.circuits import graph as graph_lib
from spex_jax.circuits import judged as judged_lib
from spex_jax.models import sites
from tests.circuits import tiny

pytestmark = pytest.mark.usefixtures("float64")

_METRIC = metrics.logit_difference
_EXACT = 1e-11  # Of metrics of size 1, in another order of sums.


def _random(graph, count, seed=0, share=0.6):
  rng = np.random.default_rng(seed)
  return [
    graph_lib.Circuit(graph, rng.random(graph.num_edges) < share)
    for _ in range(count)
  ]


def _by_hand(net, params, pairs, circuit, metric, ref_of):
  """Every pair by itself, with cuts set edge by edge."""
  found = []
  for row in range(len(pairs)):
    pair = pairs[row : row + 1]
    cut = {
      name: np.zeros((1, 1, rows, before))
      for name, (rows, before) in net.readers.items()
    }
    for number in np.flatnonzero(~circuit.kept):
      writer, reader, at = circuit.graph.edge(number)
      cut[reader][0, 0, at, net.writers.index(writer)] = 1
    edits = sites.Edits(cut=cut, ref=ref_of(pair))
    clean = tiny.alone(pair, net, params)
    logits = tiny.alone(pair, net, params, edits)
    found.append(metric(logits, clean, pair.right[0], pair.wrong[0]))
  return np.array(found)


def _resampled(net, params):
  return lambda pair: tiny.written(pair, net, params)


def test_values_are_those_of_single_runs():
  net, params = tiny.network()
  pairs, graph = tiny.pairs(), graph_lib.Graph.of(net)
  circuits = _random(graph, 3)
  metric = metrics.logit_difference
  judged = judges.faithfulness(net, params, pairs, circuits, metric, size=2)
  for circuit, values in zip(circuits, judged.values):
    expected = _by_hand(
      net, params, pairs, circuit, metric, _resampled(net, params)
    )
    np.testing.assert_allclose(values, expected, rtol=0, atol=_EXACT)
  assert np.ptp(judged.values, axis=0).min() > 1e-3
  assert judged.edges.tolist() == [len(c) for c in circuits]
  assert max(judged.identities.full, judged.identities.empty) < _EXACT
  gap = judged.clean.mean() - judged.corrupted.mean()
  np.testing.assert_allclose(
    judged.faithfulness(),
    (judged.values.mean(1) - judged.corrupted.mean()) / gap,
    atol=_EXACT,
  )
  low, high = judged.interval().T
  assert (low <= judged.faithfulness()).all()
  assert (judged.faithfulness() <= high).all()
  assert len(judged.rows()) == 9
  assert "identities: all edges = the clean run" in str(judged)


def test_all_edges_are_the_model_and_none_the_corrupted_run():
  net, params = tiny.network("llama")
  graph = graph_lib.Graph.of(net)
  judged = judges.faithfulness(
    net, params, tiny.pairs(), {"all": graph.full, "none": graph.empty},
    metrics.logit_difference, size=2,
  )  # fmt: skip
  np.testing.assert_allclose(judged.faithfulness(), [1, 0], atol=_EXACT)
  np.testing.assert_allclose(judged.by_pair().T, [[1, 0]] * 3, atol=_EXACT)
  assert judged.names == ("all", "none")
  assert judged.connected.tolist() == [graph.num_edges, 0]


@pytest.mark.parametrize(
  "ablation",
  [
    "mean-position",
    *(pytest.param(kind, marks=pytest.mark.slow) for kind in ("zero", "mean")),
  ],
)
def test_other_ablations(ablation):
  net, params = tiny.network()
  pairs, graph = tiny.pairs(), graph_lib.Graph.of(net)
  (circuit,) = _random(graph, 1)
  found = {
    prune: judges.faithfulness(
      net, params, pairs, [circuit], metrics.logit_difference,
      ablation=ablation, prune=prune, size=2,
    )
    for prune in (False, True)
  }  # fmt: skip
  back = pairs.swapped()
  z = [
    np.asarray(tiny.written(back[i : i + 1], net, params))[0] for i in range(3)
  ]
  every = np.concatenate(z)
  by_position = np.stack(
    [np.mean([x[p] for x in z if len(x) > p], axis=0) for p in range(4)]
  )
  ref = {
    "zero": lambda pair: np.zeros((1, 1, *every.shape[1:])),
    "mean": lambda pair: every.mean(0)[None, None],
    "mean-position": lambda pair: by_position[None, : pair.lengths[0]],
  }[ablation]
  expected = _by_hand(
    net, params, pairs, circuit, metrics.logit_difference, ref
  )
  got = found[False].values[0]
  np.testing.assert_allclose(got, expected, rtol=0, atol=_EXACT)
  assert found[False].identities.empty < _EXACT
  assert "without edges to the output" in str(found[False])


def test_pruning_changes_nothing_under_resampling():
  net, params = tiny.network()
  pairs, graph = tiny.pairs(), graph_lib.Graph.of(net)
  circuits = _random(graph, 6, share=0.25)
  whole, pruned = (
    judges.faithfulness(
      net,
      params,
      pairs,
      circuits,
      metrics.logit_difference,
      prune=prune,
      size=2,
    )
    for prune in (False, True)
  )
  np.testing.assert_allclose(whole.values, pruned.values, atol=_EXACT)
  assert (pruned.connected < pruned.edges).any()
  assert whole.connected.tolist() == pruned.connected.tolist()


def test_ungrouped_circuits_are_of_single_heads():
  net, params = tiny.network("llama")
  grouped = graph_lib.Graph.of(net)
  graph = graph_lib.Graph.of(net, ungrouped=True)
  (circuit,) = _random(grouped, 1)
  whole = graph.circuit(circuit.kept[graph.members(grouped)])
  judge = lambda circuits: (
    judges.faithfulness(
      net, params, tiny.pairs(), circuits, metrics.logit_difference, size=2
    ).values
  )
  np.testing.assert_allclose(judge([circuit]), judge([whole]), atol=_EXACT)
  part = whole.kept.copy()
  part[graph.index(("embed", "blocks.1.attn.v_in", 1))] ^= True
  both = judge([whole, graph.circuit(part)])
  assert np.ptp(both, axis=0).max() > 1e-6


def test_nodes_are_their_edges():
  net, params = tiny.network()
  graph = graph_lib.Graph.of(net)
  nodes = graph.of_nodes(["embed", "blocks.0.mlp", "blocks.1.heads.1"])
  assert (nodes | graph.of_nodes(["blocks.1.mlp"])).nodes[-1] == "blocks.1.mlp"
  assert len(nodes) == 3 and nodes.prune() == nodes
  assert not (nodes - graph.of_nodes(["embed"])).prune()
  given = net, params, tiny.pairs()
  found = judges.faithfulness(
    *given, {"nodes": nodes, "edges": nodes.of_edges}, _METRIC, size=2
  )
  # The edges alone lose those to readers that nobody hears.
  np.testing.assert_allclose(found.values[0], found.values[1], atol=_EXACT)
  assert found.edges[0] == 3 < found.edges[1]
  with pytest.raises(ValueError, match="circuit of level edge; got 'node'"):
    nodes.check(graph)
  with pytest.raises(ValueError, match="level"):
    _ = nodes & graph.full


def test_edges_at_positions():
  """By hand: what is cut at each position of the pair that is padded."""
  net, params = tiny.network()
  graph, pairs = graph_lib.Graph.of(net), tiny.pairs()
  rng = np.random.default_rng(3)
  kept = rng.random((4, graph.num_edges)) < 0.6
  circuit = graph_lib.Circuit(graph, kept, "position")
  everywhere = graph_lib.Circuit(graph, np.tile(kept[:1], (4, 1)), "position")
  judge = lambda some, prune=False: (
    judges.faithfulness(
      net, params, pairs, some, _METRIC, size=2, prune=prune
    ).values
  )
  got = judge([circuit, everywhere])
  np.testing.assert_allclose(
    got[1], judge([graph.circuit(kept[0])])[0], atol=_EXACT
  )
  pair = pairs[1:2]
  cut = {
    name: (1 - x[:3])[None]
    for name, x in graph.split(kept.astype(float)).items()
  }
  edits = sites.Edits(cut=cut, ref=tiny.written(pair, net, params))
  logits = tiny.alone(pair, net, params, edits)
  want = _METRIC(logits, logits, pair.right[0], pair.wrong[0])
  np.testing.assert_allclose(got[0, 1], want, atol=_EXACT)
  np.testing.assert_allclose(judge([circuit], True)[0], got[0], atol=_EXACT)
  with pytest.raises(ValueError, match="have 3 and 4 positions"):
    _ = graph_lib.Circuit(graph, kept[:3], "position") | circuit


def test_neurons():
  net, params = tiny.network()
  graph, pairs = graph_lib.Graph.of(net), tiny.pairs()
  assert graph.neurons == (6, 6)
  kept = np.random.default_rng(4).random(12) < 0.5
  circuit = graph_lib.Circuit(graph, kept, "neuron")
  judge = lambda *some, **more: judges.faithfulness(
    net, params, pairs, some, _METRIC, size=2, **more
  )
  found = judge(circuit, circuit | ~circuit)
  np.testing.assert_allclose(found.values[1], found.clean, atol=_EXACT)
  assert found.identities.empty < _EXACT
  assert "none = MLPs cut" in str(found)
  pair = pairs[1:2]
  replace = {}
  for number, site in enumerate(graph.neuron_sites):
    gone = ~kept[6 * number :][:6][None, None]
    replace[site] = (
      gone,
      tiny.activation(pair, net, params, site, corrupted=True),
    )
  logits = tiny.alone(pair, net, params, sites.Edits(replace=replace))
  want = _METRIC(logits, logits, pair.right[0], pair.wrong[0])
  np.testing.assert_allclose(found.values[0, 1], want, atol=_EXACT)
  # MLPs of which none is kept are cut.
  first = graph_lib.Circuit(graph, np.arange(12) < 6, "neuron")
  want = judge(first.of_edges, prune=False).values
  np.testing.assert_allclose(judge(first).values, want, atol=_EXACT)
  with pytest.raises(ValueError, match="are resampled; got ablation='zero'"):
    judge(circuit, ablation="zero")


@pytest.mark.slow
def test_more_circuits_than_one_call_takes(monkeypatch):
  net, params = tiny.network()
  graph = graph_lib.Graph.of(net)
  circuits = _random(graph, 6)
  judge = judges.Judge(
    net, params, tiny.pairs(), metrics.logit_difference, size=2, at_once=2
  )
  kept = np.stack([c.kept for c in circuits])
  expected = judge(kept)
  monkeypatch.setattr(judges, "ROWS", 4)
  monkeypatch.setattr(judge, "_held", [])
  np.testing.assert_array_equal(judge(kept), expected)


@pytest.mark.parametrize("start", [1, 2])
def test_circuits_that_are_whole_before_a_block_run_from_there(start):
  net, params = tiny.network()
  graph = graph_lib.Graph.of(net)
  late = np.array([r.name for r in graph.readers])[graph.reader]
  late = (late == "final_norm.in") | (
    np.char.startswith(late, "blocks.1") & (start == 1)
  )
  kept = np.stack([c.kept | ~late for c in _random(graph, 3)])
  judge = judges.Judge(
    net, params, tiny.pairs(), metrics.logit_difference, size=2
  )
  np.testing.assert_allclose(judge(kept, start), judge(kept), atol=_EXACT)


def test_refusals():
  net, params = tiny.network()
  graph = graph_lib.Graph.of(net)
  pairs = tiny.pairs()
  judge = lambda circuits, metric=metrics.logit_difference, **more: (
    judges.faithfulness(net, params, pairs, circuits, metric, **more)
  )
  with pytest.raises(ValueError, match="no circuit to judge"):
    judge([])
  with pytest.raises(TypeError, match="no Circuit"):
    judge([np.ones(3)])
  with pytest.raises(ValueError, match="another model"):
    judge([graph_lib.Graph.of(tiny.network("llama")[0]).full])
  with pytest.raises(ValueError, match="leave out means over a batch"):
    judge([graph.full], lambda logits, clean, right, wrong: logits)
  broken = lambda logits, clean, right, wrong: jnp.log(logits.min() - 1e9)
  with pytest.raises(ValueError, match="circuit '0' on pair 0 is nan"):
    judge([graph.full], broken, size=2)
  with pytest.raises(ValueError, match="Unknown ablation"):
    judge([graph.full], ablation="none")
  with pytest.raises(RuntimeError, match="identities"):
    judge([graph.full], tolerance=-1.0, size=2)


def test_areas_are_those_of_mib():
  shares = np.array(curves.FRACTIONS)
  flat = curves.areas(shares, np.ones(10))
  assert flat.cmd == flat.log_cmd == 0
  np.testing.assert_allclose([flat.cpr, flat.log_cpr], [0.999, 1])
  # A curve that is the model's at the full size alone has a CPR of a quarter.
  last = curves.areas(shares, np.arange(10) == 9)
  np.testing.assert_allclose(last.cpr, 0.25)
  np.testing.assert_allclose(last.cmd, 0.999 - 0.25)
  # Overshooting wins CPR and loses CMD.
  over = curves.areas(shares, np.full(10, 3.0))
  np.testing.assert_allclose([over.cpr, over.cmd], [3 * 0.999, 2 * 0.999])
  with pytest.raises(ValueError, match="ascend"):
    curves.areas([0.5, 0.1], [0, 1])
  with pytest.raises(ValueError, match="two sizes"):
    curves.areas([0.5], [1])


def test_curve_has_a_band_of_random_circuits():
  net, params = tiny.network()
  graph = graph_lib.Graph.of(net)
  order = np.random.default_rng(0).permutation(graph.num_edges)
  found = curves.curve(
    net, params, tiny.pairs(), lambda n: graph.circuit(order[:n]),
    metrics.logit_difference, fractions=(0.5, 1.0), random=2, size=2,
  )  # fmt: skip
  assert found.judged.edges.tolist() == [
    round(graph.num_edges / 2),
    graph.num_edges,
  ]
  assert found.random.shape == (2, 2)
  np.testing.assert_allclose(found.random[:, 1], 1, atol=_EXACT)
  np.testing.assert_allclose(found.faithfulness[1], 1, atol=_EXACT)
  assert "CMD" in str(found) and "identities" in str(found)
  with pytest.raises(ValueError, match="Fractions"):
    curves.curve(
      net, params, tiny.pairs(), lambda n: graph.full,
      metrics.logit_difference, fractions=(0.0,),
    )  # fmt: skip


def test_overlap():
  net, _ = tiny.network()
  graph = graph_lib.Graph.of(net)
  found, wanted = graph.circuit([0, 1, 2]), graph.circuit([1, 2, 3, 4])
  edges = curves.overlap(found, wanted)["edges"]
  assert edges == curves.Overlap(2 / 3, 2 / 4, 2 / 5)
  assert curves.overlap(graph.empty, wanted)["edges"].precision == 1
  with pytest.raises(ValueError, match="no edge"):
    curves.overlap(found, graph.empty)


def test_completeness_by_hand():
  net, params = tiny.network()
  pairs, graph = tiny.pairs(), graph_lib.Graph.of(net)
  (circuit,) = _random(graph, 1, share=0.8)
  metric = metrics.logit_difference
  heads = graph.of_writers(["blocks.0.heads.0", "blocks.1.heads.1"])
  found = completeness.completeness(
    net, params, pairs, circuit, metric,
    random=1, groups={"heads": heads}, greedy=1, rounds=2, candidates=3,
    size=2,
  )  # fmt: skip
  assert found.names == ("random 0", "heads", "greedy 0.0", "greedy 0.1")
  kept = [circuit - out for out in found.removed]
  kept += [graph.full - out for out in found.removed]
  values = judges.faithfulness(
    net, params, pairs, kept, metric, size=2
  ).faithfulness()
  inside, outside = np.split(values, 2)
  np.testing.assert_allclose(found.circuit, inside, atol=1e-10)
  np.testing.assert_allclose(found.model, outside, atol=1e-10)
  np.testing.assert_allclose(found.gaps, np.abs(inside - outside), atol=1e-10)
  assert found.removed[1] == heads & circuit
  assert found.removed[2] <= found.removed[3]
  assert "largest gap" in str(found)
  # The whole model is complete.
  whole = completeness.completeness(
    net, params, pairs, graph.full, metric, random=2, size=2
  )
  assert whole.gaps.max() == 0
  with pytest.raises(ValueError, match="Nothing is knocked out"):
    completeness.completeness(
      net, params, pairs, circuit, metric, random=0, size=2
    )


def test_minimality_by_hand():
  net, params = tiny.network()
  pairs, graph = tiny.pairs(), graph_lib.Graph.of(net)
  (circuit,) = _random(graph, 1, share=0.9)
  metric = metrics.logit_difference
  found = completeness.minimality(
    net, params, pairs, circuit, metric, partners=0.3, size=2
  )
  f = lambda some: judges.faithfulness(
    net, params, pairs, some, metric, size=2
  ).faithfulness()
  base, *without = f(
    [circuit, *(circuit - graph.of_writers([v]) for v in found.names)]
  )
  np.testing.assert_allclose(found.alone, np.abs(base - without), atol=1e-10)
  assert (found.change >= found.alone).all()
  v = int(found.change.argmax())
  left = circuit - graph.of_writers(found.partners[v])
  a, b = f([left, left - graph.of_writers([found.names[v]])])
  np.testing.assert_allclose(found.change[v], abs(a - b), atol=1e-10)
  assert found.names[v] in found.needed(0.5 * found.change[v])
  edges = graph.circuit(graph.full.numbers[-4:])
  alone = completeness.minimality(
    net, params, pairs, edges, metric, members="edges", partners=0.0, size=2
  )
  assert len(alone.names) == 4 and alone.partners == ((),) * 4


def test_an_effect_that_vanishes_is_refused_by_name():
  values, clean = np.zeros((1, 4)), np.array([1.0, 1.0, 2.0, 3.0])
  make = lambda empty: judged_lib.Judged(
    ("one",), values, clean, clean, np.array(empty), np.ones(1), np.ones(1),
    identities.Identities(0.0, 0.0, "resample"),
  )  # fmt: skip
  assert make([0.0, 0.0, 0.0, 0.0]).by_pair().shape == (1, 4)
  some = make([0.0, 1.0, 2.0, 0.0])
  assert some.faithfulness().shape == (1,)
  with pytest.raises(ValueError, match="Pairs 1, 2: the metric"):
    some.by_pair()
  # In a table these have a metric and no share.
  shares = [row["faithfulness"] for row in some.rows()]
  assert shares == [0, None, None, 0]
  assert "Pairs 1, 2: no effect" in some.doubts()[0]
  # Those of which all pairs are such, (2 / 4)^4, have none.
  assert np.isfinite(some.interval()).all()
  lost = int(some.doubts()[1].split()[0])
  assert 40 < lost < 85 and "1,000 resamples" in some.doubts()[1]
  with pytest.raises(ValueError, match="no effect of which a share"):
    make(clean).faithfulness()
  with pytest.raises(ValueError, match="level lies in"):
    some.interval(1.5)
