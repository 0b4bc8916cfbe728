"""Derivatives through training: finite differences, a closed form, memory."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from sklearn import datasets

from spex_jax.indices import judging
from spex_jax.influence import metagradients
from spex_jax.training import loop
from tests import ridge_games

_N, _D = 20, 3
# A power of two, so that 1 + h and 1 - h are exact in float32.
_STEP = 2.0**-10
_KEYS = jax.random.key(0), jax.random.key(1)
_TESTS = np.random.default_rng(9).normal(size=(2, _D))


def _data():
  rng = np.random.default_rng(0)
  x = rng.normal(size=(_N, _D))
  return {"x": x, "y": np.sign(x[:, 0] * x[:, 1] + 0.3 * rng.normal(size=_N))}


def _init(key):
  first, second = jax.random.split(key)
  return {
    "in": jax.random.normal(first, (_D, 4)),
    "out": jax.random.normal(second, (4,)),
  }


def _predict(params, x):
  return jnp.tanh(x @ params["in"]) @ params["out"]


_FUNCTIONS = {
  "init": _init,
  "losses": lambda params, batch: (
    (_predict(params, batch["x"]) - batch["y"]) ** 2
  ),
}
_RECIPES = {
  "sgd": loop.Recipe(4, 6, 0.05, "sgd", "cosine", 0.01),
  "adam": loop.Recipe(4, 6, 0.03, "adam", denominator="weight", eps_root=1e-12),
}


def _outputs(params):
  return _predict(params, _TESTS)


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(_RECIPES))
def test_equals_central_finite_differences(name):
  with jax.enable_x64(True):
    functions = _FUNCTIONS | {"recipe": _RECIPES[name]}
    found = metagradients.metagradients(
      *_KEYS, _data(), outputs=_outputs, **functions
    )

    @jax.jit
    @jax.vmap
    def retrain(weights):
      return _outputs(loop.train(*_KEYS, _data(), weights, **functions).params)

    moves = np.concatenate([np.eye(_N), -np.eye(_N), np.zeros((1, _N))])
    values = np.asarray(retrain(1 + _STEP * moves))
  slopes = (values[:_N] - values[_N : 2 * _N]).T / (2 * _STEP)
  size = np.abs(slopes).max()
  assert size > 0.01
  # Differences err by h^2 f''' / 6, about 1e-6 of it.
  np.testing.assert_allclose(found.scores, slopes, rtol=0, atol=1e-3 * size)
  full = np.ones((1, _N), bool)
  np.testing.assert_allclose(found(full)[0], values[-1], atol=1e-6)


@pytest.mark.slow
def test_converged_ridge_is_the_infinitesimal_jackknife():
  """d theta / d w_i = A^-1 x_i (y_i - x_i theta), for A = x'x + c."""
  x, y, tests = ridge_games.data(_N)
  gram = x.T @ x + ridge_games.PENALTY * np.eye(x.shape[1])
  theta = np.linalg.solve(gram, x.T @ y)
  expected = tests @ np.linalg.solve(gram, x.T * (y - x @ theta))
  # 1/N sum w (y - x theta)^2 + decay / 2 |theta|^2 has c = decay N / 2.
  decay = 2 * ridge_games.PENALTY / _N
  with jax.enable_x64(True):
    found = metagradients.metagradients(
      *_KEYS,
      {"x": x, "y": y},
      init=lambda key: jnp.zeros(x.shape[1]),
      losses=lambda theta, batch: (batch["x"] @ theta - batch["y"]) ** 2,
      recipe=loop.Recipe(400, _N, 0.05, "sgd", weight_decay=decay),
      outputs=lambda theta: tests @ theta,
    )
  # Weights, and their derivatives, are float32.
  np.testing.assert_allclose(found.scores, expected, rtol=1e-4, atol=1e-6)
  full = np.ones((1, _N), bool)
  np.testing.assert_allclose(found(full)[0], tests @ theta, atol=1e-6)


def _temporary_bytes(num_epochs, segment):
  """Of the compiled derivative; one vector of a state has 4,000 floats."""
  data = {"x": np.ones((4, 1), np.float32)}
  run = jax.jit(
    lambda weights: metagradients.through_training(
      *_KEYS,
      data,
      weights,
      init=lambda key: jnp.ones(4000),
      losses=lambda params, batch: jnp.tanh(batch["x"] * params[None]).sum(1),
      recipe=loop.Recipe(num_epochs, 4, 0.1, "sgd"),
      outputs=lambda params: params[:1],
      segment=segment,
    )
  )
  compiled = run.lower(np.ones(4, np.float32)).compile()
  return compiled.memory_analysis().temp_size_in_bytes


@pytest.mark.slow
def test_memory_grows_as_the_root_of_the_steps():
  few, many = _temporary_bytes(64, None), _temporary_bytes(1024, None)
  assert many < 5 * few  # 16 times the steps, 4 times the states.
  whole = _temporary_bytes(1024, 1024)  # One segment holds all states.
  assert whole > 1024 * 4000 * 4
  assert many < whole / 8


@pytest.mark.slow
def test_predicts_retrainings_without_a_few_examples():
  """Digits 3 and 8, 2 % dropped: LDS .95 under common random numbers."""
  x, y = datasets.load_digits(return_X_y=True)
  rows = np.flatnonzero(np.isin(y, (3, 8)))
  x, y = x[rows].astype(np.float32) / 16, np.where(y[rows] == 3, 1.0, -1.0)
  data = {"x": x[:200], "y": y[:200].astype(np.float32)}

  def init(key):
    first, second = jax.random.split(key)
    return {
      "in": jax.random.normal(first, (64, 16)) / 8,
      "out": jax.random.normal(second, (16,)) / 4,
    }

  functions = {
    "init": init,
    "losses": lambda params, batch: jax.nn.softplus(
      -batch["y"] * _predict(params, batch["x"])
    ),
    "recipe": loop.Recipe(6, 20, 0.05, "sgd"),
  }
  outputs = lambda params: y[200:210] * _predict(params, x[200:210])
  found = metagradients.metagradients(
    *_KEYS, data, outputs=outputs, **functions
  )

  @jax.jit
  @jax.vmap
  def retrain(weights):
    return outputs(loop.train(*_KEYS, data, weights, **functions).params)

  masks = np.random.default_rng(0).random((60, 200)) < 0.98
  judged = judging.lds(found, masks, np.asarray(retrain(masks)))
  assert judged.mean > 0.95


def _run(**change):
  arguments = _FUNCTIONS | {"recipe": _RECIPES["sgd"], "outputs": _outputs}
  arguments |= {"data": _data()} | change
  return metagradients.metagradients(*_KEYS, **arguments)


def test_one_example():
  found = _run(
    data={"x": np.ones((1, 1), np.float32), "y": np.ones(1, np.float32)},
    init=lambda key: jnp.zeros(1),
    losses=lambda theta, batch: (batch["x"] @ theta - batch["y"]) ** 2,
    recipe=loop.Recipe(1, 1, 0.1, "sgd"),
    outputs=lambda theta: theta,
  )
  # One Nesterov step from 0: .1 * (1 + .9) * 2 w.
  np.testing.assert_allclose(found.scores, [[0.38]], rtol=1e-6)
  np.testing.assert_allclose(found.baseline, 0, atol=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize(
  ("change", "message"),
  [
    ({"recipe": loop.Recipe(2, 6, 0.1, "adam")}, "give the recipe an eps_root"),
    ({"recipe": loop.Recipe(2, 6, 1e30, "sgd")}, "Training diverged"),
    ({"outputs": lambda params: params["out"][0]}, "must give \\[T\\]"),
    ({"weights": -np.ones(_N)}, "not negative"),
    (
      {"data": {"x": np.full((_N, _D), np.nan), "y": np.ones(_N)}},
      "20 examples hold NaN",
    ),
  ],
)
def test_bad_input_is_refused(change, message):
  with pytest.raises(ValueError, match=message):
    _run(**change)


def test_a_negative_eps_root_is_refused():
  with pytest.raises(ValueError, match="eps_root >= 0"):
    loop.Recipe(1, 1, 0.1, eps_root=-1.0)
