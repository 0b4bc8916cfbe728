"""DINOv2 checkpoints, as `vit` networks with layer scale.

`Dinov2ForImageClassification` reads the class token and the mean of the
patches; the bare `Dinov2Model` gives the class token. Pictures are of the size
that the table of positions is stored for: it is not interpolated.
"""

from collections.abc import Mapping
from typing import Any

from spex_jax.models import reading, vit
from spex_jax.models.weights import Rule

network = vit.network


def config_from_hub(settings: Mapping[str, Any]) -> vit.Config:
  """The configuration that a `config.json` describes.

  Raises:
    ValueError: a setting that changes the function and is not implemented.
  """
  reader = reading.Reader(settings)
  width = reader.size("hidden_size")
  heads = reader.size("num_attention_heads")
  # Of training, of feature maps for other models, and of a token for masks.
  reader.ignore(
    "layerscale_value", "drop_path_rate", "apply_layernorm",
    "reshape_hidden_states", "out_features", "out_indices", "_out_features",
    "_out_indices", "stage_names", "use_mask_token", "tie_word_embeddings",
  )  # fmt: skip
  neurons = int(width * reader.positive("mlp_ratio", default=4))
  gated = reader.flag("use_swiglu_ffn", False)
  if gated:  # Two thirds, rounded up to a multiple of 8, whatever the act.
    reader.ignore("hidden_act")
    neurons = (int(neurons * 2 / 3) + 7) // 8 * 8
  activation = "silu"
  if not gated:
    activation = reader.activation("hidden_act", default="gelu")
  classifies = settings.get("architectures") != ["Dinov2Model"]
  labels = reader.num_labels()
  config = vit.Config(
    width=width,
    num_blocks=reader.num_blocks("num_hidden_layers"),
    num_heads=heads,
    num_kv_heads=heads,
    head_width=reader.head_width(width, heads),
    num_neurons=neurons,
    norm_eps=reader.positive("layer_norm_eps", default=1e-6),
    activation=activation,
    gated=gated,
    qkv_bias=reader.flag("qkv_bias", True),
    layer_scale=True,
    score_scale=(width // heads) ** -0.5,
    image_size=reader.size("image_size", default=224),
    patch_size=reader.size("patch_size", default=14),
    num_channels=reader.size("num_channels", default=3),
    num_labels=labels if classifies else 0,
    pool_patches=classifies,
  )
  reader.finish()
  return config


# Parts of a block, by both names that transformers gave them, and the
# transforms of their weights and biases.
_PARTS = (
  ("norm1", "norm1", "", ""),
  ("norm2", "norm2", "", ""),
  (r"attention\.(?:attention\.query|q_proj)", "attn/q", "heads_in:q", ""),
  (r"attention\.(?:attention\.key|k_proj)", "attn/k", "heads_in:k", ""),
  (r"attention\.(?:attention\.value|v_proj)", "attn/v", "heads_in:v", ""),
  (r"attention\.(?:output\.dense|o_proj)", "attn/out", "heads_out", ""),
  (r"mlp\.(?:fc1|up_proj)", "mlp/up", "transpose", ""),
  (r"mlp\.gate_proj", "mlp/gate", "transpose", ""),
  (r"mlp\.(?:fc2|weights_out|down_proj)", "mlp/down", "transpose", ""),
  (r"mlp\.weights_in", "mlp/gate", "half:0", "half:0"),
  (r"mlp\.weights_in", "mlp/up", "half:1", "half:1"),
)


def rules(config: vit.Config) -> tuple[Rule, ...]:
  """Checkpoint keys to parameters."""
  root = r"(?:dinov2\.)?"  # A bare model is saved without it.
  block = root + r"encoder\.layer\.(\d+)\."
  rules = [
    *vit.outer_rules(config, root),
    Rule(root + r"embeddings\.mask_token", ""),  # Of training.
    Rule(block + r"layer_scale1\.lambda1", r"blocks_\1/attn/out/scale"),
    Rule(block + r"layer_scale2\.lambda1", r"blocks_\1/mlp/scale"),
  ]
  for key, to, weight, bias in _PARTS:
    name = "scale" if to.startswith("norm") else "kernel"
    bias = bias or (weight if weight.startswith("heads_in") else "")
    rules += [
      Rule(block + key + r"\.weight", rf"blocks_\1/{to}/{name}", weight),
      Rule(block + key + r"\.bias", rf"blocks_\1/{to}/bias", bias),
    ]
  return tuple(rules)
