"""Groups, patterns, rescaling and stand-ins of parts, on small networks."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from spex_jax.ablate import components, readouts, stand_ins
from spex_jax.models import convnet, llama, mlp
from tests.models import checkpoints

_IDS = {"input_ids": np.array([[3, 1, 4, 1, 5], [9, 2, 6, 5, 3]])}
_ONE = {"batch_size": 8, "devices": jax.devices()[:1]}


@functools.cache
def _llama():
  net = llama.network(llama.config_from_hub(checkpoints.LLAMA))
  params = checkpoints.random_params(net)
  return net, params, components.shapes(net, params, **_IDS)


@functools.cache
def _mlp():
  net = mlp.network(mlp.Config(3, 2, widths=(4,)))
  params = checkpoints.random_params(net)
  x = np.random.default_rng(0).normal(size=(6, 3)).astype(np.float32)
  return net, params, {"features": x}


@functools.cache
def _filters():
  small = convnet.small(3, width=2)
  pixels = np.random.default_rng(1).random((3, 1, 6, 6)).astype(np.float32)
  params = jax.jit(small.init)(jax.random.key(0))
  settle = jax.jit(small.settle)
  state = settle(params, {"x": jnp.asarray(pixels)}, jnp.ones(3))
  state = jax.tree.map(np.asarray, state)
  return small, convnet.network(small, 6, state), {"pixel_values": pixels}


def test_filters_gated_before_norm_and_bias_are_zeroed_weights_to_the_bit():
  small, net, inputs = _filters()
  players = components.filters(components.shapes(net, net.params, **inputs))
  run = jax.jit(
    lambda mask, params: net.apply(params, players.edits(mask), **inputs).logits
  )
  everyone = np.ones(6, bool)
  plain = run(everyone, net.params)
  logits = jax.jit(small.logits)(net.params, inputs["pixel_values"])
  np.testing.assert_allclose(plain, logits, rtol=0, atol=1e-5)
  for mask in np.random.default_rng(0).random((6, 6)) < 0.6:
    cut = jax.tree.map(np.array, net.params)
    cut["params"]["layers"][0]["kernel"][~mask[:2]] = 0
    cut["params"]["layers"][1]["kernel"][~mask[2:]] = 0
    np.testing.assert_array_equal(run(mask, net.params), run(everyone, cut))
  assert np.isfinite(run(np.zeros(6, bool), net.params)).all()


def test_heads_and_neurons_are_zeroed_weights_to_the_bit():
  net, params, at = _llama()
  parts = components.chosen(at, ("*attn.z", "*mlp.neurons"))
  assert parts.n == 2 * (4 + 10)
  run = jax.jit(
    lambda mask, params: net.apply(params, parts.edits(mask), **_IDS).logits
  )
  everyone = np.ones(parts.n, bool)
  for mask in np.random.default_rng(0).random((4, parts.n)) < 0.7:
    cut = jax.tree.map(np.array, params)
    for number, own in enumerate(mask.reshape(2, 14)):
      block = cut[f"blocks_{number}"]
      block["attn"]["out"]["kernel"][~own[:4]] = 0
      block["mlp"]["down"]["kernel"][~own[4:]] = 0
    np.testing.assert_array_equal(run(mask, params), run(everyone, cut))


def test_a_key_value_group_is_its_zeroed_values():
  net, params, at = _llama()
  groups = components.kv_groups(at)
  assert groups.names == (
    "blocks.0.attn kv 0",
    "blocks.0.attn kv 1",
    "blocks.1.attn kv 0",
    "blocks.1.attn kv 1",
  )
  values = components.units(at, ("*attn.v",), 2)
  run = lambda players: jax.jit(
    lambda mask: net.apply(params, players.edits(mask), **_IDS).logits
  )
  by_group, by_value = run(groups), run(values)
  for mask in np.array([[1, 0, 1, 1], [0, 0, 1, 0], [0, 0, 0, 0]], bool):
    np.testing.assert_allclose(
      by_group(mask), by_value(mask), rtol=0, atol=1e-6
    )
  lacking = {site: at[site] for site in at if not site.endswith(".v")}
  with pytest.raises(ValueError, match="the shape of blocks.0.attn.v, too"):
    components.kv_groups(lacking)


def test_parts_chosen_by_patterns():
  *_, at = _llama()
  found = components.chosen(
    at, ("blocks.1.mlp.neurons", "blocks.0.attn.z", "final_norm")
  )
  assert found.names == (
    *(f"blocks.0.attn {i}" for i in range(4)),
    *(f"blocks.1.mlp {i}" for i in range(10)),
    "final_norm",
  )
  whole = components.chosen(at, ("*mlp.neurons",), whole=True)
  assert whole.names == ("blocks.0.mlp.neurons", "blocks.1.mlp.neurons")
  with pytest.raises(ValueError, match="'blocks.7.attn.z' names no site. Did"):
    components.chosen(at, ("blocks.7.attn.z",))
  with pytest.raises(ValueError, match="Did you mean blocks.1.mlp.neurons"):
    components.units(at, ("blocks.1.mlp.neuron",), -1)
  with pytest.raises(ValueError, match=r"patterns takes patterns; write \('"):
    components.chosen(at, "*attn.z")
  assert set(components.KINDS) == {
    "heads", "kv_groups", "neurons", "filters", "blocks", "experts",
  }  # fmt: skip
  assert components.KINDS["kv_groups"](at).n == 4


def test_rescaled_layers():
  *_, at = _llama()
  heads = components.heads(at)
  mask = np.array([1, 0, 1, 0, 0, 0, 0, 0], bool)
  scale = heads.edits(mask, rescale=True).scale
  np.testing.assert_array_equal(
    scale["blocks.0.attn.z"].reshape(-1), [2, 0, 2, 0]
  )
  np.testing.assert_array_equal(scale["blocks.1.attn.z"].reshape(-1), [0] * 4)
  full = heads.edits(np.ones(8, bool), rescale=True).scale
  assert all((np.asarray(x) == 1).all() for x in full.values())
  # A head that nobody owns is kept, and counts.
  one = heads.grouped({"a": ["blocks.0.attn 0"]})
  np.testing.assert_allclose(
    one.edits(np.zeros(1, bool), rescale=True)
    .scale["blocks.0.attn.z"]
    .reshape(-1),
    [0, *[4 / 3] * 3],
  )
  absent = {site: np.zeros((1, 1, 1, 1)) for site in heads.owner}
  with pytest.raises(ValueError, match="rescale=True makes up for"):
    heads.edits(mask, absent, rescale=True)


def test_strengths_between_kept_and_absent():
  net, params, inputs = _mlp()
  players = components.neurons(components.shapes(net, params, **inputs))
  x = inputs["features"]
  absent = {"layers.0.neurons": np.full((1, 4), 0.7, np.float32)}
  w = jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), params)
  hidden = np.maximum(x @ w["layers_0"]["kernel"] + w["layers_0"]["bias"], 0)
  head = lambda h: h @ w["head"]["kernel"] + w["head"]["bias"]
  run = lambda owners, amounts, absent: (
    net.apply(
      params, owners.edits(amounts.reshape(-1), absent), **inputs
    ).logits
  )
  rows = np.random.default_rng(2).random((6, 4)).astype(np.float32)
  apart = players.apart(6)
  assert apart.names[5] == f"{players.names[1]} [1]"
  for owners, amounts in ((apart, rows), (players, rows[0])):
    np.testing.assert_allclose(
      run(owners, amounts, None), head(amounts * hidden), rtol=0, atol=1e-5
    )
    mixed = amounts * hidden + (1 - amounts) * 0.7
    np.testing.assert_allclose(
      run(owners, amounts, absent), head(mixed), rtol=0, atol=1e-5
    )
  with pytest.raises(ValueError, match=r"strengths \[24\]; got \(6, 4\)"):
    apart.edits(rows)
  with pytest.raises(ValueError, match="has owners of 6 examples"):
    apart.apart(4)


def test_several_targets_of_several_examples_are_served_together():
  net, params, inputs = _mlp()
  players = components.neurons(components.shapes(net, params, **inputs))
  value_fn = components.evaluator(
    net, players, inputs, readouts.logit([1, 0]), params=params, **_ONE
  )
  masks = np.random.default_rng(3).random((5, 4)) < 0.5
  values = value_fn(masks)
  assert values.shape == (5, 12)
  for mask, found in zip(masks, values):
    logits = net.apply(params, players.edits(mask), **inputs).logits
    np.testing.assert_allclose(
      found.reshape(6, 2), logits[:, ::-1], rtol=0, atol=1e-6
    )


def test_values_are_averaged_over_draws_of_other_inputs():
  net, params, inputs = _mlp()
  players = components.neurons(components.shapes(net, params, **inputs))
  captured = net.apply(params, capture=("*neurons",), **inputs).activations
  draws = stand_ins.resampled(jax.random.key(0), captured, 3)
  read = readouts.logit(1)
  build = lambda absent: components.evaluator(
    net, players, inputs, read, params=params, absent=absent, **_ONE
  )
  masks = np.array([[1, 0, 1, 0], [0, 0, 0, 0], [1, 1, 1, 1]], bool)
  each = [
    build({site: x[r] for site, x in draws.items()})(masks) for r in range(3)
  ]
  np.testing.assert_allclose(
    build(draws)(masks), np.mean(each, axis=0), rtol=0, atol=1e-5
  )
  assert np.ptp([part[1] for part in each], axis=0).max() > 5e-4
  # The same draws, where nothing but them is run.
  again = stand_ins.resampled_of(
    jax.random.key(0), net, ("layers.0.neurons",), inputs, 3, params=params
  )
  np.testing.assert_allclose(
    again["layers.0.neurons"], draws["layers.0.neurons"], rtol=0, atol=1e-6
  )
  with pytest.raises(ValueError, match="1 <= num_draws <= B"):
    stand_ins.resampled_of(jax.random.key(0), net, (), inputs, 7, params=params)


def test_the_mean_over_a_data_set_comes_in_batches():
  net, params, inputs = _mlp()
  captured = net.apply(params, capture=("*neurons",), **inputs).activations
  weights = np.array([1.0, 2.0, 0.0, 1.0, 1.0, 0.5])
  for w in (None, weights):
    expected = stand_ins.mean(captured, (0,), w)["layers.0.neurons"]
    for size in (4, 6, 100):
      found = stand_ins.mean_of(
        net, ("layers.0.neurons",), inputs, (0,), params=params, weights=w,
        batch_size=size,
      )  # fmt: skip
      np.testing.assert_allclose(
        found["layers.0.neurons"], expected, rtol=0, atol=1e-6
      )
  ask = lambda axes, **more: stand_ins.mean_of(
    net, ("layers.0.neurons",), inputs, axes, **{"params": params} | more
  )
  with pytest.raises(ValueError, match="needs one, and axis 0"):
    ask((1,))
  with pytest.raises(ValueError, match=r"axes 0..1; got axes=\(0, 2\)"):
    ask((0, 2))
  with pytest.raises(ValueError, match="must not be all zero"):
    ask((0,), weights=np.zeros(6))
  with pytest.raises(ValueError, match="no parameters"):
    ask((0,), params=None)
  broken = jax.tree.map(lambda leaf: leaf * np.nan, params)
  for call in (
    lambda: ask((0,), params=broken),
    lambda: stand_ins.mean({"layers.0.neurons": np.array([[np.inf]])}, (0,)),
    lambda: stand_ins.resampled_of(
      jax.random.key(0), net, ("layers.0.neurons",), inputs, 2, params=broken
    ),
  ):
    with pytest.raises(ValueError, match="layers.0.neurons gives.*holds NaN"):
      call()


def test_nothing_kept_is_a_value_and_nan_is_none():
  net, params, inputs = _mlp()
  players = components.neurons(components.shapes(net, params, **inputs))
  read = readouts.logit(1)
  build = lambda params: components.evaluator(
    net, players, inputs, read, params=params, **_ONE
  )
  nothing = np.zeros((1, 4), bool)
  bias = float(params["head"]["bias"][1])
  np.testing.assert_allclose(build(params)(nothing)[0], bias, rtol=1e-6)
  broken = jax.tree.map(np.array, params)
  broken["layers_0"]["kernel"][0, 2] = np.nan
  # Zero times NaN is NaN: the neuron's absence does not hide it.
  with pytest.raises(ValueError, match="NaN or infinity for 1 of 1 masks"):
    build(broken)(nothing)


def test_a_convolutional_network_needs_its_statistics():
  _, net, inputs = _filters()
  with pytest.raises(ValueError, match="no statistics of batch norm"):
    net.apply({"params": net.params["params"]}, **inputs)
  with pytest.raises(ValueError, match=r"must be \[B, 1, H, W\]; got \(3, 2"):
    net.apply(net.params, pixel_values=np.zeros((3, 2, 6, 6), np.float32))
  fresh = jax.eval_shape(net.init, jax.random.key(0))
  assert jax.tree.structure(fresh) == jax.tree.structure(net.params)
  plain = convnet.ConvNet(2, 1, (convnet.Conv(3),), norm="none")
  bare = convnet.network(plain, 6)
  assert bare.sites == ("layers.0.conv", "layers.0.out", "pooled", "logits")
  at = components.shapes(
    bare, jax.eval_shape(bare.init, jax.random.key(0)), **inputs
  )
  assert at["layers.0.out"] == (3, 3, 6, 6) and at["logits"] == (3, 2)
