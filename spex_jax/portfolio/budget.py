"""How a budget of masks is divided: held-out ones, a plan, uniform ones.

Shapes: n players.
"""

import numpy as np

from spex_jax import base
from spex_jax.fourier import spex
from spex_jax.masks import bch, packing
from spex_jax.portfolio import select

LEAST = 8  # Fewer masks, held-out ones among them, say nothing.
LEAST_HELD_OUT = 64
_ORDERS = (5, 4, 3)  # Sets a plan can decode; `auto` takes what fits.


def num_held_out(budget: int, n: int) -> int:
  """max(64, 10 %), but at most a third, and at most 256 MB of masks."""
  wanted = max(LEAST_HELD_OUT, -(-budget // 10))
  fits = max(LEAST_HELD_OUT, select.MASK_BYTES // max(1, n))
  return max(1, min(wanted, budget // 3, fits))


def num_scouts(room: int) -> int:
  """Uniform masks that tell whether a plan is worth its masks."""
  return max(1, min(1024, max(64, room * 3 // 10), room))


def insisted_plan(
  key: base.Key, n: int, budget: int, max_order: int | None
) -> tuple[spex.QueryPlan, int]:
  """The plan that a caller insists on, with fewer held out if need be.

  Returns:
    The plan and the number of masks held out.

  Raises:
    ValueError: a budget below the smallest plan and 8 masks to test it, or a
      `max_order` that no plan decodes.
  """
  order = max_order or min(_ORDERS[0], n)
  if order > bch.MAX_ORDER:
    raise ValueError(
      f"SPEX decodes sets of up to {bch.MAX_ORDER}; got max_order={order}. "
      f"Use max_order={bch.MAX_ORDER}."
    )
  needs = {t: spex.least_budget(n, t) + LEAST for t in range(1, order + 1)}
  if needs[order] > budget:
    fits = [
      f"max_order={t} (needs {needs[t]})"
      for t in range(order - 1, 0, -1)
      if needs[t] <= budget
    ]
    raise ValueError(
      f"SPEX needs a budget of at least {needs[order]} masks for sets of up "
      f"to {order} of {n} players: {needs[order] - LEAST} to decode and "
      f"{LEAST} to test the answer; the budget is {budget}. Raise it, or use "
      f"{' or '.join(fits) or 'method=' + repr('lasso')}."
    )
  held = min(num_held_out(budget, n), budget - needs[order] + LEAST)
  return spex.make_plan(key, n, budget - held, t=order), held


def largest_plan(
  key: base.Key, n: int, room: int, max_order: int | None
) -> spex.QueryPlan | None:
  """The plan for the largest sets that fits in `room` masks, or None."""
  most = min(n, max_order or _ORDERS[0], bch.MAX_ORDER)
  # Above those that are tried without being asked for, the one that is.
  orders = [most, *(t for t in _ORDERS if t < most)]
  for t in orders:
    if spex.least_budget(n, t) <= room:
      return spex.make_plan(key, n, room, t=t)
  return None


def num_left(n: int, exclude: np.ndarray) -> float:
  """How many masks there are besides those excluded; infinity for many."""
  if n > 24:
    return float("inf")
  return (1 << n) - len(packing.distinct_masks(exclude).first)
