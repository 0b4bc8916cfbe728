"""The blocks of a T5: attention by distance, MLPs, encoder and decoder stacks.

Sites are listed in `t5`.

Shapes: B batch, P positions, S positions of a memory, d width, H heads, h head
width, F neurons.
Source: Raffel et al., arXiv:1910.10683.
"""

import dataclasses
import math
from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from spex_jax.models import attention, blocks, sites

INIT = nn.initializers.normal(0.05)


@dataclasses.dataclass(frozen=True)
class Config:
  """Settings of a T5.

  Attributes:
    vocab_size: V.
    width: d.
    num_heads: H.
    head_width: h; d need not be H h.
    num_neurons: F.
    num_blocks: of the encoder.
    num_decoder_blocks: of the decoder.
    activation: one of `blocks.ACTIVATIONS`.
    gated: two input matrices in an MLP, multiplied.
    num_buckets: of distances.
    max_distance: from which on all distances are one.
    norm_eps: of the norms.
    tied: logits from the token embeddings; else a head of its own.
    scaled: the decoder's output is divided by sqrt(d) before the head.
  """

  vocab_size: int
  width: int
  num_heads: int
  head_width: int
  num_neurons: int
  num_blocks: int
  num_decoder_blocks: int
  activation: str = "relu"
  gated: bool = False
  num_buckets: int = 32
  max_distance: int = 128
  norm_eps: float = 1e-6
  tied: bool = True
  scaled: bool = True

  def __post_init__(self):
    if min(dataclasses.astuple(self)[:7]) < 1:
      raise ValueError(f"Sizes of a T5 must be at least 1; got {self}.")
    if self.activation not in blocks.ACTIVATIONS:
      raise ValueError(
        f"activation={self.activation!r}: known are "
        f"{', '.join(blocks.ACTIVATIONS)}."
      )
    # Half of the encoder's buckets are for each direction, and half of these
    # hold one distance each.
    if self.num_buckets < 4 or self.num_buckets % 4:
      raise ValueError(
        f"num_buckets must be a multiple of 4; got {self.num_buckets}."
      )
    if self.max_distance <= self.num_buckets // 2:
      raise ValueError(
        f"max_distance={self.max_distance} must exceed half of "
        f"num_buckets={self.num_buckets}."
      )

  @property
  def num_kv_heads(self) -> int:
    """Each head has keys and values of its own."""
    return self.num_heads

  @property
  def mlp_bias(self) -> bool:
    """No matrix has one."""
    return False


class Memory(NamedTuple):
  """What a decoder looks at.

  Attributes:
    states: `[B, S, d]`, the encoder's output.
    mask: bool `[B, S]`, where it may look.
  """

  states: jax.Array
  mask: jax.Array


def buckets(
  num_queries: int, num_keys: int, config: Config, *, both: bool
) -> np.ndarray:
  """The bucket of each distance from query to key: int `[queries, keys]`.

  Half of the buckets hold one distance each, the others ever more, up to
  `max_distance`.

  Args:
    num_queries: positions 0, 1, ...
    num_keys: positions 0, 1, ...
    config: buckets and their reach.
    both: keys on both sides, each with half of the buckets; else only earlier
      keys, and all later ones share bucket 0.
  """
  ahead = np.arange(num_keys)[None] - np.arange(num_queries)[:, None]
  number = config.num_buckets
  first = np.zeros_like(ahead)
  if both:
    number //= 2
    first = np.where(ahead > 0, number, 0)
    distance = np.abs(ahead)
  else:
    distance = np.maximum(-ahead, 0)
  exact = number // 2
  # In float32, as the models were trained: a rounded bucket is another one.
  steps = np.log(np.maximum(distance, 1).astype(np.float32) / exact)
  steps = steps / np.float32(math.log(config.max_distance / exact))
  far = exact + (steps * np.float32(number - exact)).astype(np.int64)
  near = np.where(distance < exact, distance, np.minimum(far, number - 1))
  return first + near


class Attention(nn.Module):
  """Attention of one text to itself, or to another."""

  config: Config

  def setup(self):
    c = self.config
    shape = (c.width, c.num_heads, c.head_width)
    project = lambda: attention.Project(*shape, False)
    self.q, self.k, self.v = project(), project(), project()
    self.out = attention.Combine(*shape, False)

  def __call__(
    self,
    tap: sites.Tap,
    site: str,
    x: jax.Array,
    memory: jax.Array,
    mask: jax.Array,
    bias: jax.Array | None,
  ) -> jax.Array:
    """What the heads add, `[B, P, d]`.

    Args:
      tap: edits and records.
      site: prefix of the sites.
      x: `[B, P, d]`, for the queries.
      memory: `[B, S, d]`, for keys and values.
      mask: bool `[B or 1, 1, P or 1, S]`, True where a query may look.
      bias: `[1, H, P, S]`, or None.
    """
    q, k, v = (
      tap(f"{site}.{name}", part(of))
      for name, part, of in (
        ("q", self.q, x),
        ("k", self.k, memory),
        ("v", self.v, memory),
      )
    )
    wide = jnp.promote_types(q.dtype, jnp.float32)
    scores = jnp.einsum("bpnh,bsnh->bnps", q, k, preferred_element_type=wide)
    if bias is not None:
      scores = scores + bias.astype(wide)
    scores = tap(f"{site}.scores", scores)
    # Finite, so that a query that may look nowhere stays finite too.
    scores = jnp.where(mask, scores, jnp.finfo(wide).min)
    pattern = tap(f"{site}.pattern", jax.nn.softmax(scores).astype(q.dtype))
    z = tap(f"{site}.z", jnp.einsum("bnps,bsnh->bpnh", pattern, v))
    return self.out(tap, site, z)[0]


class Block(nn.Module):
  """Attention, in a decoder cross-attention, and an MLP."""

  config: Config
  is_decoder: bool

  def setup(self):
    c = self.config
    self.norm1, self.norm2 = _norm(c), _norm(c)
    self.attn, self.mlp = Attention(c), blocks.Mlp(c)
    if self.is_decoder:
      self.norm_cross, self.cross = _norm(c), Attention(c)

  def __call__(
    self,
    tap: sites.Tap,
    site: str,
    x: jax.Array,
    mask: jax.Array,
    bias: jax.Array,
    memory: Memory | None = None,
  ) -> jax.Array:
    """`[B, P, d]` to `[B, P, d]`; the memory is a decoder's."""
    x = tap(f"{site}.resid_pre", x)
    near = tap(f"{site}.attn.in", self.norm1(x))
    x = x + self.attn(tap, f"{site}.attn", near, near, mask, bias)
    x = tap(f"{site}.resid_mid", x)
    if self.is_decoder:
      if memory is None:
        raise ValueError("A block of a decoder needs a memory.")
      near, mask = tap(f"{site}.cross.in", self.norm_cross(x)), memory.mask
      mask = mask[:, None, None]
      x = x + self.cross(tap, f"{site}.cross", near, memory.states, mask, None)
      x = tap(f"{site}.resid_cross", x)
    near = tap(f"{site}.mlp.in", self.norm2(x))
    x = x + self.mlp(tap, f"{site}.mlp", near)
    return tap(f"{site}.resid_post", x)


class Stack(nn.Module):
  """Encoder or decoder; the bias for distance is the same in all blocks."""

  config: Config
  is_decoder: bool

  def setup(self):
    c = self.config
    number = c.num_decoder_blocks if self.is_decoder else c.num_blocks
    self.blocks = [Block(c, self.is_decoder) for _ in range(number)]
    shape = (c.num_buckets, c.num_heads)
    self.distance = self.param("distance", INIT, shape)
    self.final_norm = _norm(c)

  def __call__(
    self,
    tap: sites.Tap,
    x: jax.Array,
    mask: jax.Array,
    memory: Memory | None = None,
  ) -> tuple[jax.Array, ...]:
    """The embedding `[B, P, d]` to hidden states, the last one normalised.

    Args:
      tap: edits and records.
      x: `[B, P, d]`.
      mask: bool `[B, P]`, the positions that may be looked at.
      memory: what a decoder looks at.
    """
    name = "decoder" if self.is_decoder else "encoder"
    x = tap(f"{name}.embed", tap(f"{name}.embed.tokens", x))
    length = x.shape[1]
    at = buckets(length, length, self.config, both=not self.is_decoder)
    bias = self.distance[at].transpose(2, 0, 1)[None]
    mask = mask[:, None, None]
    if self.is_decoder:
      mask = mask & np.tril(np.ones((1, 1, length, length), bool))
    hidden = [x]
    for number, block in enumerate(self.blocks):
      site = f"{name}.blocks.{number}"
      x = block(tap, site, hidden[-1], mask, bias, memory)
      hidden.append(x)
    hidden[-1] = tap(f"{name}.final_norm", self.final_norm(hidden[-1]))
    return tuple(hidden)


def _norm(config: Config) -> attention.Norm:
  return attention.Norm("rms", config.width, config.norm_eps)
