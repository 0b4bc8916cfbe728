"""Tests of exact expansions against the defining sums."""

import itertools

import numpy as np
import pytest

from spex_jax.fourier import exact
from spex_jax.masks import sampling


@pytest.mark.parametrize("n", [0, 1, 2, 5])
@pytest.mark.parametrize("scale", [1.0, 1e-300, 1e300])
def test_matches_the_defining_sums(n, scale):
  values = np.random.default_rng(n).normal(size=2**n)
  fourier, score = exact.expand(values * scale)
  assert score == 1 and fourier.terms()[0][0] == ()
  found = dict(fourier.terms())
  masks = sampling.enumerate_masks(n)
  for size in range(n + 1):
    for members in itertools.combinations(range(n), size):
      signs = np.prod(np.where(masks[:, list(members)], -1.0, 1.0), axis=1)
      np.testing.assert_allclose(
        found[members] / scale, (values * signs).mean(), rtol=0, atol=1e-14
      )
  strengths = [abs(c) for _, c in fourier.terms()[1:]]
  assert strengths == sorted(strengths, reverse=True)


def test_rounding_is_dropped():
  masks = sampling.enumerate_masks(10)
  values = 0.1 * masks[:, 3] * masks[:, 9] + 1000.3
  fourier, _ = exact.expand(values)
  found = dict(fourier.terms())
  assert set(found) == {(), (3,), (9,), (3, 9)}
  np.testing.assert_allclose(found[(3, 9)], 0.025, rtol=1e-9)


def test_max_order_reports_what_it_leaves():
  masks = sampling.enumerate_masks(3)
  signs = 1.0 - 2 * masks
  values = 3 * signs[:, 0] + 4 * signs[:, 1] * signs[:, 2]
  fourier, score = exact.expand(values, 1)
  assert [members for members, _ in fourier.terms()] == [(), (0,)]
  np.testing.assert_allclose(score, 9 / 25)


def test_constant_and_zero():
  for value in (0.0, -2.0):
    fourier, score = exact.expand(np.full(8, value))
    assert fourier.terms() == [((), value)] and score == 1


def test_bad_input():
  with pytest.raises(ValueError, match="got 3"):
    exact.expand(np.ones(3))
  with pytest.raises(ValueError, match="NaN or infinity"):
    exact.expand([1.0, np.nan])
