"""GPT-2 checkpoints (`GPT2LMHeadModel`), as `transformer` networks."""

from collections.abc import Mapping
from typing import Any

from spex_jax.models import reading, transformer
from spex_jax.models.weights import Rule, of_head

network = transformer.network


def config_from_hub(settings: Mapping[str, Any]) -> transformer.Config:
  """The configuration that a `config.json` describes.

  Raises:
    ValueError: a setting that changes the function and is not implemented.
  """
  reader = reading.Reader(settings)
  width = reader.size("n_embd")
  heads = reader.size("n_head")
  # Upcasting changes the rounding, not the function.
  reader.ignore("reorder_and_upcast_attn")
  reader.ignore(
    *(f"summary_{x}" for x in ("activation", "type", "use_proj")),
    "summary_proj_to_labels",
  )
  scaled = reader.flag("scale_attn_weights", True)
  by_layer = reader.flag("scale_attn_by_inverse_layer_idx", False)
  head_width = reader.head_width(width, heads)
  config = transformer.Config(
    width=width,
    num_blocks=reader.num_blocks("n_layer"),
    num_heads=heads,
    num_kv_heads=heads,
    head_width=head_width,
    num_neurons=reader.size("n_inner", default=4 * width),
    norm_eps=reader.positive("layer_norm_epsilon", default=1e-5),
    activation=reader.activation("activation_function", default="gelu_new"),
    score_scale=head_width**-0.5 if scaled else 1.0,
    score_scale_by_layer=by_layer,
    vocab_size=reader.size("vocab_size"),
    max_positions=reader.size("n_positions"),
    tied=reader.flag("tie_word_embeddings", True),
  )
  reader.finish()
  return config


def rules(config: transformer.Config) -> tuple[Rule, ...]:
  """Checkpoint keys to parameters."""
  # The first checkpoints on the hub have no prefix, and hold their masks.
  root = r"(?:transformer\.)?"
  block = root + r"h\.(\d+)\."
  rules = [
    Rule(root + r"wte\.weight", "tokens/table"),
    Rule(root + r"wpe\.weight", "positions/table"),
    Rule(root + r"ln_f\.weight", "final_norm/scale"),
    Rule(root + r"ln_f\.bias", "final_norm/bias"),
    Rule(block + r"attn\.(?:masked_)?bias", ""),
  ]
  for name in "qkv":
    to = rf"blocks_\1/attn/{name}"
    transform = f"fused_columns:{name}"
    rules += [
      Rule(block + r"attn\.c_attn\.weight", f"{to}/kernel", transform),
      Rule(block + r"attn\.c_attn\.bias", f"{to}/bias", transform),
    ]
  for key, to, transform in (
    (r"ln_1\.weight", "norm1/scale", ""),
    (r"ln_1\.bias", "norm1/bias", ""),
    (r"ln_2\.weight", "norm2/scale", ""),
    (r"ln_2\.bias", "norm2/bias", ""),
    (r"attn\.c_proj\.weight", "attn/out/kernel", "heads_out_first"),
    (r"attn\.c_proj\.bias", "attn/out/bias", ""),
    (r"mlp\.c_fc\.weight", "mlp/up/kernel", ""),
    (r"mlp\.c_fc\.bias", "mlp/up/bias", ""),
    (r"mlp\.c_proj\.weight", "mlp/down/kernel", ""),
    (r"mlp\.c_proj\.bias", "mlp/down/bias", ""),
  ):
    rules.append(Rule(block + key, rf"blocks_\1/{to}", transform))
  return (*rules, of_head(r"lm_head\.weight", config.tied))
