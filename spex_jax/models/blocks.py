"""Blocks of transformers: attention, MLP, and the stream that they write to.

Three orders are known. `pre`: a norm before attention and before the MLP,
each added to the stream. `parallel` (GPT-NeoX): both read the stream before
the block. `post` (BERT): the norm follows each sum, and its result is the new
stream. `sandwich` (Gemma 2) is `pre` with a further norm on what is added;
with `pre_norm` "none" it is the only one (OLMo 2). A block may have experts in
the place of its MLP, with sites of their own (`experts`).

Sites of block L, besides those of attention: `resid_pre` `[B, P, d]`;
`attn.q_in`, `attn.k_in`, `attn.v_in` (what one head reads, before the norm;
computed where asked for); `attn.in` (after the norm); `attn.post_norm` where
there is one, and with `sandwich` `attn.heads_post_norm` `[B, P, H, d]`, the
heads' shares of it; `resid_mid` (not in `parallel`); `mlp.read` (what the MLP
reads, before the norm), `mlp.in` (after it), `mlp.pre`, `mlp.neurons` `[B, P,
F]`, `mlp.out`, `mlp.post_norm`; `resid_post`. With `post`, where no norm
stands before, `attn.in` and `mlp.in` are the stream, and there are no `_in`
and no `mlp.read`. Where a head's input is split, by an edge into it or an edit
at it, there is no single `attn.in`: it is not captured, and editing it fails.
The inputs that are not split stay one.

Where only some positions are wanted of a last block (`Context.keep`), it
computes only its keys and values at all of them: `resid_pre`, `attn.in`,
`attn.q_in`, `attn.k_in`, `attn.v_in`, `attn.k`, `attn.v` and `attn.k_rot` have
P positions, every later site the kept ones alone (axis 2 of `attn.scores` and
`attn.pattern`). Captures show that; edits of P positions fit all the same.

Shapes: B batch, P positions, d width, H heads, F neurons.
"""

import dataclasses
from collections.abc import Callable

import flax.linen as nn
import jax
import jax.numpy as jnp

from spex_jax import base
from spex_jax.models import attention, backward, cut_edges, experts, rope, sites


def _gelu(x: jax.Array) -> jax.Array:
  """Exact GELU by erf, as PyTorch has it; `nn.gelu`'s erfc takes twice as long.

  The two differ by some 6e-8 |x|, the rounding of 1 + erf.
  """
  wide = x.astype(jnp.promote_types(x.dtype, jnp.float32))
  return (wide * (0.5 + 0.5 * jax.lax.erf(wide * 0.5**0.5))).astype(x.dtype)


# By Hugging Face's names; "gelu" is exact there.
ACTIVATIONS: dict[str, Callable[[jax.Array], jax.Array]] = {
  "gelu": _gelu,
  "gelu_new": lambda x: nn.gelu(x, approximate=True),
  "gelu_pytorch_tanh": lambda x: nn.gelu(x, approximate=True),
  "gelu_fast": lambda x: nn.gelu(x, approximate=True),
  "quick_gelu": lambda x: x * nn.sigmoid(1.702 * x),
  "relu": nn.relu,
  "silu": nn.silu,
  "swish": nn.silu,
  "tanh": nn.tanh,
}
_NORMS = ("layer", "centred", "rms", "rms_one", "none")
ORDERS = ("pre", "parallel", "sandwich", "post")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config:
  """Settings of the blocks of a transformer.

  Attributes:
    width: d, the width of the residual stream.
    num_blocks: L, the number of blocks.
    num_heads: H, the number of query heads.
    num_kv_heads: K, the number of key-value heads, a divisor of H.
    head_width: h, the width of a head.
    num_neurons: F, the number of neurons of an MLP.
    order: where norms stand in a block, one of `ORDERS`.
    norm: "layer", "centred" (without a bias), "rms", "rms_one" (RMS times
      1 + scale), or "none".
    pre_norm: of the norms before attention and MLP, if another kind than
      `norm`: "none" where nothing stands there (OLMo 2).
    first_norm: the same of the norm before the first attention alone
      (ModernBERT, whose embedding is normalised).
    norm_eps: added to a variance or mean square.
    activation: the MLP's activation function, one of `ACTIVATIONS`.
    gated: the MLP multiplies its activation with a second input matrix.
    qkv_bias: whether q, k and v have biases; so on for the others.
    out_bias: whether attention's output has a bias.
    mlp_bias: whether the MLP's matrices have biases.
    layer_scale: what attention and the MLP add is multiplied by a parameter
      `scale` `[d]`, before their last sites (DINOv2).
    mixture: the experts of some blocks, or None.
    qk_norm: "" without a norm of queries and keys; "each" normalises every
      head (Qwen 3), "all" the heads of a position as one (OLMo 2).
    score_scale: factor of the products of queries and keys.
    score_scale_by_layer: scores of block L are divided by L + 1, too.
    score_cap: c in c tanh(score / c), or None.
    windows: the windows of each block, its sliding window or None; () where no
      block has one.
    rotary: rotary embedding, or None.
    local_rotary: that of blocks with a window, if it is another (Gemma 3).
    rules: the rules of derivatives; they change nothing else.
  """

  width: int
  num_blocks: int
  num_heads: int
  num_kv_heads: int
  head_width: int
  num_neurons: int
  order: str = "pre"
  norm: str = "layer"
  pre_norm: str = ""
  first_norm: str = ""
  norm_eps: float = 1e-5
  activation: str = "gelu"
  gated: bool = False
  qkv_bias: bool = True
  out_bias: bool = True
  mlp_bias: bool = True
  layer_scale: bool = False
  mixture: experts.Experts | None = None
  qk_norm: str = ""
  score_scale: float = 1.0
  score_scale_by_layer: bool = False
  score_cap: float | None = None
  windows: tuple[int | None, ...] = ()
  rotary: rope.Rope | None = None
  local_rotary: rope.Rope | None = None
  rules: backward.Rules = backward.PLAIN

  def __post_init__(self):
    sizes = (self.width, self.num_blocks, self.num_kv_heads, self.num_neurons)
    if min(*sizes, self.head_width) < 1 or self.num_heads < 1:
      raise ValueError(
        f"Sizes of a transformer must be at least 1; got {self}."
      )
    if self.num_heads % self.num_kv_heads:
      raise ValueError(
        f"{self.num_heads} heads cannot share {self.num_kv_heads} key-value "
        "heads evenly."
      )
    for what, name, known in (
      ("activation", self.activation, ACTIVATIONS),
      ("order", self.order, ORDERS),
      ("norm", self.norm, _NORMS),
      ("pre_norm", self.pre_norm, ("", *_NORMS)),
      ("first_norm", self.first_norm, ("", *_NORMS)),
      ("qk_norm", self.qk_norm, ("", "each", "all")),
    ):
      if name not in known:
        raise ValueError(
          f"Unknown {what} {name!r}; known are {', '.join(known)}."
        )
    if self.order == "sandwich" and not self.norm.startswith("rms"):
      raise ValueError(f"Sandwich norms are RMS norms; got {self.norm!r}.")
    if self.mixture and (self.mlp_bias or self.layer_scale or not self.gated):
      raise ValueError(
        "Experts are gated MLPs without biases and without layer_scale."
      )
    if self.rotary is not None and self.rotary.width > self.head_width:
      raise ValueError(
        f"RoPE rotates {self.rotary.width} entries of a head of "
        f"{self.head_width}."
      )
    if len(self.windows) not in (0, self.num_blocks):
      raise ValueError(
        f"Need a window for each of {self.num_blocks} blocks, or none; got "
        f"{self.windows}."
      )

  def window(self, number: int) -> int | None:
    """The sliding window of a block, or None."""
    return self.windows[number] if self.windows else None

  def has_experts(self, number: int) -> bool:
    """Whether a block has experts in the place of its MLP."""
    return self.mixture is not None and number in self.mixture.blocks


class Mlp(nn.Module):
  """`up` (and `gate`), activation, `down`."""

  config: Config

  def setup(self):
    c = self.config
    self.up = nn.Dense(c.num_neurons, use_bias=c.mlp_bias)
    if c.gated:
      self.gate = nn.Dense(c.num_neurons, use_bias=c.mlp_bias)
    self.down = nn.Dense(c.width, use_bias=c.mlp_bias)
    if c.layer_scale:
      self.scale = self.param("scale", nn.initializers.ones, (c.width,))

  def __call__(self, tap: sites.Tap, site: str, x: jax.Array) -> jax.Array:
    """`[B, P, d]` to `[B, P, d]`; `site` is "blocks.L.mlp"."""
    rules, name = self.config.rules, self.config.activation
    act = lambda x: backward.activated(ACTIVATIONS[name], x, rules)
    if self.config.gated:
      gate = act(tap(f"{site}.pre", self.gate(x)))
      up = backward.scaled(self.up(x), rules.gate)
      neurons = backward.scaled(gate, rules.gate) * up
    else:
      neurons = act(tap(f"{site}.pre", self.up(x)))
    out = self.down(tap(f"{site}.neurons", neurons))
    if self.config.layer_scale:
      out = out * self.scale[None, None]
    return tap(f"{site}.out", out)


class Block(nn.Module):
  """One block, callable alone: stream in, stream out."""

  config: Config
  number: int

  def setup(self):
    c = self.config
    norm = lambda kind: attention.Norm(
      kind or c.norm, c.width, c.norm_eps, c.rules.norm
    )
    first = c.first_norm if self.number == 0 else ""
    self.norm1, self.norm2 = norm(first or c.pre_norm), norm(c.pre_norm)
    if c.order == "sandwich":
      self.attn_post, self.mlp_post = norm(""), norm("")
    shrink = self.number + 1 if c.score_scale_by_layer else 1
    self.attn = attention.Attention(c, c.score_scale / shrink)
    if c.has_experts(self.number):
      self.mlp = experts.Mixture(c, ACTIVATIONS[c.activation])
    else:
      self.mlp = Mlp(c)

  def __call__(
    self,
    tap: sites.Tap,
    x: jax.Array,
    context: attention.Context,
    cache: attention.Cache | None = None,
  ) -> tuple[jax.Array, attention.Cache | None]:
    """`x` `[B, P, d]` to the stream behind the block, and the cache."""
    site = f"blocks.{self.number}"
    x = tap(f"{site}.resid_pre", x)
    if self.config.order == "post":
      return self._post(tap, site, x, context), cache
    inputs = self._inputs(tap, site, x)
    if context.keep is not None:
      few = lambda x: sites.take(x, context.keep)
      x = few(x)
      take = jax.vmap(few) if inputs[0].ndim == 4 else few
      inputs = (take(inputs[0]), *inputs[1:])
    z, cache = self.attn.mix(
      tap, f"{site}.attn", inputs, context, cache, self.norm1
    )
    split = tap.splits or tap.wants(f"{site}.attn.heads_post_norm")
    added, wrote = self.attn.out(tap, f"{site}.attn", z, split)
    if self.config.order == "parallel":
      read = self._mlp_input(tap, site, x)
      x = x + added
    else:
      if self.config.order == "sandwich":
        added, wrote = self._sandwich(tap, site, added, wrote)
      x = tap(f"{site}.resid_mid", x + added)
      _write(tap, wrote)
      read = self._mlp_input(tap, site, x)
    out = self.mlp(tap, f"{site}.mlp", read)
    if self.config.order == "sandwich":
      out = tap(f"{site}.mlp.post_norm", self.mlp_post(out))
    if self.config.order == "parallel":
      _write(tap, wrote)
    tap.write(out[:, :, None])
    return tap(f"{site}.resid_post", x + out), cache

  def _inputs(self, tap, site, x):
    """To q, k and v: one array for all, or one row per head where split."""
    c = self.config
    rows = (c.num_heads, c.num_kv_heads, c.num_kv_heads)
    names = [f"{site}.attn.{kind}_in" for kind in "qkv"]
    seen = tap.read(x, *names)
    for name, num in zip(names, rows):
      if name not in seen and tap.wants(name):
        same = jnp.broadcast_to(x, (num, *x.shape))
        if tap.edits(name):
          seen[name] = same
        else:  # Recorded only: the path stays the plain one.
          tap(name, jnp.moveaxis(same, 0, 2))
    normed = self.norm1(x)
    if not seen:
      normed = tap(f"{site}.attn.in", normed)
    inputs = []
    for name in names:
      if name in seen:
        one = tap(name, jnp.moveaxis(seen[name], 0, 2))
        inputs.append(jnp.moveaxis(one, 2, 0))
      else:
        inputs.append(normed)
    return tuple(inputs)

  def _mlp_input(self, tap, site, x):
    name = f"{site}.mlp.read"
    if name in (seen := tap.read(x, name)):
      (x,) = seen[name]
    return tap(f"{site}.mlp.in", self.norm2(tap(name, x)))

  def _sandwich(self, tap, site, added, wrote):
    """The norm of the sum, and the heads' shares under its factor."""
    name = f"{site}.attn.heads_post_norm"
    normed = self.attn_post(added)
    if wrote is not None:
      factor = self.attn_post.factor(added)
      if isinstance(wrote, cut_edges.Heads):
        wrote = wrote._replace(factor=factor)
      else:
        wrote = wrote * factor[:, :, None]
      if tap.wants(name):
        whole = wrote.each if isinstance(wrote, cut_edges.Heads) else wrote
        wrote = tap(name, whole)
        if tap.edits(name):
          normed = normed + (wrote - whole).sum(axis=2)
    return tap(f"{site}.attn.post_norm", normed), wrote

  def _post(self, tap, site, x, context):
    read = tap(f"{site}.attn.in", x)
    inputs = (read, read, read)
    z, _ = self.attn.mix(tap, f"{site}.attn", inputs, context)
    added, _ = self.attn.out(tap, f"{site}.attn", z)
    x = tap(f"{site}.attn.post_norm", self.norm1(x + added))
    x = tap(f"{site}.resid_mid", x)
    out = self.mlp(tap, f"{site}.mlp", tap(f"{site}.mlp.in", x))
    x = tap(f"{site}.mlp.post_norm", self.norm2(x + out))
    return tap(f"{site}.resid_post", x)


def rotations(
  config: Config,
  positions: base.Array,
  num: int,
  num_slots: int | None = None,
) -> list[jax.Array | None]:
  """For every block, rows of its rotary table, or None; see `rope.rows`."""
  rows: dict[rope.Rope | None, jax.Array] = {}
  for rotary in (config.rotary, config.local_rotary):
    if rotary is not None and rotary not in rows:
      rows[rotary] = rope.rows(rotary, positions, num, num_slots)
  local = config.local_rotary or config.rotary
  return [
    rows.get(config.rotary if config.window(number) is None else local)
    for number in range(config.num_blocks)
  ]


def final(tap: sites.Tap, norm: attention.Norm, x: jax.Array) -> jax.Array:
  """What the norm behind the last block gives of the stream: `[B, P, d]`."""
  if seen := tap.read(x, "final_norm.in"):
    (x,) = seen["final_norm.in"]
  return tap("final_norm", norm(tap("final_norm.in", x)))


def _write(tap: sites.Tap, wrote: cut_edges.Written | None) -> None:
  if wrote is not None:
    tap.write(wrote)
