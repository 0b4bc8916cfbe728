"""Players own what they say, and baselines stand in for what is absent."""

import jax
import numpy as np
import pytest

from spex_jax.ablate import baselines, features


def test_columns():
  players = features.columns(("a", "b", "c"))
  x, gone = np.float32([1, 2, 3]), np.float32([-1, -2, -3])
  mask = np.array([True, False, True])
  np.testing.assert_array_equal(players.apply(mask, x, gone), [1, -2, 3])
  assert (players.n, players.names) == (3, ("a", "b", "c"))


def test_groups_and_columns_that_nobody_owns():
  players = features.columns("abcd", {"outer": "ad", "inner": "b"})
  x = np.arange(1.0, 5.0, dtype=np.float32)
  got = players.apply(np.array([False, True]), x, np.zeros(4, np.float32))
  np.testing.assert_array_equal(got, [0, 2, 3, 0])


@pytest.mark.parametrize("size", [1, 2, 3, 5])
def test_patches_cover_the_image_once(size):
  shape = (2, 5, 4)
  players = features.patches(shape, size)
  rows, cols = -(-5 // size), -(-4 // size)
  assert players.n == rows * cols
  x = np.random.default_rng(0).normal(size=shape).astype(np.float32)
  for index, name in enumerate(players.names):
    r, c = index // cols, index % cols
    assert name == f"r{r}c{c}"
    alone = np.arange(players.n) == index
    expected = np.zeros(shape, np.float32)
    box = np.s_[:, r * size : (r + 1) * size, c * size : (c + 1) * size]
    expected[box] = x[box]
    got = players.apply(alone, x, baselines.zero(x))
    np.testing.assert_array_equal(got, expected)


@pytest.mark.parametrize("rows, cols", [(1, 1), (2, 3), (5, 4)])
def test_a_grid_has_as_many_rectangles_as_asked_for(rows, cols):
  players = features.grid((2, 5, 4), rows, cols)
  assert players.n == rows * cols
  sizes = np.bincount(players.owner[0].ravel()).reshape(rows, cols)
  # Rows differ by one pixel at most, and so do columns.
  assert sizes.max() <= -(-5 // rows) * -(-4 // cols)
  assert sizes.min() >= (5 // rows) * (4 // cols)
  assert players.names[-1] == f"r{rows - 1}c{cols - 1}"
  for player in range(players.n):
    ys, xs = np.nonzero(players.owner[1] == player)
    assert len(ys) == (np.ptp(ys) + 1) * (np.ptp(xs) + 1)


@pytest.mark.parametrize("rows, cols", [(0, 1), (6, 1), (1, 5)])
def test_a_grid_finer_than_the_image(rows, cols):
  with pytest.raises(ValueError, match=rf"got {rows} and {cols}"):
    features.grid((2, 5, 4), rows, cols)


def test_apply_under_vmap_and_with_many_stand_ins():
  players = features.patches((1, 4, 4), 2)
  rng = np.random.default_rng(1)
  x = rng.normal(size=(1, 4, 4)).astype(np.float32)
  stack = rng.normal(size=(3, 1, 4, 4)).astype(np.float32)
  masks = rng.random((5, 4)) < 0.5
  got = jax.jit(jax.vmap(lambda m: players.apply(m, x, stack)))(masks)
  assert got.shape == (5, 3, 1, 4, 4)
  for mask, images in zip(masks, got):
    for image, stand_in in zip(images, stack):
      expected = np.where(mask[players.owner], x, stand_in)
      np.testing.assert_array_equal(image, expected)


def test_baselines():
  background = np.float32([[1, 2], [3, 6], [5, 1]])
  x = background[0]
  np.testing.assert_array_equal(baselines.zero(x), [0, 0])
  np.testing.assert_array_equal(baselines.mean(background), [3, 3])
  np.testing.assert_array_equal(baselines.constant(x, 7), [7, 7])
  np.testing.assert_array_equal(baselines.constant(x, [7, 8]), [7, 8])
  draws = np.asarray(baselines.resample(jax.random.key(0), background, 2))
  assert len({tuple(d) for d in draws}) == 2
  assert {tuple(d) for d in draws} <= {tuple(b) for b in background}


def test_mean_of_many_does_not_drift():
  background = np.full((200_000, 1), 0.1, np.float32)
  assert baselines.mean(background)[0] == np.float32(0.1)


def test_bad_baselines_are_refused():
  with pytest.raises(ValueError, match=r"must lie in 1..2"):
    baselines.resample(jax.random.key(0), np.ones((2, 3)), 3)
  with pytest.raises(ValueError, match="must hold examples"):
    baselines.mean(np.ones((0, 3)))
  with pytest.raises(ValueError, match="must be finite"):
    baselines.mean(np.array([[np.nan]]))


def test_bad_players_are_refused():
  with pytest.raises(ValueError, match="names no column 'z'"):
    features.columns("abc", {"g": "az"})
  with pytest.raises(ValueError, match="'a' is in two groups"):
    features.columns("abc", {"g": "a", "h": "a"})
  with pytest.raises(ValueError, match="own nothing: h"):
    features.columns("abc", {"g": "a", "h": ""})
  with pytest.raises(ValueError, match="must be distinct"):
    features.columns(("a", "a"))
  with pytest.raises(ValueError, match="Two columns are named 'a'"):
    features.columns(("a", "b", "a"), {"g": "a"})
  with pytest.raises(TypeError, match="patch side must be an integer; got 2.0"):
    features.patches((1, 4, 4), 2.0)
  with pytest.raises(ValueError, match=r"shape \(C, H, W\); got \(4, 4\)"):
    features.patches((4, 4), 2)
  for dtype in (bool, np.float32):
    with pytest.raises(TypeError, match="Owners must be integers; got"):
      features.Players(("a",), np.zeros(2, dtype))
  with pytest.raises(ValueError, match=r"patch side must lie in 1..4; got 0"):
    features.patches((1, 4, 4), 0)
  players = features.columns("abc")
  with pytest.raises(ValueError, match=r"input has shape \(2,\)"):
    players.apply(np.ones(3, bool), np.ones(2), np.ones(2))
  with pytest.raises(ValueError, match=r"these players is \[3\]; got \(4,\)"):
    players.kept(np.ones(4, bool))
  with pytest.raises(ValueError, match=r"baseline must be \(3,\)"):
    players.apply(np.ones(3, bool), np.ones(3), np.ones(2))
  with pytest.raises(ValueError, match=r"Owners must lie in 0..1"):
    features.Players(("a",), np.array([0, 2]))
