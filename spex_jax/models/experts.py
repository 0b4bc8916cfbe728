"""Experts in the place of a block's MLP (Mixtral, Qwen 3 MoE).

A router scores E gated MLPs, the experts, for every token. The k that score
best are weighted by a softmax over all E, the others by 0; where `normalised`,
the weights are divided by their sum. What the block adds is the sum over
experts of weight times output.

Sites of block L: `mlp.router` `[B, P, E]`, the scores (edited there, tokens go
to other experts); `mlp.gates` `[B, P, E]`, the weights (edited there, nobody
takes an absent expert's place, and no weight grows); `mlp.experts.pre` and
`mlp.experts.neurons` `[B, P, E, F]`, as of an MLP; `mlp.experts`
`[B, P, E, d]`, what each adds to `mlp.out`, computed only where asked for.

Every expert is computed for every token, chosen or not: shapes must not depend
on the routing. That is E / k times the products that are needed, which suits
small models; a large one needs its tokens sorted by expert.

Source: Shazeer et al. (arXiv 1701.06538), equations 1 to 5 without noise; Jiang
et al., Mixtral (arXiv 2401.04088), section 2.1, whose softmax over the k best
scores is the normalised one over all.

Shapes: B batch, P positions, d width, E experts, F neurons of an expert.
"""

import dataclasses
from collections.abc import Callable
from typing import Any

import chex
import flax.linen as nn
import jax
import jax.numpy as jnp

from spex_jax.models import backward, sites

# Behind "mlp.", in the order of computation.
SITES = ("router", "gates", "experts.pre", "experts.neurons", "experts")


@dataclasses.dataclass(frozen=True)
class Experts:
  """Settings of the experts of a model.

  Attributes:
    number: E, the number of experts of a block.
    per_token: k, how many of them a token goes to.
    num_neurons: F, the number of neurons of an expert.
    normalised: whether the weights of a token's experts add up to 1.
    blocks: the numbers of the blocks that have them.
  """

  number: int
  per_token: int
  num_neurons: int
  normalised: bool
  blocks: tuple[int, ...]

  def __post_init__(self):
    if min(self.per_token, self.num_neurons, len(self.blocks)) < 1:
      raise ValueError(f"Sizes of experts must be at least 1; got {self}.")
    if self.per_token > self.number:
      raise ValueError(
        f"A token cannot have {self.per_token} of {self.number} experts."
      )


class _Matrices(nn.Module):
  """One matrix for each expert: kernel `[E, inner, outer]`."""

  number: int
  inner: int
  outer: int

  def setup(self):
    shape = (self.number, self.inner, self.outer)
    init = nn.initializers.lecun_normal(batch_axis=(0,))
    self.kernel = self.param("kernel", init, shape)

  def into(self, x: jax.Array) -> jax.Array:
    """`[B, P, inner]` to `[B, P, E, outer]`."""
    return jnp.einsum("bpi,eio->bpeo", x, self.kernel)

  def each(self, x: jax.Array) -> jax.Array:
    """`[B, P, E, inner]` to `[B, P, E, outer]`."""
    return jnp.einsum("bpei,eio->bpeo", x, self.kernel)

  def total(self, x: jax.Array) -> jax.Array:
    """The sum of `each` over experts, as one product: `[B, P, outer]`."""
    flat = x.reshape(*x.shape[:2], -1)
    return flat @ self.kernel.reshape(-1, self.outer)


class Mixture(nn.Module):
  """The router and its experts; `config` is a `blocks.Config`."""

  config: Any
  activation: Callable[[jax.Array], jax.Array]

  def setup(self):
    width, own = self.config.width, self.config.mixture
    self.router = nn.Dense(own.number, use_bias=False)
    self.experts_gate = _Matrices(own.number, width, own.num_neurons)
    self.experts_up = _Matrices(own.number, width, own.num_neurons)
    self.experts_down = _Matrices(own.number, own.num_neurons, width)

  def __call__(self, tap: sites.Tap, site: str, x: jax.Array) -> jax.Array:
    """`[B, P, d]` to `[B, P, d]`; `site` is "blocks.L.mlp"."""
    own = self.config.mixture
    scores = tap(f"{site}.router", self.router(x))
    gates = weights(scores, own.per_token, own.normalised)
    gates = tap(f"{site}.gates", gates)
    rules = self.config.rules
    gate = tap(f"{site}.experts.pre", self.experts_gate.into(x))
    gate = backward.activated(self.activation, gate, rules)
    up = backward.scaled(self.experts_up.into(x), rules.gate)
    neurons = backward.scaled(gate, rules.gate) * up
    neurons = tap(f"{site}.experts.neurons", neurons) * gates[..., None]
    name = f"{site}.experts"
    out = None
    if tap.wants(name):
      each = tap(name, self.experts_down.each(neurons))
      # Recorded only: the path stays the plain one.
      out = each.sum(axis=2) if tap.edits(name) else None
    out = self.experts_down.total(neurons) if out is None else out
    return tap(f"{site}.out", out)


def weights(scores: jax.Array, per_token: int, normalised: bool) -> jax.Array:
  """What each expert weighs, of a router's scores.

  Args:
    scores: float `[..., E]`, what the router gives each expert.
    per_token: k, how many experts have a weight above 0.
    normalised: whether those of a token add up to 1.

  Returns:
    `[..., E]`, k of them above 0, in the dtype of `scores`; computed in float32
    at least.
  """
  wide = scores.astype(jnp.promote_types(scores.dtype, jnp.float32))
  shares = jax.nn.softmax(wide, axis=-1)
  _, best = jax.lax.top_k(shares, per_token)
  chosen = jax.nn.one_hot(best, scores.shape[-1], dtype=shares.dtype)
  chex.assert_shape(chosen, (*scores.shape[:-1], per_token, scores.shape[-1]))
  gates = shares * chosen.sum(axis=-2)
  if normalised:
    gates = gates / gates.sum(axis=-1, keepdims=True)
  return gates.astype(scores.dtype)
