"""Llama and its relatives, as `transformer` networks.

Llama, Mistral, Qwen 2, Qwen 3, Phi-3 and Gemma 2: rotary positions, RMS
norms, gated MLPs, grouped-query attention. Only the settings differ, and the
names of fused matrices in Phi-3.
"""

from collections.abc import Mapping
from typing import Any

from spex_jax.models import reading, rope, transformer
from spex_jax.models.weights import Rule

network = transformer.network


def config_from_hub(settings: Mapping[str, Any]) -> transformer.Config:
  """The configuration that a `config.json` describes.

  Raises:
    ValueError: a setting that changes the function and is not implemented.
  """
  reader = reading.Reader(settings)
  family = reader.family
  width = reader.get("hidden_size")
  heads = reader.get("num_attention_heads")
  head_width = reader.get(
    "head_dim",
    default={"gemma2": 256, "qwen3": 128}.get(family, width // heads),
  )
  num_blocks = reader.get("num_hidden_layers")
  if "num_key_value_heads" not in settings and family not in ("llama", "phi3"):
    # Defaults of transformers' own that are no function of the other sizes.
    raise ValueError(f"config.json of a {family} must set num_key_value_heads.")
  kv_heads = reader.get("num_key_value_heads", default=heads)
  # Mistral and Phi-3 have no such setting: their layers have no biases.
  all_biased = family in ("llama", "qwen3", "gemma2") and reader.get(
    "attention_bias", default=False
  )
  activation = reader.get(
    *(("hidden_activation",) if family == "gemma2" else ()),
    "hidden_act",
    default="gelu_pytorch_tanh" if family == "gemma2" else "silu",
  )
  kwargs: dict[str, Any] = {"norm": "rms", "score_scale": head_width**-0.5}
  if family == "gemma2":
    reader.ignore("hidden_act")
    reader.only("use_bidirectional_attention", False)
    kwargs = dict(
      order="sandwich",
      norm="rms_one",
      score_scale=reader.get("query_pre_attn_scalar", default=256) ** -0.5,
      score_cap=reader.given("attn_logit_softcapping", 50.0),
      logit_cap=reader.given("final_logit_softcapping", 30.0),
      embed_scale=width**0.5,
    )
  reader.only("attention_bias", False, *([True] if all_biased else []))
  if family != "llama":
    reader.only("mlp_bias", False)
  # The position where Phi-3's scalings begin, used by them alone.
  original = reader.get("original_max_position_embeddings", default=None)
  config = transformer.Config(
    width=width,
    num_blocks=num_blocks,
    num_heads=heads,
    num_kv_heads=kv_heads,
    head_width=head_width,
    num_neurons=reader.get("intermediate_size"),
    norm_eps=reader.get("rms_norm_eps", default=1e-6),
    activation=activation,
    gated=True,
    qkv_bias=family == "qwen2" or all_biased,
    out_bias=all_biased,
    mlp_bias=family == "llama" and reader.get("mlp_bias", default=False),
    qk_norm=family == "qwen3",
    windows=_windows(reader, num_blocks),
    vocab_size=reader.get("vocab_size"),
    max_positions=reader.get("max_position_embeddings"),
    rotary=read_rope(reader, head_width, original),
    tied=reader.get("tie_word_embeddings", default=family == "gemma2"),
    **kwargs,
  )
  reader.finish()
  return config


def read_rope(
  reader: reading.Reader, head_width: int, original: int | None = None
) -> rope.Rope:
  """Rotary settings, in the spelling of transformers 5 or of its elders.

  Raises:
    ValueError: a scaling that is not implemented, or a setting of one that is
      not known, by name.
  """
  settings = dict(reader.get("rope_parameters", "rope_scaling", default={}))
  kind = settings.pop("rope_type", settings.pop("type", "default"))
  settings.pop("type", None)
  theta = settings.pop(
    "rope_theta", reader.get("rope_theta", "rotary_emb_base", default=10000.0)
  )
  fraction = settings.pop(
    "partial_rotary_factor",
    reader.get("partial_rotary_factor", "rotary_pct", default=None),
  )
  if fraction is None:
    fraction = 0.25 if reader.family == "gpt_neox" else 1.0
  if kind not in rope.KINDS:
    raise ValueError(
      f"config.json of this {reader.family} asks for RoPE scaling {kind!r}, "
      f"which is not implemented; only {', '.join(rope.KINDS)}."
    )
  extra: dict[str, Any] = {}
  if original is not None:
    settings.setdefault("original_max_position_embeddings", original)
  needed = {
    "linear": ("factor",),
    "llama3": (
      "factor",
      "low_freq_factor",
      "high_freq_factor",
      "original_max_position_embeddings",
    ),
  }.get(kind, ())
  missing = [name for name in needed if settings.get(name) is None]
  if missing:
    raise ValueError(
      f"RoPE scaling {kind!r} of this {reader.family} must set "
      f"{', '.join(missing)}."
    )
  for name in needed:
    if name == "original_max_position_embeddings":
      extra["original_positions"] = int(settings.pop(name))
    else:
      extra[name] = float(settings.pop(name))
  settings.pop("original_max_position_embeddings", None)
  if settings:
    raise ValueError(
      f"RoPE settings of this {reader.family} that are not known here: "
      f"{settings}."
    )
  width = int(head_width * fraction)
  return rope.Rope(float(theta), width, kind, **extra)


def _windows(reader: reading.Reader, num_blocks: int) -> tuple[int | None, ...]:
  """The sliding window of every block, or () where there is none."""
  if reader.family == "llama":
    return ()  # It has no such setting; one that is there is not known.
  default = 4096 if reader.family in ("mistral", "gemma2") else None
  size = reader.given("sliding_window", default)
  types = reader.get("layer_types", default=None)
  used = True
  first = 0
  if reader.family in ("qwen2", "qwen3"):
    used = reader.get("use_sliding_window", default=False)
    first = reader.get("max_window_layers", default=28)
  if types is None:
    slides = [number >= first for number in range(num_blocks)]
    if reader.family == "gemma2":
      slides = [number % 2 == 0 for number in range(num_blocks)]
  else:
    known = {"sliding_attention": True, "full_attention": False}
    bad = sorted(set(types) - set(known))
    if bad or len(types) != num_blocks:
      raise ValueError(
        f"layer_types must name one of {sorted(known)} for each of "
        f"{num_blocks} layers; got {types}."
      )
    slides = [known[name] for name in types]
  if size is None or not used or not any(slides):
    return ()
  return tuple(size if slide else None for slide in slides)


def rules(config: transformer.Config) -> tuple[Rule, ...]:
  """Checkpoint keys to parameters."""
  block = r"model\.layers\.(\d+)\."
  sandwich = config.order == "sandwich"
  pairs = [
    (r"input_layernorm\.weight", "norm1/scale", ""),
    (r"self_attn\.o_proj\.weight", "attn/out/kernel", "heads_out"),
    (r"self_attn\.o_proj\.bias", "attn/out/bias", ""),
    (r"self_attn\.q_norm\.weight", "attn/q_norm/scale", ""),
    (r"self_attn\.k_norm\.weight", "attn/k_norm/scale", ""),
    (r"self_attn\.rotary_emb\.inv_freq", None, ""),
    (r"mlp\.gate_up_proj\.weight", "mlp/gate/kernel", "half:0"),
    (r"mlp\.gate_up_proj\.weight", "mlp/up/kernel", "half:1"),
  ]
  if sandwich:
    pairs += [
      (r"post_attention_layernorm\.weight", "attn_post/scale", ""),
      (r"pre_feedforward_layernorm\.weight", "norm2/scale", ""),
      (r"post_feedforward_layernorm\.weight", "mlp_post/scale", ""),
    ]
  else:
    pairs.append((r"post_attention_layernorm\.weight", "norm2/scale", ""))
  for name in ("gate", "up", "down"):
    pairs += [
      (rf"mlp\.{name}_proj\.weight", f"mlp/{name}/kernel", "transpose"),
      (rf"mlp\.{name}_proj\.bias", f"mlp/{name}/bias", ""),
    ]
  for name in "qkv":
    key = rf"self_attn\.{name}_proj\."
    pairs += [
      (key + "weight", f"attn/{name}/kernel", f"heads_in:{name}"),
      (key + "bias", f"attn/{name}/bias", f"heads_in:{name}"),
      (
        r"self_attn\.qkv_proj\.weight",
        f"attn/{name}/kernel",
        f"fused_rows:{name}",
      ),
    ]
  head = ("", "") if config.tied else ("head/kernel", "transpose")
  return (
    Rule(r"model\.embed_tokens\.weight", "tokens/table"),
    Rule(r"model\.norm\.weight", "final_norm/scale"),
    Rule(r"lm_head\.weight", *head),
    *(
      Rule(block + key, rf"blocks_\1/{to}" if to else "", transform)
      for key, to, transform in pairs
    ),
  )
