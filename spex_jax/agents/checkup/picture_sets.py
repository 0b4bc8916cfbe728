"""Pictures to learn from, and to be asked about: made, or from a folder.

Shapes: N pictures uint8 `[N, 3, S, S]`; all are made from a seed.
"""

import dataclasses
import pathlib
from typing import Any, NamedTuple

import numpy as np

from spex_jax import base
from spex_jax.agents.world import rendering, scenes
from spex_jax.datasets import images

_COVERED = 4.0  # Areas of leaves in a picture, in areas of the picture.
_STEEP = 3.0  # Of the law of sizes: Lee, Mumford and Huang (2001).
_LEAST, _MOST = 1 / 16, 1 / 3  # Half a leaf's side, in parts of the picture's.
_PIECES = 3  # Of clutter behind a digit.
_APART = 0.35  # Of brightness, between a digit and what lies behind it.
_FINE = 4  # Times finer a digit is drawn, before it is scaled down.
_FILES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif", ".tif", ".tiff")


class Labelled(NamedTuple):
  """Pictures and their classes.

  Attributes:
    pictures: uint8 `[N, 3, S, S]`.
    labels: int `[N]`, from 0.
    classes: the names of the classes, by number.
    left_out: file to why, of a folder.
  """

  pictures: np.ndarray
  labels: np.ndarray
  classes: tuple[str, ...]
  left_out: dict[str, str]


def drawings(rng: np.random.Generator, count: int, size: int) -> np.ndarray:
  """Scenes of the world, of one to four things, uint8 `[N, 3, S, S]`.

  Half of them on a plain ground. Looked at from near or far: a window of a
  third of the picture's side, up to all of it, somewhere about a thing. Red,
  green and blue change places, and half are negatives: the world has few
  colours.
  """
  from PIL import Image  # Slow to import.

  found = []
  for number, scene in enumerate(some_scenes(rng, count)):
    if number % 4 < 2:
      scene = dataclasses.replace(scene, background="plain")
    pixels = rendering.render(scene, 3 * size)[..., rng.permutation(3)]
    if rng.random() < 0.5:
      pixels = 255 - pixels
    picture, thing = Image.fromarray(pixels), scene.things[0]
    side = int(rng.integers(size, 3 * size + 1))
    aim = (np.array([thing.column, thing.row]) + rng.random(2)) * size
    left, top = np.clip(aim - side / 2, 0, 3 * size - side).round().tolist()
    box = (left, top, left + side, top + side)
    seen = picture.resize((size, size), Image.Resampling.BOX, box=box)
    found.append(np.asarray(seen))
  return np.stack(found).transpose(0, 3, 1, 2)


def some_scenes(rng: np.random.Generator, count: int) -> list[scenes.Scene]:
  """Half of them have one thing, the others two to four."""
  bounds = ((2, 4), (1, 1))
  return [scenes.draw(rng, *bounds[i % 2]) for i in range(count)]


def dead_leaves(rng: np.random.Generator, count: int, size: int) -> np.ndarray:
  """Discs and turned squares that lie on each other, uint8 `[N, 3, S, S]`.

  Sizes follow a power law, colours and places are even: the statistics of
  edges in photographs, and nothing that has a name. After Baradad et al.,
  arXiv:2106.05963 (their "dead leaves, shapes"), without textures.
  """
  return np.stack([_leaves(rng, size) for _ in range(count)])


def _leaves(rng, size) -> np.ndarray:
  from PIL import Image, ImageDraw  # Slow to import.

  # By the inverse of the distribution of sizes, from the least to the most.
  power, least, most = 1 - _STEEP, size * _LEAST, size * _MOST
  mean = 2 * least**2 * np.log(most / least)  # Of r^2, nearly.
  count = int(_COVERED * size**2 / (3 * mean))
  u = rng.random(count)
  radii = (least**power + u * (most**power - least**power)) ** (1 / power)
  middles = rng.uniform(-most / 2, size + most / 2, (count, 2))
  turns = rng.uniform(0, np.pi / 2, (count, 1)) + np.arange(4) * np.pi / 2
  corners = np.stack([np.cos(turns), np.sin(turns)], axis=2)
  corners = middles[:, None] + radii[:, None, None] * corners
  colours = rng.integers(0, 256, (count + 1, 3)).tolist()
  picture = Image.new("RGB", (size, size), tuple(colours[-1]))
  draw = ImageDraw.Draw(picture)
  for row, round_ in enumerate(rng.random(count) < 0.5):
    (x, y), r, colour = middles[row].tolist(), float(radii[row]), colours[row]
    if round_:
      draw.ellipse([x - r, y - r, x + r, y + r], fill=tuple(colour))
    else:
      draw.polygon(corners[row].ravel().tolist(), fill=tuple(colour))
  return np.asarray(picture).transpose(2, 0, 1)


def coloured_digits(
  rng: np.random.Generator, digits: images.Images, size: int
) -> np.ndarray:
  """Handwritten digits within pictures, uint8 `[N, 3, S, S]`.

  Each of 8 x 8 pixels is a soft mask, 9 to 15 sixteenths of the picture high,
  at a random place, of a random colour; on a ground of another, at least
  `_APART` brighter or darker, with three discs and lines of clutter nearer to
  the ground than the digit. Raw pixels and the features of an untrained
  network follow colour and place; the digit is in neither.
  """
  return np.stack([_digit(rng, mask, size) for mask in digits.pixels[:, 0]])


def _digit(rng, mask, size) -> np.ndarray:
  from PIL import Image, ImageDraw  # Slow to import.

  ground, ink = _two_colours(rng)
  fine = size * _FINE
  picture = Image.new("RGB", (fine, fine), _bytes(ground))
  draw = ImageDraw.Draw(picture)
  for _ in range(_PIECES):
    shade = _bytes(ground + 0.4 * (rng.random(3) - 0.5))
    x, y, u, v = rng.uniform(0, fine, 4)
    r = rng.uniform(0.05, 0.15) * fine
    if rng.random() < 0.5:
      draw.ellipse([x - r, y - r, x + r, y + r], fill=shade)
    else:
      draw.line([x, y, u, v], fill=shade, width=int(r / 2))
  side = round(rng.uniform(9, 15) / 16 * fine)
  grey = Image.fromarray((mask * 255).astype(np.uint8))
  grey = grey.resize((side, side), Image.Resampling.BICUBIC)
  x, y = map(int, rng.integers(0, fine - side + 1, 2))
  picture.paste(Image.new("RGB", (side, side), _bytes(ink)), (x, y), grey)
  small = picture.resize((size, size), Image.Resampling.BOX)
  return np.asarray(small).transpose(2, 0, 1)


def _two_colours(rng) -> tuple[np.ndarray, np.ndarray]:
  """Two colours of different brightness."""
  weights = np.array([0.299, 0.587, 0.114])
  while True:
    first, second = rng.random((2, 3))
    if abs(weights @ (first - second)) > _APART:
      return first, second


def _bytes(colour: np.ndarray) -> Any:
  return tuple(int(v) for v in (np.clip(colour, 0, 1) * 255).round())


def grey_digits(digits: images.Images, size: int) -> np.ndarray:
  """Handwritten digits as they are, scaled up, uint8 `[N, 3, S, S]`."""
  from PIL import Image  # Slow to import.

  found = []
  for mask in digits.pixels[:, 0]:
    grey = Image.fromarray((mask * 255).astype(np.uint8))
    grey = grey.resize((size, size), Image.Resampling.BICUBIC)
    found.append(np.asarray(grey))
  return np.repeat(np.stack(found)[:, None], 3, axis=1)


def folder(path: str | pathlib.Path, size: int) -> Labelled:
  """The pictures of a folder, whose folders are classes; scaled and cut.

  The middle square of each; files that cannot be read, and pictures of one
  colour, which teach nothing, are left out, and told.

  Args:
    path: of a folder of folders, or of files: those are one class, "".
    size: S, the side in pixels that pictures are scaled to.

  Raises:
    FileNotFoundError: no such folder.
    ValueError: no picture in it, or none that can be used.
  """
  path = pathlib.Path(path)
  if not path.is_dir():
    raise FileNotFoundError(f"{path}: no such folder of pictures.")
  files = sorted(
    p for p in path.rglob("*") if p.suffix.lower() in _FILES and p.is_file()
  )
  if not files:
    raise ValueError(
      f"{path} has no picture: a folder for each class, with files "
      f"{', '.join(_FILES)}, is needed."
    )
  found, names, left_out = [], [], {}
  for file in files:
    try:
      square = _square(images.read(file), size)
    except ValueError as error:
      left_out[str(file)] = str(error)[:200]
      continue
    if np.ptp(square.reshape(3, -1), axis=1).max() == 0:
      left_out[str(file)] = "blank: one colour alone"
      continue
    found.append(square)
    names.append("/".join(file.relative_to(path).parts[:-1]))
  if not found:
    first, why = next(iter(left_out.items()))
    raise ValueError(
      f"{path}: none of {len(files)} pictures can be used ({first}: {why})."
    )
  classes = tuple(sorted(set(names)))
  labels = np.array([classes.index(name) for name in names])
  return Labelled(np.stack(found), labels, classes, left_out)


def _square(pixels: base.Array, size: int) -> np.ndarray:
  from PIL import Image  # Slow to import.

  picture = Image.fromarray(np.asarray(pixels))
  side = min(picture.size)
  left, top = ((length - side) // 2 for length in picture.size)
  picture = picture.crop((left, top, left + side, top + side))
  picture = picture.resize((size, size), Image.Resampling.BILINEAR)
  return np.asarray(picture).transpose(2, 0, 1)
