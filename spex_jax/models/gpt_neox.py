"""GPT-NeoX and Pythia checkpoints (`GPTNeoXForCausalLM`)."""

from collections.abc import Mapping
from typing import Any

from spex_jax.models import llama, reading, transformer
from spex_jax.models.weights import Rule

network = transformer.network


def config_from_hub(settings: Mapping[str, Any]) -> transformer.Config:
  """The configuration that a `config.json` describes.

  Raises:
    ValueError: a setting that changes the function and is not implemented.
  """
  reader = reading.Reader(settings)
  width = reader.get("hidden_size")
  heads = reader.get("num_attention_heads")
  reader.only("is_decoder", False, True)
  biased = reader.get("attention_bias", default=True)
  parallel = reader.get("use_parallel_residual", default=True)
  head_width = width // heads
  config = transformer.Config(
    width=width,
    num_blocks=reader.get("num_hidden_layers"),
    num_heads=heads,
    num_kv_heads=heads,
    head_width=head_width,
    num_neurons=reader.get("intermediate_size"),
    order="parallel" if parallel else "pre",
    norm_eps=reader.get("layer_norm_eps", default=1e-5),
    activation=reader.get("hidden_act", default="gelu"),
    qkv_bias=biased,
    out_bias=biased,
    score_scale=head_width**-0.5,
    vocab_size=reader.get("vocab_size"),
    max_positions=reader.get("max_position_embeddings"),
    rotary=llama.read_rope(reader, head_width),
    tied=reader.get("tie_word_embeddings", default=False),
  )
  reader.finish()
  return config


def rules(config: transformer.Config) -> tuple[Rule, ...]:
  """Checkpoint keys to parameters."""
  block = r"gpt_neox\.layers\.(\d+)\."
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
  head = ("", "") if config.tied else ("head/kernel", "transpose")
  return (
    Rule(r"gpt_neox\.embed_in\.weight", "tokens/table"),
    Rule(r"gpt_neox\.final_layer_norm\.weight", "final_norm/scale"),
    Rule(r"gpt_neox\.final_layer_norm\.bias", "final_norm/bias"),
    Rule(r"embed_out\.weight", *head),
    *(
      Rule(block + key, rf"blocks_\1/{to}" if to else "", transform)
      for key, to, transform in pairs
    ),
  )
