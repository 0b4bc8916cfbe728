"""Metagradients: the exact derivative of outputs by every example's weight.

Training is a function of the weights of its examples; reverse mode through all
of its steps gives d output / d weight_i for every i at once (Engstrom et al.
2025, MAGIC, arXiv 2503.13751 and 2504.16430; unrolled influence of Hara et al.
2019, arXiv 1906.08473). Predictions of subsets follow to first order,
f(S) ~ f(all) - sum_{i not in S} score_i, for the same initialisation and order
of examples: retrain with common random numbers to see it.

Steps are computed again segment by segment (`training.loop.train`), so that
memory holds 2 sqrt(S) states of the optimiser instead of S: two levels, where
MAGIC's tree has log S; below 10^4 steps that is a few hundred states. Cost:
three forward passes and one backward per target.

Exact where training is smooth. A ReLU has a derivative almost everywhere; Adam
needs `eps_root`, for the square root at a gradient of 0; with large steps the
derivative is exact and yet of little use (metasmoothness): compare with
retrainings, by `indices.judging.lds`.

Shapes: N examples, S steps, T targets.
"""

import functools
import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from spex_jax import base
from spex_jax.indices import attribution
from spex_jax.training import loop


def metagradients(
  init_key: base.Key,
  order_key: base.Key,
  data: loop.Data,
  *,
  init: Callable[[base.Key], loop.Params],
  losses: Callable[..., jax.Array],
  recipe: loop.Recipe,
  outputs: Callable[[loop.Params], jax.Array],
  weights: base.Array | None = None,
  augment: Callable[[base.Key, loop.Data], loop.Data] | None = None,
  segment: int | None = None,
) -> attribution.Attribution:
  """Trains once, and differentiates T outputs by the weights of all examples.

  Args:
    init_key: consumed; the key of the initial parameters. Arguments that
      `training.loop.train` has, too, mean what they mean there.
    order_key: consumed; the key of the orders and of `augment`.
    data: pytree of arrays with a leading axis N, finite.
    init: key to parameters.
    losses: parameters and a batch to losses `[b]`.
    recipe: the recipe of the training.
    outputs: trained parameters to `[T]`: margins on test points, say. Every
      target is a backward pass of its own; a mean over many points is one.
    weights: `[N]` example weights to differentiate at; None for 1 each.
    augment: key and one example to one example.
    segment: steps in a segment; None for sqrt(S).

  Returns:
    Scores `[T, N]`, per unit of weight; the baseline puts the prediction for
    `weights` at the output itself.

  Raises:
    ValueError: Adam without `eps_root`, what `training.loop` refuses, outputs
      that are not `[T]`, or a training or derivative that is not finite.
  """
  num_examples = len(jax.tree.leaves(data)[0])
  if weights is None:
    weights = np.ones(num_examples, np.float32)
  loop.check(data, weights)
  # One training, and a way back for each output.
  values, gradients = jax.jit(
    functools.partial(
      through_training,
      init=init,
      losses=losses,
      recipe=recipe,
      outputs=outputs,
      augment=augment,
      segment=segment,
    )
  )(init_key, order_key, data, weights)
  values = np.asarray(values, np.float64)
  gradients = np.asarray(gradients, np.float64)
  # What is not finite is an error.
  if not np.isfinite(values).all():
    raise ValueError(
      f"Training diverged: {np.sum(~np.isfinite(values))} of {len(values)} "
      "outputs are NaN or infinite. Lower the learning rate."
    )
  if not np.isfinite(gradients).all():
    raise ValueError(
      "The derivative through training is not finite though the outputs are. "
      "Lower the learning rate, or raise eps_root under Adam."
    )
  baseline = values - gradients @ np.asarray(weights, np.float64)
  return attribution.Attribution(gradients, baseline, "metagradients")


def through_training(
  init_key: base.Key,
  order_key: base.Key,
  data: loop.Data,
  weights: base.Array,
  *,
  init: Callable[[base.Key], loop.Params],
  losses: Callable[..., jax.Array],
  recipe: loop.Recipe,
  outputs: Callable[[loop.Params], jax.Array],
  augment: Callable[[base.Key, loop.Data], loop.Data] | None = None,
  segment: int | None = None,
) -> tuple[jax.Array, jax.Array]:
  """The pure function behind `metagradients`, for a caller who compiles.

  Returns:
    Outputs `[T]`, and their derivatives `[T, N]`.
  """
  if recipe.optimizer != "sgd" and recipe.eps_root == 0:
    raise ValueError(
      f"The square root in {recipe.optimizer} has no derivative where a "
      "gradient is 0: give the recipe an eps_root, 1e-12 say, or use sgd."
    )
  num_examples = len(jax.tree.leaves(data)[0])
  steps = recipe.num_steps(num_examples)
  segment = segment or math.isqrt(max(steps - 1, 0)) + 1  # sqrt, rounded up.

  def trained_outputs(weights: Any) -> jax.Array:
    trained = loop.train(
      init_key,
      order_key,
      data,
      weights,
      init=init,
      losses=losses,
      recipe=recipe,
      augment=augment,
      segment=segment,
    )
    return outputs(trained.params)

  values, pull = jax.vjp(trained_outputs, jnp.asarray(weights))
  if values.ndim != 1:
    raise ValueError(f"outputs must give [T]; got shape {values.shape}.")
  units = jnp.eye(len(values), dtype=values.dtype)
  # One at a time: a vmap would hold the states of all targets.
  return values, jax.lax.map(lambda unit: pull(unit)[0], units)
