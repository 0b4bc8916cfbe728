"""Edges or heads that matter together, by derivatives and sums by hand."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from spex_jax import base
from spex_jax.ablate import components, edges, evaluate
from spex_jax.circuits import alike, edge_interactions, judges, metrics
from spex_jax.circuits import graph as graph_lib
from spex_jax.models import sites
from tests.circuits import tiny

pytestmark = pytest.mark.usefixtures("float64")

_METRIC = metrics.logit_difference


def _game(value, n):
  return base.Game(
    lambda s, shared: value(s), tuple(map(str, range(n))), shared=()
  )


def test_curvature_along_the_path_of_known_functions():
  """Of a multilinear game, the Shapley interaction index."""
  both = lambda a, b: a * b
  either = lambda a, b: a + b - a * b
  value = lambda s: (
    both(s[0], s[1]) / 2 + either(s[2], s[3]) + s[4] * s[0] * s[1] / 2
  )
  found = edge_interactions.screen(_game(value, 5), points=50, at_once=4)
  expected = np.zeros((5, 5))
  # Of a triple, the mean of the third on the path.
  for i, j, x in ((0, 1, 0.5 + 0.25), (2, 3, -1), (0, 4, 0.25), (1, 4, 0.25)):
    expected[i, j] = expected[j, i] = x
  np.testing.assert_allclose(found.between, expected, atol=1e-6)
  assert found.pairs[:2].tolist() == [[2, 3], [0, 1]]
  np.testing.assert_allclose(found.values[:2], [-1, 0.75], atol=1e-6)
  # At the end where all are kept, a saturated OR still has it here; a smooth
  # saturation does not.
  soft = lambda s: jnp.tanh(4 * (s[0] + s[1]))
  path = edge_interactions.screen(_game(soft, 2), points=20)
  corner = edge_interactions.screen(_game(soft, 2), points=(1.0,))
  assert path.values[0] < -0.3 and abs(corner.values[0]) < 1e-3
  with pytest.raises(ValueError, match="two players"):
    edge_interactions.screen(_game(soft, 1))


def test_masks_screen_what_is_flat_on_the_path():
  """Banzhaf's index: of the product of three, half of it for each two."""
  value = lambda s: s[0] * s[1] * s[2] + 3 * s[3] - s[3] * s[4] / 2
  found = edge_interactions.screen(
    _game(value, 5), by="masks", budget=4000, key=jax.random.key(0), at_once=64
  )
  expected = np.zeros((5, 5))
  for i, j, x in ((0, 1, 0.5), (0, 2, 0.5), (1, 2, 0.5), (3, 4, -0.5)):
    expected[i, j] = expected[j, i] = x
  # Of 4,000 masks of values that spread by 1.5: 4 * 1.5 / sqrt(4000), 5 times.
  np.testing.assert_allclose(found.between, expected, atol=0.5)
  np.testing.assert_allclose(
    found.slopes, [0.25, 0.25, 0.25, 2.75, -0.25], atol=0.25
  )
  assert np.abs(found.values[0]) == np.abs(found.between).max()
  # Steps that no slope sees.
  steps = lambda s: jnp.where(s[0] + s[1] > 1.5, 1.0, 0.0) + s[2] * 0
  blind = edge_interactions.screen(_game(steps, 3))
  assert not blind.between.any()
  seen = edge_interactions.screen(
    _game(steps, 3), by="masks", budget=256, key=jax.random.key(1)
  )
  assert seen.pairs[0].tolist() == [0, 1] and seen.values[0] > 0.5
  with pytest.raises(ValueError, match="by='slope'"):
    edge_interactions.screen(_game(steps, 3), by="slope")
  with pytest.raises(ValueError, match="need a key"):
    edge_interactions.screen(_game(steps, 3), by="masks")


@pytest.mark.slow
@pytest.mark.parametrize("of", ["edges", "heads"])
def test_curvature_of_a_network_is_that_of_differences(of):
  net, params = tiny.network(num_blocks=1 if of == "edges" else 2)
  pairs = tiny.pairs(2)
  if of == "edges":
    players = edges.chosen(
      net, ("embed -> blocks.0.attn.v_in *", "blocks.0.* -> final_norm.in")
    )
  else:
    ids = jax.ShapeDtypeStruct((1, 4), jnp.int32)
    players = components.heads(components.shapes(net, params, input_ids=ids))
  made = edge_interactions.game(net, params, pairs, players, _METRIC)
  found = edge_interactions.screen(made, points=(0.4,), at_once=2)
  given = made.given(made.shared)
  f = jax.jit(lambda s: made.value(s, given))
  at, step = np.full(made.n, 0.4), 1e-2
  unit = np.eye(made.n) * step
  for i, j in found.pairs[:3]:
    corners = [
      a * b * f(at + a * unit[i] + b * unit[j])
      for a, b in itertools.product((1, -1), repeat=2)
    ]
    # Strengths are float32, so that sums of four values hold 1e-7 / 4e-4.
    expected = float(sum(corners)) / (4 * step**2)
    np.testing.assert_allclose(
      found.between[i, j], expected, rtol=2e-2, atol=2e-3
    )
  assert np.abs(found.values[0]) > 1e-2


@pytest.mark.slow
def test_the_game_is_that_of_circuits():
  net, params = tiny.network(num_blocks=1)
  pairs, graph = tiny.pairs(), graph_lib.Graph.of(net)
  players = edges.nodes(net)
  made = edge_interactions.game(
    net, params, pairs, players, _METRIC, by_pair=True
  )
  ask = evaluate.compiled(made, batch_size=4, devices=jax.devices()[:1])
  masks = np.random.default_rng(0).random((3, players.n)) < 0.6
  owner = np.concatenate(
    [players.edges[r.name].reshape(-1) for r in graph.readers]
  )
  circuits = [graph_lib.Circuit(graph, mask[owner]) for mask in masks]
  judged = judges.faithfulness(net, params, pairs, circuits, _METRIC, size=2)
  np.testing.assert_allclose(ask(masks), judged.values, atol=1e-11)


def _value(n, terms):
  """A sum of products of masks, as a value function."""
  return lambda masks: (
    sum(
      x * np.asarray(masks)[:, list(players)].all(axis=1)
      for players, x in terms.items()
    )
    + np.zeros(len(masks))
  )


def test_gates_have_their_names():
  value = _value(
    7,
    {
      (0, 1): 3.0,
      (2,): 1.0, (3,): 1.0, (2, 3): -1.0,
      (4,): 2.0, (5,): 2.0, (4, 5): -4.0,
      (6,): 1.0,
    },
  )  # fmt: skip
  pairs = [(0, 1), (2, 3), (4, 5), (2, 6), (0, 6)]
  found = edge_interactions.gates(value, 7, pairs, others=False)
  assert [g.kind for g in found] == ["AND", "OR", "XOR", "ADD", "ADD"]
  assert [g.interaction for g in found] == [3, -1, -4, 0, 0]
  assert found[0].values == (0, 0, 0, 3)
  # Among all others kept the first of an AND works alone.
  (kept,) = edge_interactions.gates(value, 7, [(0, 6)], names=list("abcdefg"))
  assert kept.kind == "ADD" and kept.names == ("a", "g")
  assert edge_interactions.classify([0, 1.0, 0.2, 2.0])[0] == "mixed"
  assert "OR" in str(found[1])
  with pytest.raises(ValueError, match="two different players"):
    edge_interactions.gates(value, 7, [(1, 1)])


def test_heads_that_back_each_other_up_are_an_or():
  """One head is a copy of the other, and the answer saturates: either does."""
  net, params = tiny.network(num_blocks=1)
  params = jax.tree.map(np.array, params)
  attn = params["blocks_0"]["attn"]
  for leaf in jax.tree.leaves([attn[kind] for kind in "qkv"]):
    leaf[..., 1, :] = leaf[..., 0, :]
  attn["out"]["kernel"][1] = attn["out"]["kernel"][0]
  pairs = tiny.pairs(1)
  heads = components.heads(
    components.shapes(net, params, input_ids=jax.ShapeDtypeStruct((1, 4), int))
  )
  plain = edge_interactions.game(net, params, pairs, heads, _METRIC)
  value = jax.jit(lambda s: plain(s))
  none, one = (float(value(jnp.array(s))) for s in ([0.0, 0.0], [1.0, 0.0]))

  def told(*given):
    return jnp.tanh(4 * (_METRIC(*given) - none) / (one - none))

  made = edge_interactions.game(net, params, pairs, heads, told)
  ask = evaluate.compiled(made, batch_size=4, devices=jax.devices()[:1])
  (gate,) = edge_interactions.gates(ask, 2, [(0, 1)])
  assert gate.kind == "OR" and gate.interaction < -0.99
  # One at a time, neither is needed.
  assert abs(gate.values[3] - gate.values[1]) < 1e-2
  found = edge_interactions.explain(
    net, params, pairs, heads, told,
    key=jax.random.key(0), budget=4, batch_size=4,
  )  # fmt: skip
  pair = found.interactions("FBII", order=2)
  np.testing.assert_allclose(
    pair.values[(pair.players < 2).all(axis=1)], gate.interaction, atol=1e-6
  )


def test_optimum_is_the_best_of_all_circuits():
  net, params = tiny.network()
  pairs, graph = tiny.pairs(2), graph_lib.Graph.of(net)
  rng = np.random.default_rng(3)
  scores = rng.normal(size=graph.num_edges)
  order = np.argsort(-np.abs(scores))
  sure, pool = graph.circuit(order[:10]), graph.circuit(order[:42])
  found = edge_interactions.optimum(
    net, params, pairs, _METRIC, scores, 26,
    key=jax.random.key(0), sure=sure, pool=pool, groups=8, budget=256, size=2,
  )  # fmt: skip
  assert sure <= found.circuit <= pool and len(found.circuit) == 26
  groups = order[10:42].reshape(8, 4)
  every = [
    graph.circuit([*order[:10], *groups[list(some)].ravel()])
    for some in itertools.combinations(range(8), 4)
  ]
  judged = judges.faithfulness(net, params, pairs, every, _METRIC, size=2)
  effect = np.abs(judged.clean - judged.corrupted).mean()
  close = -np.abs(judged.values - judged.clean).mean(1) / effect
  # All masks fit in the budget: the expansion is the function itself.
  np.testing.assert_allclose(found.closeness, close.max(), atol=1e-9)
  np.testing.assert_allclose(found.proposed, close.max(), atol=1e-9)
  np.testing.assert_allclose(found.by_scores, close[0], atol=1e-9)
  with pytest.raises(ValueError, match="no choice of 99"):
    edge_interactions.optimum(
      net, params, pairs, _METRIC, scores, 99,
      key=jax.random.key(0), sure=sure, pool=pool,
    )  # fmt: skip


def test_a_head_and_its_copy_are_alike():
  """The copy is a linear map of the head, so that the swap keeps all."""
  net, params = tiny.network()
  params = jax.tree.map(np.array, params)
  attn = params["blocks_1"]["attn"]
  turn = np.linalg.qr(np.random.default_rng(0).normal(size=(4, 4)))[0]
  for kind in ("q", "k", "v"):
    for leaf in attn[kind].values():
      leaf[..., 1, :] = leaf[..., 0, :] @ (turn if kind == "v" else np.eye(4))
  pairs = tiny.pairs(12)
  found = alike.interchange(
    net, params, pairs[:8], pairs[8:], [((1, 0), (1, 1)), ((1, 1), (1, 0))],
    _METRIC, random=2, ridge=1e-12, size=4,
  )  # fmt: skip
  for swap in found:
    np.testing.assert_allclose([swap.kept, swap.explained], 1, atol=1e-6)
    assert len(swap.control) == 2 and max(swap.control) < 0.999
    assert swap.rank == 1
  assert "in 1.0: keeps 1.00" in str(found[0])


def test_a_swap_is_seen_through_edges():
  net, params = tiny.network()
  pairs, claims = tiny.pairs(8), [((1, 0), (0, 1))] * 3
  name = "blocks.1.heads.0"
  every = [(name, "blocks.1.mlp.read", 0), (name, "final_norm.in", 0)]
  given = dict(random=0, ridge=1e-9, size=4)
  found = alike.interchange(
    net, params, pairs[:4], pairs[4:], claims, _METRIC,
    edges=[every, every[:1], every[1:]], **given,
  )  # fmt: skip
  (whole,) = alike.interchange(
    net, params, pairs[:4], pairs[4:], claims[:1], _METRIC, **given
  )
  # All edges of the head are the head; one of them is not.
  np.testing.assert_allclose(found[0].kept, whole.kept, rtol=1e-6)
  assert (
    abs(found[1].kept - whole.kept) > 1e-3 < abs(found[2].kept - whole.kept)
  )
  for some, message in (
    ([every] * 2, "as many sets"),
    ([[("embed", "final_norm.in", 0)]] * 3, "does not leave blocks.1.heads.0"),
    ([[(name, "blocks.0.mlp.read", 0)]] * 3, "writes behind"),
  ):
    with pytest.raises(ValueError, match=message):
      alike.interchange(
        net, params, pairs, pairs, claims, _METRIC, edges=some, **given
      )


@pytest.mark.slow
def test_a_swap_by_hand():
  net, params = tiny.network()
  pairs = tiny.pairs(8)
  fitted, judged = pairs[:6], pairs[6:7]
  (swap,) = alike.interchange(
    net, params, fitted, judged, [((1, 0), (0, 1))], _METRIC,
    random=0, ridge=1e-9, size=6,
  )  # fmt: skip

  def gathered(some):
    rows = [some[i : i + 1] for i in range(len(some))]
    z = lambda layer, head: np.concatenate(
      [
        tiny.activation(row, net, params, f"blocks.{layer}.attn.z")[0, :, head]
        for row in rows
      ]
    )
    return z(1, 0), z(0, 1)

  own, other = gathered(fitted)
  design = np.concatenate([other, np.ones((len(other), 1))], axis=1)
  fit = np.linalg.lstsq(design, own, rcond=None)[0]
  _, seen = gathered(judged)
  mapped = np.concatenate([seen, np.ones((len(seen), 1))], axis=1) @ fit
  values = []
  for value in (mapped, np.tile(own.mean(0), (len(mapped), 1))):
    where = (np.arange(2) == 0)[None, None, :, None]
    replace = {"blocks.1.attn.z": (where, value[None, :, None])}
    logits = tiny.alone(judged, net, params, sites.Edits(replace=replace))
    values.append(_METRIC(logits, None, judged.right[0], judged.wrong[0]))
  clean = _METRIC(
    tiny.alone(judged, net, params), None, judged.right[0], judged.wrong[0]
  )
  expected = (values[0] - values[1]) / (clean - values[1])
  np.testing.assert_allclose(swap.kept, expected, atol=1e-4)
  assert np.isnan(swap.rank)


@pytest.mark.parametrize(
  "claims,message",
  [
    ([], "no claim"),
    ([((1, 0), (1, 0))], "like itself"),
    ([((2, 0), (1, 0))], "no head"),
  ],
)
def test_claims_that_make_no_sense(claims, message):
  net, params = tiny.network()
  pairs = tiny.pairs(2)
  with pytest.raises(ValueError, match=message):
    alike.interchange(net, params, pairs, pairs, claims, _METRIC, random=1)
