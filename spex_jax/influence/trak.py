"""TRAK: attribution by randomly projected gradients (Park et al. 2023).

For each of M models (arXiv 2303.14186, section 3.2): features phi(z) = P' grad
output(z) of the model output, projected to k dimensions; X the features of the
training examples; slopes Q_i = -d loss / d output at example i. Then

  score(z, i) = mean_m [phi_m(z)' (X_m' X_m + penalty)^-1 phi_m(i)]
                mean_m [Q_m(i)]

With `output` the log odds of the right class, log p / (1 - p), as in the paper,
Q_i = 1 - p_i = sigmoid(-output); that is the default. In the linear model with
squared loss and no projection the score is exactly the influence function.
Models of the ensemble may have been trained on random halves of the data, as
in the paper.

Projections are of +-1 / sqrt(k), drawn afresh for every model, and never held:
they are drawn in blocks of parameters when a chunk of gradients needs them.

Shapes: N training examples, T test points, P parameters, M models, k dim.
"""

from collections.abc import Callable, Sequence

import chex
import jax
import jax.numpy as jnp
import numpy as np

from spex_jax import base
from spex_jax.indices import attribution
from spex_jax.influence import gradient_baselines

_CHUNK = 128
_CELLS = 1 << 24  # Entries of a projection drawn at once: 64 MB.


def trak(
  output: gradient_baselines.Scalar,
  models: Sequence[gradient_baselines.Params],
  train: gradient_baselines.Example,
  test: gradient_baselines.Example,
  *,
  key: base.Key,
  dim: int | None,
  penalty: float = 0.0,
  slope: Callable[..., jax.Array] | None = None,
  chunk: int = _CHUNK,
) -> attribution.Attribution:
  """Scores of an ensemble of trained models.

  Args:
    output: params and one example to one number; a margin.
    models: parameters of each model, pytrees of one structure.
    train: pytree of arrays with a leading axis N.
    test: pytree of arrays with a leading axis T.
    key: consumed; draws the projections.
    dim: k; None for no projection, where P is small.
    penalty: what is added to the diagonal of X'X, as a share of its mean.
    slope: params and one training example to -d loss / d output; None for
      sigmoid(-output).
    chunk: the number of examples at once.

  Returns:
    Scores `[T, N]`, in units of the output; the prediction for everybody is
    the models' mean output.

  Raises:
    ValueError: no model, a dim below 1, a negative penalty, features that
      leave X'X singular (more dimensions than examples, say), or NaN or
      infinity on the way.
  """
  if not models:
    raise ValueError("Need at least one trained model.")
  if dim is not None and base.check_integer(dim, "dim") < 1:
    raise ValueError(f"dim must be at least 1, or None; got {dim}.")
  if not 0 <= penalty < np.inf:
    raise ValueError(f"penalty must be finite and at least 0; got {penalty}.")
  if slope is None:
    slope = lambda params, example: jax.nn.sigmoid(-output(params, example))
  # Projected gradients of the output, and slopes of the loss.
  unravel = _layout(models)
  one = jax.value_and_grad(lambda flat, row: output(unravel(flat), row))

  @jax.jit
  def featured(flat, key, rows):
    values, slopes = jax.vmap(one, in_axes=(None, 0))(flat, rows)
    if dim is not None:
      slopes = project(key, slopes, dim)
    return slopes, values

  @jax.jit
  def pulled(flat, key, rows):
    del key  # Called as `featured` is.
    return (jax.vmap(lambda row: slope(unravel(flat), row))(rows),)

  def gather(run, flat, key, data, name):
    out = [
      [np.asarray(part, np.float64)[:real] for part in run(flat, key, rows)]
      for rows, real in gradient_baselines.chunks(data, chunk, name)
    ]
    return [np.concatenate(column) for column in zip(*out)]

  # Each factor of the scores is averaged over models.
  products, slopes, outputs = np.zeros(()), np.zeros(()), np.zeros(())
  for number, params in enumerate(models):
    inputs = (
      gradient_baselines.flatten(params)[0],
      jax.random.fold_in(key, number),
    )
    features = gather(featured, *inputs, train, "train")[0]
    of_test, values = gather(featured, *inputs, test, "test")
    products = products + of_test @ _solve(features, penalty)
    slopes = slopes + gather(pulled, *inputs, train, "train")[0]
    outputs = outputs + values
  count = len(models)
  scores = (products / count) * (slopes / count)[None]
  return gradient_baselines.finish(scores, outputs / count, "TRAK")


def _layout(models):
  """How a vector of parameters becomes a pytree, the same for all models."""
  flat, unravel = gradient_baselines.flatten(models[0])
  for number, params in enumerate(models):
    if len(gradient_baselines.flatten(params)[0]) != len(flat):
      raise ValueError(
        f"The models differ: {len(flat)} parameters, and "
        f"{len(gradient_baselines.flatten(params)[0])} in model {number}."
      )
  return unravel


def project(key: base.Key, vectors: jax.Array, dim: int) -> jax.Array:
  """`[c, P]` to `[c, k]` by random signs / sqrt(k), the same for equal keys.

  Inner products are kept on average (Johnson and Lindenstrauss 1984), with
  variance of about |a|^2 |b|^2 / k. Batched: blocks of P serve all vectors.
  """
  chex.assert_rank(vectors, 2)
  chex.assert_type(vectors, float)
  count, size = vectors.shape
  block = max(1, min(size, _CELLS // dim))
  padded = jnp.pad(vectors, ((0, 0), (0, -size % block)))
  parts = padded.reshape(count, -1, block).transpose(1, 0, 2)

  def add(total, inputs):
    number, part = inputs
    signs = jax.random.rademacher(
      jax.random.fold_in(key, number), (block, dim), vectors.dtype
    )
    product = jnp.matmul(part, signs, precision=jax.lax.Precision.HIGHEST)
    return total + product, None

  start = jnp.zeros((count, dim), vectors.dtype)
  total, _ = jax.lax.scan(add, start, (jnp.arange(len(parts)), parts))
  return total / jnp.sqrt(jnp.asarray(dim, vectors.dtype))


def _solve(features, penalty):
  """`(X'X + penalty)^-1 X'`, float64 `[k, N]`."""
  import scipy.linalg  # Slow to import.

  gram = features.T @ features
  if not np.isfinite(gram).all():
    raise ValueError("Gradients of the outputs hold NaN or infinity.")
  mean = np.trace(gram) / len(gram)
  try:
    factor = scipy.linalg.cho_factor(
      gram + penalty * mean * np.eye(len(gram)), lower=True
    )
    diagonal = np.abs(np.diag(factor[0]))
    if diagonal.min() ** 2 <= 1e-13 * mean:
      raise scipy.linalg.LinAlgError
  except scipy.linalg.LinAlgError:
    raise ValueError(
      f"The features of {len(features)} examples do not span {len(gram)} "
      "dimensions. Lower dim, or give a penalty (1e-6, say)."
    ) from None
  return scipy.linalg.cho_solve(factor, features.T)
