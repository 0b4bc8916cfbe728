"""Llama and its relatives, as `transformer` networks.

Llama, Mistral, Mixtral, Qwen 2, Qwen 3 and its MoE, Phi-3, OLMo 2, Gemma 2 and
3: rotary positions, RMS norms, gated MLPs or experts, grouped-query attention.
Only the settings differ, and the names of fused matrices.
"""

from collections.abc import Mapping
from typing import Any

from spex_jax.models import experts, reading, rope_settings, transformer
from spex_jax.models.weights import Rule, of_head

network = transformer.network

_GEMMA = ("gemma2", "gemma3_text")
_EXPERTS = ("mixtral", "qwen3_moe")
# Of whole attention and of windows, the older setting and its default.
_THETAS = {
  "full_attention": ("rope_theta", 1e6),
  "sliding_attention": ("rope_local_base_freq", 1e4),
}


def config_from_hub(settings: Mapping[str, Any]) -> transformer.Config:
  """The configuration that a `config.json` describes.

  Raises:
    ValueError: a setting that changes the function and is not implemented.
  """
  reader = reading.Reader(settings)
  family = reader.family
  gemma = family in _GEMMA
  width = reader.size("hidden_size")
  heads = reader.size("num_attention_heads")
  default = 128 if family == "qwen3" else max(width // heads, 1)
  head_width = reader.size("head_dim", default=256 if gemma else default)
  num_blocks = reader.num_blocks("num_hidden_layers")
  if settings.get("num_key_value_heads") is None and family not in (
    "llama", "phi3", "olmo2",
  ):  # fmt: skip
    # Defaults of transformers' own that are no function of the other sizes.
    raise ValueError(f"config.json of a {family} must set num_key_value_heads.")
  kv_heads = reader.size("num_key_value_heads", default=heads)
  # Mistral and Phi-3 have no such setting: their layers have no biases.
  can_be_biased = family in (
    "llama", "qwen3", "qwen3_moe", "olmo2", *_GEMMA
  )  # fmt: skip
  all_biased = can_be_biased and reader.flag("attention_bias", False)
  reader.only("attention_bias", False, *([True] if all_biased else []))
  if family != "llama":
    reader.only("mlp_bias", False)
  kwargs: dict[str, Any] = {"norm": "rms", "score_scale": head_width**-0.5}
  if gemma:
    kwargs = _gemma(reader, width)
  if family == "olmo2":
    kwargs |= {"order": "sandwich", "pre_norm": "none", "qk_norm": "all"}
  elif family in ("qwen3", "qwen3_moe", "gemma3_text"):
    kwargs["qk_norm"] = "each"
  if family in _EXPERTS:
    kwargs["mixture"] = _experts(reader, num_blocks)
  max_positions = reader.size("max_position_embeddings")
  windows = _windows(reader, num_blocks)
  if family == "gemma3_text":
    rotary, local = rope_settings.by_kind(
      reader, head_width, max_positions, _THETAS, ("full_attention",)
    )
    kwargs |= {"rotary": rotary, "local_rotary": local if windows else None}
  else:
    rotary = rope_settings.read(reader, head_width, max_positions)
    kwargs["rotary"] = rotary
  if rotary.kind == "dynamic":  # It is for longer texts than it was made for.
    max_positions = int(max_positions * rotary.factor)
  epsilon = 1e-5 if family in ("olmo2", "phi3", "mixtral") else 1e-6
  activation = "gelu_pytorch_tanh" if gemma else "silu"
  names = ("hidden_activation", "hidden_act") if gemma else ("hidden_act",)
  config = transformer.Config(
    width=width,
    num_blocks=num_blocks,
    num_heads=heads,
    num_kv_heads=kv_heads,
    head_width=head_width,
    num_neurons=reader.size("intermediate_size"),
    norm_eps=reader.positive("rms_norm_eps", default=epsilon),
    activation=reader.activation(*names, default=activation),
    gated=True,
    qkv_bias=family == "qwen2" or all_biased,
    out_bias=all_biased,
    mlp_bias=family == "llama" and reader.flag("mlp_bias", False),
    windows=windows,
    vocab_size=reader.size("vocab_size"),
    max_positions=max_positions,
    tied=reader.flag("tie_word_embeddings", gemma),
    **kwargs,
  )
  reader.finish()
  return config


def _gemma(reader: reading.Reader, width: int) -> dict[str, Any]:
  """What a Gemma does in its own way."""
  reader.only("use_bidirectional_attention", False)
  second = reader.family == "gemma2"
  scalar = reader.positive("query_pre_attn_scalar", default=256)
  if not second:
    reader.only("attn_logit_softcapping")  # Which transformers never applies.
  return {
    "order": "sandwich",
    "norm": "rms_one",
    "score_scale": scalar**-0.5,
    "score_cap": (
      reader.optional_positive("attn_logit_softcapping", 50.0)
      if second
      else None
    ),
    "logit_cap": reader.optional_positive(
      "final_logit_softcapping", 30.0 if second else None
    ),
    "embed_scale": width**0.5,
  }


def _experts(reader: reading.Reader, num_blocks: int) -> experts.Experts | None:
  """The experts of a Mixtral or a Qwen 3 MoE, where any block has some."""
  names = ("num_local_experts", "num_experts")
  told = {name: reader.settings.get(name) for name in names}
  if len({*told.values()} - {None}) > 1:
    raise ValueError(
      f"config.json of this {reader.family} sets {told}, which disagree; leave "
      "the wrong one out."
    )
  # Of training alone.
  reader.ignore(
    "router_aux_loss_coef", "output_router_logits", "router_jitter_noise"
  )
  number = reader.size(*names)
  per_token = reader.size("num_experts_per_tok", most=number)
  if reader.family == "mixtral":
    size = reader.size("intermediate_size")
    every = tuple(range(num_blocks))
    return experts.Experts(number, per_token, size, True, every)
  plain = reader.sequence("mlp_only_layers", default=[])
  if any(not isinstance(x, int) or isinstance(x, bool) for x in plain):
    raise ValueError(
      f"config.json of this {reader.family} sets mlp_only_layers={plain!r}; it "
      "must be a list of the numbers of layers."
    )
  step = reader.size("decoder_sparse_step", default=1)
  held = tuple(
    block
    for block in range(num_blocks)
    if block not in plain and (block + 1) % step == 0
  )
  size = reader.size("moe_intermediate_size")
  normalised = reader.flag("norm_topk_prob", False)
  if not held:
    return None
  return experts.Experts(number, per_token, size, normalised, held)


def _windows(reader: reading.Reader, num_blocks: int) -> tuple[int | None, ...]:
  """The sliding window of every block, or () where there is none."""
  family = reader.family
  if family in ("llama", "olmo2"):
    return ()  # It has no such setting; one that is there is not known.
  default = 4096 if family in ("mistral", *_GEMMA) else None
  size = reader.optional_positive("sliding_window", default)
  types = reader.sequence("layer_types", default=None)
  used = True
  first = 0
  if family == "qwen3_moe":
    used = reader.flag("use_sliding_window", False)
    if used:  # Of all layers then.
      reader.only("max_window_layers", 0)
    reader.ignore("max_window_layers")
  if family in ("qwen2", "qwen3"):
    used = reader.flag("use_sliding_window", False)
    first = reader.get("max_window_layers", default=28)
  slides = [number >= first for number in range(num_blocks)]
  if family == "gemma2":
    slides = [number % 2 == 0 for number in range(num_blocks)]
  every = "_sliding_window_pattern", "sliding_window_pattern"
  if family == "gemma3_text":
    step = reader.size(*every, default=6)
    slides = [(number + 1) % step > 0 for number in range(num_blocks)]
  if types is not None:
    known = {"sliding_attention": True, "full_attention": False}
    if len(types) != num_blocks or any(str(x) not in known for x in types):
      raise ValueError(
        f"layer_types must name one of {sorted(known)} for each of "
        f"{num_blocks} layers; got {types}."
      )
    told = [known[name] for name in types]
    # Two sources of one fact, of which transformers reads only one.
    other = {
      "mistral": "sliding_window",
      "mixtral": "sliding_window",
      "qwen3_moe": "sliding_window",
      "phi3": "sliding_window",
      "gemma3_text": "sliding_window_pattern",
    }.get(family, "")
    # With an underscore it is written whatever the layers are.
    said = reader.settings.get("sliding_window_pattern")
    if family == "gemma3_text" and said is None:
      other = ""
    expected = slides if size is not None else [False] * num_blocks
    if other and told != expected:
      raise ValueError(
        f"config.json of this {family} sets layer_types={types} and {other}="
        f"{reader.settings.get(other, size)}, which disagree; leave the wrong "
        "one out."
      )
    slides = told
  if size is None or not used or not any(slides):
    return ()
  return tuple(int(size) if slide else None for slide in slides)


# Experts, one by one or fused; Mixtral has names of its own.
_MLP = r"(?:mlp|block_sparse_moe)\."
_EXPERT_RULES = [
  (_MLP + r"gate\.weight", "mlp/router/kernel", "transpose"),
  *(
    (
      _MLP + rf"experts\.(\d+)\.(?:{name}_proj|{old})\.weight",
      rf"mlp/experts_{name}/kernel[\2]",
      "transpose",
    )
    for name, old in (("gate", "w1"), ("up", "w3"), ("down", "w2"))
  ),
  *(
    (
      _MLP + r"experts\.gate_up_proj",
      f"mlp/experts_{name}/kernel",
      f"expert_half:{number}",
    )
    for number, name in enumerate(("gate", "up"))
  ),
  (_MLP + r"experts\.down_proj", "mlp/experts_down/kernel", "each"),
]


def rules(config: transformer.Config) -> tuple[Rule, ...]:
  """Checkpoint keys to parameters."""
  root = r"(?:model\.)?"  # The bare models are saved without it.
  block = root + r"layers\.(\d+)\."
  sandwich = config.order == "sandwich"
  pairs = (
    []
    if config.pre_norm
    else [
      (r"input_layernorm\.weight", "norm1/scale", ""),
    ]
  )
  pairs += [
    (r"self_attn\.o_proj\.weight", "attn/out/kernel", "heads_out"),
    (r"self_attn\.o_proj\.bias", "attn/out/bias", ""),
    (r"self_attn\.q_norm\.weight", "attn/q_norm/scale", ""),
    (r"self_attn\.k_norm\.weight", "attn/k_norm/scale", ""),
    (r"self_attn\.rotary_emb\.inv_freq", None, ""),
    (r"mlp\.gate_up_proj\.weight", "mlp/gate/kernel", "half:0"),
    (r"mlp\.gate_up_proj\.weight", "mlp/up/kernel", "half:1"),
  ]
  if sandwich:
    if not config.pre_norm:
      pairs.append((r"pre_feedforward_layernorm\.weight", "norm2/scale", ""))
    pairs += [
      (r"post_attention_layernorm\.weight", "attn_post/scale", ""),
      (r"post_feedforward_layernorm\.weight", "mlp_post/scale", ""),
    ]
  else:
    pairs.append((r"post_attention_layernorm\.weight", "norm2/scale", ""))
  pairs += _EXPERT_RULES if config.mixture else []
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
  return (
    Rule(root + r"embed_tokens\.weight", "tokens/table"),
    Rule(root + r"norm\.weight", "final_norm/scale"),
    of_head(r"lm_head\.weight", config.tied),
    *(
      Rule(block + key, rf"blocks_\1/{to}" if to else "", transform)
      for key, to, transform in pairs
    ),
  )
