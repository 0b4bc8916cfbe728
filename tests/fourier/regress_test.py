"""Tests of refits on known supports: oracles are least squares and sklearn."""

import itertools

import numpy as np
import pytest

from spex_jax.fourier import moments, regress, sparse


def _sets(n, order):
  sets = [
    s for d in range(order + 1) for s in itertools.combinations(range(n), d)
  ]
  players = np.full((len(sets), order), n)
  for row, members in zip(players, sets):
    row[: len(members)] = members
  return sets, players


def _character(masks, members):
  out = np.ones(len(masks))
  for i in members:
    out = out * np.where(masks[:, i], -1.0, 1.0)
  return out


def _problem(seed, n=10, order=2, num_masks=200, num_terms=6, noise=0.0):
  rng = np.random.default_rng(seed)
  sets, players = _sets(n, order)
  masks = rng.random((num_masks, n)) < 0.5
  truth = np.zeros(len(sets))
  truth[rng.choice(len(sets), num_terms, replace=False)] = rng.normal(
    size=num_terms
  )
  x = np.stack([_character(masks, s) for s in sets], axis=1)
  values = x @ truth + noise * rng.normal(size=num_masks)
  return masks, values, players, truth, x


class TestDesign:
  @pytest.mark.parametrize("dtype", [np.float32, np.float64, np.int8])
  def test_matches_definition(self, dtype):
    masks, _, players, _, x = _problem(0, order=3)
    actual = regress.design(masks, players, dtype=dtype)
    assert actual.dtype == dtype
    np.testing.assert_array_equal(actual, x)

  def test_is_the_evaluation_of_sparse(self):
    rng = np.random.default_rng(1)
    terms = [((), 2.0), ((3,), -1.0), ((0, 7), 0.5), ((1, 2, 4), 3.0)]
    fourier = sparse.SparseFourier.from_terms(8, terms)
    masks = rng.random((5000, 8)) < 0.3  # More than one chunk of rows.
    by_design = regress.design(masks, fourier.players) @ fourier.coefs
    np.testing.assert_allclose(by_design, fourier(masks), atol=1e-12)

  @pytest.mark.parametrize("shape", [(0, 3), (4, 0), (0, 0)])
  def test_no_sets_or_only_empty_ones(self, shape):
    masks = np.ones((5, 3), bool)
    actual = regress.design(masks, np.full(shape, 3))
    np.testing.assert_array_equal(actual, np.ones((5, shape[0])))

  def test_bad_players_raise(self):
    masks = np.ones((2, 3), bool)
    with pytest.raises(ValueError, match=r"Players must lie in 0\.\.2"):
      regress.design(masks, [[4]])
    with pytest.raises(ValueError, match=r"must be \[K, D\]"):
      regress.design(masks, [1])
    with pytest.raises(ValueError, match="expected n=5"):
      regress.design(masks, [[1]], 5)


class TestRefit:
  @pytest.mark.parametrize("penalty", ["lasso", "ridge", "none"])
  @pytest.mark.parametrize("scale", [1.0, 1e30, 1e-30, 1e300])
  @pytest.mark.parametrize("offset", [0.0, 1e4])
  def test_noiseless_values_are_exact(self, penalty, scale, offset):
    masks, values, players, truth, _ = _problem(0)
    truth = truth.copy()
    truth[0] += offset
    values = (values + offset) * scale
    result = regress.refit(masks, values, players, penalty=penalty)
    # Rounding of the offset, times the condition of the Gram (below 100).
    np.testing.assert_allclose(
      result.coefs / scale, truth, rtol=0, atol=1e-13 * max(offset, 1) * 10
    )
    assert result.score > 1 - 1e-9
    assert result.coefs.dtype == np.float64

  def test_least_squares_oracle(self):
    masks, values, players, _, x = _problem(1, noise=0.5)
    result = regress.refit(masks, values, players, penalty="none")
    expected = np.linalg.lstsq(x, values)[0]
    np.testing.assert_allclose(result.coefs, expected, rtol=0, atol=1e-12)

  def test_ridge_oracle(self):
    """At one given penalty: the closed form with a free constant."""
    masks, values, players, _, x = _problem(2, noise=2.0)
    result = regress.refit(
      masks, values, players, penalty="ridge", penalties=[0.1]
    )
    loading = 0.1 * len(x) * np.eye(x.shape[1])
    loading[0, 0] = 0  # The empty set.
    expected = np.linalg.solve(x.T @ x + loading, x.T @ values)
    np.testing.assert_allclose(result.coefs, expected, rtol=0, atol=1e-10)

  def test_lasso_oracle(self):
    """The path on the Gram is sklearn's own lasso on the masks."""
    from sklearn import linear_model

    _, values, _, _, x = _problem(3, noise=0.5)
    x, y = x[:, 1:], values - values.mean()
    y = y / y.std()
    xc = x - x.mean(axis=0)
    for alpha in (0.3, 0.05, 0.01):
      expected = linear_model.Lasso(alpha=alpha, tol=1e-10).fit(x, y).coef_
      sums = moments.Moments(
        xc.T @ xc / len(y), xc.T @ y / len(y), (y**2).mean(), len(y) - 1
      )
      actual = sums.lasso([alpha], np.inf)[0]
      # A gap of 1e-6 is a distance of about sqrt(2e-6) from the optimum.
      np.testing.assert_allclose(actual, expected, rtol=0, atol=2e-3)

  def test_score_is_a_held_out_score(self):
    """Against folds, fits and errors made one by one from the rows."""
    masks, values, players, _, x = _problem(4, noise=1.0)
    result = regress.refit(masks, values, players, penalty="none")
    error, total = 0.0, ((values - values.mean()) ** 2).sum()
    for rows in np.array_split(regress.spread_order(len(x)), 5):
      train = np.delete(np.arange(len(x)), rows)
      coefs = np.linalg.lstsq(x[train], values[train])[0]
      error += ((values[rows] - x[rows] @ coefs) ** 2).sum()
    np.testing.assert_allclose(result.score, 1 - error / total, atol=1e-10)

  def test_lasso_beats_least_squares_under_noise(self):
    gains = []
    for seed in range(5):
      masks, values, players, truth, _ = _problem(seed, noise=0.5)
      fits = [
        regress.refit(masks, values, players, penalty=p)
        for p in ("lasso", "none")
      ]
      errors = [((f.coefs - truth) ** 2).sum() for f in fits]
      gains.append(errors[0] / errors[1])
    assert np.median(gains) < 0.5, gains  # 6 terms of 56: expect about 1/9.

  def test_pure_noise_gives_a_near_constant(self):
    rng = np.random.default_rng(0)
    _, players = _sets(8, 2)
    masks = rng.random((100, 8)) < 0.5
    values = rng.normal(size=100) + 5
    result = regress.refit(masks, values, players)
    assert np.abs(result.coefs[1:]).sum() < 1
    np.testing.assert_allclose(result.coefs[0], values.mean(), atol=0.3)

  @pytest.mark.parametrize("penalty", ["lasso", "ridge", "none"])
  def test_targets_are_refitted_apart(self, penalty):
    masks, values, players, _, _ = _problem(5, noise=0.3)
    both = np.stack([values, 100 - values**2], axis=1)
    joint = regress.refit(masks, both, players, penalty=penalty)
    for t in range(2):
      alone = regress.refit(masks, both[:, t], players, penalty=penalty)
      np.testing.assert_allclose(joint.coefs[t], alone.coefs, atol=1e-9)
      np.testing.assert_allclose(joint.score[t], alone.score, atol=1e-9)

  @pytest.mark.parametrize("penalty", ["lasso", "ridge", "none"])
  @pytest.mark.parametrize("level", [0.0, 7.0, -0.1])
  def test_constant_values(self, penalty, level):
    masks, values, players, _, _ = _problem(0)
    values = np.full_like(values, level)
    result = regress.refit(masks, values, players, penalty=penalty)
    np.testing.assert_allclose(result.coefs[0], level, rtol=1e-15)
    np.testing.assert_array_equal(result.coefs[1:], 0)
    assert result.score == 1

  def test_without_the_empty_set_no_constant_is_fitted(self):
    masks = np.array([[0], [1], [0], [1]], bool)
    result = regress.refit(masks, [4.0, 2, 4, 2], [[0]], penalty="none")
    np.testing.assert_allclose(result.coefs, [1.0])  # And 3 stays unfitted.

  @pytest.mark.parametrize("penalty", ["lasso", "ridge", "none"])
  def test_fewer_masks_than_sets(self, penalty):
    masks, values, players, _, x = _problem(6, num_masks=30, num_terms=2)
    result = regress.refit(masks, values, players, penalty=penalty)
    assert np.isfinite(result.coefs).all()
    if penalty == "none":  # Least norm, which interpolates.
      np.testing.assert_allclose(x @ result.coefs, values, atol=1e-10)
      assert result.score == 0

  @pytest.mark.parametrize("num_masks", [3, 4])
  @pytest.mark.parametrize("penalty", ["lasso", "ridge"])
  def test_fewer_masks_than_folds(self, num_masks, penalty):
    masks, values, players, _, _ = _problem(
      7, n=3, num_masks=num_masks, num_terms=2
    )
    result = regress.refit(masks, values, players, penalty=penalty)
    assert np.isfinite(result.coefs).all() and np.isfinite(result.score)

  def test_two_masks_need_no_penalty(self):
    masks = np.array([[0], [1]], bool)
    players = [[1], [0]]
    with pytest.raises(ValueError, match="at least 3 masks; got 2"):
      regress.refit(masks, [1.0, 2.0], players)
    result = regress.refit(masks, [1.0, 2.0], players, penalty="none")
    np.testing.assert_allclose(result.coefs, [1.5, -0.5])

  def test_indistinguishable_sets_share_under_least_norm(self):
    masks = np.tile([[0, 0], [1, 1]], (5, 1)).astype(bool)
    players = [[2], [0], [1]]
    values = np.tile([3.0, 1.0], 5)
    result = regress.refit(masks, values, players, penalty="none")
    np.testing.assert_allclose(result.coefs, [2, 0.5, 0.5], atol=1e-12)

  def test_no_sets(self):
    result = regress.refit(
      np.ones((4, 2), bool), np.arange(4.0), np.zeros((0, 2), int)
    )
    assert result.coefs.shape == (0,) and result.score == 0

  def test_deterministic(self):
    masks, values, players, _, _ = _problem(8, noise=1.0)
    first, again = (regress.refit(masks, values, players) for _ in range(2))
    np.testing.assert_array_equal(first.coefs, again.coefs)

  @pytest.mark.parametrize(
    "change, error, message",
    [
      (dict(penalty="l2"), ValueError, "penalty must be .*got 'l2'"),
      (dict(penalties=[-1.0]), ValueError, "at least 0"),
      (dict(penalties=[np.nan]), ValueError, "must be finite"),
      (dict(values=np.full(200, np.nan)), ValueError, "200 of 200 masks"),
      (dict(values=np.ones(3)), ValueError, "one value per mask"),
      (dict(values=np.full(200, "a")), TypeError, "real numbers"),
    ],
  )
  def test_bad_input(self, change, error, message):
    masks, values, players, _, _ = _problem(0)
    kwargs = dict(masks=masks, values=values, players=players) | change
    with pytest.raises(error, match=message):
      regress.refit(**kwargs)


@pytest.mark.parametrize("scale", [1e-30, 1e-12, 1.0, 1e30])
def test_columns_of_any_units_have_a_factor_where_they_are_independent(scale):
  x = np.random.default_rng(0).normal(size=(40, 3))
  weights = np.array([1.0, -2.0, 0.5])
  gram = x.T @ x / 40
  of = lambda gram: moments.Moments(
    gram * scale**2, gram @ weights * scale, 1.0, 39
  )
  found = of(gram).ridge()
  np.testing.assert_allclose(found * scale, weights, rtol=1e-12)
  twins = gram[:, [0, 1, 1]][[0, 1, 1]]
  assert np.isnan(of(twins).ridge()).all()
  assert np.isnan(of(0 * gram).ridge()).all()
  assert np.isfinite(of(0 * gram).ridge(scale)).all()


def test_columns_of_numbers_are_fitted_as_sklearn_does():
  """By its own folds sklearn chooses a penalty as good, on the same rows."""
  from sklearn import linear_model

  rng = np.random.default_rng(0)
  x = rng.normal(size=(300, 20))
  values = x[:, :3] @ [1.0, -2.0, 0.5] + 3 + rng.normal(size=300)
  peer = linear_model.LassoCV(cv=5, tol=1e-8).fit(x, values)
  found = regress.refit_columns(x, values)
  fresh = rng.normal(size=(2000, 20))
  truth = fresh[:, :3] @ [1.0, -2.0, 0.5] + 3
  errors = [
    np.mean((guess - truth) ** 2)
    for guess in (found.coefs[0] + fresh @ found.coefs[1:], peer.predict(fresh))
  ]
  assert errors[0] < 1.5 * errors[1]
  plain = regress.refit_columns(x, values[:, None], "none").coefs[0]
  exact = np.linalg.lstsq(np.column_stack([np.ones(300), x]), values)[0]
  np.testing.assert_allclose(plain, exact, atol=1e-12)


class TestWeights:
  @pytest.mark.parametrize("penalty", ["none", "ridge"])
  def test_squares_are_weighted(self, penalty):
    masks, values, players, _, x = _problem(1, n=5, num_masks=60, noise=0.5)
    weights = np.random.default_rng(2).random(60) + 0.05
    weights /= weights.mean()
    found = regress.refit(
      masks,
      values,
      players,
      penalty=penalty,
      penalties=[0.05],
      weights=weights,
    )
    root = np.sqrt(weights)[:, None]
    plain = np.linalg.lstsq(x * root, values * root[:, 0])[0]
    mean = weights @ x[:, 1:] / 60
    centred, y = x[:, 1:] - mean, values - weights @ values / 60
    gram = (centred.T * weights) @ centred / 60 + 0.05 * np.eye(len(mean))
    ridge = np.linalg.solve(gram, centred.T @ (weights * y) / 60)
    ridge = np.append(weights @ values / 60 - mean @ ridge, ridge)
    expected = [plain] if penalty == "none" else [ridge, plain]
    gaps = [np.abs(found.coefs - each).max() for each in expected]
    assert min(gaps) < 1e-9

  def test_rows_of_no_weight_do_not_choose_the_penalty(self):
    masks, values, players, truth, _ = _problem(3, n=6, num_masks=120)
    weights = np.where(np.arange(120) % 3, 1.5, 1e-12)
    wrong = np.where(np.arange(120) % 3, values, 1e3)
    found = regress.refit(masks, wrong, players, weights=weights)
    np.testing.assert_allclose(found.coefs, truth, atol=1e-5)
    assert found.score > 1 - 1e-6

  def test_equal_ones_change_rounding_alone(self):
    masks, values, players, _, _ = _problem(4, noise=0.3)
    plain = regress.refit(masks, values, players)
    found = regress.refit(masks, values, players, weights=np.ones(200))
    np.testing.assert_allclose(found.coefs, plain.coefs, atol=1e-9)
