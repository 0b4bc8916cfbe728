"""Units taken out of parameters, and put back bit for bit.

A `Cut` is one site's part of an edit, brought to the parameters that stand for
its units (`models.removal`). `cut` carries out several and returns what it
took; `restored` puts that back.

Shapes: a kernel of any rank; E entries along some of its axes.
"""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from spex_jax import base
from spex_jax.components import identity
from spex_jax.models import removal, sites


class Cut(NamedTuple):
  """One site's units, and the weights that stand for them.

  Attributes:
    site: the site of the units.
    weights: the place of the units in the parameters.
    removed: bool, True for a removed unit; of the full rank of the activation,
      1 long where broadcast.
    stand_in: float32 values for removed units, of that rank; None for zero.
  """

  site: str
  weights: removal.Weights
  removed: np.ndarray
  stand_in: np.ndarray | None


class Taken(NamedTuple):
  """What was taken from a parameter.

  Attributes:
    path: the path of the parameter.
    axes: the axes of it, along which entries were chosen; none for all of it.
    index: int `[E]` the entries chosen along each of them.
    values: `[E, ...]` its bits there, with the other axes behind.
  """

  path: str
  axes: tuple[int, ...]
  index: tuple[np.ndarray, ...]
  values: np.ndarray


def cuts(
  net: sites.Network,
  removed: Mapping[str, np.ndarray],
  stand_ins: Mapping[str, np.ndarray],
  own: Mapping[str, removal.Weights] | None = None,
) -> tuple[Cut, ...]:
  """The cuts of an edit, in the order of computation.

  Raises:
    ValueError: a site that is not there, or for which no weight stands.
  """
  missing = sorted(removed.keys() - {*net.sites})
  if missing:
    raise ValueError(f"The network has no sites {missing}.")
  return tuple(
    Cut(
      site,
      removal.weights(net, site, own),
      removed[site],
      stand_ins.get(site),
    )
    for site in net.sites
    if site in removed
  )


def cut(params: Any, parts: Sequence[Cut]) -> tuple[Any, tuple[Taken, ...]]:
  """Parameters without these units, and what was taken from them.

  Leaves keep their dtype and sharding; those that nothing is taken from are
  the same objects.

  Raises:
    ValueError: weights that are not there or do not fit the units, or a
      constant that no offset can take up.
  """
  flat = identity.paths(params)
  new, taken = dict(flat), []
  for part in parts:
    kernel, offset = part.weights.kernel, part.weights.offset
    if kernel not in flat:
      raise ValueError(f"{part.site!r}: the parameters have no {kernel!r}.")
    mask = _placed(part, part.removed, np.shape(flat[kernel]))
    if part.stand_in is not None:
      _check_offset(part, flat)
      gained = _gained(part, new[kernel])
    else:
      gained = None
    taken.append(_take(kernel, flat[kernel], mask))
    new[kernel] = _like(new[kernel], _zeroed(new[kernel], mask))
    if offset not in flat:
      continue
    if part.weights.kind == "into":
      if gained is not None:
        taken.append(_take(offset, flat[offset], np.ones((), bool)))
        new[offset] = _like(new[offset], _sum(new[offset], gained))
    elif part.weights.kind == "out" or gained is not None:
      behind = _behind(part, part.removed, np.shape(flat[offset]))
      taken.append(_take(offset, flat[offset], behind))
      if part.weights.kind == "out":
        new[offset] = _like(new[offset], _zeroed(new[offset], behind))
      if gained is not None:
        new[offset] = _like(new[offset], _sum(new[offset], gained))
  return identity.rebuilt(params, new), tuple(taken)


def restored(params: Any, taken: Sequence[Taken]) -> Any:
  """Parameters with what was taken, bit for bit where it was.

  Raises:
    ValueError: a parameter that is not there, or has another dtype or shape.
  """
  flat = dict(identity.paths(params))
  for part in taken:
    leaf = flat.get(part.path)
    if leaf is None:
      raise ValueError(f"The parameters have no {part.path!r}.")
    shape = np.shape(leaf)
    rest = [n for axis, n in enumerate(shape) if axis not in part.axes]
    if (
      part.values.dtype != leaf.dtype
      or part.values.shape[bool(part.axes) :] != tuple(rest)
      or any(
        i.max(initial=0) >= shape[a] for a, i in zip(part.axes, part.index)
      )
    ):
      raise ValueError(
        f"What was taken from {part.path!r} does not fit it: {leaf.dtype} "
        f"{shape}."
      )
    array = np.array(leaf)
    order = (*part.axes, *(a for a in range(array.ndim) if a not in part.axes))
    # A view: what is written there is written to `array`.
    array.transpose(order)[part.index if part.axes else ...] = part.values
    flat[part.path] = _like(leaf, array)
  return identity.rebuilt(params, flat)


def _take(path: str, leaf: base.Array, mask: np.ndarray) -> Taken:
  array = np.asarray(leaf)
  axes = tuple(a for a in range(mask.ndim) if mask.shape[a] > 1)
  if not axes:  # A mask that is 1 long everywhere covers all of it.
    return Taken(path, (), (), array.copy())
  order = (*axes, *(a for a in range(array.ndim) if a not in axes))
  index = np.nonzero(mask.reshape([mask.shape[a] for a in axes]))
  return Taken(path, axes, index, array.transpose(order)[index])


def _placed(part: Cut, units: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
  """Units of an activation along the axes of a kernel, 1 long elsewhere."""
  pairs = dict(part.weights.axes)
  for axis, size in enumerate(units.shape):
    if size > 1 and axis not in pairs:
      raise ValueError(
        f"{part.site!r}: units along axis {axis} of the activation have no "
        "weights of their own; use edits at inference."
      )
    if size > 1 and (pairs[axis] >= len(shape) or shape[pairs[axis]] != size):
      raise ValueError(
        f"{part.site!r}: {size} units along axis {axis} do not fit "
        f"{part.weights.kernel!r} {shape}."
      )
  placed = [1] * len(shape)
  for axis, place in pairs.items():
    if axis < units.ndim:
      placed[place] = units.shape[axis]
  order = sorted((a for a in pairs if a < units.ndim), key=lambda a: pairs[a])
  rest = [a for a in range(units.ndim) if a not in pairs]
  return units.transpose(rest + order).reshape(placed)


def _behind(part: Cut, units: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
  """Units along the axes of an offset, which are those of `axes` in order."""
  kept = [axis for axis, _ in part.weights.axes]
  rest = [a for a in range(units.ndim) if a not in kept]
  sizes = [units.shape[a] for a in kept]
  found = units.transpose(rest + kept).reshape(sizes)
  if len(shape) != len(sizes):
    raise ValueError(
      f"{part.site!r}: {part.weights.offset!r} {shape} does not fit its units."
    )
  return found


def _gained(part: Cut, kernel: base.Array) -> np.ndarray:
  """What the offset behind the kernel gains by the stand-in, in float64."""
  assert part.stand_in is not None
  wide = np.where(part.removed, part.stand_in, 0).astype(np.float64)
  for axis, size in enumerate(wide.shape):
    if size > 1 and axis not in dict(part.weights.axes):
      raise ValueError(
        f"{part.site!r}: what stands in differs along axis {axis}; weights "
        "cannot hold that. Average over it, or use edits at inference."
      )
  if part.weights.kind == "into":
    matrix = np.asarray(kernel).astype(np.float64)
    placed = _placed(part, wide, matrix.shape)
    inner = tuple(place for _, place in part.weights.axes)
    return (placed * matrix).sum(axis=inner)
  sign = -1 if part.weights.kind == "filter" else 1
  sizes = [wide.shape[axis] for axis, _ in part.weights.axes]
  return sign * _behind(part, wide, tuple(sizes))


def _check_offset(part: Cut, flat: Mapping[str, Any]) -> None:
  if part.weights.offset not in flat:
    raise ValueError(
      f"{part.site!r}: no bias behind its weights could take up a constant. "
      "Let zero stand in, or use edits at inference."
    )


def _zeroed(leaf: base.Array, mask: np.ndarray) -> base.Array:
  if isinstance(leaf, jax.Array):
    return jnp.where(mask, jnp.zeros((), leaf.dtype), leaf)
  return np.where(mask, np.zeros((), leaf.dtype), leaf)


def _sum(leaf: base.Array, gained: np.ndarray) -> np.ndarray:
  wide = np.asarray(leaf).astype(np.float64)
  return (wide + gained).astype(leaf.dtype)


def _like(leaf: base.Array, array: base.Array) -> base.Array:
  """`array` where `leaf` is: on its devices, split as it is."""
  if isinstance(leaf, jax.Array):
    return jax.device_put(array, leaf.sharding)
  return np.asarray(array)
