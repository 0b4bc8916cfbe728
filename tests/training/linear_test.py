"""Closed forms against NumPy, subsets physically removed, and scikit-learn."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from spex_jax.training import learners, linear, solve

_N, _D, _T = 40, 5, 7


def _data(seed=0, classes=None):
  rng = np.random.default_rng(seed)
  x, test = rng.normal(size=(_N, _D)), rng.normal(size=(_T, _D))
  if classes is None:
    return {"x": x, "y": rng.normal(size=_N)}, {"x": test, "y": np.zeros(_T)}
  slopes = rng.normal(size=(_D, classes))
  noisy = x @ slopes + rng.normal(size=(_N, classes))
  return (
    {"x": x, "y": noisy.argmax(axis=1)},
    {"x": test, "y": (test @ slopes).argmax(axis=1)},
  )


def _weights(count=12, seed=1):
  return np.random.default_rng(seed).random((count, _N)) < 0.6


def _fit(learner, data, test, weights):
  """Outputs `[B, T]` and whether each was finite, as one vmapped program."""
  key = jax.random.key(0)
  with jax.enable_x64(True):
    shared = learner.prepare(data)

    def one(w):
      state, finite = learner.fit(key, key, shared, w)
      return learner.read(state, test), finite

    values, finite = jax.jit(jax.vmap(one))(np.asarray(weights, np.float64))
  return np.asarray(values), np.asarray(finite)


def _ridge_by_hand(x, y, test, penalty, intercept):
  if intercept:
    x = np.hstack([x, np.ones((len(x), 1))])
    test = np.hstack([test, np.ones((len(test), 1))])
  diagonal = np.full(x.shape[1], penalty)
  if intercept:
    diagonal[-1] = 0
  return test @ np.linalg.solve(x.T @ x + np.diag(diagonal), x.T @ y)


@pytest.mark.slow
@pytest.mark.parametrize("width", [1, 8, 21])
def test_systems_are_solved(width):
  """Against NumPy; the error of a backward stable solve is eps times cond."""
  rng = np.random.default_rng(width)
  factor = rng.normal(size=(3, width, width))
  matrix = factor @ factor.transpose(0, 2, 1) + np.eye(width)[None]
  right = rng.normal(size=(3, width, 2))
  with jax.enable_x64(True):
    found = jax.vmap(solve.positive_definite)(matrix, right)
  expected = np.linalg.solve(matrix, right)
  condition = np.linalg.cond(matrix).max()
  np.testing.assert_allclose(
    found, expected, rtol=0,
    atol=10 * width * condition * np.finfo(float).eps * abs(expected).max(),
  )  # fmt: skip


def test_what_is_not_positive_definite_is_nan():
  found = solve.positive_definite(
    jnp.array([[1.0, 2.0], [2.0, 1.0]]), jnp.ones((2, 1))
  )
  assert np.isnan(found).all()


@pytest.mark.slow
@pytest.mark.parametrize("intercept", [True, False])
def test_ridge_equals_a_refit_on_the_subset(intercept, monkeypatch):
  data, test = _data()
  learner = linear.ridge(0.7, intercept=intercept)
  masks = _weights()
  values, finite = _fit(learner, data, test, masks)
  expected = [
    _ridge_by_hand(data["x"][m], data["y"][m], test["x"], 0.7, intercept)
    for m in masks
  ]
  np.testing.assert_allclose(values, expected, rtol=0, atol=1e-12)
  assert finite.all()
  # The same without the table of pairs.
  monkeypatch.setattr(linear, "_MOST_TABLE_BYTES", 0)
  again, _ = _fit(learner, data, test, masks)
  np.testing.assert_allclose(again, values, rtol=0, atol=1e-12)


def test_ridge_leaves_a_subset_out_in_closed_form():
  """theta_-S = theta - A^-1 X_S' (I - H_SS)^-1 e_S, to 1e-10 in float64."""
  data, test = _data()
  x, y = data["x"], data["y"]
  inverse = np.linalg.inv(x.T @ x + 0.7 * np.eye(_D))
  theta = inverse @ x.T @ y
  values, _ = _fit(linear.ridge(0.7, intercept=False), data, test, _weights())
  for mask, value in zip(_weights(), values):
    gone = x[~mask]
    hat = gone @ inverse @ gone.T
    error = y[~mask] - gone @ theta
    without = theta - inverse @ gone.T @ np.linalg.solve(
      np.eye(len(gone)) - hat, error
    )
    np.testing.assert_allclose(value, test["x"] @ without, rtol=0, atol=1e-10)


def test_ridge_of_no_example_is_zero():
  data, test = _data()
  values, finite = _fit(linear.ridge(0.7), data, test, np.zeros((1, _N)))
  np.testing.assert_array_equal(values, 0)
  assert finite.all()


def test_ridge_of_classes_is_one_ridge_for_each():
  data, test = _data(classes=3)
  learner = linear.ridge(0.5, num_classes=3, output="logit")
  masks = _weights(3)
  values, _ = _fit(learner, data, test, masks)
  for mask, value in zip(masks, values):
    targets = 2.0 * np.eye(3)[data["y"][mask]] - 1
    scores = _ridge_by_hand(data["x"][mask], targets, test["x"], 0.5, True)
    np.testing.assert_allclose(
      value, scores[np.arange(_T), test["y"]], rtol=0, atol=1e-12
    )


@pytest.mark.slow
@pytest.mark.parametrize("classes", [2, 3])
def test_logistic_equals_scikit_learn(classes):
  from sklearn import linear_model

  data, test = _data(classes=classes)
  learner = linear.logistic(0.3, classes)
  masks = _weights(4)
  values, finite = _fit(learner, data, test, masks)
  assert finite.all()
  for mask, value in zip(masks, values):
    theirs = linear_model.LogisticRegression(
      C=1 / 0.3, tol=1e-8, max_iter=10_000
    ).fit(data["x"][mask], data["y"][mask])
    scores = theirs.decision_function(test["x"])
    if classes == 2:
      margin = np.where(test["y"] == 1, scores, -scores)
    else:
      right = np.eye(3, dtype=bool)[test["y"]]
      margin = scores[right] - np.where(right, -np.inf, scores).max(axis=1)
    # What is asked of us; lbfgs stops at gradients of 1e-8.
    np.testing.assert_allclose(value, margin, rtol=0, atol=1e-4)


@pytest.mark.slow
def test_logistic_of_one_class_has_no_solution():
  data, test = _data(classes=2)
  mask = data["y"] == 1
  values, finite = _fit(
    linear.logistic(1.0, max_steps=20), data, test, mask[None]
  )
  assert not finite.any()
  # Without an intercept the penalty bounds it.
  values, finite = _fit(
    linear.logistic(1.0, intercept=False), data, test, mask[None]
  )
  assert finite.all() and np.isfinite(values).all()


@pytest.mark.slow
def test_outputs_of_classes():
  logits = np.float32([[1, 3, 0], [2, 2, 5]])
  y = np.array([1, 0])
  one = lambda name: np.asarray(learners.outputs(logits, y, name))
  np.testing.assert_allclose(one("margin"), [2, -3])
  np.testing.assert_allclose(one("logit"), [3, 2])
  total = np.log(np.exp(logits).sum(axis=1))
  np.testing.assert_allclose(one("loss"), total - [3, 2], rtol=1e-6)
  others = np.log([np.e + 1, np.exp(2) + np.exp(5)])
  np.testing.assert_allclose(one("log_odds"), [3, 2] - others, rtol=1e-6)
  with pytest.raises(ValueError, match="choose from margin"):
    one("score")


@pytest.mark.parametrize(
  "make, message",
  [
    (lambda: linear.ridge(0), "penalty must be above 0"),
    (lambda: linear.ridge(1, output="margin"), "choose from prediction, loss"),
    (lambda: linear.logistic(1, output="prediction"), "choose from margin"),
    (
      lambda: linear.ridge(1).prepare({"x": np.eye(3) * 1e30, "y": np.ones(3)}),
      "3 examples are so large",
    ),
    (lambda: linear.logistic(1, 1), "two classes or more"),
    (lambda: learners.labels(np.array([0, 3]), 3), r"first: 3 at example 1"),
    (lambda: learners.labels(np.zeros((2, 2), int), 3), r"must be \[N\]"),
  ],
)
def test_bad_settings_are_refused(make, message):
  with pytest.raises(ValueError, match=message):
    make()


def test_labels_must_be_integers():
  with pytest.raises(TypeError, match="must be integers"):
    learners.labels(np.array([0.0, 1.0]), 2)
