"""Few sizes for many: arrays padded to them share compiled programs.

Padding is rows and columns of zeros, where what is real holds none: signs are
+-1. Kernels tell them apart by that, and give them no weight, so that answers
are those without padding but for the order in which numbers are added.
"""

import numpy as np

from spex_jax import base

_FINE = 512  # Rows beyond which padding is felt: it costs the cube in places.
_LEAST = 128  # Fewer cost next to nothing, and a program of theirs seconds.


def rows(count: int) -> int:
  """The size for so many masks: at most an eighth more beyond 512.

  Args:
    count: the number of masks, at least 0; up to 512 the sizes are 128, 256,
      384 and 512.
  """
  step = _LEAST
  if count > _FINE:
    step = 1 << ((count - 1).bit_length() - 4)
  return max(1, -(-count // step)) * step


def columns(n: int) -> int:
  """The size for n players: the next multiple of 8, at least 8."""
  return max(1, -(-n // 8)) * 8


def to(array: base.Array, *shape: int) -> np.ndarray:
  """The array with zeros behind it, up to a shape of as many axes."""
  array = np.asarray(array)
  return np.pad(array, [(0, to - of) for to, of in zip(shape, array.shape)])


def signs(signs: base.Array) -> np.ndarray:
  """+-1 `[B, n]`, padded to `rows` and `columns`."""
  count, n = signs.shape
  return to(signs, rows(count), columns(n))
