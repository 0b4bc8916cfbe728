"""Attention with a site at every step; heads are query heads.

Grouped-query attention is the general case: H query heads share K key-value
heads, query head i reads key-value head i // (H / K). Sites of a block
`blocks.L`, in order: `attn.q` `[B, P, H, h]`, `attn.k`, `attn.v`
`[B, P, K, h]` (after bias and norm, before rotary); `attn.q_rot`,
`attn.k_rot` after it, where there is one; `attn.scores` `[B, H, P, S]` before
the mask (after a soft cap, with a bias for distance), `attn.pattern`
`[B, H, P, S]`; `attn.z`
`[B, P, H, h]` before the projection; `attn.heads` `[B, P, H, d]` what each
head adds to `attn.out` `[B, P, d]`, computed only where asked for.

Shapes: B batch, P query positions, S keys (P, or the slots of a cache), d
width, H heads, K key-value heads, h head width.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import chex
import flax.linen as nn
import jax
import jax.numpy as jnp

from spex_jax import base
from spex_jax.models import backward, cut_edges, rope, sites

_INIT = nn.initializers.normal(0.02)
_CENTRED = ("layer", "centred")  # Norms that take the mean out.


class Cache(NamedTuple):
  """Keys (rotated) and values of S slots; slot s holds position s."""

  k: jax.Array  # [B, S, K, h]
  v: jax.Array  # [B, S, K, h]


class Context(NamedTuple):
  """What every block of a forward shares.

  Attributes:
    mask: bool `[B or 1, 1, P or 1, S]`, True where a query may attend.
    cos_sin: `[2, B or 1, P, w/2]` for rotary embeddings, or None.
    start: int `[B]`, the slot of a cache that the first query takes, or a
      number, the same for all rows; None without a cache.
    keep: the positions of which more than keys and values is computed, fewer
      than P; None for all.
    bias: `[B or 1, H, P, S]`, added to the scores, or None.
  """

  mask: jax.Array
  cos_sin: jax.Array | None = None
  start: jax.Array | int | None = None
  keep: sites.Positions | None = None
  bias: jax.Array | None = None


class Norm(nn.Module):
  """Layer norm or RMS norm over the last axis, computed in float32 at least.

  `rms_one` multiplies by 1 + scale (Gemma), `centred` is a layer norm without
  a bias (ModernBERT), `none` does nothing. Parameters `scale`, unless `none`,
  and `bias` for `layer`. Where `fixed`, the size that it divides by is a
  constant in derivatives.
  """

  kind: str
  width: int
  eps: float
  fixed: bool = False

  def setup(self):
    ones = nn.initializers.ones
    zeros = nn.initializers.zeros
    shape = (self.width,)
    init = zeros if self.kind == "rms_one" else ones
    if self.kind != "none":
      self.scale = self.param("scale", init, shape)
    if self.kind == "layer":
      self.bias = self.param("bias", zeros, shape)

  def __call__(self, x: jax.Array) -> jax.Array:
    """`x` `[..., width]`, normalised, in its own dtype."""
    if self.kind == "none":
      return x
    wide = _widen(x)
    if self.kind in _CENTRED:
      wide = wide - wide.mean(axis=-1, keepdims=True)
    out = wide * self._factor(wide)
    if self.kind == "layer":
      out = out + _last(self.bias, x.ndim)
    return out.astype(x.dtype)

  def factor(self, x: jax.Array) -> jax.Array:
    """By what an RMS norm multiplies `x`: `[..., width]`."""
    return self._factor(_widen(x)).astype(x.dtype)

  def fold(self, kernel: jax.Array) -> tuple[jax.Array, jax.Array]:
    """The norm's share in a product behind it, as a kernel and a bias.

    `self(x) @ kernel` is `self.inverse(x) * (x @ folded) + bias`, where a mean
    is taken out of the kernel instead of out of `x`: with an input per head,
    two passes less over the largest arrays of a forward.

    Args:
      kernel: `[d, N, h]`, of the product behind the norm.

    Returns:
      `[N, d, h]` and `[N, h]`.
    """
    wide = _widen(kernel)
    if self.kind == "none":
      zeros = jnp.zeros(kernel.shape[1:], kernel.dtype)
      return jnp.moveaxis(kernel, 1, 0), zeros
    scale = self.scale + 1 if self.kind == "rms_one" else self.scale
    folded = jnp.moveaxis(wide, 1, 0) * scale[None, :, None]
    bias = jnp.zeros(kernel.shape[1:], wide.dtype)
    if self.kind in _CENTRED:
      own = self.bias if self.kind == "layer" else jnp.zeros_like(scale)
      rows = jnp.stack([scale / self.width, own]).astype(wide.dtype)
      mean, bias = jnp.einsum("ad,dnh->anh", rows, wide, precision="highest")
      folded = folded - mean[:, None]
    return folded.astype(kernel.dtype), bias.astype(kernel.dtype)

  def inverse(self, x: jax.Array) -> jax.Array:
    """One over the size that `x` is divided by: `[..., 1]`."""
    if self.kind == "none":
      return jnp.ones((*x.shape[:-1], 1), x.dtype)
    wide = _widen(x)
    if self.kind in _CENTRED:
      wide = wide - wide.mean(axis=-1, keepdims=True)
    mean_square = jnp.square(wide).mean(axis=-1, keepdims=True)
    size = jax.lax.rsqrt(mean_square + self.eps).astype(x.dtype)
    return backward.constant(size, self.fixed)

  def _factor(self, wide):
    scale = _last(self.scale, wide.ndim).astype(wide.dtype)
    mean_square = jnp.square(wide).mean(axis=-1, keepdims=True)
    if self.kind == "rms_one":
      scale = scale + 1
    size = jax.lax.rsqrt(mean_square + self.eps)
    return backward.constant(size, self.fixed) * scale


class Project(nn.Module):
  """Into heads: kernel `[d, N, h]`, bias `[N, h]`."""

  width: int
  heads: int
  head_width: int
  use_bias: bool

  def setup(self):
    shape = (self.width, self.heads, self.head_width)
    self.kernel = self.param("kernel", _INIT, shape)
    if self.use_bias:
      self.bias = self.param("bias", nn.initializers.zeros, shape[1:])

  def __call__(self, x: jax.Array, norm: Norm | None = None) -> jax.Array:
    """`[B, P, d]`, or one input per head `[N, B, P, d]`, to `[B, P, N, h]`.

    The inputs per head are those before the `norm`, which is folded in.
    """
    chex.assert_rank(x, {3, 4})
    if norm is None or x.ndim == 3:
      out = jnp.einsum("bpd,dnh->bpnh", x, self.kernel)
    else:
      kernel, bias = norm.fold(self.kernel)
      rows = x.reshape(len(x), -1, self.width)
      out = jnp.einsum("nrd,ndh->nrh", rows, kernel) * norm.inverse(rows)
      out = out.reshape(*x.shape[:3], self.head_width)
      out = jnp.moveaxis(out, 0, 2) + bias[None, None]
    return out + self.bias[None, None] if self.use_bias else out


class Combine(nn.Module):
  """Out of the heads: kernel `[H, h, d]`, bias `[d]`.

  With `layer_scale` both are multiplied by a parameter `scale` `[d]`, so that
  what is written has it everywhere (DINOv2).
  """

  width: int
  heads: int
  head_width: int
  use_bias: bool
  layer_scale: bool = False

  def setup(self):
    shape = (self.heads, self.head_width, self.width)
    kernel = self.param("kernel", _INIT, shape)
    scale = None
    if self.layer_scale:
      scale = self.param("scale", nn.initializers.ones, shape[-1:])
    self.kernel = kernel if scale is None else kernel * scale[None, None]
    if self.use_bias:
      bias = self.param("bias", nn.initializers.zeros, shape[-1:])
      self.bias = bias if scale is None else bias * scale

  def __call__(
    self, tap: sites.Tap, site: str, z: jax.Array, split: bool = False
  ) -> tuple[jax.Array, cut_edges.Written | None]:
    """`{site}.out` `[B, P, d]`, and what each head writes, where needed.

    Where edited or captured, that is computed, `[B, P, H, d]`; else it is None
    unless asked for by `split`.
    """
    heads = cut_edges.Heads(z, self.kernel)
    if not tap.wants(f"{site}.heads"):
      return tap(f"{site}.out", self.all(z)), heads if split else None
    parts = tap(f"{site}.heads", heads.each)
    edited = tap.edits(f"{site}.heads")
    out = self.biased(parts.sum(axis=2)) if edited else self.all(z)
    return tap(f"{site}.out", out), parts

  def all(self, z: jax.Array) -> jax.Array:
    """The sum over heads, with the bias: `[B, P, d]`."""
    flat = z.reshape(*z.shape[:2], -1)  # One plain product is the fastest.
    return self.biased(flat @ self.kernel.reshape(-1, self.width))

  def biased(self, x: jax.Array) -> jax.Array:
    """`x` `[B, P, d]` and the bias."""
    return x + self.bias[None, None] if self.use_bias else x


class Attention(nn.Module):
  """One attention layer; `config` is a `blocks.Config`.

  `score_scale` is the factor of q k, the configuration's by default.
  """

  config: Any
  score_scale: float | None = None

  def setup(self):
    c = self.config
    own = (c.width, c.num_heads, c.head_width)
    shared = (c.width, c.num_kv_heads, c.head_width)
    self.q = Project(*own, c.qkv_bias)
    self.k = Project(*shared, c.qkv_bias)
    self.v = Project(*shared, c.qkv_bias)
    self.out = Combine(*own, c.out_bias, c.layer_scale)
    if c.qk_norm:
      each = c.qk_norm == "each"
      width = lambda num: c.head_width * (1 if each else num)
      fixed = c.rules.norm
      self.q_norm = Norm(c.norm, width(c.num_heads), c.norm_eps, fixed)
      self.k_norm = Norm(c.norm, width(c.num_kv_heads), c.norm_eps, fixed)

  def mix(
    self,
    tap: sites.Tap,
    site: str,
    inputs: Sequence[jax.Array],
    context: Context,
    cache: Cache | None = None,
    norm: Norm | None = None,
  ) -> tuple[jax.Array, Cache | None]:
    """What the heads gather, `z` `[B, P, H, h]`, and the cache with it.

    Args:
      tap: the tap of this forward.
      site: prefix of the sites, "blocks.L.attn".
      inputs: three, to q, k and v, each `[B, P, d]` behind the norm, or one
        per head `[H or K, B, P, d]` before it; to q, of the kept positions
        alone. Or one, to q: then the cache is attended to as it is.
      context: masks and positions.
      cache: written at `context.start`, and attended to.
      norm: the norm of inputs per head; None where they need none.

    Raises:
      ValueError: a cache without a start.
    """
    c = self.config
    q = self.q(inputs[0], norm)
    q = tap(f"{site}.q", self._normed(q, self.q_norm) if c.qk_norm else q)
    whole = len(inputs) == 1
    if not whole:
      k, v = self.remember(tap, site, inputs[1], inputs[2], norm)
    elif cache is not None:
      k, v = cache
    else:
      raise ValueError("Without inputs to k and v, attention needs a cache.")
    mask, cos_sin = context.mask, context.cos_sin
    if context.keep is not None:
      mask = sites.take(mask, context.keep, axis=2)
    if cos_sin is not None:
      of_q = cos_sin
      if context.keep is not None:
        of_q = jnp.stack([sites.take(part, context.keep) for part in cos_sin])
      q = tap(f"{site}.q_rot", rope.rotate(q, of_q))
      k = tap(f"{site}.k_rot", rope.rotate(k, cos_sin))
    if cache is not None and not whole:
      if context.start is None:
        raise ValueError("A cache needs the slots to write at: context.start.")
      write = jax.lax.dynamic_update_slice_in_dim
      axis = 1
      if not isinstance(context.start, int):
        write, axis = jax.vmap(write, (0, 0, 0, None)), 0
      cache = Cache(
        write(cache.k, k.astype(cache.k.dtype), context.start, axis),
        write(cache.v, v.astype(cache.v.dtype), context.start, axis),
      )
      k, v = cache
    q, k = (backward.scaled(x, c.rules.query_key) for x in (q, k))
    v = backward.scaled(v, c.rules.value)
    factor = c.score_scale if self.score_scale is None else self.score_scale
    batch, length, num, width = q.shape
    groups = num // c.num_kv_heads
    # Rows of one product per key-value head: its query heads, position by
    # position. Any other order costs transpositions of the scores.
    rows = (batch, c.num_kv_heads, groups * length)
    scores = jnp.einsum(
      "bkmh,bskh->bkms",
      jnp.swapaxes(q * jnp.asarray(factor, q.dtype), 1, 2).reshape(
        *rows, width
      ),
      k,
      preferred_element_type=jnp.promote_types(q.dtype, jnp.float32),
    )
    scores = scores.reshape(batch, num, length, k.shape[1])
    if c.score_cap is not None:
      scores = c.score_cap * jnp.tanh(scores / c.score_cap)
    if context.bias is not None:
      scores = scores + context.bias.astype(scores.dtype)
    scores = tap(f"{site}.scores", scores, axis=2)
    # Finite, so that a query without any key stays finite too.
    low = jnp.finfo(scores.dtype).min
    pattern = backward.softmax(jnp.where(mask, scores, low), c.rules)
    pattern = tap(f"{site}.pattern", pattern.astype(q.dtype), axis=2)
    z = jnp.einsum(
      "bkms,bskh->bkmh", pattern.reshape(*rows, k.shape[1]), v
    ).reshape(batch, num, length, width)
    return tap(f"{site}.z", jnp.swapaxes(z, 1, 2)), cache

  def remember(
    self,
    tap: sites.Tap,
    site: str,
    to_k: jax.Array,
    to_v: jax.Array,
    norm: Norm | None = None,
  ) -> Cache:
    """Keys, before rotary, and values `[B, P, K, h]` of inputs as of `mix`."""
    k = self.k(to_k, norm)
    k = self._normed(k, self.k_norm) if self.config.qk_norm else k
    return Cache(tap(f"{site}.k", k), tap(f"{site}.v", self.v(to_v, norm)))

  def _normed(self, heads: jax.Array, norm: Norm) -> jax.Array:
    """Heads `[B, P, N, h]`, each normalised, or all of a position as one."""
    if self.config.qk_norm == "each":
      return norm(heads)
    return norm(heads.reshape(*heads.shape[:2], -1)).reshape(heads.shape)


def causal(
  query: base.Array, num_keys: int, window: int | None = None
) -> jax.Array:
  """Which slots 0..S-1 a query at slot `query` int `[B, P]` may see.

  Its own and the earlier ones, of which a sliding window leaves the last
  `window`, its own included. Returns bool `[B, 1, P, S]`.
  """
  query = query[:, None, :, None]
  key = jnp.arange(num_keys)[None, None, None]
  seen = key <= query
  return seen if window is None else seen & (key > query - window)


def around(length: int, window: int) -> jax.Array:
  """Which of P slots one may see that sees `window` to either side of its own.

  Returns bool `[1, 1, P, P]`.
  """
  slots = jnp.arange(length)
  return (jnp.abs(slots[:, None] - slots[None]) <= window)[None, None]


def _widen(x: jax.Array) -> jax.Array:
  return x.astype(jnp.promote_types(x.dtype, jnp.float32))


def _last(vector: jax.Array, ndim: int) -> jax.Array:
  return vector.reshape((1,) * (ndim - 1) + vector.shape)
