"""The exact Fourier expansion of a tree ensemble.

At a node on player i with children L (bit 0) and R (bit 1), F = (L + R) / 2,
and (L - R) / 2 with i added to each set (Gorji et al., arXiv 2410.06300).
Unrolled, with mean(v) = (mean(L) + mean(R)) / 2 from the leaves up,

  f(m) = mean(root) + sum_v  chi_i(m) (mean(L_v) - mean(R_v)) / 2
                             prod_{a above v} (1 +- chi_a(m)) / 2

since the product is 1 on the way that m takes and 0 elsewhere. So a node at
depth d gives 2^d sets, its player and any of those above it, and a full tree
of depth D gives (4^D - 1) / 3 + 1 in place of the 4^D of its leaves. All nodes
of one depth, of all trees, are worked on at once. Players that a path has
asked before, and thresholds that send both bits one way, are passed over
first, so that no set is named twice on a path.

A set is known by the XOR of random 64-bit numbers of its players: K sets are
confused with probability K^2 / 2^65, 3e-8 at a million.

Shapes: n players, M trees, V nodes of a depth, R rows (sets, not merged yet),
K sets.
"""

from typing import Any, NamedTuple

import numpy as np

from spex_jax.fourier import sparse
from spex_jax.proxies import tree_readers
from spex_jax.proxies import trees as trees_lib

_ROWS = 1 << 22  # Rows before they are merged: 64 MB of keys and coefficients.
_MOST_ROWS = 1 << 27  # Of a single tree: beyond it nobody wants to wait.
_SEED = 20250522  # Of the players' numbers; any will do.


def expand(ensemble: Any, n: int | None = None) -> sparse.SparseFourier:
  """Expands a regression ensemble: the result predicts what it predicts.

  Args:
    ensemble: a `trees.Trees`, which has one target, or a fitted model of
      LightGBM, XGBoost or scikit-learn (see `tree_readers.read`).
    n: number of players; that of `trees.Trees` if None.

  Returns:
    A float64 `SparseFourier`, the empty set first, then by size. Sets whose
    contributions cancel to within rounding are left out.

  Raises:
    TypeError: a model of another kind.
    ValueError: no n for a model that is not ours, what `tree_readers.read`
      refuses, or a tree so deep that it has more than 2^27 sets.
  """
  if n is None:
    if not isinstance(ensemble, trees_lib.Trees):
      raise ValueError("Pass n, the number of players of the masks.")
    n = ensemble.n
  read = tree_readers.read(ensemble, n)
  merged = _Sums.of_constant(read.bias)
  numbers = np.random.default_rng(_SEED).integers(1, 1 << 63, n, np.uint64)
  for roots in _batches(read):
    merged = merged.plus(_expand(read, roots, numbers, n), n)
  keep = np.abs(merged.coefs) > merged.rounding()
  keep[0] = True  # The empty set, whose key 0 is the least.
  players, coefs = np.sort(merged.players[keep], axis=1), merged.coefs[keep]
  is_empty = (players == n).all(axis=1)
  order = np.lexsort((-np.abs(coefs), ~is_empty))
  width = int((players < n).sum(axis=1).max(initial=0))
  return sparse.SparseFourier(
    players=players[order, :width].astype(np.int32),
    coefs=coefs[order],
    count=np.asarray(len(order), np.int32),
    n=n,
  )


class _Sums(NamedTuple):
  """Sets with their coefficients, each once, ascending by key.

  Attributes:
    keys: uint64 `[K]`; 0 is the empty set.
    players: int64 `[K, D]` padded with n.
    coefs: float64 `[K]`.
    sizes: float64 `[K]` sums of |contribution|, the measure of rounding.
    counts: int64 `[K]` contributions.
  """

  keys: np.ndarray
  players: np.ndarray
  coefs: np.ndarray
  sizes: np.ndarray
  counts: np.ndarray

  @classmethod
  def of_constant(cls, bias):
    return cls(
      keys=np.zeros(1, np.uint64),
      players=np.zeros((1, 0), np.int64),
      coefs=np.array([bias]),
      sizes=np.array([abs(bias)]),
      counts=np.ones(1, np.int64),
    )

  def plus(self, other, n):
    width = max(self.players.shape[1], other.players.shape[1])
    keys = np.concatenate([self.keys, other.keys])
    pad = lambda x: np.pad(
      x, ((0, 0), (0, width - x.shape[1])), constant_values=n
    )
    keys, first, inverse = np.unique(
      keys, return_index=True, return_inverse=True
    )
    joined = np.concatenate([pad(self.players), pad(other.players)])
    add = lambda x, y: np.bincount(inverse, np.concatenate([x, y]), len(keys))
    return _Sums(
      keys=keys,
      players=joined[first],
      coefs=add(self.coefs, other.coefs),
      sizes=add(self.sizes, other.sizes),
      counts=add(self.counts, other.counts).astype(np.int64),
    )

  def rounding(self):
    """What may be left of a sum that is 0: a step for each addition."""
    return (self.counts + 8) * np.finfo(np.float64).eps * self.sizes


class _Level(NamedTuple):
  """The nodes of one depth, of all trees of a batch.

  Attributes:
    node: int `[V]` the index of each node in the ensemble.
    inner: bool `[V]` which nodes split; the children of the k-th of them are
      nodes 2k (bit 0) and 2k + 1 of the next level.
    path: int `[V, d]` the players that the nodes above ask for.
  """

  node: np.ndarray
  inner: np.ndarray
  path: np.ndarray


def _batches(read):
  """Splits the trees so that each batch has about `_ROWS` rows at most."""
  rows = np.zeros(len(read.roots))
  tree, node = np.arange(len(read.roots)), read.roots
  depth = 0
  while len(node):
    inner = read.feature[node] >= 0
    tree, node = tree[inner], node[inner]
    # Nodes passed over later count too: an upper bound, for balance only.
    rows += np.bincount(tree, minlength=len(rows)) * 2.0 ** min(depth, 60)
    tree = np.concatenate([tree, tree])
    node = np.concatenate([read.zero[node], read.one[node]])
    depth += 1
  batch = np.floor(np.cumsum(np.minimum(rows, _ROWS)) / _ROWS)
  edges = np.flatnonzero(np.diff(batch)) + 1
  return [part for part in np.split(read.roots, edges) if len(part)]


def _levels(read, roots):
  """The trees by depth, without what a path knows already."""
  node = roots
  path = np.zeros((len(roots), 0), np.int64)
  side = np.zeros((len(roots), 0), bool)
  levels, num_rows = [], 0
  while len(node):
    node = _settle(read, node, path, side)
    inner = read.feature[node] >= 0
    levels.append(_Level(node, inner, path))
    num_rows += int(inner.sum()) << path.shape[1]
    if num_rows > _MOST_ROWS:
      raise ValueError(
        f"A tree asks {path.shape[1]} players and more on a path: over "
        f"{_MOST_ROWS} sets. Fit shallower trees (max_depth of 12 or less)."
      )
    parent = node[inner]
    path = np.concatenate([path[inner], read.feature[parent][:, None]], axis=1)
    path, side = np.repeat(path, 2, axis=0), np.repeat(side[inner], 2, axis=0)
    last = np.tile([False, True], len(parent))
    side = np.concatenate([side, last[:, None]], axis=1)
    node = np.stack([read.zero[parent], read.one[parent]], axis=1).ravel()
  return levels


def _settle(read, node, path, side):
  """Passes over nodes whose answer is known or makes no difference."""
  node = node.copy()
  active = np.arange(len(node))
  while len(active):
    at = node[active]
    feature = read.feature[at]
    asked = path[active] == feature[:, None]
    bit = (asked & side[active]).any(axis=1)
    skip = asked.any(axis=1) | (read.zero[at] == read.one[at])
    skip &= feature >= 0
    active, at, bit = active[skip], at[skip], bit[skip]
    node[active] = np.where(bit, read.one[at], read.zero[at])
  return node


def _means(read, levels):
  """The mean of each node's two sides, by level."""
  means = [read.value[levels[-1].node]]
  for level in reversed(levels[:-1]):
    mean = read.value[level.node].copy()
    mean[level.inner] = (means[-1][0::2] + means[-1][1::2]) / 2
    means.append(mean)
  return means[::-1]


def _expand(read, roots, numbers, n):
  """The expansion of a batch of trees, equal sets added."""
  levels = _levels(read, roots)
  means = _means(read, levels)
  # Row 0: the empty set, as the sum of the roots.
  keys, coefs = [np.zeros(len(roots), np.uint64)], [means[0]]
  starts = [len(roots)]
  above = np.zeros((len(roots), 1), np.uint64)
  share = np.ones((len(roots), 1))
  for level, mean in zip(levels[:-1], means[1:]):
    number = numbers[read.feature[level.node[level.inner]]][:, None]
    above, share = above[level.inner], share[level.inner] / 2
    change = (mean[0::2] - mean[1::2])[:, None]
    keys.append((above ^ number).ravel())
    coefs.append((share * change).ravel())
    starts.append(starts[-1] + above.size)
    # Below, every set is there with and without this player; it enters with
    # + on the side of bit 0 and with - on that of bit 1.
    above = np.repeat(
      np.concatenate([above, above ^ number], axis=1), 2, axis=0
    )
    share = np.stack(
      [np.concatenate([share, s * share], axis=1) for s in (1, -1)], axis=1
    ).reshape(above.shape)
  keys, coefs = np.concatenate(keys), np.concatenate(coefs)
  keys, first, inverse = np.unique(keys, return_index=True, return_inverse=True)
  return _Sums(
    keys=keys,
    players=_players(read, levels, starts, first, n),
    coefs=np.bincount(inverse, coefs, len(keys)),
    sizes=np.bincount(inverse, np.abs(coefs), len(keys)),
    counts=np.bincount(inverse, minlength=len(keys)),
  )


def _players(read, levels, starts, rows, n):
  """The sets of some rows, int `[K, D]`: row numbers say node and subset."""
  out = np.full((len(rows), len(levels) - 1), n, np.int64)
  depth = np.searchsorted(starts, rows, side="right") - 1
  for d, level in enumerate(levels[:-1]):
    mine = depth == d
    node, subset = divmod(rows[mine] - starts[d], 1 << d)
    players = np.full((len(node), out.shape[1]), n)
    path = level.path[level.inner][node]
    bits = subset[:, None] >> np.arange(d) & 1
    players[:, :d] = np.where(bits == 1, path, n)
    players[:, d] = read.feature[level.node[level.inner][node]]
    out[mine] = players
  return out
