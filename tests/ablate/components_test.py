"""Components as players, against networks whose weights were zeroed by hand."""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from spex_jax.ablate import components, evaluate, parts, stand_ins
from spex_jax.models import mlp, sites

_B, _P, _D, _H, _F, _L = 3, 5, 12, 3, 7, 2


class _Decoder(nn.Module):
  """Two pre-norm blocks with the sites of a transformer, and a convolution."""

  def setup(self):
    dense = lambda size: nn.Dense(size, use_bias=False)
    self.qkv = [dense(3 * _D) for _ in range(_L)]
    self.project = [dense(_D) for _ in range(_L)]
    self.up = [dense(_F) for _ in range(_L)]
    self.down = [dense(_D) for _ in range(_L)]
    self.head = dense(4)

  def __call__(self, tap, x):
    hidden = []
    for i in range(_L):
      name = f"blocks.{i}"
      q, k, v = jnp.split(self.qkv[i](x), 3, axis=-1)
      q, k, v = (a.reshape(*a.shape[:2], _H, -1) for a in (q, k, v))
      pattern = jax.nn.softmax(jnp.einsum("bqhd,bkhd->bhqk", q, k))
      z = tap(f"{name}.attn.z", jnp.einsum("bhqk,bkhd->bqhd", pattern, v))
      out = self.project[i](z.reshape(x.shape))
      x = x + tap(f"{name}.attn.out", out)
      neurons = tap(f"{name}.mlp.neurons", nn.relu(self.up[i](x)))
      x = x + tap(f"{name}.mlp.out", self.down[i](neurons))
      hidden.append(x)
    return tap("logits", self.head(x[:, -1])), tuple(hidden)


class _Convolutions(nn.Module):
  def setup(self):
    self.conv = [nn.Conv(size, (3, 3), use_bias=False) for size in (4, 6)]
    self.bias = [
      self.param(f"bias{i}", nn.initializers.normal(1.0), (size,))
      for i, size in enumerate((4, 6))
    ]
    self.head = nn.Dense(2)

  def __call__(self, tap, pixel_values):
    x = pixel_values
    for i, conv in enumerate(self.conv):
      x = jnp.moveaxis(conv(jnp.moveaxis(x, 1, -1)), -1, 1)
      x = tap(f"stages.0.blocks.{i}.conv1", x)
      x = nn.relu(x + self.bias[i].reshape(1, -1, 1, 1))
    return tap("logits", self.head(x.mean(axis=(2, 3)))), ()


@functools.cache
def _decoder():
  names = []
  for i in range(_L):
    names += [
      f"blocks.{i}.{site}"
      for site in ("attn.z", "attn.out", "mlp.neurons", "mlp.out")
    ]
  spec = jax.ShapeDtypeStruct((1, _P, _D), jnp.float32)
  net = sites.Network(
    _Decoder(), None, (*names, "logits"), {"x": spec}, no_edges="none here"
  )
  params = jax.jit(net.init)(jax.random.key(0))
  inputs = {"x": np.random.default_rng(0).normal(size=(_B, _P, _D))}
  inputs = {"x": inputs["x"].astype(np.float32)}
  return net, params, inputs


@functools.cache
def _convolutions():
  names = ("stages.0.blocks.0.conv1", "stages.0.blocks.1.conv1", "logits")
  spec = jax.ShapeDtypeStruct((1, 3, 6, 6), jnp.float32)
  net = sites.Network(
    _Convolutions(), None, names, {"pixel_values": spec}, no_edges="none here"
  )
  rng = np.random.default_rng(1)
  pixels = rng.normal(size=(2, 3, 6, 6)).astype(np.float32)
  return net, jax.jit(net.init)(jax.random.key(1)), {"pixel_values": pixels}


def _masks(n, count=6):
  masks = np.random.default_rng(n).random((count, n)) < 0.6
  masks[0], masks[1] = True, False
  return masks


def _without(params, change):
  """A copy of the parameters, changed in place by `change`."""
  copy = jax.tree.map(np.array, params)
  change(copy)
  return copy


def _zero_heads(params, mask):
  for i in range(_L):
    kernel = params[f"project_{i}"]["kernel"].reshape(_H, -1, _D)
    kernel[~mask[i * _H : (i + 1) * _H]] = 0


def _zero_neurons(params, mask):
  for i in range(_L):
    params[f"down_{i}"]["kernel"][~mask[i * _F : (i + 1) * _F]] = 0


def _zero_blocks(params, mask):
  for i in range(_L):
    if not mask[i]:
      params[f"project_{i}"]["kernel"][:] = 0
      params[f"down_{i}"]["kernel"][:] = 0


def _zero_filters(params, mask):
  params["conv_0"]["kernel"][..., ~mask[:4]] = 0
  params["conv_1"]["kernel"][..., ~mask[4:]] = 0


@pytest.mark.slow
@pytest.mark.parametrize(
  ("make", "players_of", "zero", "n", "name"),
  [
    (_decoder, components.heads, _zero_heads, _L * _H, "blocks.1.attn 2"),
    (_decoder, components.neurons, _zero_neurons, _L * _F, "blocks.1.mlp 6"),
    (_decoder, components.blocks, _zero_blocks, _L, "blocks.1"),
    (
      _convolutions,
      components.filters,
      _zero_filters,
      10,
      "stages.0.blocks.1.conv1 5",
    ),
  ],
)
def test_absent_is_zero_weights(make, players_of, zero, n, name):
  net, params, inputs = make()
  players = players_of(components.shapes(net, params, **inputs))
  assert players.n == n
  assert players.names[-1] == name
  logits = jax.jit(
    lambda mask: net.apply(params, players.edits(mask), **inputs).logits
  )
  run = jax.jit(lambda params: net.apply(params, **inputs).logits)
  plain = run(params)
  for mask in _masks(n):
    cut = _without(params, lambda p, mask=mask: zero(p, mask))
    expected = run(cut)
    # The same sums with zeros in other places: some 30 roundings each.
    atol = 100 * np.finfo(np.float32).eps * np.abs(plain).max()
    np.testing.assert_allclose(logits(mask), expected, rtol=0, atol=atol)


@pytest.mark.slow
def test_neurons_of_an_mlp():
  net = mlp.network(mlp.Config(num_features=4, num_outputs=2, widths=(3, 5)))
  params = net.init(jax.random.key(0))
  features = np.random.default_rng(0).normal(size=(6, 4)).astype(np.float32)
  players = components.neurons(
    components.shapes(net, params, features=features)
  )
  assert players.names[:4] == (
    "layers.0 0",
    "layers.0 1",
    "layers.0 2",
    "layers.1 0",
  )

  def value(mask, params):
    out = net.apply(params, players.edits(mask), features=features)
    return out.logits.mean(axis=0)

  masks = _masks(8, 20)
  values = evaluate.compiled(value, 8, batch_size=8, shared=params)(masks)
  w = jax.tree.map(lambda x: np.asarray(x, np.float64), params)
  dense = lambda x, layer: x @ layer["kernel"] + layer["bias"]
  for mask, found in zip(masks, values):
    x = np.maximum(dense(features, w["layers_0"]), 0) * mask[:3]
    x = np.maximum(dense(x, w["layers_1"]), 0) * mask[3:]
    expected = dense(x, w["head"]).mean(axis=0)
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-5)


@pytest.mark.slow
def test_absent_is_a_mean():
  net, params, inputs = _decoder()
  players = components.heads(components.shapes(net, params, **inputs))
  weights = np.float32([[1, 1, 1, 1, 1], [1, 1, 1, 0, 0], [1, 0, 0, 0, 0]])
  captured = net.apply(params, capture=("*attn.z",), **inputs).activations
  absent = stand_ins.mean(captured, (0, 1), weights)
  for site, found in absent.items():
    z = np.asarray(captured[site], np.float64)
    rows = np.concatenate([z[0], z[1, :3], z[2, :1]])
    np.testing.assert_allclose(found[0, 0], rows.mean(axis=0), atol=1e-6)
  mask = np.array([1, 1, 0, 1, 1, 1], bool)
  out = net.apply(
    params, players.edits(mask, absent), capture=("*attn.z",), **inputs
  )
  z = np.array(captured["blocks.0.attn.z"])
  z[:, :, 2] = absent["blocks.0.attn.z"][0, 0, 2]
  np.testing.assert_array_equal(out.activations["blocks.0.attn.z"], z)
  # By position, and without weights.
  apart = stand_ins.mean(captured, (0,))["blocks.1.attn.z"]
  np.testing.assert_allclose(
    apart[0], np.mean(captured["blocks.1.attn.z"], axis=0), atol=1e-6
  )


@pytest.mark.slow
def test_absent_is_resampled():
  net, params, inputs = _decoder()
  players = components.blocks(components.shapes(net, params, **inputs))
  captured = net.apply(params, capture=("*.out",), **inputs).activations
  draws = stand_ins.resampled(jax.random.key(3), captured, 3)
  one = {"x": inputs["x"][:1]}

  def logits(absent):
    edits = players.edits(np.zeros(_L, bool), absent)
    return net.apply(params, edits, **one).logits[0]

  values = jax.vmap(logits)(draws)
  # With both blocks taken from input b, only the embedding is the first's.
  everything = sum(np.asarray(x)[:, -1] for x in captured.values())
  expected = (inputs["x"][0, -1] + everything) @ np.asarray(
    params["head"]["kernel"]
  )
  order = np.lexsort(np.asarray(values).T), np.lexsort(expected.T)
  np.testing.assert_allclose(
    np.asarray(values)[order[0]], expected[order[1]], rtol=0, atol=1e-5
  )


def test_masks_are_traced_and_batched():
  net, params, inputs = _decoder()
  players = components.heads(components.shapes(net, params, **inputs))
  one = jax.jit(
    lambda mask: net.apply(params, players.edits(mask), **inputs).logits
  )
  masks = _masks(players.n)
  batched = jax.jit(jax.vmap(one))(masks)
  for mask, found in zip(masks, batched):
    np.testing.assert_allclose(found, one(mask), rtol=0, atol=1e-5)


def test_coarser_players():
  net, params, inputs = _decoder()
  fine = components.heads(components.shapes(net, params, **inputs))
  layers = fine.grouped(
    {
      "first": [f"blocks.0.attn {i}" for i in range(_H)],
      "some": ["blocks.1.attn 1"],
    }
  )
  assert layers.names == ("first", "some")
  for mask in ([0, 1], [1, 0], [0, 0]):
    same = np.array([mask[0]] * 3 + [1, mask[1], 1], bool)
    np.testing.assert_array_equal(
      net.apply(params, layers.edits(np.array(mask, bool)), **inputs).logits,
      net.apply(params, fine.edits(same), **inputs).logits,
    )
  # A site where nobody is left is not edited.
  assert fine.grouped({"a": ["blocks.1.attn 0"]}).owner.keys() == {
    "blocks.1.attn.z"
  }
  with pytest.raises(ValueError, match="'a' names no player 'x'"):
    fine.grouped({"a": ["x"]})
  with pytest.raises(ValueError, match="'blocks.0.attn 0' is in two groups"):
    fine.grouped({"a": ["blocks.0.attn 0"], "b": ["blocks.0.attn 0"]})


def test_units_of_any_site():
  net, params, inputs = _decoder()
  at = components.shapes(net, params, **inputs)
  assert at["blocks.0.attn.z"] == (_B, _P, _H, _D // _H)
  positions = components.units(at, ("blocks.0.attn.out",), 1)
  assert positions.names[-1] == "blocks.0.attn.out 4"
  out = net.apply(
    params,
    positions.edits(np.arange(_P) != 2),
    capture=("blocks.0.attn.out",),
    **inputs,
  ).activations["blocks.0.attn.out"]
  assert not out[:, 2].any() and out[:, [0, 1, 3, 4]].all()
  with pytest.raises(ValueError, match="names no site"):
    components.units(at, ("blocks.7.attn.out",), 1)
  for axis in (0, 3, -3):
    with pytest.raises(ValueError, match=f"no axis {axis} of units"):
      components.units(at, ("blocks.0.attn.out",), axis)


def test_bad_requests_name_the_offender():
  net, params, inputs = _convolutions()
  at = components.shapes(net, params, **inputs)
  for players_of, what in (
    (components.heads, "attention heads"),
    (components.neurons, "MLP neurons"),
    (components.blocks, "blocks"),
  ):
    with pytest.raises(ValueError, match=f"No {what} here"):
      players_of(at)
  players = components.filters(at)
  with pytest.raises(ValueError, match=r"strengths \[10\]; got \(9,\)"):
    players.edits(np.ones(9, bool))
  with pytest.raises(ValueError, match="lacks activations of .*blocks.1.conv1"):
    players.edits(np.ones(10, bool), {"stages.0.blocks.0.conv1": np.ones(1)})
  short = {site: np.ones((4, 1, 1)) for site in players.owner}
  with pytest.raises(ValueError, match=r"conv1 has shape \(4, 1, 1\).*4 axes"):
    players.edits(np.ones(10, bool), short)
  x = {"a": np.ones((2, 3, 4))}
  with pytest.raises(ValueError, match=r"a has axes 0..2; got axes=\(3,\)"):
    stand_ins.mean(x, (3,))
  with pytest.raises(ValueError, match=r"Weights \(2, 4\) must be of"):
    stand_ins.mean(x, (0,), np.ones((2, 4)))
  with pytest.raises(ValueError, match="not be all zero"):
    stand_ins.mean(x, (0,), np.zeros(2))
  for draws in (0, 3):
    with pytest.raises(ValueError, match="1 <= num_draws <= B"):
      stand_ins.resampled(jax.random.key(0), x, draws)
  owner = np.zeros((1, 2), np.int32)
  with pytest.raises(ValueError, match="own nothing: b"):
    parts.Players(("a", "b"), {"s": owner})
  with pytest.raises(ValueError, match="distinct"):
    parts.Players(("a", "a"), {"s": owner})
  with pytest.raises(ValueError, match=r"lie in 0..1; got \[0, 2\]"):
    parts.Players(("a",), {"s": owner, "t": owner + 2})
  with pytest.raises(TypeError, match="s has float32"):
    parts.Players(("a",), {"s": owner.astype(np.float32)})
