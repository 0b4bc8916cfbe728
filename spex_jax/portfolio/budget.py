"""How a budget of masks is divided: held-out ones, a plan, uniform ones.

Shapes: n players.
"""

import numpy as np

from spex_jax import base
from spex_jax.fourier import spex
from spex_jax.masks import bch, packing
from spex_jax.portfolio import policy


def num_held_out(budget: int, n: int) -> int:
  """max(64, 10 %), but at most a third, and at most 256 MB of masks."""
  wanted = usually_held_out(budget)
  least = policy.POLICY.least_held_out
  fits = max(least, policy.POLICY.unpacked_bytes // max(1, n))
  most = budget // policy.POLICY.held_out_most_one_in
  return max(1, min(wanted, most, fits))


def usually_held_out(budget: int) -> int:
  """max(64, 10 %)."""
  share = -(-budget // policy.POLICY.held_out_one_in)
  return max(policy.POLICY.least_held_out, share)


def num_scouts(room: int) -> int:
  """Uniform masks that tell whether a plan is worth its masks."""
  wanted = room * policy.POLICY.scouts_percent // 100
  wanted = max(policy.POLICY.least_scouts, wanted)
  return max(1, min(policy.POLICY.most_scouts, wanted, room))


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
  least = policy.POLICY.least_budget
  order = max_order or min(policy.POLICY.plan_orders[0], n)
  if order > bch.MAX_ORDER:
    raise ValueError(
      f"SPEX decodes sets of up to {bch.MAX_ORDER}; got max_order={order}. "
      f"Use max_order={bch.MAX_ORDER}."
    )
  needs = {t: spex.least_budget(n, t) + least for t in range(1, order + 1)}
  if needs[order] > budget:
    fits = [
      f"max_order={t} (needs {needs[t]})"
      for t in range(order - 1, 0, -1)
      if needs[t] <= budget
    ]
    raise ValueError(
      f"SPEX needs a budget of at least {needs[order]} masks for sets of up "
      f"to {order} of {n} players: {needs[order] - least} to decode and "
      f"{least} to test the answer; the budget is {budget}. Raise it, or use "
      f"{' or '.join(fits) or 'method=' + repr('lasso')}."
    )
  held = min(num_held_out(budget, n), budget - needs[order] + least)
  return spex.make_plan(key, n, budget - held, t=order), held


def largest_plan(
  key: base.Key, n: int, room: int, max_order: int | None
) -> spex.QueryPlan | None:
  """The plan for the largest sets that fits in `room` masks, or None."""
  tried = policy.POLICY.plan_orders
  most = min(n, max_order or tried[0], bch.MAX_ORDER)
  # Above those that are tried without being asked for, the one that is.
  orders = [most, *(t for t in tried if t < most)]
  for t in orders:
    if spex.least_budget(n, t) <= room:
      return spex.make_plan(key, n, room, t=t)
  return None


def num_left(n: int, exclude: np.ndarray) -> float:
  """How many masks there are besides those excluded; infinity for many."""
  if n > 24:
    return float("inf")
  return (1 << n) - len(packing.distinct_masks(exclude).first)
