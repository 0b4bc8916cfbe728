"""ProxySPEX: what is cut, what is fitted again, and what is said about it."""

import jax
import numpy as np
import pytest

from spex_jax.fourier import score, sparse
from spex_jax.proxies import boosting, proxyspex

_CONFIGS = [boosting.Config(3, 0.1)]


@pytest.fixture(autouse=True)
def _quick(monkeypatch):
  monkeypatch.setattr(proxyspex, "grid", lambda max_order: _CONFIGS)
  monkeypatch.setattr(proxyspex, "_MOST_TREES", 200)


def _fit(masks, values, folds=None, max_order=5):
  if folds is None:
    folds = boosting.spread_folds(len(masks))
  return proxyspex.fit(masks, values, folds=folds, max_order=max_order)


def _planted(seed=0, num_masks=400, n=20, noise=0.0):
  """A function of few sets, closed under subsets, and its samples."""
  rng = np.random.default_rng(seed)
  terms = {(): 3.0, (0,): 2.0, (1,): -1.5, (0, 1): 1.0, (2,): 1.0, (5,): 0.7}
  terms |= {(0, 2): 0.6, (0, 1, 2): 0.5, (7,): -0.5}
  function = sparse.SparseFourier.from_terms(n, terms)
  masks = rng.integers(0, 2, (num_masks, n)).astype(bool)
  return function, masks, function(masks) + noise * rng.normal(size=num_masks)


def _test_masks(n=20):
  return np.random.default_rng(99).integers(0, 2, (500, n)).astype(bool)


@pytest.mark.slow
def test_the_planted_sets_are_found():
  function, masks, values = _planted()
  found = _fit(masks, values)
  test = _test_masks()
  assert score.r2(function(test), found.fourier(test)) > 0.999
  strongest = dict(found.fourier.truncate(8).terms())
  assert set(strongest) == set(dict(function.terms()))
  for members, coef in function.terms():
    assert abs(strongest[members] - coef) < 0.05
  assert score.r2(values, found.predictions) > 0.99
  assert len(found.notes) == 2
  assert f"{int(found.fourier.count) - 1} sets" in found.notes[1]


@pytest.mark.slow
def test_no_accuracy_that_validation_sees_is_lost():
  for seed in range(3):
    _, masks, values = _planted(seed, 200, noise=1.5)
    found = _fit(masks, values)
    folds = boosting.spread_folds(200)
    trees = boosting.cross_validate(
      masks, values, folds, _CONFIGS, num_trees=200, key=jax.random.key(0)
    )
    cut, whole = (score.r2(values, one.predictions) for one in (found, trees))
    lost = (1 - cut) / (1 - whole)
    assert lost <= 1.003  # Errors within 0.2 % are ties, for the sparser.


def test_predictions_are_of_fits_that_never_saw_their_fold():
  _, masks, values = _planted(1, 200, noise=0.5)
  folds = boosting.spread_folds(200)
  first = _fit(masks, values, folds)
  changed = values.copy()
  held = np.flatnonzero(folds == 2)[:3]
  # A change that alters no choice; the fits of the other folds see it.
  changed[held] += 1e-3
  second = _fit(masks, changed, folds)
  kept = [one.notes[1].split(":")[0] for one in (first, second)]
  assert kept[0] == kept[1]
  mine = folds == 2
  np.testing.assert_allclose(
    second.predictions[mine], first.predictions[mine], rtol=0, atol=1e-5
  )
  assert np.abs(second.predictions - first.predictions)[~mine].max() > 1e-5


@pytest.mark.parametrize(
  ("scale", "offset"), [(1e30, 0.0), (1e-30, 0.0), (1.0, 1e4), (-2.0, 1e6)]
)
def test_units_and_offsets_change_nothing(scale, offset):
  function, masks, values = _planted(4, 250, noise=0.1)
  found = _fit(masks, scale * values + offset)
  test = _test_masks()
  guess = (found.fourier(test) - offset) / scale
  assert np.isfinite(found.fourier.coefs).all()
  assert score.r2(function(test), guess) > 0.99


@pytest.mark.parametrize("constant", [0.0, 1e30, -2.5])
def test_constant_values_are_said_to_be_constant(constant):
  _, masks, _ = _planted()
  found = _fit(masks, np.full(400, constant))
  assert found.fourier.terms() == [((), constant)]
  assert found.notes == ["All values are equal: the function is that constant."]
  assert (found.predictions == constant).all()


def test_one_mask_stands_for_all():
  found = _fit(np.ones((1, 4), bool), [2.5])
  assert found.fourier.terms() == [((), 2.5)]
  assert "One mask only" in found.notes[0]


@pytest.mark.slow_where("3", "7")
@pytest.mark.parametrize("num_masks", [2, 3, 7, 30])
def test_too_few_masks_to_split_give_the_mean_and_say_so(num_masks):
  _, masks, values = _planted(5, num_masks)
  found = _fit(masks, values)
  terms = found.fourier.terms()
  assert [members for members, _ in terms] == [()]
  np.testing.assert_allclose(terms[0][1], values.mean(), rtol=1e-6)
  assert any("ask for more masks" in note for note in found.notes)
  assert np.isfinite(found.predictions).all()


def test_two_distinct_values_and_one_player():
  masks = np.array([[False], [True]] * 60)
  found = _fit(masks, np.where(masks[:, 0], 5.0, 1.0))
  (_, mean), (members, coef) = found.fourier.terms()
  assert members == (0,)
  np.testing.assert_allclose([mean, coef], [3.0, -2.0], atol=1e-3)


def test_duplicate_masks_are_samples_like_others():
  function, masks, values = _planted(6, 150)
  masks, values = np.tile(masks, (3, 1)), np.tile(values, 3)
  found = _fit(masks, values)
  test = _test_masks()
  assert score.r2(function(test), found.fourier(test)) > 0.9


def test_pure_noise_is_not_worse_than_the_mean():
  rng = np.random.default_rng(7)
  masks = rng.integers(0, 2, (120, 60)).astype(bool)
  values = rng.normal(size=120)
  found = _fit(masks, values)
  # The folds' means are R^2 of about -1/B; chosen on them, nothing is worse.
  assert score.r2(values, found.predictions) > -0.05


@pytest.mark.parametrize(
  ("change", "error", "message"),
  [
    (dict(max_order=0), ValueError, "max_order must be at least 1"),
    (dict(max_order=2.5), TypeError, "max_order must be an integer"),
    (dict(values=np.zeros((400, 2))), ValueError, "Need one target"),
    (dict(values=np.full(400, np.inf)), ValueError, "NaN or infinity for 400"),
    (dict(folds=np.zeros(400, int)), ValueError, "at least two folds"),
  ],
)
def test_bad_input_is_refused(change, error, message):
  _, masks, values = _planted()
  settings = dict(values=values) | change
  with pytest.raises(error, match=message):
    _fit(masks, **settings)
