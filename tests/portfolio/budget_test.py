"""Tests of how a budget is divided."""

import jax
import numpy as np
import pytest

from spex_jax.fourier import spex
from spex_jax.masks import sampling
from spex_jax.portfolio import budget, policy

_KEY = jax.random.key(0)


@pytest.mark.parametrize(
  "total, held", [(1, 1), (8, 2), (150, 50), (192, 64), (640, 64), (641, 65)]
)
def test_a_tenth_is_held_out_within_64_and_a_third(total, held):
  assert budget.num_held_out(total, 20) == held


def test_masks_of_many_players_are_held_out_within_memory():
  n = policy.POLICY.unpacked_bytes // 100
  assert budget.num_held_out(10**6, n) == 100
  least = policy.POLICY.least_held_out
  assert budget.num_held_out(10**6, 10 * n) == least


@pytest.mark.parametrize(
  "room, scouts", [(1, 1), (63, 63), (100, 64), (1000, 300), (10**5, 1024)]
)
def test_scouts(room, scouts):
  assert budget.num_scouts(room) == scouts


@pytest.mark.parametrize("order", [5, 4, 3])
def test_the_plan_of_the_largest_order_that_fits(order):
  least = spex.least_budget(40, order)
  plan = budget.largest_plan(_KEY, 40, least, None)
  assert plan is not None
  assert plan.code.t == order and plan.num_masks == least
  asked = budget.largest_plan(_KEY, 40, 20_000, 8)
  assert asked.code.t == 8  # Beyond those that are tried unasked.
  smaller = budget.largest_plan(_KEY, 40, least - 1, None)
  if order == 3:
    assert smaller is None
  else:
    assert smaller is not None and smaller.code.t == order - 1


def test_the_plan_of_a_caller():
  least = spex.least_budget(40, 5) + policy.POLICY.least_budget
  plan, held = budget.insisted_plan(_KEY, 40, least, None)
  assert (plan.num_masks, held, plan.code.t) == (least - 8, 8, 5)
  plan, held = budget.insisted_plan(_KEY, 40, 1000, 2)
  assert plan.num_masks + held <= 1000 and (held, plan.code.t) == (100, 2)
  with pytest.raises(ValueError, match=f"at least {least} masks"):
    budget.insisted_plan(_KEY, 40, least - 1, None)


def test_masks_left():
  masks = sampling.enumerate_masks(4)
  assert budget.num_left(4, masks[:5]) == 11
  assert budget.num_left(4, np.concatenate([masks[:5], masks[:5]])) == 11
  assert budget.num_left(25, np.ones((3, 25), bool)) == float("inf")
