"""Images: scikit-learn's digits, any arrays, or one picture from a file.

Shapes: N images of H by W pixels in C channels.
"""

import dataclasses
import os
import pathlib
from collections.abc import Sequence
from typing import Any

import numpy as np

from spex_jax import base
from spex_jax.datasets import splits

SAMPLES = ("china", "flower")  # Photographs that come with scikit-learn.


@dataclasses.dataclass(frozen=True, eq=False)
class Images(base.ByValue):
  """Labelled images.

  Attributes:
    pixels: float32 `[N, C, H, W]`, finite; digits lie in [0, 1].
    labels: int32 `[N]`.
    classes: names of the classes.
  """

  pixels: np.ndarray
  labels: np.ndarray
  classes: tuple[str, ...]

  @property
  def num_examples(self) -> int:
    return len(self.pixels)

  def take(self, rows: np.ndarray) -> "Images":
    """The images of the given rows."""
    return dataclasses.replace(
      self, pixels=self.pixels[rows], labels=self.labels[rows]
    )

  def split(
    self, key: base.Key, test_fraction: float
  ) -> tuple["Images", "Images"]:
    """Training and test images; see `splits.split`. `key` is consumed."""
    train, test = splits.split(key, self.num_examples, test_fraction)
    return self.take(train), self.take(test)


def from_arrays(
  pixels: base.Array, labels: base.Array, classes: Sequence[str] = ()
) -> Images:
  """Checked images of your own arrays.

  Args:
    pixels: real `[N, C, H, W]`.
    labels: integers `[N]`, from 0.
    classes: names of the classes; their numbers if empty.

  Raises:
    ValueError: another rank, labels that are no integers or out of range, or
      NaN and infinity (naming the first image).
  """
  pixels = np.asarray(pixels, np.float32)
  labels = np.asarray(labels)
  if pixels.ndim != 4 or 0 in pixels.shape:
    raise ValueError(
      f"Images must be [N, channels, height, width]; got {pixels.shape}."
    )
  if labels.shape != pixels.shape[:1] or labels.dtype.kind not in "iub":
    raise ValueError(
      f"Need one integer label for each of {len(pixels)} images; got "
      f"{labels.dtype} of shape {labels.shape}."
    )
  finite = np.isfinite(pixels).all(axis=(1, 2, 3))
  if not finite.all():
    raise ValueError(
      f"{(~finite).sum()} images hold NaN or infinity (first: "
      f"{np.flatnonzero(~finite)[0]})."
    )
  top = int(labels.max())
  names = tuple(classes) or tuple(str(c) for c in range(top + 1))
  if labels.min() < 0 or top >= len(names):
    raise ValueError(
      f"Labels must lie in 0..{len(names) - 1}; got {labels.min()} to {top}."
    )
  return Images(pixels=pixels, labels=labels.astype(np.int32), classes=names)


def digits() -> Images:
  """scikit-learn's 1,797 handwritten digits, 8 x 8 grey, scaled to [0, 1]."""
  from sklearn import datasets  # Slow to import.

  bunch: Any = datasets.load_digits()
  # Grey levels run from 0 to 16.
  return from_arrays(bunch.images[:, None] / 16.0, bunch.target)


def read(path: str | os.PathLike) -> np.ndarray:
  """One picture, as uint8 `[H, W, 3]`, or ready pixel values `[C, H, W]`.

  Args:
    path: a name in `SAMPLES`; a file that Pillow reads (PNG, JPEG, ...), whose
      transparency is dropped; or `.npy`, of uint8 `[H, W, 3]` or `[H, W]`, or
      of floats `[C, H, W]`, which are taken as what a network is fed.

  Raises:
    FileNotFoundError: no such file.
    ValueError: no picture, an array of another shape or dtype, or NaN.
  """
  if str(path) in SAMPLES:
    from sklearn import datasets  # Slow to import.

    return np.asarray(datasets.load_sample_image(f"{path}.jpg"))
  path = pathlib.Path(path)
  if not path.is_file():
    raise FileNotFoundError(
      f"{str(path)!r} is no file, nor one of {', '.join(SAMPLES)}."
    )
  if path.suffix == ".npy":
    return _array(path)
  from PIL import Image  # Slow to import.

  try:
    with Image.open(path) as picture:
      return np.asarray(picture.convert("RGB"))
  except (OSError, Image.DecompressionBombError) as error:
    raise ValueError(f"{path} is no picture: {error}.") from error


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
  return array.astype(np.float32)
