"""Tests of the Gram scan against scores by definition, and of its choices."""

import itertools
import math

import chex
import jax
import numpy as np
import pytest

from spex_jax.datasets import synthetic
from spex_jax.fourier import gram, regress, spex


def _uniform(n, num_masks, seed=0):
  return np.random.default_rng(seed).random((num_masks, n)) < 0.5


def _sets(players, n):
  return {tuple(i for i in row if i < n) for row in np.sort(players).tolist()}


def _none(width=4):
  return np.zeros((0, width), int)


@pytest.mark.parametrize(
  ("n", "order"), [(1, 1), (2, 2), (3, 4), (9, 3), (9, 4)]
)
def test_scan_keeps_the_best_completion_of_every_pair(n, order):
  masks = _uniform(n, 60)
  residual = np.random.default_rng(1).normal(size=60)
  signs = 1.0 - 2.0 * masks
  players, scores = jax.jit(gram.scan, static_argnums=2)(
    signs.astype(np.float32), residual.astype(np.float32), order
  )
  players, scores = np.asarray(players), np.asarray(scores)
  by_definition = {
    s: (residual * signs[:, s].prod(axis=1)).mean()
    for k in range(1, order + 1)
    for s in itertools.combinations(range(n), k)
  }
  # 60 products of size |residual| in float32.
  atol = 60 * np.finfo(np.float32).eps * np.abs(residual).max()
  found = {}
  for row, score in zip(players, scores, strict=True):
    s = tuple(sorted(i for i in row.tolist() if i < n))
    assert len(set(s)) == len(s)
    np.testing.assert_allclose(score, by_definition[s], rtol=0, atol=atol)
    found[s] = score
  for s in by_definition:
    if len(s) <= min(2, order):
      assert s in found
  for i, j in itertools.combinations(range(n), 2):
    longer = [
      abs(v) for s, v in by_definition.items() if len(s) > 2 and s[:2] == (i, j)
    ]
    if longer:
      mine = max(
        abs(v) for s, v in found.items() if len(s) > 2 and s[:2] == (i, j)
      )
      np.testing.assert_allclose(mine, max(longer), rtol=0, atol=atol)


@pytest.mark.slow
def test_scan_sums_over_sample_chunks():
  masks = _uniform(6, 2500)  # Two chunks and a half.
  signs = (1.0 - 2.0 * masks).astype(np.float32)
  residual = signs[:, 1] * signs[:, 2] * signs[:, 4]
  players, scores = gram.scan(signs, residual, 4)
  best = int(np.argmax(np.abs(scores)))
  assert _sets(np.asarray(players)[best : best + 1], 6) == {(1, 2, 4)}
  np.testing.assert_allclose(scores[best], 1.0, rtol=1e-5)


@pytest.mark.parametrize("seed", range(3))
def test_planted_high_orders_are_found_under_noise(seed):
  n = 40
  f = synthetic.planted(seed, n, 12, 4, min_order=3)
  masks = _uniform(n, 900, seed)
  noise = np.random.default_rng(seed).normal(size=900)
  values = f(masks) + noise * math.sqrt(f.variance / 10)
  support = gram.grow_support(masks, values, _none(), 4)
  # Every coefficient is at least .5, eight standard errors or more.
  assert _sets(support, n) == {s for s, _ in f.terms()}


def test_false_sets_of_noise_are_dropped_from_a_given_support():
  n = 30
  f = synthetic.planted(0, n, 5, 3)
  masks = _uniform(n, 600)
  values = f(masks) + np.random.default_rng(0).normal(size=600) * 0.3
  wrong = np.array([[0, 1, 2, 3], [4, n, n, n]])
  support = gram.grow_support(masks, values, wrong, 3)
  assert _sets(support, n) == {s for s, _ in f.terms()}


def test_noise_alone_yields_next_to_nothing():
  # At most 0.1 sets an order are expected in a scan: 20 draws of 4 orders
  # expect 8 at the very most; more than 20 has a chance below 1e-4 (Poisson).
  found = 0
  for seed in range(20):
    masks = _uniform(20, 300, seed)
    values = np.random.default_rng(seed).normal(size=300)
    found += len(gram.grow_support(masks, values, _none(), 4))
  assert found <= 20


def test_echoes_on_designed_masks_are_told_apart():
  # Sets that share a bin in all groups differ in 36 delays alone: hundreds
  # correlate with one of them above every threshold.
  n = 100
  plan = spex.make_plan(jax.random.key(0), n, b=3)
  bins = plan.affine.maps @ (1 << np.arange(3))
  pairs = itertools.combinations(range(n), 2)
  key = bins[:, 12].tolist()
  twin = next(
    p
    for p in pairs
    if 12 not in p and (bins[:, p[0]] ^ bins[:, p[1]]).tolist() == key
  )
  masks = plan.masks()
  signs = 1.0 - 2.0 * masks
  values = 0.165 * signs[:, 12] + 0.188 * signs[:, twin].prod(axis=1)
  support = gram.grow_support(masks, values, _none(), 4)
  assert _sets(support, n) == {(12,), twin}


@pytest.mark.parametrize(
  ("n", "num_masks", "flops", "order"),
  [
    (1, 10, 1e9, 1),
    (3, 10, 1e9, 3),
    (100, 1000, 1e10, 4),
    (100, 1000, 7e9, 3),
    (1000, 10_000, 3e11, 2),
    (1000, 10_000, 1.0, 0),
  ],
)
def test_affordable_order(n, num_masks, flops, order):
  assert gram.affordable_order(n, num_masks, flops) == order


def test_significance_is_bonferroni():
  for n, order in [(100, 1), (100, 4), (1000, 2)]:
    z = gram.significance(n, order)
    tail = math.erfc(z / math.sqrt(2)) * math.comb(n, order)
    assert tail == pytest.approx(0.1, rel=1e-6)
  assert gram.significance(1, 1) == pytest.approx(1.95996, abs=1e-4)


def test_term_limit_and_constant_values():
  masks = _uniform(20, 200)
  f = synthetic.planted(1, 20, 10, 2)
  assert len(gram.grow_support(masks, f(masks), _none(), 2, max_terms=4)) <= 4
  assert len(gram.grow_support(masks, np.full(200, 3.0), _none(), 2)) == 0


def test_compiles_once_for_equal_shapes():
  chex.clear_trace_counter()
  fn = jax.jit(chex.assert_max_traces(lambda s, r: gram.scan(s, r, 3), n=1))
  for seed in range(3):
    signs = (1.0 - 2.0 * _uniform(8, 50, seed)).astype(np.float32)
    fn(signs, signs[:, 0])


def test_values_of_small_weight_hide_no_set():
  n, num_masks = 8, 400
  masks = _uniform(n, num_masks)
  rng = np.random.default_rng(0)
  sets = [[0, 1, 2], [3, 5, n], [6, n, n]]
  x = regress.design(masks, np.array(sets), dtype=np.float64)
  std = np.where(np.arange(num_masks) % 4, 30.0, 0.5)
  values = x @ [1.0, -1.0, 1.0] + std * rng.normal(size=num_masks)
  weights = 1 / std**2
  weights /= weights.mean()
  plain = gram.grow_support(masks, values, _none(), 3)
  found = gram.grow_support(masks, values, _none(), 3, weights=weights)
  assert _sets(found, n) == {(0, 1, 2), (3, 5), (6,)}
  assert _sets(plain, n) != _sets(found, n)


def test_noise_of_unequal_weight_yields_next_to_nothing():
  n, num_masks, count = 8, 300, 0
  for seed in range(20):
    masks = _uniform(n, num_masks, seed)
    rng = np.random.default_rng(seed)
    std = 10.0 ** rng.uniform(-1, 1, num_masks)
    weights = 1 / std**2
    found = gram.grow_support(
      masks,
      std * rng.normal(size=num_masks),
      _none(),
      3,
      weights=weights / weights.mean(),
    )
    count += len(found)
  # A tenth of a set of each of three orders a scan: 6, and few rows weigh.
  assert count <= 14
