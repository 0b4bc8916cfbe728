"""Saved edits as they are read: whatever JSON may hold, one clear refusal.

A checksum tells damage by chance, and nothing of what somebody wrote.

Shapes: a site's units have the full rank of its activation, 1 long where
broadcast; U of them in all.
"""

import math
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

_MOST_UNITS = 1 << 30  # Of one site; no activation of a network has as many.


def edit(make: Callable[..., Any], body: Mapping[str, Any]) -> Any:
  """`make(names, removed, stand_ins, model)` of what `Edit.body` gives.

  Raises:
    ValueError: names that are no texts, a site whose shape, units or values
      cannot be, or a model that is not described.
    KeyError, TypeError, AttributeError: entries missing, or of another kind.
  """
  removed, stand_ins = {}, {}
  for site, entry in body["sites"].items():
    where = f"site {site!r}"
    shape = _shape(entry["shape"], where)
    units = np.zeros(math.prod(shape), bool)
    units[_units(entry["units"], len(units), where)] = True
    removed[site] = units.reshape(shape)
    if "values" in entry:
      stand_ins[site] = _values(entry, shape, where)
  names, model = body["names"], body["model"]
  if not _all(names, str):
    raise ValueError("The names of a saved edit must be texts.")
  parts = [model["config"], model["weights"]]
  if not (
    isinstance(model["network"], str)
    and all(isinstance(part, dict) for part in parts)
    and _all([*model["weights"].values()], str)
  ):
    raise ValueError("The model of a saved edit is not described.")
  return make(tuple(names), removed, stand_ins, model)


def _shape(shape: Any, where: str) -> tuple[int, ...]:
  if not (_all(shape, int) and len(shape) <= 32 and all(d > 0 for d in shape)):
    raise ValueError(f"{where}: no shape of an activation: {shape!r:.80}.")
  if math.prod(shape) > _MOST_UNITS:
    raise ValueError(
      f"{where}: {math.prod(shape):,} units; {_MOST_UNITS:,} at most."
    )
  return tuple(shape)


def _units(units: Any, size: int, where: str) -> list[int]:
  if not _all(units, int):
    raise ValueError(f"{where}: units must be whole numbers.")
  outside = [unit for unit in units if not 0 <= unit < size]
  if outside or len(set(units)) < len(units):
    what = f"unit {outside[0]}" if outside else "a unit twice"
    raise ValueError(f"{where}: {what}; it has 0..{size - 1}.")
  return units


def _values(entry: Any, shape: tuple[int, ...], where: str) -> np.ndarray:
  """What stands in; its shape is that of the units, or longer where 1."""
  wide = _shape(entry["values_shape"], where)
  if len(wide) != len(shape) or any(
    unit not in (1, size) for unit, size in zip(shape, wide)
  ):
    raise ValueError(f"{where}: values {wide} do not fit units {shape}.")
  given = entry["values"]
  if not _all(given, (int, float)) or len(given) != math.prod(wide):
    raise ValueError(f"{where}: needs {math.prod(wide):,} numbers as values.")
  with np.errstate(over="ignore"):  # Refused below.
    values = np.asarray([float(value) for value in given], np.float32)
  if not np.isfinite(values).all():
    raise ValueError(f"{where}: values hold NaN or infinity.")
  return values.reshape(wide)


def _all(items: Any, kinds: Any) -> bool:
  """Whether a list holds nothing but these kinds; a boolean is no number."""
  return isinstance(items, list) and all(
    isinstance(item, kinds) and not isinstance(item, bool) for item in items
  )
