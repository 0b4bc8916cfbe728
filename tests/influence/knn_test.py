"""Nearest neighbours against enumeration, and copies that are redundant."""

import numpy as np
import pytest

import spex_jax as spex
from spex_jax.influence import knn
from spex_jax.masks import sampling
from tests import ridge_games

_N = 9


def _data(seed=0, num_examples=_N, num_tests=5):
  rng = np.random.default_rng(seed)
  x = rng.normal(size=(num_examples, 3))
  y = rng.integers(0, 3, num_examples)
  return x, y, rng.normal(size=(num_tests, 3)), rng.integers(0, 3, num_tests)


def _by_hand(mask, x, y, point, label, neighbours):
  kept = np.flatnonzero(mask)
  near = kept[np.argsort(((x[kept] - point) ** 2).sum(axis=1), kind="stable")]
  return (y[near[:neighbours]] == label).sum() / neighbours


@pytest.fixture(scope="module")
def masks():
  return sampling.enumerate_masks(_N)


@pytest.mark.parametrize("neighbours", [1, 4, 9, 12])
def test_the_closed_form_is_the_shapley_value(masks, neighbours):
  x, y, test_x, test_y = _data()
  values = np.array(
    [
      [_by_hand(m, x, y, *test, neighbours) for test in zip(test_x, test_y)]
      for m in masks
    ]
  )
  found = knn.shapley(x, y, test_x, test_y, neighbours=neighbours)
  expected = ridge_games.shapley(masks, values)
  np.testing.assert_allclose(found.scores, expected, rtol=0, atol=1e-12)
  np.testing.assert_allclose(found(masks[-1:])[0], values[-1], atol=1e-12)


def test_a_copy_of_the_nearest_shares_its_value(masks):
  """M(T + a + a') = -M(T + a) for every T, where K = 1."""
  x, y, test_x, test_y = _data(3)
  near = int(((x - test_x[0]) ** 2).sum(axis=1).argmin())
  first, copy = sorted([near, 0 if near else 1])
  x[copy], y[copy] = x[first], y[first]
  x[first], y[first] = x[copy], y[copy] = test_x[0], test_y[0]
  values = [_by_hand(m, x, y, test_x[0], test_y[0], 1) for m in masks]
  scores = knn.shapley(x, y, test_x, test_y, neighbours=1).scores[0]
  assert scores[first] == scores[copy] > 0
  found = spex.decode(masks, np.array(values), method="exact")
  mobius = found.interactions("Moebius", order=_N)
  rest = [i for i in range(_N) if i not in (first, copy)]
  seen = 0
  for row in sampling.enumerate_masks(len(rest)):
    others = {rest[i] for i in np.flatnonzero(row)}
    one = mobius[sorted(others | {first})]
    both = mobius[sorted(others | {first, copy})]
    np.testing.assert_allclose(both, -one, rtol=0, atol=1e-12)
    seen += one != 0
  assert seen > 1


def test_permuted_examples_have_permuted_scores():
  x, y, test_x, test_y = _data(1, num_examples=200, num_tests=20)
  order = np.random.default_rng(0).permutation(200)
  one = knn.shapley(x, y, test_x, test_y, neighbours=5)
  other = knn.shapley(x[order], y[order], test_x, test_y, neighbours=5)
  np.testing.assert_allclose(one.scores[:, order], other.scores, atol=1e-15)


def test_one_example_and_one_class():
  found = knn.shapley([[0.0]], [1], [[2.0], [3.0]], [1, 0], neighbours=1)
  np.testing.assert_array_equal(found.scores, [[1.0], [0.0]])
  x, _, test_x, _ = _data()
  same = knn.shapley(x, [0] * _N, test_x, [0] * 5, neighbours=3)
  # Everybody is worth the same but for a place among the first.
  np.testing.assert_allclose(same.scores, 1 / _N, atol=1e-12)


@pytest.mark.parametrize(
  ("change", "message"),
  [
    ({"x": np.zeros((0, 3)), "y": []}, "at least one row of x"),
    ({"y": np.zeros(4)}, "one label for each"),
    ({"test_x": np.full((5, 3), np.nan)}, "test_x holds NaN"),
    ({"test_x": np.zeros((5, 2))}, "x has 3 features and test_x 2"),
    ({"neighbours": 0}, "neighbours must be at least 1"),
  ],
)
def test_bad_input_is_refused(change, message):
  x, y, test_x, test_y = _data()
  arguments = {"x": x, "y": y, "test_x": test_x, "test_y": test_y}
  with pytest.raises(ValueError, match=message):
    knn.shapley(**({"neighbours": 1} | arguments | change))
