"""Preparation of images against the same steps by hand."""

import json

import numpy as np
import pytest
from PIL import Image

from spex_jax.models import pixels

_IMAGE = np.random.default_rng(0).integers(0, 256, (20, 30, 3), np.uint8)


def _load(folder, **settings):
  path = folder / "preprocessor_config.json"
  path.write_text(json.dumps(settings))
  return pixels.load(folder)


def test_stretched_to_a_size(tmp_path):
  prepare = _load(
    tmp_path,
    image_processor_type="ViTImageProcessor",
    size={"height": 8, "width": 6},
    resample=3,
    do_normalize=True,
    image_mean=[0.1, 0.2, 0.3],
    image_std=[0.5, 0.6, 0.7],
  )
  picture = np.asarray(Image.fromarray(_IMAGE).resize((6, 8), Image.BICUBIC))
  expected = (picture / 255 - [0.1, 0.2, 0.3]) / [0.5, 0.6, 0.7]
  got = prepare(_IMAGE)
  # Rounded to float32 once, at up to 2.
  np.testing.assert_allclose(got, expected.transpose(2, 0, 1), atol=3e-7)
  np.testing.assert_allclose(prepare.shown(got), picture / 255, atol=1e-6)
  grey = prepare(np.full((4, 4, 3), 51, np.uint8))[:, 0, 0]
  np.testing.assert_allclose(prepare.level(0.2), grey, atol=1e-6)


@pytest.mark.parametrize("flip", [False, True])
def test_enlarged_and_cut_from_the_middle(tmp_path, flip):
  prepare = _load(
    tmp_path,
    feature_extractor_type="ConvNextFeatureExtractor",
    size=7,
    crop_pct=0.875,
    resample=2,
    do_normalize=False,
    do_rescale=False,
  )
  image = _IMAGE.transpose(1, 0, 2) if flip else _IMAGE
  # 7 / .875 = 8 on the shorter side, 8 * 30 / 20 = 12 on the longer one.
  size = (8, 12) if flip else (12, 8)
  picture = np.asarray(Image.fromarray(image).resize(size, Image.BILINEAR))
  expected = picture[2:9, :7] if flip else picture[:7, 2:9]
  np.testing.assert_array_equal(prepare(image), expected.transpose(2, 0, 1))


def test_left_as_it_is(tmp_path):
  prepare = _load(tmp_path, do_resize=False, do_normalize=False)
  expected = np.float32(_IMAGE / 255).transpose(2, 0, 1)
  np.testing.assert_array_equal(prepare(_IMAGE), expected)
  assert pixels.load(tmp_path / "elsewhere") is None


@pytest.mark.parametrize(
  ("settings", "message"),
  [
    ({"image_processor_type": "CLIPImageProcessor"}, "'CLIPImageProcessor' is"),
    ({"do_center_crop": True}, "do_center_crop=True is not implemented"),
    ({"do_pad": True}, "do_pad=True is not implemented"),
    ({"do_invert": True}, "not implemented: do_invert=True."),
    ({"size": {"shortest_edge": 9}}, "'shortest_edge': 9} is not implemented"),
    ({"size": 0}, "size=0 is not implemented"),
    ({"resample": 9}, "resample=9 is no filter"),
    ({"image_std": [0, 1, 1]}, "and no deviation 0"),
    ({"image_mean": [0.5]}, "must be 3 numbers each"),
  ],
)
def test_settings_that_are_refused(tmp_path, settings, message):
  with pytest.raises(ValueError, match=message) as caught:
    _load(tmp_path, **settings)
  assert "preprocessor_config.json" in str(caught.value)


def test_files_and_images_that_are_refused(tmp_path):
  path = tmp_path / "preprocessor_config.json"
  for text, message in (("{", "is not JSON"), ("[]", "must hold an object")):
    path.write_text(text)
    with pytest.raises(ValueError, match=message):
      pixels.load(tmp_path)
  with pytest.raises(TypeError, match="must be uint8, 0..255; got float64"):
    pixels.Preparation()(np.zeros((2, 2, 3)))
  with pytest.raises(ValueError, match=r"must be \[H, W, 3\]; got \(2, 2\)"):
    pixels.Preparation()(np.zeros((2, 2), np.uint8))
