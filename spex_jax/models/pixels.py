"""Images as a checkpoint's network takes them: its `preprocessor_config.json`.

Resizing, cropping, rescaling and normalising, as the image processors of
transformers do them for ViT and ResNet. A setting that is not implemented is
refused by name.

Shapes: images are uint8 `[H, W, 3]`; pixel values `[C, H', W']`.
"""

import dataclasses
import os
import pathlib
from collections.abc import Mapping
from typing import Any

import numpy as np

from spex_jax.models import reading

# Which function a processor is: "crop" keeps proportions, enlarges and cuts
# out the middle, as ConvNeXt's does below `_WHOLE` pixels.
_PROCESSORS = {
  "ViTImageProcessor": "stretch",
  "ViTFeatureExtractor": "stretch",
  "ViTImageProcessorFast": "stretch",
  "ConvNextImageProcessor": "crop",
  "ConvNextFeatureExtractor": "crop",
  "ConvNextImageProcessorFast": "crop",
}
_WHOLE = 384
# Names of the class, and what does not change the pixels.
_HARMLESS = (
  "image_processor_type", "feature_extractor_type", "processor_class",
  "_valid_processor_keys", "data_format", "input_data_format", "device",
  "return_tensors", "default_to_square", "image_seq_length",
  "disable_grouping", "crop_size",
)  # fmt: skip
_OFF = ("do_center_crop", "do_convert_rgb", "do_pad")


@dataclasses.dataclass(frozen=True)
class Preparation:
  """From an image to pixel values.

  Attributes:
    size: H' and W', or None to leave the image as large as it is.
    enlarged: the shorter side before the middle is cut out; None stretches
      the image to `size`, whatever its proportions.
    resample: Pillow's number of the filter: 0 nearest, 2 bilinear, 3 bicubic.
    factor: the factor of the bytes 0..255.
    mean: of each channel, subtracted after that.
    std: of each channel, what it is divided by then.
  """

  size: tuple[int, int] | None = None
  enlarged: int | None = None
  resample: int = 2
  factor: float = 1 / 255
  mean: tuple[float, ...] = (0.0, 0.0, 0.0)
  std: tuple[float, ...] = (1.0, 1.0, 1.0)

  def __call__(self, image: np.ndarray) -> np.ndarray:
    """Pixel values float32 `[C, H', W']` of a uint8 image `[H, W, 3]`.

    Raises:
      TypeError: no bytes.
      ValueError: another shape.
    """
    image = np.asarray(image)
    if image.dtype != np.uint8:
      raise TypeError(f"An image must be uint8, 0..255; got {image.dtype}.")
    if image.ndim != 3 or image.shape[2] != 3 or 0 in image.shape:
      raise ValueError(f"An image must be [H, W, 3]; got {image.shape}.")
    if self.size is not None:
      image = self._resized(image, self.size)
    values = image.astype(np.float64) * self.factor
    values = (values - np.array(self.mean)) / np.array(self.std)
    return values.transpose(2, 0, 1).astype(np.float32)

  def shown(self, values: np.ndarray) -> np.ndarray:
    """Pixel values `[C, H', W']` as an image to look at: `[H', W', C]`, 0..1.

    The way back, up to rounding and what lies outside 0..255.
    """
    values = np.asarray(values, np.float64).transpose(1, 2, 0)
    bytes_ = (values * np.array(self.std) + np.array(self.mean)) / self.factor
    return np.clip(bytes_ / 255, 0, 1)

  def level(self, grey: float) -> np.ndarray:
    """The pixel values `[3]` of a grey of 0 (black) to 1 (white)."""
    values = (grey * 255 * self.factor - np.array(self.mean)) / np.array(
      self.std
    )
    return values.astype(np.float32)

  def _resized(self, image: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    from PIL import Image  # Slow to import.

    picture = Image.fromarray(image)
    height, width = size
    if self.enlarged is None:
      return np.asarray(picture.resize((width, height), self.resample))
    short, long = sorted(picture.size)
    other = int(self.enlarged * long / short)
    wide = picture.width >= picture.height
    new = (other, self.enlarged) if wide else (self.enlarged, other)
    pixels = np.asarray(picture.resize(new, self.resample))
    top, left = (pixels.shape[0] - height) // 2, (pixels.shape[1] - width) // 2
    return pixels[top : top + height, left : left + width]


def load(directory: str | os.PathLike) -> Preparation | None:
  """The preparation of a checkpoint directory; None where nothing says it.

  Raises:
    ValueError: a file that is no JSON object, or a processor or setting that
      is not implemented, by name.
  """
  path = pathlib.Path(directory) / "preprocessor_config.json"
  if not path.is_file():
    return None
  settings = reading.json_object(path)
  try:
    return _preparation(settings)
  except (KeyError, TypeError, ValueError) as error:
    raise ValueError(f"{path}: {error}") from error


def _preparation(settings: Mapping[str, Any]) -> Preparation:
  left = dict(settings)
  kinds = [
    left.pop(name)
    for name in ("image_processor_type", "feature_extractor_type")
    if name in left
  ]
  # Older files do not say which; a share that is cut off is ConvNeXt's.
  kind = kinds[0] if kinds else None
  kind = kind or (
    "ConvNextImageProcessor" if "crop_pct" in left else "ViTImageProcessor"
  )
  if kind not in _PROCESSORS:
    raise ValueError(
      f"the image processor {kind!r} is not implemented; known are "
      f"{', '.join(_PROCESSORS)}."
    )
  for name in _HARMLESS:
    left.pop(name, None)
  for name in _OFF:
    # An image is RGB here whatever this says; the others change it.
    if left.pop(name, None) and name != "do_convert_rgb":
      raise ValueError(f"the setting {name}=True is not implemented.")
  resize = left.pop("do_resize", True)
  size, share = left.pop("size", 224), left.pop("crop_pct", 224 / 256)
  resample = left.pop("resample", 2)
  rescale, factor = (
    left.pop("do_rescale", True),
    left.pop("rescale_factor", 1 / 255),
  )
  normalize = left.pop("do_normalize", True)
  mean, std = (
    left.pop("image_mean", [0.5] * 3),
    left.pop("image_std", [0.5] * 3),
  )
  if left:
    named = ", ".join(f"{name}={value!r}" for name, value in left.items())
    raise ValueError(f"settings that are not implemented: {named}.")
  if resample not in range(6):
    raise ValueError(f"resample={resample!r} is no filter of Pillow's.")
  if len(mean) != 3 or len(std) != 3 or 0 in std:
    raise ValueError(
      f"image_mean={mean!r} and image_std={std!r} must be 3 numbers each, and "
      "no deviation 0."
    )
  enlarged = None
  if not resize:
    size = None
  elif _PROCESSORS[kind] == "crop":
    edge = size.get("shortest_edge") if isinstance(size, Mapping) else size
    side = _side(edge, size)
    size = (side, side)
    if side < _WHOLE:
      enlarged = int(side / share)
  elif isinstance(size, Mapping):
    size = (_side(size.get("height"), size), _side(size.get("width"), size))
  else:
    size = (_side(size, size), _side(size, size))
  return Preparation(
    size=size,
    enlarged=enlarged,
    resample=resample,
    factor=float(factor) if rescale else 1.0,
    mean=tuple(float(x) for x in mean) if normalize else (0.0,) * 3,
    std=tuple(float(x) for x in std) if normalize else (1.0,) * 3,
  )


def _side(side: Any, size: Any) -> int:
  if not isinstance(side, int) or isinstance(side, bool) or side < 1:
    raise ValueError(f"size={size!r} is not implemented.")
  return side
