"""KernelSHAP against Shapley values by their definition."""

import itertools
import math

import jax
import numpy as np
import pytest

from spex_jax.masks import packing, sampling
from spex_jax.proxies import kernel_shap

_KEY = jax.random.key(0)


def _by_definition(table, n):
  """Mean gain of each player over all orders, by a loop over subsets."""
  values = np.zeros(n)
  for player in range(n):
    others = [i for i in range(n) if i != player]
    for size in range(n):
      weight = 1 / (n * math.comb(n - 1, size))
      for members in itertools.combinations(others, size):
        code = sum(1 << i for i in members)
        values[player] += weight * (table[code | 1 << player] - table[code])
  return values


def _ends(n):
  return np.stack([np.ones(n, bool), np.zeros(n, bool)])


@pytest.mark.parametrize("n", [1, 2, 5, 8])
@pytest.mark.parametrize("scale", [1.0, 1e200])
def test_all_masks_give_shapley_values(n, scale):
  rng = np.random.default_rng(n)
  table = rng.normal(size=(1 << n, 2)) + 1000  # T = 2.
  masks = sampling.enumerate_masks(n)
  scale = np.array([scale, 1 / scale])
  values = table * scale
  found, determined = kernel_shap.solve(
    masks,
    kernel_shap.every_mask_weights(masks),
    values,
    values[-1],
    values[0],
  )
  assert determined
  expected = np.stack([_by_definition(column, n) for column in table.T], 1)
  # 2^n values of size 1,000, each rounded to eps.
  atol = (1 << n) * 1000 * np.finfo(np.float64).eps
  np.testing.assert_allclose(found / scale, expected, rtol=0, atol=atol)
  np.testing.assert_allclose(
    found.sum(axis=0), values[-1] - values[0], rtol=1e-9
  )


@pytest.mark.parametrize(
  "n, num_masks", [(2, 2), (3, 6), (3, 5), (8, 100), (9, 401), (40, 300)]
)
def test_masks_come_in_pairs_and_never_twice(n, num_masks):
  known = np.concatenate([_ends(n), sampling.uniform(_KEY, n - 2, n)])
  masks, weights = kernel_shap.design(_KEY, num_masks, n, known)
  np.testing.assert_array_equal(masks[0::2], ~masks[1::2])
  everything = np.concatenate([_ends(n), masks])
  assert len(packing.distinct_masks(everything).first) == len(everything)
  lists = set(map(tuple, known.tolist()))
  assert not any(tuple(m) in lists or tuple(~m) in lists for m in masks)
  assert (weights > 0).all() and len(weights) == len(masks)
  used = len({min(tuple(m), tuple(~m)) for m in known}) - 1
  room = (1 << n) - 2 - 2 * used
  assert len(masks) == min(num_masks // 2 * 2, room)


def test_weights_make_up_for_the_sampling():
  """Over keys, each size weighs what the kernel gives it."""
  n, total = 10, np.zeros(11)
  for seed in range(40):
    masks, weights = kernel_shap.design(jax.random.key(seed), 60, n, _ends(n))
    total += np.bincount(masks.sum(axis=1), weights, n + 1)
  sizes = np.arange(1, n)
  kernel = 1 / (sizes * (n - sizes))
  # A size has 6 masks or so a key, give or take one: 1 / 6 / sqrt(40).
  np.testing.assert_allclose(
    total[1:n] / total.sum(), kernel / kernel.sum(), rtol=0.1
  )


def test_an_additive_function_is_exact_once_it_is_determined():
  n = 12
  truth = np.random.default_rng(0).normal(size=n)
  for num_masks, enough in ((8, False), (40, True)):
    masks, weights = kernel_shap.design(_KEY, num_masks, n, _ends(n))
    values = (masks @ truth)[:, None] + 3
    found, determined = kernel_shap.solve(
      masks, weights, values, np.array([truth.sum() + 3]), np.array([3.0])
    )
    assert determined == enough
    close = np.allclose(found[:, 0], truth, rtol=0, atol=1e-10)
    assert close == enough
    np.testing.assert_allclose(found.sum(), truth.sum(), atol=1e-10)


def test_other_keys_draw_other_masks():
  first, again, other = (
    kernel_shap.design(jax.random.key(k), 100, 20, _ends(20))[0]
    for k in (0, 0, 1)
  )
  np.testing.assert_array_equal(first, again)
  assert (first != other).any()


@pytest.mark.slow
def test_as_good_as_shapiq_with_as_many_masks():
  """Squared error over 30 seeds of a function of order 3, n = 12."""
  shapiq = pytest.importorskip("shapiq")
  n, budget = 12, 200
  rng = np.random.default_rng(1)
  players = np.stack([rng.permutation(n)[:3] for _ in range(40)])
  coefs = rng.normal(size=40)

  def f(masks):
    return (masks[:, players].all(axis=2) @ coefs)[:, None]

  table = f(sampling.enumerate_masks(n))[:, 0]
  truth = np.bincount(players.ravel(), np.repeat(coefs / 3, 3), n)
  np.testing.assert_allclose(truth.sum(), table[-1] - table[0], atol=1e-12)
  errors = []
  for seed in range(30):
    peer = shapiq.KernelSHAP(n, pairing_trick=True, random_state=seed)
    found = peer.approximate(budget, lambda m: f(m)[:, 0])
    theirs = np.array([float(found[(i,)]) for i in range(n)])
    rows, weights = kernel_shap.design(
      jax.random.key(seed), budget - 2, n, _ends(n)
    )
    ours, _ = kernel_shap.solve(rows, weights, f(rows), f(_ends(n))[0], [0.0])
    errors.append([((x - truth) ** 2).mean() for x in (theirs, ours[:, 0])])
  theirs, ours = np.mean(errors, axis=0)
  # Each mean of 30 has a deviation of a tenth.
  assert 0 < ours < 1.25 * theirs
