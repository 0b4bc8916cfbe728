"""The Gram scan of one order more, whose sets are too many to be held.

Sets of order 5 are triples times later pairs: at n = 120, 280,000 by 7,140,
190 million sets. Tiles of that product are formed one after another, and of
each triple the largest score alone is kept; the completions of the `_KEPT`
best triples are then found again. Order 4 is pairs times pairs in the same way.
One program serves every tile, and all games of one padded size.

A pass costs `2 C(n, order) B` operations and is not run beyond `MAX_FLOPS`:
order 5 reaches n = 120 at 1,024 masks (138 at 512), order 4 reaches n = 260
(312), orders above 5 are not scanned. Of more masks, as many as the cost allows
are scanned, which finds the strong sets; they are accepted on all.

The scan only nominates. A set enters by its significance among all sets of its
order (`gram.grow_support`), on the samples that a fit may see, so nominees of
all samples serve folds of them, too: a set that a fold of 4/5 would take at
z = 6.3 (n = 120) has 5.6 +- .45 on all if it is noise, more if it is real, and
the nominees begin at about 4.75. Not from a paper.

Shapes: n players, B masks, K sets, P = `_KEPT`, T row tiles, R = `_TILE` rows
of one, C column sets.
"""

import functools
import itertools
import math

import chex
import jax
import jax.numpy as jnp
import numpy as np

from spex_jax.fourier import gram, programs, regress
from spex_jax.masks import padding

MAX_FLOPS = 4e11  # Of a pass: 4 to 8 s on two cores.
MAX_ORDER = 5
_LEAST_ROWS = 512  # Samples below which a part of them finds too little.
_MOST_ROWS = 4096  # Bounds the columns held at once.
_TILE = 1024
_KEPT = 512
_PASSES = 4
_LEAST_FALL = 0.9  # Of the residual's energy, for another pass.


def next_order(n: int, num_masks: int, order: int) -> int | None:
  """The order above `order` if it is affordable, or None.

  Args:
    n: players.
    num_masks: samples.
    order: the largest that was scanned.
  """
  larger = order + 1
  if not 4 <= larger <= min(n, MAX_ORDER):
    return None
  enough = num_rows(n, num_masks, larger) >= min(num_masks, _LEAST_ROWS)
  return larger if enough else None


def num_rows(n: int, num_masks: int, order: int) -> int:
  """Samples of a pass over sets of `order`."""
  affordable = int(MAX_FLOPS / (2 * math.comb(n, order)))
  return min(num_masks, affordable, _MOST_ROWS)


@functools.lru_cache(maxsize=4)
def layout(n: int, order: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
  """The tiles of a scan.

  Returns:
    int32 `[T, R, order - 2]` sets of which the largest player ascends, padded
    with n; int32 `[C, 2]` pairs of which the smaller player descends, padded
    with n to whole tiles, so that those beyond any player come first; and
    int32 `[T]` how many tiles of pairs a tile of rows needs.
  """
  rows = np.array(list(itertools.combinations(range(n - 2), order - 2)))
  rows = rows[np.argsort(rows[:, -1], kind="stable")]
  columns = np.array(list(itertools.combinations(range(n), 2)))
  columns = columns[np.argsort(-columns[:, 0], kind="stable")]
  fill = lambda sets: np.pad(
    sets, ((0, -len(sets) % _TILE), (0, 0)), constant_values=n
  ).astype(np.int32)
  rows = fill(rows).reshape(-1, _TILE, order - 2)
  later = n - 1 - rows[:, 0, -1]  # Players behind the first row of a tile.
  return rows, fill(columns), -(-(later * (later - 1) // 2) // _TILE)


def scan(
  signs: jax.Array,
  residual: jax.Array,
  rows: jax.Array,
  columns: jax.Array,
  lengths: jax.Array,
) -> tuple[jax.Array, jax.Array]:
  """The best completion of each of the best rows, by tiles of a product.

  Args:
    signs: float32 `[B, n]`, s = 1 - 2 m; zeros where padded.
    residual: float32 `[B]`.
    rows: int32 `[T, R, order - 2]`, the sets of `layout`.
    columns: int32 `[C, 2]`, its pairs.
    lengths: int32 `[T]`, the tiles of pairs that a tile of rows needs.

  Returns:
    int32 `[P, order]` sets, ascending in their scores' size, padded with n or
    players of sign 0; and float32 `[P]` sums of products with the residual.
  """
  chex.assert_rank([signs, rows, columns, lengths], [2, 3, 2, 1])
  chex.assert_shape(residual, signs.shape[:1])
  chex.assert_type([signs, residual], float)
  chex.assert_type([rows, columns, lengths], int)
  # A row for each player, and one of zeros for what is padded.
  by_player = jnp.pad(signs.T, ((0, 1), (0, 0)))

  def scored(left, last, i):
    """Scores `[R, R]` of one tile of columns, 0 where they are no set."""
    pairs = jax.lax.dynamic_slice_in_dim(columns, i * _TILE, _TILE)
    right = by_player[pairs[:, 0]] * by_player[pairs[:, 1]]
    later = pairs[:, :1] > last[None]
    return jnp.where(later, right @ left.T, 0.0)

  def left_of(members):
    return residual[None] * by_player[members].prod(axis=1)

  def best_of_tile(tile_of_rows):
    members, length = tile_of_rows
    left, last = left_of(members), members[:, -1]

    def step(i, best):
      scores = jnp.abs(scored(left, last, i))
      return jnp.maximum(best, scores.max(axis=0))

    return jax.lax.fori_loop(0, length, step, jnp.zeros(len(members)))

  # How well each row is completed at best.
  best = jax.lax.map(best_of_tile, (rows, lengths)).reshape(-1)
  chosen = jax.lax.top_k(best, min(_KEPT, len(best)))[1]
  # The best rows again, with the pairs that complete them.
  members = rows.reshape(len(best), -1)[chosen]
  left, last = left_of(members), members[:, -1]

  def complete(i, found):
    value, index = found
    scores = scored(left, last, i)
    at = jnp.abs(scores).argmax(axis=0)
    mine = jnp.take_along_axis(scores, at[None], axis=0)[0]
    better = jnp.abs(mine) > jnp.abs(value)
    at = at.astype(jnp.int32) + i * _TILE
    return jnp.where(better, mine, value), jnp.where(better, at, index)

  start = jnp.zeros(len(members)), jnp.zeros(len(members), jnp.int32)
  value, index = jax.lax.fori_loop(0, len(columns) // _TILE, complete, start)
  return jnp.concatenate([members, columns[index]], axis=1), value


_scan_jit = programs.Program(scan)


def nominees(
  masks: np.ndarray, residual: np.ndarray, order: int
) -> tuple[np.ndarray, float]:
  """Sets of one order whose products with a residual are largest.

  Args:
    masks: bool `[B, n]`.
    residual: float64 `[B]`.
    order: 4 or 5.

  Returns:
    int `[K, order]`, K at most 512; and how many standard errors a set that is
    none of them reaches at most, as the best of its row.
  """
  num_masks, n = masks.shape
  wide = padding.columns(n)
  size = padding.rows(num_masks)
  signs = padding.to(1 - 2 * masks.view(np.int8), size, wide)
  scale = residual.std()
  unit = padding.to(residual / scale, size)
  sets, sums = map(
    np.asarray,
    _scan_jit(
      signs.astype(np.float32), unit.astype(np.float32), *layout(wide, order)
    ),
  )
  real = (sets < n).all(axis=1) & (sums != 0)
  z = np.abs(sums) / math.sqrt(num_masks)
  return sets[real].astype(np.int64), float(z.min()) if real.all() else 0.0


def search(
  masks: np.ndarray, values: np.ndarray, support: np.ndarray, order: int
) -> tuple[np.ndarray, np.ndarray]:
  """Adds sets of up to `order` to a support that holds the smaller ones.

  The strongest are peeled off before the next pass. Another is run only while
  the residual has shrunk so much that a set which was no nominee could enter.

  Args:
    masks: bool `[B, n]`.
    values: `[B]`.
    support: int `[K, D]`, padded with n.
    order: 4 or 5.

  Returns:
    int `[K', order]` the new support; and int `[K'', order]` all nominees, for
    `gram.grow_support` of a part of the samples.
  """
  num_masks, n = masks.shape
  part = regress.spread_order(num_masks)
  part = np.sort(part[: num_rows(n, num_masks, order)])
  enough = gram.significance(n, order) * math.sqrt(len(part) / num_masks)
  named = np.zeros((0, order), np.int64)
  residual = gram.residual(masks, values, support)
  for _ in range(_PASSES):
    before = residual.std()
    if before <= 1e-7:
      break
    found, reached = nominees(masks[part], residual[part], order)
    named = np.unique(np.concatenate([named, found]), axis=0)
    support = gram.grow_support(
      masks, values, support, order - 1, candidates=named
    )
    residual = gram.residual(masks, values, support)
    fall = residual.std() / before
    if fall**2 > _LEAST_FALL or enough * fall >= reached:
      break
  return support, named
