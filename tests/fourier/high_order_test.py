"""Tests of the scan of one order more against scores by definition."""

import itertools
import math

import numpy as np
import pytest

from spex_jax.datasets import synthetic
from spex_jax.fourier import gram, high_order


def _uniform(n, num_masks, seed=0):
  return np.random.default_rng(seed).random((num_masks, n)) < 0.5


def _sets(players, n):
  return {tuple(i for i in row if i < n) for row in np.sort(players).tolist()}


@pytest.mark.parametrize(
  ("n", "order"), [(4, 4), (5, 5), (10, 4), (9, 5), (13, 5)]
)
def test_nominees_are_the_best_completions_by_definition(n, order):
  masks = _uniform(n, 60, n)
  residual = np.random.default_rng(1).normal(size=60)
  best: dict[tuple, tuple] = {}
  for s in itertools.combinations(range(n), order):
    score = abs((residual * (1.0 - 2.0 * masks[:, s]).prod(axis=1)).sum())
    row = s[: order - 2]
    best[row] = max(best.get(row, (0.0, s)), (score, s))
  sets, reached = high_order.nominees(masks, residual, order)
  assert _sets(sets, n) == {s for _, s in best.values()}
  assert len(sets) == len(best)
  assert reached == 0.0  # Fewer rows than are kept: none was left out.


def test_the_best_rows_are_kept_of_several_tiles():
  n = 26  # 2,024 triples: two tiles, and a part of the second is padding.
  masks = _uniform(n, 80)
  residual = np.random.default_rng(2).normal(size=80)
  unit = residual / residual.std()
  signs = 1.0 - 2.0 * masks
  pairs = np.array(list(itertools.combinations(range(n), 2)))
  right = signs[:, pairs[:, 0]] * signs[:, pairs[:, 1]]
  best = {}
  for i, j, k in itertools.combinations(range(n - 2), 3):
    left = unit * signs[:, i] * signs[:, j] * signs[:, k]
    scores = np.abs(left @ right) * (pairs[:, 0] > k)
    at = int(scores.argmax())
    best[i, j, k, *pairs[at].tolist()] = scores[at] / math.sqrt(80)
  sets, reached = high_order.nominees(masks, residual, 5)
  kept = sorted(best.values())[-len(sets)]
  assert len(sets) == 512
  # 80 products of size about 1 in float32: 80 eps is 1e-5.
  assert reached == pytest.approx(kept, abs=1e-5)
  found = [best[tuple(row)] for row in np.sort(sets).tolist()]
  assert min(found) >= kept - 1e-5


@pytest.mark.parametrize("rows", [None, 500])
def test_planted_sets_of_order_5_are_peeled(monkeypatch, rows):
  n, num_masks = 30, 700
  f = synthetic.planted(3, n, 12, 5, min_order=2)
  masks = _uniform(n, num_masks, 3)
  noise = np.random.default_rng(3).normal(size=num_masks)
  values = f(masks) + noise * math.sqrt(f.variance / 10)
  if rows:  # A scan of a part finds them; they are accepted on all.
    flops = 2.0 * rows * math.comb(n, 5)
    monkeypatch.setattr(high_order, "MAX_FLOPS", flops)
    assert high_order.num_rows(n, num_masks, 5) == rows
  nothing = np.zeros((0, 4), int)
  support = gram.grow_support(masks, values, nothing, 4)
  support, nominees = high_order.search(masks, values, support, 5)
  assert _sets(support, n) == {s for s, _ in f.terms()}
  # A fold that is grown from the nominees of all finds what its own scan does.
  fold = np.arange(num_masks) % 5 != 0
  start = gram.grow_support(masks[fold], values[fold], nothing, 4)
  shared = gram.grow_support(
    masks[fold], values[fold], start, 4, candidates=nominees
  )
  own, _ = high_order.search(masks[fold], values[fold], start, 5)
  assert _sets(shared, n) == _sets(own, n)


@pytest.mark.slow
def test_noise_alone_enters_by_chance_only():
  # 0.1 sets an order are expected, of each of five orders: 10 draws expect 5;
  # more than 15 has a chance below 1e-4 (Poisson).
  found = 0
  for seed in range(10):
    masks = _uniform(16, 300, seed)
    values = np.random.default_rng(seed).normal(size=300)
    support = gram.grow_support(masks, values, np.zeros((0, 4), int), 4)
    found += len(high_order.search(masks, values, support, 5)[0])
  assert found <= 15


def test_a_second_game_of_a_padded_size_compiles_nothing():
  rng = np.random.default_rng(0)
  high_order.nominees(_uniform(15, 60), rng.normal(size=60), 5)
  before = high_order._scan_jit.count()
  high_order.nominees(_uniform(13, 58), rng.normal(size=58), 5)
  assert high_order._scan_jit.count() == before


@pytest.mark.parametrize(
  ("n", "num_masks", "scanned", "order"),
  [
    (120, 1024, 4, 5),
    (138, 512, 4, 5),
    (140, 512, 4, None),
    (250, 1024, 3, 4),
    (320, 1024, 3, None),
    (320, 200, 3, 4),
    (40, 1024, 5, None),
    (4, 64, 4, None),
    (1000, 4096, 2, None),
  ],
)
def test_reach(n, num_masks, scanned, order):
  assert high_order.next_order(n, num_masks, scanned) == order
