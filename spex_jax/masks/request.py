"""What may be asked: arguments of the public functions, checked by name."""

import numbers
import operator
from collections.abc import Sequence
from typing import Any

import jax

from spex_jax import base

DRAWN = ("SV", "BV")  # Indices of players alone, that masks are drawn for.


def whole(name: str, value: Any, least: int) -> int:
  """Returns an argument that must be a whole number, at least `least`.

  Raises:
    TypeError: a boolean, or no integer (2.0 is none).
    ValueError: too small.
  """
  try:
    if isinstance(value, bool):
      raise TypeError
    number = operator.index(value)
  except TypeError:
    raise TypeError(f"{name} must be a whole number; got {value!r}.") from None
  if number < least:
    raise ValueError(f"{name} must be at least {least}; got {number}.")
  return number


def choice(name: str, value: Any, known: Sequence[str]) -> str:
  """Returns an argument that must be one of some names.

  Raises:
    ValueError: another one.
  """
  if value not in known:
    raise ValueError(f"Unknown {name} {value!r}; known: {', '.join(known)}.")
  return value


def order(max_order: Any, n: int) -> int | None:
  """Returns the largest order asked for, None or 1..n.

  Raises:
    TypeError: no integer.
    ValueError: outside 1..n.
  """
  if max_order is None:
    return None
  number = whole("max_order", max_order, -(10**9))
  if not 1 <= number <= n:
    raise ValueError(f"max_order must lie in 1..{n}; got {number}.")
  return number


def goal(target_faithfulness: Any) -> float | None:
  """Returns the R^2 asked for, None or in (0, 1].

  Raises:
    TypeError: no real number.
    ValueError: outside (0, 1].
  """
  if target_faithfulness is None:
    return None
  if isinstance(target_faithfulness, bool | str) or not isinstance(
    target_faithfulness, numbers.Real
  ):
    raise TypeError(
      f"target_faithfulness must be a number; got {target_faithfulness!r}."
    )
  number = float(target_faithfulness)
  if not 0 < number <= 1:
    raise ValueError(
      f"target_faithfulness is an R^2 in (0, 1]; got {number:g}."
    )
  return number


def positive(name: str, value: Any) -> float:
  """Returns an argument that must be a finite number above 0.

  Raises:
    TypeError: no real number.
    ValueError: 0, below, infinite or NaN.
  """
  if isinstance(value, bool | str) or not isinstance(value, numbers.Real):
    raise TypeError(f"{name} must be a number; got {value!r}.")
  number = float(value)
  if not 0 < number < float("inf"):
    raise ValueError(f"{name} must be finite and above 0; got {number:g}.")
  return number


def typed_key(key: Any) -> base.Key:
  """Returns a single key of `jax.random.key`.

  Raises:
    TypeError: anything else, such as a seed, or None.
  """
  if (
    not isinstance(key, jax.Array)
    or not jax.dtypes.issubdtype(key.dtype, jax.dtypes.prng_key)
    or key.shape
  ):
    what = getattr(key, "dtype", None)
    shown = repr(key) if what is None else f"{what}{list(key.shape)}"
    raise TypeError(
      f"key must be one typed key, such as jax.random.key(0); got {shown}."
    )
  return key
