"""Linear learners that are solved outright: ridge and logistic regression.

Both share one table among all trainings: the products of every example's
features, `x_i x_i'` above the diagonal. A Hessian is then one matrix product
of weights and table, for many subsets at once.

Shapes: N examples, D features (the intercept among them), C classes, K scores
of an example, T test points, P = D (D + 1) / 2 pairs.
"""

from typing import Any

import chex
import jax
import jax.numpy as jnp
import numpy as np

from spex_jax import base
from spex_jax.training import learners, solve

# Above, the table of pairs would not pay: its products are made as they come.
_MOST_TABLE_BYTES = 1 << 28
_STEPS = (1.0, 0.5, 0.25, 0.0625)  # Of a Newton step, the best of which counts.


def ridge(
  penalty: float,
  *,
  intercept: bool = True,
  num_classes: int | None = None,
  output: str = "prediction",
) -> learners.Learner:
  """Weighted ridge regression, exactly: the normal equations, factored.

  Minimises sum_i w_i (y_i - x_i theta - b)^2 + penalty |theta|^2; b is free.
  The parameters of no example at all are 0.

  Args:
    penalty: above 0.
    intercept: whether there is a b.
    num_classes: None for real targets; else targets are labels, and each
      class is regressed on +1 and -1.
    output: `prediction` or `loss` (squared error) of real targets; of classes
      one of `learners.outputs`.

  Raises:
    ValueError: a penalty that is not positive, or an unknown output.
  """
  known = ("prediction", "loss") if num_classes is None else None
  _check(penalty, output, known)

  def prepare(data):
    shared = _shared(data["x"], intercept)
    y = jnp.asarray(data["y"])
    if num_classes is None:
      y = y[:, None].astype(shared["x"].dtype)
    else:
      y = 2 * jax.nn.one_hot(y, num_classes, dtype=shared["x"].dtype) - 1
    return shared | {"y": y}

  def fit(init_key, order_key, shared, weights):
    del init_key, order_key  # There is nothing random about it.
    x, y = shared["x"], shared["y"]
    weights = weights.astype(x.dtype)
    gram = _gram(shared, weights) + jnp.diag(_penalties(x, penalty, intercept))
    if intercept:
      # Without any example b is not determined; let it be 0.
      none = (weights.sum() <= 0).astype(x.dtype)
      gram = gram.at[-1, -1].add(none)
    right = solve.product(x.T, weights[:, None] * y)
    theta = solve.positive_definite(gram, right)
    return theta, jnp.isfinite(theta).all()

  def read(theta, test):
    features = _features(test["x"], intercept, theta.dtype)
    scores = solve.product(features, theta)
    if num_classes is not None:
      return learners.outputs(scores, test["y"], output)
    if output == "prediction":
      return scores[:, 0]
    return (scores[:, 0] - test["y"]) ** 2

  return learners.Learner(
    fit,
    read,
    {
      "learner": "ridge",
      "penalty": penalty,
      "intercept": intercept,
      "num_classes": num_classes,
      "output": output,
    },
    prepare,
    classes=_classes(num_classes),
  )


def logistic(
  penalty: float,
  num_classes: int = 2,
  *,
  intercept: bool = True,
  output: learners.Output = "margin",
  max_steps: int = 50,
) -> learners.Learner:
  """Weighted logistic regression by Newton's method, from the full solution.

  Minimises sum_i w_i loss_i + penalty / 2 |theta|^2, the intercepts free:
  scikit-learn's `LogisticRegression(C=1 / penalty)`, which for two classes has
  one score, and for more a softmax of C. Each step is the best of four lengths
  by the objective. Newton's method converges quadratically:
  it ends once a step is below the square root of the rounding error, and the
  next would be below the error itself. A training that `max_steps` do not
  finish counts as diverged: so does one of a single class with an intercept,
  whose solution lies at infinity. In float32, penalties of 1e-4 and less leave
  steps that never become so small on classes that can be separated, and nearly
  all trainings are counted so: take float64 there.

  Args:
    penalty: above 0; 1 / C of scikit-learn.
    num_classes: C.
    intercept: whether there is one.
    output: one of `learners.outputs`; with two classes and one score, the
      margin and the log odds are the same.
    max_steps: most steps.

  Raises:
    ValueError: a penalty that is not positive, fewer than two classes, or an
      unknown output.
  """
  _check(penalty, output, None)
  if num_classes < 2:
    raise ValueError(f"Need two classes or more; got {num_classes}.")
  num_scores = 1 if num_classes == 2 else num_classes

  def prepare(data):
    shared = _shared(data["x"], intercept)
    y = jax.nn.one_hot(data["y"], num_classes, dtype=shared["x"].dtype)
    shared["y"] = y[:, 1:] if num_classes == 2 else y
    zero = jnp.zeros((shared["x"].shape[1], num_scores), shared["x"].dtype)
    ones = jnp.ones(len(y), y.dtype)
    start = jax.jit(lambda shared: newton(shared, ones, zero)[0])(shared)
    # Of one class the full solution does not exist; others may all the same.
    shared["start"] = jnp.where(jnp.isfinite(start), start, 0)
    return shared

  def newton(shared, weights, start):
    x, y = shared["x"], shared["y"]
    weights = weights.astype(x.dtype)
    penalties = _penalties(x, penalty, intercept)
    epsilon = jnp.finfo(x.dtype).eps

    def objective(theta, scores):
      each = _losses(scores, y)
      return (weights * each).sum() + 0.5 * (
        penalties * (theta**2).sum(axis=-1)
      ).sum()

    def step(state):
      theta, scores, number, _ = state
      probability, spread = _moments(scores)
      slope = solve.product(x.T, weights[:, None] * (probability - y))
      slope += penalties[:, None] * theta
      hessian = _hessian(shared, weights, spread, penalties)
      move = solve.positive_definite(hessian, slope.T.reshape(-1, 1))
      move = move.reshape(num_scores, -1).T
      along = solve.product(x, move)
      tried = [(theta - t * move, scores - t * along) for t in _STEPS]
      values = jnp.stack([objective(*pair) for pair in tried])
      best = jnp.argmin(jnp.where(jnp.isnan(values), jnp.inf, values))
      theta, scores = (
        jnp.stack([pair[i] for pair in tried])[best] for i in range(2)
      )
      small = jnp.abs(move).max() <= jnp.sqrt(epsilon) * (
        1 + jnp.abs(theta).max()
      )
      return theta, scores, number + 1, small

    def unfinished(state):
      theta, _, number, small = state
      return (number < max_steps) & ~small & jnp.isfinite(theta).all()

    theta, _, _, small = jax.lax.while_loop(
      unfinished, step, (start, solve.product(x, start), 0, False)
    )
    return theta, small & jnp.isfinite(theta).all()

  def fit(init_key, order_key, shared, weights):
    del init_key, order_key  # There is nothing random about it.
    return newton(shared, weights, shared["start"])

  def read(theta, test):
    features = _features(test["x"], intercept, theta.dtype)
    scores = solve.product(features, theta)
    if num_classes == 2:
      scores = jnp.concatenate([jnp.zeros_like(scores), scores], axis=1)
    return learners.outputs(scores, test["y"], output)

  return learners.Learner(
    fit,
    read,
    {
      "learner": "logistic",
      "penalty": penalty,
      "intercept": intercept,
      "num_classes": num_classes,
      "output": output,
      "max_steps": max_steps,
    },
    prepare,
    classes=_classes(num_classes),
  )


def _check(penalty: float, output: str, known: tuple[str, ...] | None) -> None:
  if not penalty > 0:
    raise ValueError(f"penalty must be above 0; got {penalty}.")
  known = known or ("margin", "log_odds", "logit", "loss")
  if output not in known:
    raise ValueError(f"output={output!r}: choose from {', '.join(known)}.")


def _classes(num_classes: int | None) -> Any:
  if num_classes is None:
    return None
  return lambda data: learners.labels(data["y"], num_classes)


def _features(x: base.Array, intercept: bool, dtype: Any) -> jax.Array:
  x = jnp.asarray(x, dtype).reshape(len(x), -1)
  if not intercept:
    return x
  return jnp.concatenate([x, jnp.ones((len(x), 1), dtype)], axis=1)


def _shared(x: base.Array, intercept: bool) -> dict[str, jax.Array]:
  """Features `[N, D]`, and the table of their pairs `[N, P]` if it pays."""
  dtype = jnp.promote_types(jnp.result_type(x), jnp.float32)
  features = _features(x, intercept, dtype)
  count, width = features.shape
  shared = {"x": features}
  if count * width * (width + 1) // 2 * dtype.itemsize <= _MOST_TABLE_BYTES:
    low, high = np.triu_indices(width)
    shared["pairs"] = features[:, low] * features[:, high]
    large = ~jnp.isfinite(shared["pairs"]).all(axis=1)
    if large.any():
      # A weight of 0 times infinity is NaN: it would reach every subset.
      raise ValueError(
        f"{large.sum()} examples are so large that products of their features "
        f"overflow {dtype} (first: {jnp.argmax(large)}). Scale the features."
      )
  return shared


def _gram(shared: Any, weights: jax.Array) -> jax.Array:
  """sum_i w_i x_i x_i', `[D, D]`; with weights `[N, L]`, `[L, D, D]`."""
  chex.assert_equal_shape_prefix([weights, shared["x"]], 1)
  x = shared["x"]
  if "pairs" not in shared:
    if weights.ndim == 1:
      return solve.product(x.T, weights[:, None] * x)
    return jnp.einsum(
      "nl,nd,ne->lde", weights, x, x, precision=jax.lax.Precision.HIGHEST
    )
  width = x.shape[1]
  place = np.zeros((width, width), np.int32)
  low, high = np.triu_indices(width)
  place[low, high] = place[high, low] = np.arange(len(low))
  return solve.product(weights.T, shared["pairs"])[..., place]


def _hessian(
  shared: Any, weights: jax.Array, spread: jax.Array, penalties: jax.Array
) -> jax.Array:
  """`[K D, K D]`, of spreads `[N, K, K]`."""
  chex.assert_shape(spread, (len(weights), None, None))
  chex.assert_shape(penalties, shared["x"].shape[1:])
  count, scores, _ = spread.shape
  width = shared["x"].shape[1]
  each = (weights[:, None, None] * spread).reshape(count, -1)
  blocks = _gram(shared, each).reshape(scores, scores, width, width)
  whole = blocks.transpose(0, 2, 1, 3).reshape(scores * width, -1)
  # The intercepts of a softmax share a direction without curvature or slope; a
  # little curvature there changes no solution, and steps by as little.
  tiny = jnp.sqrt(jnp.finfo(whole.dtype).eps)
  penalties = jnp.where(penalties > 0, penalties, tiny)
  return whole + jnp.diag(jnp.tile(penalties, scores))


def _penalties(x: jax.Array, penalty: float, intercept: bool) -> jax.Array:
  chex.assert_rank(x, 2)
  free = np.arange(x.shape[1]) == (x.shape[1] - 1 if intercept else -1)
  return jnp.asarray(np.where(free, 0.0, penalty), x.dtype)


def _losses(scores: jax.Array, y: jax.Array) -> jax.Array:
  """Of each example, `[N]`; `y` holds its targets, `[N, K]`."""
  chex.assert_equal_shape([scores, y])
  chosen = (scores * y).sum(axis=-1)
  if scores.shape[1] == 1:
    return jax.nn.softplus(scores[:, 0]) - chosen
  return jax.nn.logsumexp(scores, axis=-1) - chosen


def _moments(scores: jax.Array) -> tuple[jax.Array, jax.Array]:
  """Probabilities `[N, K]`, and their covariance given the scores."""
  chex.assert_rank(scores, 2)
  if scores.shape[1] == 1:
    probability = jax.nn.sigmoid(scores)
    return probability, (probability * (1 - probability))[:, :, None]
  probability = jax.nn.softmax(scores, axis=-1)
  product = probability[:, :, None] * probability[:, None, :]
  return probability, jax.vmap(jnp.diag)(probability) - product
