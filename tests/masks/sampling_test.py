"""Tests of random masks: distributions at fixed keys, and exact counts.

Chi-square bounds are the 1 - 1e-4 quantile; keys are fixed, so a test that
passes always passes.
"""

import hypothesis
import jax
import numpy as np
import pytest
from hypothesis import strategies as st
from scipy import special, stats

from spex_jax.masks import packing, sampling


def _index(masks):
  return masks @ (1 << np.arange(masks.shape[1]))


def _assert_follows(counts, shares):
  shares = np.asarray(shares, float)
  assert counts[shares == 0].sum() == 0
  counts, shares = counts[shares > 0], shares[shares > 0]
  expected = counts.sum() * shares / shares.sum()
  statistic = ((counts - expected) ** 2 / expected).sum()
  assert statistic < stats.chi2.ppf(1 - 1e-4, len(counts) - 1)


@pytest.mark.parametrize("n", [0, 1, 2, 5])
def test_enumerate_by_definition(n):
  masks = sampling.enumerate_masks(n)
  assert masks.shape == (2**n, n) and masks.dtype == np.bool_
  for i, mask in enumerate(masks):
    assert [bool(i >> j & 1) for j in range(n)] == mask.tolist()


def test_uniform_masks_are_equally_likely():
  masks = sampling.uniform(jax.random.key(0), 32000, 5)
  _assert_follows(np.bincount(_index(masks), minlength=32), np.ones(32))


def test_uniform_beyond_a_word():
  masks = sampling.uniform(jax.random.key(1), 4000, 70)
  # 5 standard deviations of a mean, and of a correlation, of 4,000 draws.
  bound = 5 / np.sqrt(4000)
  signs = 1.0 - 2 * masks
  second = signs.T @ signs / 4000 - np.eye(70)
  assert np.abs(signs.mean(axis=0)).max() < bound
  assert np.abs(second).max() < bound


@pytest.mark.parametrize("keep", [0.2, [0.0, 0.1, 0.5, 0.9, 1.0]])
def test_biased(keep):
  masks = sampling.biased(jax.random.key(0), 20000, 5, keep)
  keep = np.broadcast_to(keep, 5)
  bound = 5 * np.sqrt(keep * (1 - keep) / 20000)
  assert (np.abs(masks.mean(axis=0) - keep) <= bound).all()


@pytest.mark.parametrize(
  "weights",
  [
    sampling.shapley_weights(5),
    np.array([3.0, 0, 1, 0, 0, 4]),
  ],
)
def test_by_size(weights):
  masks = sampling.by_size(jax.random.key(0), 30000, 5, weights)
  sizes = sampling.enumerate_masks(5).sum(axis=1)
  shares = weights[sizes] / special.comb(5, sizes)
  _assert_follows(np.bincount(_index(masks), minlength=32), shares)


def test_known_weights():
  # 1 / (s (4 - s)) for s = 1, 2, 3: 1/3, 1/4, 1/3.
  np.testing.assert_allclose(
    sampling.shapley_weights(4), np.array([0, 4, 3, 4, 0]) / 11
  )
  for n in (0, 1):
    with pytest.raises(ValueError, match="n >= 2 players"):
      sampling.shapley_weights(n)


def test_complementary():
  masks = sampling.uniform(jax.random.key(0), 7, 9)
  pairs = sampling.complementary(masks)
  np.testing.assert_array_equal(pairs[::2], masks)
  np.testing.assert_array_equal(pairs[1::2], ~masks)


@hypothesis.settings(deadline=None, max_examples=30)
@hypothesis.given(
  n=st.integers(0, 7),
  share=st.floats(0, 1),
  num_excluded=st.integers(0, 40),
  seed=st.integers(0, 99),
)
def test_distinct_never_repeats_nor_returns_excluded(
  n, share, num_excluded, seed
):
  exclude = np.random.default_rng(seed).random((num_excluded, n)) < 0.5
  excluded = set(_index(exclude).tolist())
  num_masks = int(share * (2**n - len(excluded)))
  masks = sampling.distinct(jax.random.key(seed), num_masks, n, exclude=exclude)
  found = _index(masks).tolist()
  assert len(set(found)) == len(found) == num_masks
  assert not excluded & set(found)


def test_distinct_takes_all_there_are():
  masks = sampling.distinct(jax.random.key(0), 64, 6)
  assert sorted(_index(masks).tolist()) == list(range(64))


@pytest.mark.slow_where("None")
@pytest.mark.parametrize("weights", [None, np.array([0, 1.0, 2, 6, 0])])
def test_distinct_follows_its_distribution(weights):
  """Small n ranks all masks; the first two rows are successive draws."""
  sizes = sampling.enumerate_masks(4).sum(axis=1)
  shares = np.ones(16)
  if weights is not None:
    shares = weights[sizes] / special.comb(4, sizes)
  shares = shares / shares.sum()
  pairs = np.zeros((16, 16))
  for key in jax.random.split(jax.random.key(3), 2000):
    first, second = _index(sampling.distinct(key, 2, 4, weights=weights))
    pairs[first, second] += 1
  _assert_follows(pairs.sum(axis=1), shares)
  left = np.where(np.eye(16) > 0, 0, np.broadcast_to(shares, (16, 16)))
  joint = shares[:, None] * left / (1 - shares)[:, None]
  _assert_follows(pairs.sum(axis=0), joint.sum(axis=0))


@pytest.mark.parametrize("n", [17, 100])
def test_distinct_by_rejection(n):
  """Beyond small n: sizes 1 and n - 1 are drawn empty, the rest filled."""
  weights = np.zeros(n + 1)
  weights[[1, n - 1]] = 1
  all_of_them = sampling.distinct(jax.random.key(0), 2 * n, n, weights=weights)
  assert len(packing.distinct_masks(all_of_them).first) == 2 * n
  assert set(all_of_them.sum(axis=1).tolist()) == {1, n - 1}
  others = sampling.distinct(
    jax.random.key(0), n, n, weights=weights, exclude=np.eye(n, dtype=bool)
  )
  assert (others.sum(axis=1) == n - 1).all()
  with pytest.raises(ValueError, match=f"there are {2 * n}"):
    sampling.distinct(jax.random.key(0), 2 * n + 1, n, weights=weights)


def test_distinct_takes_nearly_all_of_many():
  masks = sampling.distinct(jax.random.key(0), 2**17, 17)
  np.testing.assert_array_equal(np.sort(_index(masks)), np.arange(2**17))
  some = sampling.distinct(
    jax.random.key(1), 2**17 - 900, 17, exclude=masks[:900]
  )
  assert set(_index(some)) == set(_index(masks[900:]))


def test_used_up_weights_are_ranked_where_masks_can_be_listed():
  """Sizes 0 and 17 take all draws; the rest comes by rank."""
  weights = np.zeros(18)
  weights[[0, 17]], weights[2] = 1, 1e-30
  masks = sampling.distinct(jax.random.key(0), 50, 17, weights=weights)
  assert np.bincount(masks.sum(axis=1)).tolist()[:3] == [1, 0, 48]
  assert len(packing.distinct_masks(masks).first) == 50


def test_hopeless_weights_raise():
  weights = np.zeros(31)
  weights[0], weights[2] = 1, 1e-30
  with pytest.raises(RuntimeError, match="Only 1 of 5 distinct masks"):
    sampling.distinct(jax.random.key(0), 5, 30, weights=weights)


def test_deterministic_in_the_key():
  samplers = [
    lambda key: sampling.uniform(key, 20, 40),
    lambda key: sampling.biased(key, 20, 40, 0.3),
    lambda key: sampling.by_size(key, 20, 40, sampling.shapley_weights(40)),
    lambda key: sampling.distinct(key, 20, 40),
    lambda key: sampling.distinct(key, 20, 8),
  ]
  for sample in samplers:
    one, again, other = (sample(jax.random.key(k)) for k in (0, 0, 1))
    np.testing.assert_array_equal(one, again)
    assert (one != other).any()


@pytest.mark.parametrize("n", [0, 1])
@pytest.mark.parametrize("num_masks", [0, 1])
def test_smallest_sizes(n, num_masks):
  key = jax.random.key(0)
  weights = np.ones(n + 1)
  for masks in (
    sampling.uniform(key, num_masks, n),
    sampling.biased(key, num_masks, n, 0.5),
    sampling.by_size(key, num_masks, n, weights),
    sampling.distinct(key, num_masks, n),
    sampling.distinct(key, num_masks, n, weights=weights),
  ):
    assert masks.shape == (num_masks, n) and masks.dtype == np.bool_


@pytest.mark.parametrize(
  "call, message",
  [
    (lambda key: sampling.uniform(key, -1, 3), "num_masks >= 0"),
    (lambda key: sampling.uniform(key, 1, -3), "n >= 0"),
    (lambda key: sampling.biased(key, 1, 3, 1.5), "from 0 to 1"),
    (lambda key: sampling.biased(key, 1, 3, np.nan), "from 0 to 1"),
    (lambda key: sampling.biased(key, 1, 3, [0.5]), "one probability or 3"),
    (lambda key: sampling.by_size(key, 1, 3, np.ones(3)), "each size 0..3"),
    (lambda key: sampling.by_size(key, 1, 3, np.zeros(4)), "not all 0"),
    (lambda key: sampling.by_size(key, 1, 1, [1, -1]), "must be finite"),
    (lambda key: sampling.distinct(key, 9, 3), "there are 8"),
    (
      lambda key: sampling.distinct(key, 8, 3, exclude=np.zeros((2, 3))),
      "there are 7 not excluded",
    ),
    (lambda key: sampling.enumerate_masks(25), "at most n=24"),
  ],
)
def test_bad_input(call, message):
  with pytest.raises(ValueError, match=message):
    call(jax.random.key(0))


@pytest.mark.parametrize("shape", [(3, 5), (0, 7), (2, 1 << 17)])
def test_coins_are_those_of_bernoulli(shape):
  key = jax.random.key(3)
  expected = np.asarray(jax.random.bernoulli(key, 0.5, shape))
  np.testing.assert_array_equal(sampling.coins(key, shape), expected)
