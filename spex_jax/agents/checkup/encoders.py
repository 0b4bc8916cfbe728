"""ResNets of `models` that are trained: batch norm by the batch at hand.

`models.resnet` normalises by recorded statistics, which are parameters. Here
they are none: a tap at the sites before batch norm standardises what passes by
the statistics of its batch, and batch norm adds scale and bias. After training
`settle` measures statistics once and records them, so that what was trained is
a network of `models` like any other, whose answer about one picture does not
depend on others.

Shapes: B pictures `[B, 3, S, S]`, uint8 or float in [0, 1]; F features.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

import chex
import jax
import jax.numpy as jnp
from flax import traverse_util

from spex_jax import base
from spex_jax.models import resnet, sites

_EPSILON = 1e-5  # Of batch norm.
_RECORDED = ("mean", "var")
_LEVEL, _SPREAD = 0.5, 0.25  # About the mean and deviation of pixels.
Params = Any


@dataclasses.dataclass(frozen=True)
class Encoder:
  """Pictures to features; hashable, so it can be static under jit.

  Attributes:
    config: of the ResNet, without a head.
  """

  config: resnet.Config

  @property
  def width(self) -> int:
    """F."""
    return self.config.hidden_sizes[-1]

  @property
  def network(self) -> sites.Network:
    """As `models` has it, without parameters."""
    return resnet.network(self.config)

  def init(self, key: base.Key) -> Params:
    """Fresh parameters; statistics are not among them. `key` is consumed."""
    flat = traverse_util.flatten_dict(self.network.init(key))
    kept = {k: v for k, v in flat.items() if k[-1] not in _RECORDED}
    return traverse_util.unflatten_dict(kept)

  def features(
    self, params: Params, pictures: jax.Array, groups: int = 1
  ) -> jax.Array:
    """`[B, F]`, normalised by the statistics of each group of the batch.

    Args:
      params: the parameters of the encoder, trained or in training.
      pictures: `[B, 3, S, S]`; batched, as statistics are of batches.
      groups: equal parts of the batch, in its order.
    """
    return self._measured(params, pictures, groups)[0]

  def settle(
    self, params: Params, pictures: base.Array, batch_size: int = 256
  ) -> Params:
    """Parameters of `network`: statistics are averages over batches.

    What is left over behind the last whole batch does not count.
    """
    pictures = jnp.asarray(pictures)
    size = min(batch_size, len(pictures))
    number = len(pictures) // size
    batches = pictures[: number * size].reshape(
      number, size, *pictures.shape[1:]
    )

    def measured(batch):
      found = self._measured(params, batch, 1)[1]
      return jax.tree.map(lambda leaf: leaf[0], found)

    # One program for all batches, whose activations come and go.
    found = jax.lax.map(measured, batches)
    flat: dict[Any, Any] = dict(traverse_util.flatten_dict(params))
    for site, moments in found.items():
      for name, values in zip(_RECORDED, moments):
        flat[*_place(site), name] = values.mean(axis=0)
    return traverse_util.unflatten_dict(flat)

  def read(self, settled: Params, pictures: base.Array) -> jax.Array:
    """`[B, F]` by recorded statistics, of what `settle` gave."""
    x = scaled(jnp.asarray(pictures))
    return self.network.apply(settled, pixel_values=x).logits

  def _measured(self, params, pictures, groups):
    """Features, and site to mean and variance `[groups, filters]`."""
    chex.assert_rank(pictures, 4)
    chex.assert_is_divisible(len(pictures), groups)
    flat: dict[Any, Any] = dict(traverse_util.flatten_dict(params))
    for path in list(flat):
      if path[-2:] == ("norm", "scale"):
        zeros = jnp.zeros_like(flat[path])
        flat[*path[:-1], "mean"] = zeros
        flat[*path[:-1], "var"] = zeros + (1 - _EPSILON)
    whole = traverse_util.unflatten_dict(flat)
    module = resnet.ResNet(self.config)

    def group(x):
      tap = _Measuring()
      features, _ = module.apply({"params": whole}, tap, scaled(x))
      return features, tap.moments

    grouped = pictures.reshape(groups, -1, *pictures.shape[1:])
    if groups == 1:  # No axis more in every convolution.
      features, moments = group(grouped[0])
      return features, jax.tree.map(lambda leaf: leaf[None], moments)
    features, moments = jax.vmap(group)(grouped)
    return features.reshape(-1, features.shape[-1]), moments


def scaled(pictures: jax.Array) -> jax.Array:
  """Pictures as a network takes them: float32, about of mean 0, deviation 1.

  Args:
    pictures: uint8, or float in [0, 1].
  """
  if pictures.dtype == jnp.uint8:
    pictures = pictures.astype(jnp.float32) / 255
  chex.assert_type(pictures, float)
  return (pictures - _LEVEL) / _SPREAD


def small(width: int = 32) -> Encoder:
  """Three stages of one basic block, 4 `width` features: for 32 pixels."""
  sizes = (width, 2 * width, 4 * width)
  return Encoder(resnet.Config(0, 3, width, sizes, (1, 1, 1), "basic"))


def resnet50() -> Encoder:
  """The paper's, of 2,048 features: for 224 pixels, and accelerators."""
  return Encoder(resnet.Config(0))


ENCODERS: Mapping[str, Any] = {"small": small, "resnet50": resnet50}


class _Measuring(sites.Tap):
  """Standardises what enters batch norm, and keeps by what."""

  def __init__(self):
    super().__init__()
    self.moments: dict[str, tuple[jax.Array, jax.Array]] = {}

  def __call__(self, site: str, x: jax.Array, axis: int = 1) -> jax.Array:
    x = super().__call__(site, x, axis)
    if not site.rpartition(".")[2].startswith(("conv", "shortcut")):
      return x
    mean, var = x.mean(axis=(0, 2, 3)), x.var(axis=(0, 2, 3))
    self.moments[site] = mean, var
    factor = jax.lax.rsqrt(var + _EPSILON)
    return (x - mean[None, :, None, None]) * factor[None, :, None, None]


def _place(site: str) -> tuple[str, ...]:
  """Where the parameters of the batch norm behind a site are."""
  parts = site.split(".")
  if parts[0] == "embedder":
    return "embedder", "norm"
  name = parts[4]
  if name.startswith("conv"):
    name = f"layers_{int(name.removeprefix('conv')) - 1}"
  return f"stages_{parts[1]}_{parts[3]}", name, "norm"
