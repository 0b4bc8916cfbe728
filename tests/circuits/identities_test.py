"""Identities of edges, in float64, on networks of four kinds."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from spex_jax.circuits import graph as graph_lib
from spex_jax.circuits import judges, metrics, runs, scores
from spex_jax.circuits import pairs as pairs_lib
from spex_jax.models import sites, transformer
from tests.circuits import interpreter, networks

pytestmark = pytest.mark.usefixtures("float64")

_METRIC = metrics.logit_difference
_ROUND = 1e-12  # Of float64, in sums of some thousand products of size 1.
_NAMES = list(networks.CONFIGS)
_SLOW = pytest.mark.slow
_VANISHING = ("gemma2", "zero")
_ONE_FAST = [
  pytest.param(name, marks=() if name == "llama" else _SLOW) for name in _NAMES
]


def _score(name, **settings):
  net, params = networks.load(name)
  return scores.score(
    net, params, networks.pairs(), _METRIC, check=0, **settings
  )


@functools.cache
def _wrote(name):
  """The interpreter, and what writers write in both runs of each pair."""
  net, params = networks.load(name)
  slow, pairs = interpreter.Interpreter(net, params), networks.pairs()
  ids = np.stack([pairs.clean, pairs.corrupted], axis=1)
  return slow, [[slow.run(one)[0] for one in pair] for pair in ids]


def _stand_ins(name, kind, pair):
  """What a cut edge carries, `{writer: [P, d]}`, from its definition."""
  _, wrote = _wrote(name)
  if kind == "resample":
    return wrote[pair][1]
  clean = [each[0] for each in wrote]
  found = {}
  for writer in clean[0]:
    every = np.stack([one[writer] for one in clean])  # [N, P, d]
    mean = {
      "zero": np.zeros_like(every[0]),
      "mean": np.broadcast_to(every.mean((0, 1)), every.shape[1:]),
      "mean-position": every.mean(0),
    }
    found[writer] = mean[kind]
  return found


@_SLOW
@pytest.mark.parametrize("kind", ["resample", "zero", "mean", "mean-position"])
@pytest.mark.parametrize("name", _NAMES)
def test_circuits_are_the_interpreters(name, kind):
  net, params = networks.load(name)
  graph, pairs = graph_lib.Graph.of(net), networks.pairs()
  rng = np.random.default_rng(3)
  share = rng.choice([0.1, 0.5, 0.9], (100, 1))
  kept = rng.random((100, len(graph))) < share
  judge = judges.Judge(net, params, pairs, _METRIC, ablation=kind, size=2)
  got = judge(kept)
  slow, _ = _wrote(name)
  # Where all that is read is cut, a norm divides what rounding leaves, 1e-16,
  # by the root of 1e-5; so do those behind heads and at the output.
  close = 1e-16 * 1e-5**-1.5 * 30 if (name, kind) == _VANISHING else _ROUND
  edges = [graph.edge(i) for i in range(len(graph))]
  for number, circuit in enumerate(kept):
    pair = number % 2
    cut = {edge: 1.0 for edge, inside in zip(edges, circuit) if not inside}
    ref = _stand_ins(name, kind, pair)
    _, logits = slow.run(pairs.clean[pair], cut, ref)
    want = logits[pairs.right[pair, 0]] - logits[pairs.wrong[pair, 0]]
    np.testing.assert_allclose(got[number, pair], want, rtol=0, atol=close)
  assert np.ptp(got, axis=0).min() > 0.01
  # Edges on no path to the output carry nothing that differs, but where an
  # input is another prompt's, or zero without a bias behind it; other stand-ins
  # differ with what is read.
  pruned = np.stack([graph_lib.Circuit(graph, c).prune().kept for c in kept])
  assert (pruned.sum(1) < kept.sum(1)).any()
  gap = np.abs(judge(pruned) - got).max()
  neutral = kind == "resample" or (name, kind) == _VANISHING
  assert gap < close if neutral else gap > 1e-3


@pytest.mark.parametrize("name", _ONE_FAST)
def test_logits_of_the_full_and_of_the_empty_circuit(name):
  net, params = networks.load(name)
  graph, (batch,) = graph_lib.Graph.of(net), runs.batches(networks.pairs(), 2)

  @jax.jit
  def logits(params, kept):
    ref = runs.written(net, params, batch, corrupted=True)
    edits = sites.Edits(cut=graph.cut(kept), ref=ref)
    return (
      runs.logits(net, params, batch, edits),
      runs.logits(net, params, batch),
      runs.logits(net, params, batch, corrupted=True),
    )

  full, clean, _ = logits(params, graph.full.kept)
  empty, _, corrupted = logits(params, graph.empty.kept)
  np.testing.assert_allclose(full, clean, rtol=0, atol=_ROUND)
  np.testing.assert_allclose(empty, corrupted, rtol=0, atol=_ROUND)
  assert np.abs(clean - corrupted).max() > 0.1


@_SLOW
@pytest.mark.parametrize("name", _NAMES)
def test_gradients_by_added_zeros_are_those_by_cuts(name):
  by_cut = _score(name, method="ig-edges", steps=1, rule="right")
  first = _score(name, method="eap")
  np.testing.assert_allclose(by_cut.values, first.values, rtol=0, atol=_ROUND)


@_SLOW
@pytest.mark.parametrize("method", ["eap-ig", "clean-corrupted"])
@pytest.mark.parametrize("name", _NAMES)
def test_nodes_are_sums_of_their_edges_on_any_path(name, method):
  settings = {"method": method, "steps": 3, "rule": "left"}
  edges = _score(name, **settings)
  nodes = _score(name, level="node", **settings).values
  writer = edges.graph.writer
  summed = [np.bincount(writer, row, nodes.shape[1]) for row in edges.values]
  np.testing.assert_allclose(nodes, summed, rtol=0, atol=_ROUND)


@_SLOW
@pytest.mark.parametrize("name", _NAMES)
def test_a_readers_edges_are_its_gradient_times_its_change(name):
  """By the stream alone: no writer, no cut."""
  net, params = networks.load(name)
  (batch,) = runs.batches(networks.pairs(), 2)
  found = _score(name, method="eap")
  graph = found.graph
  points = {
    r.name: r.name.rsplit(".attn.", 1)[0] + ".resid_pre"
    if ".attn." in r.name
    else r.name
    for r in graph.readers
  }
  capture = tuple(dict.fromkeys(points.values()))

  @jax.jit
  def both(params):
    read = lambda ids: (
      net.apply(params, input_ids=ids, capture=capture).activations
    )
    clean, other = read(batch.clean), read(batch.corrupted)
    logits = runs.logits(net, params, batch)

    def value(add):
      edits = sites.Edits(add=add)
      return runs.measured(net, params, _METRIC, batch, logits, edits).sum()

    rows = lambda r: (r.rows,) if ".attn." in r.name else ()
    width = net.config.width
    add = {r.name: jnp.zeros((2, 5, *rows(r), width)) for r in graph.readers}
    return clean, other, jax.grad(value)(add)

  clean, other, slopes = both(params)
  for number, reader in enumerate(graph.readers):
    change = np.asarray(other[points[reader.name]] - clean[points[reader.name]])
    slope = np.asarray(slopes[reader.name]).reshape(2, 5, reader.rows, -1)
    for row in range(reader.rows):
      want = (slope[:, :, row] * change).sum((1, 2))
      own = (graph.reader == number) & (graph.row == row)
      got = found.values[:, own].sum(1)
      np.testing.assert_allclose(got, want, rtol=0, atol=_ROUND)


def _total(name):
  net, params = networks.load(name)
  (batch,) = runs.batches(networks.pairs(), 2)
  ends = jax.jit(lambda params: runs.ends(net, params, _METRIC, batch))(params)
  return np.asarray(ends.corrupted - ends.clean)


@_SLOW
@pytest.mark.parametrize("method", ["eap-ig", "ig-edges"])
@pytest.mark.parametrize("name", _NAMES)
def test_paths_are_complete_at_the_rates_of_their_rules(name, method):
  """The embedding's row, or all edges: O(1 / m^2) of midpoints, else O(1 / m).

  Errors of a smooth path are c / m^p (1 + O(1 / m^2)), so that one at 2 m
  points follows from that at m; and extrapolated from both, next to none is
  left.
  """
  total = _total(name)

  def gap(rule, steps):
    found = _score(name, method=method, steps=steps, rule=rule)
    own = found.graph.writer == 0 if method == "eap-ig" else slice(None)
    return found.values[:, own].sum(1) - total

  few, many = gap("midpoint", 128), gap("midpoint", 256)
  np.testing.assert_allclose(4 * many, few, rtol=0.02, atol=1e-7)
  size = np.abs(total).max()
  assert np.abs(many).max() < 1e-3 * size
  assert np.abs(4 * many - few).max() / 3 < 1e-4 * size
  if method == "eap-ig":
    for rule in ("left", "right"):
      few, many = gap(rule, 128), gap(rule, 256)
      np.testing.assert_allclose(2 * many, few, rtol=0.02, atol=1e-6)
      assert np.abs(many).max() > 1e-5


@_SLOW
@pytest.mark.parametrize("name", _NAMES)
def test_a_groups_path_is_complete(name):
  """Edges out of one group that moves alone: what patching it does."""
  slow, wrote = _wrote(name)
  pairs = networks.pairs()
  found = [_score(name, method="ig-nodes", steps=n) for n in (64, 128)]
  graph, heads = found[0].graph, networks.load(name)[0].config.num_heads
  groups = [["embed"]]
  for block in (0, 1):
    own = [f"blocks.{block}.heads.{head}" for head in range(heads)]
    groups += [own, [f"blocks.{block}.mlp"]]
  for writers in groups:
    own = graph.of_writers(writers)
    cut = dict.fromkeys(own.edges, 1.0)
    for pair in (0, 1):
      value = [
        slow.run(pairs.clean[pair], some, wrote[pair][1])[1]
        for some in (cut, {})
      ]
      at = pairs.right[pair, 0], pairs.wrong[pair, 0]
      after, before = (logits[at[0]] - logits[at[1]] for logits in value)
      few, many = (one.values[pair, own.kept].sum() for one in found)
      # Of midpoints, extrapolated: O(1 / m^4) is left.
      got = (4 * many - few) / 3
      np.testing.assert_allclose(got, after - before, rtol=1e-4, atol=1e-6)


def _linear():
  """No norms, attention everywhere alike, MLPs whose neurons never rest."""
  config = transformer.Config(
    **networks.CONFIGS["gpt2"] | {"norm": "none", "activation": "relu"}
  )
  net = transformer.network(config)
  _, given = networks.load("gpt2")
  shapes = jax.eval_shape(net.init, jax.random.key(0))

  def take(path, leaf):
    name = jax.tree_util.keystr(path, simple=True, separator="/")
    found = given
    for key in name.split("/"):
      found = found[key]
    if "/attn/q/" in name or "/attn/k/" in name:
      return np.zeros(leaf.shape)
    return found + 100 if name.endswith("mlp/up/bias") else np.array(found)

  return net, jax.tree_util.tree_map_with_path(take, shapes)


@_SLOW
def test_gradients_of_a_linear_network_are_exact():
  net, params = _linear()
  each = {
    method: scores.score(
      net, params, networks.pairs(), _METRIC, method=method, check=0, steps=2
    ).values
    for method in ("exact", "eap", "eap-ig")
  }
  size = np.abs(each["exact"]).max()
  assert size > 0.1
  for method in ("eap", "eap-ig"):
    # Neurons' biases of 100 cost two digits.
    np.testing.assert_allclose(
      each[method], each["exact"], rtol=0, atol=100 * _ROUND
    )


@_SLOW
def test_edges_to_logits_without_a_norm_are_exact():
  config = transformer.Config(**networks.CONFIGS["llama"] | {"norm": "none"})
  net = transformer.network(config)
  params = dict(networks.load("llama")[1])
  del params["final_norm"]
  for name in ("blocks_0", "blocks_1"):
    params[name] = {
      key: value
      for key, value in params[name].items()
      if key not in ("norm1", "norm2")
    }
  exact, first = (
    scores.score(net, params, networks.pairs(), _METRIC, method=method, check=0)
    for method in ("exact", "eap")
  )
  last = exact.graph.reader == len(exact.graph.readers) - 1
  np.testing.assert_allclose(
    first.values[:, last], exact.values[:, last], rtol=0, atol=_ROUND
  )
  rest = np.abs(first.values - exact.values)[:, ~last]
  assert rest.max() > 1e-3


def _mixed():
  """Pairs of 5, 3 and 4 tokens; several answers, or none that is wrong."""
  rng = np.random.default_rng(8)
  clean = rng.integers(0, 17, (3, 5))
  return pairs_lib.Pairs(
    clean, (clean + rng.integers(1, 17, clean.shape)) % 17, [5, 3, 4],
    [[1, -1], [2, 3], [4, -1]], [[5, 6], [7, -1], [-1, -1]],
  )  # fmt: skip


@_SLOW
@pytest.mark.parametrize("method", ["eap-ig", "exact"])
@pytest.mark.parametrize("name", _NAMES)
def test_a_pair_does_not_depend_on_its_batch(name, method):
  net, params = networks.load(name)
  pairs = _mixed()
  score = lambda some, size: (
    scores.score(
      net, params, some, _METRIC, method=method, steps=2, check=0, size=size
    ).values
  )
  whole = score(pairs, 3)
  assert np.abs(whole).max(axis=1).min() > 0.01
  np.testing.assert_allclose(score(pairs, 2), whole, rtol=0, atol=_ROUND)
  order = [2, 0, 1]
  np.testing.assert_allclose(
    score(pairs[order], 3), whole[order], rtol=0, atol=_ROUND
  )
  alone = pairs[[1]]
  assert alone.clean.shape == (1, 3)
  np.testing.assert_allclose(score(alone, 1), whole[[1]], rtol=0, atol=_ROUND)
  longer = dataclasses.replace(
    pairs.padded(7), clean=np.pad(pairs.clean, ((0, 0), (0, 2)), mode="wrap")
  )
  np.testing.assert_allclose(score(longer, 3), whole, rtol=0, atol=_ROUND)
