"""Causal language models: GPT-2, Llama and its relatives, GPT-NeoX.

Inputs: `input_ids` int `[B, P]`; optionally `attention_mask` `[B, P]` (1 where
a token is there, all ones by default), `position_ids` int `[B, P]` (0, 1, ...
by default, whatever the mask, as Hugging Face's forward does), and
`logits_to_keep`, the number of last positions whose logits are computed (a
static int; 0 for all), or the positions, int `[k]`.

Sites: `embed.tokens` and `embed` `[B, P, d]`, those of `stream.block_sites`,
`final_norm.in` and `final_norm` `[B, P, d]`, `logits` `[B, P or k, V]`.
`hidden` holds what enters block 0, what each block but the last leaves, and
the final norm's output, like Hugging Face's `hidden_states`. Under jit, an id
or a position that the tables lack gives NaN; elsewhere it is refused.

Shapes: B batch, P positions, d width, V vocabulary, S slots of a cache.
"""

import dataclasses
from collections.abc import Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from spex_jax import base
from spex_jax.models import attention, blocks, inputs, rope, sites, stream


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config(blocks.Config):
  """Settings of a causal language model.

  Attributes:
    vocab_size: V.
    max_positions: the longest input.
    rotary: rotary embedding, or None for a learned table of positions.
    embed_scale: factor of the token embeddings.
    tied: the output matrix is the embedding table.
    logit_cap: c in c tanh(logit / c), or None.
  """

  vocab_size: int
  max_positions: int
  rotary: rope.Rope | None = None
  embed_scale: float = 1.0
  tied: bool = True
  logit_cap: float | None = None

  def __post_init__(self):
    super().__post_init__()
    if self.order == "post":
      raise ValueError("A causal model here has its norms before the blocks.")
    if self.vocab_size < 1 or self.max_positions < 1:
      raise ValueError(
        f"Sizes of a transformer must be at least 1; got {self}."
      )
    if self.rotary is not None and self.rotary.width > self.head_width:
      raise ValueError(
        f"RoPE rotates {self.rotary.width} entries of a head of "
        f"{self.head_width}."
      )


class Decoder(nn.Module):
  """Embedding, blocks, final norm, output matrix."""

  config: Config

  def setup(self):
    c = self.config
    self.tokens = inputs.Table(c.vocab_size, c.width)
    if c.rotary is None:
      self.positions = inputs.Table(c.max_positions, c.width)
    self.blocks = [blocks.Block(c, number) for number in range(c.num_blocks)]
    self.final_norm = attention.Norm(c.norm, c.width, c.norm_eps)
    if not c.tied:
      self.head = nn.Dense(c.vocab_size, use_bias=False)

  def __call__(
    self,
    tap: sites.Tap,
    input_ids: base.Array,
    attention_mask: base.Array | None = None,
    position_ids: base.Array | None = None,
    logits_to_keep: int | base.Array = 0,
  ) -> tuple[jax.Array, tuple[jax.Array, ...]]:
    """Logits `[B, P or k, V]` and the hidden states, each `[B, P, d]`."""
    c = self.config
    ids = inputs.check_ids(input_ids, c.vocab_size, c.max_positions)
    length = ids.shape[1]
    slots = jnp.arange(length)[None]
    if position_ids is None:
      positions, num = slots, length
    else:
      positions, num = jnp.asarray(position_ids), c.max_positions
      inputs.check_range(positions, "position_ids", c.max_positions, ids.shape)
    mask = inputs.check_mask(attention_mask, ids.shape)
    seen = {
      window: attention.causal(slots, length, window) & mask[:, None, None]
      for window in {c.window(number) for number in range(c.num_blocks)}
    }
    cos_sin = self._cos_sin(positions, num)
    x = self._embed(tap, ids, positions)
    hidden = []
    for number, block in enumerate(self.blocks):
      hidden.append(x)
      context = attention.Context(seen[c.window(number)], cos_sin)
      x, _ = block(tap, x, context)
    x = self._final(tap, x)
    logits = self._logits(tap, _keep(x, logits_to_keep))
    return logits, (*hidden, x)

  def extend(
    self,
    tap: sites.Tap,
    input_ids: jax.Array,
    start: jax.Array,
    caches: Sequence[attention.Cache],
    logits_at: jax.Array | None = None,
  ) -> tuple[jax.Array, tuple[attention.Cache, ...]]:
    """Runs further tokens behind those that the caches hold.

    Token j of row b takes slot and position `start[b] + j`, and attends to
    all slots up to it.

    Args:
      tap: of this forward.
      input_ids: int `[B, Q]`.
      start: int `[B]`.
      caches: one per block, of S slots; `start + Q` must not exceed S.
      logits_at: int `[B]`, the one token of each row whose logits are
        computed; all by default.

    Returns:
      Logits `[B, Q or 1, V]`, and the caches with these tokens.
    """
    c = self.config
    num_slots = caches[0].k.shape[1]
    step = jnp.arange(input_ids.shape[1])[None]
    positions = start[:, None] + step
    cos_sin = self._cos_sin(positions, num_slots)
    x = self._embed(tap, input_ids, positions)
    new: list[Any] = []
    for number, block in enumerate(self.blocks):
      seen = attention.causal(positions, num_slots, c.window(number))
      context = attention.Context(seen, cos_sin, start)
      x, cache = block(tap, x, context, caches[number])
      new.append(cache)
    x = self._final(tap, x)
    if logits_at is not None:
      x = jnp.take_along_axis(x, logits_at[:, None, None], axis=1)
    return self._logits(tap, x), tuple(new)

  def _embed(self, tap, ids, positions):
    x = self.tokens(ids)
    if self.config.embed_scale != 1:
      x = x * jnp.asarray(self.config.embed_scale, x.dtype)
    x = tap("embed.tokens", x)
    if self.config.rotary is None:
      x = x + self.positions(positions)
    x = tap("embed", x)
    tap.write(x[:, :, None])
    return x

  def _cos_sin(self, positions, num):
    """Rows of the rotary table of `num` positions, or None."""
    if self.config.rotary is None:
      return None
    table = rope.table(self.config.rotary, num)
    table = jnp.asarray(table, jnp.result_type(float))
    return table.at[:, positions].get(
      mode="fill", fill_value=jnp.nan, wrap_negative_indices=False
    )

  def _final(self, tap, x):
    if tap.cuts:
      x = tap.read("final_norm.in", x, 1)[:, :, 0]
    return tap("final_norm", self.final_norm(tap("final_norm.in", x)))

  def _logits(self, tap, x):
    c = self.config
    logits = self.tokens.attend(x) if c.tied else self.head(x)
    if c.logit_cap is not None:
      logits = c.logit_cap * jnp.tanh(logits / c.logit_cap)
    return tap("logits", logits)


def network(config: Config) -> sites.Network:
  """The network of `config`, without parameters."""
  names = ["embed.tokens", "embed"]
  for number in range(config.num_blocks):
    names += stream.block_sites(config, number, config.rotary is not None)
  names += ["final_norm.in", "final_norm", "logits"]
  return sites.Network(
    module=Decoder(config),
    config=config,
    sites=tuple(names),
    example={"input_ids": jax.ShapeDtypeStruct((1, 1), jnp.int32)},
    optional=("attention_mask", "position_ids", "logits_to_keep"),
    writers=stream.writers(config),
    writer_sites=stream.writer_sites(config),
    readers=stream.readers(config),
  )


def _keep(x: jax.Array, positions: int | base.Array) -> jax.Array:
  """The last positions of `[B, P, d]`, or those listed."""
  if not isinstance(positions, int):
    positions = jnp.asarray(positions)
    if positions.ndim != 1:
      raise ValueError(
        "logits_to_keep must be a static int, or int [k]; got an array "
        f"{positions.shape}. Under jit, close over the number."
      )
    return x[:, positions]
  if not 0 <= positions <= x.shape[1]:
    raise ValueError(
      f"logits_to_keep must lie in 0..{x.shape[1]}; got {positions}."
    )
  return x[:, -positions:] if positions else x
