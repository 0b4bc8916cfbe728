"""Tiny networks of every family, with parameters and inputs."""

import functools

import jax
import jax.numpy as jnp
import numpy as np

from spex_jax.ablate import components
from spex_jax.models import convnet, mlp, resnet, t5, transformer, vit
from tests.models import checkpoints


def _pixels(channels, side):
  rng = np.random.default_rng(1)
  shape = (2, channels, side, side)
  return {"pixel_values": rng.normal(size=shape).astype(np.float32)}


def _ids(name="input_ids", length=5):
  return {name: np.random.default_rng(2).integers(0, 11, (2, length))}


def _convnet():
  net = convnet.network(convnet.small(3, width=3))
  params = jax.tree.map(np.array, net.init(jax.random.key(0)))
  # Statistics that are not those of nothing.
  rng = np.random.default_rng(3)
  params["moments"] = [
    (rng.normal(size=w).astype(np.float32), np.float32(0.5) + rng.random(w))
    for w in (3, 6)
  ]
  params = jax.tree.map(lambda leaf: np.asarray(leaf, np.float32), params)
  return net, params, _pixels(1, 6)


def _resnet():
  net = resnet.network(
    resnet.Config(
      num_labels=3,
      embedding_size=4,
      hidden_sizes=(4, 6),
      depths=(1, 1),
      layer_type="basic",
    )
  )
  return net, checkpoints.random_params(net), _pixels(3, 16)


def _vit():
  config = vit.Config(
    width=8, num_blocks=1, num_heads=2, num_kv_heads=2, head_width=4,
    num_neurons=10, image_size=4, patch_size=2, num_channels=1, num_labels=3,
    layer_scale=True,
  )  # fmt: skip
  net = vit.network(config)
  return net, checkpoints.random_params(net), _pixels(1, 4)


def _gpt2():
  """Of a checkpoint, by `models.load`."""
  net = checkpoints.compiled(checkpoints.GPT2)[0].net
  return net, net.params, _ids()


def _gemma():
  """Grouped queries, a gate, no biases, norms behind what is added."""
  config = transformer.Config(
    width=8, num_blocks=1, num_heads=4, num_kv_heads=2, head_width=4,
    num_neurons=6, order="sandwich", norm="rms_one", gated=True,
    qkv_bias=False, out_bias=False, mlp_bias=False, qk_norm="each",
    vocab_size=11, max_positions=8,
  )  # fmt: skip
  net = transformer.network(config)
  return net, checkpoints.random_params(net), _ids()


def _experts():
  """A block of an MLP, and one of experts."""
  net = checkpoints.compiled(checkpoints.QWEN3_MOE)[0].net
  return net, net.params, _ids()


def _t5():
  config = t5.config(
    vocab_size=11, width=6, num_heads=2, head_width=4, num_neurons=7,
    num_blocks=1, num_decoder_blocks=1, num_buckets=8, max_distance=10,
  )  # fmt: skip
  net = t5.network(config)
  inputs = _ids() | _ids("decoder_input_ids", 3)
  return net, checkpoints.random_params(net), inputs


def _mlp():
  net = mlp.network(mlp.Config(4, 3, (5, 6)))
  rng = np.random.default_rng(4)
  inputs = {"features": rng.normal(size=(7, 4)).astype(np.float32)}
  return net, checkpoints.random_params(net), inputs


FAMILIES = {
  "convnet": _convnet,
  "resnet": _resnet,
  "vit": _vit,
  "gpt2": _gpt2,
  "gemma": _gemma,
  "experts": _experts,
  "t5": _t5,
  "mlp": _mlp,
}


@functools.cache
def model(name):
  """The network, its parameters and inputs, and shapes of activations."""
  net, params, inputs = FAMILIES[name]()
  params = jax.tree.map(jnp.asarray, params)
  return net, params, inputs, components.shapes(net, params, **inputs)


@functools.cache
def forward(name):
  """Logits of parameters and edits, compiled."""
  net, _, inputs, _ = model(name)
  return jax.jit(
    lambda params, edits=None: net.apply(params, edits, **inputs).logits
  )


def same(one, other):
  """Whether two trees hold the same bits, in the same dtypes."""
  leaves = jax.tree.leaves(one), jax.tree.leaves(other)
  assert jax.tree.structure(one) == jax.tree.structure(other)
  return all(
    a.dtype == b.dtype and np.asarray(a).tobytes() == np.asarray(b).tobytes()
    for a, b in zip(*leaves)
  )


def kinds(name):
  """Players of every kind of site that weights of this family stand for."""
  at = model(name)[3]
  found = []
  if name in ("convnet", "resnet"):
    found.append(components.filters(at))
    if name == "resnet":
      found.append(components.units(at, ("*shortcut",), 1))
  elif name == "mlp":
    found.append(components.neurons(at))
    found.append(components.units(at, ("layers.1.pre",), 1))
  else:
    found += [components.heads(at), components.neurons(at)]
    found.append(components.units(at, ("*mlp.pre",), 2))
    found += [components.units(at, (f"*attn.{x}",), 2) for x in "qkv"]
    found.append(components.units(at, ("*attn.out",), 2))
    found.append(components.blocks(at))
    if name == "experts":
      found.append(components.units(at, ("*mlp.gates",), 2))
      found.append(components.units(at, ("*mlp.experts.neurons",), 2))
  return found
