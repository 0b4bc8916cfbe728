"""Multilayer perceptrons behind the face of `sites.Network`.

Sites, in order: `input` `[B, F]`; for each layer l `layers.l.pre` and
`layers.l.neurons` `[B, widths[l]]`, before and after the activation function;
`logits` `[B, C]`. `hidden` holds the neurons of every layer.

Shapes: B examples, F features, C outputs.
"""

import dataclasses
from collections.abc import Callable

import flax.linen as nn
import jax
import jax.numpy as jnp

from spex_jax import base
from spex_jax.models import sites

_ACTIVATIONS: dict[str, Callable[[jax.Array], jax.Array]] = {
  "relu": nn.relu,
  "leaky_relu": nn.leaky_relu,
  "gelu": nn.gelu,
  "tanh": nn.tanh,
  "identity": lambda x: x,
}


@dataclasses.dataclass(frozen=True)
class Config:
  """Settings of an MLP; no `widths` makes it linear.

  Attributes:
    num_features: F, the number of features of an example.
    num_outputs: C, the number of logits or responses.
    widths: the number of neurons of each hidden layer.
    activation: one of relu, leaky_relu, gelu, tanh, identity.
  """

  num_features: int
  num_outputs: int
  widths: tuple[int, ...] = (64,)
  activation: str = "relu"

  def __post_init__(self):
    sizes = (self.num_features, self.num_outputs, *self.widths)
    if min(sizes) < 1:
      raise ValueError(f"Sizes of an MLP must be at least 1; got {self}.")
    if self.activation not in _ACTIVATIONS:
      raise ValueError(
        f"Unknown activation {self.activation!r}; known are "
        f"{', '.join(_ACTIVATIONS)}."
      )


class Mlp(nn.Module):
  """The layers; parameters `layers_l` and `head`, each a kernel and a bias."""

  config: Config

  def setup(self):
    self.layers = [nn.Dense(width) for width in self.config.widths]
    self.head = nn.Dense(self.config.num_outputs)

  def __call__(
    self, tap: sites.Tap, features: base.Array
  ) -> tuple[jax.Array, tuple[jax.Array, ...]]:
    """`features` `[B, F]` to logits `[B, C]` and the layers' neurons.

    Raises:
      ValueError: features of another shape than `[B, F]`.
    """
    if features.ndim != 2 or features.shape[1] != self.config.num_features:
      raise ValueError(
        f"features must be [B, {self.config.num_features}]; got "
        f"{features.shape}."
      )
    x = tap("input", jnp.asarray(features))
    hidden = []
    for number, layer in enumerate(self.layers):
      x = tap(f"layers.{number}.pre", layer(x))
      x = _ACTIVATIONS[self.config.activation](x)
      x = tap(f"layers.{number}.neurons", x)
      hidden.append(x)
    return tap("logits", self.head(x)), tuple(hidden)


def network(config: Config) -> sites.Network:
  """The network of `config`; its one input is `features` `[B, F]`."""
  names = ["input"]
  for number in range(len(config.widths)):
    names += [f"layers.{number}.pre", f"layers.{number}.neurons"]
  names.append("logits")
  shape = jax.ShapeDtypeStruct((1, config.num_features), jnp.float32)
  return sites.Network(
    module=Mlp(config),
    config=config,
    sites=tuple(names),
    example={"features": shape},
    no_edges="an MLP has no residual stream whose edges could be cut; "
    "edit its sites.",
  )
