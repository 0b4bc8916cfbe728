"""Three ways to the true Shapley values, and they agree."""

import itertools

import numpy as np
import pytest

from experiments import games, shapley


def _by_all_orders(value_fn, n):
  """The mean gain over all n! orders: slow, and obviously right."""
  orders = list(itertools.permutations(range(n)))
  values = np.zeros(n)
  for order in orders:
    mask = np.zeros((1, n), bool)
    before = value_fn(mask)[0]
    for player in order:
      mask[0, player] = True
      after = value_fn(mask)[0]
      values[player] += (after - before) / len(orders)
      before = after
  return values


@pytest.mark.parametrize("seed", [0, 1])
def test_sets_and_masks_agree_with_the_definition(seed):
  game = games.planted(seed, 5, 12, decibels=None)
  expected = _by_all_orders(game.clean, 5)
  assert np.abs(expected).max() > 0.1
  found = shapley.by_all_masks(game.clean, 5)
  # Sums of at most 120 float64 numbers of size 10.
  np.testing.assert_allclose(found, expected, rtol=0, atol=1e-11)
  found = shapley.of_planted(game.planted)
  np.testing.assert_allclose(found, expected, rtol=0, atol=1e-11)


def test_a_long_run_is_within_its_standard_errors():
  game = games.planted(3, 20, 30, decibels=None)
  expected = shapley.of_planted(game.planted)
  values, deviations = shapley.by_permutations(game.clean, 20, 2000, seed=0)
  assert (deviations > 0).all() and deviations.max() < 0.2
  # Twenty normal deviates: beyond 5 once in 90,000 runs.
  assert (np.abs(values - expected) < 5 * deviations + 1e-12).all()
  # They add up to f(all) - f(none) in every order, so in the mean.
  ends = game.clean(np.array([[True] * 20, [False] * 20]))
  assert values.sum() == pytest.approx(ends[0] - ends[1], abs=1e-9)


def test_every_order_has_its_reverse():
  # Pairs only: each player of a pair gains 1 first in one order of the two.
  pairs = np.arange(8).reshape(4, 2)
  game = lambda masks: masks[:, pairs].all(2).sum(1).astype(float)
  values, deviations = shapley.by_permutations(game, 8, 100, seed=1)
  np.testing.assert_allclose(values, 0.5, rtol=0, atol=1e-12)
  np.testing.assert_allclose(deviations, 0, rtol=0, atol=1e-12)


def test_the_way_is_chosen_by_what_is_known():
  planted = games.planted(0, 30, 5, decibels=None)
  assert shapley.true_values(planted, 0, 10).how == "exact"
  linear = lambda masks: masks @ np.arange(1.0, masks.shape[1] + 1)
  small = shapley.true_values(games.Game(4, linear, linear), 0, 10)
  np.testing.assert_allclose(small.values, [1, 2, 3, 4], atol=1e-12)
  assert (small.how, small.mse) == ("exact", 0)
  # Of a quadratic, an order and its reverse give the exact values.
  cubic = lambda masks: linear(masks) ** 3
  large = shapley.true_values(games.Game(21, cubic, cubic), 0, 10)
  assert large.how == "10 permutations" and 0 < large.mse < 1
