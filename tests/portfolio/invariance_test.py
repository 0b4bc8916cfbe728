"""No decoder minds the offset or the units of a function's values.

Beside an offset of 1e11 float64 resolves 1.5e-5: that much of noise, and no
more, may an answer take up; a change of units costs rounding alone.
"""

import functools

import jax
import numpy as np
import pytest

import spex_jax as spex
from spex_jax.components import coar
from spex_jax.influence import datamodels

_N, _BUDGET = 8, 200
_METHODS = (
  "auto", "gram", "lasso", "exact", "occlusion", "lime", "kernelshap",
  *(pytest.param(method, marks=pytest.mark.slow)
    for method in ("spex", "proxyspex", "gaussian")),
)  # fmt: skip
_CHANGES = ((1.0, 1e9), (1.0, -1e11), (1e-9, 0.0), (1e9, 0.0), (1e-9, -10.0))


def _function(masks):
  return (
    masks[:, 0]
    - 2.0 * masks[:, 1]
    + 3.0 * (masks[:, 2] & masks[:, 3])
    + 1.5 * (masks[:, 4] & masks[:, 5] & masks[:, 6])
  )


@functools.cache
def _explained(method, scale, offset):
  n = 6 if method == "exact" else _N
  value = _function
  if n < _N:
    value = lambda m: m[:, 0] - 2.0 * (m[:, 1] & m[:, 4])
  return spex.explain(
    lambda m: scale * value(m) + offset,
    n,
    budget=_BUDGET,
    key=jax.random.key(0),
    method=method,
    max_order=2 if method == "spex" else None,
  )


@pytest.mark.slow_where(
  "1e-09", "1.0--100000000000.0", "1000000000.0-kernelshap"
)
@pytest.mark.parametrize("method", _METHODS)
@pytest.mark.parametrize("scale, offset", _CHANGES)
def test_offset_and_units_change_nothing(method, scale, offset):
  plain = _explained(method, 1.0, 0.0)
  other = _explained(method, scale, offset)
  # What float64 leaves of the values, a few times; float32 within decoders.
  lost = np.spacing(abs(offset)) / scale
  near = 1e-3 + 20 * lost
  assert other.faithfulness == pytest.approx(plain.faithfulness, abs=near)
  if method in ("exact", "gram", "occlusion", "lime", "kernelshap"):
    sets = [{s for s, _ in one.fourier.terms() if s} for one in (plain, other)]
    assert sets[0] == sets[1]
  expected, found = (one.interactions("SV") for one in (plain, other))
  for player in range(plain.fourier.n):
    assert found[player] / scale == pytest.approx(expected[player], abs=near)
  np.testing.assert_allclose(
    (other.fourier(np.ones((1, plain.fourier.n), bool)) - offset) / scale,
    plain.fourier(np.ones((1, plain.fourier.n), bool)),
    atol=near,
  )
  assert other.noise_floor == 0
  assert not any("determin" in note for note in other.notes)


@pytest.mark.parametrize("offset", [3e9, -1e11])
def test_regressions_on_masks_do_not_mind_an_offset(offset):
  masks = np.random.default_rng(0).random((120, _N)) < 0.5
  values = _function(masks)
  for fit in (datamodels.ridge, datamodels.lasso, coar.fit):
    plain, other = fit(masks, values), fit(masks, values + offset)
    np.testing.assert_allclose(other.scores, plain.scores, atol=1e-3)


def test_a_goal_is_not_met_by_an_offset():
  asked = [
    spex.explain(
      lambda m, by=by: _function(m) + by,
      _N,
      key=jax.random.key(0),
      budget=250,
      method="lasso",
      max_order=1,
      target_faithfulness=0.99,
    )
    for by in (0.0, 1e10)
  ]
  assert asked[0].num_evaluations == asked[1].num_evaluations == 250
  assert "NOT reached" in asked[1].notes[0]


def test_noise_is_not_hidden_by_an_offset():
  rng = np.random.default_rng(0)
  noisy = lambda m: _function(m) + 1e9 + rng.normal(size=len(m))
  answer = spex.explain(
    noisy, _N, key=jax.random.key(0), budget=150, method="lasso"
  )
  assert 0.1 < answer.noise_floor < 3
  assert any("not deterministic" in note for note in answer.notes)


def test_an_expansion_that_knows_nothing_has_no_r2():
  constant = spex.SparseFourier.from_terms(_N, [((), 1e10)])
  answer = spex.assess(
    lambda m: _function(m) + 1e10, constant, key=jax.random.key(0)
  )
  assert answer.faithfulness <= 0
