"""Affine sets of masks that fold frequencies into bins, and their delays.

Group c asks for m = M_c l + d_p + o_c (mod 2) for every l in {0, 1}^b. Summing
f over l against the characters of l leaves, in bin j, only the sets S with
M_c^T S = j, each with the sign (-1)^<d_p + o_c, S>.

Sources: SPEX (arXiv 2502.13870), section 4. Deviation: the offset o_c, one
random row a group; without it the groups share the masks at l = 0.

Shapes: n players, C groups, P delays, b bits, N = C P 2^b masks, D order.
"""

import chex
import flax.struct
import jax
import jax.numpy as jnp
import numpy as np

from spex_jax import base
from spex_jax.masks import packing, sampling

_TABLE_BITS = 8  # Mask tables hold 2^8 rows: 3 MB at 100,000 players.


@flax.struct.dataclass
class AffineMasks:
  """C P 2^b masks, described, not materialised; a pytree of host arrays.

  Mask number (c P + p) 2^b + l is M_c l + d_p + o_c. The first 2^b' masks of
  every (c, p) are the plan of b' bits: plans nest.

  Attributes:
    maps: bool `[C, n, b]`, M_c; every one has full column rank.
    delays: bool `[P, n]`, d_p; the first row is zero.
    offsets: bool `[C, n]`, o_c.
  """

  maps: base.Array
  delays: base.Array
  offsets: base.Array

  @property
  def n(self) -> int:
    return self.maps.shape[1]

  @property
  def num_groups(self) -> int:
    return self.maps.shape[0]

  @property
  def num_bits(self) -> int:
    return self.maps.shape[2]

  @property
  def num_delays(self) -> int:
    return self.delays.shape[0]

  @property
  def num_masks(self) -> int:
    return (self.num_groups * self.num_delays) << self.num_bits

  def packed(self, start: int = 0, stop: int | None = None) -> np.ndarray:
    """Masks start..stop as bits, uint8 `[stop - start, ceil(n / 8)]`.

    The layout is that of `masks.packing`. Only the rows asked for are built.
    """
    stop = self.num_masks if stop is None else min(stop, self.num_masks)
    index = np.arange(start, max(start, stop))
    delays = packing.pack(self.delays)
    offsets = packing.pack(self.offsets)
    group_delay, point = np.divmod(index, 1 << self.num_bits)
    group, delay = np.divmod(group_delay, self.num_delays)
    rows = delays[delay] ^ offsets[group]
    for c in np.unique(group):
      mine = group == c
      columns = packing.pack(np.asarray(self.maps[c]).T)
      for low in range(0, self.num_bits, _TABLE_BITS):
        table = _xor_table(columns[low : low + _TABLE_BITS])
        rows[mine] ^= table[(point[mine] >> low) % len(table)]
    return rows

  def masks(self, start: int = 0, stop: int | None = None) -> np.ndarray:
    """Masks start..stop, bool `[stop - start, n]`, in order."""
    return packing.unpack(self.packed(start, stop), self.n)

  def restrict(self, players: base.Array) -> "AffineMasks":
    """The same masks, seen on some players alone, in the order given."""
    return AffineMasks(
      maps=np.asarray(self.maps)[:, players],
      delays=np.asarray(self.delays)[:, players],
      offsets=np.asarray(self.offsets)[:, players],
    )

  def prefix(self, num_bits: int) -> np.ndarray:
    """int `[C P 2^num_bits]`: which of these masks make the smaller plan."""
    if not 0 <= num_bits <= self.num_bits:
      raise ValueError(f"num_bits must lie in 0..{self.num_bits}.")
    starts = np.arange(self.num_groups * self.num_delays) << self.num_bits
    return (starts[:, None] + np.arange(1 << num_bits)).reshape(-1)


def random_maps(
  key: base.Key, groups: int, n: int, num_bits: int
) -> np.ndarray:
  """bool `[groups, n, num_bits]` uniform over matrices of full column rank.

  Raises:
    ValueError: more bits than players: no such matrix.
  """
  if num_bits > n:
    raise ValueError(f"{num_bits} bits need at least as many players; n={n}.")
  maps = []
  for c in range(groups):
    attempt = 0
    while True:
      cause = jax.random.fold_in(jax.random.fold_in(key, c), attempt)
      candidate = sampling.coins(cause, (n, num_bits))
      if _column_rank(candidate) == num_bits:
        maps.append(candidate)
        break
      attempt += 1
  return np.stack(maps)


def player_bins(maps: base.Array) -> np.ndarray:
  """int32 `[C, n + 1]`: the bin of each single player, 0 for the padding.

  The bin of a set is the XOR of its players' bins.
  """
  chex.assert_rank(maps, 3)
  maps = np.asarray(maps)
  weights = 1 << np.arange(maps.shape[2], dtype=np.int32)
  bins = (maps * weights).sum(axis=2, dtype=np.int32)
  return np.pad(bins, ((0, 0), (0, 1)))


def player_parities(rows: base.Array) -> np.ndarray:
  """bool `[n + 1, R]`: rows `[R, n]` by player, False for the padding."""
  chex.assert_rank(rows, 2)
  return np.pad(np.asarray(rows, bool).T, ((0, 1), (0, 0)))


def fold_players(table: base.Array, players: base.Array) -> jax.Array:
  """XOR of `table` `[n + 1, ..]` over the players `[D]` of one set."""
  chex.assert_rank(players, 1)
  chex.assert_type(players, int)
  rows = jnp.asarray(table)[players]
  zero = np.zeros((), rows.dtype)
  return jax.lax.reduce(rows, zero, jax.lax.bitwise_xor, (0,))


def _xor_table(columns: np.ndarray) -> np.ndarray:
  """`[2^k, ..]`: XOR of the columns `[k, ..]` chosen by each index's bits."""
  table = np.zeros((1, columns.shape[1]), columns.dtype)
  for column in columns:
    table = np.concatenate([table, table ^ column])
  return table


def _column_rank(matrix: np.ndarray) -> int:
  """Rank over GF(2)."""
  pivots: list[int] = []
  for column in matrix.T:
    value = int.from_bytes(np.packbits(column).tobytes())
    for pivot in pivots:
      value = min(value, value ^ pivot)
    if value:
      pivots.append(value)
  return len(pivots)
