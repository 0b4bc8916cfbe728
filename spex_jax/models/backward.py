"""Rules of the backward pass: other derivatives of the same forward.

A gradient misjudges what happens when an activation is replaced: norms and
saturated softmaxes undo small changes and not large ones. These rules change
how derivatives pass through norms, activations, attention and products; what a
network computes stays the same, to the bit.

A network takes them from its configuration: `under(net, rules)` is the network
with the same parameters, and a static part of any program made of it.
"""

import dataclasses
from collections.abc import Callable, Mapping

import chex
import jax
import jax.numpy as jnp

from spex_jax.models import sites


@dataclasses.dataclass(frozen=True, kw_only=True)
class Rules:
  """How derivatives pass back; by default as they are.

  Attributes:
    norm: the size that a norm divides by is a constant.
    activation: f(x) is x times the constant f(x) / x.
    pattern: attention patterns are constants: nothing passes to q and k.
    temperature: the temperature of the softmax whose derivative is taken,
      without the factor of 1 / temperature that its own would have.
    query_key: factor of derivatives by queries and keys.
    value: factor of derivatives by values.
    gate: factor of derivatives by the two factors of a gated MLP.
  """

  norm: bool = False
  activation: bool = False
  pattern: bool = False
  temperature: float = 1.0
  query_key: float = 1.0
  value: float = 1.0
  gate: float = 1.0


PLAIN = Rules()
BY_NAME: Mapping[str, Rules] = {
  "gradient": PLAIN,
  # Jafari et al. 2025 (arXiv 2508.21258): the rules of layer-wise relevance
  # propagation; attention passes to values alone, products are halved.
  "relp": Rules(norm=True, activation=True, pattern=True, gate=0.5),
  # Edin et al. 2025 (arXiv 2505.17630): a softer softmax, and each of n factors
  # of a product takes 1 / n. Releases of the authors' package up to 0.1.4 do
  # not scale the factors of a gated MLP; this is the paper's rule.
  "gim": Rules(norm=True, temperature=2, query_key=0.25, value=0.5, gate=0.5),
}


def under(net: sites.Network, rules: Rules) -> sites.Network:
  """The network with the same parameters and other rules.

  Raises:
    TypeError: a network that has no such rules.
  """
  if not hasattr(net.config, "rules"):
    raise TypeError(
      f"{type(net.config).__name__} has no rules of a backward pass; "
      "transformers have."
    )
  config = dataclasses.replace(net.config, rules=rules)
  module = net.module.clone(config=config)
  return dataclasses.replace(net, config=config, module=module)


def straight(value: jax.Array, through: jax.Array) -> jax.Array:
  """`value`, with the derivatives of `through`; of equal shape."""
  chex.assert_equal_shape([value, through])
  stop = jax.lax.stop_gradient
  return stop(value) + (through - stop(through))


def scaled(x: jax.Array, factor: float) -> jax.Array:
  """`x`, its derivatives times `factor`; of any shape."""
  chex.assert_type(x, float)
  return x if factor == 1 else straight(x, x * jnp.asarray(factor, x.dtype))


def constant(x: jax.Array, fixed: bool) -> jax.Array:
  """`x`, as a constant where `fixed`; of any shape."""
  chex.assert_type(x, float)
  return jax.lax.stop_gradient(x) if fixed else x


def activated(
  act: Callable[[jax.Array], jax.Array], x: jax.Array, rules: Rules
) -> jax.Array:
  """`act(x)`, elementwise with act(0) = 0; `x` of any shape."""
  chex.assert_type(x, float)
  out = act(x)
  if not rules.activation:
    return out
  # At 0 the limit of act(x) / x.
  limit = jax.grad(lambda one: act(one))(jnp.zeros((), x.dtype))
  zero = x == 0
  ratio = jnp.where(zero, limit, out / jnp.where(zero, jnp.ones_like(x), x))
  return straight(out, x * jax.lax.stop_gradient(ratio))


def softmax(scores: jax.Array, rules: Rules) -> jax.Array:
  """The softmax over the last axis of `scores` of any shape."""
  chex.assert_type(scores, float)
  out = jax.nn.softmax(scores, axis=-1)
  if rules.pattern:
    return jax.lax.stop_gradient(out)
  if rules.temperature == 1:
    return out
  heat = jnp.asarray(rules.temperature, scores.dtype)
  return straight(out, jax.nn.softmax(scores / heat, axis=-1) * heat)
