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
_PARAMS = gaussian.start(_N)._replace(
  linear=_RNG.normal(size=_N),
  relevance=_RNG.normal(size=_N),
  amplitude=np.array(0.3),
  noise=np.array(-3.0),
)
_MASKS = sampling.enumerate_masks(_N)
_SIGNS = 1.0 - 2.0 * _MASKS
_LAWS = {"SV": odd.shapley_law, "BV": odd.banzhaf_law}


def _kernel(left, right):
  with jax.enable_x64(True):
    return np.asarray(odd.kernel(_PARAMS, left, right))


def test_the_kernel_is_the_sum_of_its_odd_characters():
  rho = 1 / (1 + np.exp(-_PARAMS.relevance))
  expected = _SIGNS * np.exp(_PARAMS.linear) @ _SIGNS.T
  for members in _MASKS[_MASKS.sum(axis=1) % 2 == 1]:
    character = _SIGNS[:, members].prod(axis=1)
    variance = np.exp(0.3) * rho[members].prod() / (1 + rho).prod()
    expected += variance * np.outer(character, character)
  # 16 terms of size 1 or so.
  np.testing.assert_allclose(_kernel(_SIGNS, _SIGNS), expected, atol=1e-13)


@pytest.mark.parametrize("index", _LAWS)
def test_semivalues_are_those_of_the_expansion(index):
  rows = _RNG.integers(len(_MASKS), size=7)
  weights = _RNG.normal(size=7)
  values = _kernel(_SIGNS, _SIGNS[rows]) @ weights
  fourier, _ = exact.expand(values)
  expected = table.interactions(fourier, index)
  with jax.enable_x64(True):
    found = odd.semivalues(_PARAMS, _SIGNS[rows], weights, _LAWS[index](_N))
  np.testing.assert_allclose(
    found, [expected[i] for i in range(_N)], atol=1e-12
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
