"""T5 encoder-decoders behind the face of `sites.Network`.

The function of transformers' `T5ForConditionalGeneration`: RMS norms before
each part, learnt biases for the distance between two positions, scores that
are not scaled, no biases in projections; relu or gated.

Sites, in order, `encoder.` before each of the first: `embed.tokens`, `embed`
`[B, P, d]` (the same here); for each block L `blocks.L.resid_pre`, `.attn.in`
(after the norm), `.attn.q`, `.attn.k`, `.attn.v` `[B, P, H, h]`, `.attn.scores`
(with the bias for distance, masked afterwards) and `.attn.pattern`
`[B, H, P, P]`, `.attn.z` `[B, P, H, h]`, `.attn.heads` `[B, P, H, d]` (what
each head adds; computed where asked for), `.attn.out`, `.resid_mid`, `.mlp.in`,
`.mlp.pre` (of the gate, where gated), `.mlp.neurons` `[B, P, F]`, `.mlp.out`,
`.resid_post`; `final_norm`. Then the same of `decoder.` over D positions, with
`blocks.L.cross.*` and `.resid_cross` between attention and MLP, whose keys are
the encoder's positions; `logits` `[B, D, V]`.

`hidden` holds the decoder's: the embedding, what each block but the last gives,
and the last one's after the final norm.

Shapes: B batch, P positions of the encoder, D of the decoder, d width, H heads,
h head width, F neurons, V tokens.
Source: Raffel et al., arXiv:1910.10683.
"""

from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from spex_jax import base
from spex_jax.models import reading, sites, weights
from spex_jax.models.t5_blocks import INIT, Config, Memory, Stack


def config_from_hub(hub: Mapping[str, Any]) -> Config:
  """The settings of a `config.json`.

  Raises:
    ValueError: a setting, or an architecture, that is not implemented, or one
      that is missing.
  """
  reader = reading.Reader(hub, encoder_decoder=True)
  reader.only("is_decoder", False)
  # Of training and of generation.
  reader.ignore("dropout_rate", "n_positions", "output_past")
  num_blocks = reader.get("num_layers")
  proj = reader.get("feed_forward_proj", default="relu")
  gate, _, act = proj.rpartition("-")
  if gate not in ("", "gated"):
    raise ValueError(f"feed_forward_proj={proj!r} is not implemented.")
  # By an old habit of the library, this one name stands for another function.
  act = "gelu_new" if (gate, act) == ("gated", "gelu") else act
  for name, value in (("dense_act_fn", act), ("is_gated_act", bool(gate))):
    said = reader.get(name, default=value)
    if said != value:
      raise ValueError(
        f"{name}={said!r} contradicts feed_forward_proj, which says {value!r}."
      )
  tied = reader.get("tie_word_embeddings", default=True)
  # Later versions of transformers always write that embeddings are tied, and
  # keep here what was said of them first.
  scaled = reader.get("scale_decoder_outputs", default=tied)
  config = Config(
    vocab_size=reader.get("vocab_size"),
    width=reader.get("d_model"),
    num_heads=reader.get("num_heads"),
    head_width=reader.get("d_kv"),
    num_neurons=reader.get("d_ff"),
    num_blocks=num_blocks,
    num_decoder_blocks=reader.get("num_decoder_layers", default=num_blocks),
    activation=act,
    gated=bool(gate),
    num_buckets=reader.get("relative_attention_num_buckets", default=32),
    max_distance=reader.get("relative_attention_max_distance", default=128),
    norm_eps=reader.get("layer_norm_epsilon", default=1e-6),
    tied=tied and scaled,
    scaled=scaled,
  )
  reader.finish()
  return config


class T5(nn.Module):
  """Encoder, decoder and head."""

  config: Config

  def setup(self):
    c = self.config
    self.tokens = self.param("tokens", INIT, (c.vocab_size, c.width))
    self.encoder, self.decoder = Stack(c, False), Stack(c, True)
    if not c.tied:
      self.head = nn.Dense(c.vocab_size, use_bias=False)

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

  def encode(
    self,
    tap: sites.Tap,
    input_ids: base.Array,
    attention_mask: base.Array | None = None,
  ) -> Memory:
    """What the decoder looks at."""
    x = self._embed("input_ids", input_ids)
    mask = _mask("attention_mask", attention_mask, x.shape[:2])
    return Memory(self.encoder(tap, x, mask)[-1], mask)

  def decode(
    self,
    tap: sites.Tap,
    memory: Memory,
    decoder_input_ids: base.Array,
    decoder_attention_mask: base.Array | None = None,
  ) -> tuple[jax.Array, tuple[jax.Array, ...]]:
    """Logits and hidden states, given what `encode` gave."""
    x = self._embed("decoder_input_ids", decoder_input_ids)
    name = "decoder_attention_mask"
    mask = _mask(name, decoder_attention_mask, x.shape[:2])
    hidden = self.decoder(tap, x, mask, memory)
    x = hidden[-1]
    if self.config.scaled:
      x = x * self.config.width**-0.5
    if self.config.tied:
      logits = jnp.einsum("bpd,vd->bpv", x, self.tokens)
    else:
      logits = self.head(x)
    return tap("logits", logits), hidden

  def _embed(self, name: str, ids: base.Array) -> jax.Array:
    """Rows of the table; outside it NaN, which evaluators refuse."""
    if ids.ndim != 2 or 0 in ids.shape:
      raise ValueError(f"{name} must be [B, P], not empty; got {ids.shape}.")
    if not jnp.issubdtype(ids.dtype, jnp.integer):
      raise TypeError(f"{name} must be integers; got {ids.dtype}.")
    if not isinstance(ids, jax.core.Tracer):
      known = np.asarray(ids)
      bad = known[(known < 0) | (known >= self.config.vocab_size)]
      if bad.size:
        raise ValueError(
          f"{name} must lie in 0..{self.config.vocab_size - 1}; got {bad[0]}."
        )
    return (
      jnp.asarray(self.tokens)
      .at[jnp.asarray(ids)]
      .get(mode="fill", fill_value=jnp.nan, wrap_negative_indices=False)
    )


def _mask(
  name: str, mask: base.Array | None, shape: tuple[int, ...]
) -> jax.Array:
  if mask is None:
    return jnp.ones(shape, bool)
  if mask.shape != shape:
    raise ValueError(f"{name} must be {shape}, like its ids; got {mask.shape}.")
  return jnp.asarray(mask).astype(bool)


def network(config: Config) -> sites.Network:
  """The network of `config`; its inputs are ids, and masks where wanted."""
  names = []
  for stack, number in (
    ("encoder", config.num_blocks),
    ("decoder", config.num_decoder_blocks),
  ):
    names += [f"{stack}.embed.tokens", f"{stack}.embed"]
    for block in range(number):
      parts = ["resid_pre", *_attention("attn"), "resid_mid"]
      if stack == "decoder":
        parts += [*_attention("cross"), "resid_cross"]
      parts += ["mlp.in", "mlp.pre", "mlp.neurons", "mlp.out", "resid_post"]
      names += [f"{stack}.blocks.{block}.{part}" for part in parts]
    names.append(f"{stack}.final_norm")
  ids = jax.ShapeDtypeStruct((1, 2), jnp.int32)
  return sites.Network(
    module=T5(config),
    config=config,
    sites=(*names, "logits"),
    example={"input_ids": ids, "decoder_input_ids": ids},
    no_edges="edges are of one residual stream, and an encoder-decoder has "
    "two. Use edits.",
    optional=("attention_mask", "decoder_attention_mask"),
  )


def _attention(part: str) -> list[str]:
  steps = ("in", "q", "k", "v", "scores", "pattern", "z", "heads", "out")
  return [f"{part}.{step}" for step in steps]


def _matrix(path: str) -> tuple[str, str]:
  return f"{path}/kernel", "transpose"


def rules(config: Config) -> tuple[weights.Rule, ...]:
  """From the keys of a checkpoint to the parameters."""
  rules = [
    weights.Rule(r"shared\.weight", "tokens"),
    # The same table again, as older versions saved it.
    weights.Rule(r"(?:encoder|decoder)\.embed_tokens\.weight", ""),
    weights.Rule(
      r"lm_head\.weight", *(("",) if config.tied else _matrix("head"))
    ),
    # Saved by older versions, and never used.
    weights.Rule(
      r"decoder\.block\.0\.layer\.1\.EncDecAttention\."
      r"relative_attention_bias\.weight",
      "",
    ),
  ]
  for stack, last in (("encoder", 1), ("decoder", 2)):
    block = rf"{stack}\.block\.(\d+)\.layer\."
    to = rf"{stack}/blocks_\1/"
    parts = [("0", "SelfAttention", "attn", "norm1")]
    if stack == "decoder":
      parts.append(("1", "EncDecAttention", "cross", "norm_cross"))
    for layer, name, part, norm in parts:
      key = rf"{block}{layer}\."
      rules.append(
        weights.Rule(key + r"layer_norm\.weight", f"{to}{norm}/scale")
      )
      for x in "qkv":
        path = f"{to}{part}/{x}/kernel"
        rules.append(
          weights.Rule(rf"{key}{name}\.{x}\.weight", path, f"heads_in:{x}")
        )
      rules.append(
        weights.Rule(
          rf"{key}{name}\.o\.weight", f"{to}{part}/out/kernel", "heads_out"
        )
      )
    key = rf"{block}{last}\."
    rules.append(weights.Rule(key + r"layer_norm\.weight", f"{to}norm2/scale"))
    into = {"wi_0": "gate", "wi_1": "up"} if config.gated else {"wi": "up"}
    for name, part in {**into, "wo": "down"}.items():
      key_of = rf"{key}DenseReluDense\.{name}\.weight"
      rules.append(weights.Rule(key_of, *_matrix(f"{to}mlp/{part}")))
    rules += [
      weights.Rule(
        rf"{stack}\.block\.0\.layer\.0\.SelfAttention\."
        r"relative_attention_bias\.weight",
        f"{stack}/distance",
      ),
      weights.Rule(
        rf"{stack}\.final_layer_norm\.weight", f"{stack}/final_norm/scale"
      ),
    ]
  return tuple(rules)
