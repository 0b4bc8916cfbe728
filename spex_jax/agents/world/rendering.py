"""Scenes to pixels, the same bytes everywhere: whole numbers alone.

A picture is `UNITS` wide and high whatever its pixels: a pixel is of a shape
where its middle is. Nothing is smoothed, so that a thing's pixels are its mask.

Shapes: pictures uint8 `[S, S, 3]`, masks bool `[T, S, S]`, of S pixels a side
and T things.
"""

import functools
from typing import NamedTuple

import numpy as np

from spex_jax.agents.world import scenes

UNITS = 12288  # Of a picture's side: three cells of 4,096.
SMALLEST = 32  # Pixels a side.
_LARGEST = 1024
_CELL = UNITS // scenes.GRID
_BOX = 1024  # Half the side of a thing's box, as parts are written.
_BANDS = 5  # Of a texture, across a thing.
_GRAIN = 256  # Units of a background's grain: 48 a side.
# The ground, and the grain on it.
_GROUNDS: dict[str, tuple[tuple[int, int, int], tuple[int, int, int]]] = {
  "plain": ((200, 200, 200), (200, 200, 200)),
  "grass": ((106, 168, 79), (84, 140, 60)),
  "sky": ((150, 200, 240), (225, 238, 248)),
  "sand": ((225, 205, 155), (205, 180, 125)),
  "water": ((60, 130, 160), (85, 160, 185)),
  "snow": ((236, 240, 246), (214, 224, 238)),
  "brick": ((165, 85, 70), (210, 195, 180)),
  "night": ((28, 28, 60), (200, 200, 150)),
}


def render(scene: scenes.Scene, size: int = 64) -> np.ndarray:
  """The picture.

  Args:
    scene: the things and the background that are drawn.
    size: S, from 32 to 1,024; from 48 on it can be read back (`seeing`).

  Returns:
    uint8 `[S, S, 3]`, of the caller's own.

  Raises:
    ValueError: another size.
  """
  picture = ground(scene.background, size).copy()
  for thing in scene.things:
    patch = painted(thing, size)
    view = picture[patch.rows, patch.columns]
    view[patch.mask] = patch.pixels[patch.mask]
  return picture


def masks(scene: scenes.Scene, size: int = 64) -> np.ndarray:
  """Which pixels each thing has: bool `[T, S, S]`; raises as `render`."""
  _check(size)
  found = np.zeros((len(scene.things), size, size), bool)
  for mask, thing in zip(found, scene.things):
    patch = painted(thing, size)
    mask[patch.rows, patch.columns] = patch.mask
  return found


def areas(scene: scenes.Scene, size: int = 64) -> np.ndarray:
  """Each thing's share of the pixels: float64 `[T]`; raises as `render`."""
  _check(size)
  counts = [painted(thing, size).mask.sum() for thing in scene.things]
  return np.array(counts, float) / size**2


class Patch(NamedTuple):
  """A thing within its cell.

  Attributes:
    rows: of the cell's pixels, h of them.
    columns: a slice of the cell's pixels, likewise, w of them.
    mask: bool `[h, w]`, the thing's own.
    pixels: uint8 `[h, w, 3]`, right where `mask` holds.
  """

  rows: slice
  columns: slice
  mask: np.ndarray
  pixels: np.ndarray


@functools.lru_cache(maxsize=1 << 15)
def painted(thing: scenes.Thing, size: int) -> Patch:
  """A thing in its cell; not to be written to."""
  rows, columns = _cell(thing.row, size), _cell(thing.column, size)
  middle = lambda place: place * _CELL + _CELL // 2
  y = _middles(size)[rows, None] - middle(thing.row)
  x = _middles(size)[None, columns] - middle(thing.column)
  radius = scenes.SIZES[thing.size]
  # Of the box, from -1,024 to 1,024.
  x, y = x * _BOX // radius, y * _BOX // radius
  mask = np.zeros(np.broadcast_shapes(x.shape, y.shape), bool)
  pixels = np.zeros((*mask.shape, 3), np.uint8)
  parts = scenes.OBJECTS.get(
    thing.shape, ((thing.shape, None, 0, 0, _BOX, _BOX),)
  )
  for shape, ink, left, top, wide, high in parts:
    inside = _inside(shape, (x - left) * _BOX // wide, (y - top) * _BOX // high)
    mask |= inside
    if ink is not None:
      pixels[inside] = scenes.INKS[ink]
      continue
    own = scenes.COLOURS[thing.colour]
    pixels[inside] = own
    pixels[inside & _off(thing.texture, x, y)] = shaded(own)
  mask.setflags(write=False)
  pixels.setflags(write=False)
  return Patch(rows, columns, mask, pixels)


def shaded(colour: tuple[int, int, int]) -> tuple[int, ...]:
  """What a texture puts between: darker, or lighter where it is dark."""
  dark = sum(colour) < 240
  return tuple((c + 200) // 2 if dark else c // 2 for c in colour)


@functools.lru_cache(maxsize=64)
def ground(background: str, size: int) -> np.ndarray:
  """A picture of a background alone; not to be written to."""
  _check(size)
  at = _middles(size) // _GRAIN
  i, j = at[:, None], at[None, :]
  # A grain of noise: two primes, and bits from the middle.
  noise = ((i * 73856093 ^ j * 19349663) * 2654435761 >> 13) % 97
  grain = {
    "grass": noise % 3 == 0,
    "sky": ((i * 2 + j) // 9 + i // 5) % 4 == 0,
    "sand": noise % 5 == 0,
    "water": (j + (i // 2 % 2) * 3) // 3 % 2 == 0,
    "snow": noise % 7 == 0,
    "brick": (i % 6 == 0) | ((j + i // 6 % 2 * 6) % 12 == 0),
    "night": noise % 16 == 0,
  }.get(background, np.zeros((size, size), bool))
  base, other = _GROUNDS[background]
  picture = np.where(grain[..., None], other, base).astype(np.uint8)
  picture.setflags(write=False)
  return picture


def _check(size: int) -> None:
  if not isinstance(size, int) or not SMALLEST <= size <= _LARGEST:
    raise ValueError(f"size={size!r}: from {SMALLEST} to {_LARGEST} pixels.")


@functools.lru_cache(maxsize=64)
def _middles(size: int) -> np.ndarray:
  """Of the pixels of a row, in units: int64 `[S]`."""
  return (2 * np.arange(size, dtype=np.int64) + 1) * UNITS // (2 * size)


@functools.lru_cache(maxsize=256)
def _cell(place: int, size: int) -> slice:
  """The pixels whose middles are in a row or column of cells."""
  low, high = np.searchsorted(
    _middles(size), [place * _CELL, (place + 1) * _CELL]
  )
  return slice(int(low), int(high))


def _inside(shape: str, u: np.ndarray, v: np.ndarray) -> np.ndarray:
  """Whether places in a shape's box, int `[1, w]` and `[h, 1]`, are in it."""
  across, along = abs(u), abs(v)
  box = (across <= _BOX) & (along <= _BOX)
  if shape == "square":
    return box
  if shape == "circle":
    return u * u + v * v <= _BOX**2
  if shape == "ring":
    return (u * u + v * v <= _BOX**2) & (u * u + v * v >= (_BOX * 5 // 8) ** 2)
  if shape == "diamond":
    return across + along <= _BOX
  if shape == "cross":
    return box & ((across * 3 <= _BOX) | (along * 3 <= _BOX))
  if shape == "triangle":
    return box & (2 * across <= v + _BOX)
  if shape == "star":  # Two triangles, one on its head.
    up = (3 * across <= 2 * v + 2 * _BOX) & (2 * v <= _BOX)
    down = (3 * across <= 2 * _BOX - 2 * v) & (2 * v >= -_BOX)
    return box & (up | down)
  moon = (u - _BOX // 2) ** 2 + v * v > (_BOX * 3 // 4) ** 2
  return (u * u + v * v <= _BOX**2) & moon


def _off(texture: str, x: np.ndarray, y: np.ndarray) -> np.ndarray:
  """Where a texture is shaded, by bands of a thing's box."""
  i, j = (y + _BOX) * _BANDS // (2 * _BOX), (x + _BOX) * _BANDS // (2 * _BOX)
  if texture == "striped":
    return (i + 0 * j) % 2 == 1
  if texture == "checked":
    return (i + j) % 2 == 1
  if texture == "dotted":
    return (i % 2 == 1) & (j % 2 == 1)
  return np.zeros(np.broadcast_shapes(x.shape, y.shape), bool)
