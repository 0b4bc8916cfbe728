"""Small convolutional networks to be retrained many at once.

A `ConvNet` is a few pure functions, `init`, `logits` and `settle`, for
`training.learners.classifier`. Batch norm is weighted: its statistics are those
of the examples that are there, so that one of weight 0 cannot be felt. After
training `settle` takes the statistics once more, of the final parameters over
all weighted examples, as averages of batches; nothing else is carried along.
`norm="none"` has no statistics at all.

Mapped over trainings, every training has kernels of its own. `conv="grouped"`
leaves that to XLA, which makes one grouped convolution of it; `"patches"`
gathers patches once and multiplies matrices, batched. See the rows `conv` of
`experiments/bench_retrain.py`: patches are the default on a CPU, where grouped
kernels are slow; accelerators have grouped convolutions of their own.

A trained one is a network like any other by `network`, whose filters can be
ablated: sites, in order, `layers.N.conv` `[B, F, H, W]`, before batch norm and
bias, so that scaling a filter by 0 there is the same as zeroing its weights;
`layers.N.out`, behind the pool; `pooled` `[B, F]`; `logits`.

Shapes: B images of C channels, H by W pixels, `[B, C, H, W]`; K classes.
"""

import dataclasses
from typing import Any, Literal

import jax
import jax.numpy as jnp

from spex_jax import base
from spex_jax.models import sites

_EPSILON = 1e-5  # Of batch norm.
_LAST = ("NHWC", "HWIO", "NHWC")


@dataclasses.dataclass(frozen=True)
class Conv:
  """A convolution, batch norm and ReLU, then perhaps a pool.

  Attributes:
    width: the number of filters.
    kernel: the side of the kernel, in pixels.
    stride: the stride of the convolution.
    padding: how many pixels are added on each side.
    pool: side of the maximum pool behind it; 1 for none, 0 for all pixels.
    residual: from that many convolutions before, added behind this one.
  """

  width: int
  kernel: int = 3
  stride: int = 1
  padding: int = 1
  pool: int = 1
  residual: int = 0


@dataclasses.dataclass(frozen=True)
class ConvNet:
  """Convolutions and a linear head.

  Attributes:
    num_classes: K, the number of classes.
    channels: C, the number of channels of an image.
    convs: the convolutions, in the order in which they run.
    norm: weighted batch norm, or none (then convolutions have a bias alone).
    conv: how to convolve; None for patches on a CPU and grouped elsewhere.
    head_scale: factor of the logits.
    batch_size: how many images `settle` runs at once.
  """

  num_classes: int
  channels: int
  convs: tuple[Conv, ...]
  norm: Literal["weighted", "none"] = "weighted"
  conv: Literal["grouped", "patches"] | None = None
  head_scale: float = 1.0
  batch_size: int = 256

  def __post_init__(self):
    if self.norm not in ("weighted", "none"):
      raise ValueError(f"norm={self.norm!r}: choose weighted or none.")
    if self.conv not in (None, "grouped", "patches"):
      raise ValueError(f"conv={self.conv!r}: choose grouped or patches.")
    if not self.convs or min(self.num_classes, self.channels) < 1:
      raise ValueError("Need a class, a channel and a convolution, or more.")

  @property
  def settings(self) -> dict[str, Any]:
    """As JSON, for a learner's settings."""
    return {"network": dataclasses.asdict(self)}

  def init(self, key: base.Key) -> dict[str, Any]:
    """Parameters: He normal kernels, a linear head."""
    layers, channels = [], self.channels
    for number, spec in enumerate(self.convs):
      shape = (spec.width, channels, spec.kernel, spec.kernel)
      fan_in = channels * spec.kernel**2
      kernel = jax.random.normal(jax.random.fold_in(key, number), shape)
      layers.append(
        {
          "kernel": kernel * (2 / fan_in) ** 0.5,
          "scale": jnp.ones(spec.width),
          "bias": jnp.zeros(spec.width),
        }
      )
      if self.norm == "none":
        del layers[-1]["scale"]
      channels = spec.width
    head = jax.random.normal(
      jax.random.fold_in(key, len(self.convs)), (channels, self.num_classes)
    )
    return {"layers": layers, "head": head / channels**0.5}

  def logits(
    self, state: Any, x: jax.Array, weights: jax.Array | None = None
  ) -> jax.Array:
    """Logits `[B, K]`.

    Args:
      state: parameters, whose statistics are those of this batch; or what
        `settle` made of them.
      x: float `[B, C, H, W]`, the images.
      weights: `[B]`, of the statistics; 1 by default.
    """
    params = state.get("params", state)
    return self._run(params, x, weights, state.get("moments"))[0]

  def tapped(
    self, tap: sites.Tap, state: Any, x: jax.Array
  ) -> tuple[jax.Array, tuple[jax.Array, ...]]:
    """Logits and what each layer gives, past a tap.

    Args:
      tap: the tap of this forward.
      state: what `settle` gave: one image must not be felt in another.
      x: float `[B, C, H, W]`, the images.

    Raises:
      ValueError: batch norm without statistics, or images of another shape.
    """
    if self.norm == "weighted" and "moments" not in state:
      raise ValueError(
        "These parameters have no statistics of batch norm: give what `settle` "
        "made of them."
      )
    if x.ndim != 4 or x.shape[1] != self.channels:
      raise ValueError(
        f"pixel_values must be [B, {self.channels}, H, W]; got {x.shape}."
      )
    moments = state.get("moments")
    logits, _, outputs = self._run(state["params"], x, None, moments, tap)
    return logits, outputs

  def settle(
    self, params: Any, data: Any, weights: jax.Array
  ) -> dict[str, Any]:
    """Parameters with their statistics over `data["x"]`, for answering.

    An example of weight 0 does not count.
    """
    if self.norm == "none":
      return {"params": params}
    x = data["x"]
    size = min(self.batch_size, len(x))
    spare = -len(x) % size
    x = jnp.concatenate([x, jnp.zeros((spare, *x.shape[1:]), x.dtype)])
    weights = jnp.concatenate([weights, jnp.zeros(spare, weights.dtype)])

    def batch(carry, inputs):
      rows, w = inputs
      total, sums = carry
      moments = self._run(params, rows, w, None)[1]
      sums = jax.tree.map(lambda a, b: a + w.sum() * b, sums, moments)
      return (total + w.sum(), sums), None

    zeros = [(jnp.zeros(c.width), jnp.zeros(c.width)) for c in self.convs]
    parts = (x.reshape(-1, size, *x.shape[1:]), weights.reshape(-1, size))
    (total, sums), _ = jax.lax.scan(batch, (jnp.zeros(()), zeros), parts)
    total = jnp.where(total > 0, total, 1.0)
    moments = jax.tree.map(lambda leaf: leaf / total, sums)
    return {"params": params, "moments": moments}

  def _run(self, params, x, weights, moments, tap=None):
    """Logits, the moments used, and the outputs of the layers.

    Channels come last inside: a CPU convolves them 5 times as fast.
    """
    tap = tap or (lambda site, x: x)
    if weights is None:
      weights = jnp.ones(len(x), x.dtype)
    x = _last(x)
    kept, outputs = [], []
    for number, (spec, layer) in enumerate(zip(self.convs, params["layers"])):
      x = self._convolve(x, layer["kernel"], spec)
      x = _last(tap(f"layers.{number}.conv", _first(x)))
      if self.norm == "weighted":
        given = None if moments is None else moments[number]
        x, found = _normalise(x, weights, layer["scale"], given)
        kept.append(found)
      x = jax.nn.relu(x + layer["bias"][None, None, None])
      if spec.residual:
        x = x + outputs[-spec.residual]
      x = _last(tap(f"layers.{number}.out", _first(_pool(x, spec.pool))))
      outputs.append(x)
    pooled = tap("pooled", x.max(axis=(1, 2)))
    logits = tap("logits", self.head_scale * (pooled @ params["head"]))
    return logits, kept, tuple(map(_first, outputs))

  def _convolve(self, x, kernel, spec):
    way = self.conv
    if way is None:
      way = "patches" if jax.default_backend() == "cpu" else "grouped"
    window = {
      "window_strides": (spec.stride,) * 2,
      "padding": ((spec.padding,) * 2,) * 2,
    }
    if way == "grouped":
      # In this order alone a CPU is quick: ten times, where kernels are shared.
      return jax.lax.conv_general_dilated(
        x, kernel.transpose(2, 3, 1, 0), dimension_numbers=_LAST, **window
      )
    patches = jax.lax.conv_general_dilated_patches(
      x, (spec.kernel,) * 2, dimension_numbers=_LAST, **window
    )
    flat = kernel.reshape(len(kernel), -1)
    return jnp.einsum("bhwp,op->bhwo", patches, flat)


@dataclasses.dataclass(frozen=True)
class _Face:
  """What `sites.Network` asks of its module."""

  net: ConvNet

  def init(
    self, key: base.Key, tap: sites.Tap, pixel_values: jax.Array
  ) -> dict[str, Any]:
    """Fresh parameters; normalisation as if nothing had to be done."""
    del tap, pixel_values
    state: dict[str, Any] = {"params": self.net.init(key)}
    if self.net.norm == "weighted":
      state["moments"] = [
        (jnp.zeros(spec.width), jnp.ones(spec.width)) for spec in self.net.convs
      ]
    return {"params": state}

  def apply(
    self, variables: Any, tap: sites.Tap, pixel_values: base.Array
  ) -> tuple[jax.Array, tuple[jax.Array, ...]]:
    """Logits and hidden states."""
    images = jnp.asarray(pixel_values)
    return self.net.tapped(tap, variables["params"], images)


def network(net: ConvNet, side: int = 8, params: Any = None) -> sites.Network:
  """A `ConvNet` as a network with sites; its one input is `pixel_values`.

  Args:
    net: the layers of the network.
    side: pixels of an image's side, for shapes.
    params: what `settle` gave, or None.

  Kernels are shared by all masks, so `net.conv` is plain convolution if None.
  """
  if net.conv is None:
    net = dataclasses.replace(net, conv="grouped")
  names = []
  for number in range(len(net.convs)):
    names += [f"layers.{number}.conv", f"layers.{number}.out"]
  shape = (1, net.channels, side, side)
  face: Any = _Face(net)
  return sites.Network(
    module=face,
    config=net,
    sites=(*names, "pooled", "logits"),
    example={"pixel_values": jax.ShapeDtypeStruct(shape, jnp.float32)},
    no_edges="the heads and neurons of a residual stream have edges; the "
    "filters of a convolutional network do not. Use edits.",
    params=params,
  )


def small(num_classes: int, channels: int = 1, width: int = 16, **more: Any):
  """Two convolutions of `width` and twice that: for digits, say."""
  convs = (Conv(width, pool=2), Conv(2 * width, pool=0))
  return ConvNet(num_classes, channels, convs, **more)


def resnet9(num_classes: int, channels: int = 3, width: int = 64, **more: Any):
  """The ResNet-9 of datamodels (Ilyas et al. 2022), as its code has it.

  2.27 million parameters at 10 classes and `width` 64; logits are scaled by .2.
  Images of 11 pixels a side or more.
  """
  convs = (
    Conv(width),
    Conv(2 * width, 5, 2, 2),
    Conv(2 * width),
    Conv(2 * width, residual=2),
    Conv(4 * width, pool=2),
    Conv(4 * width),
    Conv(4 * width, residual=2),
    Conv(2 * width, padding=0, pool=0),
  )
  return ConvNet(num_classes, channels, convs, head_scale=0.2, **more)


def _normalise(x, weights, scale, moments):
  """Batch norm over the weighted examples; gives the moments used too."""
  if moments is None:
    total = weights.sum() * (x.shape[1] * x.shape[2])
    share = weights[:, None, None, None] / jnp.where(total > 0, total, 1.0)
    mean = (share * x).sum(axis=(0, 1, 2))
    centred = x - mean[None, None, None]
    variance = (share * centred**2).sum(axis=(0, 1, 2))
    moments = mean, variance
  mean, variance = (m[None, None, None] for m in moments)
  factor = scale[None, None, None] * jax.lax.rsqrt(variance + _EPSILON)
  return (x - mean) * factor, moments


def _pool(x, side):
  if side == 1:
    return x
  if side == 0:
    return x.max(axis=(1, 2), keepdims=True)
  window = (1, side, side, 1)
  return jax.lax.reduce_window(
    x, -jnp.inf, jax.lax.max, window, window, "VALID"
  )


def _last(x):
  """Channels behind pixels: `[B, C, H, W]` to `[B, H, W, C]`."""
  return jnp.moveaxis(x, 1, -1)


def _first(x):
  return jnp.moveaxis(x, -1, 1)
