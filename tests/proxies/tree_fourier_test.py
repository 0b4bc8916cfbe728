"""Expansions of trees equal their predictions, whoever grew them."""

import itertools

import numpy as np
import pytest
import threadpoolctl
from hypothesis import given
from hypothesis import strategies as st

from spex_jax.masks import sampling
from spex_jax.proxies import tree_fourier, tree_readers, trees
from tests import functions

_EPS = np.finfo(np.float64).eps


@pytest.fixture(autouse=True)
def _one_thread():
  """OpenMP's threads wait for each other long on a busy machine."""
  with threadpoolctl.threadpool_limits(1):
    yield


def _samples(n=8, num_masks=300, seed=0):
  rng = np.random.default_rng(seed)
  masks = rng.integers(0, 2, (num_masks, n)).astype(bool)
  values = masks @ rng.normal(size=n) + 2.0 * masks[:, 0] * masks[:, 1]
  return masks, values + 0.1 * rng.normal(size=num_masks)


def _everywhere(n=8):
  return np.asarray(sampling.enumerate_masks(n))


def _by_recursion(trees_, n):
  """The dictionary recursion of the paper, tree by tree."""
  out = {(): float(trees_.bias)}

  def expand(feature, leaf, node):
    if node >= len(feature):
      return {(): leaf[node - len(feature)]}
    left = expand(feature, leaf, 2 * node + 1)
    if feature[node] == n:
      return left
    right = expand(feature, leaf, 2 * node + 2)
    both = {}
    for members in {*left, *right}:
      one, two = left.get(members, 0.0), right.get(members, 0.0)
      toggled = tuple(sorted({*members} ^ {int(feature[node])}))
      both[members] = both.get(members, 0.0) + (one + two) / 2
      both[toggled] = both.get(toggled, 0.0) + (one - two) / 2
    return both

  for feature, leaf in zip(trees_.feature, trees_.leaf):
    for members, coef in expand(feature, leaf, 0).items():
      out[members] = out.get(members, 0.0) + coef
  return out


@pytest.mark.slow
@given(
  seed=st.integers(0, 2**32),
  n=st.integers(1, 9),
  depth=st.integers(1, 5),
  num_trees=st.integers(0, 6),
)
def test_any_trees_match_the_recursion(seed, n, depth, num_trees):
  """Players repeat on a path, and nodes that do not split, as they come."""
  rng = np.random.default_rng(seed)
  grown = trees.Trees(
    feature=rng.integers(0, n + 1, (num_trees, 2**depth - 1), dtype=np.int32),
    leaf=rng.normal(size=(num_trees, 2**depth)),
    bias=np.asarray(rng.normal()),
    n=n,
  )
  expected = _by_recursion(grown, n)
  found = dict(tree_fourier.expand(grown).terms())
  assert len(found) == int(tree_fourier.expand(grown).count)
  # Sums of at most `num_trees` 2^depth leaves, of size 5 and less.
  atol = 8 * max(1, num_trees) * 2**depth * 5 * _EPS
  for members in {*expected, *found}:
    assert abs(expected.get(members, 0.0) - found.get(members, 0.0)) < atol
  masks = _everywhere(n)
  np.testing.assert_allclose(
    tree_fourier.expand(grown)(masks),
    trees.predict(grown, masks),
    atol=atol * 2**depth,
  )


@pytest.mark.slow
def test_terms_come_as_sparse_fourier_wants_them():
  masks, values = _samples()
  found = tree_fourier.expand(functions.grown(masks, values, num_trees=20))
  again = type(found).from_players(found.n, found.players, found.coefs)
  assert int(found.count) == int(again.count) == len(found.coefs)
  assert dict(found.terms()) == dict(again.terms())  # Ties in any order.
  np.testing.assert_array_equal(np.abs(found.coefs), np.abs(again.coefs))
  np.testing.assert_array_equal(found.players, np.sort(found.players, axis=1))
  assert found.coefs.dtype == np.float64


@pytest.mark.slow
def test_many_players_are_expanded_as_few():
  rng = np.random.default_rng(1)
  masks = rng.integers(0, 2, (600, 1000)).astype(bool)
  values = masks[:, :3] @ [3.0, 2.0, 1.0] + rng.normal(size=600)
  grown = functions.grown(masks, values, num_trees=100, depth=5)
  test = rng.integers(0, 2, (100, 1000)).astype(bool)
  found = tree_fourier.expand(grown)
  assert int(found.count) > 5000
  expected = trees.predict(grown, test)
  # float64 sums of some 10^4 terms whose sizes add up to about 100.
  np.testing.assert_allclose(found(test), expected, atol=1e4 * 100 * _EPS)


@pytest.mark.slow
def test_batches_of_trees_add_up(monkeypatch):
  masks, values = _samples()
  grown = functions.grown(masks, values, num_trees=30, depth=4, min_leaf=2)
  whole = tree_fourier.expand(grown)
  monkeypatch.setattr(tree_fourier, "_ROWS", 150)  # Some two trees each.
  assert len(tree_fourier._batches(tree_readers.read(grown, 8))) > 5
  parts = tree_fourier.expand(grown)
  assert parts.terms()[0][0] == ()
  everywhere = _everywhere()
  np.testing.assert_allclose(parts(everywhere), whole(everywhere), atol=1e-12)
  assert int(parts.count) == int(whole.count)


def _lightgbm(**settings):
  lightgbm = pytest.importorskip("lightgbm")
  plain = dict(n_estimators=12, verbose=-1, n_jobs=1, min_child_samples=5)
  return lightgbm.LGBMRegressor(**(plain | settings))


def _xgboost(**settings):
  xgboost = pytest.importorskip("xgboost")
  return xgboost.XGBRegressor(
    **(dict(n_estimators=12, n_jobs=1, max_depth=6) | settings)
  )


def _sklearn(name, **settings):
  from sklearn import ensemble, tree

  kind = getattr(ensemble, name, None) or getattr(tree, name)
  return kind(**(dict(random_state=0) | settings))


_MODELS = {
  "lightgbm": lambda: _lightgbm(),
  "lightgbm, deep and narrow": lambda: _lightgbm(num_leaves=13, max_depth=-1),
  "lightgbm forest": lambda: _lightgbm(
    boosting_type="rf", subsample=0.5, subsample_freq=1
  ),
  "lightgbm dart": lambda: _lightgbm(boosting_type="dart"),
  "lightgbm, 0 is missing": lambda: _lightgbm(zero_as_missing=True),
  "lightgbm, absolute error": lambda: _lightgbm(objective="l1"),
  "xgboost": lambda: _xgboost(),
  "xgboost, leaf-wise": lambda: _xgboost(
    grow_policy="lossguide", max_leaves=9, tree_method="hist", max_depth=0
  ),
  "xgboost dart": lambda: _xgboost(booster="dart", rate_drop=0.5),
  "xgboost, parallel trees": lambda: _xgboost(
    num_parallel_tree=3, subsample=0.7
  ),
  "xgboost, 0 is missing": lambda: _xgboost(missing=0.0),
  "xgboost, 1 is missing": lambda: _xgboost(missing=1.0),
  "xgboost, own base": lambda: _xgboost(base_score=-3.0),
  "tree": lambda: _sklearn("DecisionTreeRegressor", max_depth=12),
  "random tree": lambda: _sklearn("ExtraTreeRegressor", max_depth=7),
  "forest": lambda: _sklearn("RandomForestRegressor", n_estimators=5),
  "extra trees": lambda: _sklearn("ExtraTreesRegressor", n_estimators=4),
  "boosting": lambda: _sklearn("GradientBoostingRegressor", n_estimators=9),
  "boosting from 0": lambda: _sklearn(
    "GradientBoostingRegressor", n_estimators=9, init="zero"
  ),
  "histogram boosting": lambda: _sklearn(
    "HistGradientBoostingRegressor", max_iter=9, min_samples_leaf=5
  ),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(_MODELS))
@pytest.mark.parametrize("fractions", [False, True])
def test_every_library_is_expanded(name, fractions):
  masks, values = _samples()
  inputs = masks.astype(np.float32)
  if fractions:
    # Thresholds anywhere, in (0, 1) and out of it, twice on a path.
    noise = np.random.default_rng(2).normal(size=masks.shape)
    inputs = (inputs + 0.7 * noise).astype(np.float32)
  model = _MODELS[name]().fit(inputs, values)
  everywhere = _everywhere()
  expected = model.predict(everywhere.astype(np.float32))
  found = tree_fourier.expand(model, 8)
  # XGBoost adds its leaves, of size 10 and less, in float32.
  atol = 40 * 10 * np.finfo(np.float32).eps if "xgb" in name else 1e-12
  np.testing.assert_allclose(found(everywhere), expected, rtol=0, atol=atol)
  assert np.ptp(expected) > 1


def test_boosters_are_read_like_their_regressors():
  masks, values = _samples()
  for model in (_lightgbm(), _xgboost()):
    model.fit(masks.astype(np.float32), values)
    booster = getattr(model, "booster_", None) or model.get_booster()
    one, two = (tree_fourier.expand(m, 8) for m in (model, booster))
    assert one.terms() == two.terms()


def test_early_stopping_reads_what_is_predicted():
  masks, values = _samples()
  noisy = values + np.random.default_rng(3).normal(size=300) * 3
  lightgbm = pytest.importorskip("lightgbm")
  stop = lightgbm.early_stopping(3, verbose=False)
  ours = lightgbm.train(
    dict(objective="regression", learning_rate=0.5, verbose=-1, num_threads=1),
    lightgbm.Dataset(masks[:200], noisy[:200]),
    num_boost_round=300,
    valid_sets=[lightgbm.Dataset(masks[200:], noisy[200:])],
    callbacks=[stop],
  )
  other = _xgboost(n_estimators=300, early_stopping_rounds=3)
  split = [(masks[200:], noisy[200:])]
  other.fit(masks[:200], noisy[:200], eval_set=split, verbose=False)
  assert max(ours.best_iteration, other.best_iteration) < 200
  for model in (ours, other):
    expected = model.predict(_everywhere())
    found = tree_fourier.expand(model, 8)(_everywhere())
    np.testing.assert_allclose(found, expected, atol=1e-4)


def test_constant_values_make_constants():
  masks, _ = _samples()
  for model in (
    _lightgbm(),
    _xgboost(),
    _sklearn("RandomForestRegressor", n_estimators=3),
    _sklearn("HistGradientBoostingRegressor", max_iter=3),
  ):
    model.fit(masks.astype(np.float32), np.full(300, 2.5))
    terms = tree_fourier.expand(model, 8).terms()
    assert [members for members, _ in terms] == [()]
    np.testing.assert_allclose(terms[0][1], 2.5, rtol=1e-6)


def test_chains_are_cheap_until_they_are_not():
  # A tree of depth d along one path: node k at depth k gives 2^k sets.
  def chain(n):
    node = np.arange(2 * n + 1)
    return tree_readers.Ensemble(
      feature=np.where(node < n, node, -1),
      zero=np.where(node < n, n + node, 0),
      one=np.where(node < n - 1, node + 1, 2 * n),
      value=np.where(node < n, 0.0, node),
      roots=np.zeros(1, np.int64),
      bias=0.0,
    )

  levels = tree_fourier._levels(chain(12), np.zeros(1, np.int64))
  assert len(levels) == 13
  with pytest.raises(ValueError, match="Fit shallower trees"):
    tree_fourier._levels(chain(30), np.zeros(1, np.int64))


def _fitted(model, target=None):
  masks, values = _samples()
  target = values if target is None else target(values)
  return model.fit(masks.astype(np.float32), target)


@pytest.mark.parametrize(
  ("model", "error", "message"),
  [
    (lambda: "trees", TypeError, "Cannot expand a builtins.str"),
    (
      lambda: _sklearn("RandomForestClassifier"),
      TypeError,
      "RandomForestClassifier; known are regression ensembles",
    ),
    (lambda: _sklearn("RandomForestRegressor"), ValueError, "not fitted yet"),
    (lambda: _lightgbm(), ValueError, "LGBMRegressor is not fitted yet"),
    (lambda: _xgboost(), ValueError, "XGBRegressor is not fitted yet"),
    (
      lambda: _sklearn("HistGradientBoostingRegressor"),
      ValueError,
      "not fitted yet",
    ),
    (
      lambda: _fitted(
        _sklearn("DecisionTreeRegressor"), lambda v: np.stack([v, v], 1)
      ),
      ValueError,
      "several outputs",
    ),
    (
      lambda: _fitted(_xgboost(), lambda v: np.stack([v, v], 1)),
      ValueError,
      "several outputs",
    ),
    (
      lambda: _fitted(_lightgbm(objective="poisson"), np.exp),
      ValueError,
      "objective 'poisson' is no plain regression",
    ),
    (
      lambda: _fitted(_lightgbm(reg_sqrt=True)),
      ValueError,
      "no plain regression",
    ),
    (
      lambda: _fitted(_xgboost(objective="reg:gamma"), np.exp),
      ValueError,
      "'reg:gamma' is no plain regression",
    ),
    (
      lambda: _fitted(
        _sklearn("HistGradientBoostingRegressor", loss="poisson"), np.exp
      ),
      ValueError,
      "loss 'poisson' is no plain regression",
    ),
    (
      lambda: _fitted(_lightgbm(linear_tree=True)),
      ValueError,
      "linear trees",
    ),
    (
      lambda: _fitted(_xgboost(booster="gblinear", max_depth=None)),
      ValueError,
      "gblinear has no trees",
    ),
    (
      lambda: _fitted(
        _sklearn(
          "GradientBoostingRegressor", init=_sklearn("DecisionTreeRegressor")
        )
      ),
      ValueError,
      "fit it with init=None or 'zero'",
    ),
  ],
)
def test_other_models_are_refused(model, error, message):
  model = model()
  with pytest.raises(error, match=message):
    tree_fourier.expand(model, 8)


def test_masks_of_other_players_are_refused():
  masks, values = _samples()
  model = _fitted(_sklearn("DecisionTreeRegressor"))
  with pytest.raises(ValueError, match=r"feature 7, .* n=5 players"):
    tree_fourier.expand(model, 5)
  with pytest.raises(ValueError, match="Pass n, the number of players"):
    tree_fourier.expand(model)
  broken = functions.grown(masks, values, num_trees=2)
  broken.leaf[0, 0] = np.nan
  with pytest.raises(ValueError, match="leaves of NaN"):
    tree_fourier.expand(broken)


def test_no_two_sets_share_a_number():
  """All sets of up to 4 of 40 players: the keys are as good as the sets."""
  rng = np.random.default_rng(tree_fourier._SEED)
  numbers = rng.integers(1, 1 << 63, 40, np.uint64)
  keys = {0}
  count = 1
  for order in range(1, 5):
    sets = np.array(list(itertools.combinations(range(40), order)))
    keys.update(np.bitwise_xor.reduce(numbers[sets], axis=1).tolist())
    count += len(sets)
  assert len(keys) == count
