"""Scores of scores: against scipy and scikit-learn, and by hand."""

import numpy as np
import pytest
from scipy import stats
from sklearn import datasets, metrics

import spex_jax as spex
from spex_jax.fourier import score
from spex_jax.indices import attribution, judging
from spex_jax.influence import datamodels, semivalues
from spex_jax.masks import sampling
from tests import functions, ridge_games


def _masks(num_masks=40, n=6, seed=0):
  return np.random.default_rng(seed).random((num_masks, n)) < 0.5


def _linear(n=6, num_targets=3, seed=1):
  weights = np.random.default_rng(seed).normal(size=(num_targets, n))
  return attribution.Attribution(weights, np.zeros(num_targets), "truth")


def test_lds_is_scipys_with_ties():
  masks, predict = _masks(), _linear()
  rng = np.random.default_rng(2)
  # Rounded, so that both sides have ties.
  values = np.round(predict(masks) + rng.normal(size=(40, 3)))
  rough = lambda m: np.round(predict(m))
  found = judging.lds(rough, masks, values)
  expected = [
    stats.spearmanr(values[:, t], rough(masks)[:, t]).statistic
    for t in range(3)
  ]
  np.testing.assert_allclose(found.per_target, expected, atol=1e-12)
  np.testing.assert_allclose(found.mean, np.mean(expected))
  # Three targets: two degrees of freedom.
  half = stats.t.ppf(0.975, 2) * np.std(expected, ddof=1) / np.sqrt(3)
  mean = np.mean(expected)
  ends = np.tanh(np.arctanh(mean) + np.array([-1, 1]) * half / (1 - mean**2))
  np.testing.assert_allclose(found.interval, ends)
  assert found.ceiling is None and "not measured" in str(found)


def test_the_interval_of_correlations_ends_at_one():
  for each in ([0.2, 0.999, 0.999], [-0.1, -1.0], [0.99, 1.0], [1.0, 1.0]):
    found = judging.Correlation(np.array(each), num_masks=40)
    low, high = found.interval
    assert -1 <= low <= found.mean <= high <= 1, each
  # Far from the ends it is that of the mean itself.
  found = judging.Correlation(np.array([0.01, -0.01, 0.02]), num_masks=40)
  expected = score.mean_interval(found.per_target)[1]
  np.testing.assert_allclose(found.interval, expected, atol=1e-4)


def test_correlations_are_numpys():
  masks, predict = _masks(), _linear()
  values = predict(masks) + np.random.default_rng(2).normal(size=(40, 3))
  found = judging.correlation(predict, masks, values)
  expected = [
    np.corrcoef(values[:, t], predict(masks)[:, t])[0, 1] for t in range(3)
  ]
  np.testing.assert_allclose(found.per_target, expected, atol=1e-12)
  np.testing.assert_allclose(found.mean, np.mean(expected))
  np.testing.assert_allclose(found.error, np.std(expected, ddof=1) / 3**0.5)
  one = judging.correlation(lambda m: predict(m)[:, 0], masks, values[:, 0])
  assert one.error is None and str(one) == f"{expected[0]:.3f}"


def test_the_ceiling_is_what_the_truth_itself_scores():
  masks, truth = _masks(2000, seed=3), _linear()
  rng = np.random.default_rng(4)
  noise = rng.normal(size=(2000, 4, 3))
  found = judging.lds(truth, masks, truth(masks)[:, None] + noise)
  # Standard errors of rank correlations of 2,000 pairs: .02 each.
  assert abs(found.mean - found.ceiling) < 0.03
  signal = truth(masks).var(axis=0)
  np.testing.assert_allclose(
    found.reliability, (signal / (signal + 1)).mean(), atol=0.05
  )
  assert f"ceiling {found.ceiling:.3f}" in str(found)


def test_targets_that_never_change_are_left_out_and_flat_guesses_score_0():
  masks = _masks()
  values = np.column_stack([masks.sum(axis=1), np.ones(40), masks[:, 0]])
  flat = np.zeros((3, 6))
  flat[0] = 1.0
  found = judging.lds(
    attribution.Attribution(flat, np.zeros(3), "x"), masks, values
  )
  assert found.undefined == 1 and np.isnan(found.per_target[1])
  np.testing.assert_allclose(found.per_target[[0, 2]], [1.0, 0.0])
  assert found.mean == 0.5 and "1 targets never change" in str(found)


@pytest.mark.slow
def test_a_surrogate_is_judged_with_interactions_and_without():
  function = functions.planted(8, 12, 3, seed=3)
  masks = sampling.enumerate_masks(8)
  values = np.asarray(function(masks))
  found = judging.surrogate(function, masks, values)
  np.testing.assert_allclose([found.r2, found.rank], 1.0)
  energy = function.energy_by_order()
  np.testing.assert_allclose(
    found.first_r2, energy[1] / energy[1:].sum(), rtol=1e-9
  )
  # On all masks least squares finds the same first order; rounding may part
  # sums that tie, one place in 256 each.
  linear = datamodels.least_squares(masks, values)(masks)[:, 0]
  np.testing.assert_allclose(
    found.first_rank, stats.spearmanr(values, linear).statistic, atol=0.01
  )
  assert found.gain()[1] is None and "gain in R^2" in str(found)
  low = found.first_r2[0], found.first_r2_std[0]
  assert low[1] > 0 and f"alone {score.shown(*low)}," in str(found)
  both = judging.surrogate(
    type(function).stack([function, functions.planted(8, 5, 1)]),
    masks,
    np.column_stack([values, functions.planted(8, 5, 1)(masks)]),
  )
  np.testing.assert_allclose(both.r2 - both.first_r2, [found.gain()[0], 0.0])
  assert both.gain()[1][0] < both.gain()[0] < both.gain()[1][1]


def test_brittleness_of_a_vote():
  """A majority: the margin is +1 for each friend, -1 for each foe."""
  votes = np.array([[1, 1, 1, -1, 0], [1, 1, -1, -1, -1], [1, 0, 0, 0, 0.0]])
  asked = []

  def value_fn(masks):
    asked.append(masks)
    return masks @ votes.T

  found = judging.brittleness(votes, value_fn, [1, 2, 4])
  np.testing.assert_array_equal(found.counts, [0, 1, 2, 4])
  # The second is wrong to begin with.
  np.testing.assert_array_equal(found.smallest, [2, np.nan, 1])
  np.testing.assert_array_equal(found.margins[0], [2, 1, 0, -1])
  np.testing.assert_array_equal(found.flipped, [0, 0.5, 1, 1])
  assert len(asked) == 1 and len(np.unique(asked[0], axis=0)) == len(asked[0])
  assert "(2 right predictions): 0: 0%, 1: 50%" in str(found)
  never = judging.brittleness(votes[:1], lambda m: np.ones(len(m)), [3])
  assert np.isinf(never.smallest[0]) and not never.flipped.any()


def test_mislabelled_examples_are_ranked_as_scikit_learn_does():
  rng = np.random.default_rng(0)
  wrong = rng.random(80) < 0.2
  scores = np.round(rng.normal(size=80) - wrong, 1)
  found = judging.mislabelled(scores, wrong, [5, 40, 80])
  expected = metrics.roc_auc_score(wrong, -scores)
  np.testing.assert_allclose(found.auroc, expected)
  np.testing.assert_allclose(found.recall[-1], 1.0)
  lowest = np.argsort(scores, kind="stable")[:40]
  np.testing.assert_allclose(found.recall[1], wrong[lowest].sum() / wrong.sum())
  np.testing.assert_allclose(found.precision[1], wrong[lowest].mean())
  averaged = judging.mislabelled(np.stack([scores, scores]), wrong)
  assert averaged.auroc == found.auroc
  assert averaged.counts.tolist() == [wrong.sum()]
  assert "AUROC" in str(averaged)


def test_banzhaf_and_datamodels_find_wrong_labels():
  """Ridge on breast cancer, a tenth of the labels flipped."""
  x, y = datasets.load_breast_cancer(return_X_y=True)
  x = (x - x.mean(axis=0)) / x.std(axis=0)
  rng = np.random.default_rng(0)
  rows = rng.permutation(len(x))
  train, test = rows[:200], rows[200:]
  wrong = np.zeros(200, bool)
  wrong[rng.choice(200, 20, replace=False)] = True
  y = 2.0 * y - 1
  labels = np.where(wrong, -1, 1) * y[train]
  masks = rng.random((600, 200)) < 0.5
  # The utility: the mean margin on test points.
  values = ridge_games.refit(masks, x[train], labels, x[test]) @ y[test]
  for method in (semivalues.banzhaf, datamodels.least_squares):
    found = method(masks, values / len(test)).scores[0]
    assert judging.mislabelled(found, wrong).auroc > 0.85
    assert judging.mislabelled(-found, wrong).auroc < 0.15


@pytest.mark.parametrize(
  ("call", "message"),
  [
    (lambda: judging.lds(_linear(), _masks(2), np.ones((2, 3))), "at least 3"),
    (lambda: judging.lds(_linear(), _masks(), np.ones((40, 3))), "never vary"),
    (
      lambda: judging.lds(_linear(), _masks(), np.full((40, 3), np.nan)),
      "NaN or infinity for 40",
    ),
    (
      lambda: judging.lds(_linear(), _masks(), _masks()[:, :2]),
      "the values need \\(40, 2\\)",
    ),
    (
      lambda: judging.lds(lambda m: m[:, 0] * np.nan, _masks(), _masks()[:, 0]),
      "predictions hold NaN",
    ),
    (
      lambda: judging.brittleness(np.ones((2, 4)), len, [5]),
      "counts must lie in 1..4",
    ),
    (
      lambda: judging.brittleness(np.full((2, 4), np.nan), len, [1]),
      "finite scores",
    ),
    (
      lambda: judging.brittleness(np.ones((2, 4)), lambda m: m[:, 0], [1]),
      "Scores are of 2 targets, margins of 1",
    ),
    (
      lambda: judging.mislabelled(np.ones(4), np.zeros(4, bool)),
      "0 are inside, 4 outside",
    ),
    (
      lambda: judging.mislabelled(np.ones(4), np.zeros(4, int)),
      "and booleans \\[M\\]",
    ),
    (
      lambda: judging.mislabelled(
        np.ones(4), np.array([True, False, False, False]), [0]
      ),
      "counts must lie in 1..4",
    ),
  ],
)
def test_bad_input_is_refused(call, message):
  with pytest.raises(ValueError, match=message):
    call()


@pytest.mark.slow
def test_decoded_interactions_beat_the_line_on_a_ridge_game():
  n = 10
  data = ridge_games.data(n, seed=4)
  masks = sampling.enumerate_masks(n)
  values = ridge_games.refit(masks, *data)
  rng = np.random.default_rng(0)
  rows = rng.permutation(len(masks))
  seen, fresh = rows[:600], rows[600:]
  found = spex.decode(masks[seen], values[seen, 0], method="gram")
  linear = datamodels.least_squares(masks[seen], values[seen, 0])
  judged = judging.surrogate(found.fourier, masks[fresh], values[fresh, 0])
  line = judging.lds(linear, masks[fresh], values[fresh, 0])
  assert judged.rank[0] > line.mean + 0.02
  assert judged.r2[0] > judged.first_r2[0] + 0.05
