"""Planted functions have the spectra they claim, and noise is a function."""

import itertools
import pathlib
import subprocess
import sys

import jax
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from spex_jax.datasets import synthetic


def _all_masks(n):
  return np.asarray(list(itertools.product([False, True], repeat=n)))


def _value_by_definition(function, mask):
  total = 0.0
  for members, coef in function.terms():
    total += coef * (-1) ** sum(bool(mask[i]) for i in members)
  return total


@pytest.mark.slow
@settings(deadline=None, max_examples=25)
@given(
  seed=st.integers(0, 2**32),
  n=st.integers(1, 9),
  num_terms=st.integers(0, 5),
  hierarchical=st.booleans(),
)
def test_spectrum_is_what_was_planted(seed, n, num_terms, hierarchical):
  order = min(3, n)
  num_terms = min(num_terms, n)
  function = synthetic.planted(
    seed, n, num_terms, order, hierarchical=hierarchical
  )
  masks = _all_masks(n)
  values = function(masks)
  expected = [_value_by_definition(function, mask) for mask in masks]
  np.testing.assert_allclose(values, expected, rtol=0, atol=1e-13)
  # F(S) = E[f chi_S], by definition, on the planted sets.
  for members, coef in function.terms():
    signs = (-1.0) ** masks[:, list(members)].sum(axis=1)
    # Sums of at most 5 terms of size 1: a few roundings.
    np.testing.assert_allclose((values * signs).mean(), coef, atol=1e-13)
  np.testing.assert_allclose(values.var(), function.variance, atol=1e-13)
  sets = [members for members, _ in function.terms()]
  assert len(set(sets)) == len(sets) == num_terms
  assert all(1 <= len(s) <= order for s in sets)


def test_many_terms_run_in_chunks():
  function = synthetic.planted(3, 40, 75, 4)
  masks = np.random.default_rng(0).random((6, 40)) < 0.5
  expected = [_value_by_definition(function, mask) for mask in masks]
  np.testing.assert_allclose(function(masks), expected, rtol=0, atol=1e-12)


def test_hierarchical_sets_contain_a_planted_parent():
  function = synthetic.planted(5, 30, 60, 4, hierarchical=True)
  sets = {members for members, _ in function.terms()}
  assert max(map(len, sets)) == 4
  for members in sets:
    parents = itertools.combinations(members, len(members) - 1)
    assert len(members) == 1 or sets & set(parents), members


def test_flat_orders_are_even_and_every_set_can_be_drawn():
  function = synthetic.planted(5, 1000, 400, 4)
  orders = (function.players < 1000).sum(axis=1)
  # 100 each, standard deviation 8.7: 5 of them are 43.
  np.testing.assert_allclose(np.bincount(orders)[1:], 100, atol=43)
  everything = synthetic.planted(5, 4, 16, 4, min_order=0)
  assert len({members for members, _ in everything.terms()}) == 16


def test_magnitudes_and_seeds():
  args = {"n": 50, "num_terms": 20, "max_order": 3, "magnitudes": (1.0, 1.0)}
  one = synthetic.planted(7, **args)
  assert set(np.abs(one.coefs)) == {1.0}
  again = synthetic.planted(7, **args)
  np.testing.assert_array_equal(one.players, again.players)
  np.testing.assert_array_equal(one.coefs, again.coefs)
  assert synthetic.planted(8, **args).terms() != one.terms()
  assert synthetic.planted((7, 1), **args).terms() != one.terms()
  key = jax.random.key(7)
  assert synthetic.planted(key, **args).terms() == (
    synthetic.planted(key, **args).terms()
  )


def test_huge_player_counts_are_cheap():
  function = synthetic.planted(1, 100_000, 300, 3)
  assert function.players.shape == (300, 3)
  assert function.players.dtype == np.int32


def test_noise_is_a_function_of_seed_and_mask():
  rng = np.random.default_rng(0)
  masks = rng.random((4000, 70)) < 0.5
  noise = synthetic.hash_normal(11, masks)
  shuffled = rng.permutation(len(masks))
  np.testing.assert_array_equal(
    synthetic.hash_normal(11, masks[shuffled]), noise[shuffled]
  )
  other = synthetic.hash_normal(12, masks)
  # Standard normal moments of 4,000 draws; 5 standard errors each.
  assert abs(noise.mean()) < 5 / np.sqrt(4000)
  assert abs(noise.var() - 1) < 5 * np.sqrt(2 / 4000)
  assert abs((noise**4).mean() - 3) < 5 * np.sqrt(96 / 4000)
  assert abs((noise * other).mean()) < 5 / np.sqrt(4000)
  # No character of low order shows through the hash.
  for column in range(5):
    signs = 1 - 2.0 * masks[:, column]
    assert abs((noise * signs).mean()) < 5 / np.sqrt(4000)


def test_noise_of_neighbouring_masks_is_unrelated():
  masks = np.zeros((65, 64), bool)
  masks[np.arange(64), np.arange(64)] = True
  assert len(set(synthetic.hash_normal(0, masks))) == 65
  wider = np.zeros((65, 66), bool)
  wider[:, :64] = masks
  assert not set(synthetic.hash_normal(0, masks)) & set(
    synthetic.hash_normal(0, wider)
  )


def test_decibels():
  function = synthetic.planted(2, 60, 30, 3)
  std = synthetic.noise_std(function.variance, 10.0)
  np.testing.assert_allclose(std**2 * 10, function.variance)
  masks = np.random.default_rng(1).random((5000, 60)) < 0.5
  asked = synthetic.noisy(function, 3, std)
  error = asked(masks) - function(masks)
  np.testing.assert_array_equal(asked(masks), asked(masks))
  # 5 standard errors of a variance from 5,000 draws.
  np.testing.assert_allclose(error.var(), std**2, rtol=5 * np.sqrt(2 / 5000))


@pytest.mark.parametrize(
  "kwargs, message",
  [
    ({"n": 3, "num_terms": 8, "max_order": 3}, "num_terms must lie in 0..7"),
    ({"n": 3, "num_terms": 1, "max_order": 4}, "max_order <= n"),
    ({"n": 3, "num_terms": 1, "max_order": 2, "magnitudes": (0, 1)}, "0 < low"),
    (
      {
        "n": 3,
        "num_terms": 1,
        "max_order": 2,
        "min_order": 2,
        "hierarchical": True,
      },
      "start at order 1",
    ),
  ],
)
def test_bad_requests_are_refused(kwargs, message):
  with pytest.raises(ValueError, match=message):
    synthetic.planted(0, **kwargs)


def test_bad_masks_and_noise_are_refused():
  function = synthetic.planted(0, 4, 2, 2)
  with pytest.raises(ValueError, match=r"must be \[B, 4\]"):
    function(np.zeros((2, 5), bool))
  with pytest.raises(ValueError, match="std must be finite"):
    synthetic.noisy(function, 0, float("nan"))


def test_needs_numpy_alone():
  """The file runs where JAX is not: peers are fed by it."""
  path = pathlib.Path(synthetic.__file__)
  code = (
    "import sys; sys.modules['jax'] = None; import importlib.util as u;"
    f"s = u.spec_from_file_location('synthetic', {str(path)!r});"
    "m = u.module_from_spec(s); sys.modules['synthetic'] = m;"
    "s.loader.exec_module(m); print(m.planted(1, 9, 3, 2).coefs.sum())"
  )
  done = subprocess.run(
    [sys.executable, "-c", code], capture_output=True, text=True, check=True
  )
  assert float(done.stdout) == synthetic.planted(1, 9, 3, 2).coefs.sum()
