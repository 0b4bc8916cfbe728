"""Features as players: which entries of an input each player owns.

Shapes: n players; an input has any shape `[...]`.
"""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from spex_jax import base


@dataclasses.dataclass(frozen=True, eq=False)
class Players(base.ByValue):
  """A partition of (part of) an input among named players.

  Attributes:
    names: the names of the n players, distinct.
    owner: int32 `[...]`, of the shape of the input: the player that owns each
      entry, or n for an entry that nobody owns and that is always kept.
  """

  names: tuple[str, ...]
  owner: np.ndarray

  def __post_init__(self):
    n = len(self.names)
    if len(set(self.names)) != n:
      raise ValueError("Player names must be distinct.")
    if self.owner.dtype.kind not in "iu":
      raise TypeError(f"Owners must be integers; got {self.owner.dtype}.")
    present = set(np.unique(self.owner).tolist())
    if present - set(range(n + 1)):
      raise ValueError(f"Owners must lie in 0..{n}; got {sorted(present)}.")
    idle = [self.names[i] for i in range(n) if i not in present]
    if idle:
      raise ValueError(f"These players own nothing: {', '.join(idle)}.")

  @property
  def n(self) -> int:
    return len(self.names)

  def kept(self, mask: base.Array) -> jax.Array:
    """Which entries of the input are kept: bool `[...]`. Unbatched.

    Args:
      mask: bool `[n]`, True for players that are kept.

    Raises:
      ValueError: a mask of other players.
    """
    if np.shape(mask) != (self.n,):
      raise ValueError(
        f"One mask of these players is [{self.n}]; got {np.shape(mask)}."
      )
    return jnp.append(jnp.asarray(mask, bool), True)[self.owner]

  def apply(
    self, mask: base.Array, x: base.Array, baseline: base.Array
  ) -> jax.Array:
    """The input with absent players replaced. Unbatched over masks.

    Args:
      mask: bool `[n]`, True for players that are kept.
      x: `[...]`, of the shape of `owner`.
      baseline: `[...]`, or `[R, ...]` for R stand-ins at once.

    Returns:
      `x` where kept and `baseline` elsewhere, of the shape of `baseline`.

    Raises:
      ValueError: a mask of other players, or an input or a baseline of another
        shape.
    """
    if np.shape(x) != self.owner.shape:
      raise ValueError(
        f"The input has shape {np.shape(x)}; these players own an input of "
        f"shape {self.owner.shape}."
      )
    if np.shape(baseline)[-np.ndim(x) or None :] != np.shape(x):
      raise ValueError(
        f"A baseline must be {np.shape(x)}, or a stack of such; got "
        f"{np.shape(baseline)}."
      )
    kept = self.kept(mask)
    extra = (1,) * (np.ndim(baseline) - np.ndim(x))
    return jnp.where(
      kept.reshape(extra + kept.shape),
      jnp.asarray(x).reshape(extra + np.shape(x)),
      jnp.asarray(baseline),
    )


def game(
  read: Callable[[jax.Array, Any], jax.Array],
  players: Players,
  x: base.Array,
  baseline: base.Array,
  params: Any,
  *,
  absent: str,
  units: str = "",
) -> base.Game:
  """Players that own entries of an input, which are mixed with a baseline.

  Args:
    read: a batch of inputs `[R, ...]` and `params` to values `[R]` or
      `[R, T]`, which are averaged, as over stand-ins.
    players: owners of the entries; what nobody owns is always kept.
    x: floating `[...]`, the input.
    baseline: `[...]`, or `[R, ...]` for R stand-ins. One that depends on the
      mask, such as inpainting or a conditional sampler, has no line to it.
    params: whatever `read` takes, such as parameters.
    absent: what the baseline is, in words.
    units: the units of the values.

  Raises:
    ValueError: shapes that do not fit.
    TypeError: an input of integers.
  """
  x, baseline = jnp.asarray(x), jnp.asarray(baseline)
  if not jnp.issubdtype(x.dtype, jnp.floating):
    raise TypeError(f"An input must be floating to be mixed; got {x.dtype}.")
  if x.shape != players.owner.shape or baseline.shape[-x.ndim :] != x.shape:
    raise ValueError(
      f"Players own an input of shape {players.owner.shape}; got an input "
      f"{x.shape} and a baseline {baseline.shape}."
    )
  stand_ins = baseline.reshape(-1, *x.shape)

  def value(strengths, shared):
    params, x, stand_ins = shared
    share = jnp.append(strengths, 1.0)[players.owner][None]
    mixed = share * x[None] + (1 - share) * stand_ins
    return read(mixed, params).mean(axis=0)

  shared = (params, x, stand_ins)
  return base.Game(value, players.names, units, shared, absent)


def columns(
  names: Sequence[str], groups: Mapping[str, Sequence[str]] | None = None
) -> Players:
  """The columns of a table, each a player, or named groups of them.

  Args:
    names: the names of the columns, in order.
    groups: player to its columns; columns in no group are always kept.

  Raises:
    ValueError: a group that names an unknown column, or one that another
      group has already, or columns of one name.
  """
  if groups is None:
    return Players(tuple(names), np.arange(len(names), dtype=np.int32))
  owner = np.full(len(names), len(groups), np.int32)
  index = {name: i for i, name in enumerate(names)}
  if len(index) != len(names):
    twice = next(name for i, name in enumerate(names) if index[name] != i)
    raise ValueError(f"Two columns are named {twice!r}.")
  for player, (group, members) in enumerate(groups.items()):
    for member in members:
      if member not in index:
        raise ValueError(f"Group {group!r} names no column {member!r}.")
      if owner[index[member]] != len(groups):
        raise ValueError(f"Column {member!r} is in two groups.")
      owner[index[member]] = player
  return Players(tuple(groups), owner)


def grid(shape: tuple[int, int, int], rows: int, cols: int) -> Players:
  """A grid of rectangles over an image, as equal as they can be.

  Players are named `r0c0`, `r0c1`, ...: row and column of the rectangle.

  Args:
    shape: `(C, H, W)` of the image.
    rows: rectangles from top to bottom, at most H.
    cols: rectangles from left to right, at most W.

  Raises:
    TypeError: a number that is no integer.
    ValueError: no image, or rows and columns outside 1..H and 1..W.
  """
  _, height, width = _check_image(shape)
  rows = base.check_integer(rows, "The number of rows")
  cols = base.check_integer(cols, "The number of columns")
  if not (1 <= rows <= height and 1 <= cols <= width):
    raise ValueError(
      f"An image of {height} by {width} pixels has 1..{height} rows and "
      f"1..{width} columns; got {rows} and {cols}."
    )
  return _rectangles(
    shape, np.arange(height) * rows // height, np.arange(width) * cols // width
  )


def patches(shape: tuple[int, int, int], size: int) -> Players:
  """A grid of square patches over an image, all channels together.

  Players are named `r0c0`, `r0c1`, ...: row and column of the patch.

  Args:
    shape: `(C, H, W)` of the image.
    size: side of a patch in pixels; patches at the right and lower edge are
      smaller where it does not divide.

  Raises:
    TypeError: a size that is no integer.
    ValueError: no image, or a size outside 1..max(H, W).
  """
  _, height, width = _check_image(shape)
  size = base.check_integer(size, "A patch side")
  if not 1 <= size <= max(height, width):
    raise ValueError(
      f"A patch side must lie in 1..{max(height, width)}; got {size}."
    )
  return _rectangles(shape, np.arange(height) // size, np.arange(width) // size)


def _check_image(shape: tuple[int, ...]) -> tuple[int, ...]:
  if len(shape) != 3:
    raise ValueError(f"An image has shape (C, H, W); got {tuple(shape)}.")
  return shape


def _rectangles(
  shape: tuple[int, int, int], row: np.ndarray, col: np.ndarray
) -> Players:
  """Players by the row `[H]` and the column `[W]` of each pixel."""
  rows, cols = int(row[-1]) + 1, int(col[-1]) + 1
  names = tuple(f"r{r}c{c}" for r in range(rows) for c in range(cols))
  owner = row[:, None] * cols + col
  return Players(names, np.broadcast_to(owner, shape).astype(np.int32))
