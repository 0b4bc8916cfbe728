"""Nearest neighbours: exact Shapley values of n examples, n log n per point.

The value of a subset for a test point is the share of the K nearest kept
examples that have its label,

  v(S) = 1/K sum_{k = 1}^{min(K, |S|)} [y_(k) = y_test],   v(none) = 0,

whose Shapley values have a closed form along the order of distances (Jia et
al. 2019, arXiv 1908.08619, theorem 1): from the farthest to the nearest,

  s_n     = min(K, n) / (K n) [y_n = y_test]
  s_j     = s_{j+1} + ([y_j = y_test] - [y_{j+1} = y_test]) / K min(K, j) / j

The paper states s_n for K <= n only. Distances are Euclidean, summed feature by
feature, so that copies of an example tie exactly; ties go to the earlier one.
Features in, scores out, all in float64.

Shapes: n examples, D features, T test points.
"""

import functools
from typing import Any

import chex
import jax
import jax.numpy as jnp
import numpy as np

from spex_jax import base
from spex_jax.indices import attribution

_TOGETHER = 16  # Test points in one vmap: [16, n, D] differences.


def shapley(
  x: base.Array,
  y: base.Array,
  test_x: base.Array,
  test_y: base.Array,
  *,
  neighbours: int,
) -> attribution.Attribution:
  """Exact Shapley values of every example, for every test point.

  Args:
    x: `[n, ...]` features, finite; further axes are flattened.
    y: `[n]` labels, of any kind that compares.
    test_x: `[T, ...]`.
    test_y: `[T]`.
    neighbours: K.

  Returns:
    Scores, which sum to v(all); the baseline v(none) is 0.

  Raises:
    ValueError: no example or test point, shapes that disagree, features that
      are not finite, or K below 1.
  """
  x, same, test_x = _checked(x, y, test_x, test_y, neighbours)
  with jax.enable_x64(True):
    scores = np.asarray(_shapley(x, test_x, same, neighbours))
  return attribution.Attribution(
    scores, np.zeros(len(scores)), f"{neighbours}-NN Shapley"
  )


def _distances(x: jax.Array, point: jax.Array) -> jax.Array:
  return ((x - point[None]) ** 2).sum(axis=1)


@functools.partial(jax.jit, static_argnames="neighbours")
def _shapley(x: Any, test_x: Any, same: Any, neighbours: int) -> jax.Array:
  chex.assert_shape(test_x, (None, x.shape[1]))
  chex.assert_shape(same, (len(test_x), len(x)))
  chex.assert_type([x, test_x, same], [float, float, bool])
  count = len(x)
  place = jnp.arange(1, count)
  shares = jnp.minimum(neighbours, place) / (place * neighbours)
  last = min(neighbours, count) / (count * neighbours)

  def one(inputs):
    point, same = inputs
    order = jnp.argsort(_distances(x, point), stable=True)
    right = same[order].astype(x.dtype)
    steps = jnp.append((right[:-1] - right[1:]) * shares, right[-1] * last)
    return jnp.zeros_like(right).at[order].set(jnp.cumsum(steps[::-1])[::-1])

  return jax.lax.map(one, (test_x, same), batch_size=_TOGETHER)


def _checked(x, y, test_x, test_y, neighbours):
  """Features float64 `[n, D]`, `[T, D]`; bool `[T, n]`, labels that agree."""
  if base.check_integer(neighbours, "neighbours") < 1:
    raise ValueError(f"neighbours must be at least 1; got {neighbours}.")
  out = []
  for name, features, labels in [("x", x, y), ("test_x", test_x, test_y)]:
    features, labels = np.asarray(features, np.float64), np.asarray(labels)
    if not len(features) or labels.shape != (len(features),):
      raise ValueError(
        f"Need at least one row of {name} and one label for each; got shapes "
        f"{features.shape} and {labels.shape}."
      )
    features = features.reshape(len(features), -1)
    if not np.isfinite(features).all():
      raise ValueError(f"{name} holds NaN or infinity.")
    out.append((features, labels))
  (x, y), (test_x, test_y) = out
  if x.shape[1] != test_x.shape[1]:
    raise ValueError(
      f"x has {x.shape[1]} features and test_x {test_x.shape[1]}."
    )
  return x, test_y[:, None] == y[None], test_x
