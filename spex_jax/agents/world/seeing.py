"""Pictures back to scenes: `see(render(scene))` has what the scene has.

Exact, by comparison with what the world draws, cell by cell; a picture that it
did not draw is refused. So what a describer says of a picture comes from its
pixels alone.
"""

import functools
import itertools

import numpy as np

from spex_jax.agents.world import rendering, scenes

SMALLEST = 48  # Pixels a side; of fewer, things look alike.


def check(picture: np.ndarray) -> np.ndarray:
  """A picture as it must be.

  Raises:
    ValueError: anything but uint8 `[H, W, 3]`.
  """
  given = np.asarray(picture)
  if given.dtype != np.uint8 or given.ndim != 3 or given.shape[2] != 3:
    raise ValueError(
      f"A picture is uint8 [H, W, 3]; got {given.dtype} {list(given.shape)}."
    )
  if 0 in given.shape:
    raise ValueError(f"A picture of no pixels: {list(given.shape)}.")
  return given


def is_blank(picture: np.ndarray) -> bool:
  """Whether all pixels are the same; raises as `check`."""
  given = check(picture)
  return bool((given == given[0, 0]).all())


def see(picture: np.ndarray) -> scenes.Scene:
  """What is on a picture of this world.

  Args:
    picture: uint8 `[S, S, 3]`, of 48 pixels a side or more.

  Returns:
    the scene, its things row by row.

  Raises:
    ValueError: no picture, or none that this version of the world draws.
  """
  given = check(picture)
  size = len(given)
  if given.shape[1] != size or size < SMALLEST:
    raise ValueError(
      f"A picture of {list(given.shape[:2])} pixels cannot be read: it takes a "
      f"square of {SMALLEST} or more."
    )
  return _seen(given.tobytes(), size)


@functools.lru_cache(maxsize=1 << 13)
def _seen(data: bytes, size: int) -> scenes.Scene:
  picture = np.frombuffer(data, np.uint8).reshape(size, size, 3)
  # No thing reaches the first row.
  found = [
    name
    for name in scenes.BACKGROUNDS
    if (picture[0] == rendering.ground(name, size)[0]).all()
  ]
  if not found:
    raise ValueError(
      "The picture has no background of this world: it can read what "
      f"version {scenes.VERSION} drew."
    )
  (background,) = found
  other = (picture != rendering.ground(background, size)).any(-1)
  things = []
  for row, column in itertools.product(range(scenes.GRID), repeat=2):
    places = _places(row, column, size)
    if not (mask := other[places]).any():
      continue
    crop = picture[places]
    looks = [
      thing
      for form in _forms(row, column, size).get(mask.tobytes(), ())
      for thing in _looks(crop, mask, row, column, size, *form)
    ]
    where = f"at row {row}, column {column}"
    if not looks:
      raise ValueError(f"Nothing of this world looks like what is {where}.")
    if len(looks) > 1:
      raise ValueError(f"What is {where} may be {looks[0]} or {looks[1]}.")
    things.append(looks[0])
  return scenes.Scene(tuple(things), background)


def _places(row: int, column: int, size: int) -> tuple[slice, slice]:
  patch = rendering.painted(
    scenes.Thing("circle", "red", row=row, column=column), size
  )
  return patch.rows, patch.columns


@functools.lru_cache(maxsize=64)
def _forms(
  row: int, column: int, size: int
) -> dict[bytes, list[tuple[str, str]]]:
  """Mask to the shapes, with their sizes, that have it in a cell."""
  found: dict[bytes, list[tuple[str, str]]] = {}
  for shape, large in itertools.product(
    scenes.ATTRIBUTES["shape"], scenes.SIZES
  ):
    thing = scenes.Thing(shape, "red", large, row=row, column=column)
    mask = rendering.painted(thing, size).mask.tobytes()
    found.setdefault(mask, []).append((shape, large))
  return found


def _looks(
  crop: np.ndarray,
  mask: np.ndarray,
  row: int,
  column: int,
  size: int,
  shape: str,
  large: str,
) -> list[scenes.Thing]:
  """The things of a shape and size that have a cell's pixels, of any colour."""
  found = []
  for texture in scenes.TEXTURES:
    spot = _spot(row, column, size, shape, large, texture)
    colour = _NAMED.get(tuple(crop[spot].tolist()))
    if colour is None:
      continue
    thing = scenes.Thing(shape, colour, large, texture, row, column)
    patch = rendering.painted(thing, size)
    if (patch.pixels[mask] == crop[mask]).all():
      found.append(thing)
  return found


@functools.lru_cache(maxsize=1 << 13)
def _spot(
  row: int, column: int, size: int, shape: str, large: str, texture: str
) -> tuple[int, int]:
  """A pixel of a cell that has the thing's own colour, unshaded."""
  thing = scenes.Thing(shape, "red", large, texture, row, column)
  own = rendering.painted(thing, size).pixels == scenes.COLOURS["red"]
  i, j = np.argwhere(own.all(-1))[0]
  return int(i), int(j)


_NAMED = {colour: name for name, colour in scenes.COLOURS.items()}
