"""The Gram scan: every set of low order scored on any masks by products.

The score of S is the mean of residual * chi_S over the samples. With i < j
< k < l, `(residual * s_i s_j)^T (s_k s_l)` scores all sets of order 4 at once,
each exactly once, and columns s_k those of order 3. A scan keeps the best
completion of every pair, accepts what is significant, solves again, and
repeats; it needs no designed masks, finds any set whatever its subsets do,
and is exhaustive, so its cost, C(n, order) * B multiply-adds, bounds n.

Significance is by Bonferroni within an order. Not from a paper. With weights
the scores are those of the weighted residual, whose own deviation is their
error, whatever the weights (White 1980).

Shapes: n players, B masks, K sets, J row and L column sets of one product.
"""

import itertools
import math

import chex
import jax
import jax.numpy as jnp
import numpy as np

from spex_jax.fourier import programs, regress
from spex_jax.masks import padding

_SAMPLES = 256  # Samples of one product; bounds the columns held at once.
_LEAST_PADDED = 1024  # Samples: fewer are padded to it, more to powers of 2.
_FALSE_SETS = 0.1  # Expected false sets of one order in one scan.
_CANDIDATES = 128  # Sets of one scan that are looked at together.
_SCANS = 20  # At most, of one support.
_ROWS = 4096  # Samples turned into characters at once.
MAX_ORDER = 4


def affordable_order(n: int, num_masks: int, max_flops: float) -> int:
  """The largest order whose scan costs at most `max_flops`, 0 to 4."""
  order = 0
  for candidate in range(1, min(n, MAX_ORDER) + 1):
    if 2.0 * num_masks * math.comb(n, candidate) <= max_flops:
      order = candidate
  return order


def significance(n: int, order: int) -> float:
  """Standard errors above which a set of `order` counts as real.

  At this level `_FALSE_SETS` sets of pure noise are expected to pass.
  """
  import scipy.special

  tail = _FALSE_SETS / math.comb(n, order) / 2
  return float(-scipy.special.ndtri(min(tail, 0.025)))


def needed_share(n: int, order: int, num_masks: int) -> float:
  """The least share of the variance that a set must hold to be significant."""
  return significance(n, order) ** 2 / num_masks


def scan(
  signs: jax.Array, residual: jax.Array, order: int
) -> tuple[jax.Array, jax.Array]:
  """Scores sets of order 1 up to `order`. Batched over sets by products.

  Padding by zeros (`masks.padding`) costs next to nothing but in n: rows that
  are all padding are not multiplied.

  Args:
    signs: float32 `[B, n]`, s = 1 - 2 m.
    residual: float32 `[B]`.
    order: 1 to 4; static.

  Returns:
    int32 `[J, 4]` sets, padded with n: every player, every pair, and for
    every pair (i, j) its best completion by later players; and `[J]` their
    mean products with the residual, 0 with a player that is padding.
  """
  chex.assert_rank(signs, 2)
  chex.assert_shape(residual, signs.shape[:1])
  chex.assert_type([signs, residual], float)
  n = signs.shape[1]
  num_masks = jnp.abs(signs[:, 0]).sum()
  singles = residual @ signs / num_masks
  found = [(_padded(n, np.arange(n)[:, None]), singles)]
  if order >= 2:
    pairs = np.array(list(itertools.combinations(range(n), 2))).reshape(-1, 2)
    gram = (signs * residual[:, None]).T @ signs / num_masks
    found.append((_padded(n, pairs), gram[pairs[:, 0], pairs[:, 1]]))
  if order >= 3 and n >= 3:
    found += _scan_completions(signs, residual, order, num_masks)
  players, scores = zip(*found)
  return jnp.concatenate(players), jnp.concatenate(scores)


def _scan_completions(signs, residual, order, num_masks):
  size, n = signs.shape
  chunk = min(_SAMPLES, size)
  pad = -size % chunk
  signs_in = jnp.pad(signs, ((0, pad), (0, 0))).reshape(-1, chunk, n)
  residual_in = jnp.pad(residual, (0, pad)).reshape(-1, chunk)
  num_chunks = jnp.ceil(num_masks / chunk).astype(jnp.int32)
  width = -(-n // max(8, n // 16))
  found = []
  for first in range(1, n - 1, width):
    middles = range(first, min(first + width, n - 1))
    rows = jnp.asarray([(i, j) for j in middles for i in range(j)])
    columns = [(k, n) for k in range(first + 1, n)]
    if order >= 4:
      columns += list(itertools.combinations(range(first + 1, n), 2))
    columns = jnp.asarray(np.array(columns))

    def add(i, total, rows=rows, columns=columns):
      s = jnp.concatenate([signs_in[i].T, jnp.ones((1, chunk))])
      left = s[rows[:, 0]] * s[rows[:, 1]] * residual_in[i][None]
      right = s[columns[:, 0]] * s[columns[:, 1]]
      return total + left @ right.T

    start = jnp.zeros((len(rows), len(columns)))
    scores = jax.lax.fori_loop(0, num_chunks, add, start)
    later = rows[:, 1][:, None] < columns[:, 0][None]
    best = jnp.argmax(jnp.where(later, jnp.abs(scores), -1.0), axis=1)
    value = jnp.take_along_axis(scores, best[:, None], axis=1)[:, 0]
    players = jnp.concatenate([rows, columns[best]], axis=1)
    found.append((players.astype(jnp.int32), value / num_masks))
  return found


def _padded(n, sets):
  width = ((0, 0), (0, MAX_ORDER - sets.shape[1]))
  return jnp.asarray(np.pad(sets, width, constant_values=n), jnp.int32)


_scan_jit = programs.Program(scan, static_argnums=2)


def grow_support(
  masks: np.ndarray,
  values: np.ndarray,
  players: np.ndarray,
  order: int,
  *,
  width: int = MAX_ORDER,
  max_terms: int | None = None,
  candidates: np.ndarray | None = None,
  weights: np.ndarray | None = None,
) -> np.ndarray:
  """Adds significant sets to a support, and drops those that are not.

  Host loop: scan, accept, least squares, prune; until a scan finds nothing.

  Args:
    masks: bool `[B, n]`.
    values: `[B]`, float64, of any scale and offset.
    players: int `[K, D]` the support so far, padded with n; may be empty.
    order: largest sets to scan for, 1 to 4.
    width: columns of the result, at least those of `players` and 4.
    max_terms: most sets of the result; None for a quarter of the samples.
    candidates: int `[K'', D']` sets without padding that are looked at beside
      those of the scan, of any order; each must be as significant as if all
      sets of its order were.
    weights: `[B]` of the samples, of mean 1; None for equal ones.

  Returns:
    int `[K', width]` the new support, without the empty set.
  """
  chex.assert_rank([masks, players], 2)
  chex.assert_shape(values, masks.shape[:1])
  chex.assert_type([masks, values, players], [bool, float, int])
  num_masks, n = masks.shape
  limit = num_masks // 4 if max_terms is None else max_terms
  if candidates is None:
    candidates = np.zeros((0, width), players.dtype)
  width = max(players.shape[1], width, MAX_ORDER, candidates.shape[1])
  widened = lambda sets: np.pad(
    sets, ((0, 0), (0, width - sets.shape[1])), constant_values=n
  )
  support, candidates = widened(players), widened(candidates)
  support = support[(support < n).any(axis=1)]
  named = regress.design(masks, candidates)
  size = max(_LEAST_PADDED, 1 << (num_masks - 1).bit_length())
  signs = padding.to(1 - 2 * masks.view(np.int8), size, padding.columns(n))
  signs = jax.device_put(signs.astype(np.float32))
  # Centred: the energy of an offset would drown what sets leave.
  values = regress.standardise(values[:, None], True, weights)[0][:, 0]
  levels = np.array([significance(n, k) for k in range(1, min(n, width) + 1)])

  def level(sets):
    return levels[np.maximum((sets < n).sum(axis=1), 1) - 1]

  # Each scan drops what does not hold, then adds what the rest still shows.
  for _ in range(_SCANS):
    support, residual = _prune(masks, values, support, level, weights)
    residual = residual if weights is None else residual * weights
    error = residual.std() / math.sqrt(num_masks)
    if error <= 1e-7 or len(support) >= limit:
      break
    scores = padding.to(residual.astype(np.float32), size)
    sets, scores = map(np.asarray, _scan_jit(signs, scores, order))
    sets = np.minimum(sets, n)  # Padding scores 0, and is never chosen.
    sets = np.concatenate([widened(sets), candidates])
    scores = np.append(scores, residual @ named / num_masks)
    z = np.abs(scores.astype(np.float64)) / error
    ranked = np.argsort(-z, kind="stable")[:_CANDIDATES]
    # The strongest that are significant and new.
    held = set(map(tuple, np.sort(support, axis=1).tolist()))
    fresh = sets[
      [
        i
        for i in ranked
        if z[i] >= level(sets[i : i + 1])[0]
        and tuple(np.sort(sets[i]).tolist()) not in held
      ]
    ]
    fresh = _select(masks, residual, support, fresh, level, weights)
    if not len(fresh):
      break
    support = np.concatenate([support, fresh[: limit - len(support)]])
  return _prune(masks, values, support, level, weights)[0]


def residual(
  masks: np.ndarray, values: np.ndarray, support: np.ndarray
) -> np.ndarray:
  """What least squares on a support leaves of values, in their deviations.

  Args:
    masks: bool `[B, n]`.
    values: `[B]`.
    support: int `[K, D]`, padded with n.
  """
  unit = regress.standardise(values[:, None])[0][:, 0]
  return _prune(masks, unit, support, lambda sets: np.zeros(len(sets)))[1]


def _select(masks, residual, support, candidates, level, weights=None):
  """Candidates that stay significant beside stronger ones, one at a time.

  On designed masks many sets are echoes of one: sets of the same bins differ
  in their delays alone. Orthogonal matching pursuit tells them apart; it runs
  on the Gram matrix, from which each chosen set is swept out.
  """
  num_masks, num_held = len(residual), len(support) + 1
  sets = np.concatenate([support, _empty(masks, support), candidates])
  gram, product = _sums(masks, residual, sets, weights)
  held, free = np.s_[:num_held], np.s_[num_held:]
  chosen: list[int] = []
  with regress.one_blas_thread():
    image = np.linalg.pinv(gram[held, held], hermitian=True) @ gram[held, free]
  product = product[free] - image.T @ product[held]
  gram = gram[free, free] - image.T @ gram[held, free]
  energy = start = float(residual @ residual)
  while len(chosen) < len(candidates):
    error = math.sqrt(max(energy, 0.0)) / num_masks
    z = np.abs(product) / num_masks / max(error, 1e-300) - level(candidates)
    z[chosen] = -np.inf
    best = int(np.argmax(z))
    size = gram[best, best]
    # The second: these masks cannot tell it from the others.
    if z[best] < 0 or size <= 1e-8 * num_masks or energy <= 1e-14 * start:
      break
    column = gram[:, best] / size
    energy -= product[best] ** 2 / size
    product = product - column * product[best]
    gram = gram - np.outer(column, gram[best])
    chosen.append(best)
  return candidates[chosen]


def _prune(masks, values, support, level, weights=None):
  """Least squares on a support, less its insignificant sets, one at a time.

  Returns:
    the sets kept, and the residual `[B]` of the values on them.
  """
  num_masks = len(values)
  empty = _empty(masks, support)
  weighted = values if weights is None else values * weights
  sets = np.concatenate([support, empty])
  gram, product = _sums(masks, weighted, sets, weights)
  energy = float(weighted @ values)
  while True:
    # Masks that cannot tell sets apart share the coefficient among them.
    with regress.one_blas_thread():
      inverse = np.linalg.pinv(gram, hermitian=True)
    coefs = inverse @ product
    left = max(energy - float(coefs @ product), 0.0)
    variance = left / max(1, num_masks - len(product))
    error = np.sqrt(variance * np.maximum(np.diag(inverse)[:-1], 1e-30))
    z = np.abs(coefs[:-1]) / np.maximum(error, 1e-300)
    # Looser than the entry test, so that a set does not come and go.
    margin = z - 0.75 * level(support)
    weak = margin < 0
    if not weak.any():
      break
    # The weakest half: dropping all at once would lose sets that only
    # seemed weak beside the others.
    dropped = np.argsort(margin)[: max(1, int(weak.sum()) // 2)]
    support = np.delete(support, dropped, axis=0)
    gram = np.delete(np.delete(gram, dropped, axis=0), dropped, axis=1)
    product = np.delete(product, dropped)
  residual = np.empty(num_masks)
  sets = np.concatenate([support, empty])
  for rows in _chunks(num_masks):
    design = regress.design(masks[rows], sets, dtype=np.float64)
    residual[rows] = values[rows] - design @ coefs
  return support, residual


def _empty(masks, support):
  """The empty set as a row beside a support."""
  return np.full((1, support.shape[1]), masks.shape[1], support.dtype)


def _chunks(num_masks):
  return [np.s_[i : i + _ROWS] for i in range(0, num_masks, _ROWS)]


def _sums(masks, values, sets, weights=None):
  """Gram matrix `[K, K]` and products with the values `[K]`, float64.

  The values are weighted already.
  """
  gram = np.zeros((len(sets), len(sets)))
  product = np.zeros(len(sets))
  with regress.one_blas_thread():
    for rows in _chunks(len(values)):
      design = regress.design(masks[rows], sets)
      left = design if weights is None else design * weights[rows, None]
      gram += left.T @ design  # Integers below 2^24: exact in float32.
      product += design.T.astype(np.float64) @ values[rows]
  return gram, product
