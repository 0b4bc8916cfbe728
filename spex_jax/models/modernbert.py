"""ModernBERT checkpoints, as `encoder` networks with their norms before.

`ModernBertForSequenceClassification` gives a classifier,
`ModernBertForMaskedLM` a masked language model, the bare `ModernBertModel`
embeddings. Positions are rotary; blocks see all tokens or, with another base
of the angles, those up to half of `local_attention` away.
"""

from collections.abc import Mapping
from typing import Any

from spex_jax.models import encoder, reading, rope_settings
from spex_jax.models.weights import Rule, of_head

network = encoder.network

# Of whole attention and of windows, the older setting and its default.
_THETAS = {
  "full_attention": ("global_rope_theta", 160000.0),
  "sliding_attention": ("local_rope_theta", 10000.0),
}


def config_from_hub(settings: Mapping[str, Any]) -> encoder.Config:
  """The configuration that a `config.json` describes.

  Raises:
    ValueError: a setting that changes the function and is not implemented.
  """
  reader = reading.Reader(settings)
  (name,) = settings.get("architectures") or ["Model"]
  classifies = str(name).endswith("ForSequenceClassification")
  masked = str(name).endswith("ForMaskedLM")
  width = reader.size("hidden_size")
  heads = reader.size("num_attention_heads")
  # Of training, of how attention is computed, and what is never read.
  reader.ignore(
    "initializer_cutoff_factor", "mlp_dropout", "deterministic_flash_attn",
    "reference_compile", "repad_logits_with_grad", "sparse_prediction",
    "sparse_pred_ignore_index", "position_embedding_type",
  )  # fmt: skip
  epsilon = reader.positive("norm_eps", default=1e-5)
  reader.only("layer_norm_eps", epsilon)  # Which transformers never reads.
  # Sizes, positions, and the heads that an architecture has.
  head_width = reader.head_width(width, heads)
  num_blocks = reader.num_blocks("num_hidden_layers")
  num_positions = reader.size("max_position_embeddings", default=8192)
  windows = _windows(reader, num_blocks)
  rotary, local = rope_settings.by_kind(
    reader, head_width, num_positions, _THETAS, tuple(_THETAS)
  )
  all_biased = reader.flag("attention_bias", False)
  head = reader.activation("classifier_activation", default="gelu")
  pooling = reader.get("classifier_pooling", default="cls")
  reader.only("classifier_pooling", "cls", "mean")
  # Settings of the blocks first, then those of the encoder.
  config = encoder.Config(
    order="pre",
    norm="layer" if reader.flag("norm_bias", False) else "centred",
    first_norm="none",
    width=width,
    num_blocks=num_blocks,
    num_heads=heads,
    num_kv_heads=heads,
    head_width=head_width,
    num_neurons=reader.size("intermediate_size"),
    norm_eps=epsilon,
    activation=reader.activation("hidden_activation", default="gelu"),
    gated=True,
    qkv_bias=all_biased,
    out_bias=all_biased,
    mlp_bias=reader.flag("mlp_bias", False),
    score_scale=head_width**-0.5,
    windows=windows,
    rotary=rotary,
    local_rotary=local if windows else None,
    vocab_size=reader.size("vocab_size"),
    num_positions=num_positions,
    num_labels=reader.num_labels() if classifies else 0,
    pool=head,
    pool_mean=pooling == "mean",
    pool_norm=True,
    token_head=head if masked else "",
    tied=reader.flag("tie_word_embeddings", True),
    dense_bias=reader.flag("classifier_bias", False),
    token_bias=reader.flag("decoder_bias", True),
  )
  reader.finish()
  return config


def _windows(reader: reading.Reader, num_blocks: int) -> tuple[int | None, ...]:
  """How far each block sees to either side; () where all see everything."""
  reach = reader.size("local_attention", default=128) // 2
  step = reader.size("global_attn_every_n_layers", default=3)
  known = {"sliding_attention": reach, "full_attention": None}
  kinds = [
    "sliding_attention" if number % step else "full_attention"
    for number in range(num_blocks)
  ]
  told = reader.sequence("layer_types", default=kinds)
  said = reader.settings.get("global_attn_every_n_layers") is not None
  if told != kinds and said:
    raise ValueError(
      f"config.json of this {reader.family} sets layer_types={told} and "
      f"global_attn_every_n_layers={step}, which disagree; leave the wrong one "
      "out."
    )
  if len(told) != num_blocks or any(str(x) not in known for x in told):
    raise ValueError(
      f"layer_types must name one of {sorted(known)} for each of {num_blocks} "
      f"layers; got {told}."
    )
  windows = tuple(known[kind] for kind in told)
  return windows if any(kind != "full_attention" for kind in told) else ()


def rules(config: encoder.Config) -> tuple[Rule, ...]:
  """Checkpoint keys to parameters."""
  root = r"(?:model\.)?"  # A bare model is saved without it.
  block = root + r"layers\.(\d+)\."
  head = "pooler" if config.num_labels else "head"
  dense = "pooler" if config.num_labels else "head_dense"
  rules = [
    Rule(root + r"embeddings\.tok_embeddings\.weight", "tokens/table"),
    *_both(root + r"embeddings\.norm", "embed_norm/scale"),
    *_both(root + "final_norm", "final_norm/scale"),
    *_both(block + "attn_norm", r"blocks_\1/norm1/scale"),
    *_both(block + "mlp_norm", r"blocks_\1/norm2/scale"),
    *_both(block + r"attn\.Wo", r"blocks_\1/attn/out/kernel", "heads_out"),
    *_both(block + r"mlp\.Wo", r"blocks_\1/mlp/down/kernel", "transpose"),
  ]
  for name in "qkv":
    way = f"fused_rows:{name}"
    to = rf"blocks_\1/attn/{name}/kernel"
    rules += _both(block + r"attn\.Wqkv", to, way, way)
  # What the activation is of comes first.
  for number, name in enumerate(("gate", "up")):
    way, to = f"half:{number}", rf"blocks_\1/mlp/{name}/kernel"
    rules += _both(block + r"mlp\.Wi", to, way, way)
  if config.num_labels or config.token_head:
    rules += _both(r"head\.dense", f"{dense}/kernel", "transpose")
    rules += _both(r"head\.norm", f"{head}_norm/scale")
  if config.num_labels:
    rules += _both("classifier", "classifier/kernel", "transpose")
  elif config.token_head:
    rules.append(of_head(r"decoder\.weight", config.tied))
    rules.append(Rule(r"decoder\.bias", "head_bias"))
  return tuple(rules)


def _both(key: str, to: str, weight: str = "", bias: str = "") -> list[Rule]:
  """The rules of a part's weight, which goes to `to`, and of its bias."""
  parent = to.rpartition("/")[0]
  return [
    Rule(key + r"\.weight", to, weight),
    Rule(key + r"\.bias", f"{parent}/bias", bias),
  ]
