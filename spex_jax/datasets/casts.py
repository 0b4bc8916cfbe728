"""Numbers at the door: what arrays may come in, and what a cast would lose.

Shapes: N examples, F columns, or one axis or more of anything.
"""

import contextlib
from collections.abc import Sequence
from typing import Any

import numpy as np

from spex_jax import base


def unmasked(given: Any, what: str) -> np.ndarray:
  """An array; `base.check_unmasked` refuses one that hides entries."""
  base.check_unmasked(given, what)
  return np.asarray(given)


def real(
  given: Any, what: str, columns: Sequence[str] | None = None
) -> np.ndarray:
  """Real numbers as float64, of any shape.

  Args:
    given: what `np.asarray` takes.
    what: what it is called in messages.
    columns: F names for messages, of `[N, F]`; None for `x0`, `x1`, ...

  Raises:
    ValueError: masked entries, entries that are no real numbers, or integers
      that float64 does not tell apart.
  """
  array = unmasked(given, what)
  if array.dtype.kind == "O":
    with contextlib.suppress(TypeError, ValueError, OverflowError):
      array = np.asarray(array.tolist())  # What it is not is said below.
  if array.dtype.kind not in "biuf" and array.dtype.name != "bfloat16":
    raise ValueError(f"{what} must hold real numbers; got {array.dtype}.")
  wide = array.astype(np.float64)
  long = array.dtype.kind in "iu" and (np.abs(wide) >= 2.0**53).any()
  if long or array.dtype.itemsize > 8:
    raw = array.reshape(-1, array.shape[-1] if array.ndim > 1 else 1)
    names = columns or [
      what if array.ndim < 2 else f"x{i}" for i in range(raw.shape[1])
    ]
    refuse_loss(raw, wide.reshape(raw.shape), names)
  return wide


def narrow(
  values: np.ndarray, columns: Sequence[str], advice: str = ""
) -> np.ndarray:
  """Float32 of float64 `[N, F]`, where no column loses what tells rows apart.

  Args:
    values: finite; centred and scaled already where that may be.
    columns: F names.
    advice: what to do about a column that loses, behind the message.

  Raises:
    ValueError: a column that loses, named; see `lost`.
  """
  limit = np.finfo(np.float32).max
  far = np.argwhere(np.abs(values) > limit)
  if len(far):
    raise ValueError(
      f"Column {columns[far[0][1]]!r} has values beyond float32, {limit:.3g}; "
      "rescale it."
    )
  cast = np.asarray(values, np.float32)
  refuse_loss(values, cast, columns, advice)
  return cast


def refuse_loss(
  values: np.ndarray,
  cast: np.ndarray,
  columns: Sequence[str],
  advice: str = "",
) -> None:
  """Raises ValueError where a cast of `[N, F]` merges values of a column."""
  for place, name in enumerate(columns):
    if gone := lost(values[:, place], cast[:, place]):
      distinct = len(np.unique(values[:, place]))
      raise ValueError(
        f"Column {name!r} has {distinct:,} distinct values, of which "
        f"{cast.dtype} keeps {distinct - gone:,}. "
        + (advice or "Subtract what they share, and clip what lies far off.")
      )


def lost(values: np.ndarray, cast: np.ndarray) -> int:
  """How many distinct values of `[N]` a cast merges; 0 where chance does.

  Of K numbers drawn from a continuum, about K^2 / 2^b merge in a float of b
  bits of fraction (birthdays), neighbours that nothing needs apart: b is 24
  in float32, 53 in float64.
  """
  if values.dtype == np.float64 and np.array_equal(cast, values):
    return 0
  distinct = len(np.unique(values))
  gone = distinct - len(np.unique(cast))
  bits = np.finfo(cast.dtype).nmant + 1
  return gone if gone > distinct**2 / 2**bits else 0
