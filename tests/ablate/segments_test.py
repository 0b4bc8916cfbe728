"""Blurs and fillings against their definitions, and what segments are."""

import jax
import numpy as np
import pytest
from scipy import ndimage

from spex_jax.ablate import features, segments


def _image(shape=(2, 7, 9), seed=0):
  return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def test_the_image_s_own_mean():
  image = _image()
  got = segments.own_mean(image)
  expected = image.astype(np.float64).mean(axis=(1, 2))
  np.testing.assert_allclose(got[:, 0, 0], expected, rtol=0, atol=1e-7)
  assert (np.asarray(got) == np.asarray(got)[:, :1, :1]).all()


def test_blur_is_a_gaussian_sum():
  image, sigma = _image(), 0.8
  reach = int(4 * sigma + 0.5)
  taps = np.exp(-0.5 * (np.arange(-reach, reach + 1) / sigma) ** 2)
  taps /= taps.sum()
  pad = [(0, 0), (reach, reach), (reach, reach)]
  wide = np.pad(image.astype(np.float64), pad, mode="edge")
  expected = np.zeros(image.shape)
  for i, a in enumerate(taps):
    for j, b in enumerate(taps):
      expected += a * b * wide[:, i : i + 7, j : j + 9]
  got = segments.blur(image, sigma)
  # Rounded to float32 once.
  np.testing.assert_allclose(got, expected, rtol=0, atol=1e-6)


def _harmonic(image, kept):
  """Each absent pixel the mean of its neighbours, by solving for them."""
  out = np.array(image, np.float64)
  _, height, width = image.shape
  for channel, keep in zip(out, kept):
    size = height * width
    matrix, right = np.eye(size), np.where(keep, channel, 0).ravel()
    for y, x in zip(*np.nonzero(~keep)):
      near = [(y - 1, x), (y + 1, x), (y, x - 1), (y, x + 1)]
      near = [(a, b) for a, b in near if 0 <= a < height and 0 <= b < width]
      for a, b in near:
        matrix[y * width + x, a * width + b] = -1 / len(near)
    channel[:] = np.linalg.solve(matrix, right).reshape(height, width)
  return out


@pytest.mark.slow
@pytest.mark.parametrize("share", [0.1, 0.5, 0.9])
def test_inpainting_tends_to_the_harmonic_filling(share):
  image = _image()
  rng = np.random.default_rng(1)
  kept = rng.random(image.shape) < share
  kept[:, 3, 4] = True
  got = np.asarray(segments.inpainted(image, kept, iterations=2000))
  np.testing.assert_array_equal(got[kept], image[kept])
  # 2,000 Jacobi steps shrink what is left by cos(pi / 18) ** 2000 < 1e-13 and
  # less where only few pixels are kept; then float32 is what counts.
  np.testing.assert_allclose(got, _harmonic(image, kept), rtol=0, atol=2e-4)


def test_inpainting_begins_with_the_means_of_blocks():
  image = np.arange(16, dtype=np.float32).reshape(1, 4, 4)
  kept = np.zeros((1, 4, 4), bool)
  kept[0, 0, 0] = kept[0, 1, 1] = kept[0, 3, 3] = True
  got = segments.inpainted(image, kept, iterations=0)[0]
  # 0 and 5 are kept at the top left, 15 at the bottom right; the other blocks
  # of 2 by 2 are empty and take the mean of the three.
  mean = 20 / 3
  expected = [
    [0, 2.5, mean, mean],
    [2.5, 5, mean, mean],
    [mean, mean, 15, 15],
    [mean, mean, 15, 15],
  ]
  np.testing.assert_allclose(got, expected, rtol=1e-6)


def test_inpainting_under_vmap_and_with_nothing_kept():
  image = _image((3, 8, 8))
  players = features.patches(image.shape, 4)
  masks = np.array([[0, 0, 0, 0], [1, 0, 0, 1], [1, 1, 1, 1]], bool)
  fill = jax.jit(lambda m: segments.inpainted(image, players.kept(m)))
  got = np.asarray(jax.vmap(fill)(masks))
  mean = np.broadcast_to(image.mean(axis=(1, 2), keepdims=True), image.shape)
  np.testing.assert_allclose(got[0], mean, rtol=0, atol=1e-6)
  np.testing.assert_array_equal(got[2], image)
  np.testing.assert_allclose(got[1], fill(masks[1]), rtol=0, atol=1e-6)
  # A filling lies between the smallest and the largest kept pixel.
  low = image.min(axis=(1, 2)), image.max(axis=(1, 2))
  assert (got[1].min(axis=(1, 2)) >= low[0] - 1e-6).all()
  assert (got[1].max(axis=(1, 2)) <= low[1] + 1e-6).all()


def test_segments_follow_colours():
  image = np.zeros((3, 20, 30), np.float32)
  image[0, :, 11:] = 1
  image[1, 8:, :] = 1
  players = segments.segments(image, 6, compactness=0.1)
  owner = players.owner
  assert (owner == owner[:1]).all()  # All channels together.
  for player in range(players.n):
    colours = image[:, owner[0] == player]
    assert (colours == colours[:, :1]).all(), player


@pytest.mark.parametrize("count", [1, 5, 12, 40])
def test_segments_are_connected_and_numbered_from_the_top(count):
  rng = np.random.default_rng(count)
  image = ndimage.gaussian_filter(rng.normal(size=(3, 24, 31)), (0, 2, 2))
  players = segments.segments(image, count)
  assert players.names == tuple(f"s{i}" for i in range(players.n))
  assert count / 2 <= players.n <= count
  owner = players.owner[0]
  for player in range(players.n):
    assert ndimage.label(owner == player)[1] == 1
  _, first = np.unique(owner, return_index=True)
  assert (np.diff(first) > 0).all()
  again = segments.segments(image, count)
  np.testing.assert_array_equal(again.owner, players.owner)


def test_segments_of_a_blank_image_and_of_single_pixels():
  blank = np.ones((1, 6, 6), np.float32)
  assert segments.segments(blank, 4).n == 4
  assert segments.segments(_image((1, 2, 2)), 4).n == 4


def test_a_piece_cut_off_joins_its_longest_border():
  image = np.zeros((1, 9, 9), np.float32)
  image[0, :, 6:] = 1
  image[0, 2, 1] = 1  # One pixel of the other colour.
  players = segments.segments(image, 2, compactness=0.01)
  assert players.n == 2
  assert players.owner[0, 2, 1] == players.owner[0, 2, 2]


@pytest.mark.parametrize(
  "call, message",
  [
    (lambda x: segments.own_mean(x[0]), r"shape \(C, H, W\); got \(7, 9\)"),
    (lambda x: segments.blur(x[:, :0], 1.0), r"got \(2, 0, 9\)"),
    (lambda x: segments.blur(x, 0.0), "sigma must be above 0; got 0.0"),
    (lambda x: segments.blur(x, np.nan), "above 0; got nan"),
    (lambda x: segments.inpainted(x, np.ones((7, 9), bool)), r"got \(7, 9\)"),
    (lambda x: segments.segments(x, 0), r"lie in 1\.\.63, the number.*got 0"),
    (lambda x: segments.segments(x, 64), "got 64"),
    (lambda x: segments.segments(x, 4, compactness=0), "above 0; got 0"),
  ],
)
def test_bad_images(call, message):
  with pytest.raises(ValueError, match=message):
    call(_image())


def test_whole_pixels_are_not_filled_in():
  image = np.zeros((1, 2, 2), np.uint8)
  with pytest.raises(TypeError, match="must be floats to be filled in"):
    segments.inpainted(image, np.ones((1, 2, 2), bool))


@pytest.mark.slow
def test_inputs_under_a_mask_way_by_way():
  image = _image((2, 6, 6))
  players = features.grid(image.shape, 2, 2)
  mask = np.array([True, False, True, False])
  kept = np.asarray(players.kept(mask))
  # Four players of 3 by 3 pixels: sigma 1 at least.
  fills = {
    "mean": np.broadcast_to(image.mean(axis=(1, 2), keepdims=True), kept.shape),
    "blur": segments.blur(image, 1.0),
    "constant": np.broadcast_to(np.float32([[[2]], [[3]]]), kept.shape),
    "inpainted": segments.inpainted(image, kept),
  }
  assert set(fills) == set(segments.WAYS)
  for way, fill in fills.items():
    see = segments.inputs(image, players, way, value=(2.0, 3.0))
    got = jax.jit(see)(mask)
    assert got.keys() == {"pixel_values"}
    expected = np.where(kept, image, fill)[None]
    np.testing.assert_allclose(got["pixel_values"], expected, atol=1e-6)


@pytest.mark.parametrize(
  ("way", "settings", "message"),
  [
    ("zero", {}, "way='zero': choose from mean, blur, constant, inpainted"),
    (
      "constant",
      {"value": (1.0, 2.0, 3.0)},
      "one number or 2, one per channel",
    ),
    ("blur", {"sigma": 0.0}, "sigma must be above 0; got 0"),
  ],
)
def test_inputs_that_are_refused(way, settings, message):
  image = _image((2, 6, 6))
  with pytest.raises(ValueError, match=message):
    segments.inputs(image, features.grid((2, 6, 6), 2, 2), way, **settings)
  with pytest.raises(ValueError, match=r"own an image of \(2, 4, 4\); it has"):
    segments.inputs(image, features.grid((2, 4, 4), 2, 2))
