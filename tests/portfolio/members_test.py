"""Members of the portfolio: what they say of values, they have not seen."""

import warnings

import numpy as np
import pytest

from spex_jax.fourier import gram, lasso, score
from spex_jax.portfolio import folds as folds_lib
from spex_jax.portfolio import members, policy, process_members, stack
from spex_jax.proxies import (
  boosting,
  gaussian,
  out_of_fold,
  proxyspex,
  readout,
)

_SHAPE = 40, 6  # Of nearly every process here: a compilation takes seconds.


def _truth(masks):
  return 2.0 * masks[:, 0] - masks[:, 3] + 1.5 * masks[:, 0] * masks[:, 3]


def _data(seed=0, noise=0.3, shape=_SHAPE):
  """Masks, values of two players and their pair with noise, and folds."""
  rng = np.random.default_rng(seed)
  masks = rng.random(shape) < 0.5
  values = _truth(masks) + noise * rng.normal(size=len(masks))
  return masks, values, folds_lib.spread(len(masks))


def _by_lasso1(masks, values, folds):
  return members.by_lasso(masks, values, folds, 1)


def _by_lasso2(masks, values, folds):
  return members.by_lasso(masks, values, folds, 2)


def _by_relaxed(masks, values, folds):
  return members.by_lasso(masks, values, folds, 2, relaxed=True)


def _by_gram(masks, values, folds):
  return members.by_gram(masks, values, folds, members.gram_fit(masks, values))


def _by_gaussian(masks, values, folds):
  return process_members.by_gaussian(masks, values)[0]


def _score(member, values):
  return score.r2(values, member.out_of_fold)


def test_the_mean_is_that_of_the_others():
  masks, values, _ = _data()
  found = members.mean(masks, values)
  assert found.function.terms() == [((), pytest.approx(values.mean()))]
  for i in range(40):
    expected = np.delete(values, i).mean()
    np.testing.assert_allclose(found.out_of_fold[i], expected, rtol=1e-12)


@pytest.mark.parametrize("scale", [1e30, 1e-30, 1e300, 1e-300])
def test_the_mean_of_values_of_any_size(scale):
  masks, values, _ = _data()
  plain, other = (members.mean(masks, values * s) for s in (1.0, scale))
  np.testing.assert_allclose(
    other.out_of_fold / scale, plain.out_of_fold, rtol=1e-12
  )
  flat = members.mean(masks, np.full(40, scale))
  np.testing.assert_array_equal(flat.out_of_fold, np.full(40, scale))
  alone = members.mean(masks[:1], np.array([scale]))
  np.testing.assert_array_equal(alone.out_of_fold, [scale])


@pytest.mark.parametrize("by", [_by_lasso1, _by_lasso2, _by_relaxed, _by_gram])
def test_a_fold_is_predicted_by_the_others_alone(by):
  masks, values, folds = _data(shape=(100, 6))
  plain = by(masks, values, folds)
  held = folds == 2
  changed = np.where(held, 50.0 - 7.0 * values**2, values)
  other = by(masks, changed, folds)
  np.testing.assert_array_equal(
    other.out_of_fold[held], plain.out_of_fold[held]
  )
  assert np.abs(other.out_of_fold - plain.out_of_fold)[~held].min() > 0.01


def test_a_value_does_not_enter_its_own_prediction_by_a_process(monkeypatch):
  monkeypatch.setattr(gaussian, "SPREADS", (1.25,))  # Nothing is chosen.
  masks, values, folds = _data()
  plain = _by_gaussian(masks, values, folds)
  changed = values.copy()
  changed[11] += 4.0
  other = _by_gaussian(masks, changed, folds)
  # Rounding grows over 60 steps of Adam.
  np.testing.assert_allclose(
    other.out_of_fold[11], plain.out_of_fold[11], rtol=1e-6
  )
  assert (
    np.abs(np.delete(other.out_of_fold - plain.out_of_fold, 11)).max() > 0.05
  )


@pytest.mark.parametrize(
  "by, name, least",
  [
    (_by_lasso1, "lasso1", 0.7),  # The pair holds a tenth of the variance.
    (_by_lasso2, "lasso2", 0.9),
    (_by_relaxed, "lasso2 relaxed", 0.9),
    (_by_gram, "gram", 0.9),
  ],
)
def test_scores_are_those_of_other_masks(by, name, least):
  masks, values, folds = _data(noise=0.1, shape=(100, 6))
  found = by(masks, values, folds)
  assert found.name == name and found.note
  test, truth, _ = _data(seed=1, noise=0.1, shape=(2000, 6))
  unseen = score.r2(truth, lasso.evaluate(test, found.function))
  folded = _score(found, values)
  assert folded > least and unseen > least
  # An R^2 from 100 values: the share unexplained is known to about a seventh,
  # and fits out of fold see a fifth fewer masks.
  assert 0.4 < (1 - folded) / (1 - unseen) < 2.0
  std = found.errors(np.asarray(found.function.players))
  # Errors of a mean of 100 values; all sets alike.
  left = np.sqrt(((values - found.out_of_fold) ** 2).mean() / 100)
  np.testing.assert_allclose(std, left)


def test_a_process_and_its_errors():
  masks, values, folds = _data(noise=0.1)
  found = _by_gaussian(masks, values, folds)
  assert found.name == "gaussian" and "on 40 masks, noise 0." in found.note
  test, truth, _ = _data(seed=1, noise=0.0, shape=(2000, 6))
  assert score.r2(truth, lasso.evaluate(test, found.function)) > 0.95
  assert 0.9 < _score(found, values) < 1
  exact = {(): 0.875, (0,): -1.375, (3,): 0.125, (0, 3): 0.375}
  std = found.errors(np.asarray(found.function.players))
  assert std.shape == found.function.coefs.shape and (std > 0).all()
  z = [
    (coef - exact.get(players, 0.0)) / error
    for (players, coef), error in zip(found.function.terms(), std)
  ]
  # 64 unit normals: none of six, and a root mean square of 1 to a third, and
  # up to a factor of two for parameters learnt from 40 values.
  assert np.abs(z).max() < 6 and np.sqrt(np.mean(np.square(z))) < 2


@pytest.mark.slow
def test_an_order_limits_the_sets_of_a_process():
  masks, values, _ = _data()
  found = process_members.by_gaussian(masks, values, max_order=1)[0]
  assert found.function.orders.max() == 1
  whole = process_members.by_gaussian(masks, values)[0]
  assert whole.function.orders.max() > 1
  # What is left out predicts nothing: each fold by the others' order 1.
  folds = boosting.spread_folds(len(values))
  held = np.flatnonzero(folds == 0)
  rest = np.delete(np.arange(len(values)), held)
  part = gaussian.fit(masks[rest], values[rest], spread=gaussian.SPREADS[-1])
  alone = readout.expand(part, policy.POLICY.most_terms, max_order=1).fourier
  np.testing.assert_allclose(
    found.out_of_fold[held], alone(masks[held]), rtol=1e-9, atol=1e-9
  )


def test_masks_beyond_the_limit_test_a_process(monkeypatch):
  masks, values, folds = _data(shape=(70, 6))
  monkeypatch.setattr(process_members, "most_masks", lambda: 40)
  found = _by_gaussian(masks, values, folds)
  assert "on 40 masks" in found.note
  assert score.r2(_truth(masks), found.out_of_fold) > 0.8
  # The 30 others are predicted by a fit to the 40 alone.
  order = np.argsort(np.arange(70) * 0.6180339887498949 % 1, kind="stable")
  rows, rest = np.sort(order[:40]), order[40:]
  posterior = gaussian.fit(masks[rows], values[rows])
  expected = gaussian.predict_mean(posterior, masks[rest])
  np.testing.assert_allclose(found.out_of_fold[rest], expected, rtol=1e-6)


def _ridge(seed, num_masks=256, n=16):
  """A function of one direction, which no product kernel knows."""
  rng = np.random.default_rng(seed)
  masks = rng.random((num_masks, n)) < 0.5
  return masks, np.tanh(2.0 * (1.0 - 2.0 * masks) @ np.linspace(0.05, 0.3, n))


@pytest.mark.slow
def test_a_process_is_refined_where_there_are_masks_enough():
  masks, values = _ridge(0)
  found = process_members.by_gaussian(masks, values)
  names = ["gaussian", "gaussian reweighted", "gaussian with directions"]
  assert [member.name for member in found] == names
  test, truth = _ridge(1, 2000)
  for member in found:
    unseen = score.r2(truth, lasso.evaluate(test, member.function))
    folded = _score(member, values)
    # An R^2 of 256 values, whose fits out of fold were tuned on half of them.
    assert unseen > 0.8 and 0.5 < (1 - folded) / (1 - unseen) < 2.5
    std = member.errors(np.asarray(member.function.players))
    assert std.shape == member.function.coefs.shape and (std >= 0).all()
  assert process_members.by_gaussian(masks, values, 2)[1:] == []
  few = process_members.by_gaussian(masks[:255], values[:255])
  assert [member.name for member in few] == names[:1]


@pytest.mark.slow
def test_what_a_readout_leaves_out_is_counted_as_error(monkeypatch):
  masks, values = _ridge(0)
  whole = process_members.by_gaussian(masks, values, baseline=None)[0]
  monkeypatch.setattr(policy, "POLICY", policy.Policy(most_terms=12))
  found = process_members.by_gaussian(masks, values)[0]
  assert int(found.function.count) == 13
  test, truth = _ridge(1, 2000)
  unseen = score.r2(truth, lasso.evaluate(test, found.function))
  folded = _score(found, values)
  assert unseen < score.r2(truth, lasso.evaluate(test, whole.function)) - 0.02
  # 256 values know their mean square to a tenth, and tuned on 3/4 of them.
  assert 0.7 < (1 - folded) / (1 - unseen) < 1.6


def test_a_fit_cut_short_says_so():
  masks, values, _ = _data()
  posterior = gaussian.fit(masks, values)
  trial = out_of_fold.predict(masks, values)
  out = readout.expand(posterior, 64)
  note = lambda whole, groups: process_members._process_note(
    posterior.replace(rising=whole), trial._replace(rising=groups), out
  )
  assert "rising" not in note(0.2, 0.1)
  for rising in ((30.0, 0.0), (0.0, 30.0)):
    assert "still rising, by 30.0 nats a step." in note(*rising)
  for rising in ((np.nan, 0.0), (0.0, np.nan)):
    assert "not finite" in note(*rising) and "nan" not in note(*rising)


@pytest.mark.slow
def test_trees_are_one_of_the_members():
  masks, values, folds = _data(noise=0.1, shape=(200, 6))
  found = members.by_trees(masks, values, folds, max_order=2)
  expected = proxyspex.fit(masks, values, folds=folds, max_order=2)
  np.testing.assert_array_equal(found.out_of_fold, expected.predictions)
  assert found.function.terms() == expected.fourier.terms()
  assert found.note == " ".join(expected.notes) and _score(found, values) > 0.9
  left = np.sqrt(((values - found.out_of_fold) ** 2).mean() / 200)
  np.testing.assert_allclose(found.errors(np.zeros((3, 1), int)), left)


def _pairs(seed, num_masks):
  """Thirty pairs of 30 players: 435 candidates, and just masks enough."""
  rng = np.random.default_rng(0)
  sets = rng.choice(30, (40, 2))
  sets = sets[sets[:, 0] != sets[:, 1]][:30]
  coefs = rng.normal(size=len(sets))
  masks = np.random.default_rng([seed, 1]).random((num_masks, 30)) < 0.5
  signs = 1.0 - 2.0 * masks
  return masks, (signs[:, sets[:, 0]] * signs[:, sets[:, 1]]) @ coefs


@pytest.mark.slow
def test_what_all_masks_leave_is_told_from_what_nine_tenths_leave():
  apart = []
  for seed in range(4):
    masks, values = _pairs(seed, 120)
    found = _by_relaxed(masks, values, folds_lib.spread(120))
    test, truth = _pairs(seed + 10, 2000)
    left = 1 - score.r2(truth, lasso.evaluate(test, found.function))
    folded = 1 - score.r2(values, found.out_of_fold)
    assert 0 < found.growth.share < 1 and found.growth.std > 0
    apart.append(np.log([folded, folded * found.growth.share]) - np.log(left))
  # The logarithm errs by .1 for 120 squares, and by the curve's own bend.
  raw, grown = np.abs(apart).mean(axis=0)
  assert grown < 0.7 * raw


def test_noise_and_many_masks_do_not_grow():
  noise = np.random.default_rng(0).normal(size=200)
  masks = np.random.default_rng(1).random((200, 6)) < 0.5
  found = _by_lasso1(masks, noise, folds_lib.spread(200))
  assert found.growth == folds_lib.Growth(1.0, 0.0)
  masks, values, folds = _data(shape=(600, 6))
  assert len(set(folds)) == 5
  assert _by_lasso1(masks, values, folds).growth == folds_lib.Growth()
  # Nothing is left to fall.
  exact = _truth(masks)
  assert _by_gram(masks[:200], exact[:200], folds[:200] * 2).growth.share <= 1


def test_the_hopeless_are_not_run_to_the_end():
  masks, values, folds = _data(noise=0.01, shape=(100, 6))
  assert (
    members.by_lasso(masks, values, folds, 1, baseline=values + 0.01) is None
  )
  assert (
    members.by_lasso(masks, values, folds, 1, baseline=values * 0) is not None
  )
  rng = np.random.default_rng(0)
  noise = rng.normal(size=100)
  fit = members.gram_fit(masks, noise)
  assert members.by_gram(masks, noise, folds, fit, noise * 0.99) is None
  assert members.by_gram(masks, noise, folds, fit, noise * 0) is not None


def test_the_first_fold_of_a_scan_is_that_of_all_folds():
  masks, values, folds = _data(shape=(100, 6))
  fit = members.gram_fit(masks, values)
  first = folds_lib.first_fold(masks, folds, fit)
  found = members.by_gram(masks, values, folds, fit)
  held = folds == folds[0]
  np.testing.assert_array_equal(first[held], found.out_of_fold[held])
  assert np.isnan(first[~held]).all()


def test_a_process_far_behind_a_baseline_is_not_fitted(monkeypatch):
  masks, values, _ = _data(noise=0.01)
  baseline = np.where(np.arange(40) < 8, values + 1e-6, np.nan)
  # Eight values tell too little.
  assert len(process_members.by_gaussian(masks, values, baseline=baseline)) == 1
  monkeypatch.setattr(policy, "POLICY", policy.Policy(least_compared=8))
  assert process_members.by_gaussian(masks, values, baseline=baseline) == []
  baseline = np.where(np.arange(40) < 8, values + 5.0, np.nan)
  assert len(process_members.by_gaussian(masks, values, baseline=baseline)) == 1


def test_a_scan_needs_masks_and_few_players(monkeypatch):
  masks, values, folds = _data(shape=(63, 6))
  assert members.gram_fit(masks, values) is None
  assert members.by_gram(masks, values, folds, None) is None
  masks, values, folds = _data(shape=(100, 6))
  fit = members.gram_fit(masks, values, max_order=1)
  found = members.by_gram(masks, values, folds, fit)
  assert found.function.orders.max() == 1 and "up to 1" in found.note
  monkeypatch.setattr(policy, "POLICY", policy.Policy(scan_flops=1.0))
  assert members.gram_fit(masks, values) is None


def test_predictions_that_are_not_filled_yet_are_not_read(monkeypatch):
  """Memory that nobody wrote may hold what warns: a signalling NaN, here."""
  empty = np.empty

  def dirty(*args, **kwargs):
    out = empty(*args, **kwargs)
    if out.dtype == np.float64:
      out.view(np.uint64)[...] = 0x7FF0_0000_0000_0001
    return out

  masks, values, folds = _data(shape=(100, 6))
  fit = members.gram_fit(masks, values)
  with monkeypatch.context() as patch, warnings.catch_warnings():
    warnings.simplefilter("error", RuntimeWarning)
    patch.setattr(np, "empty", dirty)
    found = members.by_gram(masks, values, folds, fit, np.zeros(100))
  assert np.isfinite(found.out_of_fold).all()


@pytest.mark.parametrize(
  "by", [_by_lasso1, _by_lasso2, _by_relaxed, _by_gram, _by_gaussian]
)
@pytest.mark.parametrize("scale", [1e200, 1e-200])
def test_units_change_nothing(by, scale):
  shape = _SHAPE if by is _by_gaussian else (100, 6)
  masks, values, folds = _data(shape=shape)
  plain = by(masks, values, folds)
  other = by(masks, values * scale, folds)
  # The lasso stops, and Adam steps, within 1e-6.
  tight = {"rtol": 1e-5, "atol": 1e-5}
  np.testing.assert_allclose(
    other.out_of_fold / scale, plain.out_of_fold, **tight
  )
  players = np.array([[0, 6], [0, 3], [6, 6]])
  np.testing.assert_allclose(
    other.errors(players) / scale, plain.errors(players), **tight
  )


@pytest.mark.parametrize(
  "by", [_by_lasso1, _by_lasso2, _by_relaxed, _by_gram, _by_gaussian]
)
def test_constant_values(by):
  shape = _SHAPE if by is _by_gaussian else (100, 6)
  masks, _, folds = _data(shape=shape)
  found = by(masks, np.full(len(masks), 7.0), folds)
  np.testing.assert_allclose(found.out_of_fold, 7.0, rtol=1e-12)
  assert all(
    coef == pytest.approx(0.0 if players else 7.0)
    for players, coef in found.function.terms()
  )
  assert np.isfinite(found.errors(np.array([[0], [6]]))).all()


@pytest.mark.parametrize("by", [_by_lasso1, _by_lasso2, _by_relaxed])
@pytest.mark.parametrize("num_masks", [2, 3, 5])
@pytest.mark.parametrize("n", [1, 6])
def test_few_masks_and_one_player(by, num_masks, n):
  rng = np.random.default_rng(num_masks)
  masks = rng.random((num_masks, n)) < 0.5
  masks[0] = True
  values = rng.normal(size=num_masks)
  folds = folds_lib.spread(num_masks)
  found = by(masks, values, folds)
  assert np.isfinite(found.out_of_fold).all()
  if num_masks == 2:  # Each by the other, without a fit.
    np.testing.assert_allclose(found.out_of_fold, values[::-1])


def test_equal_masks_are_separate_samples():
  masks, values, folds = _data()
  masks = np.repeat(masks[:8], 5, axis=0)
  rng = np.random.default_rng(2)
  values = _truth(masks) + 0.2 * rng.normal(size=40)
  for by in (_by_lasso1, _by_lasso2, _by_gaussian):
    found = by(masks, values, folds)
    assert np.isfinite(found.out_of_fold).all()
    # The noise is 0.2: what repeats can tell, they tell.
    assert _score(found, values) > 0.8


def _together(masks, values, folds):
  found = [
    members.mean(masks, values),
    _by_lasso1(masks, values, folds),
    _by_gaussian(masks, values, folds),
  ]
  return stack.stack(masks, values, found)


@pytest.mark.slow
def test_more_players_than_masks():
  """Never much worse than the mean, and better where there is a signal."""
  shape = 40, 200
  test = np.random.default_rng(99).random((2000, 200)) < 0.5
  worst = []
  for seed in range(2):
    masks, values, folds = _data(seed, noise=0.1, shape=shape)
    answer = _together(masks, values, folds)
    truth = _truth(test)
    assert score.r2(truth, lasso.evaluate(test, answer.function)) > 0.5
    rng = np.random.default_rng(seed)
    noise = rng.normal(size=40)
    answer = _together(masks, noise, folds)
    # Of noise there is nothing to know: the error beyond that of 0 is the
    # energy of the answer. The mean's is 1 / 40.
    energy = sum(c**2 for _, c in answer.function.terms())
    worst.append(energy - noise.mean() ** 2)
  assert np.mean(worst) < 0.1 and max(worst) < 0.25


def test_orders_that_cannot_be_significant_are_not_scanned():
  # Of 1,000 players a set of 3 must hold .73 of what 54 samples vary by.
  assert members.scanned_order(1000, 54) < 3
  assert members.scanned_order(30, 512) == 4  # As far as a scan goes.
  assert members.scanned_order(30, 512, max_order=2) == 2
  for n, num_masks in ((12, 64), (100, 64), (1000, 100)):
    order = members.scanned_order(n, num_masks)
    assert order >= 1
    share = gram.significance(n, order) ** 2 / num_masks
    assert order == 1 or share <= policy.POLICY.most_needed
