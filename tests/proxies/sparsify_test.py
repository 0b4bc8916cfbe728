"""Cuts and refits against their definitions."""

import numpy as np
import pytest

from spex_jax.fourier import regress, sparse
from spex_jax.proxies import boosting, sparsify


def _problem(seed=0, num_masks=200, num_sets=12):
  """Values of a few sets and noise; a proxy that knows them, and others."""
  rng = np.random.default_rng(seed)
  terms = {(): 3.0, (0,): 2.0, (1,): -1.5, (0, 1): 1.0, (2,): 1.0, (5,): 0.7}
  function = sparse.SparseFourier.from_terms(20, terms)
  masks = rng.integers(0, 2, (num_masks, 20)).astype(bool)
  values = function(masks) + 0.3 * rng.normal(size=num_masks)
  others = {(i, i + 1): 0.01 * rng.normal() for i in range(8, 18)}
  function = sparse.SparseFourier.from_terms(
    20, dict(function.terms()) | others
  ).truncate(num_sets)
  return function, masks, values


@pytest.mark.parametrize("power", [0.0, 1.0, 2.0])
def test_ridge_solves_its_normal_equations(power):
  function, masks, values = _problem()
  candidate = sparsify.Candidate("ridge", 12, power, 0.3)
  constants, coefs = sparsify._fit(masks, values, function, [candidate])
  x = regress.design(masks, function.players[1:], 20, dtype=np.float64)
  weight = np.abs(function.coefs[1:]) ** power
  weight /= weight.sum()
  centred = x - x.mean(axis=0)
  y = values - values.mean()
  # The penalty is free of units: times the mean square of the values, as
  # |y|^2 is in units of them, leaves the solution as it is.
  left = centred.T @ (y - centred @ coefs[0]) - 0.3 * coefs[0] / weight
  np.testing.assert_allclose(left, 0, atol=1e-8 * 200)
  np.testing.assert_allclose(
    constants[0], (values - x @ coefs[0]).mean(), rtol=1e-9
  )


@pytest.mark.parametrize("power", [0.0, 0.5, 1.0])
def test_lasso_meets_its_optimality_conditions(power):
  function, masks, values = _problem(1)
  candidate = sparsify.Candidate("lasso", 12, power, 0.1 if power < 1 else 1e-2)
  _, coefs = sparsify._fit(masks, values, function, [candidate])
  x = regress.design(masks, function.players[1:], 20, dtype=np.float64)
  x -= x.mean(axis=0)
  y = values - values.mean()
  weight = (
    np.abs(function.coefs[1:]) / np.abs(function.coefs[1:]).max()
  ) ** power
  slope = weight * (x.T @ (y - x @ coefs[0])) / len(y) / y.std()
  active = coefs[0] != 0
  assert 0 < active.sum() < 12
  # The duality gap 1e-4 of the solver bounds its slopes to about its root.
  tol = 1e-2 * candidate.penalty
  np.testing.assert_allclose(
    slope[active], candidate.penalty * np.sign(coefs[0][active]), atol=tol
  )
  assert np.abs(slope[~active]).max() <= candidate.penalty + tol


def test_relaxed_is_least_squares_on_the_lassos_support():
  function, masks, values = _problem(2)
  grid = [
    sparsify.Candidate(kind, 12, 1.0, 0.01) for kind in ("lasso", "relaxed")
  ]
  constants, coefs = sparsify._fit(masks, values, function, grid)
  active = coefs[0] != 0
  np.testing.assert_array_equal(active, coefs[1] != 0)
  x = regress.design(masks, function.players[1:], 20, dtype=np.float64)
  x = np.column_stack([np.ones(200), x[:, active]])
  expected = np.linalg.lstsq(x, values)[0]
  np.testing.assert_allclose(coefs[1][active], expected[1:], rtol=1e-8)
  np.testing.assert_allclose(constants[1], expected[0], rtol=1e-8)


@pytest.mark.parametrize("scale", [1e-310, 1e-200, 1e160, 1e307])
def test_units_do_not_matter(scale):
  function, masks, values = _problem(2)
  offered = [
    sparsify.Candidate(kind, 12, 1.0, 0.01)
    for kind in ("ridge", "lasso", "relaxed")
  ]
  constants, coefs = sparsify._fit(masks, values, function, offered)
  larger = function.replace(coefs=function.coefs * scale)
  found = sparsify._fit(masks, values * scale, larger, offered)
  # 1e-310 has 13 bits less; penalised fits end at a gap of 1e-4.
  close = {"rtol": 1e-6, "atol": 1e-9}
  np.testing.assert_allclose(found[0] / scale, constants, **close)
  np.testing.assert_allclose(found[1] / scale, coefs, **close)


def test_the_whole_expansion_wins_where_it_is_best():
  """Ten thousand small sets: no cut and no refit of few of them can do."""
  rng = np.random.default_rng(3)
  n = 30
  masks = rng.integers(0, 2, (150, n)).astype(bool)
  pairs = [(i, j) for i in range(n) for j in range(i)]
  triples = [(i, j, k) for i, j in pairs for k in range(j)]
  function = sparse.SparseFourier.from_terms(
    n, [(s, float(rng.normal())) for s in [(), *triples]]
  )
  values = function(masks)
  folds = boosting.spread_folds(150)
  found = sparsify.sparsify(
    masks, values, folds, [function] * 5, function, values
  )
  assert found.candidate.kind == "whole"
  assert str(found.candidate) == "the whole expansion"
  np.testing.assert_array_equal(found.predictions, values)
  assert found.fourier is function


def test_folds_with_fewer_sets_take_part():
  function, masks, values = _problem(4)
  folds = boosting.spread_folds(200)
  poor = function.truncate(0)
  found = sparsify.sparsify(
    masks, values, folds, [function] * 4 + [poor], function, values * 0
  )
  assert np.isfinite(found.predictions).all()
  held = folds == 4
  np.testing.assert_allclose(found.predictions[held], values[~held].mean())


@pytest.mark.parametrize("noise, sure", [(0.3, True), (1.5, False)])
def test_a_refit_that_gains_little_is_averaged_with_the_whole(noise, sure):
  """Coefficients a fifth too small: refits gain, by 14 errors or by 2."""
  function, masks, values = _problem(5)
  rng = np.random.default_rng(6)
  values = function(masks) + noise * rng.normal(size=200)
  small = function.replace(coefs=np.append(3.0, 0.8 * function.coefs[1:]))
  folds = boosting.spread_folds(200)
  guess = small(masks)
  found = sparsify.sparsify(masks, values, folds, [small] * 5, small, guess)
  assert found.candidate.kind in ("ridge", "lasso", "relaxed")
  assert found.candidate.averaged != sure
  if sure:
    gains = (guess - values) ** 2 - (found.predictions - values) ** 2
    assert gains.mean() > 3 * gains.std() / np.sqrt(200)
  else:
    assert str(found.candidate).endswith(", averaged with the whole")
    # Half of what is missed is left, give or take the refit's own error.
    alone = sparsify._apply(
      masks, values, small, found.candidate._replace(averaged=False)
    )
    expected = (alone(masks) + guess) / 2
    np.testing.assert_allclose(found.fourier(masks), expected, rtol=1e-9)
