"""Edges as players, against cuts made by hand, one edge at a time."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import spex_jax as spex
from spex_jax import base
from spex_jax.ablate import components, edges, evaluate, gradients, readouts
from spex_jax.models import gpt2, llama, mlp, sites
from tests.models import checkpoints

_IDS = np.array([[3, 1, 4, 1, 5]])
_OTHER = np.array([[2, 7, 1, 8, 2]])
_ONE = {"batch_size": 8, "devices": jax.devices()[:1]}
_READ = readouts.logit([1, 6])


@functools.cache
def _net():
  net = gpt2.network(gpt2.config_from_hub(checkpoints.GPT2))
  params = checkpoints.random_params(net)
  ref = jax.jit(lambda p: net.contributions(p, input_ids=_OTHER))(params)
  return net, params, ref


@functools.cache
def _forward():
  net, params, _ = _net()
  run = jax.jit(
    lambda edits: net.apply(params, edits, input_ids=_IDS).logits[0, -1]
  )
  return lambda edits: run(edits)[jnp.array([1, 6])]


def _by_hand(net, absent, ref):
  """Cuts of all readers, set edge by edge from their names."""
  cut = {
    reader: np.zeros((1, 1, *shape), np.float32)
    for reader, shape in net.readers.items()
  }
  for name in absent:
    writer, reader = name.split(" -> ")
    reader, _, row = reader.partition(" ")
    cut[reader][0, 0, int(row or 0), net.writers.index(writer)] = 1
  return sites.Edits(cut=cut, ref=ref)


def test_names_and_order():
  net, *_ = _net()
  everyone = edges.chosen(net, ("* -> *",))
  heads = net.config.num_heads
  assert everyone.n == sum(a * b for a, b in net.readers.values())
  assert everyone.names[:2] == (
    "embed -> blocks.0.attn.q_in 0",
    "embed -> blocks.0.attn.q_in 1",
  )
  assert everyone.names[-1] == "blocks.1.mlp -> final_norm.in"
  assert set(everyone.edges) == set(net.readers)
  into = edges.chosen(net, ("* -> blocks.1.attn.?_in *",))
  assert into.n == 3 * heads * (heads + 2)
  assert set(into.edges) == {f"blocks.1.attn.{x}_in" for x in "qkv"}
  few = edges.chosen(net, everyone.names[7:9])
  assert few.names == everyone.names[7:9]
  assert edges.layers(net).names == (
    "embed -> blocks.0",
    "blocks.0 -> blocks.0",
    "embed -> blocks.1",
    "blocks.0 -> blocks.1",
    "blocks.1 -> blocks.1",
    "embed -> final_norm.in",
    "blocks.0 -> final_norm.in",
    "blocks.1 -> final_norm.in",
  )
  nodes = edges.nodes(net)
  assert "blocks.0.heads.1 -> blocks.1.heads.2" in nodes.names
  assert "blocks.1.mlp -> final_norm.in" in nodes.names
  # Each edge between nodes is of one player, and all are someone's.
  assert all((owner < nodes.n).all() for owner in nodes.edges.values())


def test_grouped_queries_have_key_value_nodes():
  net = llama.network(llama.config_from_hub(checkpoints.LLAMA))
  names = edges.nodes(net).names
  assert "blocks.0.heads.3 -> blocks.1.kv 1" in names
  assert "blocks.0.heads.3 -> blocks.1.heads.3" in names


@pytest.mark.slow_where("other")
@pytest.mark.parametrize("of", ["other", "zero"])
def test_masks_are_cuts_by_hand(of):
  net, params, ref = _net()
  players = edges.chosen(net, ("*heads* -> *", "embed -> *.mlp.*"))
  ref = ref if of == "other" else jnp.zeros_like(ref)
  value_fn = components.evaluator(
    net, players, {"input_ids": _IDS}, _READ, ref=ref, params=params, **_ONE
  )
  masks = np.random.default_rng(0).random((8, players.n)) < 0.6
  masks[0] = True
  found = value_fn(masks)
  for mask, value in zip(masks, found):
    absent = [name for name, kept in zip(players.names, mask) if not kept]
    expected = _forward()(_by_hand(net, absent, ref))
    # Sums of some hundred numbers of size 1, in another order.
    np.testing.assert_allclose(value, expected, rtol=0, atol=2e-5)
  np.testing.assert_allclose(found[0], _forward()(sites.Edits()), atol=2e-5)
  assert np.ptp(found, axis=0).min() > 1e-3


def test_groups_are_their_edges_and_all_cut_is_the_other_run():
  net, params, ref = _net()
  layers = edges.layers(net)
  value_fn = components.evaluator(
    net, layers, {"input_ids": _IDS}, _READ, ref=ref, params=params, **_ONE
  )
  masks = np.zeros((2, layers.n), bool)
  masks[1, [0, 3, 5]] = True
  none, some = value_fn(masks)
  other = net.apply(params, input_ids=_OTHER).logits[0, -1, [1, 6]]
  np.testing.assert_allclose(none, other, rtol=0, atol=2e-5)
  names = edges.chosen(net, ("* -> *",)).names
  group = lambda end: ".".join(end.split(" ")[0].split(".")[:2])
  kept = {layers.names[i] for i in (0, 3, 5)}
  absent = [
    name
    for name in names
    if " -> ".join(map(group, name.split(" -> "))) not in kept
  ]
  np.testing.assert_allclose(
    some, _forward()(_by_hand(net, absent, ref)), rtol=0, atol=2e-5
  )


@pytest.mark.slow
def test_gradient_is_edge_attribution_patching():
  """dv/dstrength = (z - ref) . dv/d(what the reader sees)."""
  net, params, ref = _net()
  everyone = edges.chosen(net, ("* -> *",))
  read = readouts.logit(6)
  inputs = {"input_ids": _IDS}
  game = components.game(net, everyone, inputs, read, ref=ref, params=params)
  found = gradients.gradient_x_input(game).values
  add = {
    reader: jnp.zeros(
      (1, 5, rows, net.config.width) if ".attn." in reader
      else (1, 5, net.config.width)
    )
    for reader, (rows, _) in net.readers.items()
  }  # fmt: skip

  @jax.jit
  def slopes(add):
    value = lambda add: net.apply(
      params, sites.Edits(add=add), input_ids=_IDS
    ).logits[0, -1, 6]
    return jax.grad(value)(add), net.contributions(params, input_ids=_IDS)

  slope, z = slopes(add)
  change = np.asarray(z - ref, np.float64)[0]  # [P, W, d]
  scores = {}
  for reader, (rows, before) in net.readers.items():
    own = np.asarray(slope[reader], np.float64).reshape(5, rows, -1)
    for row in range(rows):
      for u in range(before):
        end = reader if rows == 1 else f"{reader} {row}"
        scores[f"{net.writers[u]} -> {end}"] = (
          own[:, row] * change[:, u]
        ).sum()
  expected = [scores[name] for name in everyone.names]
  assert np.abs(expected).max() > 0.05
  np.testing.assert_allclose(found, expected, rtol=0, atol=2e-5)


def test_edits_beneath_may_cut_others():
  net, params, ref = _net()
  players = edges.chosen(net, ("embed -> blocks.1.*",))
  circuit = edges.chosen(
    net, ("blocks.0.heads.* -> blocks.1.*", "embed -> blocks.0.mlp.read")
  )
  fixed = circuit.edits(np.zeros(circuit.n), ref=ref)
  ask = lambda **more: components.evaluator(
    net, players, {"input_ids": _IDS}, _READ, edits=fixed, params=params,
    **_ONE, **more,
  )  # fmt: skip
  mask = np.random.default_rng(1).random((1, players.n)) < 0.5
  absent = [name for name, kept in zip(players.names, mask[0]) if not kept]
  expected = _forward()(_by_hand(net, [*absent, *circuit.names], ref))
  np.testing.assert_allclose(ask()(mask)[0], expected, rtol=0, atol=2e-5)
  with pytest.raises(ValueError, match="what its own `ref` says"):
    ask(ref=ref)


def test_thirty_thousand_edges_are_one_gather():
  """GPT-2 small's edges; its width does not matter here."""
  sizes = {"n_layer": 12, "n_head": 12, "n_embd": 12}
  net = gpt2.network(gpt2.config_from_hub(checkpoints.GPT2 | sizes))
  everyone = edges.chosen(net, ("* -> *",))
  assert everyone.n == 32491 == len(set(everyone.names))
  flat = np.concatenate([x.reshape(-1) for x in everyone.edges.values()])
  np.testing.assert_array_equal(flat, np.arange(32491))
  ref = np.zeros((1, 1, 157, 12), np.float32)
  trace = jax.make_jaxpr(lambda s: everyone.edits(s, ref=ref).cut)
  program = trace(np.ones(32491, np.float32))
  assert str(program).count("= gather[") == 1
  shapes = {name: cut.shape for name, cut in zip(
    sorted(net.readers), program.out_avals
  )}  # fmt: skip
  assert shapes["blocks.7.attn.q_in"] == (1, 1, 12, 1 + 7 * 13)


@pytest.mark.slow
def test_a_planted_function_of_edges_is_recovered():
  """Through two live heads alone: twelve of 75 edges can matter."""
  net, params, _ = _net()
  live = {(0, 1), (1, 2)}
  params = jax.tree.map(np.array, params)
  for block in range(2):
    own = params[f"blocks_{block}"]
    for head in range(net.config.num_heads):
      own["attn"]["out"]["kernel"][head] *= 3 * ((block, head) in live)
    own["mlp"]["down"]["kernel"] *= 0
    own["mlp"]["down"]["bias"] *= 0
  everyone = edges.chosen(net, ("* -> *",))
  ends = [(w, r) for w, r in (name.split(" -> ") for name in everyone.names)]
  writers = {"embed", "blocks.0.heads.1", "blocks.1.heads.2"}
  reads = lambda r: (
    r == "final_norm.in"
    or (r.startswith("blocks.0.attn") and r.endswith(" 1"))
    or (r.startswith("blocks.1.attn") and r.endswith(" 2"))
  )
  matter = [i for i, (w, r) in enumerate(ends) if w in writers and reads(r)]
  assert len(matter) == 12
  value_fn = components.evaluator(
    net, everyone, {"input_ids": _IDS}, readouts.logit(6), params=params,
    batch_size=256, devices=jax.devices()[:1],
  )  # fmt: skip
  found = spex.explain(
    value_fn, everyone.n, budget=1000, method="gram", key=jax.random.key(0)
  )
  supports = np.asarray(found.fourier.supports)
  strong = np.abs(np.asarray(found.fourier.coefs)) > 1e-2
  assert found.faithfulness > 0.98
  others = np.setdiff1d(np.arange(everyone.n), matter)
  assert not supports[strong][:, others].any()
  # The path through the first head: both of its edges, together.
  path = ("embed -> blocks.0.attn.v_in 1", "blocks.0.heads.1 -> final_norm.in")
  pair = np.isin(everyone.names, path)
  assert (supports[strong] == pair).all(axis=1).any()


@pytest.mark.parametrize(
  "run, message",
  [
    (lambda net: edges.chosen(net, ("embed",)), "'embed' names no edge: write"),
    (lambda net: edges.chosen(net, "* -> *"), r"\('\* -> \*',\)"),
    (
      lambda net: edges.chosen(net, ("blocks.1.mlp -> blocks.0.attn.q_in 0",)),
      "a writer comes before its reader",
    ),
    (
      lambda net: edges.grouped(
        net, {"a": ("embed -> *",), "b": ("* -> final_norm.in",)}
      ),
      "Edge embed -> final_norm.in is of 'b' and of 'a'",
    ),
    (
      lambda net: edges.between(
        net, {"a": ("*mlp",), "b": ("blocks.1.*",)}, {"c": ("final*",)}
      ),
      "blocks.1.mlp is in two groups of writers",
    ),
    (
      lambda net: edges.between(
        net, {"a": ("blocks.1.mlp",)}, {"b": ("*0.*",)}
      ),
      "No edge leads from",
    ),
    (
      lambda net: edges.owned(net, ("a",), np.zeros((2, 3))),
      r"Owners of edges must be \[S, W\]",
    ),
    (
      lambda net: edges.owned(net, ("a",), np.zeros(edges.exist(net).shape)),
      "from writers after them",
    ),
    (
      lambda net: edges.chosen(net, ("* -> *",)).edits(np.ones(75)),
      "give `ref`",
    ),
    (
      lambda net: (
        edges.rows(net) and edges.exist(mlp.network(mlp.Config(3, 1)))
      ),
      "No edges here",
    ),
  ],
)
def test_bad_requests(run, message):
  with pytest.raises(ValueError, match=message):
    run(_net()[0])


def test_a_game_of_edges_on_masks_is_its_evaluator():
  net, params, ref = _net()
  players = edges.chosen(net, ("* -> final_norm.in",))
  given = (net, players, {"input_ids": _IDS}, _READ)
  game = components.game(*given, ref=ref, params=params, units="logit")
  assert isinstance(game, base.Game) and game.n == 9 and game.units == "logit"
  masks = np.random.default_rng(2).random((4, 9)) < 0.5
  soft = jax.jit(jax.vmap(game))(masks.astype(np.float32))
  np.testing.assert_allclose(
    evaluate.compiled(game, **_ONE)(masks), soft, rtol=0, atol=1e-5
  )
  with pytest.raises(TypeError, match="A game brings n"):
    evaluate.compiled(game, 9)
  with pytest.raises(TypeError, match="Give n"):
    evaluate.compiled(lambda mask: mask.sum())


def test_edges_into_late_blocks_run_early_ones_once():
  net, params, ref = _net()
  players = edges.chosen(net, ("* -> blocks.1.attn.q_in 2", "* -> final*"))
  assert components.first_block(net, players) == 1
  game = components.game(
    net, players, {"input_ids": _IDS}, _READ, ref=ref, params=params
  )
  strengths = np.random.default_rng(3).random(players.n).astype(np.float32)
  whole = lambda strengths, shared: net.apply(
    shared["params"], players.edits(strengths, ref=ref), input_ids=_IDS
  ).logits[0, -1, jnp.array([1, 6])]
  enter = lambda shared: [
    net.enter(shared["params"], number, input_ids=_IDS) for number in (0, 1)
  ]
  state = jax.jit(game.given)(game.shared)
  tail = jax.jit(game.value).lower(strengths, state).compile()
  every = jax.jit(whole).lower(strengths, game.shared).compile()
  np.testing.assert_allclose(
    tail(strengths, state), every(strengths, game.shared), rtol=0, atol=2e-5
  )
  flops = lambda run: run.cost_analysis()["flops"]
  of = lambda f: flops(jax.jit(f).lower(game.shared).compile())
  # The first block is in the head, with what each head writes, and no other.
  block = of(enter)
  assert flops(tail) < flops(every) - 0.9 * block
  assert block <= of(game.head) < 1.2 * block
