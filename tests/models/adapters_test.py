"""Modules that know nothing of taps, behind the face, against plain NumPy."""

import chex
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from spex_jax.models import adapters, sites

_ROWS = np.random.default_rng(0).normal(size=(5, 3)).astype(np.float32)
# Sums of up to 6 products, two layers deep.
_ATOL = 30 * np.finfo(np.float32).eps


class _Layer(nn.Module):
  width: int

  def setup(self):
    self.dense = nn.Dense(self.width)

  def __call__(self, x):
    return nn.tanh(self.before(x))

  def before(self, x):
    return self.dense(x)


class _Linen(nn.Module):
  """Two layers in a list, and a head; sites are nowhere mentioned."""

  def setup(self):
    self.layers = [_Layer(6), _Layer(4)]
    self.head = nn.Dense(2)

  def __call__(self, rows):
    hidden = [rows]
    for layer in self.layers:
      hidden.append(layer(hidden[-1]))
    return self.head(hidden[-1]), tuple(hidden[1:])


class _NnxLayer(nnx.Module):
  def __init__(self, inputs, width, rngs):
    self.dense = nnx.Linear(inputs, width, rngs=rngs)

  def __call__(self, x):
    return nnx.tanh(self.dense(x))


class _NnxModel(nnx.Module):
  def __init__(self, rngs):
    self.layers = nnx.List([_NnxLayer(3, 6, rngs), _NnxLayer(6, 4, rngs)])
    self.head = nnx.Linear(4, 2, rngs=rngs)

  def __call__(self, rows):
    for layer in self.layers:
      rows = layer(rows)
    return self.head(rows)


_SHAPES = {"rows": (1, 3)}
_SITES = ("first.pre", "first", "second", "logits")


def _linen():
  places = {
    "logits": "head",
    "second": "layers_1",
    "first": "layers_0",
    "first.pre": adapters.Part("layers_0", "before"),
  }
  net = adapters.linen(_Linen(), _SHAPES, places)
  variables = net.init(jax.random.key(1))
  p = variables["params"]
  layers = [p[f"layers_{i}"]["dense"] for i in (0, 1)]
  return net, variables, [*layers, p["head"]]


def _nnx():
  places = {
    "first": "layers.0",
    "first.pre": "layers.0.dense",
    "logits": "head",
    "second": "layers.1",
  }
  model = _NnxModel(nnx.Rngs(0))
  net, state = adapters.nnx_module(model, _SHAPES, places)
  layers = [*(layer.dense for layer in model.layers), model.head]
  weights = [{"kernel": x.kernel[...], "bias": x.bias[...]} for x in layers]
  return net, state, weights


_KINDS = {"linen": _linen, "nnx": _nnx}


def _reference(weights, edit=lambda site, x: x):
  w = [{k: np.asarray(v, np.float64) for k, v in p.items()} for p in weights]
  dense = lambda p, x: x @ p["kernel"] + p["bias"]
  x = edit("first.pre", dense(w[0], _ROWS))
  x = edit("first", np.tanh(x))
  x = edit("second", np.tanh(dense(w[1], x)))
  return edit("logits", dense(w[2], x))


@pytest.mark.parametrize("kind", _KINDS)
def test_the_plain_forward_and_the_order_of_sites(kind):
  net, params, weights = _KINDS[kind]()
  assert net.sites == _SITES
  out = jax.jit(lambda p: net.apply(p, rows=_ROWS, capture=("*",)))(params)
  np.testing.assert_allclose(
    out.logits, _reference(weights), rtol=0, atol=_ATOL
  )
  np.testing.assert_array_equal(out.activations["logits"], out.logits)
  np.testing.assert_allclose(
    out.activations["first"],
    np.tanh(out.activations["first.pre"]),
    rtol=0,
    atol=_ATOL,
  )
  if kind == "linen":
    np.testing.assert_array_equal(out.hidden[1], out.activations["second"])


@pytest.mark.parametrize("kind", _KINDS)
@pytest.mark.parametrize("site", _SITES)
def test_edits(kind, site):
  net, params, weights = _KINDS[kind]()
  width = {"first.pre": 6, "first": 6, "second": 4, "logits": 2}[site]
  rng = np.random.default_rng(2)
  where, value = rng.random((5, width)) < 0.5, rng.normal(size=(5, width))
  scale, add = rng.normal(size=(1, width)), rng.normal(size=(5, 1))
  edits = sites.Edits({site: (where, value)}, {site: scale}, {site: add})

  def edit(name, x):
    return np.where(where, value, x) * scale + add if name == site else x

  out = jax.jit(net.apply)(params, edits, rows=_ROWS)
  expected = _reference(weights, edit)
  np.testing.assert_allclose(out.logits, expected, rtol=0, atol=10 * _ATOL)


@pytest.mark.parametrize("kind", _KINDS)
def test_one_trace_serves_every_mask_and_batches(kind):
  net, params, _ = _KINDS[kind]()
  masks = np.random.default_rng(3).random((4, 6)) < 0.5

  def ablated(mask, params):
    edits = sites.Edits(scale={"first": mask[None]})
    return net.apply(params, edits, rows=_ROWS).logits

  chex.clear_trace_counter()
  one = jax.jit(chex.assert_max_traces(ablated, n=1))
  looped = np.stack([one(mask, params) for mask in masks])
  batched = jax.vmap(ablated, (0, None))(jnp.asarray(masks), params)
  np.testing.assert_allclose(batched, looped, rtol=0, atol=_ATOL)


def test_parameters_without_their_collection():
  net, variables, _ = _linen()
  whole = net.apply(variables, rows=_ROWS).logits
  bare = net.apply(variables["params"], rows=_ROWS).logits
  np.testing.assert_array_equal(whole, bare)


def test_an_nnx_module_is_left_as_it_is():
  model = _NnxModel(nnx.Rngs(0))
  before = model(_ROWS)
  net, state = adapters.nnx_module(model, _SHAPES, {"first": "layers.0"})
  edits = sites.Edits(scale={"first": np.zeros((1, 1))})
  assert (
    np.asarray(net.apply(state, edits, rows=_ROWS).logits) != before
  ).any()
  np.testing.assert_array_equal(model(_ROWS), before)
  np.testing.assert_array_equal(net.apply(state, rows=_ROWS).logits, before)
  with pytest.raises(TypeError, match="is made with its parameters"):
    net.init(jax.random.key(0))


class _Twice(nn.Module):
  def setup(self):
    self.layer, self.pair = nn.Dense(3), _Pair()

  def __call__(self, rows):
    return self.layer(self.layer(rows)) + self.pair(rows)[0]


class _Pair(nn.Module):
  @nn.compact
  def __call__(self, x):
    return x, x


class _Words(nn.Module):
  @nn.compact
  def __call__(self, rows):
    return {"logits": nn.Dense(2)(rows)}


@pytest.mark.parametrize(
  "module, places, message",
  [
    (_Linen(), {}, "at least one site"),
    (_Linen(), {"a": "tail"}, r"'a', Part\(path='tail'.*; it has 0"),
    (_Linen(), {"a": "head", "b": "head"}, "'a' and 'b' are both Part"),
    (_Twice(), {"a": "layer"}, "one output in a forward; it has 2"),
    (_Twice(), {"a": "pair"}, "'a' must be one array.*gives a tuple"),
    (_Words(), {"a": "Dense_0"}, "must give logits.*got a dict"),
  ],
)
def test_linen_sites_that_cannot_be(module, places, message):
  with pytest.raises(ValueError, match=message):
    adapters.linen(module, _SHAPES, places)


@pytest.mark.parametrize(
  "place, message",
  [
    ("layers.2", "'layers.2' leads nowhere: a List has no '2'"),
    ("layers.0.tail", "leads nowhere: a _NnxLayer has no 'tail'"),
    ("layers.x", "leads nowhere"),
    ("", "must be the output of a part"),
    (adapters.Part("head", "before"), "by its __call__; got Part"),
  ],
)
def test_nnx_sites_that_cannot_be(place, message):
  with pytest.raises(ValueError, match=message):
    adapters.nnx_module(_NnxModel(nnx.Rngs(0)), _SHAPES, {"a": place})


def test_the_face_refuses_as_that_of_other_networks_does():
  net, params, _ = _linen()
  with pytest.raises(ValueError, match="No such site.*Did you mean second"):
    net.apply(params, sites.Edits(add={"secnd": np.ones((1, 1))}), rows=_ROWS)
  with pytest.raises(ValueError, match="a module of your own"):
    net.apply(params, sites.Edits(ref=np.zeros(1)), rows=_ROWS)
  with pytest.raises(TypeError, match="Inputs must be"):
    net.apply(params, x=_ROWS)
