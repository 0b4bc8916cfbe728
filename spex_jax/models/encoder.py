"""Bidirectional text encoders: BERT and its kin, ModernBERT, with their heads.

A masked language model gives the logits of every token, `[B, P, V]`, by a
dense layer, its activation, a norm and a table, which is that of the
embeddings or its own. It has the site `head` `[B, P, d]` behind that norm, and
no `pooled`.

Inputs: `input_ids` int `[B, P]`; optionally `attention_mask` `[B, P]` (all
ones by default), `position_ids` `[B, P]` (0, 1, ... by default; of RoBERTa,
too, where Hugging Face's count on from `pad_id + 1`) and `token_type_ids`
`[B, P]` (zeros), where the model has types. A classifier reads the first token,
or the mean over those that the mask keeps, through a dense layer, `pooled`
`[B, d]`. Without a head, `pooled` is that mean, and `logits` is that embedding
at length 1 (as sentence-transformers compute it).

Sites: `embed.tokens` and `embed` `[B, P, d]` (after the norm), those of
`stream.block_sites`, `pooled`, `logits` `[B, C]` or `[B, d]`. `hidden` holds
what enters block 0 and what each block leaves. In BERT and its kin the norms
stand between the blocks' sums, so there is no stream whose edges could be cut.
In ModernBERT they stand before attention and MLP, with a last one behind the
blocks (`final_norm.in`, `final_norm`), whose output `hidden` ends with.
Windows, there, reach to either side, and count places of the row.

Shapes: B batch, P positions, d width, C classes.
"""

import dataclasses
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from spex_jax import base
from spex_jax.models import attention, blocks, inputs, sites, stream


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config(blocks.Config):
  """Settings of an encoder.

  Attributes:
    vocab_size: the number of tokens.
    num_positions: rows of the table of positions; without a table, where
      positions are rotary, the longest input.
    num_types: rows of the table of token types, 0 without one.
    pad_id: the pad id of RoBERTa, whose positions count from `pad_id + 1` the
      tokens that are not padding; None counts from 0.
    num_labels: C, or 0 for an embedding.
    pool: the activation of the classifier's dense layer.
    pool_mean: the classifier reads the mean over kept tokens, not the first.
    pool_norm: a norm stands behind that activation.
    token_head: the activation of a masked language model's head, or "" without
      such a head.
    tied: the head's table is that of the embeddings.
    dense_bias: of the dense layer of either head.
    token_bias: the token bias of the logits of tokens.
  """

  vocab_size: int
  num_positions: int
  num_types: int = 0
  pad_id: int | None = None
  num_labels: int = 0
  pool: str = "tanh"
  pool_mean: bool = False
  pool_norm: bool = False
  token_head: str = ""
  tied: bool = True
  dense_bias: bool = True
  token_bias: bool = True

  def __post_init__(self):
    super().__post_init__()
    if self.order not in ("pre", "post"):
      raise ValueError(
        "An encoder here has its norms behind the sums, or before the parts."
      )
    for name in (self.pool, self.token_head):
      if name and name not in blocks.ACTIVATIONS:
        raise ValueError(f"Unknown activation {name!r} of the head.")
    if self.token_head and self.num_labels:
      raise ValueError("An encoder has one head: of classes or of tokens.")

  @property
  def max_positions(self) -> int:
    """The longest input."""
    skipped = 0 if self.pad_id is None else self.pad_id + 1
    return self.num_positions - skipped


class Encoder(nn.Module):
  """Embeddings, blocks, and a head."""

  config: Config

  def setup(self):
    c = self.config
    self.tokens = inputs.Table(c.vocab_size, c.width)
    if c.rotary is None:
      self.positions = inputs.Table(c.num_positions, c.width)
    if c.num_types:
      self.types = inputs.Table(c.num_types, c.width)
    norm = lambda: attention.Norm(c.norm, c.width, c.norm_eps, c.rules.norm)
    self.embed_norm = norm()
    self.blocks = [blocks.Block(c, number) for number in range(c.num_blocks)]
    if c.order == "pre":
      self.final_norm = norm()
    if c.num_labels:
      self.pooler = nn.Dense(c.width, use_bias=c.dense_bias)
      if c.pool_norm:
        self.pooler_norm = norm()
      self.classifier = nn.Dense(c.num_labels)
    if c.token_head:
      self.head_dense = nn.Dense(c.width, use_bias=c.dense_bias)
      self.head_norm = norm()
      if c.token_bias:
        self.head_bias = self.param(
          "head_bias", nn.initializers.zeros, (c.vocab_size,)
        )
      if not c.tied:
        self.head = nn.Dense(c.vocab_size, use_bias=False)

  def __call__(
    self,
    tap: sites.Tap,
    input_ids: base.Array,
    attention_mask: base.Array | None = None,
    token_type_ids: base.Array | None = None,
    position_ids: base.Array | None = None,
  ) -> tuple[jax.Array, tuple[jax.Array, ...]]:
    """Logits `[B, C]`, `[B, P, V]` or embeddings `[B, d]`; hidden states."""
    text = (input_ids, attention_mask, token_type_ids, position_ids)
    return self.resume(tap, self.enter(tap, 0, *text), 0, *text)

  def enter(
    self,
    tap: sites.Tap,
    stop: int,
    input_ids: base.Array,
    attention_mask: base.Array | None = None,
    token_type_ids: base.Array | None = None,
    position_ids: base.Array | None = None,
  ) -> jax.Array:
    """What enters block `stop`: `[B, P, d]`."""
    c = self.config
    ids = inputs.check_ids(input_ids, c.vocab_size, c.max_positions)
    contexts = self._contexts(ids, attention_mask, position_ids)
    x = tap("embed.tokens", self.tokens(ids))
    if c.rotary is None:
      x = x + self.positions(self._positions(ids, position_ids))
    if c.num_types:
      types = jnp.zeros_like(ids) if token_type_ids is None else token_type_ids
      x = x + self.types(
        inputs.check_range(types, "token_type_ids", c.num_types, ids.shape)
      )
    x = tap("embed", self.embed_norm(x))
    tap.write(x[:, :, None])
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
    token_type_ids: base.Array | None = None,
    position_ids: base.Array | None = None,
  ) -> tuple[jax.Array, tuple[jax.Array, ...]]:
    """What `__call__` gives, from what enters block `start`."""
    del token_type_ids  # Of `enter`.
    c = self.config
    contexts = self._contexts(input_ids, attention_mask, position_ids)
    hidden = [x]
    for block, context in zip(self.blocks[start:], contexts[start:]):
      x, _ = block(tap, x, context)
      hidden.append(x)
    if c.order == "pre":
      x = hidden[-1] = blocks.final(tap, self.final_norm, x)
    if c.token_head:
      return tap("logits", self._of_tokens(tap, x)), tuple(hidden)
    mask = inputs.check_mask(attention_mask, np.shape(input_ids))
    if c.num_labels:
      read = mean(x, mask) if c.pool_mean else x[:, 0]
      pooled = blocks.ACTIVATIONS[c.pool](self.pooler(read))
      pooled = self.pooler_norm(pooled) if c.pool_norm else pooled
      pooled = tap("pooled", pooled)
      logits = self.classifier(pooled)
    else:
      pooled = tap("pooled", mean(x, mask))
      logits = unit(pooled)
    return tap("logits", logits), tuple(hidden)

  def _contexts(self, input_ids, attention_mask, position_ids):
    """What each block attends to."""
    c = self.config
    length = np.shape(input_ids)[1]
    mask = inputs.check_mask(attention_mask, np.shape(input_ids))
    whole = mask[:, None, None]
    seen: dict[int | None, jax.Array] = {None: whole}
    for window in c.windows:
      if window is not None:
        seen[window] = whole & attention.around(length, window)
    positions, num = np.arange(length)[None], length
    if position_ids is not None:
      shape, limit = np.shape(input_ids), c.max_positions
      inputs.check_range(position_ids, "position_ids", limit, shape)
      positions, num = jnp.asarray(position_ids), limit
    cos_sin = blocks.rotations(c, positions, num)
    return [
      attention.Context(seen[c.window(number)], cos_sin[number])
      for number in range(c.num_blocks)
    ]

  def _of_tokens(self, tap, x):
    c = self.config
    act = blocks.ACTIVATIONS[c.token_head]
    x = tap("head", self.head_norm(act(self.head_dense(x))))
    logits = self.tokens.attend(x) if c.tied else self.head(x)
    return logits + self.head_bias[None, None] if c.token_bias else logits

  def _positions(self, ids, position_ids):
    pad = self.config.pad_id
    if position_ids is not None:
      return jnp.asarray(position_ids) + (0 if pad is None else pad + 1)
    if pad is None:
      return jnp.arange(ids.shape[1])[None]
    real = (ids != pad).astype(jnp.int32)
    return jnp.cumsum(real, axis=1) * real + pad


def mean(x: jax.Array, mask: jax.Array) -> jax.Array:
  """The mean over the kept positions of `[B, P, d]`; NaN without any."""
  kept = mask[:, :, None].astype(jnp.promote_types(x.dtype, jnp.float32))
  total = (x * kept).sum(axis=1)
  return (total / kept.sum(axis=1)).astype(x.dtype)


def unit(x: jax.Array) -> jax.Array:
  """`x` `[B, d]` at length 1."""
  wide = x.astype(jnp.promote_types(x.dtype, jnp.float32))
  length = jnp.linalg.norm(wide, axis=-1, keepdims=True)
  return (wide / jnp.maximum(length, 1e-12)).astype(x.dtype)


def network(config: Config) -> sites.Network:
  """The network of `config`, without parameters."""
  names = ["embed.tokens", "embed"]
  for number in range(config.num_blocks):
    names += stream.block_sites(config, number)
  edges: dict[str, Any] = {
    "no_edges": "the norms of this encoder stand behind the sums, so that what "
    "a head writes does not add up to what is read later; use edits."
  }
  if config.order == "pre":
    names += ["final_norm.in", "final_norm"]
    edges = stream.edges(config)
  types = ("token_type_ids",) if config.num_types else ()
  return sites.Network(
    module=Encoder(config),
    config=config,
    sites=(*names, "head" if config.token_head else "pooled", "logits"),
    example={"input_ids": jax.ShapeDtypeStruct((1, 1), jnp.int32)},
    optional=("attention_mask", "position_ids", *types),
    **edges,
  )
