"""The best mask against all masks."""

import numpy as np
import pytest

from spex_jax.fourier import sparse
from spex_jax.indices import optimum


def _random(n, num_terms, order, seed=0):
  rng = np.random.default_rng(seed)
  rows = np.full((num_terms, order), n)
  for row in rows:
    size = rng.integers(1, order + 1)
    row[:size] = rng.choice(n, size, replace=False)
  return sparse.SparseFourier.from_players(n, rows, rng.normal(size=num_terms))


def _all_masks(n):
  return (np.arange(1 << n)[:, None] >> np.arange(n) & 1).astype(bool)


@pytest.mark.parametrize("tabulate", [0, 16])
@pytest.mark.parametrize("maximise", [True, False])
@pytest.mark.parametrize(
  "size",
  [{}, {"exactly": 5}, {"at_most": 3}, {"exactly": 0}, {"exactly": 16}],
)
def test_matches_brute_force(size, maximise, tabulate):
  n = 16
  fourier = _random(n, 30, 4) + sparse.SparseFourier.from_terms(n, {(): 3.0})
  masks = _all_masks(n)
  counts = masks.sum(axis=1)
  if "exactly" in size:
    masks = masks[counts == size["exactly"]]
  elif "at_most" in size:
    masks = masks[counts <= size["at_most"]]
  values = fourier(masks)
  expected = values.max() if maximise else values.min()
  actual = optimum.best_mask(
    fourier, maximise=maximise, tabulate=tabulate, **size
  )
  assert actual.status == "optimal"
  assert actual.value == fourier(actual.mask[None])[0]
  # HiGHS stops at an absolute gap of 1e-6, coefficients being at most 1.
  atol = 1e-6 * np.abs(fourier.coefs).max()
  assert actual.value == pytest.approx(expected, abs=atol)
  assert actual.bound == pytest.approx(expected, abs=2 * atol)
  assert 0 <= actual.gap <= 2 * atol
  if "exactly" in size:
    assert actual.mask.sum() == size["exactly"]


def test_sets_of_many_players_are_modelled_by_parity():
  n = 18
  fourier = _random(n, 12, 3) + sparse.SparseFourier.from_terms(
    n, {tuple(range(12)): 2.0, tuple(range(5, 18)): -1.5}
  )
  expected = fourier(_all_masks(n)).max()
  actual = optimum.best_mask(fourier, tabulate=0)
  assert actual.status == "optimal"
  assert actual.value == pytest.approx(expected, abs=2e-6)


def test_exactly_k_never_comes_back_short():
  # Every player harms, 60 occur nowhere, and one pair has no first-order term.
  n = 100
  terms = {(i,): 1.0 for i in range(38)} | {(38, 39): 1.0}
  fourier = sparse.SparseFourier.from_terms(n, terms)
  for k in (0, 1, 59, 60, 61, 90, 100):
    actual = optimum.best_mask(fourier, exactly=k, tabulate=0)
    assert actual.mask.sum() == k
    # 60 idle players and the even pair are free of charge.
    assert actual.value == pytest.approx(39 - 2 * max(k - 62, 0))
  assert optimum.best_mask(fourier, at_most=70).value == pytest.approx(39)


def test_large_and_quick():
  fourier = _random(1000, 300, 3)
  actual = optimum.best_mask(fourier, exactly=50, time_limit=60)
  assert actual.status == "optimal"
  assert actual.mask.sum() == 50
  # No better than every term at its best.
  assert actual.value <= np.abs(fourier.coefs).sum()


def test_out_of_time_returns_a_mask_a_bound_and_a_gap():
  fourier = _random(60, 400, 5)
  actual = optimum.best_mask(fourier, exactly=20, time_limit=0.01)
  assert actual.status == "time_limit"
  assert actual.mask.sum() == 20
  assert actual.value == fourier(actual.mask[None])[0]
  assert actual.gap == actual.bound - actual.value > 0
  # A local search beats what random masks of that size reach.
  rng = np.random.default_rng(0)
  masks = np.argsort(rng.random((500, 60)), axis=1) < 20
  assert actual.value > fourier(masks).max()
  lowest = optimum.best_mask(fourier, maximise=False, time_limit=0.01)
  assert lowest.bound <= lowest.value < fourier(masks).min()


@pytest.mark.parametrize("tabulate", [0, 16])
@pytest.mark.parametrize("n", [0, 1, 5])
def test_constant_and_tiny(n, tabulate):
  fourier = sparse.SparseFourier.from_terms(n, {(): 2.0})
  actual = optimum.best_mask(fourier, exactly=n, tabulate=tabulate)
  assert actual.mask.tolist() == [True] * n
  assert (actual.value, actual.status, actual.gap) == (2.0, "optimal", 0.0)


def test_bad_input():
  fourier = _random(5, 4, 2)
  with pytest.raises(ValueError, match="exactly or at_most, not both"):
    optimum.best_mask(fourier, exactly=1, at_most=2)
  for bad in (-1, 6):
    with pytest.raises(ValueError, match=rf"lie in 0..5; got {bad}"):
      optimum.best_mask(fourier, exactly=bad)
  with pytest.raises(ValueError, match="time_limit must be positive; got 0"):
    optimum.best_mask(fourier, time_limit=0)
  with pytest.raises(ValueError, match="tabulate must be at least 0; got -1"):
    optimum.best_mask(fourier, tabulate=-1)
  both = sparse.SparseFourier.stack([fourier, fourier])
  with pytest.raises(ValueError, match="2 targets; choose one"):
    optimum.best_mask(both)


@pytest.mark.parametrize("tabulate", [0, 16])
def test_zero_coefficients_say_nothing(tabulate):
  zeros = {(i,): 0.0 for i in range(30)}
  fourier = sparse.SparseFourier.from_terms(40, zeros | {(): 2.0})
  actual = optimum.best_mask(fourier, exactly=7, tabulate=tabulate)
  assert actual.mask.sum() == 7
  assert (actual.value, actual.status, actual.gap) == (2.0, "optimal", 0.0)
  # One term beside them decides, and they fill up the number.
  fourier = sparse.SparseFourier.from_terms(40, zeros | {(3,): 1.5})
  for exactly, value in ((39, 1.5), (40, -1.5)):
    actual = optimum.best_mask(fourier, exactly=exactly, tabulate=tabulate)
    assert actual.mask.sum() == exactly
    assert (actual.value, actual.status) == (value, "optimal")


@pytest.mark.parametrize("size", [2.0, True, "2"])
@pytest.mark.parametrize("which", ["exactly", "at_most"])
def test_sizes_are_integers(which, size):
  with pytest.raises(TypeError, match="number kept must be an integer; got"):
    optimum.best_mask(_random(5, 4, 2), **{which: size})
