"""What members are worth: leaving out what is not used costs nothing."""

import numpy as np
import pytest

from experiments import games, members_worth
from spex_jax.fourier import sparse
from spex_jax.portfolio import members, policy, select


@pytest.mark.slow
def test_quick_rows_and_their_table():
  measured = list(members_worth.run(members_worth.CONFIGS["quick"]))
  (row,) = measured
  assert row["game"] == "vote45-2" and row["budget"] == 64
  assert 0 < row["r2"] < 1
  assert {"mean", "proxyspex", "gaussian", "growth = 1"} <= set(row["ratio"])
  assert "least_weight = 0.1" in row["ratio"]
  assert abs(sum(row["weights"].values()) - 1) < 0.02  # Of two digits each.
  text = members_worth.table(measured)
  assert "| 64 | mean | 1.000 |" in text


def test_the_member_that_knows_is_worth_all_and_others_nothing(monkeypatch):
  truth = sparse.SparseFourier.from_terms(5, [((0,), 1.0), ((1, 2), 2.0)])
  near = truth.replace(coefs=truth.coefs * 0.9)

  def fitted(masks, values):
    known = near.shifted(float((values - near(masks)).mean()))
    return [
      members.mean(masks, values),
      members.Member("near", known, known(masks), ""),
    ]

  monkeypatch.setattr(select, "fit_members", fitted)
  value_fn = lambda masks: np.asarray(truth(masks))
  game = games.Game(5, value_fn, value_fn)
  monkeypatch.setitem(games.FAMILIES, "known", lambda seed: game)
  config = members_worth.Config((("known", 0),), (64,), 100)
  (row,) = members_worth.run(config)
  # A tenth of each coefficient is missed, so a hundredth of the variance; the
  # mean alone leaves all of it.
  assert row["r2"] == pytest.approx(0.99, abs=2e-3)
  assert row["ratio"]["mean"] == pytest.approx(1.0, abs=1e-3)
  assert row["ratio"]["near"] == pytest.approx(100, rel=0.2)
  # The two sets are 1 and 2: of the energy, neither is a fiftieth.
  assert row["ratio"]["dropped = 0.02"] == pytest.approx(1.0, abs=1e-3)
  assert "| 64 | near | 1" in members_worth.table([row])


def test_members_are_fitted_again_with_other_values(monkeypatch):
  truth = sparse.SparseFourier.from_terms(5, [((), 0.5), ((0,), 1.0)])

  def fitted(masks, values):
    share = 1 - 1 / policy.POLICY.few_folds  # Of the coefficient: .9 of it.
    near = truth.replace(coefs=truth.coefs * share)
    known = near.shifted(float((values - near(masks)).mean()))
    return [
      members.mean(masks, values),
      members.Member("near", known, known(masks), ""),
    ]

  monkeypatch.setattr(select, "fit_members", fitted)
  value_fn = lambda masks: np.asarray(truth(masks))
  monkeypatch.setitem(
    games.FAMILIES, "known", lambda seed: games.Game(5, value_fn, value_fn)
  )
  monkeypatch.setattr(policy, "POLICY", policy.Policy(few_folds=10))
  other = {"few_folds": (5,), "lasso_penalties": ((1.0, 0.5),)}
  config = members_worth.Config((("known", 0),), (64,), 100, other)
  (row,) = members_worth.run(config)
  assert set(row["ratio"]) == {"few_folds = 5", "lasso_penalties = 2 of them"}
  # A fifth is missed in place of a tenth: four times the error.
  assert row["ratio"]["few_folds = 5"] == pytest.approx(4, rel=1e-2)
  assert row["ratio"]["lasso_penalties = 2 of them"] == 1
  assert policy.POLICY.few_folds == 10


def test_a_game_that_one_member_ends_is_left_out_of_the_means():
  alone = {"game": "a", "budget": 8, "ratio": {}}
  rows = [
    alone,
    {"game": "b", "budget": 8, "ratio": {"x": 1.0, "y": 4.0}},
    {"game": "c", "budget": 8, "ratio": {"x": 1.0}},
  ]
  lines = members_worth.table(rows).splitlines()
  assert lines[2] == "| 8 | x | 1.000 | 1.000 (b) | 1.000 | 0 | 2 |"
  # Where y was not fitted, it costs nothing: the root of 4.
  assert lines[3] == "| 8 | y | 2.000 | 4.000 (b) | 1.000 | 1 | 2 |"
