"""Pairs in the p-biased basis: planted ones are found, and expanded exactly."""

import dataclasses

import numpy as np
import pytest

from spex_jax.components import component_pairs
from spex_jax.indices import judging

_N = 12


def _planted(num_masks=3000, keep=0.85, noise=0.05, seed=0):
  """Two targets: one with two pairs, one without any."""
  rng = np.random.default_rng(seed)
  masks = rng.random((num_masks, _N)) < keep
  m = masks.astype(float)
  singles = np.random.default_rng(1).normal(size=(2, _N))
  values = m @ singles.T + 2.0
  values[:, 0] += 1.5 * m[:, 1] * m[:, 4] - 2.0 * m[:, 3] * m[:, 9]
  return masks, values + noise * rng.normal(size=values.shape), singles


@pytest.fixture(scope="module")
def model():
  masks, values, _ = _planted()
  return component_pairs.fit(masks, values, keep=0.85, most_pairs=20)


def test_planted_pairs_are_found_with_their_effects(model):
  (first, effect), (second, other) = model.strongest(0, 2)
  assert (first, second) == ((3, 9), (1, 4))
  # 2,400 masks of noise .05, of which some 2 % drop both.
  np.testing.assert_allclose([effect, other], [-2.0, 1.5], atol=0.05)
  assert np.abs(model.weights[1]).max() < 0.01
  # Effects on average over the others: 1.5 * .85 of the pair goes to each.
  _, _, singles = _planted()
  alone = model.singles / np.sqrt(0.85 * 0.15)
  np.testing.assert_allclose(alone[1], singles[1], atol=0.05)
  np.testing.assert_allclose(alone[0, 4], singles[0, 4] + 1.5 * 0.85, atol=0.05)
  assert "help" in model.notes[0]


def test_it_predicts_other_shares_where_the_first_order_does_not(model):
  masks, values, _ = _planted(500, keep=0.5, noise=0.0, seed=7)
  with_pairs = judging.correlation(model, masks, values).per_target
  first = dataclasses.replace(model, weights=0 * model.weights)
  alone = judging.correlation(first, masks, values).per_target
  assert with_pairs[0] > 0.999 > 0.97 > alone[0]
  np.testing.assert_allclose(with_pairs[1], alone[1], atol=1e-3)


def test_its_fourier_expansion_is_the_same_function(model):
  masks = np.random.default_rng(3).random((64, _N)) < 0.4
  expected = model(masks)
  for target in (0, 1):
    got = np.asarray(model.fourier(target)(masks))
    # Some 80 terms in float32.
    np.testing.assert_allclose(got, expected[:, target], rtol=0, atol=1e-4)
  assert model.fourier().num_targets == 2


def test_idle_components_and_few_masks():
  masks, values, _ = _planted(200)
  masks[:, 0] = True
  found = component_pairs.fit(masks, values)
  assert not found.singles[:, 0].any()
  assert not (found.weights != 0)[:, (found.pairs == 0).any(axis=1)].any()
  assert np.isfinite(found(masks)).all()
  single = component_pairs.fit(masks[:, :2], values[:, 0])
  assert len(single.pairs) == 0 and single(masks[:, :2]).shape == (200, 1)


@pytest.mark.parametrize(
  ("call", "error", "message"),
  [
    (
      lambda m, v: component_pairs.fit(m[:9], v[:9]),
      ValueError,
      "at least 10 masks; got 9",
    ),
    (lambda m, v: component_pairs.fit(m, v, keep=1.0), ValueError, "between 0"),
    (lambda m, v: component_pairs.fit(m, v * np.nan), ValueError, "NaN or inf"),
    (
      lambda m, v: component_pairs.fit(m, v).strongest(2, 1),
      IndexError,
      "No target 2",
    ),
  ],
)
def test_bad_input_is_refused(call, error, message):
  masks, values, _ = _planted(40)
  with pytest.raises(error, match=message):
    call(masks, values)
