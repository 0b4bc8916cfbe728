"""LIME against scikit-learn's ridge regression, and draws as its package's."""

import jax
import numpy as np
import pytest
from sklearn import linear_model

from spex_jax.masks import packing, sampling
from spex_jax.proxies import lime


def _kernel(masks, width):
  """The weights of the package, from its own words: cosine distances."""
  ones = np.ones(masks.shape[1])
  out = []
  for mask in masks:
    length = np.linalg.norm(mask) * np.linalg.norm(ones)
    distance = 1 - mask @ ones / length if length else 1.0
    out.append(np.sqrt(np.exp(-(distance**2) / width**2)))
  return np.array(out)


@pytest.mark.parametrize("width", [0.25, 1.0])
def test_against_scikit_learn(width):
  masks = sampling.enumerate_masks(6)
  values = np.random.default_rng(0).normal(size=(64, 2))
  weights = lime.weigh(masks, width)
  offset, found = lime.solve(masks, weights, values)
  model = linear_model.Ridge(alpha=1, fit_intercept=True)
  model.fit(masks, values, sample_weight=weights)
  np.testing.assert_allclose(found, model.coef_.T, rtol=0, atol=1e-10)
  np.testing.assert_allclose(offset, model.intercept_, rtol=0, atol=1e-10)


def test_weights_are_kernel_times_draws():
  masks = sampling.enumerate_masks(4)
  draws = lime.weigh(masks) / _kernel(masks.astype(float), 0.25)
  sizes = masks.sum(axis=1)
  np.testing.assert_allclose(draws[sizes == 4], 1)
  # The other 4,999: as many of each size, as many of each mask of a size.
  for size, count in enumerate([1, 4, 6, 4]):
    np.testing.assert_allclose(draws[sizes == size], 4999 / 4 / count)


def test_as_draws_with_repeats_would_have_it():
  """Draws as the package's, half a million for its 5,000."""
  n, num_draws, rng = 5, 500_000, np.random.default_rng(0)
  absent = rng.integers(1, n + 1, num_draws)
  ranks = rng.random((num_draws, n)).argsort(axis=1).argsort(axis=1)
  masks = np.concatenate([np.ones((num_draws // 4999, n), bool),
                          ranks >= absent[:, None]])  # fmt: skip
  table = rng.normal(size=32)
  codes = masks @ (1 << np.arange(n))
  model = linear_model.Ridge(alpha=num_draws / 5000)
  weights = _kernel(sampling.enumerate_masks(n).astype(float), 0.25)[codes]
  model.fit(masks, table[codes], sample_weight=weights)
  every = sampling.enumerate_masks(n)
  _, found = lime.solve(every, lime.weigh(every), table[:, None])
  # Shares of 10^5 draws are within 1 % or so, and values of size 1.
  np.testing.assert_allclose(found[:, 0], model.coef_, rtol=0, atol=0.02)


def test_masks_of_every_size():
  ends = np.stack([np.ones(12, bool), np.zeros(12, bool)])
  masks = lime.design(jax.random.key(0), 500, 12, ends)
  everything = np.concatenate([ends, masks])
  assert len(packing.distinct_masks(everything).first) == 502
  assert set(masks.sum(axis=1)) == set(range(1, 12))
