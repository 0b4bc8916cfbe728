"""Causal language models: GPT-2, Llama and its relatives, GPT-NeoX.

Inputs: `input_ids` int `[B, P]`; optionally `attention_mask` `[B, P]` (1 where
a token is there, all ones by default), `position_ids` int `[B, P]` (0, 1, ...
by default, whatever the mask, as Hugging Face's forward does), and
`logits_to_keep`, the number of last positions whose logits are computed (a
static int; 0 for all), or the positions, int `[k]` or of every row `[B, k]`.
Then the last block, too, computes no more than its keys and values elsewhere.

Sites: `embed.tokens` and `embed` `[B, P, d]`, those of `stream.block_sites`,
`final_norm.in` and `final_norm` `[B, P or k, d]`, `logits` `[B, P or k, V]`.
`hidden` holds what enters block 0, what each block but the last leaves, and
the final norm's output (`[B, P or k, d]`), like Hugging Face's
`hidden_states`, whose last one is not cut. Under jit, an id or a position that
the tables lack gives NaN; elsewhere it is refused.

Shapes: B batch, P positions, d width, V vocabulary, S slots of a cache.
"""

import dataclasses
from collections.abc import Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from spex_jax import base
from spex_jax.models import attention, blocks, inputs, sites, stream


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config(blocks.Config):
  """Settings of a causal language model.

  Attributes:
    vocab_size: V, the number of tokens.
    max_positions: the most tokens of an input.
    embed_scale: factor of the token embeddings.
    tied: the output matrix is the embedding table.
    logit_cap: c in c tanh(logit / c), or None.
  """

  vocab_size: int
  max_positions: int
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


class Decoder(nn.Module):
  """Embedding, blocks, final norm, output matrix."""

  config: Config

  def setup(self):
    c = self.config
    self.tokens = inputs.Table(c.vocab_size, c.width)
    if c.rotary is None:
      self.positions = inputs.Table(c.max_positions, c.width)
    self.blocks = [blocks.Block(c, number) for number in range(c.num_blocks)]
    self.final_norm = attention.Norm(c.norm, c.width, c.norm_eps, c.rules.norm)
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
    text = (input_ids, attention_mask, position_ids)
    x = self.enter(tap, 0, *text)
    return self.resume(tap, x, 0, *text, logits_to_keep)

  def enter(
    self,
    tap: sites.Tap,
    stop: int,
    input_ids: base.Array,
    attention_mask: base.Array | None = None,
    position_ids: base.Array | None = None,
    logits_to_keep: int | base.Array = 0,
  ) -> jax.Array:
    """The stream `[B, P, d]` that enters block `stop`."""
    del logits_to_keep  # Of `resume`.
    ids, positions, _ = self._places(input_ids, position_ids)
    x = self._embed(tap, ids, positions)
    if stop:
      contexts = self._contexts(input_ids, attention_mask, position_ids)
      for block, context in zip(self.blocks[:stop], contexts):
        x, _ = block(tap, x, context)
    return x

  def resume(
    self,
    tap: sites.Tap,
    x: jax.Array,
    start: int,
    input_ids: base.Array,
    attention_mask: base.Array | None = None,
    position_ids: base.Array | None = None,
    logits_to_keep: int | base.Array = 0,
  ) -> tuple[jax.Array, tuple[jax.Array, ...]]:
    """What `__call__` gives, from the stream that enters block `start`."""
    c = self.config
    contexts = self._contexts(input_ids, attention_mask, position_ids)
    length = input_ids.shape[1]
    keep = _check_keep(logits_to_keep, length)
    early = None if start == c.num_blocks else _fewer(keep, length)
    hidden = []
    for number in range(start, c.num_blocks):
      hidden.append(x)
      context = contexts[number]
      if number == c.num_blocks - 1 and early is not None:
        context = context._replace(keep=early)
        tap.keep(early, length)
      x, _ = self.blocks[number](tap, x, context)
    x = blocks.final(tap, self.final_norm, x)
    late = keep is not None and early is None
    return self._logits(tap, sites.take(x, keep) if late else x), (*hidden, x)

  def extend(
    self,
    tap: sites.Tap,
    input_ids: jax.Array,
    start: jax.Array | int,
    caches: Sequence[attention.Cache],
    logits_at: jax.Array | None = None,
    attention_mask: base.Array | None = None,
    position_ids: base.Array | None = None,
  ) -> tuple[jax.Array, tuple[attention.Cache, ...]]:
    """Runs further tokens behind those that the caches hold.

    Token j of row b takes slot `start[b] + j`, and attends to all slots up to
    it that `attention_mask` shows; or to those that are shown to it, so that
    the tokens may be branches of a tree.

    Args:
      tap: the tap of this forward, which edits and records.
      input_ids: int `[B, Q]`, the ids of the further tokens.
      start: int `[B]`, or a static number, the same for all rows.
      caches: one per block, of S slots; `start + Q` must not exceed S.
      logits_at: int `[B]`, the one token of each row whose logits are
        computed, or `[B, k]`; all by default. As for `logits_to_keep`, the
        last block does no more.
      attention_mask: `[B or 1, S]`, of the slots; all ones by default. Or
        `[1, Q, S]`, what each token attends to, with a static start: then
        windows count positions, which of slots before it are their numbers.
      position_ids: int `[B or 1, Q]`; the slots by default.

    Returns:
      Logits `[B, Q or k or 1, V]`, and the caches with these tokens.
    """
    c = self.config
    num_slots = caches[0].k.shape[1]
    length = input_ids.shape[1]
    first = jnp.full(1, start) if isinstance(start, int) else start
    slots = first[:, None] + jnp.arange(length)[None]
    positions, num = slots, num_slots
    if position_ids is not None:
      positions, num = jnp.asarray(position_ids), c.max_positions
    keep = None
    if logits_at is not None:
      keep = logits_at if logits_at.ndim == 2 else logits_at[:, None]
    early = _fewer(keep, length)
    cos_sin = blocks.rotations(c, positions, num, num_slots)
    if length < num_slots:
      tap.keep(slots[0] if isinstance(start, int) else slots, num_slots)
    x = self._embed(tap, input_ids, positions)
    new: list[Any] = []
    for number, block in enumerate(self.blocks):
      window = c.window(number)
      if attention_mask is not None and attention_mask.ndim == 3:
        seen = inputs.check_bool(attention_mask)[:, None]
        if window is not None:
          held = jnp.arange(num_slots).at[slots[0]].set(positions[0])
          near = held[None] > positions[0][:, None] - window
          seen = seen & near[None, None]
      else:
        seen = attention.causal(slots, num_slots, window)
        if attention_mask is not None:
          seen = seen & inputs.check_bool(attention_mask)[:, None, None]
      context = attention.Context(seen, cos_sin[number], start)
      if number == c.num_blocks - 1 and early is not None:
        context = context._replace(keep=early)
        tap.keep(early, length)
      x, cache = block(tap, x, context, caches[number])
      new.append(cache)
    x = blocks.final(tap, self.final_norm, x)
    if keep is not None and early is None:
      x = sites.take(x, keep)
    return self._logits(tap, x), tuple(new)

  def _places(self, input_ids, position_ids):
    """Checked ids and positions `[1 or B, P]`, and a table's rows for them."""
    c = self.config
    ids = inputs.check_ids(input_ids, c.vocab_size, c.max_positions)
    if position_ids is None:
      return ids, np.arange(ids.shape[1])[None], ids.shape[1]
    inputs.check_range(position_ids, "position_ids", c.max_positions, ids.shape)
    return ids, jnp.asarray(position_ids), c.max_positions

  def _contexts(self, input_ids, attention_mask, position_ids):
    """What each block attends to."""
    c = self.config
    ids, positions, num = self._places(input_ids, position_ids)
    length = ids.shape[1]
    mask = inputs.check_mask(attention_mask, ids.shape)
    slots = jnp.arange(length)[None]
    seen = {
      window: attention.causal(slots, length, window) & mask[:, None, None]
      for window in {c.window(number) for number in range(c.num_blocks)}
    }
    cos_sin = blocks.rotations(c, positions, num)
    return [
      attention.Context(seen[c.window(number)], cos_sin[number])
      for number in range(c.num_blocks)
    ]

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
    names += stream.block_sites(config, number)
  names += ["final_norm.in", "final_norm", "logits"]
  return sites.Network(
    module=Decoder(config),
    config=config,
    sites=tuple(names),
    example={"input_ids": jax.ShapeDtypeStruct((1, 1), jnp.int32)},
    optional=("attention_mask", "position_ids", "logits_to_keep"),
    **stream.edges(config),
  )


def _check_keep(
  positions: int | base.Array, length: int
) -> sites.Positions | None:
  """`logits_to_keep`, or None where all of `length` positions are kept."""
  if not isinstance(positions, int):
    positions = jnp.asarray(positions)
    if positions.ndim not in (1, 2):
      raise ValueError(
        "logits_to_keep must be a static int, int [k] or int [B, k]; got an "
        f"array {positions.shape}. Under jit, close over the number."
      )
    return positions
  if not 0 <= positions <= length:
    raise ValueError(
      f"logits_to_keep must lie in 0..{length}; got {positions}."
    )
  return positions if 0 < positions < length else None


def _fewer(keep: sites.Positions | None, length: int) -> sites.Positions | None:
  """The positions if some are left out, not only moved; else None."""
  if keep is None or isinstance(keep, int):
    return keep
  return keep if keep.shape[-1] < length else None
