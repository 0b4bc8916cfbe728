"""BERT, RoBERTa and DistilBERT checkpoints, as `encoder` networks.

`...ForSequenceClassification` gives a classifier, `...ForMaskedLM` a masked
language model, whose other head, for pairs of sentences, is left out. The bare
`...Model` gives embeddings (MiniLM): its own pooler, which they do not read, is
left out.
"""

from collections.abc import Mapping
from typing import Any

from spex_jax.models import encoder, reading
from spex_jax.models.weights import Rule, of_head

network = encoder.network


def config_from_hub(settings: Mapping[str, Any]) -> encoder.Config:
  """The configuration that a `config.json` describes.

  Raises:
    ValueError: a setting that changes the function and is not implemented.
  """
  reader = reading.Reader(settings)
  small = reader.family == "distilbert"
  (name,) = settings.get("architectures") or ["Model"]
  classifies = str(name).endswith("ForSequenceClassification")
  masked = str(name).endswith("ForMaskedLM")
  width = reader.size("dim" if small else "hidden_size")
  heads = reader.size("n_heads" if small else "num_attention_heads")
  reader.only("position_embedding_type", "absolute")
  reader.only("is_decoder", False)
  if small:
    # Whether the table was filled with sines before training.
    reader.ignore("sinusoidal_pos_embds")
  activation = reader.activation(
    "activation" if small else "hidden_act", default="gelu"
  )
  roberta = reader.family == "roberta"
  config = encoder.Config(
    order="post",
    width=width,
    num_blocks=reader.num_blocks("n_layers" if small else "num_hidden_layers"),
    num_heads=heads,
    num_kv_heads=heads,
    head_width=reader.head_width(width, heads),
    num_neurons=reader.size("hidden_dim" if small else "intermediate_size"),
    norm_eps=1e-12
    if small
    else reader.positive("layer_norm_eps", default=1e-12),
    activation=activation,
    score_scale=(width // heads) ** -0.5,
    vocab_size=reader.size("vocab_size"),
    num_positions=reader.size("max_position_embeddings"),
    num_types=0 if small else reader.size("type_vocab_size", default=2),
    pad_id=reader.get("pad_token_id", default=1) if roberta else None,
    num_labels=reader.num_labels() if classifies else 0,
    pool="relu" if small else "tanh",
    token_head=("gelu" if roberta else activation) if masked else "",
    tied=reader.flag("tie_word_embeddings", True),
  )
  reader.finish()
  return config


# Parts of a block, by the family's name for them and ours.
_BERT = (
  ("attention.self.query", "attn/q", "heads_in:q"),
  ("attention.self.key", "attn/k", "heads_in:k"),
  ("attention.self.value", "attn/v", "heads_in:v"),
  ("attention.output.dense", "attn/out", "heads_out"),
  ("attention.output.LayerNorm", "norm1", ""),
  ("intermediate.dense", "mlp/up", "transpose"),
  ("output.dense", "mlp/down", "transpose"),
  ("output.LayerNorm", "norm2", ""),
)
_DISTILBERT = (
  ("attention.q_lin", "attn/q", "heads_in:q"),
  ("attention.k_lin", "attn/k", "heads_in:k"),
  ("attention.v_lin", "attn/v", "heads_in:v"),
  ("attention.out_lin", "attn/out", "heads_out"),
  ("sa_layer_norm", "norm1", ""),
  ("ffn.lin1", "mlp/up", "transpose"),
  ("ffn.lin2", "mlp/down", "transpose"),
  ("output_layer_norm", "norm2", ""),
)
# The head of a masked language model: dense layer, norm, bias, and the table,
# with the bias saved again.
_TOKEN_HEADS = {
  "bert": (
    r"cls\.predictions\.transform\.dense",
    r"cls\.predictions\.transform\.LayerNorm",
    r"cls\.predictions\.bias",
    r"cls\.predictions\.decoder",
  ),
  "roberta": (
    r"lm_head\.dense", r"lm_head\.layer_norm", r"lm_head\.bias",
    r"lm_head\.decoder",
  ),
  "distilbert": (
    "vocab_transform", "vocab_layer_norm", r"vocab_projector\.bias",
    "vocab_projector",
  ),
}  # fmt: skip
_HEADS = {
  "bert": (r"(?:bert\.)?pooler\.dense", "classifier"),
  "roberta": (r"classifier\.dense", r"classifier\.out_proj"),
  "distilbert": ("pre_classifier", "classifier"),
}


def rules(config: encoder.Config) -> tuple[Rule, ...]:
  """Checkpoint keys to parameters."""
  family = "distilbert" if not config.num_types else "bert"
  if config.pad_id is not None:
    family = "roberta"
  root = rf"(?:{family}\.)?"
  embed = root + r"embeddings\."
  layers = "transformer" if family == "distilbert" else "encoder"
  block = root + rf"{layers}\.layer\.(\d+)\."
  rules = [
    Rule(embed + r"word_embeddings\.weight", "tokens/table"),
    Rule(embed + r"position_embeddings\.weight", "positions/table"),
    Rule(embed + r"token_type_embeddings\.weight", "types/table"),
    Rule(embed + r"position_ids", ""),
    *_linear(embed + "LayerNorm", "embed_norm", ""),
  ]
  parts = _DISTILBERT if family == "distilbert" else _BERT
  for key, to, transform in parts:
    key = block + key.replace(".", r"\.")
    rules += _linear(key, rf"blocks_\1/{to}", transform)
  if config.num_labels:
    first, second = _HEADS[family]
    rules += _linear(first, "pooler", "transpose")
    rules += _linear(second, "classifier", "transpose")
  elif config.token_head:
    dense, norm, bias, decoder = _TOKEN_HEADS[family]
    rules += _linear(dense, "head_dense", "transpose")
    rules += _linear(norm, "head_norm", "")
    rules += [
      of_head(decoder + r"\.weight", config.tied),
      # The head for pairs of sentences, and its pooler.
      Rule(r"cls\.seq_relationship\.(?:weight|bias)", ""),
      Rule(root + r"pooler\.dense\.(?:weight|bias)", ""),
    ]
    if family == "distilbert":
      rules.append(Rule(bias, "head_bias"))
    elif config.tied:
      rules.append(Rule(bias, "head_bias"))
      rules.append(Rule(decoder + r"\.bias", "head_bias", copy=True))
    else:  # Then the table's own bias is the one that is added.
      rules.append(Rule(bias, ""))
      rules.append(Rule(decoder + r"\.bias", "head_bias"))
  else:
    rules.append(Rule(root + r"pooler\.dense\.(?:weight|bias)", ""))
  return tuple(rules)


def _linear(key: str, to: str, transform: str) -> list[Rule]:
  """The rules of a layer's two tensors; a norm's may have their old names."""
  norm = to.split("/")[-1].endswith(("norm", "norm1", "norm2"))
  name = "scale" if norm else "kernel"
  of_bias = transform if transform.startswith("heads_in") else ""
  return [
    Rule(
      key + (r"\.(?:weight|gamma)" if norm else r"\.weight"),
      f"{to}/{name}",
      transform,
    ),
    Rule(
      key + (r"\.(?:bias|beta)" if norm else r"\.bias"), f"{to}/bias", of_bias
    ),
  ]
