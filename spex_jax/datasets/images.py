"""Images: scikit-learn's digits, any arrays, or one picture from a file.

Shapes: N images of H by W pixels in C channels.
"""

import dataclasses
import os
import pathlib
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from spex_jax import base
from spex_jax.datasets import casts, labels, splits

SAMPLES = ("china", "flower")  # Photographs that come with scikit-learn.
_ORIENTATION = 274  # EXIF's number of it.
_PHOTOMETRIC = 262  # TIFF's number of what 0 stands for: 0 is white.


@dataclasses.dataclass(frozen=True, eq=False)
class Images(base.ByValue):
  """Labelled images.

  Attributes:
    pixels: float32 `[N, C, H, W]`, finite; digits lie in [0, 1].
    labels: int32 `[N]`, the number of each image's class, from 0.
    classes: the names of the classes, by number.
    rows: int64 `[N]`, what number each image had where it came from.
  """

  pixels: np.ndarray
  labels: np.ndarray
  classes: tuple[str, ...]
  rows: np.ndarray

  @property
  def num_examples(self) -> int:
    return len(self.pixels)

  def take(self, rows: np.ndarray) -> "Images":
    """The images of the given rows."""
    return dataclasses.replace(
      self,
      pixels=self.pixels[rows],
      labels=self.labels[rows],
      rows=self.rows[rows],
    )

  def split(
    self, key: base.Key, test_fraction: float
  ) -> tuple["Images", "Images"]:
    """Training and test images; see `splits.split`. `key` is consumed."""
    train, test = splits.split(key, self.num_examples, test_fraction)
    return self.take(train), self.take(test)


def from_arrays(
  pixels: base.Array, classes_of: base.Array, classes: Sequence[str] = ()
) -> Images:
  """Checked images of your own arrays.

  Args:
    pixels: real `[N, C, H, W]`.
    classes_of: integers or texts `[N]`, see `labels.numbered`.
    classes: names of the classes; the distinct labels if empty.

  Raises:
    TypeError: labels that are neither.
    ValueError: another rank, labels that are missing or none of `classes`,
      masked entries, NaN and infinity (naming the first image), or pixels that
      float32 does not tell apart.
  """
  pixels = casts.real(pixels, "Pixels")
  classes_of = casts.unmasked(classes_of, "Labels")
  if pixels.ndim != 4 or 0 in pixels.shape:
    raise ValueError(
      f"Images must be [N, channels, height, width]; got {pixels.shape}."
    )
  if classes_of.shape != pixels.shape[:1]:
    raise ValueError(
      f"Need one label for each of {len(pixels)} images; got shape "
      f"{classes_of.shape}."
    )
  finite = np.isfinite(pixels).all(axis=(1, 2, 3))
  if not finite.all():
    raise ValueError(
      f"{(~finite).sum()} images hold NaN or infinity (first: "
      f"{np.flatnonzero(~finite)[0]})."
    )
  numbers, names = labels.numbered(classes_of, classes, "Labels")
  cast = casts.narrow(pixels.reshape(-1, 1), ("of pixels",))
  return Images(
    cast.reshape(pixels.shape), numbers, names, np.arange(len(pixels))
  )


def digits() -> Images:
  """scikit-learn's 1,797 handwritten digits, 8 x 8 grey, scaled to [0, 1]."""
  from sklearn import datasets  # Slow to import.

  bunch: Any = datasets.load_digits()
  # Grey levels run from 0 to 16.
  return from_arrays(bunch.images[:, None] / 16.0, bunch.target)


class Picture(NamedTuple):
  """One picture.

  Attributes:
    pixels: uint8 `[H, W, 3]`, or pixel values float32 `[C, H, W]`.
    said: what was done to it on the way, in words; "" for nothing.
  """

  pixels: np.ndarray
  said: str = ""


def read(path: str | os.PathLike) -> np.ndarray:
  """The pixels of `picture`."""
  return picture(path).pixels


def picture(path: str | os.PathLike) -> Picture:
  """One picture, as uint8 `[H, W, 3]`, or ready pixel values `[C, H, W]`.

  Args:
    path: a name in `SAMPLES`; a file that Pillow reads (PNG, JPEG, ...); or
      `.npy`, of uint8 `[H, W, 3]` or `[H, W]`, or of floats `[C, H, W]`, which
      are taken as what a network is fed. A file is turned as its EXIF says,
      what is transparent stands on white, and 16-bit grey is scaled to 8 bits.

  Raises:
    FileNotFoundError: no such file.
    ValueError: no picture, one of several frames, one of numbers without a
      scale (32-bit integers, floats), an array of another shape or dtype, or
      NaN.
  """
  if str(path) in SAMPLES:
    from sklearn import datasets  # Slow to import.

    return Picture(np.asarray(datasets.load_sample_image(f"{path}.jpg")))
  path = pathlib.Path(path)
  if not path.is_file():
    raise FileNotFoundError(
      f"{str(path)!r} is no file, nor one of {', '.join(SAMPLES)}."
    )
  if path.suffix == ".npy":
    return Picture(_array(path))
  from PIL import Image  # Slow to import.

  try:
    with Image.open(path) as opened:
      found = _eight_bits(opened)
  except _Unfit as error:
    raise ValueError(f"{path} {error}") from error
  except (
    OSError,
    SyntaxError,  # Pillow's, of a broken PNG.
    ValueError,
    Image.DecompressionBombError,
  ) as error:
    raise ValueError(f"{path} is no picture: {error}.") from error
  return found


class _Unfit(ValueError):
  """A picture that is sound, and cannot be taken as it is."""


def _eight_bits(opened: Any) -> Picture:
  """An open file of Pillow's, as it is looked at."""
  from PIL import Image, ImageOps  # Slow to import.

  # Of these the first is the picture: previews and layers follow.
  whole = opened.format in ("MPO", "PSD")
  frames = getattr(opened, "n_frames", 1)
  if frames > 1 and not whole:
    raise _Unfit(
      f"has {frames} frames or pages; save the one that you mean as a file of "
      "its own."
    )
  said = []
  mode = opened.mode
  # Colours that Pillow cuts to their upper halves.
  cut = any(";16" in str(tile[3]) for tile in getattr(opened, "tile", ()))
  if opened.getexif().get(_ORIENTATION, 1) != 1:
    said.append("turned as its EXIF says")
  turned = ImageOps.exif_transpose(opened)
  if mode.startswith("I;16") or (
    mode == "I" and opened.format in ("PNG", "PPM")  # 16 bits, widened.
  ):
    levels = np.asarray(turned).astype(np.int64)
    tags = getattr(opened, "tag_v2", {})
    if tags.get(_PHOTOMETRIC) == 0:  # Pillow turns 8 bits round, not 16.
      levels = 65535 - levels
    said.append("16 bits scaled to 8")
    turned = Image.fromarray((levels // 257).astype(np.uint8))
  elif mode in ("I", "F"):
    what = "32-bit integers" if mode == "I" else "floats"
    raise _Unfit(
      f"holds {what}, and nothing says which is white. Save it with 8 bits, or "
      "give the values that the model takes as an .npy file, floats [C, H, W]."
    )
  if mode == "LAB":
    raise _Unfit("is in LAB; save it as RGB.")
  if cut and not mode.startswith("I"):
    said.append("16 bits cut to 8")
  if mode == "CMYK":
    said.append("CMYK turned to RGB without its colour profile")
  if turned.has_transparency_data:
    clear = turned.convert("RGBA")
    if np.asarray(clear.getchannel("A")).min() < 255:
      said.append("transparent parts on white")
    ground = Image.new("RGBA", clear.size, "white")
    turned = Image.alpha_composite(ground, clear)
  return Picture(np.asarray(turned.convert("RGB")), ", ".join(said))


def _array(path: pathlib.Path) -> np.ndarray:
  try:
    array = np.load(path, allow_pickle=False)
  except (OSError, ValueError) as error:
    raise ValueError(f"{path} is no array of NumPy's: {error}.") from error
  if array.dtype == np.uint8 and array.ndim == 2:
    array = np.stack([array] * 3, axis=-1)
  if array.dtype == np.uint8 and array.ndim == 3 and array.shape[2] == 3:
    return array
  if array.dtype.kind != "f" or array.ndim != 3 or 0 in array.shape:
    raise ValueError(
      f"{path} must hold uint8 [H, W, 3] or floats [C, H, W]; it holds "
      f"{array.dtype} {array.shape}."
    )
  if not np.isfinite(array).all():
    raise ValueError(f"{path} holds NaN or infinity.")
  try:
    cast = casts.narrow(array.reshape(-1, 1), ("of pixel values",))
  except ValueError as error:
    raise ValueError(f"{path}: {error}") from error
  return cast.reshape(array.shape)
