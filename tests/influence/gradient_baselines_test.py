"""Influence functions, TracIn and TRAK against closed forms in NumPy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from spex_jax.fourier import score
from spex_jax.indices import judging
from spex_jax.influence import gradient_baselines, trak
from tests import ridge_games

_N = 24
_X, _Y, _TESTS = ridge_games.data(_N)
_GRAM = _X.T @ _X + ridge_games.PENALTY * np.eye(_X.shape[1])
_THETA = np.linalg.solve(_GRAM, _X.T @ _Y)
_TRAIN = {"x": _X, "y": _Y}
_DAMPING = 2 * ridge_games.PENALTY / _N


def _predict(params, example):
  return example["x"] @ params["theta"]


def _square(params, example):
  return (_predict(params, example) - example["y"]) ** 2


@pytest.fixture(autouse=True)
def _double():
  with jax.enable_x64(True):
    yield


def _influence(**change):
  arguments = {
    "params": {"theta": jnp.asarray(_THETA)},
    "train": _TRAIN,
    "test": {"x": _TESTS},
    "damping": _DAMPING,
    "solver": "exact",
    "loss": _square,
    "output": _predict,
  }
  return gradient_baselines.influence_functions(**(arguments | change))


@pytest.mark.slow
@pytest.mark.parametrize(
  ("solver", "chunk"), [("exact", 7), ("exact", 100), ("cg", 7)]
)
def test_influence_on_ridge_is_the_infinitesimal_jackknife(solver, chunk):
  expected = _TESTS @ np.linalg.solve(_GRAM, _X.T * (_Y - _X @ _THETA))
  found = _influence(solver=solver, chunk=chunk, tolerance=1e-12)
  np.testing.assert_allclose(found.scores, expected, rtol=0, atol=1e-10)
  full = np.ones((1, _N), bool)
  np.testing.assert_allclose(found(full)[0], _TESTS @ _THETA, atol=1e-12)
  if solver == "cg":
    assert "relative residual" in found.notes[0]


def test_influence_is_close_to_leaving_one_out():
  found = _influence()
  masks = ~np.eye(_N, dtype=bool)
  values = ridge_games.refit(masks, _X, _Y, _TESTS)
  assert judging.lds(found, masks, values).mean > 0.98


def _newton(weights, x, y, penalty):
  """Logistic regression, `sum w log(1 + exp(-y x theta)) + c/2 |theta|^2`."""
  theta = np.zeros(x.shape[1])
  for _ in range(30):
    p = 1 / (1 + np.exp(y * (x @ theta)))
    slope = -x.T @ (weights * y * p) + penalty * theta
    hessian = (x.T * (weights * p * (1 - p))) @ x
    hessian += penalty * np.eye(len(theta))
    theta = theta - np.linalg.solve(hessian, slope)
  return theta


def _logistic(params, example):
  return jax.nn.softplus(-example["y"] * (example["x"] @ params))


def _margin(params, example):
  return example["y"] * (example["x"] @ params)


def test_influence_on_logistic_regression_is_its_derivative():
  y = np.sign(_Y)
  theta = _newton(np.ones(_N), _X, y, 1.0)
  found = gradient_baselines.influence_functions(
    _logistic, _margin, jnp.asarray(theta), {"x": _X, "y": y},
    {"x": _TESTS, "y": np.ones(len(_TESTS))}, damping=1 / _N, solver="cg",
    tolerance=1e-10,
  )  # fmt: skip
  step = 1e-4
  slopes = []
  for i in range(_N):
    ends = []
    for sign in (1, -1):
      weights = np.ones(_N)
      weights[i] += sign * step
      ends.append(_TESTS @ _newton(weights, _X, y, 1.0))
    slopes.append((ends[0] - ends[1]) / (2 * step))
  # Central differences: h^2 f''' / 6 and rounding over h, both about 1e-8.
  np.testing.assert_allclose(found.scores, np.stack(slopes, 1), atol=1e-7)


def test_tracin_is_the_sum_of_inner_products():
  points = [_THETA, 0.5 * _THETA, np.zeros_like(_THETA)]
  rates = [0.1, 0.2, 0.3]
  expected = np.zeros((3, _N))
  for theta, rate in zip(points, rates):
    slope = 2 * (_X @ theta - _Y)[:, None] * _X
    expected -= rate * _TESTS @ slope.T
  found = gradient_baselines.tracin(
    _square, _predict, [{"theta": jnp.asarray(p)} for p in points], rates,
    _TRAIN, {"x": _TESTS}, chunk=10,
  )  # fmt: skip
  np.testing.assert_allclose(found.scores, expected, atol=1e-12)


def test_tracin_of_losses_has_the_papers_sign():
  """An example explains itself: its own step lowers its own loss."""
  found = gradient_baselines.tracin(
    _square, lambda params, example: -_square(params, example),
    [{"theta": jnp.asarray(_THETA)}], [1.0], _TRAIN, _TRAIN,
  )  # fmt: skip
  assert (np.diag(found.scores) > 0).all()


def _trak(**change):
  arguments = {
    "output": _predict,
    "models": [{"theta": jnp.asarray(_THETA)}],
    "train": _TRAIN,
    "test": {"x": _TESTS},
    "key": jax.random.key(0),
    "dim": None,
    "slope": lambda params, row: row["y"] - _predict(params, row),
  }
  return trak.trak(**(arguments | change))


def test_trak_without_projection_is_influence_on_a_linear_model():
  theta = jnp.asarray(np.linalg.lstsq(_X, _Y)[0])
  found = _trak(models=[{"theta": theta}], chunk=9)
  expected = _influence(params={"theta": theta}, damping=0.0)
  # d/d theta of (y - x theta)^2 has a 2 that the Hessian has, too.
  np.testing.assert_allclose(found.scores, expected.scores, atol=1e-12)
  np.testing.assert_allclose(found.baseline, expected.baseline, atol=1e-12)


def test_trak_of_margins_is_its_formula():
  y = np.sign(_Y)
  thetas = [_THETA, _THETA[::-1].copy()]
  tests = {"x": _TESTS, "y": np.ones(3)}
  found = trak.trak(
    _margin, [jnp.asarray(t) for t in thetas], {"x": _X, "y": y}, tests,
    key=jax.random.key(0), dim=None,
  )  # fmt: skip
  x = _X * y[:, None]
  product = _TESTS @ np.linalg.solve(x.T @ x, x.T)
  q = np.mean([1 / (1 + np.exp(x @ theta)) for theta in thetas], axis=0)
  np.testing.assert_allclose(found.scores, product * q, atol=1e-12)


@pytest.mark.slow
def test_projections_keep_inner_products():
  rng = np.random.default_rng(0)
  vectors = jnp.asarray(rng.normal(size=(6, 500)) + 1.0)
  projected = trak.project(jax.random.key(0), vectors, 4000)
  again = trak.project(jax.random.key(0), vectors[:2], 4000)
  np.testing.assert_allclose(projected[:2], again, atol=1e-12)
  exact = np.asarray(vectors @ vectors.T)
  error = np.abs(np.asarray(projected @ projected.T) - exact)
  # sqrt(2 / 4,000) = .022 of |a| |b|; 21 products.
  assert error.max() < 4 * 0.023 * exact.max()
  assert error.max() > 0


@pytest.mark.slow
def test_a_projection_in_blocks_is_one_of_all_parameters(monkeypatch):
  monkeypatch.setattr(trak, "_CELLS", 64)  # Blocks of 4 of 10 parameters.
  basis = trak.project(jax.random.key(1), jnp.eye(10), 16)
  np.testing.assert_allclose(np.abs(basis), 0.25)
  vector = jnp.arange(10.0)[None]
  np.testing.assert_allclose(
    trak.project(jax.random.key(1), vector, 16), vector @ basis
  )


@pytest.mark.slow
def test_trak_ranks_survive_a_projection_and_gain_by_an_ensemble():
  x, y, tests = ridge_games.data(80, width=30)
  theta = {"theta": jnp.asarray(np.linalg.lstsq(x, y)[0])}
  data = {"train": {"x": x, "y": y}, "test": {"x": tests}}
  exact = _trak(models=[theta], **data).scores
  ranks = []
  for count in (1, 8):
    found = _trak(models=[theta] * count, dim=15, **data).scores
    ranks.append(np.mean(score.spearman(exact.T, found.T)))
  assert 0.3 < ranks[0] < ranks[1] and ranks[1] > 0.7


@pytest.mark.parametrize(
  ("call", "message"),
  [
    (lambda: _influence(damping=-1.0), "damping must be finite"),
    (lambda: _influence(solver="lissa"), "choose exact or cg"),
    (
      lambda: _influence(loss=lambda p, e: -_square(p, e)),
      "not positive definite: the lowest eigenvalue of the Hessian is -",
    ),
    (
      lambda: _influence(train={"x": _X[:0], "y": _Y[:0]}),
      "train needs arrays of one leading axis",
    ),
    (
      lambda: _influence(train={"x": _X, "y": _Y[:3]}),
      "train needs arrays of one leading axis",
    ),
    (lambda: _influence(chunk=0), "chunk must be at least 1"),
    (
      lambda: _influence(train={"x": _X, "y": _Y * np.nan}),
      "scores hold NaN",
    ),
    (
      lambda: _influence(params={"theta": jnp.zeros(4, int)}),
      "params must hold floats",
    ),
    (
      lambda: gradient_baselines.tracin(
        _square, _predict, [], [], _TRAIN, _TRAIN
      ),
      "at least one checkpoint",
    ),
    (lambda: _trak(models=[]), "at least one trained model"),
    (lambda: _trak(dim=0), "dim must be at least 1"),
    (lambda: _trak(penalty=-1), "penalty must be finite"),
    (
      lambda: _trak(train={"x": _X[:2], "y": _Y[:2]}),
      "2 examples do not span 4 dimensions",
    ),
    (
      lambda: _trak(models=[{"theta": jnp.ones(4)}, {"theta": jnp.ones(5)}]),
      "The models differ: 4 parameters, and 5 in model 1",
    ),
  ],
)
def test_bad_input_is_refused(call, message):
  with pytest.raises(ValueError, match=message):
    call()


def test_one_example_and_one_class():
  """A single example explains all that was learnt, to first order."""
  one = {"x": _X[:1], "y": _Y[:1]}
  found = _influence(
    params={"theta": jnp.zeros(4)}, train=one, damping=1e6, solver="cg"
  )
  expected = 2 * _Y[0] * (_TESTS @ _X[0]) / 1e6
  np.testing.assert_allclose(found.scores[:, 0], expected, rtol=1e-4)
