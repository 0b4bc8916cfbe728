"""Semivalues against their definitions on a ridge game and planted ones."""

import math

import jax
import numpy as np
import pytest
from scipy import special

import spex_jax as spex
from spex_jax.influence import semivalues
from spex_jax.masks import sampling
from tests import functions, ridge_games

_N = 8


@pytest.fixture(scope="module")
def game():
  masks = sampling.enumerate_masks(_N)
  return masks, ridge_games.refit(masks, *ridge_games.data(_N))


@pytest.fixture(scope="module")
def expansion(game):
  return spex.decode(*game, method="exact").fourier


def _value_fn(masks):
  return ridge_games.refit(masks, *ridge_games.data(_N))


def _beta_weights(n, alpha, beta):
  """n C(n - 1, s) B(s + beta, n - 1 - s + alpha) / B(alpha, beta)."""
  s = np.arange(n)
  binomials = np.array([math.comb(n - 1, k) for k in s])
  top = special.beta(s + beta, n - 1 - s + alpha)
  return n * binomials * top / special.beta(alpha, beta)


def test_shapley_of_the_exact_expansion_is_shapleys(game, expansion):
  masks, values = game
  found = semivalues.of_expansion(expansion)
  expected = ridge_games.shapley(masks, values)
  np.testing.assert_allclose(found.scores, expected, rtol=0, atol=1e-12)
  np.testing.assert_allclose(found.baseline, values[0], atol=1e-12)
  # Efficiency: the scores meet the full mask.
  np.testing.assert_allclose(
    found(masks[-1:])[0], values[-1], rtol=0, atol=1e-12
  )


def test_banzhaf_of_the_expansion_is_minus_two_f(game, expansion):
  masks, values = game
  found = semivalues.of_expansion(expansion, semivalues.BANZHAF)
  expected = ridge_games.banzhaf(masks, values)
  np.testing.assert_allclose(found.scores, expected, rtol=0, atol=1e-12)
  for t in range(values.shape[1]):
    for players, coef in expansion.target(t).terms():
      if len(players) == 1:
        np.testing.assert_allclose(
          found.scores[t, players[0]], -2 * coef, atol=1e-12
        )


@pytest.mark.parametrize(("alpha", "beta"), [(4, 1), (0.5, 2.5)])
def test_beta_values_are_kwon_and_zous(game, expansion, alpha, beta):
  masks, values = game
  law = semivalues.Beta(alpha, beta)
  expected = ridge_games.shapley(masks, values, _beta_weights(_N, alpha, beta))
  found = semivalues.of_expansion(expansion, law)
  np.testing.assert_allclose(found.scores, expected, rtol=0, atol=1e-11)
  np.testing.assert_allclose(
    semivalues._position_weights(_N, law), _beta_weights(_N, alpha, beta)
  )


def test_maximum_sample_reuse_on_all_masks_is_banzhaf(game):
  masks, values = game
  found = semivalues.banzhaf(masks, values)
  expected = ridge_games.banzhaf(masks, values)
  np.testing.assert_allclose(found.scores, expected, rtol=0, atol=1e-12)
  row = masks[:, 2]
  spread = [values[kept].var(axis=0, ddof=1) for kept in (row, ~row)]
  np.testing.assert_allclose(
    found.std[:, 2], np.sqrt(sum(spread) / (len(masks) / 2)), rtol=1e-10
  )
  np.testing.assert_allclose(
    found(masks).mean(axis=0), values.mean(axis=0), atol=1e-12
  )


def test_standard_errors_of_sample_reuse_hold(game):
  masks, values = game
  exact = ridge_games.banzhaf(masks, values)
  inside = []
  for seed in range(20):
    rows = np.random.default_rng(seed).integers(0, len(masks), 400)
    found = semivalues.banzhaf(masks[rows], values[rows])
    inside.append(np.abs(found.scores - exact) < 2 * found.std)
  # 95 % of 480 dependent intervals; 20 independent draws of 24.
  assert 0.88 < np.mean(inside) < 0.99


def test_all_permutations_would_be_shapley(game):
  """Efficiency is exact for every order; the mean tends to the value."""
  masks, values = game
  found = semivalues.by_permutations(
    _value_fn, _N, key=jax.random.key(0), num_permutations=400, stride=3
  )
  expected = ridge_games.shapley(masks, values)
  scores = found.attribution
  total = values[-1] - values[0]
  np.testing.assert_allclose(scores.scores.sum(axis=1), total, atol=1e-10)
  assert np.abs((scores.scores - expected) / scores.std).max() < 4
  assert np.abs(scores.scores - expected).max() < 0.2 * np.ptp(expected)
  assert found.num_asked == 2 + 400 * (_N - 1)
  assert not found.cut.any()


def test_the_stride_changes_nothing_and_beta_values_are_met(game):
  masks, values = game
  arguments = {"key": jax.random.key(1), "num_permutations": 300}
  law = semivalues.Beta(2, 1)
  one, other = (
    semivalues.by_permutations(_value_fn, _N, law=law, stride=s, **arguments)
    for s in (1, 20)
  )
  np.testing.assert_allclose(
    one.attribution.scores, other.attribution.scores, rtol=0, atol=1e-12
  )
  expected = ridge_games.shapley(masks, values, _beta_weights(_N, 2, 1))
  found = one.attribution
  assert np.abs((found.scores - expected) / found.std).max() < 4


def test_truncation_saves_masks_and_keeps_early_marginals():
  """A game that is settled by its first player of either kind."""

  def value_fn(masks):
    return masks.any(axis=1).astype(np.float64)

  found = semivalues.by_permutations(
    value_fn, 10, key=jax.random.key(2), num_permutations=50, tolerance=0.01,
    stride=2,
  )  # fmt: skip
  assert found.num_asked == 2 + 50 * 2
  np.testing.assert_allclose(found.cut, 0.8)
  np.testing.assert_allclose(found.attribution.scores.sum(), 1.0)


def test_an_empty_value_of_ones_own_is_not_asked():
  seen = []

  def value_fn(masks):
    seen.append(masks)
    assert masks.any(axis=1).all()
    return masks.sum(axis=1) + 1.0

  found = semivalues.by_permutations(
    value_fn, 4, key=jax.random.key(0), num_permutations=3, empty=[1.0]
  )
  np.testing.assert_allclose(found.attribution.scores, np.ones((1, 4)))
  np.testing.assert_allclose(found.attribution.std, 0, atol=1e-12)


def test_one_player():
  found = semivalues.by_permutations(
    lambda m: 3.0 * m[:, 0], 1, key=jax.random.key(0), num_permutations=2
  )
  np.testing.assert_allclose(found.attribution.scores, [[3.0]])


def test_average_marginal_effects(game, expansion):
  law = semivalues.Grid((0.25, 0.5, 0.75))
  exact = semivalues.of_expansion(expansion, law).scores
  # By definition: marginals weighed by E p^s (1 - p)^(n - 1 - s).
  s, keep = np.arange(_N), np.array(law.keep)[:, None]
  mean = (keep**s * (1 - keep) ** (_N - 1 - s)).mean(axis=0)
  shapley = np.array([1 / (_N * math.comb(_N - 1, k)) for k in s])
  np.testing.assert_allclose(
    exact, ridge_games.shapley(*game, mean / shapley), atol=1e-12
  )
  design = semivalues.ame_masks(jax.random.key(4), 6000, _N, law)
  rows = design.masks @ (1 << np.arange(_N))
  values = game[1][rows]
  for penalty in ("none", "lasso"):
    found = semivalues.ame(design, values, law=law, penalty=penalty)
    error = np.abs(found.scores - exact).max()
    assert error < 0.12 * np.abs(exact).max(), penalty


def test_synergy_and_redundancy_by_sign():
  """f = m0 + m1 - m0 m1 (either will do) + 2 m2 m3 (both are needed)."""

  def value_fn(m):
    m = m.astype(np.float64)
    return m[:, 0] + m[:, 1] - m[:, 0] * m[:, 1] + 2 * m[:, 2] * m[:, 3]

  found = spex.explain(value_fn, 5, budget=64, key=jax.random.key(0))
  for index in ("BII", "Moebius"):
    together, instead = semivalues.interactions(found, index=index)
    assert [(set(s), round(v, 9)) for s, v in together] == [({2, 3}, 2.0)]
    assert [(set(s), round(v, 9)) for s, v in instead] == [({0, 1}, -1.0)]
  stacked = type(found.fourier).stack([found.fourier, found.fourier])
  assert len(semivalues.interactions(stacked, target=1)[0]) == 1
  with pytest.raises(ValueError, match="targets; choose one"):
    semivalues.interactions(stacked)
  with pytest.raises(ValueError, match="order 2 and more"):
    semivalues.interactions(found, order=1)


def test_several_targets_are_several_single_ones():
  one, two = (functions.planted(9, 12, 3, seed=s) for s in (0, 1))
  both = semivalues.of_expansion(type(one).stack([one, two]))
  for t, function in enumerate((one, two)):
    alone = semivalues.of_expansion(function)
    np.testing.assert_array_equal(both.scores[t], alone.scores[0])


_MASKS = np.random.default_rng(0).random((30, 4)) < 0.5


@pytest.mark.parametrize(
  ("call", "message"),
  [
    (
      lambda: semivalues.banzhaf(_MASKS | (np.arange(4) == 2), np.ones(30)),
      "always dropped \\(first: player 2\\)",
    ),
    (lambda: semivalues.banzhaf(_MASKS, np.full(30, np.nan)), "NaN"),
    (lambda: semivalues.Grid((0.5, 1.0)).moments(2), "inside \\(0, 1\\)"),
    (lambda: semivalues.Beta(0, 1).moments(2), "above 0"),
    (
      lambda: semivalues.ame(
        semivalues.AmeMasks(_MASKS, np.full(30, 0.3)), np.ones(30)
      ),
      "keep must hold one of",
    ),
    (
      lambda: semivalues.ame(
        semivalues.AmeMasks(_MASKS, np.full(30, 0.2)),
        np.ones(30),
        penalty="ridge",
      ),
      "'lasso' or 'none'",
    ),
    (
      lambda: semivalues.by_permutations(
        lambda m: m.sum(axis=1), 3, key=jax.random.key(0), num_permutations=0
      ),
      "num_permutations must be at least 1",
    ),
    (
      lambda: semivalues.by_permutations(
        lambda m: m.sum(axis=1), 3, key=jax.random.key(0), num_permutations=1,
        empty=[0.0, 1.0],
      ),
      "empty must be 1 finite",
    ),
    (
      lambda: semivalues.by_permutations(
        lambda m: m.sum(axis=1), 3, key=jax.random.key(0), num_permutations=1,
        tolerance=1.0,
      ),
      "tolerance must lie",
    ),
  ],
)  # fmt: skip
def test_bad_input_is_refused(call, message):
  with pytest.raises(ValueError, match=message):
    call()
