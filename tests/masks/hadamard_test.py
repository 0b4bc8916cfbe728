"""Tests of affine sets of masks against their definition."""

import jax
import numpy as np
import pytest

from spex_jax.masks import hadamard, packing


def _affine(n=13, b=3, groups=3, num_delays=4, seed=0):
  rng = np.random.default_rng(seed)
  return hadamard.AffineMasks(
    maps=hadamard.random_maps(jax.random.key(seed), groups, n, b),
    delays=rng.random((num_delays, n)) < 0.5,
    offsets=rng.random((groups, n)) < 0.5,
  )


def _by_definition(affine):
  rows = []
  for c in range(affine.num_groups):
    for delay in affine.delays:
      for point in range(1 << affine.num_bits):
        bits = (point >> np.arange(affine.num_bits)) & 1
        row = affine.maps[c].astype(int) @ bits + delay + affine.offsets[c]
        rows.append(row % 2 == 1)
  return np.array(rows)


@pytest.mark.parametrize(("n", "b"), [(1, 0), (1, 1), (13, 3), (12, 10)])
def test_masks_match_the_definition(n, b):
  affine = _affine(n, b)
  expected = _by_definition(affine)
  assert affine.num_masks == len(expected)
  np.testing.assert_array_equal(affine.masks(), expected)


@pytest.mark.parametrize(
  ("start", "stop"), [(0, 5), (7, 8), (30, 60), (90, 500), (5, 5), (9, 2)]
)
def test_ranges_are_slices(start, stop):
  affine = _affine()
  np.testing.assert_array_equal(
    affine.masks(start, stop), affine.masks()[start:stop]
  )


def test_packed_rows_have_the_layout_of_packing():
  affine = _affine(n=21)
  np.testing.assert_array_equal(affine.packed(), packing.pack(affine.masks()))


@pytest.mark.parametrize("b", [0, 1, 3])
def test_plans_nest(b):
  affine = _affine(b=3)
  smaller = hadamard.AffineMasks(
    maps=affine.maps[:, :, :b], delays=affine.delays, offsets=affine.offsets
  )
  np.testing.assert_array_equal(
    affine.masks()[affine.prefix(b)], smaller.masks()
  )


def test_restriction_selects_columns():
  affine = _affine()
  players = np.array([4, 0, 7])
  np.testing.assert_array_equal(
    affine.restrict(players).masks(), affine.masks()[:, players]
  )


@pytest.mark.parametrize(("n", "b"), [(1, 1), (3, 3), (8, 7)])
def test_maps_have_full_rank(n, b):
  # A map of full column rank sends the 2^b points to 2^b different masks.
  for seed in range(5):
    affine = _affine(n, b, num_delays=1, seed=seed)
    masks = affine.masks().reshape(3, 1 << b, n)
    for group in masks:
      assert len(np.unique(group, axis=0)) == 1 << b


def test_maps_depend_on_the_key_alone():
  first = hadamard.random_maps(jax.random.key(5), 3, 20, 4)
  again = hadamard.random_maps(jax.random.key(5), 3, 20, 4)
  other = hadamard.random_maps(jax.random.key(6), 3, 20, 4)
  np.testing.assert_array_equal(first, again)
  assert (first != other).any()


def test_bins_and_parities_of_sets_are_xors():
  affine = _affine()
  bins = hadamard.player_bins(affine.maps)
  parities = hadamard.player_parities(affine.delays)
  players = np.array([2, 5, 11, 13])  # The last is padding.
  support = np.zeros(13, int)
  support[players[:3]] = 1
  for c in range(3):
    expected = (affine.maps[c].T.astype(int) @ support) % 2 @ (1, 2, 4)
    assert hadamard.fold_players(bins[c], players) == expected
  np.testing.assert_array_equal(
    hadamard.fold_players(parities, players),
    (affine.delays.astype(int) @ support) % 2 == 1,
  )


def test_bad_input():
  with pytest.raises(ValueError, match="4 bits need at least as many players"):
    hadamard.random_maps(jax.random.key(0), 3, 3, 4)
  with pytest.raises(ValueError, match=r"num_bits must lie in 0\.\.3"):
    _affine().prefix(4)
