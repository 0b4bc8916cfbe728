"""GPT-Neo checkpoints (`GPTNeoForCausalLM`): a GPT-2 with windows.

Scores are not scaled, queries, keys and values have no biases.
"""

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
  width = reader.size("hidden_size")
  heads = reader.size("num_heads", "num_attention_heads")
  num_blocks = reader.num_blocks("num_layers", "num_hidden_layers")
  reader.ignore(
    "resid_dropout", "embed_dropout", "summary_activation", "summary_type",
    "summary_use_proj", "summary_proj_to_labels",
  )  # fmt: skip
  config = transformer.Config(
    width=width,
    num_blocks=num_blocks,
    num_heads=heads,
    num_kv_heads=heads,
    head_width=reader.head_width(width, heads),
    num_neurons=reader.size("intermediate_size", default=4 * width),
    norm_eps=reader.positive("layer_norm_epsilon", default=1e-5),
    activation=reader.activation("activation_function", default="gelu_new"),
    qkv_bias=False,
    score_scale=1.0,
    windows=_windows(reader, num_blocks),
    vocab_size=reader.size("vocab_size"),
    max_positions=reader.size("max_position_embeddings"),
    tied=reader.flag("tie_word_embeddings", True),
  )
  reader.finish()
  return config


def _windows(reader: reading.Reader, num_blocks: int) -> tuple[int | None, ...]:
  """The window of every block, from kinds that repeat: `[[kinds, times]]`."""
  size = reader.size("window_size", default=256)
  kinds = []
  for item in reader.sequence("attention_types", [[["global", "local"], 12]]):
    names, times = item
    kinds += list(names) * times
  told = reader.sequence("attention_layers", default=kinds)
  known = {"global": None, "local": size}
  if told != kinds or len(kinds) != num_blocks or set(kinds) - set(known):
    raise ValueError(
      f"attention_types must name global or local for each of {num_blocks} "
      f"layers, as attention_layers does; they give {kinds} and {told}."
    )
  return tuple(known[kind] for kind in kinds) if "local" in kinds else ()


def rules(config: transformer.Config) -> tuple[Rule, ...]:
  """Checkpoint keys to parameters."""
  root = r"(?:transformer\.)?"
  block = root + r"h\.(\d+)\."
  rules = [
    Rule(root + r"wte\.weight", "tokens/table"),
    Rule(root + r"wpe\.weight", "positions/table"),
    Rule(root + r"ln_f\.weight", "final_norm/scale"),
    Rule(root + r"ln_f\.bias", "final_norm/bias"),
    # Masks, as older versions saved them.
    Rule(block + r"attn\.attention\.(?:masked_)?bias", ""),
  ]
  for key, to, transform in (
    (r"ln_1\.weight", "norm1/scale", ""),
    (r"ln_1\.bias", "norm1/bias", ""),
    (r"ln_2\.weight", "norm2/scale", ""),
    (r"ln_2\.bias", "norm2/bias", ""),
    (r"attn\.attention\.q_proj\.weight", "attn/q/kernel", "heads_in:q"),
    (r"attn\.attention\.k_proj\.weight", "attn/k/kernel", "heads_in:k"),
    (r"attn\.attention\.v_proj\.weight", "attn/v/kernel", "heads_in:v"),
    (r"attn\.attention\.out_proj\.weight", "attn/out/kernel", "heads_out"),
    (r"attn\.attention\.out_proj\.bias", "attn/out/bias", ""),
    (r"mlp\.c_fc\.weight", "mlp/up/kernel", "transpose"),
    (r"mlp\.c_fc\.bias", "mlp/up/bias", ""),
    (r"mlp\.c_proj\.weight", "mlp/down/kernel", "transpose"),
    (r"mlp\.c_proj\.bias", "mlp/down/bias", ""),
  ):
    rules.append(Rule(block + key, rf"blocks_\1/{to}", transform))
  return (*rules, of_head(r"lm_head\.weight", config.tied))
