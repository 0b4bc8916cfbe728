"""Few sizes for many: arrays padded to them share compiled programs.

Padding is rows and columns of zeros, where what is real holds none: signs are
+-1. Kernels tell them apart by that, and give them no weight, so that answers
are those without padding but for the order in which numbers are added.
"""

import numpy as np

_FINE = 512  # Rows beyond which padding is felt: it costs the cube in places.


def rows(count: int) -> int:
  """The size for so many masks: at most a quarter more, an eighth beyond 512.

  Args:
    count: at least 0; fewer than 8 are padded to 8.
  """
  parts = 3 if count > _FINE else 2
  step = 1 << max(3, (max(count, 1) - 1).bit_length() - 1 - parts)
  return max(1, -(-count // step)) * step


def columns(n: int) -> int:
  """The size for n players: the next multiple of 8, at least 8."""
  return max(1, -(-n // 8)) * 8


def to(array: np.ndarray, *shape: int) -> np.ndarray:
  """The array with zeros behind it, up to a shape of as many axes."""
  return np.pad(array, [(0, to - of) for to, of in zip(shape, array.shape)])


def signs(signs: np.ndarray) -> np.ndarray:
  """+-1 `[B, n]`, padded to `rows` and `columns`."""
  count, n = signs.shape
  return to(signs, rows(count), columns(n))
