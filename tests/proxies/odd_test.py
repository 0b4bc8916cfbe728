"""The odd process against sums over all characters, and its semivalues."""

import jax
import numpy as np
import pytest

from spex_jax.fourier import exact
from spex_jax.indices import table
from spex_jax.masks import sampling
from spex_jax.proxies import gaussian, odd

_N = 5
_RNG = np.random.default_rng(0)
_PARAMS = odd.Params(
  gaussian.start(_N)._replace(
    linear=_RNG.normal(size=_N),
    relevance=_RNG.normal(size=_N),
    amplitude=np.array(0.3),
    noise=np.array(-3.0),
  ),
  index=_RNG.normal(size=_N),
  size=np.array(0.2),
  share=np.array(0.5),
)
_PRODUCT = _PARAMS._replace(index=np.zeros(_N))
_MASKS = sampling.enumerate_masks(_N)
_SIGNS = 1.0 - 2.0 * _MASKS
_LAWS = {"SV": odd.shapley_law, "BV": odd.banzhaf_law}


def _kernel(params, left, right):
  with jax.enable_x64(True):
    return np.asarray(odd.kernel(params, left, right))


def test_the_product_kernel_is_the_sum_of_its_odd_characters():
  rho = 1 / (1 + np.exp(-_PARAMS.product.relevance))
  expected = _SIGNS * np.exp(_PARAMS.product.linear) @ _SIGNS.T
  for members in _MASKS[_MASKS.sum(axis=1) % 2 == 1]:
    character = _SIGNS[:, members].prod(axis=1)
    variance = np.exp(0.3) * rho[members].prod() / (1 + rho).prod()
    expected += variance * np.outer(character, character)
  # 16 terms of size 1 or so.
  np.testing.assert_allclose(
    _kernel(_PRODUCT, _SIGNS, _SIGNS), expected, atol=1e-13
  )


def test_the_kernel_is_the_odd_part_of_its_definition():
  rho = 1 / (1 + np.exp(-_PARAMS.product.relevance))
  index, share = np.exp(0.2) * _PARAMS.index, 1 / (1 + np.exp(-0.5))

  def whole(left, right):
    bend = np.exp(-(((left - right) @ index) ** 2) / 2)
    product = np.prod((1 + rho * left * right) / (1 + rho))
    return np.exp(0.3) * product * (1 - share + share * bend)

  linear = np.exp(_PARAMS.product.linear)
  expected = [
    [
      (whole(left, right) - whole(-left, right)) / 2 + left * linear @ right
      for right in _SIGNS
    ]
    for left in _SIGNS
  ]
  actual = _kernel(_PARAMS, _SIGNS, _SIGNS)
  np.testing.assert_allclose(actual, expected, atol=1e-13)  # Sizes of 1 or so.
  assert np.abs(actual - _kernel(_PRODUCT, _SIGNS, _SIGNS)).max() > 0.1
  padding = np.zeros((1, _N))
  np.testing.assert_array_equal(_kernel(_PARAMS, padding, _SIGNS), 0)


@pytest.mark.parametrize("index", _LAWS)
@pytest.mark.parametrize("params", [_PARAMS, _PRODUCT])
def test_semivalues_are_those_of_the_expansion(params, index):
  rows = _RNG.integers(len(_MASKS), size=7)
  weights = _RNG.normal(size=7)
  values = _kernel(params, _SIGNS, _SIGNS[rows]) @ weights
  fourier, _ = exact.expand(values)
  expected = table.interactions(fourier, index)
  with jax.enable_x64(True):
    found = odd.semivalues(params, _SIGNS[rows], weights, _LAWS[index](_N))
  # The cosines leave out 2e-11 of the bend.
  np.testing.assert_allclose(
    found, [expected[i] for i in range(_N)], atol=1e-10
  )


def test_pairs_that_are_exact_are_met_and_others_left_out():
  """Noise on all but the first; each left-out value by a fit without it."""
  masks = _MASKS[_RNG.permutation(16) + 16]  # One of each pair.
  values = (1.0 - 2.0 * masks) @ np.arange(1.0, 6.0)
  values += _RNG.normal(size=16)
  first = np.arange(16) == 0
  found = odd.fit(masks, values, first, odd.shapley_law(_N))
  assert found.fitted[0] == pytest.approx(values[0], abs=1e-5)
  # A value left out is farther than one that is fitted.
  inside, outside = values - found.fitted, values - found.left_out
  assert (np.abs(outside[1:]) > np.abs(inside[1:])).all()
  assert 0 < found.noise_std < values.std()
  # Units are free.
  again = odd.fit(masks, values * 1e200, first, odd.shapley_law(_N))
  np.testing.assert_allclose(again.values / 1e200, found.values, rtol=1e-6)


def test_a_value_left_out_was_seen_by_nothing():
  """Of a step, which parameters that had seen it would meet."""
  rng = np.random.default_rng(1)
  masks = rng.random((140, 10)) < 0.5  # More pairs than those of two mixed.
  values = np.sign((1.0 - 2.0 * masks) @ rng.integers(1, 10, 10) + 0.5)
  ends = np.arange(140) == 0
  before = odd.fit(masks, values, ends, odd.shapley_law(10))
  for pair in (7, 30):
    changed = np.where(np.arange(140) == pair, -values, values)  # Of one size.
    after = odd.fit(masks, changed, ends, odd.shapley_law(10))
    # The inverse, of a condition of 1e8 at most, is another.
    assert after.left_out[pair] == pytest.approx(
      before.left_out[pair], abs=1e-5
    )
    assert np.abs(after.left_out - before.left_out).max() > 0.1
