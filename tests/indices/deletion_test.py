"""Removal curves by brute force."""

import itertools

import numpy as np
import pytest

from spex_jax.fourier import sparse
from spex_jax.indices import deletion


def _random(n, num_terms, order, seed=0):
  rng = np.random.default_rng(seed)
  rows = np.full((num_terms, order), n)
  for row in rows:
    size = rng.integers(1, order + 1)
    row[:size] = rng.choice(n, size, replace=False)
  return sparse.SparseFourier.from_players(n, rows, rng.normal(size=num_terms))


def test_removal_curve_finds_the_most_influential_sets():
  n = 8
  fourier = _random(n, 20, 3)
  calls = []

  def value_fn(masks):
    calls.append(len(masks))
    return 2 * fourier(masks) + 1

  actual = deletion.removal_curve(fourier, value_fn, [0, 1, 3, n])
  assert calls == [5]  # One batch: the full mask and four others.
  full = fourier(np.ones((1, n), bool))[0]
  assert actual.full == pytest.approx(2 * full + 1)
  for k, mask, predicted, change in zip(
    actual.counts, actual.masks, actual.predicted, actual.actual
  ):
    assert (~mask).sum() == k
    best = 0.0
    for removed in itertools.combinations(range(n), int(k)):
      trial = np.ones((1, n), bool)
      trial[0, list(removed)] = False
      best = max(best, abs(full - fourier(trial)[0]))
    assert abs(predicted) == pytest.approx(best, abs=1e-12)
    assert change == pytest.approx(2 * predicted, abs=1e-12)
  assert set(actual.status) == {"optimal"}


def test_removal_curve_of_a_function_that_is_zero():
  fourier = sparse.SparseFourier.from_terms(30, {(i,): 0.0 for i in range(30)})
  actual = deletion.removal_curve(fourier, fourier, [0, 4])
  assert (~actual.masks).sum(axis=1).tolist() == [0, 4]
  assert actual.predicted.tolist() == actual.actual.tolist() == [0, 0]
  assert deletion.removal_curve(fourier, fourier, []).masks.shape == (0, 30)


def test_removal_curve_bad_input():
  fourier = _random(5, 4, 2)
  with pytest.raises(TypeError, match="must be an integer; got 1.5"):
    deletion.removal_curve(fourier, fourier, [1, 1.5])
  with pytest.raises(ValueError, match=r"counts must lie in 0..5; got \[6\]"):
    deletion.removal_curve(fourier, fourier, [6])
  with pytest.raises(ValueError, match="needs one target"):
    deletion.removal_curve(fourier, lambda m: np.ones((len(m), 2)), [1])
  with pytest.raises(ValueError, match="NaN or infinity for 2 of 2"):
    deletion.removal_curve(fourier, lambda m: np.full(len(m), np.nan), [1])
