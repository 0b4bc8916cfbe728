"""Random legal configurations of every family, by transformers' own classes.

For `fuzz_models`, in the environment of PyTorch and transformers alone. Each
maker takes a source of randomness, and gives the classes of a configuration
and a model, and settings that transformers documents.
"""

import random
from collections.abc import Sequence
from typing import Any

import transformers

VOCAB = 40
_ROPES = (
  "default",
  "default",
  "linear",
  "llama3",
  "yarn",
  "dynamic",
  "longrope",
)
_PLAIN_ROPES = ("default", "default", "linear", "llama3", "yarn", "longrope")
_ACTS = ("gelu", "gelu_new", "relu", "silu", "gelu_pytorch_tanh", "tanh")


def _rope(
  r: random.Random, width: int, kinds: Sequence[str] = _ROPES
) -> dict[str, Any]:
  """Rotary settings, of one of the kinds; by default any of a Llama."""
  theta = r.choice([50.0, 1e4, 1e6])
  kind = r.choice(kinds)
  found: dict[str, Any] = {"rope_theta": theta, "rope_type": kind}
  if kind != "default":
    found["factor"] = r.choice([1.5, 2.0, 4.0])
  if kind == "llama3":
    found |= {
      "low_freq_factor": r.choice([0.5, 1.0]),
      "high_freq_factor": r.choice([2.0, 4.0]),
      "original_max_position_embeddings": r.choice([4, 8, 16]),
    }
  if kind == "yarn":
    found["original_max_position_embeddings"] = r.choice([8, 16])
    if r.random() < 0.5:
      found |= {"beta_fast": 8.0, "beta_slow": 0.5}
    if r.random() < 0.5:
      found["truncate"] = False
    if r.random() < 0.3:
      found["attention_factor"] = 1.2
    elif r.random() < 0.3:
      found |= {"mscale": 0.7, "mscale_all_dim": 1.3}
  if kind == "longrope":
    found["original_max_position_embeddings"] = r.choice([6, 64])
    for name in ("short_factor", "long_factor"):
      found[name] = [r.uniform(1, 4) for _ in range(width // 2)]
  return found


def _llama_like(r: random.Random, family: str) -> tuple[Any, Any, dict]:
  t = transformers
  width = r.choice([4, 8])
  kv, groups = r.choice([1, 2]), r.choice([1, 2, 3])
  heads = kv * groups
  num_blocks = r.choice([1, 2, 3])
  hidden = (
    heads * width
    if family in ("phi3", "olmo2")
    else heads * r.choice([4, 8, 12])
  )
  positions = r.choice([16, 32])
  kwargs: dict[str, Any] = {
    "vocab_size": VOCAB,
    "hidden_size": hidden,
    "num_hidden_layers": num_blocks,
    "num_attention_heads": heads,
    "num_key_value_heads": kv,
    "intermediate_size": r.choice([8, 20]),
    "max_position_embeddings": positions,
    "rms_norm_eps": r.choice([1e-6, 1e-5, 1e-2]),
    "tie_word_embeddings": r.random() < 0.5,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
  }
  if family not in ("phi3", "olmo2"):
    kwargs["head_dim"] = width
  if family in ("mixtral", "qwen3_moe"):
    kwargs |= _experts(r, family, num_blocks)
  if family not in ("gemma2", "gemma3"):
    kwargs["hidden_act"] = r.choice(_ACTS)
  else:
    kwargs |= {
      "hidden_activation": r.choice(_ACTS),
      "query_pre_attn_scalar": r.choice([4, 16, 256]),
      "final_logit_softcapping": r.choice([None, 5.0]),
    }
  if family in ("llama", "qwen3", "qwen3_moe", "olmo2", "gemma2", "gemma3"):
    kwargs["attention_bias"] = r.random() < 0.4
  if family == "llama":
    kwargs["mlp_bias"] = r.random() < 0.4
  if family in ("mistral", "mixtral", "phi3"):
    kwargs["sliding_window"] = r.choice([None, 3, 50])
  if family in ("qwen2", "qwen3", "gemma2", "gemma3"):
    kinds = ("sliding_attention", "full_attention")
    kwargs["sliding_window"] = r.choice([2, 5])
    kwargs["layer_types"] = [r.choice(kinds) for _ in range(num_blocks)]
    if family.startswith("qwen"):
      slides = "sliding_attention" in kwargs["layer_types"]
      kwargs["use_sliding_window"] = slides
  if family == "gemma2":
    kwargs["attn_logit_softcapping"] = r.choice([None, 2.0])
  rope: dict[str, Any] = _rope(r, width)
  if family == "phi3":
    if rope["rope_type"] not in ("default", "longrope"):
      rope = {"rope_theta": 1e4, "rope_type": "default"}
    if "factor" in rope:
      del rope["factor"]
      rope["attention_factor"] = 1.1
      kwargs["original_max_position_embeddings"] = rope[
        "original_max_position_embeddings"
      ]
    if r.random() < 0.3 and width == 8:
      rope["partial_rotary_factor"] = 0.5
      for name in ("short_factor", "long_factor"):
        if name in rope:
          rope[name] = rope[name][:2]
  if family == "gemma3":
    rope = {
      "full_attention": rope,
      "sliding_attention": {"rope_type": "default", "rope_theta": 100.0},
    }
    if rope["full_attention"]["rope_type"] in ("dynamic", "longrope", "yarn"):
      rope["full_attention"] = {
        "rope_type": "linear", "factor": 2.0, "rope_theta": 1e4,
      }  # fmt: skip
  kwargs["rope_parameters"] = rope
  names = {
    "llama": "Llama", "mistral": "Mistral", "qwen2": "Qwen2",
    "qwen3": "Qwen3", "phi3": "Phi3", "olmo2": "Olmo2", "gemma2": "Gemma2",
    "gemma3": "Gemma3", "mixtral": "Mixtral", "qwen3_moe": "Qwen3Moe",
  }  # fmt: skip
  name = names[family]
  config = "Gemma3TextConfig" if family == "gemma3" else f"{name}Config"
  return getattr(t, config), getattr(t, f"{name}ForCausalLM"), kwargs


def _experts(r: random.Random, family: str, num_blocks: int) -> dict[str, Any]:
  """The experts of a Mixtral or a Qwen 3 MoE."""
  number = r.choice([1, 2, 4, 5])
  found = {
    "num_experts_per_tok": r.randint(1, min(number, 3)),
    "num_local_experts" if family == "mixtral" else "num_experts": number,
  }
  if family == "qwen3_moe":
    found |= {
      "moe_intermediate_size": r.choice([8, 12]),  # Of 16 bytes, for PyTorch.
      "norm_topk_prob": r.random() < 0.5,
      "decoder_sparse_step": r.choice([1, 1, 2]),
      "mlp_only_layers": [x for x in range(num_blocks) if r.random() < 0.2],
      "use_sliding_window": r.random() < 0.3,
      "sliding_window": r.choice([2, 5]),
    }
  return found


def _modernbert(r: random.Random) -> tuple[Any, Any, dict]:
  heads = r.choice([1, 2, 3])
  width, num_blocks = r.choice([4, 8]), r.choice([1, 2, 3, 4])
  kwargs: dict[str, Any] = {
    "vocab_size": VOCAB,
    "hidden_size": heads * width,
    "num_attention_heads": heads,
    "num_hidden_layers": num_blocks,
    "intermediate_size": r.choice([10, 20]),
    "hidden_activation": r.choice(_ACTS),
    "max_position_embeddings": 32,
    "norm_eps": r.choice([1e-5, 1e-2]),
    "norm_bias": r.random() < 0.3,
    "attention_bias": r.random() < 0.3,
    "mlp_bias": r.random() < 0.3,
    "local_attention": r.choice([2, 5, 8, 128]),
    "decoder_bias": r.random() < 0.7,
    "classifier_bias": r.random() < 0.3,
    "classifier_pooling": r.choice(["cls", "mean"]),
    "classifier_activation": r.choice(_ACTS),
    "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2,
    "cls_token_id": 1, "sep_token_id": 2,
  }  # fmt: skip
  kinds = ("sliding_attention", "full_attention")
  if r.random() < 0.5:
    kwargs["layer_types"] = [r.choice(kinds) for _ in range(num_blocks)]
  else:
    kwargs["global_attn_every_n_layers"] = r.choice([1, 2, 3])
  if r.random() < 0.5:
    kwargs["rope_parameters"] = {
      kind: _rope(r, width, _PLAIN_ROPES) for kind in kinds
    }
  else:
    kwargs["global_rope_theta"] = r.choice([1e3, 1.6e5])
    kwargs["local_rope_theta"] = r.choice([50.0, 1e4])
  head = r.choice(["ForSequenceClassification", "ForMaskedLM", "Model"])
  if head == "ForMaskedLM":
    kwargs["tie_word_embeddings"] = r.random() < 0.8
  if head == "ForSequenceClassification":
    kwargs["num_labels"] = r.choice([2, 3])
  model = getattr(transformers, f"ModernBert{head}")
  return transformers.ModernBertConfig, model, kwargs


def _gpt2(r: random.Random) -> tuple[Any, Any, dict]:
  heads = r.choice([1, 2, 3])
  return (
    transformers.GPT2Config,
    transformers.GPT2LMHeadModel,
    {
      "vocab_size": VOCAB,
      "n_embd": heads * r.choice([4, 6]),
      "n_head": heads,
      "n_layer": r.choice([1, 2, 3]),
      "n_positions": 32,
      "n_inner": r.choice([None, 10]),
      "activation_function": r.choice(_ACTS),
      "layer_norm_epsilon": r.choice([1e-5, 1e-2]),
      "scale_attn_weights": r.random() < 0.7,
      "scale_attn_by_inverse_layer_idx": r.random() < 0.5,
      "tie_word_embeddings": r.random() < 0.7,
    },
  )


def _gpt_neo(r: random.Random) -> tuple[Any, Any, dict]:
  heads = r.choice([1, 2, 3])
  kinds = r.choice([["global", "local"], ["local"], ["global"]])
  times = r.choice([1, 2])
  return (
    transformers.GPTNeoConfig,
    transformers.GPTNeoForCausalLM,
    {
      "vocab_size": VOCAB,
      "hidden_size": heads * r.choice([4, 6]),
      "num_heads": heads,
      "num_layers": len(kinds) * times,
      "attention_types": [[kinds, times]],
      "window_size": r.choice([2, 5]),
      "max_position_embeddings": 32,
      "intermediate_size": r.choice([None, 10]),
      "activation_function": r.choice(_ACTS),
      "layer_norm_epsilon": r.choice([1e-5, 1e-2]),
    },
  )


def _gpt_neox(r: random.Random) -> tuple[Any, Any, dict]:
  heads = r.choice([1, 2])
  return (
    transformers.GPTNeoXConfig,
    transformers.GPTNeoXForCausalLM,
    {
      "vocab_size": VOCAB,
      "hidden_size": heads * 8,
      "num_attention_heads": heads,
      "num_hidden_layers": r.choice([1, 2, 3]),
      "intermediate_size": r.choice([10, 20]),
      "max_position_embeddings": 32,
      "hidden_act": r.choice(_ACTS),
      "layer_norm_eps": r.choice([1e-5, 1e-2]),
      "use_parallel_residual": r.random() < 0.5,
      "attention_bias": r.random() < 0.6,
      "tie_word_embeddings": r.random() < 0.3,
      "rope_parameters": {
        "rope_type": "default",
        "rope_theta": r.choice([100.0, 1e4]),
        "partial_rotary_factor": r.choice([0.25, 0.5, 1.0]),
      },
    },
  )


def _bert_like(r: random.Random, family: str) -> tuple[Any, Any, dict]:
  heads = r.choice([1, 2, 3])
  width, blocks = heads * r.choice([4, 6]), r.choice([1, 2, 3])
  neurons, act = r.choice([10, 20]), r.choice(_ACTS[:4])
  name = {"bert": "Bert", "roberta": "Roberta", "distilbert": "DistilBert"}[
    family
  ]
  kwargs: dict[str, Any] = {
    "vocab_size": VOCAB,
    "max_position_embeddings": 34,
    "pad_token_id": 1 if family == "roberta" else 0,
  }
  if family == "distilbert":
    kwargs |= {
      "dim": width, "n_heads": heads, "n_layers": blocks,
      "hidden_dim": neurons, "activation": r.choice(["gelu", "relu"]),
      "sinusoidal_pos_embds": r.random() < 0.3,
    }  # fmt: skip
  else:
    kwargs |= {
      "hidden_size": width, "num_attention_heads": heads,
      "num_hidden_layers": blocks, "intermediate_size": neurons,
      "hidden_act": act, "layer_norm_eps": r.choice([1e-12, 1e-5, 1e-2]),
      "type_vocab_size": r.choice([1, 2]),
    }  # fmt: skip
  head = r.choice(["ForSequenceClassification", "ForMaskedLM", "ForMaskedLM"])
  if head == "ForMaskedLM":
    kwargs["tie_word_embeddings"] = r.random() < 0.8
  else:
    kwargs["num_labels"] = r.choice([2, 3])
  get = lambda what: getattr(transformers, name + what)
  return get("Config"), get(head), kwargs


def _vit(r: random.Random) -> tuple[Any, Any, dict]:
  heads = r.choice([1, 2])
  model = r.choice(["ViTForImageClassification", "ViTModel"])
  return (
    transformers.ViTConfig,
    getattr(transformers, model),
    {
      "hidden_size": heads * r.choice([4, 6]),
      "num_attention_heads": heads,
      "num_hidden_layers": r.choice([1, 2]),
      "intermediate_size": r.choice([8, 20]),
      "image_size": 12,
      "patch_size": r.choice([3, 4, 6]),
      "num_channels": r.choice([1, 3]),
      "hidden_act": r.choice(_ACTS[:4]),
      "qkv_bias": r.random() < 0.7,
      "layer_norm_eps": r.choice([1e-12, 1e-3]),
      "num_labels": 3,
    },
  )


def _dinov2(r: random.Random) -> tuple[Any, Any, dict]:
  heads = r.choice([1, 2])
  model = r.choice(["Dinov2ForImageClassification", "Dinov2Model"])
  return (
    transformers.Dinov2Config,
    getattr(transformers, model),
    {
      "hidden_size": heads * r.choice([4, 6]),
      "num_attention_heads": heads,
      "num_hidden_layers": r.choice([1, 2]),
      "mlp_ratio": r.choice([1, 2, 4]),
      "image_size": 12,
      "patch_size": r.choice([3, 4, 6]),
      "num_channels": r.choice([1, 3]),
      "hidden_act": r.choice(_ACTS),
      "use_swiglu_ffn": r.random() < 0.4,
      "use_mask_token": r.random() < 0.7,
      "qkv_bias": r.random() < 0.7,
      "layerscale_value": r.choice([0.1, 1.0]),
      "layer_norm_eps": r.choice([1e-6, 1e-3]),
      "num_labels": 3,
    },
  )


def _resnet(r: random.Random) -> tuple[Any, Any, dict]:
  stages = r.choice([1, 2, 3])
  model = r.choice(["ResNetForImageClassification", "ResNetModel"])
  return (
    transformers.ResNetConfig,
    getattr(transformers, model),
    {
      "embedding_size": r.choice([4, 8]),
      "hidden_sizes": [r.choice([8, 12]) for _ in range(stages)],
      "depths": [r.choice([1, 2]) for _ in range(stages)],
      "layer_type": r.choice(["basic", "bottleneck"]),
      "hidden_act": r.choice(["relu", "gelu", "silu"]),
      "downsample_in_first_stage": r.random() < 0.4,
      "downsample_in_bottleneck": r.random() < 0.4,
      "num_channels": r.choice([1, 3]),
      "num_labels": 3,
    },
  )


def _t5(r: random.Random) -> tuple[Any, Any, dict]:
  return (
    transformers.T5Config,
    transformers.T5ForConditionalGeneration,
    {
      "vocab_size": VOCAB,
      "d_model": r.choice([8, 12]),
      "d_kv": r.choice([4, 6]),
      "d_ff": r.choice([10, 20]),
      "num_layers": r.choice([1, 2]),
      "num_decoder_layers": r.choice([1, 2]),
      "num_heads": r.choice([1, 3]),
      "relative_attention_num_buckets": r.choice([4, 8]),
      "relative_attention_max_distance": r.choice([8, 16]),
      "feed_forward_proj": r.choice(["relu", "gated-gelu", "gated-silu"]),
      "layer_norm_epsilon": r.choice([1e-6, 1e-3]),
      "tie_word_embeddings": r.random() < 0.5,
      "decoder_start_token_id": 0,
    },
  )


def _marian(r: random.Random) -> tuple[Any, Any, dict]:
  heads = r.choice([1, 2])
  neurons = r.choice([10, 20])
  return (
    transformers.MarianConfig,
    transformers.MarianMTModel,
    {
      "vocab_size": VOCAB,
      "d_model": heads * r.choice([4, 6]),
      "encoder_layers": r.choice([1, 2]),
      "decoder_layers": r.choice([1, 2]),
      "encoder_attention_heads": heads,
      "decoder_attention_heads": heads,
      "encoder_ffn_dim": neurons,
      "decoder_ffn_dim": neurons,
      "activation_function": r.choice(["gelu", "relu", "swish"]),
      "scale_embedding": r.random() < 0.5,
      "max_position_embeddings": 32,
      "pad_token_id": VOCAB - 1,
      "eos_token_id": 0,
      "decoder_start_token_id": VOCAB - 1,
      "forced_eos_token_id": None,
    },
  )


_LLAMAS = (
  "llama", "mistral", "qwen2", "qwen3", "phi3", "olmo2", "gemma2", "gemma3",
  "mixtral", "qwen3_moe",
)  # fmt: skip
FAMILIES = {
  **{name: lambda r, name=name: _llama_like(r, name) for name in _LLAMAS},
  **{
    name: lambda r, name=name: _bert_like(r, name)
    for name in ("bert", "roberta", "distilbert")
  },
  "modernbert": _modernbert,
  "gpt2": _gpt2,
  "gpt_neo": _gpt_neo,
  "gpt_neox": _gpt_neox,
  "vit": _vit,
  "dinov2": _dinov2,
  "resnet": _resnet,
  "t5": _t5,
  "marian": _marian,
}
