"""Energy by layers, against a plain sum over sets."""

import itertools

import numpy as np
import pytest

from spex_jax.components import layer_energy
from spex_jax.fourier import sparse

_LAYERS = ("a", "a", "b", "b", "b", "c")
_TERMS = {
  (): 5.0,
  (0,): 1.0,
  (5,): -2.0,
  (0, 1): 3.0,
  (0, 2): 0.5,
  (2, 3, 4): 1.5,
  (1, 2, 3): 2.0,
}


def test_energy_equals_a_plain_sum():
  found = layer_energy.energy(
    sparse.SparseFourier.from_terms(6, _TERMS), _LAYERS
  )
  within = across = 0.0
  for members, coef in _TERMS.items():
    joined = list(itertools.combinations(members, 2))
    for a, b in joined:
      if _LAYERS[a] == _LAYERS[b]:
        within += coef**2 / len(joined)
      else:
        across += coef**2 / len(joined)
  assert found.layers == ("a", "b", "c")
  np.testing.assert_allclose(found.within, within, rtol=1e-12)
  np.testing.assert_allclose(found.across, across, rtol=1e-12)
  np.testing.assert_array_equal(found.singles, [1.0, 0.0, 4.0])
  np.testing.assert_array_equal(found.pairs, found.pairs.T)
  # Parseval, without the constant.
  total = sum(coef**2 for members, coef in _TERMS.items() if members)
  parts = found.singles.sum() + found.within + found.across
  np.testing.assert_allclose(parts, total, rtol=1e-12)
  np.testing.assert_allclose(found.chance, 4 / 15)
  assert "26.7%" in str(found)


def test_a_function_without_interactions():
  flat = sparse.SparseFourier.from_terms(2, {(0,): 1.0})
  found = layer_energy.energy(flat, ("a", "b"))
  assert found.interaction_share == 0 and np.isnan(found.within_share)
  assert str(found) == "no interactions"
  constant = sparse.SparseFourier.from_terms(1, {(): 1.0})
  assert np.isnan(layer_energy.energy(constant, ("a",)).interaction_share)


def test_layers_of_names():
  names = ("blocks.0.attn 0", "blocks.0.attn 13", "blocks.1.attn 0", "blocks.2")
  assert layer_energy.of_names(names) == (
    "blocks.0.attn", "blocks.0.attn", "blocks.1.attn", "blocks.2",
  )  # fmt: skip


def test_bad_input():
  one = sparse.SparseFourier.from_terms(2, {(0,): 1.0})
  with pytest.raises(ValueError, match="Need 2 layers; got 3"):
    layer_energy.energy(one, "abc")
  with pytest.raises(ValueError, match="one target"):
    layer_energy.energy(sparse.SparseFourier.stack([one, one]), "ab")
