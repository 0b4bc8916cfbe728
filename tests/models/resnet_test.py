"""ResNets against NumPy in float64, and against recorded outputs."""

import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from spex_jax.models import hub, resnet, sites
from tests.models import checkpoints

_BASIC = resnet.Config(
  num_labels=3,
  embedding_size=4,
  hidden_sizes=(4, 6),
  depths=(1, 2),
  layer_type="basic",
)
_BOTTLENECK = resnet.Config(
  num_labels=3, embedding_size=4, hidden_sizes=(8, 8), depths=(1, 1)
)
_CONFIGS = {
  "basic": _BASIC,
  "bottleneck": _BOTTLENECK,
  "early stride": resnet.Config(
    num_labels=0,
    num_channels=1,
    embedding_size=8,
    hidden_sizes=(8,),
    depths=(1,),
    hidden_act="gelu",
    downsample_in_first_stage=True,
    downsample_in_bottleneck=True,
  ),
}
# Some 15 layers of sums of up to 150 products in float32.
_RTOL = 1e-5


@functools.cache
def _network(config):
  net = resnet.network(config)
  return checkpoints.Compiled(net), checkpoints.random_params(net)


def _setup(config=_BASIC):
  net, params = _network(config)
  rng = np.random.default_rng(1)
  shape = (2, config.num_channels, 19, 24)
  return net, params, rng.normal(size=shape).astype(np.float32)


def _windows(x, size, stride, pad, fill):
  width = [(0, 0), (0, 0), (pad, pad), (pad, pad)]
  x = np.pad(x, width, constant_values=fill)
  view = np.lib.stride_tricks.sliding_window_view(x, (size, size), (2, 3))
  return view[:, :, ::stride, ::stride]


def _filters(p, x, stride):
  kernel = p["kernel"]
  size = kernel.shape[-1]
  x = np.einsum(
    "bchwij,fcij->bfhw", _windows(x, size, stride, size // 2, 0.0), kernel
  )
  norm = {k: v[:, None, None] for k, v in p["norm"].items()}
  x = (x - norm["mean"]) / np.sqrt(norm["var"] + 1e-5)
  return x * norm["scale"] + norm["bias"]


def _act(config, x):
  if config.hidden_act == "relu":
    return np.maximum(x, 0)
  from scipy import special

  return x * special.ndtr(x)


def _reference(config, params, x):
  """The forward pass, written out, in float64."""
  p = jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), params)
  x = _act(config, _filters(p["embedder"], x.astype(np.float64), 2))
  x = _windows(x, 3, 2, 1, -np.inf).max(axis=(-1, -2))
  hidden = [x]
  for stage, depth in enumerate(config.depths):
    for number in range(depth):
      block = p[f"stages_{stage}_{number}"]
      halves = number == 0 and (stage or config.downsample_in_first_stage)
      stride = 2 if halves else 1
      where = 1
      if config.layer_type == "basic" or config.downsample_in_bottleneck:
        where = 0
      last = len([name for name in block if name.startswith("layers")]) - 1
      out = x
      for i in range(last + 1):
        step = stride if i == where else 1
        out = _filters(block[f"layers_{i}"], out, step)
        out = out if i == last else np.maximum(out, 0)
      if "shortcut" in block:
        x = _filters(block["shortcut"], x, stride)
      x = _act(config, out + x)
    hidden.append(x)
  pooled = x.mean(axis=(2, 3))
  if config.num_labels:
    pooled = pooled @ p["head"]["kernel"] + p["head"]["bias"]
  return pooled, hidden


@pytest.mark.parametrize("name", _CONFIGS)
def test_matches_numpy(name):
  net, params, pixels = _setup(_CONFIGS[name])
  out = net.apply(params, pixel_values=pixels)
  logits, hidden = _reference(net.config, params, pixels)
  assert checkpoints.difference(out.logits, logits) < _RTOL
  assert len(out.hidden) == len(hidden)
  for actual, expected in zip(out.hidden, hidden):
    assert checkpoints.difference(actual, expected) < _RTOL


@pytest.mark.parametrize("name", ["resnet_basic", "resnet_bottleneck"])
def test_recorded_outputs(name):
  folder = checkpoints.shared("tiny", name)
  net = hub.load(folder)
  inputs, reference = checkpoints.recorded(folder)
  out = jax.jit(net.apply)(net.params, **inputs)
  assert checkpoints.difference(out.logits, reference["out_logits"]) < 1e-5
  assert len(out.hidden) == 5
  for index, actual in enumerate(out.hidden):
    expected = reference[f"out_hidden_{index}"]
    assert checkpoints.difference(actual, expected) < 1e-5


@pytest.mark.parametrize("name", _CONFIGS)
def test_every_site_is_called_in_order(name):
  net, params, pixels = _setup(_CONFIGS[name])
  tap = sites.Tap(None, frozenset(net.sites))
  jax.eval_shape(
    lambda: net.module.apply({"params": params}, tap, pixel_values=pixels)
  )
  assert tuple(tap.activations) == net.sites
  out = net.apply(params, pixel_values=pixels, capture=("*",))
  np.testing.assert_array_equal(out.activations["logits"], out.logits)
  np.testing.assert_array_equal(out.activations["embedder.pool"], out.hidden[0])


def _kernels(params, path=()):
  """Paths of the convolutions' kernels."""
  for name, node in params.items():
    if isinstance(node, dict):
      yield from _kernels(node, (*path, name))
    elif name == "kernel" and path != ("head",):
      yield path


@pytest.mark.slow
@pytest.mark.parametrize("config", [_BASIC, _BOTTLENECK])
def test_gating_a_filter_equals_zeroing_its_weights_exactly(config):
  net, params, pixels = _setup(config)
  paths = list(_kernels(params))
  for path in paths:
    site = "embedder.conv"
    if path != ("embedder",):
      block, part = path
      prefix = block.replace("stages_", "stages.").replace("_", ".blocks.")
      last = part.replace("layers_", "conv")
      if last != "shortcut":
        last = f"conv{int(last[4:]) + 1}"
      site = f"{prefix}.{last}"
    zeroed = jax.tree.map(lambda leaf: leaf, params)
    node = zeroed
    for part in path:
      node = node[part]
    keep = np.arange(len(node["kernel"])) % 2 == 1
    node["kernel"] = node["kernel"] * keep[:, None, None, None]
    edits = sites.Edits(scale={site: keep[None, :, None, None]})
    out = net.apply(params, edits, pixel_values=pixels)
    expected = net.apply(zeroed, pixel_values=pixels)
    plain = net.apply(params, pixel_values=pixels)
    np.testing.assert_array_equal(out.logits, expected.logits)
    assert (np.asarray(out.logits) != plain.logits).any(), site
  convs = [s for s in net.sites if s.split(".")[-1][:4] in ("conv", "shor")]
  assert len(paths) == len(convs)


def test_one_compilation_serves_every_mask_and_vmap_equals_a_loop():
  net, params, pixels = _setup()
  masks = np.random.default_rng(2).random((5, 6)) < 0.5

  def ablated(mask):
    edits = sites.Edits(
      scale={"stages.1.blocks.0.conv1": mask[None, :, None, None]}
    )
    return net.apply(params, edits, pixel_values=pixels).logits

  chex.clear_trace_counter()
  one = jax.jit(chex.assert_max_traces(ablated, n=1))
  looped = np.stack([one(mask) for mask in masks])
  batched = jax.jit(jax.vmap(ablated))(jnp.asarray(masks))
  assert checkpoints.difference(batched, looped) < _RTOL


def test_the_part_behind_a_stage_runs_alone():
  net, params, pixels = _setup()
  out = net.apply(params, pixel_values=pixels)

  def behind(module, x):
    tap = sites.Tap(None, frozenset())
    return module.classify(tap, module.stage(tap, 1, x))

  alone = jax.jit(
    lambda x: net.module.apply({"params": params}, x, method=behind)
  )(out.hidden[1])
  assert checkpoints.difference(alone, out.logits) < _RTOL


def test_bfloat16_keeps_its_dtype():
  net, params, pixels = _setup()
  narrow = jax.tree.map(lambda leaf: leaf.astype(jnp.bfloat16), params)
  out = net.apply(narrow, pixel_values=pixels)
  assert out.logits.dtype == jnp.bfloat16
  # 8 bits of mantissa, some 10 roundings deep.
  wide = net.apply(params, pixel_values=pixels)
  assert checkpoints.difference(out.logits, wide.logits) < 10 * 2**-8


@pytest.mark.parametrize(
  "pixels, error, message",
  [
    (np.zeros((2, 1, 8, 8), np.float32), ValueError, r"\[B, 3, H, W\]; got"),
    (np.zeros((3, 8, 8), np.float32), ValueError, r"got \(3, 8, 8\)"),
    (np.zeros((2, 3, 0, 8), np.float32), ValueError, r"got \(2, 3, 0, 8\)"),
    (np.zeros((2, 3, 8, 8), np.uint8), TypeError, "floats.*got uint8"),
  ],
)
def test_bad_images_are_refused(pixels, error, message):
  net, params, _ = _setup()
  with pytest.raises(error, match=message):
    net.net.apply(params, pixel_values=pixels)


_HUB = {
  "model_type": "resnet",
  "architectures": ["ResNetForImageClassification"],
  "layer_type": "basic",
  "hidden_sizes": [8, 8],
  "depths": [1, 1],
  "id2label": {"0": "a", "1": "b", "2": "c"},
}


def test_settings_of_a_checkpoint():
  config = resnet.config_from_hub(_HUB)
  assert (config.num_labels, config.depths) == (3, (1, 1))
  headless = resnet.config_from_hub(_HUB | {"architectures": ["ResNetModel"]})
  assert headless.num_labels == 0
  bare = {k: v for k, v in _HUB.items() if k != "id2label"}
  assert resnet.config_from_hub(bare).num_labels == 2


@pytest.mark.parametrize(
  "change, message",
  [
    ({"se_ratio": 4}, "not known here .*: se_ratio=4"),
    ({"layer_type": "wide"}, "layer_type='wide': choose"),
    ({"hidden_act": "mish"}, "hidden_act='mish'; it must be one of gelu"),
    ({"depths": [1]}, "needs a depth and a size"),
    ({"depths": [1, 0]}, "at least 1"),
    ({"num_labels": 7}, "3 labels in id2label, and num_labels=7"),
  ],
)
def test_settings_that_are_refused(change, message):
  with pytest.raises(ValueError, match=message):
    resnet.config_from_hub(_HUB | change)
