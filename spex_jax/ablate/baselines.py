"""What an absent player becomes: arrays that stand in for the input.

Shapes: an input has any shape `[...]`; a background is `[N, ...]`; R draws
are `[R, ...]`, over which the caller averages the output (see
`features.Players.apply`).
"""

import jax
import jax.numpy as jnp
import numpy as np

from spex_jax import base

NAMES = ("zero", "mean", "constant", "resample")


def zero(x: base.Array) -> jax.Array:
  """Zeros of the shape of `x`."""
  return jnp.zeros_like(x)


def constant(x: base.Array, value: base.Array) -> jax.Array:
  """`value`, a number or an array that broadcasts to `x` `[...]`.

  In the dtype of `x`; fractions beside an `x` of integers keep their own.
  """
  value = jnp.asarray(value)
  dtype = jnp.result_type(x)
  if not jnp.issubdtype(dtype, jnp.inexact):
    dtype = jnp.result_type(dtype, value)
  return jnp.broadcast_to(value.astype(dtype), np.shape(x))


def mean(background: base.Array) -> jax.Array:
  """The mean over a background `[N, ...]`: `[...]`."""
  _check_background(background)
  # Summed in float64 on the host: N may be large, and it is done once.
  return jnp.asarray(
    np.asarray(background).mean(axis=0, dtype=np.float64), jnp.float32
  )


def resample(
  key: base.Key, background: base.Array, num_draws: int
) -> jax.Array:
  """Distinct examples of a background, drawn once: `[R, ...]`.

  Every mask sees the same draws, so that the value function stays a function.

  Args:
    key: consumed.
    background: `[N, ...]`.
    num_draws: R, at most N.

  Raises:
    TypeError: a `num_draws` that is no integer.
    ValueError: one outside 1..N, or a background without examples or with NaN
      or infinity.
  """
  _check_background(background)
  num_draws = base.check_integer(num_draws, "num_draws")
  if not 1 <= num_draws <= len(background):
    raise ValueError(
      f"num_draws must lie in 1..{len(background)}, the size of the "
      f"background; got {num_draws}."
    )
  rows = jax.random.choice(key, len(background), (num_draws,), replace=False)
  return jnp.asarray(background)[rows]


def _check_background(background: base.Array) -> None:
  if np.ndim(background) < 1 or len(background) == 0:
    raise ValueError(
      f"A background must hold examples [N, ...]; got {np.shape(background)}."
    )
  if not np.isfinite(np.asarray(background)).all():
    raise ValueError("A background must be finite.")
