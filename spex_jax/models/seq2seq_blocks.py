"""Blocks of encoder-decoders: the places of tokens, blocks, stacks of them.

Two orders are known. `pre` (T5): a norm before each part, which is added to the
stream, and one behind the last block. `post` (Marian): the norm follows each
sum, and its result is the new stream. Places enter as a learnt bias of
attention for the distance between two tokens, the same in all blocks of a
stack, or as sinusoids added to the embedding.

Sites are listed in `seq2seq`.

Shapes: B batch, P positions, S keys (P, the positions of a memory, or the slots
of a cache), d width, H heads, h head width.
Sources: Raffel et al., arXiv:1910.10683 (distances); Vaswani et al.,
arXiv:1706.03762 (sinusoids).
"""

import dataclasses
import math
from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from spex_jax import base
from spex_jax.models import attention, blocks, sites


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config(blocks.Config):
  """Settings of an encoder-decoder; `num_blocks` are the encoder's.

  Attributes:
    vocab_size: V, the number of tokens.
    num_decoder_blocks: 0 for an encoder alone.
    num_buckets: the number of buckets of distances; 0 for sinusoids.
    max_distance: from which on all distances are one.
    max_positions: the longest text on either side; None for any length, where
      only distances count.
    embed_scale: factor of the token embeddings.
    output_scale: factor of the decoder's output, before the head.
    tied: logits from the token embeddings; else a head of its own.
    logits_bias: whether logits have a bias.
    start_id: the id of the decoder's first token.
    suppressed: ids of tokens that are never generated.
  """

  vocab_size: int
  num_decoder_blocks: int
  num_buckets: int = 0
  max_distance: int = 128
  max_positions: int | None = None
  embed_scale: float = 1.0
  output_scale: float = 1.0
  tied: bool = True
  logits_bias: bool = False
  start_id: int = 0
  suppressed: tuple[int, ...] = ()

  def __post_init__(self):
    super().__post_init__()
    if self.vocab_size < 1 or self.num_decoder_blocks < 0:
      raise ValueError(
        f"Sizes of an encoder-decoder must be at least 1; got {self}."
      )
    if self.order not in ("pre", "post"):
      raise ValueError(
        f"An encoder-decoder has its norms pre or post; got {self.order!r}."
      )
    bad = [
      token
      for token in (self.start_id, *self.suppressed)
      if not 0 <= token < self.vocab_size
    ]
    if bad:
      raise ValueError(
        f"Token {bad[0]} lies outside the vocabulary of {self.vocab_size}."
      )
    if not self.num_buckets:
      if self.max_positions is None or self.max_positions < 1:
        raise ValueError(
          f"Sinusoids need max_positions >= 1; got {self.max_positions}."
        )
      return
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


class Memory(NamedTuple):
  """What a decoder looks at.

  Attributes:
    states: `[B, S, d]`, the encoder's output.
    mask: bool `[B or 1, S]`, where it may look.
  """

  states: jax.Array
  mask: jax.Array


class Known(NamedTuple):
  """A memory of which a block has keys and values already, and its mask."""

  states: attention.Cache
  mask: jax.Array


class Caches(NamedTuple):
  """What a decoder keeps while it generates.

  Attributes:
    own: of each block, keys and values of the decoder's tokens, `[B, S, H, h]`.
    cross: of each block, those of the encoder's, computed once.
    mask: bool `[B or 1, P]`, which of the encoder's tokens may be seen.
  """

  own: tuple[attention.Cache, ...]
  cross: tuple[attention.Cache, ...]
  mask: jax.Array


class Places(NamedTuple):
  """Where the tokens of a text stand, and what they may see.

  Attributes:
    at: int `[B or 1, P]`.
    mask: bool `[B or 1, 1, P or 1, S]`, True where a query may attend.
    start: the first slot of a cache, as in `attention.Context`.
  """

  at: base.Array
  mask: jax.Array
  start: jax.Array | int | None = None


def buckets(ahead: np.ndarray, config: Config, *, both: bool) -> np.ndarray:
  """The bucket of each distance: int, of the shape of `ahead`.

  Half of the buckets hold one distance each, the others ever more, up to
  `max_distance`.

  Args:
    ahead: int, how far the key is ahead of the query.
    config: the settings `num_buckets` and `max_distance`.
    both: keys on both sides, each with half of the buckets; else only earlier
      keys, and all later ones share bucket 0.
  """
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


def sinusoids(num_positions: int, width: int) -> np.ndarray:
  """What is added at each position: float64 `[num_positions, width]`.

  Sines of p / 10000^(2 i / d) in the first half of the entries, cosines in the
  second, not in turn as in the paper: so Marian has them.
  """
  turns = np.arange(0, width, 2) / width
  angles = np.arange(num_positions)[:, None] / 10000.0**turns
  cosines = np.cos(angles[:, : width // 2])
  return np.concatenate([np.sin(angles), cosines], axis=1)


class Block(nn.Module):
  """Attention, in a decoder cross-attention, and an MLP."""

  config: Config
  is_decoder: bool

  def setup(self):
    c = self.config
    norm = lambda: attention.Norm(c.norm, c.width, c.norm_eps, c.rules.norm)
    self.norm1, self.norm2 = norm(), norm()
    self.attn, self.mlp = attention.Attention(c), blocks.Mlp(c)
    if self.is_decoder:
      self.norm_cross, self.cross = norm(), attention.Attention(c)

  def __call__(
    self,
    tap: sites.Tap,
    site: str,
    x: jax.Array,
    context: attention.Context,
    memory: Memory | Known | None = None,
    cache: attention.Cache | None = None,
  ) -> tuple[jax.Array, attention.Cache | None]:
    """`[B, P, d]` to `[B, P, d]`, and the cache with these tokens.

    Args:
      tap: the tap of this forward, which edits and records.
      site: prefix of the names of its sites.
      x: float `[B, P, d]`, what enters the block.
      context: the context of the attention of the text to itself.
      memory: what a decoder looks at; None in an encoder.
      cache: the cache of the text's own keys and values, or None.

    Raises:
      ValueError: a block of a decoder without a memory.
    """
    post = self.config.order == "post"
    x = tap(f"{site}.resid_pre", x)
    near = tap(f"{site}.attn.in", x if post else self.norm1(x))
    z, cache = self.attn.mix(tap, f"{site}.attn", (near,) * 3, context, cache)
    added, _ = self.attn.out(tap, f"{site}.attn", z)
    x = self._joined(tap, f"{site}.attn", x, added, self.norm1)
    x = tap(f"{site}.resid_mid", x)
    if self.is_decoder:
      if memory is None:
        raise ValueError("A block of a decoder needs a memory.")
      near = tap(f"{site}.cross.in", x if post else self.norm_cross(x))
      if isinstance(memory, Known):
        given, cross = (near,), memory.states
      else:
        given, cross = (near, memory.states, memory.states), None
      seen = attention.Context(memory.mask[:, None, None])
      z, _ = self.cross.mix(tap, f"{site}.cross", given, seen, cross)
      added, _ = self.cross.out(tap, f"{site}.cross", z)
      x = self._joined(tap, f"{site}.cross", x, added, self.norm_cross)
      x = tap(f"{site}.resid_cross", x)
    read = tap(f"{site}.mlp.read", x)
    near = tap(f"{site}.mlp.in", read if post else self.norm2(read))
    added = self.mlp(tap, f"{site}.mlp", near)
    x = self._joined(tap, f"{site}.mlp", x, added, self.norm2)
    return tap(f"{site}.resid_post", x), cache

  def _joined(self, tap, site, x, added, norm):
    if self.config.order == "pre":
      return x + added
    return tap(f"{site}.post_norm", norm(x + added))


class Stack(nn.Module):
  """Encoder or decoder, behind the embedding of its tokens."""

  config: Config
  is_decoder: bool

  def setup(self):
    c = self.config
    number = c.num_decoder_blocks if self.is_decoder else c.num_blocks
    self.blocks = [Block(c, self.is_decoder) for _ in range(number)]
    if c.num_buckets:
      shape = (c.num_buckets, c.num_heads)
      init = nn.initializers.normal(0.05)
      self.distance = self.param("distance", init, shape)
    if c.order == "pre":
      self.final_norm = attention.Norm(
        c.norm, c.width, c.norm_eps, c.rules.norm
      )

  def __call__(
    self,
    tap: sites.Tap,
    x: jax.Array,
    places: Places,
    memory: Memory | None = None,
    caches: Caches | None = None,
  ) -> tuple[tuple[jax.Array, ...], tuple[attention.Cache, ...]]:
    """The tokens' embeddings `[B, P, d]` to hidden states, and own caches.

    The hidden states are what enters block 0 and what each block leaves, the
    last one normalised where there is a final norm.

    Args:
      tap: the tap of this forward, which edits and records.
      x: float `[B, P, d]`, the embeddings of the tokens.
      places: the places of the tokens.
      memory: what a decoder looks at, without caches.
      caches: the caches of a decoder, or None.
    """
    name = "decoder" if self.is_decoder else "encoder"
    x = tap(f"{name}.embed.tokens", x)
    bias = None
    if self.config.num_buckets:
      bias = self._bias(places)
    else:
      x = x + self._sinusoids(places, x.dtype)
    hidden = [tap(f"{name}.embed", x)]
    seen: Memory | Known | None = memory
    context = attention.Context(places.mask, start=places.start, bias=bias)
    kept = []
    for number, block in enumerate(self.blocks):
      own = None
      if caches is not None:
        own = caches.own[number]
        seen = Known(caches.cross[number], caches.mask)
      site = f"{name}.blocks.{number}"
      x, own = block(tap, site, hidden[-1], context, seen, own)
      hidden.append(x)
      if own is not None:
        kept.append(own)
    if self.config.order == "pre":
      hidden[-1] = tap(f"{name}.final_norm", self.final_norm(hidden[-1]))
    return tuple(hidden), tuple(kept)

  def remember(
    self, tap: sites.Tap, states: jax.Array
  ) -> tuple[attention.Cache, ...]:
    """Keys and values of a memory `[B, S, d]`, for each block of a decoder."""
    return tuple(
      block.cross.remember(
        tap, f"decoder.blocks.{number}.cross", states, states
      )
      for number, block in enumerate(self.blocks)
    )

  def _bias(self, places):
    """For the distance of each key from each query: `[B or 1, H, P, S]`."""
    num_keys = places.mask.shape[-1]
    line = np.arange(1 - num_keys, num_keys)
    line = buckets(line, self.config, both=not self.is_decoder)
    ahead = np.arange(num_keys)[None, None] - places.at[..., None]
    at = jnp.asarray(line)[ahead + num_keys - 1]
    return jnp.moveaxis(jnp.asarray(self.distance)[at], -1, 1)

  def _sinusoids(self, places, dtype):
    c = self.config
    table = sinusoids(c.max_positions or 0, c.width)
    table = jnp.asarray(table.astype(np.float32), dtype)
    return table.at[jnp.asarray(places.at)].get(mode="fill")
