"""Growth of boosted trees: a compiled kernel, and the batches around it.

A tree is grown level by level to depth D; a node that no split improves stays
whole, and its masks go to its first child. The histogram of a level is one
matrix product, (members of each node, times residual or 1) by bits, and only
first children are counted: second ones are their parent less them. A leaf is
the mean of its residuals (Friedman 2001). LightGBM grows the best leaf first:
the same trees, where its num_leaves leaves room for all 2^D.

A tree may see a share of the masks and ask for a share of the players, each
drawn by itself for that tree (Friedman 2002).

Values are centred and scaled in float64 (`Start`); trees are grown in float32.

Shapes: n players, B masks, M trees, D depth, G fits that run as one batch (one
without each fold, and one on all masks). B and n are padded, so that few sizes
compile.
"""

import functools
from typing import NamedTuple

import chex
import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from spex_jax import base
from spex_jax.fourier import programs
from spex_jax.masks import padding
from spex_jax.proxies import trees as trees_lib

CHUNK = 50  # Trees grown between two looks at the validation error.
_NOISE = 1e-12  # Gains per mask below this are rounding, at variance 1.
_TINY = np.float32(1e-9)


class Settings(NamedTuple):
  """What a tree needs to know; traced, so that a change compiles nothing."""

  rate: float
  min_leaf: float
  row_share: float = 1.0
  column_share: float = 1.0


def grow_tree(
  bits: jax.Array,
  columns: jax.Array,
  residual: jax.Array,
  weight: jax.Array,
  allowed: jax.Array,
  settings: Settings,
  depth: int,
) -> tuple[jax.Array, jax.Array, jax.Array]:
  """Grows one tree. Unbatched.

  Args:
    bits: float32 `[B, n]` the masks.
    columns: uint8 `[n + 1, B]` the same by player; the last row is 0.
    residual: float32 `[B]`, of variance about 1 or less.
    weight: float32 `[B]`, 1 where the tree may look, else 0.
    allowed: bool `[n]` players that may be asked for.
    settings: the limits of the tree. Shares are drawn by the caller.
    depth: D.

  Returns:
    Features int32 `[2^D - 1]`, leaves `[2^D]` (shrunk), and the tree's value
    at every mask `[B]`, those of weight 0 included.
  """
  chex.assert_rank(bits, 2)
  num_masks, n = bits.shape
  chex.assert_shape(columns, (n + 1, num_masks))
  chex.assert_shape([residual, weight], (num_masks,))
  chex.assert_shape(allowed, (n,))
  chex.assert_type(
    [bits, columns, residual, weight, allowed],
    [jnp.float32, jnp.uint8, jnp.float32, jnp.float32, bool],
  )
  pair = jnp.stack([weight * residual, weight])  # Sums and counts together.
  total = pair.sum(axis=1)[None]  # [nodes, 2]
  ones = _multiply(pair, bits)[None]  # [nodes, 2, n], of masks with bit 1.
  floor = _NOISE * total[0, 1]
  node = jnp.zeros(num_masks, jnp.int32)
  rows = jnp.arange(num_masks)
  features = []
  for level in range(depth):
    size = 1 << level
    feature = _best_split(ones, total, allowed, settings, floor)
    features.append(feature)
    asked = columns[feature[node], rows].astype(jnp.int32)
    split = (feature < n)[:, None]
    index = jnp.minimum(feature, n - 1)[:, None, None]
    index = jnp.broadcast_to(index, (size, 2, 1))
    right = jnp.take_along_axis(ones, index, axis=2)[..., 0]
    right = jnp.where(split, right, 0.0)
    total = jnp.stack([total - right, right], axis=1).reshape(-1, 2)
    if level < depth - 1:
      first = 2 * jnp.arange(size)[:, None] == 2 * node[None] + asked[None]
      lhs = jnp.where(first[:, None], pair[None], 0.0)
      left = _multiply(lhs.reshape(2 * size, -1), bits).reshape(size, 2, n)
      ones = jnp.stack([left, ones - left], axis=1).reshape(-1, 2, n)
    node = 2 * node + asked
  feature = jnp.concatenate(features)
  leaf = total[:, 0] / jnp.maximum(total[:, 1], 1e-6)
  # A tree without a split says nothing: its mean is 0 but for rounding.
  used = (total[:, 1] > 0) & (feature[:1] < n)
  leaf = settings.rate * jnp.where(used, leaf, 0.0)
  return feature, leaf, leaf[node]


def _best_split(ones, total, allowed, settings, floor):
  """The player that each node asks for, int32 `[nodes]`; n for no split."""
  chex.assert_shape(total, (len(ones), 2))
  chex.assert_shape(ones, (None, 2, *allowed.shape))
  n = ones.shape[2]
  sums, counts = total[:, :1], total[:, 1:]
  num_one = ones[:, 1]
  num_zero = counts - num_one
  zeros = sums - ones[:, 0]
  # The loading only keeps 0 / 0 away: such a side is refused below.
  gain = zeros**2 / (num_zero + _TINY) + ones[:, 0] ** 2 / (num_one + _TINY)
  least = jnp.minimum(num_zero, num_one)
  usable = (least >= settings.min_leaf) & allowed[None]
  # The barrier: the two passes below must see the same bits of the same gain.
  gain = lax.optimization_barrier(jnp.where(usable, gain, -1.0))
  best = gain.max(axis=1)
  at = jnp.where(gain == best[:, None], jnp.arange(n)[None], n).min(axis=1)
  before = (sums**2 / (counts + _TINY))[:, 0]
  worth = best > before * (1 + 1e-6) + floor
  return jnp.where(worth, at, n).astype(jnp.int32)


def _multiply(lhs, rhs):
  # Exact counts: no TF32.
  return jnp.matmul(lhs, rhs, precision=lax.Precision.HIGHEST)


@functools.partial(programs.Program, static_argnames="depth")
def _grow_chunk(
  problem,
  residual,
  lanes,
  keys,
  first,
  settings,
  *,
  depth,
):
  """Grows the next trees of G fits: `residual` and the `lanes` are `[G, B]`."""
  chex.assert_equal_shape([residual, *lanes])
  chex.assert_shape(residual, (None, len(problem.bits)))
  bits, columns = problem.bits, problem.columns
  allowed = jnp.arange(bits.shape[1]) < problem.n
  weight, held = lanes

  def one(residual, weight, key, index):
    rows, players = jax.random.split(jax.random.fold_in(key, index))
    # A uniform draw is below 1: of a share of 1 none is left out.
    drawn = lambda key, like, share: jax.random.uniform(key, like.shape) < share
    weight = weight * drawn(rows, weight, settings.row_share)
    asked = allowed & drawn(players, allowed, settings.column_share)
    return grow_tree(bits, columns, residual, weight, asked, settings, depth)

  def step(residual, index):
    grow = jax.vmap(one, (0, 0, 0, None))
    feature, leaf, value = grow(residual, weight, keys, index)
    residual = residual - value
    return residual, (feature, leaf, (held * residual**2).sum(axis=1))

  return lax.scan(step, residual, first + jnp.arange(CHUNK))


class Problem(NamedTuple):
  """The masks as the kernels want them."""

  bits: jax.Array  # float32 [B', n']
  columns: jax.Array  # uint8 [n' + 1, B']
  num_masks: int  # B
  n: int


def pad(masks: np.ndarray) -> Problem:
  """The masks bool `[B, n]`, padded; no tree sees or asks for padding."""
  chex.assert_rank(masks, 2)
  chex.assert_type(masks, bool)
  num_masks, n = masks.shape
  shape = padding.rows(num_masks), padding.columns(n)
  padded = padding.to(masks, *shape).astype(np.uint8)
  by_player = np.pad(np.ascontiguousarray(padded.T), ((0, 1), (0, 0)))
  bits = jax.device_put(padded.astype(np.float32))
  return Problem(bits, jax.device_put(by_player), num_masks, n)


class Start(NamedTuple):
  """Values of mean 0 and deviation 1, for F + 1 fits, and the way back.

  Constant values have residuals 0 and deviation 1.

  Attributes:
    values: float64 `[B]`, scaled to a size of 1 at most.
    seen: bool `[G, B]` what each of the G fits sees.
    bias: float64 `[G]` the mean of what it sees.
    deviation: the standard deviation of `values`; 1 for constant ones.
    size: the size of the largest value, in the units of the values.
  """

  values: np.ndarray
  seen: np.ndarray
  bias: np.ndarray
  deviation: float
  size: float

  @classmethod
  def of(cls, values: np.ndarray, seen: np.ndarray) -> "Start":
    """From values `[B]`, and who sees what."""
    chex.assert_shape(seen, (None, len(values)))
    size = np.abs(values).max() or 1.0
    values = values / size
    share = seen / seen.sum(axis=1, keepdims=True)
    # A mean about a value: exact where all are equal.
    bias = values[0] + (share @ (values - values[0]))
    deviation = np.sqrt(((values - values.mean()) ** 2).mean())
    flat = base.is_constant(values)
    return cls(values, seen, bias, 1.0 if flat else deviation, size)

  @property
  def flat(self):
    """Whether values differ by rounding alone, or not at all."""
    return base.is_constant(self.values)

  @property
  def total(self):
    """Energy of the scaled values about their mean."""
    centred = self.values - self.values.mean()
    return (centred**2).sum() / self.deviation**2

  def residual(self):
    """float32 `[G, B]`; 0 for flat values."""
    if self.flat:
      return np.zeros(self.seen.shape, np.float32)
    out = (self.values - self.bias[:, None]) / self.deviation
    return out.astype(np.float32)

  def errors(self, grown):
    """Pooled held-out error after 0..M trees, float64 `[M + 1]`."""
    before = (self.residual().astype(np.float64) ** 2 * ~self.seen).sum()
    return np.append(before, grown.astype(np.float64).sum(axis=1))

  def scores(self, grown):
    """R^2 of held-out masks after 0..M trees, float64 `[M + 1]`."""
    if self.flat:
      return np.ones(len(grown) + 1)
    return 1 - self.errors(grown) / self.total

  def trees(self, problem, feature, leaf, fit):
    """The `trees.Trees` of one of the G fits, in the units of the values."""
    feature = np.where(feature < problem.n, feature, problem.n)
    return trees_lib.Trees(
      feature=feature.astype(np.int32),
      leaf=leaf.astype(np.float64) * self.deviation * self.size,
      bias=np.asarray(self.bias[fit] * self.size),
      n=problem.n,
    )


def grow_all(
  problem: Problem,
  start: Start,
  *,
  depth: int,
  num_trees: int,
  settings: Settings,
  key: jax.Array,
  patience: int,
  goal: float,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
  """Grows G ensembles, by chunks, up to an early stop.

  Args:
    problem: the masks.
    start: the values.
    depth: D.
    num_trees: M.
    settings: the limits of every tree.
    key: consumed; draws the shares.
    patience: ends after so many trees without a better pooled error, or
      without hope of the goal.
    goal: the share of the energy that others have left at best. Errors fall
      ever more slowly; one that misses the goal even if it goes on falling
      half as fast again as it does is past hope.

  Returns:
    NumPy features `[M, G, 2^D - 1]`, leaves `[M, G, 2^D]` and held-out errors
    `[M, G]`, with fewer than M trees where the patience ended.
  """
  padding = ((0, 0), (0, len(problem.bits) - problem.num_masks))
  lanes = tuple(
    jnp.asarray(np.pad(x, padding).astype(np.float32))
    for x in (start.seen, ~start.seen)
  )
  residual = jnp.asarray(np.pad(start.residual(), padding))
  keys = jax.random.split(key, len(start.seen))
  # Traced as float32, whatever the caller's switches.
  settings = jax.tree.map(np.float32, settings)
  chunks = []
  for first in range(0, num_trees, CHUNK):
    residual, chunk = _grow_chunk(
      problem,
      residual,
      lanes,
      keys,
      first,
      settings,
      depth=depth,
    )
    chunks.append([np.asarray(part) for part in chunk])
    errors = start.errors(np.concatenate([part[2] for part in chunks]))
    if len(errors) - 1 - errors.argmin() >= patience:
      break
    errors = errors / (1.0 if start.flat else start.total)
    gain = max(errors[-1 - CHUNK] - errors[-1], 0.0)
    left = max(0, num_trees - first - CHUNK) / CHUNK
    if min(errors[-1] - 1.5 * gain * left, errors.min()) > goal:
      break
  features, leaves, errors = (
    np.concatenate(parts)[:num_trees] for parts in zip(*chunks)
  )
  return features, leaves, errors
