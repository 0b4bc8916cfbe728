"""GPT-NeoX and Pythia checkpoints (`GPTNeoXForCausalLM`)."""

from collections.abc import Mapping
from typing import Any

from spex_jax.models import reading, rope_settings, transformer
from spex_jax.models.weights import Rule, of_head

network = transformer.network


def config_from_hub(settings: Mapping[str, Any]) -> transformer.Config:
  """The configuration that a `config.json` describes.

  Raises:
    ValueError: a setting that changes the function and is not implemented.
  """
  reader = reading.Reader(settings)
  width = reader.size("hidden_size")
  heads = reader.size("num_attention_heads")
  reader.only("is_decoder", False, True)
  biased = reader.flag("attention_bias", True)
  parallel = reader.flag("use_parallel_residual", True)
  head_width = reader.head_width(width, heads)
  max_positions = reader.size("max_position_embeddings")
  config = transformer.Config(
    width=width,
    num_blocks=reader.num_blocks("num_hidden_layers"),
    num_heads=heads,
    num_kv_heads=heads,
    head_width=head_width,
    num_neurons=reader.size("intermediate_size"),
    order="parallel" if parallel else "pre",
    norm_eps=reader.positive("layer_norm_eps", default=1e-5),
    activation=reader.activation("hidden_act", default="gelu"),
    qkv_bias=biased,
    out_bias=biased,
    score_scale=head_width**-0.5,
    vocab_size=reader.size("vocab_size"),
    max_positions=max_positions,
    rotary=rope_settings.read(reader, head_width, max_positions),
    tied=reader.flag("tie_word_embeddings", False),
  )
  reader.finish()
  return config


def rules(config: transformer.Config) -> tuple[Rule, ...]:
  """Checkpoint keys to parameters."""
  block = r"(?:gpt_neox\.)?layers\.(\d+)\."
  pairs = [
    (r"attention\.(?:bias|masked_bias|rotary_emb\.inv_freq)", None, ""),
    (r"attention\.dense\.weight", "attn/out/kernel", "heads_out"),
    (r"attention\.dense\.bias", "attn/out/bias", ""),
  ]
  for key, to in (("input", "norm1"), ("post_attention", "norm2")):
    pairs += [
      (rf"{key}_layernorm\.weight", f"{to}/scale", ""),
      (rf"{key}_layernorm\.bias", f"{to}/bias", ""),
    ]
  for key, to in (("h_to_4h", "up"), ("4h_to_h", "down")):
    pairs += [
      (rf"mlp\.dense_{key}\.weight", f"mlp/{to}/kernel", "transpose"),
      (rf"mlp\.dense_{key}\.bias", f"mlp/{to}/bias", ""),
    ]
  for name in "qkv":
    key, transform = r"attention\.query_key_value\.", f"fused_heads:{name}"
    pairs += [
      (key + "weight", f"attn/{name}/kernel", transform),
      (key + "bias", f"attn/{name}/bias", transform),
    ]
  return (
    Rule(r"(?:gpt_neox\.)?embed_in\.weight", "tokens/table"),
    Rule(r"(?:gpt_neox\.)?final_layer_norm\.weight", "final_norm/scale"),
    Rule(r"(?:gpt_neox\.)?final_layer_norm\.bias", "final_norm/bias"),
    of_head(r"embed_out\.weight", config.tied),
    *(
      Rule(block + key, rf"blocks_\1/{to}" if to else "", transform)
      for key, to, transform in pairs
    ),
  )
