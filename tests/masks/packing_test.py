"""Tests of masks as bits: layout, hashes that never change, de-duplication."""

import hypothesis
import numpy as np
import pytest
from hypothesis import strategies as st
from hypothesis.extra import numpy as st_np

from spex_jax.masks import packing

_SIZES = [0, 1, 2, 7, 8, 9, 63, 64, 65, 1000]


def _random(n, num_masks=50, seed=0):
  return np.random.default_rng(seed).random((num_masks, n)) < 0.5


@pytest.mark.parametrize("n", _SIZES)
def test_round_trip(n):
  masks = _random(n)
  packed = packing.pack(masks)
  assert packed.shape == (50, packing.num_bytes(n)) and packed.dtype == np.uint8
  back = packing.unpack(packed, n)
  assert back.dtype == np.bool_
  np.testing.assert_array_equal(back, masks)
  np.testing.assert_array_equal(
    np.unpackbits(packed, axis=1, count=n).astype(bool), masks
  )


def test_layout_by_hand():
  masks = np.array([[1, 0, 0, 0, 0, 0, 0, 1, 1], [0] * 9], bool)
  np.testing.assert_array_equal(
    packing.pack(masks), [[0b10000001, 0b10000000], [0, 0]]
  )


@hypothesis.settings(deadline=None, max_examples=30)
@hypothesis.given(
  st_np.arrays(bool, st.tuples(st.integers(0, 20), st.integers(0, 70)))
)
def test_distinct_keeps_first_occurrences(masks):
  seen, first, inverse = {}, [], []
  for i, row in enumerate(map(bytes, masks)):
    if row not in seen:
      seen[row] = len(first)
      first.append(i)
    inverse.append(seen[row])
  packed = packing.pack(masks)
  hashes = packing.hash_streamed(
    lambda a, b: packed[a:b], len(masks), masks.shape[1]
  )
  streamed = packing.distinct_hashes(hashes)
  for actual in (packing.distinct_masks(masks), streamed):
    np.testing.assert_array_equal(actual.first, first)
    np.testing.assert_array_equal(actual.inverse, inverse)


def _hash_by_definition(row, n, multiplier):
  """SplitMix64-mixed polynomial hash in Python integers."""
  ones = (1 << 64) - 1
  padded = bytes(row) + b"\0" * (-len(row) % 8)
  state = n * 0x9E3779B97F4A7C15 & ones
  for i in range(0, len(padded), 8):
    word = int.from_bytes(padded[i : i + 8], "little")
    x = ((state ^ word) * multiplier + 0x9E3779B97F4A7C15) & ones
    x = (x ^ x >> 30) * 0xBF58476D1CE4E5B9 & ones
    x = (x ^ x >> 27) * 0x94D049BB133111EB & ones
    state = x ^ x >> 31
  return state


@pytest.mark.parametrize("n", _SIZES)
def test_hash_matches_definition(n):
  packed = packing.pack(_random(n))
  actual = packing.hash_packed(packed, n)
  for half, factor in enumerate((0xD6E8FEB86659FD93, 0xA0761D6478BD642F)):
    expected = [_hash_by_definition(row, n, factor) for row in packed]
    assert actual[:, half].tolist() == expected


def test_hash_never_changes():
  """Values on disk are keyed by it: a new value here breaks old files."""
  masks = np.arange(3)[:, None] >= np.arange(10)[None]
  assert packing.hash_masks(masks)[:, 0].tolist() == [
    18315507296011240746,
    10831312209953543338,
    16262238731847107974,
  ]


def test_hash_has_no_collisions_on_close_masks():
  n = 1000
  masks = np.concatenate([np.zeros((1, n), bool), np.eye(n, dtype=bool)])
  masks = np.concatenate([masks, ~masks])
  hashes = packing.hash_masks(masks)[:, 0]
  assert len(np.unique(hashes)) == len(masks)
  # Every bit of the hash is even: 5 standard deviations of 2,002 draws.
  bits = (hashes[:, None] >> np.arange(64, dtype=np.uint64)) & np.uint64(1)
  bound = 5 * 0.5 / np.sqrt(len(hashes))
  assert np.abs(bits.mean(axis=0) - 0.5).max() < bound


def test_hash_depends_on_n_not_on_chunks():
  packed = np.zeros((3, 2), np.uint8)
  fifteen, sixteen = (packing.hash_packed(packed, n) for n in (15, 16))
  assert (fifteen != sixteen).all()
  many = packing.pack(_random(9, num_masks=packing._CHUNK + 5))
  np.testing.assert_array_equal(
    packing.hash_packed(many, 9)[-5:], packing.hash_packed(many[-5:], 9)
  )


@pytest.mark.parametrize(
  "call, message",
  [
    (
      lambda: packing.unpack(np.zeros((1, 2), np.uint8), 8),
      "pack to 1 bytes; got 2",
    ),
    (lambda: packing.unpack(np.full((1, 1), 1, np.uint8), 7), "beyond its n=7"),
    (lambda: packing.unpack(np.zeros((1, 1)), 8), "must be uint8"),
    (lambda: packing.unpack(np.zeros(1, np.uint8), 8), "must be uint8"),
    (lambda: packing.pack(np.ones(3, bool)), "one row per mask"),
    (lambda: packing.pack(np.full((1, 3), 2)), "only 0 and 1"),
    (
      lambda: packing.hash_packed(np.zeros((1, 1), np.uint8), 9),
      "9 players pack to 2",
    ),
  ],
)
def test_bad_input(call, message):
  with pytest.raises(ValueError, match=message):
    call()


def test_streams_bound_their_chunks():
  """At n = 2^25 players a chunk holds 8 masks, as the header's 32 MiB say."""
  n, sizes = 1 << 25, []

  def packed(start, stop):
    sizes.append(stop - start)
    return np.zeros((stop - start, n // 8), np.uint8)[:, :0]

  with pytest.raises(ValueError, match="33554432 players pack to 4194304"):
    packing.hash_streamed(packed, 20, n)
  assert sizes == [8]


def test_masks_that_fit_nowhere_are_refused():
  packing.check_fits(10**7, 1_000, "budget")  # On any machine of 10 GB.
  with pytest.raises(ValueError, match="budget: 1,0.* masks, or|masks do"):
    packing.check_fits(10**30, 40, "budget")
  with pytest.raises(ValueError, match="players do, at most"):
    packing.check_fits(1024, 10**12, "n")
