"""What an absent player becomes: arrays that stand in for the input.

Shapes: an input has any shape `[...]`; a background is `[N, ...]`; R draws
are `[R, ...]`, over which the caller averages the output (see
`features.Players.apply`).
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from spex_jax import base

NAMES = ("zero", "mean", "median", "constant", "resample")

# A key, an input `[...]` and what is kept of it, bool `[...]`, to R draws of
# the whole input given that: `[R, ...]`. Traceable.
Sampler = Callable[[base.Key, jax.Array, jax.Array], jax.Array]


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


def mean(background: base.Array) -> np.ndarray:
  """The mean over a background `[N, ...]`: float64 `[...]`, on the host."""
  _check_background(background)
  return np.asarray(background).mean(axis=0, dtype=np.float64)


def median(background: base.Array) -> np.ndarray:
  """The median of each entry over `[N, ...]`: float64 `[...]`, on the host."""
  _check_background(background)
  return np.median(np.asarray(background, np.float64), axis=0)


def resample(
  key: base.Key, background: base.Array, num_draws: int
) -> jax.Array:
  """Distinct examples of a background, drawn once: `[R, ...]`.

  Every mask sees the same draws, so that the value function stays a function.

  Args:
    key: a random key, consumed by the draw.
    background: `[N, ...]`, finite examples of the input.
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


def conditional(
  sampler: Sampler, key: base.Key, x: base.Array, kept: base.Array
) -> jax.Array:
  """Draws of what is absent given what is kept. Unbatched over masks.

  What a sampler says about kept entries does not matter: give the draws to
  `features.Players.apply`, which keeps those of `x`.

  Args:
    sampler: traceable; see `Sampler`.
    key: given to the sampler for every mask, so that the value function stays
      a function and masks differ by no more than they must.
    x: `[...]`, the input whose entries are kept or drawn.
    kept: bool `[...]`, as `features.Players.kept` gives it.

  Returns:
    `[R, ...]`, R draws of the whole input.

  Raises:
    ValueError: draws of another shape, or what is kept of another.
  """
  if np.shape(kept) != np.shape(x):
    raise ValueError(
      f"`kept` must have the shape of the input, {np.shape(x)}; got "
      f"{np.shape(kept)}."
    )
  draws = sampler(key, jnp.asarray(x), jnp.asarray(kept, bool))
  shape = np.shape(draws)
  if len(shape) != np.ndim(x) + 1 or shape[1:] != np.shape(x) or not shape[0]:
    raise ValueError(
      f"The conditional sampler must return draws [R, ...] of an input of "
      f"shape {np.shape(x)}; got {shape}."
    )
  return jnp.asarray(draws)


def _check_background(background: base.Array) -> None:
  base.check_unmasked(background, "Rows of a background")
  if np.ndim(background) < 1 or len(background) == 0:
    raise ValueError(
      f"A background must hold examples [N, ...]; got {np.shape(background)}."
    )
  if not np.isfinite(np.asarray(background)).all():
    raise ValueError("A background must be finite.")
