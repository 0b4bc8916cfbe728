"""Graphs and circuits: counts of known models, algebra, pruning by paths."""

import jax
import numpy as np
import pytest

from spex_jax.circuits import graph as graph_lib
from spex_jax.circuits import ungrouped
from spex_jax.models import sites, transformer
from tests.models import checkpoints


def network(**changes):
  """A causal model of given sizes; no parameters are made."""
  sizes = dict(
    width=8, num_blocks=2, num_heads=4, num_kv_heads=2, head_width=2,
    num_neurons=6, vocab_size=11, max_positions=16,
  )  # fmt: skip
  return transformer.network(transformer.Config(**(sizes | changes)))


_GRAPH = graph_lib.Graph.of(network())


@pytest.mark.parametrize(
  ("sizes", "grouped", "alone"),
  [
    # GPT-2 small, SmolLM2-135M, Llama-3-8B; the peers' counts are ungrouped.
    ((768, 12, 12, 12, 50257), 32_491, 32_491),
    ((576, 30, 9, 3, 49152), 70_651, 123_211),
    ((4096, 32, 32, 8, 128256), 805_681, 1_592_881),
  ],
)
def test_known_models_have_their_edges(sizes, grouped, alone):
  width, blocks, heads, shared, vocab = sizes
  net = network(width=width, num_blocks=blocks, num_heads=heads,
                num_kv_heads=shared, vocab_size=vocab)  # fmt: skip
  assert len(graph_lib.Graph.of(net)) == grouped
  found = graph_lib.Graph.of(net, ungrouped=True)
  assert len(found) == alone
  assert found == graph_lib.Graph.of(ungrouped.network(net))


@pytest.mark.parametrize("order", ["pre", "parallel"])
def test_edges_are_those_of_the_readers(order):
  net = network(order=order)
  graph = graph_lib.Graph.of(net)
  expected = [
    (net.writers[w], name, row)
    for name, (rows, before) in net.readers.items()
    for row in range(rows)
    for w in range(before)
  ]
  assert [graph.edge(i) for i in range(len(graph))] == expected
  assert [graph.index(edge) for edge in expected] == [*range(len(graph))]
  values = np.arange(2.0 * len(graph)).reshape(2, -1)
  parts = graph.split(values)
  assert {n: p.shape[1:] for n, p in parts.items()} == dict(net.readers)
  np.testing.assert_array_equal(graph.join(parts), values)
  cut = graph.cut(np.arange(len(graph)) % 2 == 0)
  net.check(sites.Edits(cut=cut, ref=np.zeros((1, 1, len(net.writers), 8))))
  np.testing.assert_array_equal(
    graph.join(cut)[0, 0], np.arange(len(graph)) % 2
  )


def test_names_are_those_of_players():
  assert _GRAPH.name(0) == "embed -> blocks.0.attn.q_in 0"
  last = len(_GRAPH) - 1
  assert _GRAPH.name(last) == "blocks.1.mlp -> final_norm.in"


def test_members_of_a_group_are_its_heads():
  alone = graph_lib.Graph.of(network(), ungrouped=True)
  members = alone.members(_GRAPH)
  number = alone.index(("embed", "blocks.1.attn.k_in", 3))
  assert _GRAPH.edge(members[number]) == ("embed", "blocks.1.attn.k_in", 1)
  counts = np.bincount(members, minlength=len(_GRAPH))
  shared = [".k_in" in e[1] or ".v_in" in e[1] for e in
            map(_GRAPH.edge, range(len(_GRAPH)))]  # fmt: skip
  np.testing.assert_array_equal(counts, np.where(shared, 2, 1))
  with pytest.raises(ValueError, match="two networks"):
    alone.members(graph_lib.Graph.of(network(num_blocks=1)))
  with pytest.raises(ValueError, match="not the grouped graph"):
    _GRAPH.members(alone)


def _pruned(circuit):
  """By removing what lacks an edge in or out until nothing changes."""
  graph, edges = circuit.graph, {*circuit.edges}
  writers = graph.writers
  feeds = {
    (r.name, row): {w for w, fed in zip(writers, graph.moved[slot]) if fed}
    for slot, (r, row) in enumerate(
      (r, row) for r in graph.readers for row in range(r.rows)
    )
  }
  output = graph.readers[-1].name
  while True:
    into = {w for _, name, row in edges for w in feeds[name, row]} | {"embed"}
    out = {w for w, _, _ in edges}
    alive = into & out
    left = {
      (w, name, row)
      for w, name, row in edges
      if w in alive and (name == output or feeds[name, row] & alive)
    }
    if left == edges:
      return left
    edges = left


@pytest.mark.parametrize("seed", range(12))
def test_pruning_is_the_fixed_point(seed):
  rng = np.random.default_rng(seed)
  share = (0.02, 0.05, 0.1, 0.3)[seed % 4]
  circuit = graph_lib.Circuit(_GRAPH, rng.random(len(_GRAPH)) < share)
  found = circuit.prune()
  assert {*found.edges} == _pruned(circuit)
  assert found.prune() == found
  assert found <= circuit
  assert circuit.connected == len(found)


def test_heads_behind_one_norm_are_fed_by_all_their_rows():
  net = network(order="sandwich", norm="rms")
  graph = graph_lib.Graph.of(net)
  assert graph.fingerprint != _GRAPH.fingerprint
  edges = [
    ("embed", "blocks.0.attn.q_in", 3),
    ("blocks.0.heads.1", "final_norm.in", 0),
  ]
  assert len(graph.circuit(edges).prune()) == 2
  assert len(_GRAPH.circuit(edges).prune()) == 0
  # An MLP's norm is its own.
  assert graph.moved[graph.slot[graph.index(
    ("embed", "blocks.0.mlp.read", 0))]].sum() == 1  # fmt: skip
  with pytest.raises(ValueError, match="another model's"):
    _GRAPH.full & graph.full


def test_algebra():
  rng = np.random.default_rng(0)
  a, b = (_GRAPH.circuit(rng.random(len(_GRAPH)) < 0.4) for _ in range(2))
  assert {*(a & b).edges} == {*a.edges} & {*b.edges}
  assert {*(a | b).edges} == {*a.edges} | {*b.edges}
  assert {*(a - b).edges} == {*a.edges} - {*b.edges}
  assert {*(a ^ b).edges} == {*a.edges} ^ {*b.edges}
  assert {*(~a).edges} == {*_GRAPH.full.edges} - {*a.edges}
  assert a & b <= a
  assert len(_GRAPH.full) == len(_GRAPH)
  assert not _GRAPH.empty
  assert a == _GRAPH.circuit(a.edges) == _GRAPH.circuit(a.numbers)
  assert hash(a) == hash(_GRAPH.circuit(a.edges))
  with pytest.raises(ValueError, match="read-only"):
    a.kept[0] = True


def test_nodes_are_all_their_edges():
  circuit = _GRAPH.of_writers(["embed", "blocks.1.mlp"])
  assert circuit.nodes == ("embed", "blocks.1.mlp")
  rows = 2 * (4 + 2 + 2 + 1) + 1
  assert len(circuit) == rows + 1


def test_circuits_of_other_graphs_are_refused():
  other = graph_lib.Graph.of(network(vocab_size=12))
  assert other.fingerprint != _GRAPH.fingerprint
  with pytest.raises(ValueError, match="another model's"):
    _GRAPH.full & other.full
  with pytest.raises(TypeError, match="Circuit"):
    _GRAPH.full & 3  # pyrefly: ignore


@pytest.mark.parametrize(
  ("edge", "complaint"),
  [
    (("blocks.9.mlp", "final_norm.in", 0), "No writer 'blocks.9.mlp'"),
    (("embed", "blocks.9.mlp.read", 0), "No reader"),
    (("embed", "blocks.0.attn.k_in", 2), r"rows 0\.\.1; got row 2"),
    (("blocks.1.mlp", "blocks.1.mlp.read", 0), "writes behind"),
    (("embed", "final_norm.in"), "An edge is"),
    ("embed -> final_norm.in", "An edge is"),
  ],
)
def test_no_such_edge(edge, complaint):
  with pytest.raises(ValueError, match=complaint):
    _GRAPH.index(edge)


@pytest.mark.parametrize(
  "make",
  [
    lambda: _GRAPH.circuit([len(_GRAPH)]),
    lambda: _GRAPH.circuit([-1]),
    lambda: _GRAPH.circuit(np.ones(3, bool)),
    lambda: graph_lib.Circuit(_GRAPH, np.ones(len(_GRAPH))),
    lambda: _GRAPH.of_writers(["blocks.7.mlp"]),
  ],
)
def test_no_such_circuit(make):
  with pytest.raises(ValueError, match="dges|writers"):
    make()


def test_a_network_without_edges_is_told_so():
  net = _without_edges()
  with pytest.raises(ValueError, match="norms.*components"):
    graph_lib.Graph.of(net)


def _without_edges():
  return sites.Network(
    module=network().module, config=network().config, sites=(), example={},
    no_edges="the norms stand behind the sums",
  )  # fmt: skip


@pytest.mark.parametrize("family", ["llama", "qwen3", "olmo"])
def test_an_ungrouped_network_is_the_same_function(family):
  changes = {
    "llama": dict(norm="rms", qkv_bias=True),
    "qwen3": dict(norm="rms", qkv_bias=False, qk_norm="each"),
    "olmo": dict(norm="rms", qkv_bias=False, qk_norm="all"),
  }[family]
  net = network(num_blocks=1, **changes)
  params = checkpoints.random_params(net)
  ids = np.array([[3, 1, 4, 1, 5]])
  alone = ungrouped.network(net)
  grown = ungrouped.params(net, params)
  run = lambda net: jax.jit(lambda p: net.apply(p, input_ids=ids).logits)
  got, want = run(alone)(grown), run(net)(params)
  # Both in float32, over sums of 8 terms.
  assert checkpoints.difference(got, want) < 5e-6
