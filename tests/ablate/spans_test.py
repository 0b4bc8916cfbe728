"""Spans of positions: parts at named places, against edits made by hand."""

import functools

import jax
import numpy as np
import pytest

from spex_jax.ablate import components, edges, parts, readouts, spans
from spex_jax.models import gpt2, sites
from tests.models import checkpoints

_IDS = {"input_ids": np.array([[3, 1, 4, 1, 5], [2, 7, 1, 8, 0]])}
_ONE = {"batch_size": 4, "devices": jax.devices()[:1]}
# The second prompt is shorter, and has its subject elsewhere.
_WHERE = spans.named({"subject": [[1, 2], [0]], "verb": [[4], [2, 3]]}, 5)
_READ = readouts.logit(6, position=4)


@functools.cache
def _net():
  net = gpt2.network(gpt2.config_from_hub(checkpoints.GPT2))
  params = checkpoints.random_params(net)
  at = components.shapes(net, params, **_IDS)
  run = jax.jit(lambda edits: net.apply(params, edits, **_IDS).logits[:, 4, 6])
  return net, params, at, run


def test_a_schema_is_owners():
  np.testing.assert_array_equal(
    _WHERE.owner, [[2, 0, 0, 2, 1], [0, 2, 1, 1, 2]]
  )
  np.testing.assert_array_equal(spans.positions(3).owner, [[0, 1, 2]])
  lacking = spans.named({"a": [[1], []]}, 2)
  np.testing.assert_array_equal(lacking.owner, [[1, 0], [1, 1]])


@pytest.mark.parametrize(
  "schema, error, message",
  [
    ({}, ValueError, r"all of one number of examples; got \[\]"),
    ({"a": [[0]], "b": [[1], [1]]}, ValueError, r"got \[1, 2\]"),
    ({"a": [[], []]}, ValueError, "'a' has no position in any example"),
    ({"a": [[0], [5]]}, ValueError, "'a' of example 1 has position 5; pos"),
    ({"a": [[0]], "b": [[1, 0]]}, ValueError, "'a' and 'b' of example 0 overl"),
    ({"a": [[0.5]]}, TypeError, "A position of 'a' must be an integer"),
  ],
)
def test_bad_schemas(schema, error, message):
  with pytest.raises(error, match=message):
    spans.named(schema, 5)


def test_heads_at_spans_are_zeroed_there():
  net, params, at, run = _net()
  players = spans.each(components.heads(at), _WHERE)
  assert players.names[:2] == ("blocks.0.attn 0 @ subject",
                               "blocks.0.attn 0 @ verb")  # fmt: skip
  value_fn = components.evaluator(
    net, players, _IDS, _READ, params=params, **_ONE
  )
  masks = np.random.default_rng(0).random((3, players.n)) < 0.5
  places = {"subject": [(0, 1), (0, 2), (1, 0)],
            "verb": [(0, 4), (1, 2), (1, 3)]}  # fmt: skip
  for mask, value in zip(masks, value_fn(masks)):
    scale = {
      site: np.ones(at[site][:3] + (1,), np.float32)
      for site in ("blocks.0.attn.z", "blocks.1.attn.z")
    }
    for name, kept in zip(players.names, mask):
      part, span = name.split(" @ ")
      layer, head = part.split(" ")
      for row, position in places[span]:
        scale[f"{layer}.z"][row, position, int(head)] = kept
    expected = run(sites.Edits(scale=scale))
    # Sums of some hundred numbers of size 1, in another order.
    np.testing.assert_allclose(value, expected, rtol=0, atol=2e-5)
  assert np.ptp(value_fn(masks), axis=0).min() > 1e-3


def test_edges_and_layers_at_positions():
  net, params, at, run = _net()
  ref = net.contributions(params, input_ids=_IDS["input_ids"][::-1])
  few = edges.chosen(net, ("blocks.0.* -> final_norm.in",))
  players = spans.each(few, _WHERE)
  mask = np.random.default_rng(1).random(players.n) < 0.5
  cut = np.zeros((2, 5, 1, len(net.writers)), np.float32)
  for name, kept in zip(players.names, mask):
    edge, span = name.split(" @ ")
    there = _WHERE.owner == _WHERE.names.index(span)
    cut[there, 0, net.writers.index(edge.split(" -> ")[0])] = not kept
  np.testing.assert_allclose(
    run(players.edits(mask, ref=ref)),
    run(sites.Edits(cut={"final_norm.in": cut}, ref=ref)),
    rtol=0,
    atol=2e-5,
  )
  layers = spans.each(components.blocks(at), spans.positions(5))
  assert layers.n == 10 and layers.names[6] == "blocks.1 @ 1"
  scale = layers.edits(np.arange(10) != 6).scale["blocks.1.mlp.out"]
  np.testing.assert_array_equal(scale.reshape(-1), [1, 0, 1, 1, 1])


def test_patterns_have_the_positions_of_queries():
  *_, at, _ = _net()
  heads = components.units(at, ("blocks.0.attn.pattern",), 1)
  owner = spans.each(heads, _WHERE).owner["blocks.0.attn.pattern"]
  assert owner.shape == (2, at["blocks.0.attn.z"][2], 5, 1)
  np.testing.assert_array_equal(
    owner[:, 1, :, 0] - 2, np.where(_WHERE.owner < 2, _WHERE.owner, 4)
  )


def test_means_of_spans_stand_in_elsewhere():
  x = np.random.default_rng(2).normal(size=(2, 5, 3)).astype(np.float32)
  to = spans.named({"subject": [[0]], "verb": [[2, 3]]}, 4)
  found = spans.mean({"s": x}, _WHERE, to)["s"]
  subject = np.mean([x[0, 1], x[0, 2], x[1, 0]], axis=0)
  verb = np.mean([x[0, 4], x[1, 2], x[1, 3]], axis=0)
  np.testing.assert_allclose(
    found[0], [subject, 0 * verb, verb, verb], rtol=0, atol=1e-6
  )
  assert spans.mean({"s": x}, _WHERE)["s"].shape == x.shape
  with pytest.raises(ValueError, match="cannot stand for"):
    spans.mean({"s": x}, _WHERE, spans.positions(5))
  with pytest.raises(ValueError, match=r"these spans are of \[B, 5"):
    spans.mean({"s": x[:, :4]}, _WHERE)


def test_players_that_spans_do_not_fit():
  owner = {"s": np.zeros((1, 4, 1), np.int32)}
  with pytest.raises(ValueError, match="spans of 5 positions need them on ax"):
    spans.each(parts.Players(("a",), owner), _WHERE)
  owner = {"s": np.zeros((3, 1, 1), np.int32)}
  with pytest.raises(ValueError, match="owners of 3 examples, spans are of 2"):
    spans.each(parts.Players(("a",), owner), _WHERE)


def test_edits_beneath_those_of_players():
  """Fixed edits at early, shared and late sites, with early layers run once."""
  net, params, at, run = _net()
  late = {site: shape for site, shape in at.items() if "blocks.1" in site}
  heads = components.heads(late)
  rng = np.random.default_rng(3)
  z = (2, 5, *at["blocks.1.attn.z"][2:])
  fixed = sites.Edits(
    replace={"blocks.1.attn.z": (rng.random(z) < 0.3, rng.normal(size=z))},
    scale={"blocks.0.attn.z": np.full((1, 1, 1, 1), 0.5)},
    add={
      "blocks.1.attn.z": rng.normal(size=z),
      "final_norm.in": np.ones((1, 1, 1)),
    },
  )
  absent = {"blocks.1.attn.z": np.full((1, 1, 1, 1), 0.7)}
  value_fn = components.evaluator(
    net, heads, _IDS, _READ, absent=absent, edits=fixed, params=params, **_ONE
  )
  masks = rng.random((3, heads.n)) < 0.5
  for mask, value in zip(masks, value_fn(masks)):
    where, put = fixed.replace["blocks.1.attn.z"]
    gone = ~mask[None, None, :, None]
    add = np.where(gone, 0.7, fixed.add["blocks.1.attn.z"])
    by_hand = sites.Edits(
      replace={"blocks.1.attn.z": (where, put)},
      scale={**fixed.scale, "blocks.1.attn.z": (~gone).astype(np.float32)},
      add={**fixed.add, "blocks.1.attn.z": add},
    )
    np.testing.assert_allclose(value, run(by_hand), rtol=0, atol=2e-5)
  assert value_fn.stats.head_seconds > 0
