"""T5 and Flan-T5 checkpoints, as `seq2seq` networks.

The function of transformers' `T5ForConditionalGeneration`, and with
`T5EncoderModel` of its encoder alone: RMS norms before each part, learnt biases
for the distance between two positions, scores that are not scaled, no biases in
projections; relu or gated.

Source: Raffel et al., arXiv:1910.10683.
"""

import dataclasses
from collections.abc import Collection, Mapping
from typing import Any

from spex_jax.models import blocks, reading, seq2seq, seq2seq_blocks, weights

network = seq2seq.network


def config(
  *, num_heads: int, num_buckets: int = 32, **settings: Any
) -> seq2seq_blocks.Config:
  """The settings of a T5: those given, and what all of them share."""
  shared: dict[str, Any] = {
    "norm": "rms",
    "norm_eps": 1e-6,
    "activation": "relu",
    "qkv_bias": False,
    "out_bias": False,
    "mlp_bias": False,
    "output_scale": settings["width"] ** -0.5,
  }
  return seq2seq_blocks.Config(
    num_heads=num_heads,
    num_kv_heads=num_heads,
    num_buckets=num_buckets,
    **(shared | settings),
  )


def config_from_hub(hub: Mapping[str, Any]) -> seq2seq_blocks.Config:
  """The settings of a `config.json`.

  Raises:
    ValueError: a setting, or an architecture, that is not implemented, or one
      that is missing.
  """
  alone = hub.get("architectures") == ["T5EncoderModel"]
  reader = reading.Reader(hub, encoder_decoder=None if alone else True)
  reader.only("is_decoder", False)
  # Of training and of generation.
  reader.ignore("dropout_rate", "n_positions", "output_past")
  num_blocks = reader.num_blocks("num_layers")
  proj = reader.get("feed_forward_proj", default="relu")
  gate, _, act = str(proj).rpartition("-")
  if gate not in ("", "gated") or act not in blocks.ACTIVATIONS:
    raise ValueError(
      f"config.json of this t5 sets feed_forward_proj={proj!r}; it must be an "
      f"activation, perhaps behind gated-, of {', '.join(blocks.ACTIVATIONS)}."
    )
  # By an old habit of the library, this one name stands for another function.
  act = "gelu_new" if (gate, act) == ("gated", "gelu") else act
  for name, value in (("dense_act_fn", act), ("is_gated_act", bool(gate))):
    said = reader.get(name, default=value)
    if said != value:
      raise ValueError(
        f"{name}={said!r} contradicts feed_forward_proj, which says {value!r}."
      )
  tied = reader.flag("tie_word_embeddings", True)
  # Later versions of transformers always write that embeddings are tied, and
  # keep here what was said of them first.
  scaled = reader.flag("scale_decoder_outputs", tied)
  width = reader.size("d_model")
  num_decoder_blocks = reader.num_blocks(
    "num_decoder_layers", default=num_blocks
  )
  found = config(
    vocab_size=reader.size("vocab_size"),
    width=width,
    num_heads=reader.size("num_heads"),
    head_width=reader.size("d_kv"),
    num_neurons=reader.size("d_ff"),
    num_blocks=num_blocks,
    num_decoder_blocks=0 if alone else num_decoder_blocks,
    activation=act,
    gated=bool(gate),
    num_buckets=reader.size("relative_attention_num_buckets", default=32),
    max_distance=reader.size("relative_attention_max_distance", default=128),
    norm_eps=reader.positive("layer_norm_epsilon", default=1e-6),
    tied=tied and scaled,
    output_scale=width**-0.5 if scaled else 1.0,
    start_id=reader.get("decoder_start_token_id", "pad_token_id", default=0),
    suppressed=reader.suppressed(),
  )
  reader.finish()
  return found


def fit(
  config: seq2seq_blocks.Config,
  settings: Mapping[str, Any],
  keys: Collection[str],
) -> seq2seq_blocks.Config:
  """The configuration, with what the tensors tell of the output matrix.

  Later versions of transformers call every model tied. One whose outputs are
  not scaled may have a matrix of its own, as Flan-T5 has, or none.
  """
  called_tied = settings.get("tie_word_embeddings", True)
  if called_tied and not config.tied and "lm_head.weight" not in keys:
    return dataclasses.replace(config, tied=True)
  return config


def _matrix(path: str) -> tuple[str, str]:
  return f"{path}/kernel", "transpose"


def rules(config: seq2seq_blocks.Config) -> tuple[weights.Rule, ...]:
  """From the keys of a checkpoint to the parameters."""
  rules = [
    weights.Rule(r"shared\.weight", "tokens/table"),
    # The same table again, as older versions saved it.
    weights.Rule(
      r"(?:encoder|decoder)\.embed_tokens\.weight", "tokens/table", copy=True
    ),
    weights.of_head(r"lm_head\.weight", config.tied),
    # Saved by older versions, and never used.
    weights.Rule(
      r"decoder\.block\.0\.layer\.1\.EncDecAttention\."
      r"relative_attention_bias\.weight",
      "",
    ),
  ]
  stacks = [("encoder", 1), ("decoder", 2)]
  for stack, last in stacks if config.num_decoder_blocks else stacks[:1]:
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
