"""Scores against the interpreter of the graph, and the identities they obey."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from spex_jax.circuits import graph as graph_lib
from spex_jax.circuits import (
  metrics,
  path_gradients,
  runs,
  scores,
  taps,
  ungrouped,
)
from spex_jax.models import sites
from tests.circuits import interpreter, networks

pytestmark = pytest.mark.usefixtures("float64")

_SLOW = pytest.mark.slow
_METRIC = metrics.logit_difference
_ROUND = 1e-12  # Of float64, in sums of some thousand products of size 1.
_NAMES = [
  pytest.param(name, marks=() if name in ("gpt2", "llama") else _SLOW)
  for name in networks.CONFIGS
]


def _score(name, **settings):
  net, params = networks.load(name)
  found = scores.score(
    net, params, networks.pairs(), _METRIC, check=0, **settings
  )
  return found


@functools.cache
def _first(name):
  return _score(name, method="eap")


@functools.cache
def _slow(name):
  """The interpreter's value of cut edges, of every pair, and the runs."""
  net, params = networks.load(name)
  slow, pairs = interpreter.Interpreter(net, params), networks.pairs()
  clean = [slow.run(ids) for ids in pairs.clean]
  other = [slow.run(ids) for ids in pairs.corrupted]

  def value(pair, cut):
    _, logits = slow.run(pairs.clean[pair], cut, other[pair][0])
    right, wrong = pairs.right[pair, 0], pairs.wrong[pair, 0]
    return logits[right] - logits[wrong]

  return value, clean, other


def _total(name):
  """The effect of corrupting everything, `[N]`."""
  value, _, _ = _slow(name)
  graph = _first(name).graph
  every = {graph.edge(i): 1.0 for i in range(len(graph))}
  return np.array([value(pair, every) - value(pair, {}) for pair in range(2)])


@pytest.mark.parametrize("name", _NAMES)
def test_scores_are_the_interpreters(name):
  value, _, other = _slow(name)
  exact, first = _score(name, method="exact"), _first(name)
  graph = exact.graph
  assert graph == graph_lib.Graph.of(networks.load(name)[0])
  whole = [value(pair, {}) for pair in range(2)]
  rng = np.random.default_rng(1)
  # Everything cut is the corrupted run.
  right = networks.pairs().right[:, 0], networks.pairs().wrong[:, 0]
  ends = [other[k][1][right[0][k]] - other[k][1][right[1][k]] for k in (0, 1)]
  np.testing.assert_allclose(
    _total(name), np.subtract(ends, whole), rtol=0, atol=_ROUND
  )
  for i in rng.permutation(len(graph))[:40]:
    edge, pair = graph.edge(int(i)), int(rng.integers(2))
    want = value(pair, {edge: 1.0}) - whole[pair]
    np.testing.assert_allclose(
      exact.values[pair, i], want, rtol=0, atol=_ROUND, err_msg=str(edge)
    )
  step = 1e-5  # Squared for the curvature, and 1e-16 / step for rounding.
  for i in rng.permutation(len(graph))[:15]:
    edge, pair = graph.edge(int(i)), int(rng.integers(2))
    want = value(pair, {edge: step}) - value(pair, {edge: -step})
    np.testing.assert_allclose(
      first.values[pair, i], want / (2 * step), rtol=1e-7, atol=2e-9
    )
  assert np.abs(exact.values).max() > 0.1


@pytest.mark.parametrize("name", _NAMES)
def test_the_embeddings_row_of_integrated_gradients_is_complete(name):
  total, gaps = _total(name), {}
  for rule in path_gradients.RULES:
    found = _score(name, method="eap-ig", steps=32, rule=rule)
    row = found.values[:, found.graph.writer == 0].sum(1)
    gaps[rule] = np.abs(row - total).max()
  # O(1 / m) against O(1 / m^2); `identities_test` has these rates.
  assert gaps["midpoint"] < min(gaps["left"], gaps["right"]) / 3
  both = [
    _score(name, method="eap-ig", steps=32, rule=rule).values
    for rule in ("left", "right")
  ]
  ends = _score(name, method="clean-corrupted").values
  # Left and right differ by the two ends, and the right holds the clean one.
  clean = _first(name).values
  np.testing.assert_allclose(
    32 * (both[1] - both[0]), 2 * clean - 2 * ends, rtol=0, atol=1e-11
  )


def _batch(**changes):
  (batch,) = runs.batches(networks.pairs(), 2)
  return batch.replace(**changes)


def _line(name, batch, method="clean-corrupted"):
  """Scores of a batch, by the program that other tests have compiled."""
  net, params = networks.load(name)
  at = path_gradients.points(method, 1, "left")
  level = taps.Level.of(net, "edge")
  model = sites.Model(net)
  return np.asarray(
    path_gradients.scores(
      model, level, _METRIC, method, params, batch, None, at
    )
  )


@pytest.mark.parametrize("name", _NAMES)
def test_swaps_orders_and_padding(name):
  batch = _batch()
  found = _line(name, batch)
  swapped = _line(name, _batch(clean=batch.corrupted, corrupted=batch.clean))
  np.testing.assert_allclose(swapped, -found, rtol=0, atol=_ROUND)
  same = _line(name, _batch(corrupted=batch.clean))
  np.testing.assert_allclose(same, 0, rtol=0, atol=_ROUND)
  turned = jax.tree.map(lambda x: x[::-1], batch)
  np.testing.assert_allclose(
    _line(name, turned)[::-1], found, rtol=0, atol=_ROUND
  )
  # Whatever stands behind the last token.
  short = _batch(last=np.array([3, 4], np.int32))
  other = np.array(short.clean)
  other[0, 4] = (other[0, 4] + 5) % 17
  np.testing.assert_allclose(
    _line(name, short), _line(name, short.replace(clean=other)),
    rtol=0, atol=_ROUND,
  )  # fmt: skip


@pytest.mark.parametrize(
  "name, rule",
  [
    pytest.param(
      name, rule, marks=() if (name, rule) == ("llama", "gim") else _SLOW
    )
    for name in ("gpt2", "llama", "gpt_neox")
    for rule in ("relp", "gim")
  ],
)
def test_rules_of_the_backward_pass_are_their_definition(name, rule):
  found = _score(name, method="eap", backward=rule)
  net, params = networks.load(name)
  slow, pairs = interpreter.Linear(net, params, rule), networks.pairs()
  rng, graph = np.random.default_rng(4), found.graph
  for pair in (0, 1):
    other, _ = slow.around(pairs.corrupted[pair])
    _, clean = slow.around(pairs.clean[pair])
    at = pairs.right[pair, 0], pairs.wrong[pair, 0]
    for i in rng.permutation(len(graph))[:30]:
      edge = graph.edge(int(i))
      _, logits = slow.run(pairs.clean[pair], {edge: 1.0}, other)
      want = (logits - clean)[at[0]] - (logits - clean)[at[1]]
      np.testing.assert_allclose(
        found.values[pair, i], want, rtol=0, atol=_ROUND, err_msg=str(edge)
      )
  plain = _first(name).values
  assert np.abs(found.values - plain).max() > 0.01


@pytest.mark.parametrize("name", ["gpt2", pytest.param("gemma2", marks=_SLOW)])
def test_nodes_are_sums_of_their_edges(name):
  edges = _first(name)
  writer = edges.graph.writer
  nodes = _score(name, method="eap", level="node").values
  summed = [np.bincount(writer, row, nodes.shape[1]) for row in edges.values]
  np.testing.assert_allclose(nodes, summed, rtol=0, atol=_ROUND)


@pytest.mark.slow
def test_positions_and_neurons_add_up():
  edges = _first("gpt2")
  where = _score("gpt2", method="eap", level="position").values
  assert where.shape == (2, 5, len(edges.graph))
  np.testing.assert_allclose(where.sum(1), edges.values, rtol=0, atol=_ROUND)
  found = _score("gpt2", method="eap", level="neuron")
  assert found.names[3] == "blocks.0.mlp.neurons 3"
  # What an MLP writes is linear in its neurons.
  each = found.values.reshape(2, 2, -1).sum(-1)
  for number in range(2):
    mlp = edges.graph.of_writers([f"blocks.{number}.mlp"]).kept
    want = edges.values[:, mlp].sum(1)
    np.testing.assert_allclose(each[:, number], want, rtol=0, atol=_ROUND)


@pytest.mark.slow
def test_whole_nodes_are_exact():
  found = _score("gpt2", method="exact", level="node")
  value, _, _ = _slow("gpt2")
  for i, writer in enumerate(found.names):
    cut = dict.fromkeys(found.graph.of_writers([writer]).edges, 1.0)
    want = value(0, cut) - value(0, {})
    np.testing.assert_allclose(found.values[0, i], want, rtol=0, atol=_ROUND)


@pytest.mark.parametrize("name", ["gpt2", pytest.param("llama", marks=_SLOW)])
def test_single_neurons_and_positions_are_exact(name):
  net, params = networks.load(name)
  slow, pairs = interpreter.Interpreter(net, params), networks.pairs()
  value, _, _ = _slow(name)
  whole = value(0, {})
  found = _score(name, method="exact", level="neuron")
  slow.run(pairs.corrupted[0])
  held, size = slow.neurons, net.config.num_neurons
  rng = np.random.default_rng(2)
  for i in rng.permutation(len(found.names))[:8]:
    block, at = divmod(int(i), size)
    hold = {(block, at): held[block][:, at]}
    _, logits = slow.run(pairs.clean[0], hold=hold)
    want = logits[pairs.right[0, 0]] - logits[pairs.wrong[0, 0]] - whole
    np.testing.assert_allclose(found.values[0, i], want, rtol=0, atol=_ROUND)
  found = _score(name, method="exact", level="position")
  assert found.values.shape == (2, 5, len(found.graph))
  assert found.cost["forward"] == 2 + 5 * len(found.graph)
  for i in rng.permutation(len(found.graph))[:20]:
    at = int(rng.integers(1, 5))
    cut = {found.graph.edge(int(i)): np.eye(5)[at][:, None]}
    want = value(0, cut) - whole
    np.testing.assert_allclose(
      found.values[0, at, i], want, rtol=0, atol=_ROUND
    )
  assert np.abs(found.values).max() > 0.01


@pytest.mark.slow
def test_estimates_of_any_level_are_compared_with_exact_effects():
  net, params = networks.load("gpt2")
  for level in ("position", "neuron"):
    found = scores.score(
      net, params, networks.pairs(), _METRIC, method="eap-ig", level=level,
      check=12,
    )  # fmt: skip
    exact = _score("gpt2", method="exact", level=level).values
    which, agreement = found.agreement.which, found.agreement
    np.testing.assert_allclose(
      agreement.exact, exact.reshape(2, -1)[:, which].mean(0), atol=_ROUND
    )
    assert agreement.pearson > 0.5


@pytest.mark.slow
def test_scores_of_an_ungrouped_graph_add_up_and_effects_do_not():
  whole, first = _first("llama"), _score("llama", method="eap", grouped=False)
  members = first.graph.members(whole.graph)
  added = np.stack(
    [np.bincount(members, row, len(whole.graph)) for row in first.values]
  )
  np.testing.assert_allclose(added, whole.values, rtol=0, atol=_ROUND)
  net, _ = networks.load("llama")
  alone = ungrouped.network(net)
  assert first.graph == graph_lib.Graph.of(net, ungrouped=True)
  assert first.graph == graph_lib.Graph.of(alone)
  effect = _score("llama", method="exact", grouped=False).values
  grouped = _score("llama", method="exact").values
  added = np.stack(
    [np.bincount(members, row, len(whole.graph)) for row in effect]
  )
  assert np.abs(added - grouped).max() > 1e-3


@pytest.mark.slow
def test_routes_are_shares_of_what_is_read():
  found = _score("gpt2", method="routes")
  graph, (_, clean, _) = found.graph, _slow("gpt2")
  slot = np.unique(graph.slot)
  sums = [found.values[0, graph.slot == i].sum() for i in slot]
  np.testing.assert_allclose(sums, 1, rtol=0, atol=_ROUND)
  wrote = clean[0][0]
  last = [wrote[name] for name in graph.writers]
  _, params = networks.load("gpt2")
  read = sum(last) + sum(
    params[f"blocks_{i}"]["attn"]["out"]["bias"] for i in range(2)
  )
  near = [
    np.maximum(np.abs(read).sum(-1) - np.abs(read - z).sum(-1), 0) for z in last
  ]
  want = (np.array(near) / np.sum(near, axis=0)).mean(1)
  got = found.values[0, graph.reader == len(graph.readers) - 1]
  np.testing.assert_allclose(got, want, rtol=0, atol=_ROUND)


def test_many_narrow_terms_have_the_mean_of_wide_ones():
  """In bfloat16 a sum of 600 terms of .3 would stand still at 128."""
  slope = lambda i: jnp.full(2, 0.3, jnp.bfloat16)
  found = path_gradients._mean(slope, 600)
  np.testing.assert_allclose(found, np.float32(slope(0)), rtol=1e-5)
