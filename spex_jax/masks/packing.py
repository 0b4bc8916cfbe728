"""Masks as bits: pack, unpack, hash, de-duplicate.

Layout: player i is bit `7 - i % 8` of byte `i // 8` (NumPy's big-endian bit
order), and the bits beyond n are 0, so that
`np.unpackbits(packed, axis=1, count=n)` reads it. 10^7 masks of 1,000
players take 1.25 GB.

The hash is part of the layout: the same on every machine and in every
version, so that values on disk may be keyed by it. It is polynomial hashing
modulo 2^64 of the row's little-endian 64-bit words, finished by the mixer of
SplitMix64 (Steele et al. 2014); fast and even, not secure against somebody
who seeks collisions. n enters it, so masks of other n differ. 10^7 random
rows collide with probability 1e-25.

Shapes: n players, B masks, W = ceil(n / 8) bytes.
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from spex_jax import base

_MIX_1 = np.uint64(0xBF58476D1CE4E5B9)
_MIX_2 = np.uint64(0x94D049BB133111EB)
_GOLDEN = np.uint64(0x9E3779B97F4A7C15)
# One odd multiplier for each 64-bit half of a hash.
_MULTIPLIERS = (np.uint64(0xD6E8FEB86659FD93), np.uint64(0xA0761D6478BD642F))
_CHUNK = 1 << 16  # Rows at once: temporaries stay small beside the input.


def num_bytes(n: int) -> int:
  """Returns W, the bytes of a packed mask of n players."""
  return -(-n // 8)


def pack(masks: base.Masks) -> np.ndarray:
  """Packs `[B, n]` masks into uint8 `[B, W]`, eight players a byte.

  Raises:
    ValueError: what `base.check_masks` refuses.
  """
  return np.packbits(base.check_masks(masks), axis=1)


def unpack(packed: np.ndarray, n: int) -> np.ndarray:
  """Unpacks uint8 `[B, W]` into bool `[B, n]`.

  Raises:
    ValueError: another dtype or width than n players pack to, or a bit set
      beyond player n - 1 (masks of another n, or damage).
  """
  packed = _check_packed(packed)
  if packed.shape[1] != num_bytes(n):
    raise ValueError(
      f"{n} players pack to {num_bytes(n)} bytes; got {packed.shape[1]}."
    )
  if n % 8 and (packed[:, -1] & (0xFF >> n % 8)).any():
    raise ValueError(f"A packed mask has bits beyond its n={n} players.")
  return np.unpackbits(packed, axis=1, count=n).view(np.bool_)


def hash_packed(packed: np.ndarray, n: int) -> np.ndarray:
  """Hashes packed masks; see the module header for what it promises.

  Args:
    packed: uint8 `[B, W]`.
    n: number of players.

  Returns:
    uint64 `[B, 2]`, 128 bits a mask.

  Raises:
    ValueError: rows that are not packed masks of n players.
  """
  packed = _check_packed(packed)
  if packed.shape[1] != num_bytes(n):
    raise ValueError(
      f"{n} players pack to {num_bytes(n)} bytes; got {packed.shape[1]}."
    )
  out = np.empty((len(packed), len(_MULTIPLIERS)), np.uint64)
  for start in range(0, len(packed), _CHUNK):
    rows = packed[start : start + _CHUNK]
    words = np.zeros((len(rows), -(-rows.shape[1] // 8) * 8), np.uint8)
    words[:, : rows.shape[1]] = rows
    words = words.view("<u8").astype(np.uint64)
    for half, multiplier in enumerate(_MULTIPLIERS):
      state = np.full(len(rows), n * int(_GOLDEN) % 2**64, np.uint64)
      for word in words.T:
        # Mixing each word keeps sparse and dense masks equally far apart.
        state = _mix((state ^ word) * multiplier + _GOLDEN)
      out[start : start + _CHUNK, half] = state
  return out


def hash_masks(masks: base.Masks) -> np.ndarray:
  """Hashes `[B, n]` masks: `hash_packed` of their packed rows."""
  masks = base.check_masks(masks)
  return hash_packed(np.packbits(masks, axis=1), masks.shape[1])


class Distinct(NamedTuple):
  """Distinct rows in the order in which they first came.

  Attributes:
    first: int64 `[U]`, ascending: the row where each distinct mask first is.
    inverse: int64 `[B]`: `first[inverse[i]]` holds the same mask as row i.
  """

  first: np.ndarray
  inverse: np.ndarray


def distinct(packed: np.ndarray) -> Distinct:
  """Finds the distinct rows of uint8 `[B, W]`, exactly (no hashing)."""
  packed = _check_packed(packed)
  if packed.shape[1] == 0:
    size = min(len(packed), 1)
    return Distinct(np.arange(size), np.zeros(len(packed), np.int64))
  rows = np.ascontiguousarray(packed)
  whole = rows.view(np.dtype((np.void, rows.shape[1]))).ravel()
  return _first_seen(whole)


def distinct_masks(masks: base.Masks) -> Distinct:
  """Finds the distinct rows of `[B, n]` masks."""
  return distinct(pack(masks))


def hash_streamed(
  packed: Callable[[int, int], np.ndarray], num_masks: int, n: int
) -> np.ndarray:
  """128-bit hashes of packed masks that are made by range, never all at once.

  Args:
    packed: `packed(start, stop)` returns uint8 `[stop - start, W]`.
    num_masks: B.
    n: number of players.

  Returns:
    uint64 `[B, 2]`. Memory: 16 bytes a mask, and 32 MiB of masks.
  """
  size = max(1, (1 << 25) // max(1, num_bytes(n)))
  parts = [np.zeros((0, 2), np.uint64)]
  for start in range(0, num_masks, size):
    rows = packed(start, min(start + size, num_masks))
    parts.append(hash_packed(rows, n))
  return np.concatenate(parts)


def distinct_hashes(hashes: np.ndarray) -> Distinct:
  """`distinct` of masks known by their 128-bit hashes, uint64 `[B, 2]`."""
  rows = np.ascontiguousarray(hashes).view(np.uint8)
  return distinct(rows.reshape(len(hashes), 16))


def _first_seen(rows: np.ndarray) -> Distinct:
  _, first, inverse = np.unique(rows, return_index=True, return_inverse=True)
  order = np.argsort(first, kind="stable")
  rank = np.empty_like(order)
  rank[order] = np.arange(len(order))
  return Distinct(first[order], rank[inverse.ravel()])


def _check_packed(packed):
  packed = np.asarray(packed)
  if packed.ndim != 2 or packed.dtype != np.uint8:
    raise ValueError(
      f"Packed masks must be uint8 [B, W]; got {packed.dtype} of shape "
      f"{packed.shape}."
    )
  return packed


def _mix(x):
  x = (x ^ (x >> np.uint64(30))) * _MIX_1
  x = (x ^ (x >> np.uint64(27))) * _MIX_2
  return x ^ (x >> np.uint64(31))


def check_fits(num_masks: int, n: int, what: str) -> None:
  """Refuses masks bool `[num_masks, n]` that this machine cannot hold.

  Args:
    num_masks: B, of any size.
    n: players, of any number.
    what: the name of what asks for them, for the message.

  Raises:
    ValueError: they do not fit; the message tells how many would.
  """
  room = base.memory()
  if num_masks * n > room:
    fit = ((room // n, "masks"), (room // num_masks, "players"))
    most = " or ".join(f"{count:,} {name}" for count, name in fit if count)
    raise ValueError(
      f"{what}: {num_masks:,} masks of {n:,} players do not fit into this "
      f"machine's {room / 2**30:,.0f} GiB: {most} do, at most."
    )
