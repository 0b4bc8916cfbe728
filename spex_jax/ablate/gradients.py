"""Attribution by gradients: a game differentiated by players' strengths.

A player is not kept or absent here but kept to a degree (`base.Game`): f(1) is
the value with every player kept, f(0) with every one absent, and where strength
s mixes what a player is, x, with what stands for it, b, the gradient at s sums
`(x - b) df/dx` over all that it owns:

  gradient_x_input       df/ds at s = 1 (Shrikumar et al. 2016,
                         arXiv 1605.01713; with the baseline taken off)
  integrated_gradients   the mean of df/ds on the line from s = 0 to s = 1
                         (Sundararajan et al. 2017, arXiv 1703.01365, equation
                         1); by the midpoint rule, where the paper has a
                         Riemann sum

Values of the latter sum to f(1) - f(0), up to the gap that is returned. Games
are made by `features` (pixels, columns), `embeddings` (tokens of a text) and
`components` (parts and edges of a network).

Shapes: n players, S points, T targets.
"""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import chex
import jax
import jax.numpy as jnp
import numpy as np

from spex_jax import base

METHODS = ("gradient_x_input", "integrated_gradients")
STEPS = 64


class Gradients(NamedTuple):
  """Values of players, and what they should sum to.

  Attributes:
    values: float64 `[n]`, or `[T, n]`.
    kept: f(1), a float or `[T]`.
    absent: f(0), the same.
    gap: the sum of the values less f(1) - f(0): 0 where they are complete.
    num_gradients: how many gradients were computed.
  """

  values: np.ndarray
  kept: Any
  absent: Any
  gap: Any
  num_gradients: int


def gradient_x_input(game: base.Game) -> Gradients:
  """Gradient times input less baseline, summed over each player's entries.

  Raises:
    ValueError: values or gradients that are NaN or infinite.
  """
  return _summed(game, np.ones(1, np.float32))


def integrated_gradients(
  game: base.Game, *, steps: int = STEPS, batch_size: int = 8
) -> Gradients:
  """Integrated gradients from all players absent to all kept.

  Args:
    game: the game whose players' strengths it is differentiated by.
    steps: S; 20 to 300 in the paper. The error falls as 1 / S^2 where the
      model is smooth, as 1 / S where it has kinks; see `gap`.
    batch_size: gradients computed at once, for memory.

  Raises:
    TypeError: steps or a batch size that is no integer.
    ValueError: one below 1, or values or gradients that are NaN or infinite.
  """
  steps = base.check_integer(steps, "steps")
  batch_size = base.check_integer(batch_size, "batch_size")
  if steps < 1 or batch_size < 1:
    raise ValueError(
      f"steps and batch_size must be at least 1; got {steps}, {batch_size}."
    )
  at = (np.arange(steps, dtype=np.float32) + 0.5) / steps
  return _summed(game, at, batch_size)


def mean_gradient(
  game: base.Game, points: base.Array, shared: Any, *, batch_size: int = 1
) -> jax.Array:
  """Mean of the gradients of a game at some points: `[n]`, or `[T, n]`.

  Args:
    game: the game whose players' strengths it is differentiated by.
    points: float `[S, n]`, strengths.
    shared: in the place of the game's own.
    batch_size: how many gradients are computed at once.
  """
  chex.assert_shape(points, (None, game.n))
  given = game.given(shared)
  slope = jax.jacrev(game.value)
  one = lambda strengths: slope(strengths, given)
  return jax.lax.map(one, jnp.asarray(points), batch_size=batch_size).mean(0)


def _summed(game, at, batch_size=1):
  """The mean gradient where all strengths are `at[k]`, and the ends."""

  def run(shared):
    everywhere = lambda x: jnp.broadcast_to(x[:, None], (len(x), game.n))
    given = game.given(shared)
    ends = jax.lax.map(
      lambda s: game.value(s, given), everywhere(jnp.asarray([1.0, 0.0]))
    )
    slopes = mean_gradient(
      game, everywhere(at), shared, batch_size=min(batch_size, len(at))
    )
    return slopes, ends

  slopes, ends = jax.jit(run)(game.shared)
  values, kept, gone = (np.asarray(x, np.float64) for x in (slopes, *ends))
  if kept.ndim > 1:
    raise ValueError(f"A value must be a scalar or [T]; got {kept.shape}.")
  for what, x in (("gradients", values), ("values", np.append(kept, gone))):
    if not np.isfinite(x).all():
      raise ValueError(
        f"The model's {what} hold NaN or infinity at its own input or on the "
        f"way to the baseline ({game.absent})."
      )
  gap = values.sum(axis=-1) - (kept - gone)
  if not kept.ndim:
    kept, gone, gap = float(kept), float(gone), float(gap)
  return Gradients(values, kept, gone, gap, len(at))


BY_NAME: Mapping[str, Callable[..., Gradients]] = {
  "gradient_x_input": gradient_x_input,
  "integrated_gradients": integrated_gradients,
}
