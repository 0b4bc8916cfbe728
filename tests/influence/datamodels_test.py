"""Linear datamodels against closed forms, enumeration and scikit-learn."""

import numpy as np
import pytest
from sklearn import linear_model

from spex_jax.fourier import transform
from spex_jax.influence import datamodels
from spex_jax.masks import sampling
from tests import ridge_games

_N = 12


@pytest.fixture(scope="module")
def game():
  """All masks of 12 examples, and ridge predictions on 3 test points."""
  masks = sampling.enumerate_masks(_N)
  return masks, ridge_games.refit(masks, *ridge_games.data(_N))


def _random(num_masks, n, num_targets=2, seed=0, noise=0.3):
  rng = np.random.default_rng(seed)
  masks = rng.random((num_masks, n)) < 0.6
  weights = rng.normal(size=(n, num_targets))
  values = masks @ weights + noise * rng.normal(size=(num_masks, num_targets))
  return masks, values + 3.0


def test_the_game_is_what_leaving_subsets_out_gives(game):
  masks, values = game
  data = ridge_games.data(_N)
  rng = np.random.default_rng(1)
  for row in rng.integers(1, len(masks), 50):
    closed = ridge_games.without(np.flatnonzero(~masks[row]), *data)
    np.testing.assert_allclose(values[row], closed, rtol=0, atol=1e-10)


def test_least_squares_on_all_masks_is_banzhaf_and_leaves_the_interactions(
  game,
):
  masks, values = game
  found = datamodels.least_squares(masks, values)
  np.testing.assert_allclose(
    found.scores, ridge_games.banzhaf(masks, values), rtol=0, atol=1e-12
  )
  sizes = masks.sum(axis=1)
  for t in range(values.shape[1]):
    # Independently: the transform's coefficients, by the bits of their index.
    spectrum = np.asarray(
      transform.fourier_from_values(values[:, t].astype(np.float32))
    ).astype(np.float64)
    np.testing.assert_allclose(
      found.scores[t], -2 * spectrum[sizes == 1], rtol=0, atol=1e-5
    )
    left = ((values[:, t] - found(masks)[:, t]) ** 2).mean()
    energy = (spectrum[sizes >= 2] ** 2).sum()
    # float32 coefficients of size 1, 4,096 of them.
    np.testing.assert_allclose(left, energy, rtol=1e-4)


def test_leave_one_out_reads_a_bank(game):
  masks, values = game
  data = ridge_games.data(_N)
  found = datamodels.leave_one_out(masks[::-1], values[::-1])
  full = ridge_games.refit(np.ones((1, _N)), *data)[0]
  for i in range(_N):
    expected = full - ridge_games.without([i], *data)
    np.testing.assert_allclose(found.scores[:, i], expected, atol=1e-10)
  asked = sampling.leave_one_out(_N)
  np.testing.assert_allclose(found(asked[:1])[0], full, atol=1e-10)
  assert asked[0].all() and (~asked[1:] == np.eye(_N, dtype=bool)).all()
  assert found.std is None


def test_leave_one_out_averages_repeats_and_knows_its_error():
  rng = np.random.default_rng(0)
  asked = np.tile(sampling.leave_one_out(3), (400, 1))
  values = asked @ [1.0, -2.0, 0.5] + 0.1 * rng.normal(size=len(asked))
  found = datamodels.leave_one_out(asked, values)
  assert found.std is not None
  # Two means of 400 draws of deviation .1; chi-square of 1,596 degrees: 5 %.
  np.testing.assert_allclose(found.std, 0.1 * np.sqrt(2 / 400), rtol=0.1)
  z = (found.scores[0] - [1.0, -2.0, 0.5]) / found.std[0]
  assert np.abs(z).max() < 5


def test_errors_of_least_squares_are_the_textbooks():
  masks, values = _random(60, 5)
  found = datamodels.least_squares(masks, values)
  x = np.column_stack([np.ones(60), masks])
  inverse = np.linalg.inv(x.T @ x)
  coefs = inverse @ x.T @ values
  left = ((values - x @ coefs) ** 2).sum(axis=0) / (60 - 6)
  np.testing.assert_allclose(found.scores, coefs[1:].T, atol=1e-12)
  np.testing.assert_allclose(found.baseline, coefs[0], atol=1e-12)
  np.testing.assert_allclose(
    found.std, np.sqrt(np.outer(left, np.diag(inverse)[1:])), rtol=1e-10
  )


@pytest.mark.parametrize("shape", [(40, 7), (9, 30)])
def test_ridge_is_scikit_learns_and_left_out_errors_are_exact(shape):
  masks, values = _random(*shape)
  num_masks = len(masks)
  for penalty in (0.01, 1.0):
    peer = linear_model.Ridge(penalty / 4 * num_masks, tol=1e-12)
    peer.fit(masks.astype(float), values)
    found = datamodels.ridge(masks, values, penalties=[penalty])
    np.testing.assert_allclose(found.scores, peer.coef_, atol=1e-10)
    np.testing.assert_allclose(found.baseline, peer.intercept_, atol=1e-10)
    # The loading is of the whole sum, so that it does not shrink by a mask.
    spectrum = datamodels._Spectrum(masks, values)
    errors = []
    for row in range(num_masks):
      rest = np.arange(num_masks) != row
      peer.fit(masks[rest].astype(float), values[rest])
      errors.append(values[row] - peer.predict(masks[row : row + 1])[0])
    np.testing.assert_allclose(
      spectrum.left_out(penalty),
      (np.square(errors)).mean(axis=0),
      rtol=1e-8,
    )


def test_ridge_chooses_per_target():
  masks, values = _random(50, 20, num_targets=2, noise=0.0)
  values[:, 1] = np.random.default_rng(5).normal(size=50)  # Nothing but noise.
  found = datamodels.ridge(masks, values)
  exact = datamodels.least_squares(masks, values)
  np.testing.assert_allclose(found.scores[0], exact.scores[0], rtol=1e-2)
  assert np.abs(found.scores[1]).max() < 0.3 * np.abs(exact.scores[1]).max()
  assert "1e-04" in found.notes[0] or "0.0001" in found.notes[0]


def test_fewer_masks_than_examples_get_the_least_norm():
  masks, values = _random(9, 30)
  found = datamodels.least_squares(masks, values)
  centred = masks - masks.mean(axis=0)
  expected = np.linalg.lstsq(centred, values - values.mean(axis=0))[0]
  np.testing.assert_allclose(found.scores, expected.T, atol=1e-10)
  np.testing.assert_allclose(found(masks), values, atol=1e-10)
  assert found.std is None


def test_examples_that_go_together_share_their_score_and_are_noted():
  masks, values = _random(40, 4)
  twin = np.column_stack([masks, masks[:, 0]])
  found = datamodels.least_squares(twin, values)
  np.testing.assert_allclose(found.scores[:, 0], found.scores[:, 4])
  assert "4 directions of 5" in found.notes[0]


def test_lasso_finds_the_few_that_matter():
  rng = np.random.default_rng(3)
  masks = rng.random((300, 60)) < 0.5
  truth = np.zeros((2, 60))
  truth[0, [3, 17, 40]] = [2.0, -1.0, 1.5]
  truth[1, [8]] = 1.0
  values = masks @ truth.T + 0.2 * rng.normal(size=(300, 2)) + [5.0, -1.0]
  found = datamodels.lasso(masks, values)
  plain = datamodels.least_squares(masks, values)
  error = np.abs(found.scores - truth)
  assert error.sum() < 0.5 * np.abs(plain.scores - truth).sum()
  assert error.max() < 0.15
  assert found.helpful(0, 2).tolist() == [3, 40]
  assert found.harmful(0, 1).tolist() == [17]
  alone = datamodels.lasso(masks, values[:, 1])
  np.testing.assert_allclose(alone.scores[0], found.scores[1], atol=1e-10)
  screened = datamodels.lasso(masks, values, max_columns=21, relaxed=True)
  assert ((screened.scores != 0).sum(axis=1) <= 20).all()
  np.testing.assert_allclose(screened.scores, truth, atol=0.15)


def test_one_example_and_constant_values():
  masks = np.array([[True], [False], [True], [False]])
  found = datamodels.least_squares(masks, masks[:, 0] * 2.0 + 1)
  np.testing.assert_allclose(found.scores, [[2.0]])
  np.testing.assert_allclose(found.baseline, [1.0])
  for fit in (datamodels.least_squares, datamodels.ridge, datamodels.lasso):
    flat = fit(masks, np.full(4, 7.0))
    np.testing.assert_allclose(flat.scores, [[0.0]], atol=1e-12)
    np.testing.assert_allclose(flat.baseline, [7.0])


@pytest.mark.parametrize(
  ("call", "message"),
  [
    (lambda m, v: datamodels.least_squares(m, v * np.nan), "NaN or infinity"),
    (lambda m, v: datamodels.least_squares(m, v[:-1]), "one value per mask"),
    (lambda m, v: datamodels.least_squares(m[:, :0], v), "no players"),
    (lambda m, v: datamodels.ridge(m, v, penalties=[0.0]), "positive"),
    (lambda m, v: datamodels.ridge(m[:2], v[:2]), "needs 3 masks; got 2"),
    (lambda m, v: datamodels.leave_one_out(m, v), "Leave-one-out needs 8"),
    (lambda m, v: sampling.leave_one_out(0), "at least one player"),
  ],
)
def test_bad_input_is_refused(call, message):
  masks, values = _random(20, 7)
  with pytest.raises(ValueError, match=message):
    call(masks, values)
