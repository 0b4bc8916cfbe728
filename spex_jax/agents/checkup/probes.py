"""How much features tell of classes: nearest neighbours, and a linear probe.

Shapes: N labelled examples, M asked ones, F features, C classes.
"""

import chex
import jax
import jax.numpy as jnp
import numpy as np

from spex_jax import base
from spex_jax.training import heads

NEIGHBOURS = 20
_TEMPERATURE = 0.07
_C = 1.0  # Of the linear probe: an inverse penalty, on standardised features.


def votes(
  features: jax.Array,
  labels: jax.Array,
  asked: jax.Array,
  num_classes: int,
  neighbours: int = NEIGHBOURS,
) -> jax.Array:
  """The votes `[C]` of an example's neighbours; `vmap` over those asked.

  Cosine similarity, each of the nearest with weight exp(similarity / .07): Wu
  et al., arXiv:1805.01978, section 3.4.

  Args:
    features: `[N, F]`, of length 1.
    labels: int `[N]`, from 0 to C - 1.
    asked: `[F]`, of length 1.
    num_classes: C, the length of the answer.
    neighbours: how many vote; all N if there are no more.
  """
  chex.assert_rank([features, labels, asked], [2, 1, 1])
  near, rows = jax.lax.top_k(features @ asked, min(neighbours, len(features)))
  weights = jnp.exp((near - 1) / _TEMPERATURE)
  return jax.ops.segment_sum(weights, labels[rows], num_classes)


def knn(
  features: base.Array,
  labels: base.Array,
  asked: base.Array,
  truth: base.Array,
  neighbours: int = NEIGHBOURS,
) -> float:
  """The share of asked examples whose class their neighbours tell.

  Args:
    features: float `[N, F]`, of the labelled examples, of any length.
    labels: int `[N]`, from 0.
    asked: float `[M, F]`, of those whose class is to be told.
    truth: int `[M]`, their true classes.
    neighbours: how many vote for each, as for `votes`.
  """
  features, asked = _units(features), _units(asked)
  count = int(max(np.max(labels), np.max(truth))) + 1
  each = lambda one: votes(
    features, jnp.asarray(labels), one, count, neighbours
  )
  found = jax.jit(jax.vmap(each))(asked)
  return float((np.asarray(found).argmax(axis=1) == np.asarray(truth)).mean())


def linear(
  features: base.Array, labels: base.Array, asked: base.Array, truth: base.Array
) -> float:
  """The share that a logistic regression on the features tells.

  Args and shapes as for `knn`, best `standardised`, as the penalty is of all
  weights alike; every class must be among `labels`.
  """
  head = heads.fit(np.asarray(features, np.float64), np.asarray(labels), _C)
  scores = np.asarray(asked, np.float64) @ head.kernel + head.bias
  return float((scores.argmax(axis=1) == np.asarray(truth)).mean())


def standardised(
  features: base.Array, asked: base.Array
) -> tuple[np.ndarray, np.ndarray]:
  """Both, float64, by the mean and deviation of the first.

  Features behind a ReLU have a mean far from 0, which all cosines share. A
  feature that never moves is 0.

  Args:
    features: `[N, F]`, of the labelled examples.
    asked: `[M, F]`, of the others; they lend nothing to mean and deviation.
  """
  features, asked = (np.asarray(x, np.float64) for x in (features, asked))
  mean, spread = features.mean(axis=0), features.std(axis=0)
  spread = np.where(spread > 0, spread, 1.0)
  return (features - mean) / spread, (asked - mean) / spread


def _units(x: base.Array) -> jax.Array:
  x = np.asarray(x, np.float64)
  length = np.linalg.norm(x, axis=1, keepdims=True)
  return jnp.asarray(x / np.where(length > 0, length, 1.0), jnp.float32)
