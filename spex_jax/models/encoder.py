"""Bidirectional text encoders: BERT, DistilBERT, RoBERTa, with their heads.

A masked language model gives the logits of every token, `[B, P, V]`, by a
dense layer, its activation, a norm and a table, which is that of the
embeddings or its own. It has the site `head` `[B, P, d]` behind that norm, and
no `pooled`.

Inputs: `input_ids` int `[B, P]`; optionally `attention_mask` `[B, P]` (all
ones by default), `position_ids` `[B, P]` (0, 1, ... by default; of RoBERTa,
too, where Hugging Face's count on from `pad_id + 1`) and `token_type_ids`
`[B, P]` (zeros), where the model has types. A classifier reads the first token
through a dense layer, `pooled` `[B, d]`. Without a head, `pooled` is the mean
over the tokens that the mask keeps, and `logits` is that embedding at length 1
(as sentence-transformers compute it).

Sites: `embed.tokens` and `embed` `[B, P, d]` (after the norm), those of
`stream.block_sites`, `pooled`, `logits` `[B, C]` or `[B, d]`. `hidden` holds
what enters block 0 and what each block leaves. The norms stand between the
blocks' sums, so there is no stream whose edges could be cut.

Shapes: B batch, P positions, d width, C classes.
"""

import dataclasses

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from spex_jax import base
from spex_jax.models import attention, blocks, inputs, sites, stream

_POOLS = {"tanh": jnp.tanh, "relu": nn.relu}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config(blocks.Config):
  """Settings of an encoder.

  Attributes:
    vocab_size: number of tokens.
    num_positions: rows of the table of positions.
    num_types: rows of the table of token types, 0 without one.
    pad_id: of RoBERTa, whose positions count from `pad_id + 1` the tokens
      that are not padding; None counts from 0.
    num_labels: C, or 0 for an embedding.
    pool: the activation of the classifier's dense layer, "tanh" or "relu".
    token_head: the activation of a masked language model's head, or "" without
      such a head.
    tied: the head's table is that of the embeddings.
  """

  vocab_size: int
  num_positions: int
  num_types: int = 0
  pad_id: int | None = None
  num_labels: int = 0
  pool: str = "tanh"
  token_head: str = ""
  tied: bool = True

  def __post_init__(self):
    super().__post_init__()
    if self.order != "post":
      raise ValueError("An encoder here has its norms behind the sums.")
    if self.pool not in _POOLS:
      raise ValueError(f"Unknown pool {self.pool!r}; one of {list(_POOLS)}.")
    if self.token_head and self.token_head not in blocks.ACTIVATIONS:
      raise ValueError(f"Unknown activation {self.token_head!r} of the head.")
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
    self.positions = inputs.Table(c.num_positions, c.width)
    if c.num_types:
      self.types = inputs.Table(c.num_types, c.width)
    norm = lambda: attention.Norm(c.norm, c.width, c.norm_eps, c.rules.norm)
    self.embed_norm = norm()
    self.blocks = [blocks.Block(c, number) for number in range(c.num_blocks)]
    if c.num_labels:
      self.pooler = nn.Dense(c.width)
      self.classifier = nn.Dense(c.num_labels)
    if c.token_head:
      self.head_dense = nn.Dense(c.width)
      self.head_norm = norm()
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
    mask = inputs.check_mask(attention_mask, ids.shape)
    x = tap("embed.tokens", self.tokens(ids))
    x = x + self.positions(self._positions(ids, position_ids))
    if c.num_types:
      types = jnp.zeros_like(ids) if token_type_ids is None else token_type_ids
      x = x + self.types(
        inputs.check_range(types, "token_type_ids", c.num_types, ids.shape)
      )
    x = tap("embed", self.embed_norm(x))
    context = attention.Context(mask[:, None, None])
    for block in self.blocks[:stop]:
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
    del token_type_ids, position_ids  # Of `enter`.
    c = self.config
    mask = inputs.check_mask(attention_mask, np.shape(input_ids))
    hidden = [x]
    context = attention.Context(mask[:, None, None])
    for block in self.blocks[start:]:
      x, _ = block(tap, x, context)
      hidden.append(x)
    if c.token_head:
      return tap("logits", self._of_tokens(tap, x)), tuple(hidden)
    if c.num_labels:
      pooled = tap("pooled", _POOLS[c.pool](self.pooler(x[:, 0])))
      logits = self.classifier(pooled)
    else:
      pooled = tap("pooled", mean(x, mask))
      logits = unit(pooled)
    return tap("logits", logits), tuple(hidden)

  def _of_tokens(self, tap, x):
    act = blocks.ACTIVATIONS[self.config.token_head]
    x = tap("head", self.head_norm(act(self.head_dense(x))))
    logits = self.tokens.attend(x) if self.config.tied else self.head(x)
    return logits + self.head_bias[None, None]

  def _positions(self, ids, position_ids):
    pad = self.config.pad_id
    if position_ids is not None:
      limit = self.config.max_positions
      inputs.check_range(position_ids, "position_ids", limit, ids.shape)
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
    names += stream.block_sites(config, number, rotary=False)
  types = ("token_type_ids",) if config.num_types else ()
  return sites.Network(
    module=Encoder(config),
    config=config,
    sites=(*names, "head" if config.token_head else "pooled", "logits"),
    example={"input_ids": jax.ShapeDtypeStruct((1, 1), jnp.int32)},
    no_edges="the norms of this encoder stand behind the sums, so that what "
    "a head writes does not add up to what is read later; use edits.",
    optional=("attention_mask", "position_ids", *types),
  )
