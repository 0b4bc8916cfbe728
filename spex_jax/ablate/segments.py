"""Images: segments as players, and what an absent part of one becomes.

Patches and grids are in `features`; zero, constant and means over a background
in `baselines`.

Shapes: an image is `[C, H, W]`; n players.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from spex_jax import base
from spex_jax.ablate import features

WAYS = ("mean", "blur", "constant", "inpainted")

# A mask `[n]` to the input of a network, one row: `[1, C, H, W]`.
Inputs = Callable[[base.Array], dict[str, jax.Array]]


def inputs(
  image: base.Array,
  players: features.Players,
  way: str = "blur",
  *,
  sigma: float | None = None,
  value: float | base.Array = 0.0,
) -> Inputs:
  """How a network sees an image under a mask.

  Args:
    image: float `[C, H, W]`, prepared for the network.
    players: who owns which pixels, of the image's shape.
    way: one of `WAYS`: the image's own mean, the image blurred, a constant, or
      filled in from around.
    sigma: the sigma of the blur, in pixels; by default a fifth of the side of a
      square of a player's mean area, at least 1.
    value: the constant, one number or one per channel `[C]`.

  Returns:
    A function of a bool mask `[n]`, traceable, that gives `pixel_values`.

  Raises:
    ValueError: an unknown way, an image or players of another shape, or a
      sigma that is not above 0.
  """
  if way not in WAYS:
    raise ValueError(f"way={way!r}: choose from {', '.join(WAYS)}.")
  _check(image)
  if players.owner.shape != np.shape(image):
    raise ValueError(
      f"The players own an image of {players.owner.shape}; it has "
      f"{np.shape(image)}."
    )
  image = jnp.asarray(image, jnp.float32)
  if way == "inpainted":
    fill = lambda mask: inpainted(image, players.kept(mask))
    return lambda mask: {"pixel_values": fill(mask)[None]}
  if way == "mean":
    baseline = own_mean(image)
  elif way == "blur":
    side = np.sqrt((players.owner[0] < players.n).sum() / players.n)
    baseline = blur(image, max(1.0, side / 5) if sigma is None else sigma)
  else:
    levels = jnp.reshape(jnp.asarray(value, jnp.float32), (-1, 1, 1))
    if len(levels) not in (1, len(image)):
      raise ValueError(
        f"A constant is one number or {len(image)}, one per channel; got "
        f"{len(levels)}."
      )
    baseline = jnp.broadcast_to(levels, image.shape)
  return lambda mask: {
    "pixel_values": players.apply(mask, image, baseline)[None]
  }


def own_mean(image: base.Array) -> jax.Array:
  """Each channel's mean over the image's own pixels: `[C, H, W]`."""
  _check(image)
  pixels = np.asarray(image, np.float64)
  mean = pixels.mean(axis=(1, 2), keepdims=True)
  return jnp.asarray(np.broadcast_to(mean, pixels.shape), jnp.float32)


def blur(image: base.Array, sigma: float) -> jax.Array:
  """The image under a Gaussian of `sigma` pixels; edges are continued.

  Cut off at 4 sigma. Once per image, on the host.

  Args:
    image: float `[C, H, W]`.
    sigma: above 0; a fifth of the side of a part leaves little of it.

  Returns:
    float32 `[C, H, W]`.

  Raises:
    ValueError: no image, or a sigma that is not above 0.
  """
  from scipy import ndimage  # Slow to import.

  _check(image)
  if not 0 < sigma < np.inf:
    raise ValueError(f"sigma must be above 0; got {sigma}.")
  pixels = np.asarray(image, np.float64)
  wide = ndimage.gaussian_filter(pixels, (0, sigma, sigma), mode="nearest")
  return jnp.asarray(wide, jnp.float32)


def inpainted(
  image: base.Array, kept: base.Array, *, iterations: int = 32
) -> jax.Array:
  """Absent pixels from the kept ones around them. Traceable.

  First the means of ever larger blocks (Gortler et al., The Lumigraph, 1996,
  section 4: push and pull), then Jacobi steps, each of which gives every
  absent pixel the mean of its four neighbours. Many steps give the harmonic
  filling, the smoothest with these kept pixels; few leave traces of the
  blocks. What a mask removes is thus as little visible as may be, but its
  surroundings are visible in its place.

  Args:
    image: `[C, H, W]`, floating.
    kept: bool, of the same shape: `features.Players.kept(mask)`.
    iterations: Jacobi steps, static; 0 to some hundreds.

  Returns:
    `[C, H, W]`, `image` where kept. Where nothing of a channel is kept, its
    mean.

  Raises:
    ValueError: no image, or what is kept of another shape.
    TypeError: pixels that are integers.
  """
  _check(image)
  if np.shape(kept) != np.shape(image):
    raise ValueError(
      f"`kept` must have the shape of the image, {np.shape(image)}; got "
      f"{np.shape(kept)}."
    )
  image = jnp.asarray(image)
  if not jnp.issubdtype(image.dtype, jnp.floating):
    raise TypeError(
      f"Pixels must be floats to be filled in; got {image.dtype}."
    )
  kept = jnp.asarray(kept, bool)
  fallback = image.mean(axis=(1, 2), keepdims=True)
  weight = kept.astype(image.dtype)
  filled = _pull(jnp.where(kept, image, 0), weight, fallback)

  def step(_, x):
    wide = jnp.pad(x, ((0, 0), (1, 1), (1, 1)), mode="edge")
    around = wide[:, :-2, 1:-1] + wide[:, 2:, 1:-1]
    around = (around + wide[:, 1:-1, :-2] + wide[:, 1:-1, 2:]) / 4
    return jnp.where(kept, image, around)

  filled = jnp.where(kept, image, filled)
  return jax.lax.fori_loop(0, iterations, step, filled)


def _pull(
  total: jax.Array, weight: jax.Array, fallback: jax.Array
) -> jax.Array:
  """Mean of what is kept in the smallest block around that holds anything.

  Args:
    total: `[C, H, W]`, sums over each block.
    weight: `[C, H, W]`, how much is kept in each.
    fallback: `[C, 1, 1]`, where nothing is.
  """
  _, height, width = total.shape
  if height * width == 1:
    coarse = jnp.broadcast_to(fallback, total.shape)
  else:
    coarse = _pull(_pairs(total), _pairs(weight), fallback)
    coarse = coarse.repeat(2, axis=1).repeat(2, axis=2)[:, :height, :width]
  return jnp.where(weight > 0, total / jnp.maximum(weight, 1), coarse)


def _pairs(x: jax.Array) -> jax.Array:
  """Sums over blocks of 2 by 2, with zeros beyond the edge."""
  channels, height, width = x.shape
  x = jnp.pad(x, ((0, 0), (0, height % 2), (0, width % 2)))
  halves = (-(-height // 2), 2, -(-width // 2), 2)
  return x.reshape(channels, *halves).sum(axis=(2, 4))


def segments(
  image: base.Array, num_segments: int, *, compactness: float = 0.3
) -> features.Players:
  """Connected regions of like colour, as players named `s0`, `s1`, ...

  As SLIC does (Achanta et al., 2012): k-means on colour and position, from
  centres on a grid. The k-means is scikit-learn's, over the whole image and
  not only near each centre; colours are those of the image, scaled so that the
  widest channel spans 1, and not CIELAB. Pieces cut off from their segment
  join the neighbour with the longest common border. Deterministic.

  Args:
    image: float `[C, H, W]`.
    num_segments: how many segments are wanted; there may be fewer.
    compactness: weight of a distance of one segment's width, beside the whole
      range of colour; 0.1 follows edges, 1 gives near squares.

  Returns:
    The players, in the order of their first pixels; all channels together.

  Raises:
    ValueError: no image, or `num_segments` outside 1..H W, or a compactness
      that is not above 0.
  """
  from sklearn import cluster  # Slow to import.

  _check(image)
  pixels = np.asarray(image, np.float64)
  channels, height, width = pixels.shape
  num_segments = base.check_integer(num_segments, "num_segments")
  if not 1 <= num_segments <= height * width:
    raise ValueError(
      f"num_segments must lie in 1..{height * width}, the number of pixels; "
      f"got {num_segments}."
    )
  if not 0 < compactness < np.inf:
    raise ValueError(f"compactness must be above 0; got {compactness}.")
  side = np.sqrt(height * width / num_segments)
  spread = np.ptp(pixels, axis=(1, 2)).max() or 1.0
  colour = pixels.reshape(channels, -1).T / spread
  place = np.indices((height, width)).reshape(2, -1).T * (compactness / side)
  points = np.concatenate([colour, place], axis=1)
  rows = min(height, max(1, round(height / side)))
  cols = min(width, -(-num_segments // rows))
  ys = ((np.arange(rows) + 0.5) * height / rows).astype(int)
  xs = ((np.arange(cols) + 0.5) * width / cols).astype(int)
  starts = (ys[:, None] * width + xs).ravel()[:num_segments]
  fit = cluster.KMeans(len(starts), init=points[starts], n_init=1).fit(points)
  labels = _connected(np.asarray(fit.labels_).reshape(height, width))
  names = tuple(f"s{i}" for i in range(labels.max() + 1))
  owner = np.broadcast_to(labels, pixels.shape).astype(np.int32)
  return features.Players(names, owner)


def _connected(labels: np.ndarray) -> np.ndarray:
  """Labels `[H, W]` whose regions are connected, numbered from the top left.

  Of each label the largest piece stays; the others join a neighbour, from the
  smallest on.
  """
  from scipy import ndimage  # Slow to import.

  pieces = np.zeros(labels.shape, np.int64)
  stays: list[bool] = []
  for label in np.unique(labels):
    found, count = ndimage.label(labels == label)
    sizes = np.bincount(found.ravel(), minlength=count + 1)[1:]
    pieces[found > 0] = found[found > 0] + len(stays) - 1
    stays += [i == sizes.argmax() for i in range(count)]
  sizes = np.bincount(pieces.ravel())
  for piece in np.argsort(sizes, kind="stable"):
    if not stays[piece]:
      here = pieces == piece
      around = []
      for axis in (0, 1):
        for a, b in ((here, pieces), (here[::-1, ::-1], pieces[::-1, ::-1])):
          n = a.shape[axis]
          inside = np.take(a, range(n - 1), axis)
          beside = np.take(b, range(1, n), axis)[inside]
          around.append(beside[beside != piece])
      pieces[here] = np.bincount(np.concatenate(around)).argmax()
  _, first, again = np.unique(pieces, return_index=True, return_inverse=True)
  rank = np.argsort(np.argsort(first))
  return rank[again].reshape(labels.shape)


def _check(image: base.Array) -> None:
  shape = np.shape(image)
  if len(shape) != 3 or 0 in shape:
    raise ValueError(f"An image has shape (C, H, W); got {shape}.")
