"""Fourier to Moebius on sparse supports, and the sum behind all indices.

Every index of this room is one weighted sum over supersets,

  I(T) = sum_{S superset of T} w(|S|, |T|) c(S),       |T| <= order,

so one array program serves them all: list the subsets of every set, rank them
by integer keys, add. Weights are exact fractions, rounded once to float64.

The program is host NumPy in float64. Jitted JAX under `enable_x64` took three
times as long to rank and add 320,000 subsets (0.11 s against 0.036 s, 2 CPU
cores), and compiles anew for every number of them.

Shapes: n players, K sets, D the largest order, P players that occur, R pairs
of a set and one of its subsets.
"""

import itertools
import math
from collections.abc import Callable
from fractions import Fraction
from typing import NamedTuple

import chex
import numpy as np

from spex_jax import base
from spex_jax.fourier import sparse

MAX_PAIRS = 1 << 24  # R; 2 GiB and 15 s where all are distinct (2 CPU cores).
_MAX_DENSE = 20  # P up to which a table of 2^P values is allowed.
_ROUNDING = 8 * np.finfo(np.float64).eps

Weight = Callable[[int, int], Fraction | int]


class SetValues(NamedTuple):
  """Values on sets of players; a set that is not listed has value 0.

  Attributes:
    n: number of players.
    players: int32 `[K, D]`, ascending, padded with n; the empty set is a row
      of n only.
    values: float64 `[K]`.
  """

  n: int
  players: np.ndarray
  values: np.ndarray

  def split_empty(self) -> tuple[float, np.ndarray, np.ndarray]:
    """The empty set's value, then players and values of all other sets."""
    is_empty = (self.players == self.n).all(axis=1)
    empty = float(self.values[is_empty].sum())
    return empty, self.players[~is_empty], self.values[~is_empty]


def mobius_from_fourier(fourier: sparse.SparseFourier) -> SetValues:
  """Moebius coefficients, `M(T) = (-2)^|T| sum_{S superset of T} F(S)`.

  Args:
    fourier: an expansion of one target, K terms.

  Returns:
    The sets with a value beyond rounding: a part of the downward closure.

  Raises:
    ValueError: several targets, or more than `MAX_PAIRS` subsets.
  """
  players, coefs = terms_of(fourier)
  return superset_sums(fourier.n, players, coefs, lambda s, t: (-2) ** t, None)


def terms_of(fourier: sparse.SparseFourier) -> tuple[np.ndarray, np.ndarray]:
  """int32 `[K, D]` players and float64 `[K]` coefs, padding rows dropped.

  Raises:
    ValueError: several targets.
  """
  if fourier.num_targets is not None:
    raise ValueError(
      f"This expansion has {fourier.num_targets} targets; choose one with "
      "fourier.target(t), or make a list over all t."
    )
  count = int(fourier.count)
  players = np.asarray(fourier.players)[:count].astype(np.int32)
  return players, np.asarray(fourier.coefs, np.float64)[:count]


def superset_sums(
  n: int,
  players: base.Array,
  coefs: base.Array,
  weight: Weight,
  order: int | None,
) -> SetValues:
  """Returns `I(T)` of the module header for all T of size up to `order`.

  A sum that cancels to 8 ulp of its terms' total size counts as zero and its
  set is not listed.

  Args:
    n: number of players.
    players: int `[K, D]`, padded with n.
    coefs: float `[K]`.
    weight: `w(|S|, |T|)`, exact; called once per pair of sizes.
    order: the largest `|T|`, or None for D.

  Raises:
    ValueError: more than `MAX_PAIRS` subsets would be listed, and too many
      players (above 20) for a table of all subsets.
  """
  players = np.sort(np.asarray(players, np.int32), axis=1)
  coefs = np.asarray(coefs, np.float64)
  sizes = (players < n).sum(axis=1)
  present, counts = np.unique(sizes, return_counts=True)
  largest = int(present.max(initial=0))
  limit = largest if order is None else min(order, largest)
  active = np.unique(players[players < n])
  may_be_dense = len(active) <= _MAX_DENSE
  # The weights that are not 0, and how many pairs of sets have them.
  weights: dict[tuple[int, int], float] = {}
  pairs = 0
  for s, count in zip(present.tolist(), counts.tolist()):
    for t in range(min(s, limit) + 1):
      if w := weight(s, t):
        pairs += count * math.comb(s, t)
        if pairs > MAX_PAIRS and not may_be_dense:
          raise ValueError(_too_many(present, counts, limit))
        weights[s, t] = float(w)
  # A listed pair costs about as much as 64 additions in a dense table.
  dense_cost = len(present) * len(active) << len(active)
  if may_be_dense and dense_cost < 64 * pairs:
    return _dense(n, players, coefs, sizes, active, weights, limit)

  # Pairs listed by their sizes, and equal subsets added up.
  rank = np.searchsorted(active, players)
  found = []
  for t in range(limit + 1):
    subsets, terms, masses = [], [], []
    for s in present[present >= t].tolist():
      if (s, t) not in weights:
        continue
      rows = sizes == s
      columns = np.asarray(
        list(itertools.combinations(range(s), t)), np.int64
      ).reshape(math.comb(s, t), t)
      listed = rank[rows][:, columns]  # [k, C(s, t), t]
      subsets.append(listed.reshape(listed.shape[0] * listed.shape[1], t))
      terms.append(np.repeat(weights[s, t] * coefs[rows], len(columns)))
      masses.append(np.abs(terms[-1]))
    if subsets:
      found.append(
        _add_equal(
          np.concatenate(subsets),
          np.concatenate(terms),
          np.concatenate(masses),
          len(active),
        )
      )
  return _join(n, active, found)


def _too_many(present: np.ndarray, counts: np.ndarray, limit: int) -> str:
  """Names the bound, and the largest order limit that keeps within it."""
  fits = 0
  for k in range(1, limit):
    pairs = sum(
      count * sum(math.comb(s, t) for t in range(min(s, k) + 1))
      for s, count in zip(present.tolist(), counts.tolist())
    )
    if pairs > MAX_PAIRS:
      break
    fits = k
  remedy = f"give order={fits} or less, or " if fits else ""
  return (
    f"{counts.sum()} sets of up to {present.max()} players have more than "
    f"{MAX_PAIRS} subsets of up to {limit} players (a set of order d has "
    f"2^d), the most that are listed. Remedy: {remedy}keep fewer terms with "
    "fourier.truncate(num_terms)."
  )


def rank_rows(rows: np.ndarray, base_size: int) -> np.ndarray:
  """int64 `[R]` keys of rows `[R, t]`: equal, and ordered, as the rows are.

  Args:
    rows: int, entries in 0..base_size - 1.
    base_size: number of digits.
  """
  chex.assert_rank(rows, 2)
  key = np.zeros(len(rows), np.int64)
  span = 1  # Keys lie below it; an exact int, never rounded.
  for column in rows.T:
    if span * base_size >= 1 << 62:  # Rank the prefix to make room again.
      unique, key = np.unique(key, return_inverse=True)
      key, span = key.ravel().astype(np.int64), len(unique)
    key = key * base_size + column
    span *= base_size
  return key


def _add_equal(
  subsets: np.ndarray, terms: np.ndarray, masses: np.ndarray, base_size: int
) -> tuple[np.ndarray, np.ndarray]:
  """Adds the terms of equal rows: `[R, t]`, `[R]` -> `[K, t]`, `[K]`."""
  key = rank_rows(subsets, base_size)
  _, first, inverse = np.unique(key, return_index=True, return_inverse=True)
  inverse = inverse.ravel()
  values = np.bincount(inverse, terms, len(first))
  mass = np.bincount(inverse, masses, len(first))
  keep = np.abs(values) > _ROUNDING * mass
  return subsets[first[keep]], values[keep]


def _dense(
  n: int,
  players: np.ndarray,
  coefs: np.ndarray,
  sizes: np.ndarray,
  active: np.ndarray,
  weights: dict[tuple[int, int], float],
  limit: int,
) -> SetValues:
  """The same sums from a table of all 2^P subsets, one pass per set size."""
  num = len(active)
  bits = np.append(1 << np.arange(num), 0)
  codes = bits[np.where(players < n, np.searchsorted(active, players), num)]
  codes = codes.sum(axis=1, dtype=np.int64)
  popcount = np.bitwise_count(np.arange(1 << num)).astype(np.int64)
  total = np.zeros((2, 1 << num))  # The sums, and their terms' total size.
  for s in np.unique(sizes).tolist():
    rows = sizes == s
    layer = np.stack(
      [
        np.bincount(codes[rows], c[rows], 1 << num)
        for c in (coefs, np.abs(coefs))
      ]
    )
    for bit in range(num):
      halves = layer.reshape(2, -1, 2, 1 << bit)
      halves[:, :, 0] += halves[:, :, 1]
    by_size = np.zeros(num + 1)
    for t in range(min(s, limit) + 1):
      by_size[t] = weights.get((s, t), 0.0)
    w = by_size[popcount]
    total += np.stack([w, np.abs(w)]) * layer
  keep = np.abs(total[0]) > _ROUNDING * total[1]
  found = []
  for t in range(limit + 1):
    rows = np.flatnonzero(keep & (popcount == t))
    member = (rows[:, None] >> np.arange(num)[None]) & 1
    found.append((np.nonzero(member)[1].reshape(len(rows), t), total[0, rows]))
  return _join(n, active, found)


def _join(
  n: int, active: np.ndarray, found: list[tuple[np.ndarray, np.ndarray]]
) -> SetValues:
  """Pads the sets of each size to one width, and names their players."""
  found = [(sets, values) for sets, values in found if len(values)]
  width = max((sets.shape[1] for sets, _ in found), default=0)
  num = sum(len(values) for _, values in found)
  players = np.full((num, width), n, np.int32)
  values = np.zeros(num)
  start = 0
  for sets, some in found:
    stop = start + len(some)
    players[start:stop, : sets.shape[1]] = active[sets]
    values[start:stop] = some
    start = stop
  return SetValues(n, players, values)
