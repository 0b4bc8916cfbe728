"""Subsets to keep, against all subsets."""

import itertools

import jax
import numpy as np
import pytest

from spex_jax.components import pruning
from spex_jax.fourier import sparse

_N = 7


def _function():
  """A redundant pair, and a synergy that singles do not show."""
  rng = np.random.default_rng(0)
  terms = {(i,): v for i, v in enumerate(rng.normal(size=_N))}
  terms |= {(0, 1): 2.0, (2, 3): -3.0, (4, 5, 6): 1.5}
  return sparse.SparseFourier.from_terms(_N, terms)


def _all(count):
  masks = np.zeros((0, _N), bool)
  rows = []
  for kept in itertools.combinations(range(_N), count):
    row = np.zeros(_N, bool)
    row[list(kept)] = True
    rows.append(row)
  return np.concatenate([masks, rows])


@pytest.mark.parametrize("count", [0, 3, 6, 7])
def test_the_optimum_of_an_expansion(count):
  f = _function()
  found = pruning.by_expansion(f, count)
  assert found.mask.sum() == count and found.proved and found.asked == 0
  best = np.asarray(f(_all(count))).max()
  # float32 sums of a dozen terms of size 3.
  np.testing.assert_allclose(found.value, best, rtol=0, atol=1e-5)


def test_scores_keep_the_largest_and_the_first_of_equals():
  found = pruning.by_scores([1.0, 3.0, -1.0, 3.0, 1.0], 3)
  assert found.mask.tolist() == [True, True, False, True, False]
  assert found.value == 7.0
  assert not pruning.by_scores([1.0], 0).mask.any()


def test_the_best_of_all_subsets_that_are_drawn():
  asked = []

  def value_fn(masks):
    asked.append(len(masks))
    return np.asarray(_function()(masks))

  found = pruning.best_of_random(value_fn, _N, 2, 2000, jax.random.key(0))
  # 2,000 draws of 21 subsets leave one out with a chance below 1e-40.
  assert found.asked == sum(asked) == 21
  assert found.value == np.asarray(_function()(_all(2))).max()


def test_greedy_is_a_plain_loop():
  f = _function()
  value_fn = lambda masks: np.asarray(f(masks), np.float64)
  found = pruning.greedy(value_fn, _N, [2, 5, _N])
  kept, asked = list(range(_N)), 1
  for size in range(_N - 1, 1, -1):
    trials = []
    for player in kept:
      row = np.zeros((1, _N), bool)
      row[0, [i for i in kept if i != player]] = True
      trials.append((value_fn(row)[0], player))
    asked += len(trials)
    kept.remove(max(trials, key=lambda trial: trial[0])[1])
    if size in (2, 5):
      assert np.flatnonzero(found[size].mask).tolist() == kept
      assert found[size].asked == asked
  assert found[_N].mask.all() and set(found) == {2, 5, _N}


def test_bad_input():
  f = _function()
  for count in (-1, _N + 1):
    with pytest.raises(ValueError, match="must lie in 0..7"):
      pruning.by_scores(np.zeros(_N), count)
    with pytest.raises(ValueError, match="must lie in 0..7"):
      pruning.greedy(f, _N, [count])
    with pytest.raises(ValueError, match="must lie in 0..7"):
      pruning.by_expansion(f, count)
  with pytest.raises(TypeError, match="must be an integer"):
    pruning.by_scores(np.zeros(_N), 1.5)
  with pytest.raises(ValueError, match="finite scores"):
    pruning.by_scores([np.nan], 1)
  with pytest.raises(ValueError, match="num_masks must be at least 1"):
    pruning.best_of_random(f, _N, 2, 0, jax.random.key(0))
  with pytest.raises(ValueError, match="NaN"):
    pruning.greedy(lambda masks: np.full(len(masks), np.nan), _N, [3])
  with pytest.raises(ValueError, match="one value a mask"):
    pruning.greedy(lambda masks: np.ones((len(masks), 2)), _N, [3])
