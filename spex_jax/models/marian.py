"""Marian translation checkpoints (OPUS-MT), as `seq2seq` networks.

The function of transformers' `MarianMTModel`: layer norms behind each sum,
sinusoids, scaled embeddings that both sides and the head share, a bias of the
logits; the decoder begins with the padding token, which is never generated.
A `generation_config.json` asks for beams and for an end token where the longest
text is reached: neither is followed, texts are greedy or drawn, and one that is
cut off has no end.

Source: Junczys-Dowmunt et al., arXiv:1804.00344; Tiedemann and Thottingal,
OPUS-MT, EAMT 2020.
"""

from collections.abc import Mapping
from typing import Any

from spex_jax.models import reading, seq2seq, seq2seq_blocks
from spex_jax.models.weights import Rule

network = seq2seq.network


def config_from_hub(settings: Mapping[str, Any]) -> seq2seq_blocks.Config:
  """The configuration that a `config.json` describes.

  Raises:
    ValueError: a setting that changes the function and is not implemented, or
      one that is missing.
  """
  reader = reading.Reader(settings, encoder_decoder=True)
  # Of training, of generation, or written and never read.
  reader.ignore(
    "activation_dropout", "classif_dropout", "decoder_layerdrop",
    "encoder_layerdrop", "init_std", "num_hidden_layers", "_num_labels",
    "extra_pos_embeddings", "force_bos_token_to_be_generated",
  )  # fmt: skip
  for name in (
    "normalize_before", "add_final_layer_norm", "normalize_embedding",
    "add_bias_logits", "is_decoder",
  ):  # fmt: skip
    reader.only(name, False)
  for name in (
    "static_position_embeddings", "share_encoder_decoder_embeddings",
    "tie_word_embeddings",
  ):  # fmt: skip
    reader.only(name, True)
  width, vocab = reader.size("d_model"), reader.size("vocab_size")
  heads = reader.size("encoder_attention_heads")
  neurons = reader.size("encoder_ffn_dim")
  reader.only("decoder_attention_heads", heads)
  reader.only("decoder_ffn_dim", neurons)
  reader.only("decoder_vocab_size", vocab)
  pad = reader.get("pad_token_id")
  scaled = reader.flag("scale_embedding", False)
  config = seq2seq_blocks.Config(
    order="post",
    width=width,
    num_blocks=reader.num_blocks("encoder_layers"),
    num_decoder_blocks=reader.num_blocks("decoder_layers"),
    num_heads=heads,
    num_kv_heads=heads,
    head_width=reader.head_width(width, heads),
    num_neurons=neurons,
    activation=reader.activation("activation_function", default="gelu"),
    score_scale=(width // heads) ** -0.5,
    vocab_size=vocab,
    max_positions=reader.size("max_position_embeddings", default=1024),
    embed_scale=width**0.5 if scaled else 1.0,
    logits_bias=True,
    start_id=reader.get("decoder_start_token_id", default=pad),
    suppressed=reader.suppressed(),
  )
  reader.finish()
  return config


# Parts of a block: transformers' name and ours, weight's and bias's transform.
_ATTENTION = (
  ("q_proj", "q", "heads_in:q", "heads_in:q"),
  ("k_proj", "k", "heads_in:k", "heads_in:k"),
  ("v_proj", "v", "heads_in:v", "heads_in:v"),
  ("out_proj", "out", "heads_out", ""),
)


def rules(config: seq2seq_blocks.Config) -> tuple[Rule, ...]:
  """Checkpoint keys to parameters."""
  table = seq2seq_blocks.sinusoids(config.max_positions or 0, config.width)
  found = [
    Rule(r"model\.shared\.weight", "tokens/table"),
    Rule(r"final_logits_bias", "bias", "squeeze"),
    # The same table again, and the sinusoids, as older versions saved them.
    Rule(
      r"model\.(?:en|de)coder\.embed_tokens\.weight|lm_head\.weight",
      "tokens/table",
      copy=True,
    ),
    Rule(r"model\.(?:en|de)coder\.embed_positions\.weight", "", computed=table),
  ]
  for stack in ("encoder", "decoder"):
    key = rf"model\.{stack}\.layers\.(\d+)\."
    to = rf"{stack}/blocks_\1/"
    parts = [("self_attn", "attn", "norm1")]
    if stack == "decoder":
      parts.append(("encoder_attn", "cross", "norm_cross"))
    for theirs, ours, norm in parts:
      for name, part, kernel, bias in _ATTENTION:
        at, path = rf"{key}{theirs}\.{name}\.", f"{to}{ours}/{part}"
        found.append(Rule(at + "weight", f"{path}/kernel", kernel))
        found.append(Rule(at + "bias", f"{path}/bias", bias))
      found += _norm(rf"{key}{theirs}_layer_norm", to + norm)
    found += _norm(key + "final_layer_norm", to + "norm2")
    for name, part in (("fc1", "up"), ("fc2", "down")):
      path = f"{to}mlp/{part}"
      found.append(Rule(rf"{key}{name}\.weight", f"{path}/kernel", "transpose"))
      found.append(Rule(rf"{key}{name}\.bias", f"{path}/bias"))
  return tuple(found)


def _norm(key: str, to: str) -> list[Rule]:
  return [
    Rule(rf"{key}\.weight", f"{to}/scale"),
    Rule(rf"{key}\.bias", f"{to}/bias"),
  ]
