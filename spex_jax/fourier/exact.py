"""All 2^n values to an expansion: exact, up to rounding.

Shapes: n players, K terms kept, D the largest order.
"""

import jax
import numpy as np

from spex_jax import base
from spex_jax.fourier import sparse, transform


def expand(
  values: base.Values, max_order: int | None = None
) -> tuple[sparse.SparseFourier, float]:
  """Returns the expansion of a function from its value at every mask.

  Args:
    values: `[2^n]`, the value of every mask, in the order of
      `masks.sampling.enumerate_masks`.
    max_order: drops larger sets; what is left is the best approximation of
      that order in mean square over all masks.

  Returns:
    The expansion, without coefficients that are only rounding, and its R^2
    on all masks.

  Raises:
    ValueError: not 2^n values, or not finite.
  """
  values = base.check_values(values, len(values))
  size = float(np.abs(values).max())
  offset = float(base.origin(values))
  scale = float(np.abs(values - offset).max()) or 1.0
  with jax.enable_x64(True):
    unit = np.array(transform.fourier_from_values((values - offset) / scale))
  n = len(values).bit_length() - 1
  index = np.arange(len(values))
  orders = np.bitwise_count(index)
  kept = np.abs(unit) > (n + 2) * np.finfo(np.float64).eps * (size / scale)
  energy = (unit[1:] ** 2).sum()
  if max_order is not None:
    kept &= orders <= max_order
  kept[0] = True
  lost = (unit[~kept] ** 2).sum()
  score = 1.0 - float(lost / energy) if lost > 0 else 1.0
  if base.is_constant(values):
    score = 1.0  # What is lost is rounding.
  rank = np.argsort(-np.abs(unit[1:]), kind="stable") + 1
  index = np.concatenate([[0], rank[kept[1:][rank - 1]]])
  width = int(orders[index].max())
  coefs = unit[index] * scale
  coefs[0] += offset
  # Ascending players of each set: its lowest bit, again and again.
  players = np.full((len(index), width), n, np.int32)
  left = index.copy()
  for column in range(width):
    lowest = left & -left
    here = left > 0
    players[here, column] = np.bitwise_count(lowest[here] - 1)
    left ^= lowest
  fourier = sparse.SparseFourier(
    players=players,
    coefs=coefs,
    count=np.asarray(len(index), np.int32),
    n=n,
  )
  return fourier, score
