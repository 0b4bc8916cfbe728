"""Tests of folding and of least squares on bins, against their definitions."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from spex_jax.datasets import synthetic
from spex_jax.fourier import folding, spex

_N, _B = 9, 3


def _plan(seed=0, n=_N, b=_B, t=2):
  return spex.make_plan(jax.random.key(seed), n, b=b, t=t)


def _terms(plan, sets):
  width = plan.code.t
  rows = np.full((len(sets), width), plan.n, np.int32)
  for row, s in zip(rows, sets, strict=True):
    row[: len(s)] = s
  geometry = folding.make_geometry(plan.affine, plan.code)
  return folding.locate(geometry, rows, jnp.ones(len(sets), bool))


def test_fold_matches_the_double_sum():
  plan = _plan()
  values = np.random.default_rng(0).normal(size=plan.num_masks)
  bins = np.asarray(spex.fold(plan, values))
  grouped = values.reshape(3, plan.affine.num_delays, 1 << _B)
  for c, p, j in itertools.product(range(3), range(3), range(1 << _B)):
    points = range(1 << _B)
    sign = np.array([(-1) ** (j & point).bit_count() for point in points])
    expected = (grouped[c, p] * sign).mean()
    # b rounding steps on numbers of size max|f|, in float32.
    atol = 4 * np.finfo(np.float32).eps * np.abs(values).max()
    np.testing.assert_allclose(bins[c, j, p], expected, rtol=0, atol=atol)


def test_a_character_lands_in_one_bin_of_each_group():
  plan = _plan()
  for s in [(), (3,), (1, 7)]:
    signs = (1.0 - 2.0 * plan.masks())[:, s].prod(axis=1)
    bins = np.asarray(spex.fold(plan, signs))
    terms = _terms(plan, [s])
    expected = np.zeros_like(bins)
    for c in range(3):
      expected[c, int(terms.bins[0, c])] = terms.signs[0, c]
    np.testing.assert_allclose(bins, expected, atol=1e-6)


def test_project_is_the_adjoint_of_expand():
  plan = _plan()
  terms = _terms(plan, [(), (0,), (2, 5), (1, 8)])
  rng = np.random.default_rng(0)
  coefs = jnp.asarray(rng.normal(size=4), jnp.float32)
  bins = jnp.asarray(
    rng.normal(size=(3, 1 << _B, plan.affine.num_delays)), jnp.float32
  )
  left = (folding.expand(terms, coefs, 1 << _B) * bins).sum()
  means = folding.project(terms, bins).sum(axis=1)
  right = (coefs * means).sum() * plan.affine.num_delays
  np.testing.assert_allclose(left, right, rtol=1e-5)


@pytest.mark.slow
def test_solve_is_least_squares_on_the_samples():
  plan = _plan(n=30, b=4, t=3)
  f = synthetic.planted(0, 30, 12, 3)
  masks = plan.masks()
  values = f(masks) + np.random.default_rng(0).normal(size=len(masks))
  sets = [s for s, _ in f.terms()]
  signs = 1.0 - 2.0 * masks
  design = np.stack([signs[:, s].prod(axis=1) for s in sets], axis=1)
  expected = np.linalg.lstsq(design, values, rcond=None)[0]
  bins = spex.fold(plan, values)
  coefs, rest = folding.solve(
    _terms(plan, sets), jnp.zeros(len(sets)), bins, steps=12
  )
  # Twelve steps of conjugate gradients are exact for twelve sets.
  np.testing.assert_allclose(coefs, expected, atol=1e-5)
  left = spex.fold(plan, values - design @ expected)
  np.testing.assert_allclose(rest, left, atol=1e-5)


def test_unused_sets_have_no_part():
  plan = _plan()
  terms = _terms(plan, [(1,), (2,)]).replace(used=jnp.array([True, False]))
  signs = 1.0 - 2.0 * plan.masks()
  bins = spex.fold(plan, 2 * signs[:, 1] + 5 * signs[:, 2])
  coefs, _ = folding.solve(terms, jnp.zeros(2), bins, steps=3)
  assert float(coefs[1]) == 0.0
