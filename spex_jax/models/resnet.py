"""Residual networks, basic and bottleneck, behind the face of `sites.Network`.

The function of transformers' `ResNetForImageClassification` and `ResNetModel`
in inference: batch norm uses its recorded statistics, which are parameters
here like any other.

Sites, in order: `embedder.conv`, `.act`, `.pool`; for block L of stage S, from
0, `stages.S.blocks.L.conv1`, `.act1`, `.conv2` and so on (no `act` behind the
last convolution), `.shortcut` (a convolution too, where there is one), `.act`
(the block's output); `pooled` `[B, F]`; `logits` `[B, C]`. All others are
`[B, F, H, W]`. A convolution's site lies before batch norm, so that scaling a
filter by 0 there is the same as zeroing its weights (there is no bias).

Shapes: B images, H by W pixels, F filters, C classes. `hidden` holds what the
embedder and every stage give.
Source: He et al., arXiv:1512.03385; with the stride of a bottleneck on its 3 x
3 convolution, unless `downsample_in_bottleneck`.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from spex_jax import base
from spex_jax.models import blocks, reading, sites, weights

_EPSILON = 1e-5  # Of batch norm: PyTorch's own, and never in `config.json`.
_NARROWING = 4  # Of a bottleneck.


@dataclasses.dataclass(frozen=True)
class Config:
  """Settings of a ResNet.

  Attributes:
    num_labels: C; 0 for a network without a head, whose logits are `pooled`.
    num_channels: the number of channels of the images.
    embedding_size: the number of filters of the embedder.
    hidden_sizes: the number of filters of each stage.
    depths: the number of blocks of each stage.
    layer_type: which kind of block, "basic" or "bottleneck".
    hidden_act: one of `blocks.ACTIVATIONS`; of the embedder and behind each
      block's sum. Between the convolutions of a block stands relu.
    downsample_in_first_stage: whether the first stage halves the image too.
    downsample_in_bottleneck: stride on the first 1 x 1 convolution.
  """

  num_labels: int
  num_channels: int = 3
  embedding_size: int = 64
  hidden_sizes: tuple[int, ...] = (256, 512, 1024, 2048)
  depths: tuple[int, ...] = (3, 4, 6, 3)
  layer_type: str = "bottleneck"
  hidden_act: str = "relu"
  downsample_in_first_stage: bool = False
  downsample_in_bottleneck: bool = False

  def __post_init__(self):
    if self.layer_type not in ("basic", "bottleneck"):
      raise ValueError(
        f"layer_type={self.layer_type!r}: choose basic or bottleneck."
      )
    if self.hidden_act not in blocks.ACTIVATIONS:
      raise ValueError(
        f"hidden_act={self.hidden_act!r}: known are "
        f"{', '.join(blocks.ACTIVATIONS)}."
      )
    if not self.depths or len(self.depths) != len(self.hidden_sizes):
      raise ValueError(
        f"Every stage needs a depth and a size; got depths={self.depths}, "
        f"hidden_sizes={self.hidden_sizes}."
      )
    sizes = (
      self.num_channels, self.embedding_size, *self.hidden_sizes, *self.depths,
    )  # fmt: skip
    whole = all(isinstance(size, int) and size >= 1 for size in sizes)
    if not whole or self.num_labels < 0:
      raise ValueError(f"Sizes of a ResNet must be at least 1; got {self}.")


def config_from_hub(hub: Mapping[str, Any]) -> Config:
  """The settings of a `config.json`.

  Raises:
    ValueError: a setting, or an architecture, that is not implemented.
  """
  reader = reading.Reader(hub)
  # Which feature maps a backbone would return.
  reader.ignore("out_features", "out_indices", "stage_names")
  given: dict[str, Any] = {}
  for field in dataclasses.fields(Config):
    name = field.name
    default: Any = field.default
    if isinstance(default, bool):
      given[name] = reader.flag(name, default)
    elif isinstance(default, int):
      given[name] = reader.size(name, default=default)
    elif isinstance(default, tuple):
      given[name] = tuple(reader.sequence(name, default))
    elif name == "hidden_act":
      given[name] = reader.activation(name, default=default)
    elif name != "num_labels":
      given[name] = reader.get(name, default=default)
  labels = reader.num_labels()
  if reader.get("architectures", default=[]) == ["ResNetModel"]:
    labels = 0
  reader.finish()
  return Config(num_labels=labels, **given)


class BatchNorm(nn.Module):
  """Batch norm with recorded statistics, over the second axis."""

  num_filters: int

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    """`[B, F, H, W]`, normalised in float32."""
    shape = (self.num_filters,)
    scale = self.param("scale", nn.initializers.ones, shape)
    bias = self.param("bias", nn.initializers.zeros, shape)
    mean = self.param("mean", nn.initializers.zeros, shape)
    var = self.param("var", nn.initializers.ones, shape)
    factor = scale * jax.lax.rsqrt(var.astype(jnp.float32) + _EPSILON)
    mean, factor, bias = (a[:, None, None] for a in (mean, factor, bias))
    wide = x.astype(jnp.float32)
    return ((wide - mean[None]) * factor[None] + bias[None]).astype(x.dtype)


class Filters(nn.Module):
  """A convolution without bias, its site, and batch norm."""

  num_inputs: int
  num_filters: int
  size: int
  stride: int = 1

  def setup(self):
    init = nn.initializers.variance_scaling(
      2.0, "fan_out", "normal", in_axis=1, out_axis=0
    )
    shape = (self.num_filters, self.num_inputs, self.size, self.size)
    self.kernel = self.param("kernel", init, shape)
    self.norm = BatchNorm(self.num_filters)

  def __call__(self, tap: sites.Tap, site: str, x: jax.Array) -> jax.Array:
    """`[B, num_inputs, H, W]` to `[B, F, H', W']`."""
    x = jax.lax.conv_general_dilated(
      x,
      self.kernel,
      window_strides=(self.stride, self.stride),
      padding=[(self.size // 2, self.size // 2)] * 2,
      dimension_numbers=("NCHW", "OIHW", "NCHW"),
    )
    return self.norm(tap(site, x))


class Block(nn.Module):
  """Two convolutions, or three in a bottleneck, around a shortcut."""

  config: Config
  num_inputs: int
  num_filters: int
  stride: int

  def setup(self):
    inputs, filters, stride = self.num_inputs, self.num_filters, self.stride
    if self.config.layer_type == "basic":
      self.layers = [
        Filters(inputs, filters, 3, stride),
        Filters(filters, filters, 3),
      ]
    else:
      narrow = filters // _NARROWING
      first = stride if self.config.downsample_in_bottleneck else 1
      self.layers = [
        Filters(inputs, narrow, 1, first),
        Filters(narrow, narrow, 3, stride // first),
        Filters(narrow, filters, 1),
      ]
    self.has_shortcut = inputs != filters or stride != 1
    if self.has_shortcut:
      self.shortcut = Filters(inputs, filters, 1, stride)

  def __call__(self, tap: sites.Tap, prefix: str, x: jax.Array) -> jax.Array:
    """`[B, num_inputs, H, W]` to `[B, F, H / stride, W / stride]`."""
    out = x
    for number, layer in enumerate(self.layers, 1):
      out = layer(tap, f"{prefix}.conv{number}", out)
      if number < len(self.layers):
        out = tap(f"{prefix}.act{number}", nn.relu(out))
    if self.has_shortcut:
      x = self.shortcut(tap, f"{prefix}.shortcut", x)
    act = blocks.ACTIVATIONS[self.config.hidden_act]
    return tap(f"{prefix}.act", act(out + x))


class ResNet(nn.Module):
  """Embedder, stages and head; parameters `stages_S_L/layers_N/kernel`, ..."""

  config: Config

  def setup(self):
    config = self.config
    self.embedder = Filters(config.num_channels, config.embedding_size, 7, 2)
    stages, inputs = [], config.embedding_size
    for stage, (filters, depth) in enumerate(
      zip(config.hidden_sizes, config.depths)
    ):
      blocks = []
      for number in range(depth):
        halves = number == 0 and (stage > 0 or config.downsample_in_first_stage)
        blocks.append(Block(config, inputs, filters, 2 if halves else 1))
        inputs = filters
      stages.append(blocks)
    self.stages = stages
    if config.num_labels:
      self.head = nn.Dense(config.num_labels)

  def __call__(
    self, tap: sites.Tap, pixel_values: base.Array
  ) -> tuple[jax.Array, tuple[jax.Array, ...]]:
    """`pixel_values` `[B, num_channels, H, W]` to logits and hidden states."""
    hidden = [self.embed(tap, pixel_values)]
    for stage in range(len(self.stages)):
      hidden.append(self.stage(tap, stage, hidden[-1]))
    return self.classify(tap, hidden[-1]), tuple(hidden)

  def embed(self, tap: sites.Tap, pixel_values: base.Array) -> jax.Array:
    """What enters the first stage: a quarter as high and as wide.

    Raises:
      ValueError: images of another shape.
      TypeError: pixels that are not floating-point numbers.
    """
    channels = self.config.num_channels
    shape = pixel_values.shape
    if len(shape) != 4 or shape[1] != channels or 0 in shape[2:]:
      raise ValueError(
        f"pixel_values must be [B, {channels}, H, W]; got {shape}."
      )
    if not jnp.issubdtype(pixel_values.dtype, jnp.floating):
      raise TypeError(
        f"pixel_values must be floats, normalised as the network was trained; "
        f"got {pixel_values.dtype}."
      )
    x = jnp.asarray(pixel_values, self.embedder.kernel.dtype)
    x = self.embedder(tap, "embedder.conv", x)
    act = blocks.ACTIVATIONS[self.config.hidden_act]
    x = tap("embedder.act", act(x))
    pooled = jax.lax.reduce_window(
      x,
      -jnp.inf,
      jax.lax.max,
      window_dimensions=(1, 1, 3, 3),
      window_strides=(1, 1, 2, 2),
      padding=[(0, 0), (0, 0), (1, 1), (1, 1)],
    )
    return tap("embedder.pool", pooled)

  def stage(self, tap: sites.Tap, number: int, x: jax.Array) -> jax.Array:
    """One stage on what the one before it gave."""
    for index, block in enumerate(self.stages[number]):
      x = block(tap, f"stages.{number}.blocks.{index}", x)
    return x

  def classify(self, tap: sites.Tap, x: jax.Array) -> jax.Array:
    """Logits `[B, C]` of what the last stage gave."""
    pooled = tap("pooled", x.mean(axis=(2, 3)))
    logits = self.head(pooled) if self.config.num_labels else pooled
    return tap("logits", logits)


def network(config: Config) -> sites.Network:
  """The network of `config`; its one input is `pixel_values`."""
  names = ["embedder.conv", "embedder.act", "embedder.pool"]
  inputs = config.embedding_size
  for stage, depth in enumerate(config.depths):
    for number in range(depth):
      prefix = f"stages.{stage}.blocks.{number}"
      last = 2 if config.layer_type == "basic" else 3
      for conv in range(1, last):
        names += [f"{prefix}.conv{conv}", f"{prefix}.act{conv}"]
      names.append(f"{prefix}.conv{last}")
      halves = number == 0 and (stage > 0 or config.downsample_in_first_stage)
      if halves or inputs != config.hidden_sizes[stage]:
        names.append(f"{prefix}.shortcut")
      names.append(f"{prefix}.act")
      inputs = config.hidden_sizes[stage]
  shape = (1, config.num_channels, 32, 32)  # Any height and width will do.
  return sites.Network(
    module=ResNet(config),
    config=config,
    sites=(*names, "pooled", "logits"),
    example={"pixel_values": jax.ShapeDtypeStruct(shape, jnp.float32)},
    no_edges="the heads and neurons of a residual stream have edges; the "
    "filters of a convolutional network do not. Use edits.",
  )


def rules(config: Config) -> tuple[weights.Rule, ...]:
  """From the keys of a checkpoint to the parameters."""
  del config  # The same for all.
  rules = []
  block = r"encoder\.stages\.(\d+)\.layers\.(\d+)\."
  for key, path in (
    (r"embedder\.embedder\.", "embedder/"),
    (block + r"layer\.(\d+)\.", r"stages_\1_\2/layers_\3/"),
    (block + r"shortcut\.", r"stages_\1_\2/shortcut/"),
  ):
    # `ResNetModel` is saved without the prefix.
    key = r"(?:resnet\.)?" + key
    norm = key + r"normalization\."
    rules += [
      weights.Rule(key + r"convolution\.weight", path + "kernel"),
      weights.Rule(norm + "weight", path + "norm/scale"),
      weights.Rule(norm + "bias", path + "norm/bias"),
      weights.Rule(norm + "running_mean", path + "norm/mean"),
      weights.Rule(norm + "running_var", path + "norm/var"),
      # A counter that only training reads.
      weights.Rule(norm + "num_batches_tracked", ""),
    ]
  rules += [
    weights.Rule(r"classifier\.1\.weight", "head/kernel", "transpose"),
    weights.Rule(r"classifier\.1\.bias", "head/bias"),
  ]
  return tuple(rules)
