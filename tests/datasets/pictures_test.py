"""Pictures of every mode: as they are looked at, or refused by name."""

import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from spex_jax.datasets import images

_RAMP = np.linspace(0, 65535, 240).reshape(12, 20).astype(np.uint16)
_EIGHT = (_RAMP // 257).astype(np.uint8)
_GREY = np.stack([_EIGHT] * 3, axis=-1)


@pytest.mark.parametrize("name", ["a.png", "a.tif", "a.pgm"])
def test_16_bits_are_scaled(tmp_path, name):
  path = tmp_path / name
  if name.endswith("pgm"):
    path.write_bytes(b"P5 20 12 65535\n" + _RAMP.astype(">u2").tobytes())
  else:
    Image.fromarray(_RAMP).save(path)
  found = images.picture(path)
  np.testing.assert_array_equal(found.pixels, _GREY)
  assert found.said == "16 bits scaled to 8"


@pytest.mark.parametrize(
  ("array", "words"),
  [
    (_RAMP.astype(np.int32), "a.tif holds 32-bit integers, and nothing says"),
    ((_RAMP / 65535).astype(np.float32), "a.tif holds floats, and nothing"),
  ],
)
def test_levels_without_a_scale_are_refused(tmp_path, array, words):
  Image.fromarray(array).save(tmp_path / "a.tif")
  with pytest.raises(ValueError, match=words):
    images.read(tmp_path / "a.tif")


@pytest.mark.parametrize("turn", range(2, 9))
@pytest.mark.parametrize("suffix", ["png", "jpg", "tif", "webp"])
def test_exif_turns_are_applied(tmp_path, turn, suffix):
  path = tmp_path / f"a.{suffix}"
  photo = np.zeros((16, 24, 3), np.uint8)
  photo[:8, :8] = 255
  picture = Image.fromarray(photo)
  exif = picture.getexif()
  exif[274] = turn
  options = {"lossless": True} if suffix == "webp" else {}
  picture.save(path, exif=exif, **options)
  # EXIF's orientations: what the camera's first row and column are.
  upright = {
    2: photo[:, ::-1],
    3: photo[::-1, ::-1],
    4: photo[::-1],
    5: photo.transpose(1, 0, 2),
    6: np.rot90(photo, -1),
    7: photo[::-1, ::-1].transpose(1, 0, 2),
    8: np.rot90(photo, 1),
  }[turn]
  found = images.picture(path)
  assert found.said == "turned as its EXIF says"
  assert found.pixels.shape == upright.shape
  np.testing.assert_allclose(found.pixels, upright.astype(float), atol=9)


@pytest.mark.parametrize("suffix", ["gif", "png", "tif", "webp"])
def test_several_frames_are_refused(tmp_path, suffix):
  path = tmp_path / f"a.{suffix}"
  frames = [Image.new("RGB", (4, 4), c) for c in ("red", "green", "blue")]
  frames[0].save(path, save_all=True, append_images=frames[1:])
  with pytest.raises(ValueError, match=f"a.{suffix} has 3 frames or pages"):
    images.read(path)
  frames[0].save(path)
  assert images.read(path).shape == (4, 4, 3)


def test_transparent_parts_stand_on_white(tmp_path):
  path = tmp_path / "a.png"
  pixels = np.zeros((2, 3, 4), np.uint8)
  pixels[0] = [10, 20, 30, 255]  # And below: black that nobody sees.
  Image.fromarray(pixels).save(path)
  found = images.picture(path)
  assert found.said == "transparent parts on white"
  assert (found.pixels[0] == [10, 20, 30]).all()
  assert (found.pixels[1] == 255).all()
  Image.fromarray(pixels[..., [0, 3]]).save(path)  # Grey and alpha.
  assert images.read(path)[1].min() == 255
  palette = Image.new("P", (3, 2))
  palette.putpalette([9, 9, 9, 0, 0, 0])
  palette.putpixel((1, 1), 1)
  palette.save(path, transparency=1)
  found = images.read(path)
  assert found[1, 1].tolist() == [255] * 3 and found[0, 0].tolist() == [9] * 3
  pixels[..., 3] = 255
  Image.fromarray(pixels).save(path)
  found = images.picture(path)
  assert found.said == "" and (found.pixels == pixels[..., :3]).all()


def test_sixteen_bits_where_nought_is_white_and_in_colours(tmp_path):
  path = tmp_path / "a.tif"
  levels = np.linspace(0, 65535, 12).reshape(3, 4).astype(np.uint16)
  Image.fromarray(levels).save(path, tiffinfo={262: 0})
  found = images.picture(path)
  np.testing.assert_array_equal(found.pixels[..., 0], (65535 - levels) // 257)
  path = tmp_path / "a.png"
  path.write_bytes(_png(np.dstack([levels, levels[::-1], levels])))
  found = images.picture(path)
  assert found.said == "16 bits cut to 8"
  np.testing.assert_allclose(found.pixels[..., 1], levels[::-1] / 257, atol=1)


def _png(levels):
  """A PNG of 16-bit colours, which Pillow reads and does not write."""
  height, width, _ = levels.shape
  rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in levels)
  parts = [b"\x89PNG\r\n\x1a\n"]
  head = struct.pack(">IIBBBBB", width, height, 16, 2, 0, 0, 0)
  for kind, data in (
    (b"IHDR", head), (b"IDAT", zlib.compress(rows)), (b"IEND", b""),
  ):  # fmt: skip
    summed = zlib.crc32(kind + data)
    parts.append(struct.pack(">I", len(data)) + kind + data)
    parts.append(struct.pack(">I", summed))
  return b"".join(parts)


def test_other_modes(tmp_path):
  path = tmp_path / "a.tif"
  Image.fromarray(_GREY).convert("CMYK").save(path)
  found = images.picture(path)
  np.testing.assert_array_equal(found.pixels, _GREY)
  assert "CMYK" in found.said
  Image.new("LAB", (3, 2)).save(path)
  with pytest.raises(ValueError, match="a.tif is in LAB; save it as RGB"):
    images.read(path)
  bits = (_EIGHT > 99) * 255
  Image.fromarray(_EIGHT > 99).save(path)
  np.testing.assert_array_equal(images.read(path)[..., 0], bits)
  path = tmp_path / "a.png"
  path.write_bytes(b"\x89PNG\r\n\x1a\n" + bytes(40))
  with pytest.raises(ValueError, match="a.png is no picture"):
    images.read(path)
