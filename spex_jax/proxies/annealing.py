"""Adam with an annealed rate, in one small program: how processes are tuned."""

from collections.abc import Callable
from typing import Any, TypeVar

import chex
import jax
import jax.numpy as jnp

MOST_STEPS = 64  # Of one call: the length of the path returned.
_Params = TypeVar("_Params")


def descend(
  objective: Callable[[_Params], jax.Array],
  params: _Params,
  steps: int | jax.Array,
  rate: float | jax.Array,
) -> tuple[_Params, jax.Array]:
  """Adam on an objective; its rate falls to a tenth along a cosine.

  Args:
    objective: parameters to the scalar that is made small.
    params: a pytree of arrays, all of one dtype.
    steps: the number of steps, at most 64; traced, so that another number
      compiles nothing.
    rate: the first step size.

  Returns:
    The last parameters whose objective and gradient were finite (those given
    if none were), and `[64]` the objective before each step, NaN where there
    was none.
  """
  chex.assert_rank([steps, rate], 0)
  import optax
  from jax import flatten_util

  # One vector: a program of a few loops in place of dozens.
  start, unravel = flatten_util.ravel_pytree(params)
  adam = optax.scale_by_adam()
  slope_of = jax.value_and_grad(lambda flat: objective(unravel(flat)))

  def step(i, carry):
    flat, good, state, path = carry
    value, slope = slope_of(flat)
    moves, new_state = adam.update(slope, state)
    (moves,) = jax.tree.leaves(moves)
    fine = jnp.isfinite(value) & jnp.isfinite(slope).all()
    size = rate * (0.1 + 0.45 * (1 + jnp.cos(jnp.pi * i / steps)))
    good = jnp.where(fine, flat, good)
    flat = jnp.where(fine, flat - size * moves, good)
    state = jax.tree.map(lambda a, b: jnp.where(fine, a, b), new_state, state)
    return flat, good, state, path.at[i].set(value)

  path = jnp.full(MOST_STEPS, jnp.nan, start.dtype)
  carry: Any = start, start, adam.init(start), path
  _, good, _, path = jax.lax.fori_loop(0, steps, step, carry)
  return unravel(good), path
