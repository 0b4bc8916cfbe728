"""Vision transformers: ViT, DINO, DINOv2.

Input: `pixel_values` `[B, C, H, W]`, of the size that the model was made for.
Token 0 is the class token, the others are the patches, row by row.

Sites: `embed.tokens` and `embed` `[B, P, d]` (before and after positions),
those of `stream.block_sites`, `final_norm.in`, `final_norm`, `pooled`
`[B, d]` (the class token; with `pool_patches` `[B, 2 d]`, the mean of the
patches behind it) and `logits` `[B, K]`. `hidden` holds what enters
block 0 and what each block leaves, before the final norm.

Shapes: B batch, P = 1 + patches, d width, K classes.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from spex_jax import base
from spex_jax.models import attention, blocks, inputs, reading, sites, stream
from spex_jax.models.weights import Rule


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config(blocks.Config):
  """Settings of a vision transformer.

  Attributes:
    image_size: height and width of an image, in pixels.
    patch_size: the patch size of a patch; divides `image_size`.
    num_channels: C, the number of channels of an image.
    num_labels: K; 0 for a network without a head, whose logits are `pooled`.
    pool_patches: the classifier reads the mean of the patches, too (DINOv2).
  """

  image_size: int
  patch_size: int
  num_channels: int
  num_labels: int
  pool_patches: bool = False

  def __post_init__(self):
    super().__post_init__()
    if self.order != "pre":
      raise ValueError("A vision transformer has its norms before its parts.")
    for name in ("image_size", "patch_size"):
      size = getattr(self, name)
      if not isinstance(size, int) or size < 1:
        raise ValueError(f"{name} must be one whole number; got {size!r}.")
    if self.image_size % self.patch_size:
      raise ValueError(
        f"Patches of {self.patch_size} pixels do not divide an image of "
        f"{self.image_size}."
      )

  @property
  def num_positions(self) -> int:
    """P."""
    return 1 + (self.image_size // self.patch_size) ** 2


class Vit(nn.Module):
  """Patches, blocks, final norm, classifier."""

  config: Config

  def setup(self):
    c = self.config
    self.patch = nn.Dense(c.width)
    zeros = nn.initializers.zeros
    self.class_token = self.param("class_token", zeros, (1, 1, c.width))
    self.positions = inputs.Table(c.num_positions, c.width)
    self.blocks = [blocks.Block(c, number) for number in range(c.num_blocks)]
    self.final_norm = attention.Norm(c.norm, c.width, c.norm_eps, c.rules.norm)
    if c.num_labels:
      self.classifier = nn.Dense(c.num_labels)

  def __call__(
    self, tap: sites.Tap, pixel_values: base.Array
  ) -> tuple[jax.Array, tuple[jax.Array, ...]]:
    """Logits `[B, K]` and the hidden states, each `[B, P, d]`."""
    x = self.enter(tap, 0, pixel_values)
    return self.resume(tap, x, 0, pixel_values)

  def enter(
    self, tap: sites.Tap, stop: int, pixel_values: base.Array
  ) -> jax.Array:
    """What enters block `stop`: `[B, P, d]`."""
    c = self.config
    x = self.patch(self._patches(jnp.asarray(pixel_values)))
    token = jnp.broadcast_to(self.class_token, (len(x), 1, c.width))
    x = tap("embed.tokens", jnp.concatenate([token.astype(x.dtype), x], 1))
    x = x + self.positions(jnp.arange(c.num_positions)[None])
    x = tap("embed", x)
    tap.write(x[:, :, None])
    for block in self.blocks[:stop]:
      x, _ = block(tap, x, self._context())
    return x

  def resume(
    self, tap: sites.Tap, x: jax.Array, start: int, pixel_values: base.Array
  ) -> tuple[jax.Array, tuple[jax.Array, ...]]:
    """What `__call__` gives, from what enters block `start`."""
    del pixel_values  # Of `enter`.
    hidden = [x]
    for block in self.blocks[start:]:
      x, _ = block(tap, x, self._context())
      hidden.append(x)
    x = blocks.final(tap, self.final_norm, x)
    pooled = x[:, 0]
    if self.config.pool_patches:
      pooled = jnp.concatenate([pooled, x[:, 1:].mean(axis=1)], axis=-1)
    pooled = tap("pooled", pooled)
    logits = self.classifier(pooled) if self.config.num_labels else pooled
    return tap("logits", logits), tuple(hidden)

  def _context(self):
    seen = jnp.ones((1, 1, 1, self.config.num_positions), bool)
    return attention.Context(seen)

  def _patches(self, pixels):
    """`[B, C, H, W]` to `[B, P - 1, C p p]`, in the parameters' dtype."""
    c = self.config
    want = (c.num_channels, c.image_size, c.image_size)
    if pixels.ndim != 4 or pixels.shape[1:] != want:
      raise ValueError(
        f"pixel_values must be [B, {', '.join(map(str, want))}], the size "
        f"that this model was made for; got {pixels.shape}. Its positions are "
        "not interpolated: resize the pictures."
      )
    side, size = c.image_size // c.patch_size, c.patch_size
    parts = pixels.reshape(-1, c.num_channels, side, size, side, size)
    parts = parts.transpose(0, 2, 4, 1, 3, 5)
    parts = parts.reshape(len(pixels), side * side, -1)
    return parts.astype(self.class_token.dtype)


def network(config: Config) -> sites.Network:
  """The network of `config`, without parameters."""
  names = ["embed.tokens", "embed"]
  for number in range(config.num_blocks):
    names += stream.block_sites(config, number)
  size = (config.num_channels, config.image_size, config.image_size)
  return sites.Network(
    module=Vit(config),
    config=config,
    sites=(*names, "final_norm.in", "final_norm", "pooled", "logits"),
    example={"pixel_values": jax.ShapeDtypeStruct((1, *size), jnp.float32)},
    **stream.edges(config),
  )


def config_from_hub(settings: Mapping[str, Any]) -> Config:
  """The configuration that a `config.json` describes.

  Raises:
    ValueError: a setting that changes the function and is not implemented.
  """
  reader = reading.Reader(settings)
  width = reader.size("hidden_size")
  heads = reader.size("num_attention_heads")
  # A pooler that a classifier does not have.
  reader.ignore("pooler_act", "pooler_output_size", "tie_word_embeddings")
  classifies = settings.get("architectures") != ["ViTModel"]
  labels = reader.num_labels()
  config = Config(
    width=width,
    num_blocks=reader.num_blocks("num_hidden_layers"),
    num_heads=heads,
    num_kv_heads=heads,
    head_width=reader.head_width(width, heads),
    num_neurons=reader.size("intermediate_size"),
    norm_eps=reader.positive("layer_norm_eps", default=1e-12),
    activation=reader.activation("hidden_act", default="gelu"),
    qkv_bias=reader.flag("qkv_bias", True),
    score_scale=(width // heads) ** -0.5,
    image_size=reader.size("image_size", default=224),
    patch_size=reader.size("patch_size", default=16),
    num_channels=reader.size("num_channels", default=3),
    num_labels=labels if classifies else 0,
  )
  reader.finish()
  return config


def rules(config: Config) -> tuple[Rule, ...]:
  """Checkpoint keys to parameters."""
  root = r"(?:vit\.)?"  # A bare model is saved without it.
  block = root + r"encoder\.layer\.(\d+)\."
  rules = outer_rules(config, root)
  if not config.num_labels:
    # A pooler that is not read: embeddings are the class token.
    rules.append(Rule(root + r"pooler\.dense\.(?:weight|bias)", ""))
  attn = r"attention\.attention\."
  for key, to, weight, bias in (
    (attn + "query", "attn/q/kernel", "heads_in:q", "heads_in:q"),
    (attn + "key", "attn/k/kernel", "heads_in:k", "heads_in:k"),
    (attn + "value", "attn/v/kernel", "heads_in:v", "heads_in:v"),
    (r"attention\.output\.dense", "attn/out/kernel", "heads_out", ""),
    ("layernorm_before", "norm1/scale", "", ""),
    ("layernorm_after", "norm2/scale", "", ""),
    (r"intermediate\.dense", "mlp/up/kernel", "transpose", ""),
    (r"output\.dense", "mlp/down/kernel", "transpose", ""),
  ):
    parent = to.rpartition("/")[0]
    rules += [
      Rule(block + key + r"\.weight", rf"blocks_\1/{to}", weight),
      Rule(block + key + r"\.bias", rf"blocks_\1/{parent}/bias", bias),
    ]
  return tuple(rules)


def outer_rules(config: Config, root: str) -> list[Rule]:
  """The rules of what stands before and behind the blocks."""
  embed = root + r"embeddings\."
  patch = embed + r"patch_embeddings\.projection\."
  rules = [
    Rule(embed + "cls_token", "class_token"),
    Rule(embed + "position_embeddings", "positions/table", "squeeze"),
    Rule(patch + "weight", "patch/kernel", "patches"),
    Rule(patch + "bias", "patch/bias"),
    Rule(root + r"layernorm\.weight", "final_norm/scale"),
    Rule(root + r"layernorm\.bias", "final_norm/bias"),
  ]
  if config.num_labels:
    rules += [
      Rule(r"classifier\.weight", "classifier/kernel", "transpose"),
      Rule(r"classifier\.bias", "classifier/bias"),
    ]
  return rules
