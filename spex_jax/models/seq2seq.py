"""Encoder-decoders behind the face of `sites.Network`: T5 and Marian.

Inputs: `input_ids` `[B, P]` and `decoder_input_ids` `[B, D]`, int; optionally
`attention_mask` `[B, P]` and `decoder_attention_mask` `[B, D]`, all ones by
default. An encoder alone takes the first of each.

Sites, in order, `encoder.` before each of the first: `embed.tokens` (scaled)
and `embed` `[B, P, d]` (with sinusoids, where there are some); for each block L
`blocks.L.resid_pre`, `.attn.in` (after the norm, where it comes first),
`.attn.q`, `.attn.k`, `.attn.v` `[B, P, H, h]`, `.attn.scores` (with the bias
for distance, masked afterwards) and `.attn.pattern` `[B, H, P, P]`, `.attn.z`
`[B, P, H, h]`, `.attn.heads` `[B, P, H, d]` (what each head adds; computed
where asked for), `.attn.out`, `.resid_mid`, `.mlp.read` (before the norm),
`.mlp.in`, `.mlp.pre` (of the gate, where gated), `.mlp.neurons` `[B, P, F]`,
`.mlp.out`, `.resid_post`; `final_norm`. Where norms come behind the sums,
`.attn.post_norm` and `.mlp.post_norm` `[B, P, d]` stand behind `out`, and there
is no `final_norm`. Then the same of `decoder.` over D positions, with
`blocks.L.cross.*` and `.resid_cross` between attention and MLP, whose keys are
the encoder's positions; `logits` `[B, D, V]`.

An encoder alone ends with `pooled` `[B, d]`, the mean over the tokens that the
mask keeps, and `logits` `[B, d]`, that embedding at length 1, as `encoder` has
it of a model without a head.

`hidden` holds the decoder's: the embedding, what each block but the last gives,
and the last one's, after the final norm; of an encoder alone, the encoder's.

Shapes: B batch, P positions of the encoder, D of the decoder, d width, H heads,
h head width, F neurons, V tokens, S slots of a cache.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from spex_jax import base
from spex_jax.models import attention, encoder, inputs, sites
from spex_jax.models.seq2seq_blocks import (
  Caches,
  Config,
  Memory,
  Places,
  Stack,
)


class Encoder(nn.Module):
  """An encoder alone."""

  config: Config

  def setup(self):
    c = self.config
    self.tokens = inputs.Table(c.vocab_size, c.width)
    self.encoder = Stack(c, False)

  def __call__(
    self,
    tap: sites.Tap,
    input_ids: base.Array,
    attention_mask: base.Array | None = None,
  ) -> tuple[jax.Array, tuple[jax.Array, ...]]:
    """Ids `[B, P]` to an embedding `[B, d]` and hidden states."""
    hidden, mask = self._read(tap, input_ids, attention_mask)
    pooled = tap("pooled", encoder.mean(hidden[-1], mask))
    return tap("logits", encoder.unit(pooled)), hidden

  def encode(
    self,
    tap: sites.Tap,
    input_ids: base.Array,
    attention_mask: base.Array | None = None,
  ) -> Memory:
    """What a decoder looks at."""
    hidden, mask = self._read(tap, input_ids, attention_mask)
    return Memory(hidden[-1], mask)

  def _read(self, tap, input_ids, attention_mask):
    x = self._embed("input_ids", input_ids)
    shape = x.shape[:2]
    mask = inputs.check_mask(attention_mask, shape)
    places = Places(np.arange(shape[1])[None], mask[:, None, None])
    return self.encoder(tap, x, places)[0], mask

  def _embed(self, name, ids):
    """Rows of the table; outside it NaN, which evaluators refuse."""
    c = self.config
    x = self.tokens(inputs.check_ids(ids, c.vocab_size, c.max_positions, name))
    return x * c.embed_scale if c.embed_scale != 1 else x


class EncoderDecoder(Encoder):
  """Encoder, decoder and head."""

  def setup(self):
    super().setup()
    c = self.config
    self.decoder = Stack(c, True)
    if not c.tied:
      self.head = nn.Dense(c.vocab_size, use_bias=False)
    if c.logits_bias:
      zeros = nn.initializers.zeros
      self.bias = self.param("bias", zeros, (c.vocab_size,))

  def __call__(
    self,
    tap: sites.Tap,
    input_ids: base.Array,
    decoder_input_ids: base.Array,
    attention_mask: base.Array | None = None,
    decoder_attention_mask: base.Array | None = None,
  ) -> tuple[jax.Array, tuple[jax.Array, ...]]:
    """Ids `[B, P]` and `[B, D]` to logits `[B, D, V]` and hidden states."""
    memory = self.encode(tap, input_ids, attention_mask)
    return self.decode(tap, memory, decoder_input_ids, decoder_attention_mask)

  def decode(
    self,
    tap: sites.Tap,
    memory: Memory,
    decoder_input_ids: base.Array,
    decoder_attention_mask: base.Array | None = None,
  ) -> tuple[jax.Array, tuple[jax.Array, ...]]:
    """Logits and hidden states, given what `encode` gave."""
    x = self._embed("decoder_input_ids", decoder_input_ids)
    shape = x.shape[:2]
    name = "decoder_attention_mask"
    mask = inputs.check_mask(decoder_attention_mask, shape, name)
    at = np.arange(shape[1])[None]
    seen = attention.causal(at, shape[1]) & mask[:, None, None]
    hidden, _ = self.decoder(tap, x, Places(at, seen), memory)
    return self._logits(tap, hidden[-1]), hidden

  def begin(
    self,
    tap: sites.Tap,
    num_slots: int,
    input_ids: base.Array,
    attention_mask: base.Array | None = None,
  ) -> Caches:
    """Runs the encoder, and what the decoder keeps of it: room for S tokens."""
    c = self.config
    memory = self.encode(tap, input_ids, attention_mask)
    batch, dtype = len(memory.states), memory.states.dtype
    zeros = jnp.zeros((batch, num_slots, c.num_kv_heads, c.head_width), dtype)
    own = (attention.Cache(zeros, zeros),) * c.num_decoder_blocks
    return Caches(own, self.decoder.remember(tap, memory.states), memory.mask)

  def extend(
    self,
    tap: sites.Tap,
    input_ids: jax.Array,
    start: jax.Array | int,
    caches: Caches,
    logits_at: jax.Array | None = None,
    attention_mask: base.Array | None = None,
  ) -> tuple[jax.Array, Caches]:
    """Runs further tokens of the decoder: see `transformer.Decoder.extend`.

    Ids and masks are the decoder's; of the caches S slots are its own.
    """
    x = self._embed("decoder_input_ids", input_ids)
    num_slots = caches.own[0].k.shape[1]
    first = jnp.full(1, start) if isinstance(start, int) else start
    at = first[:, None] + jnp.arange(x.shape[1])[None]
    if x.shape[1] < num_slots:
      tap.keep(at[0] if isinstance(start, int) else at, num_slots)
    seen = attention.causal(at, num_slots)
    if attention_mask is not None:
      seen = seen & inputs.check_bool(attention_mask)[:, None, None]
    places = Places(at, seen, start)
    hidden, own = self.decoder(tap, x, places, caches=caches)
    x = hidden[-1]
    if logits_at is not None:
      x = sites.take(
        x, logits_at if logits_at.ndim == 2 else logits_at[:, None]
      )
    return self._logits(tap, x), caches._replace(own=own)

  def _logits(self, tap, x):
    c = self.config
    if c.output_scale != 1:
      x = x * c.output_scale
    logits = self.tokens.attend(x) if c.tied else self.head(x)
    if c.logits_bias:
      logits = logits + self.bias[None, None]
    return tap("logits", logits)


def network(config: Config) -> sites.Network:
  """The network of `config`; its inputs are ids, and masks where wanted."""
  ids = jax.ShapeDtypeStruct((1, 2), jnp.int32)
  names = _stack_sites(config, "encoder", config.num_blocks)
  if not config.num_decoder_blocks:
    return sites.Network(
      module=Encoder(config),
      config=config,
      sites=(*names, "pooled", "logits"),
      example={"input_ids": ids},
      no_edges="the sites of this encoder are those of an encoder-decoder, "
      "whose edges are of two streams. Use edits at sites.",
      optional=("attention_mask",),
    )
  names += _stack_sites(config, "decoder", config.num_decoder_blocks)
  return sites.Network(
    module=EncoderDecoder(config),
    config=config,
    sites=(*names, "logits"),
    example={"input_ids": ids, "decoder_input_ids": ids},
    no_edges="edges are of one residual stream, and an encoder-decoder has "
    "two. Use edits at sites.",
    optional=("attention_mask", "decoder_attention_mask"),
  )


def computed_once(site: str) -> bool:
  """Whether a site is passed when generation begins, and not at every step."""
  return site.startswith("encoder.") or site.endswith((".cross.k", ".cross.v"))


def _stack_sites(config: Config, stack: str, number: int) -> list[str]:
  post = config.order == "post"
  steps = ["in", "q", "k", "v", "scores", "pattern", "z", "heads", "out"]
  steps += ["post_norm"] * post
  parts = ["resid_pre", *(f"attn.{step}" for step in steps), "resid_mid"]
  if stack == "decoder":
    parts += [*(f"cross.{step}" for step in steps), "resid_cross"]
  steps = ["read", "in", "pre", "neurons", "out"] + ["post_norm"] * post
  parts += [*(f"mlp.{step}" for step in steps), "resid_post"]
  names = [f"{stack}.embed.tokens", f"{stack}.embed"]
  for block in range(number):
    names += [f"{stack}.blocks.{block}.{part}" for part in parts]
  return names if post else [*names, f"{stack}.final_norm"]
