"""Expansions of citations, and how good they are, against their definitions."""

import jax
import numpy as np
import pytest

from spex_jax import context
from spex_jax.context import fitting
from tests.context import games

_KEY = jax.random.key(0)


def test_r2_is_of_the_expansion_on_masks_that_it_has_not_seen():
  weights = np.linspace(-1, 2, 10)
  odds = lambda m: m @ weights + 2.0 * (m[:, 1] & m[:, 7]) + m[:, 2] * m[:, 3]
  game = games.Rule(10, odds, lambda m: odds(m) > 2)
  found = context.cite(game, key=_KEY, budget=64, method="lasso")
  record, value = found._record, found.scores.of("log_probability")
  assert len(record.tested) == 8 and len(record.masks) == 64
  seen = record.fitted
  assert not set(seen) & set(record.tested)
  ends = value[record.ends()[1]], value[record.ends()[0]]
  fit = fitting.decoded(record.masks[seen], value[seen], "lasso", ends)
  np.testing.assert_allclose(found.values, fit.values, rtol=1e-9)
  error = (fit(record.masks[record.tested]) - value[record.tested]) ** 2
  want = 1 - error.mean() / value[record.uniform].var()
  np.testing.assert_allclose(found.r2, want, rtol=1e-9)
  # All uniform rows but these are fitted to.
  assert len(record.uniform) > 4 * len(record.tested)


def test_r2_of_few_masks_is_cross_validated():
  kept = games.masks(6)
  odds = 2.0 * (kept[:, 1] | kept[:, 3]) + 0.1 * kept[:, 0]
  game = games.Table(odds, odds > 1)
  found = context.cite(game, key=_KEY, budget=9, method="gaussian")
  assert len(game.asked) == 9 and "R2 is cross-validated" in found.notes[0]
  record, values = found._record, found.scores.of("log_probability")
  at, error = record.uniform, []
  ends = values[record.ends()[1]], values[record.ends()[0]]
  for k in range(5):
    rest = np.setdiff1d(np.arange(9), at[k::5])
    fit = fitting.decoded(record.masks[rest], values[rest], "gaussian", ends)
    error += ((fit(record.masks[at[k::5]]) - values[at[k::5]]) ** 2).tolist()
  want = 1 - np.mean(error) / values[at].var()
  np.testing.assert_allclose(found.r2, want, rtol=1e-9)
  body = found.to_dict()
  assert body["r2_by"] == f"5 folds over {len(at)} masks"
  assert body["r2_interval"][0] < body["r2"] < body["r2_interval"][1]


@pytest.mark.parametrize("method", ["gaussian", "contextcite", "shapley"])
def test_the_least_budget_has_an_r2(method):
  kept = games.masks(5)
  odds = 2.0 * (kept[:, 0] & kept[:, 4]) + 0.1 * kept[:, 2]
  game = games.Table(odds, odds > 1)
  found = context.cite(game, key=_KEY, budget=8, method=method)
  assert np.isfinite(found.r2) and "folds over" in found.whole.r2_by


def test_r2_and_its_jackknife_by_hand():
  error, values = np.array([0.2, 0.0, 0.1]), np.array([1.0, 2.0, 4.0, 7.0])
  at, keep = np.array([3, 0, 2]), ([0, 1, 2], [1, 2, 3], [0, 1, 3])
  left = [1 - np.delete(error, i).mean() / values[keep[i]].var()
          for i in range(3)]  # fmt: skip
  r2, (low, high) = fitting.r2_of(error, values, at)
  np.testing.assert_allclose(r2, 1 - 0.1 / 5.25, rtol=1e-12)
  se = np.sqrt(2 / 3 * np.sum((left - np.mean(left)) ** 2))
  np.testing.assert_allclose(low, r2 - 4.302652730 * se, rtol=1e-8)
  assert high == min(1, r2 + 4.302652730 * se)
  assert fitting.r2_of(error, np.ones(4), at) == (None, None)


def test_copies_of_a_mask_are_in_one_fold():
  # Of noise that a table remembers nothing is predicted.
  masks = np.repeat(games.masks(3), 4, axis=0)
  values = np.repeat(np.array([1.0, -1, -1, 1, -1, 1, 1, -1]), 4)
  table = lambda masks, values: dict(
    zip(map(bytes, masks), values.tolist(), strict=True)
  )
  fit = lambda masks, values: (
    lambda some: np.array(
      [table(masks, values).get(bytes(mask), 0.0) for mask in some]
    )
  )
  r2, interval, how = fitting.cross_validated(masks, values, fit)
  assert r2 == 0 and how == "5 folds over 8 masks" and interval is not None


def test_contextcite_is_the_lasso_of_its_definition():
  rng = np.random.default_rng(1)
  masks = fitting.context_cite_masks(40, 6)
  values = rng.normal(size=40) + 3 * masks[:, 2] - 2 * masks[:, 4]
  weights, bias = fitting.context_cite(masks, values, 2)
  # At its optimum no subgradient of the penalised error is left.
  scale = masks.std(axis=0)
  x = (masks - masks.mean(axis=0)) / scale
  coefs = weights * scale / 2
  left = values / 2 - (masks @ weights + bias) / 2
  pull = x.T @ left / 40
  on = coefs != 0
  np.testing.assert_allclose(pull[on], 0.01 * np.sign(coefs[on]), atol=1e-8)
  assert (np.abs(pull[~on]) <= 0.01 + 1e-8).all()
  np.testing.assert_allclose(left.mean(), 0, atol=1e-12)


def test_contextcite_draws_the_masks_of_its_seeds():
  first = np.random.RandomState(1).choice([False, True], size=6, p=[0.5, 0.5])
  np.testing.assert_array_equal(fitting.context_cite_masks(3, 6)[1], first)
