"""Tests of the screened lasso on planted functions of low order."""

import numpy as np
import pytest

from spex_jax.fourier import lasso, regress, sparse


def _problem(n, num_masks, terms, noise=0.0):
  rng = np.random.default_rng(0)
  truth = sparse.SparseFourier.from_terms(n, terms)
  masks = rng.random((num_masks, n)) < 0.5
  return masks, truth(masks) + noise * rng.normal(size=num_masks)


def _fit(masks, values, order, **settings):
  return lasso.fit_targets(masks, values[:, None], order, **settings)[0]


@pytest.mark.parametrize("n", [12, 60])
def test_planted_pairs_are_exact(n):
  """At n = 60 the 1,770 pairs are screened to under 800 sets."""
  terms = {(): 3.0, (0,): 2.0, (n - 1,): -1.0, (2, 5): 1.0, (0, 7): -0.7}
  masks, values = _problem(n, 200, terms)
  found = dict(_fit(masks, values, 2).terms())
  assert set(found) == set(terms)
  for members, coef in terms.items():
    np.testing.assert_allclose(found[members], coef, atol=1e-10)


def test_pairs_need_no_singles():
  masks, values = _problem(30, 300, {(3, 4): 1.0})
  found = dict(_fit(masks, values, 2).terms())
  assert set(found) == {(), (3, 4)}


def test_order_one_has_no_pairs():
  masks, values = _problem(10, 100, {(1,): 1.0, (3, 4): 1.0})
  fourier = _fit(masks, values, 1)
  assert fourier.orders.max() == 1
  np.testing.assert_allclose(dict(fourier.terms())[(1,)], 1, atol=0.3)


def test_more_players_than_columns():
  masks, values = _problem(3000, 100, {(17,): 5.0, (2999,): -4.0}, noise=0.1)
  fourier = _fit(masks, values, 2, max_columns=80)
  assert len(fourier.coefs) <= 80
  found = dict(fourier.terms())
  np.testing.assert_allclose(found[(17,)], 5, atol=0.5)
  np.testing.assert_allclose(found[(2999,)], -4, atol=0.5)


@pytest.mark.parametrize("value", [0.0, -3.0])
def test_constant(value):
  masks, values = _problem(5, 20, {(): value})
  assert _fit(masks, values, 2).terms() == [((), value)]


def test_deterministic():
  masks, values = _problem(20, 100, {(1,): 1.0, (3, 4): 1.0}, noise=1.0)
  first, again = (_fit(masks, values, 2) for _ in range(2))
  assert first.terms() == again.terms()


@pytest.mark.parametrize("order", [1, 2])
@pytest.mark.parametrize("max_columns", [8, 40, 500])
def test_targets_are_fitted_as_if_alone(order, max_columns):
  masks, first = _problem(12, 150, {(1,): 1.0, (3, 4): 2.0}, noise=0.5)
  _, second = _problem(12, 150, {(5,): 1.0, (0, 9): -2.0}, noise=0.5)
  values = np.stack([first, second], axis=1)
  together = lasso.fit_targets(masks, values, order, max_columns=max_columns)
  for column, found in zip(values.T, together):
    alone = _fit(masks, column, order, max_columns=max_columns)
    expected = dict(alone.terms())
    assert dict(found.terms()).keys() == expected.keys()
    for members, coef in found.terms():
      np.testing.assert_allclose(coef, expected[members], atol=1e-9)


def test_chunks_change_nothing(monkeypatch):
  masks, values = _problem(60, 3000, {(1,): 1.0, (3, 4): 2.0}, noise=0.1)
  whole = dict(_fit(masks, values, 2, max_columns=90).terms())
  monkeypatch.setattr(lasso, "_CELLS", 1)
  monkeypatch.setattr(regress, "_CELLS", 1)
  monkeypatch.setattr(regress, "_ROWS", 100)
  parts = dict(_fit(masks, values, 2, max_columns=90).terms())
  assert parts.keys() == whole.keys()
  for members, coef in parts.items():
    np.testing.assert_allclose(coef, whole[members], atol=1e-6)


def test_other_orders_raise():
  with pytest.raises(ValueError, match="order 1 or 2; got 3"):
    _fit(np.ones((5, 3), bool), np.ones(5), 3)


@pytest.mark.parametrize("max_columns", [1500, 40])
def test_rows_of_no_weight_say_nothing(max_columns):
  masks, values = _problem(12, 300, {(0,): 1.0, (2, 5): -2.0})
  weights = np.where(np.arange(300) % 3, 1.5, 1e-12)
  wrong = np.where(np.arange(300) % 3, values, 50.0 * masks[:, 7])
  found = _fit(masks, wrong, 2, max_columns=max_columns, weights=weights)
  np.testing.assert_allclose(lasso.evaluate(masks, found), values, atol=1e-4)
