"""Labels of any kind: the distinct ones are the classes.

Shapes: N examples, C classes.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np

from spex_jax.datasets import casts

# How files and libraries write that there is no value.
_MISSING = frozenset(
  ("", "?", "na", "n/a", "#n/a", "#na", "<na>", "nan", "-nan", "null", "#null!",
   "none", "nil", "nat")
)  # fmt: skip
_DASHES = frozenset((".", "..", "-", "--", "---", "_"))


def is_missing(cell: Any) -> bool:
  """Whether a cell says that it has no value, in any of the usual ways."""
  return str(cell).strip().lower() in _MISSING


def _is_word(cell: str) -> bool:
  return not cell.isascii() or any(map(str.isalnum, cell))


def refuse_missing(given: Sequence[Any], what: str) -> None:
  """Raises ValueError where labels are missing; names the first row."""
  # A point or a dash among words stands for nothing; plus and minus do not.
  marks = {cell for cell in map(str, set(given)) if not _is_word(cell)}
  none = marks if len(marks) == 1 and not marks - _DASHES else set()
  rows = [
    row
    for row, cell in enumerate(given)
    if is_missing(cell) or str(cell) in none
  ]
  if rows:
    raise ValueError(
      f"row {rows[0]} has no {what!r}: it is {given[rows[0]]!r}"
      + (f", and so are {len(rows) - 1} more" if len(rows) > 1 else "")
      + ". Drop such rows, or name them as a class by another word."
    )


RESPONSE = "ridge regression takes one, --config.model.kind=ridge"


def numbered(
  given: Any, classes: Sequence[str] = (), what: str = "y"
) -> tuple[np.ndarray, tuple[str, ...]]:
  """Labels as int32 `[N]` in 0..C-1, and the C names.

  Args:
    given: `[N]` integers, booleans (0 and 1) or texts.
    classes: names, where integers number them from 0 and texts are among
      them. Without any, the distinct labels are the classes, in ascending
      order: labels 1 and 2, or 0 and 255, are two.
    what: what the labels are called in messages.

  Raises:
    TypeError: other numbers.
    ValueError: masked or missing labels, another rank, labels outside
      `classes`, or names that are not distinct.
  """
  array = casts.unmasked(given, what)
  if array.ndim != 1:
    raise ValueError(f"{what} must be [examples]; got shape {array.shape}.")
  if array.dtype.kind in "OUST":
    refuse_missing(array.tolist(), what)
    array = _plain(array)
  names = tuple(str(name) for name in classes)
  if len(set(names)) != len(names):
    raise ValueError(f"Classes must have distinct names; got {names}.")
  if array.dtype.kind == "b":
    array = array.astype(np.int32)
  if array.dtype.kind in "iu":
    return _whole(array, names, what)
  if array.dtype.kind not in "US":
    raise TypeError(
      f"{what} must hold integers or texts, which are classes; got "
      f"{array.dtype}. Floats are a response: {RESPONSE}."
    )
  texts = [str(label) for label in array.tolist()]
  names = names or tuple(sorted(set(texts)))
  index = {name: number for number, name in enumerate(names)}
  for row, label in enumerate(texts):
    if label not in index:
      raise ValueError(
        f"{what} of row {row} is {label!r}, none of the classes "
        f"{', '.join(names)}."
      )
  return np.array([index[label] for label in texts], np.int32), names


def _whole(
  array: np.ndarray, names: tuple[str, ...], what: str
) -> tuple[np.ndarray, tuple[str, ...]]:
  if not names:
    distinct, numbers = np.unique(array, return_inverse=True)
    return numbers.astype(np.int32), tuple(map(str, distinct.tolist()))
  outside = (array < 0) | (array >= len(names))
  if outside.any():
    row = int(np.flatnonzero(outside)[0])
    raise ValueError(
      f"{what} must lie in 0..{len(names) - 1}, the classes named; "
      f"{outside.sum()} do not (first: {array[row]} at row {row})."
    )
  return array.astype(np.int32), names


def _plain(array: np.ndarray) -> np.ndarray:
  """Objects of one kind as an array of it; of several, as texts."""
  values = array.tolist()
  if all(isinstance(value, int) for value in values):
    return np.asarray(values)
  if all(isinstance(value, float) for value in values):
    return np.asarray(values, np.float64)
  return np.asarray(
    [
      value.decode() if isinstance(value, bytes) else str(value)
      for value in values
    ]
  )
