"""Random views of a picture, each a pure function of a key.

A crop, its resizing, a mirror image and a blur are linear and separable: one
matrix for rows and one for columns, so that a batch of views is two batched
matrix products. Colours follow: brightness, contrast, saturation, hue, grey.

After MoCo v2 (Chen et al., arXiv:2003.04297) and its code. Deviations: jitters
come in one fixed order; hue turns in the plane of YIQ; what a blur would take
from beyond the edge is left out, and the rest weighs more.

Shapes: a picture is `[3, S, S]`, in [0, 1].
"""

import dataclasses

import chex
import jax
import jax.numpy as jnp
import numpy as np

from spex_jax import base

# Of YIQ: brightness, and two axes of colour.
_YIQ = (
  (0.299, 0.587, 0.114), (0.596, -0.274, -0.322), (0.211, -0.523, 0.312),
)  # fmt: skip
_BACK = np.linalg.inv(_YIQ)
_NO_BLUR = 1e-2  # Pixels: no neighbour has any weight.


@dataclasses.dataclass(frozen=True)
class Views:
  """How far views may lie apart.

  Attributes:
    least_area: of a crop, in parts of the picture; the most is all of it.
    aspect: of a crop, from 1 / aspect to aspect, evenly in the logarithm.
    flip: the probability of a mirror image.
    jitter: brightness, contrast and saturation change by factors from
      1 - jitter to 1 + jitter.
    hue: changes by up to that, in turns.
    jittered: the probability in [0, 1] that jitter and hue are applied.
    grey: the probability that a view has no colour.
    negative: the probability that a view is inverted, 1 less each value.
    blurred: the probability that a view is blurred.
    blur: its standard deviation, at most, in parts of S; at least a tenth.
  """

  least_area: float = 0.2
  aspect: float = 4 / 3
  flip: float = 0.5
  jitter: float = 0.4
  hue: float = 0.1
  jittered: float = 0.8
  grey: float = 0.2
  negative: float = 0.0
  blurred: float = 0.5
  blur: float = 1 / 32


VIEWS = Views()


def view(key: base.Key, picture: jax.Array, views: Views) -> jax.Array:
  """A random view `[3, S, S]` of a picture. Unbatched: `vmap` over keys.

  Args:
    key: a random key, consumed: another key gives another view.
    picture: float `[3, S, S]`, in [0, 1].
    views: how far views may lie apart; static under jit.
  """
  chex.assert_rank(picture, 3)
  chex.assert_shape(picture, (3, picture.shape[1], picture.shape[1]))
  place, colour = jax.random.split(key)
  rows, columns = _placed(place, picture.shape[1], views)
  cropped = jnp.einsum("ij,cjk,lk->cil", rows, picture, columns)
  return _coloured(colour, cropped, views)


def _placed(key, size, views) -> tuple[jax.Array, jax.Array]:
  """The matrices `[S, S]` of rows and of columns."""
  keys = jax.random.split(key, 7)
  area = jax.random.uniform(keys[0], minval=views.least_area, maxval=1.0)
  most = jnp.log(jnp.asarray(views.aspect))
  aspect = jnp.exp(jax.random.uniform(keys[1], minval=-most, maxval=most))
  height = jnp.minimum(jnp.sqrt(area / aspect), 1.0)
  width = jnp.minimum(jnp.sqrt(area * aspect), 1.0)
  flips = jax.random.bernoulli(keys[2], views.flip)
  wide = views.blur * size
  sigma = jax.random.uniform(keys[3], minval=wide / 10, maxval=wide)
  blurs = jax.random.bernoulli(keys[4], views.blurred)
  blur = _blur(jnp.where(blurs, sigma, _NO_BLUR), size)
  top = (1 - height) * jax.random.uniform(keys[5])
  left = (1 - width) * jax.random.uniform(keys[6])
  columns = crop(left, width, size)
  columns = jnp.where(flips, columns[::-1], columns)
  return blur @ crop(top, height, size), blur @ columns


def crop(start: base.Array, length: base.Array, size: int) -> jax.Array:
  """The matrix `[S, S]` that resamples a part of a line, bilinearly.

  Args:
    start: of the part, in parts of the line.
    length: of the part, in parts of the line.
    size: S, how many pixels the line has, before and after.
  """
  chex.assert_rank([start, length], 0)
  centres = (jnp.arange(size) + 0.5) / size
  at = jnp.clip((start + length * centres) * size - 0.5, 0, size - 1)
  apart = jnp.abs(at[:, None] - jnp.arange(size)[None])
  return jnp.maximum(1 - apart, 0)


def _blur(sigma, size) -> jax.Array:
  apart = jnp.arange(size)[:, None] - jnp.arange(size)[None]
  weights = jnp.exp(-0.5 * (apart / sigma) ** 2)
  return weights / weights.sum(axis=1, keepdims=True)


def _coloured(key, picture, views) -> jax.Array:
  keys = jax.random.split(key, 6)
  yiq = jnp.asarray(_YIQ, picture.dtype)
  low, high = 1 - views.jitter, 1 + views.jitter
  factors = jax.random.uniform(keys[0], (3,), minval=low, maxval=high)
  turn = views.hue * 2 * jnp.pi
  turn = jax.random.uniform(keys[1], minval=-turn, maxval=turn)
  changes = jax.random.bernoulli(keys[2], views.jittered)
  bright, contrast, saturation = jnp.where(changes, factors, 1.0)
  turn = jnp.where(changes, turn, 0.0)
  saturation *= ~jax.random.bernoulli(keys[3], views.grey)
  picture = jnp.clip(picture * bright, 0, 1)
  mean = (yiq[0][:, None, None] * picture).sum(axis=0).mean()
  picture = jnp.clip(mean + contrast * (picture - mean), 0, 1)
  # Saturation and hue: a scale and a turn of the two axes of colour.
  cos, sin = saturation * jnp.cos(turn), saturation * jnp.sin(turn)
  zero, one = jnp.zeros(()), jnp.ones(())
  inner = jnp.stack([
    jnp.stack([one, zero, zero]),
    jnp.stack([zero, cos, -sin]),
    jnp.stack([zero, sin, cos]),
  ])  # fmt: skip
  matrix = jnp.asarray(_BACK, picture.dtype) @ inner @ yiq
  picture = jnp.clip(jnp.einsum("dc,chw->dhw", matrix, picture), 0, 1)
  turned = jax.random.bernoulli(keys[4], views.negative)
  return jnp.where(turned, 1 - picture, picture)
