"""A value function of a few static shapes: a mask runs in the least that fits.

Where a mask leaves less to compute, such as fewer tokens, it need not pay for
all. The sizes are fixed before the run, and which one a mask takes follows
from that mask alone; so does its value, whatever else is asked for.

Shapes: n players, B masks, S the largest need.
"""

import dataclasses
from collections.abc import Callable
from typing import Any

import chex
import jax
import numpy as np

from spex_jax import base


@dataclasses.dataclass(frozen=True)
class Shaped:
  """A value function that is compiled once for each of a few sizes.

  Called like any other, it is the one of the largest size.

  Attributes:
    sizes: ascending; the last one takes every mask.
    at: a size to `f(mask)`, or `f(mask, shared)`: the value function of the
      masks that need no more. All of them give the same values to rounding.
    need: masks, bool `[B, n]` on the host, to the size that each needs, int
      `[B]`, none above the last of `sizes`; of each mask alone.
  """

  sizes: tuple[int, ...]
  at: Callable[[int], Callable[..., jax.Array]]
  need: Callable[[np.ndarray], np.ndarray]

  def __post_init__(self):
    if not self.sizes or list(self.sizes) != sorted(set(self.sizes)):
      raise ValueError(f"Sizes must ascend, at least one; got {self.sizes}.")

  def __call__(self, mask: base.Array, *shared: Any) -> jax.Array:
    return self.at(self.sizes[-1])(mask, *shared)

  def numbers(self, masks: np.ndarray) -> np.ndarray:
    """Which of the sizes each mask takes: int `[B]`.

    Raises:
      ValueError: a mask that needs more than the last.
    """
    need = np.asarray(self.need(masks))
    chex.assert_shape(need, masks.shape[:1])
    if need.size and need.max() > self.sizes[-1]:
      raise ValueError(
        f"A mask needs {need.max()}, more than the last size of {self.sizes}."
      )
    return np.searchsorted(self.sizes, need)

  def wrap(
    self, change: Callable[[Callable[..., jax.Array]], Callable[..., jax.Array]]
  ) -> "Shaped":
    """The same sizes of `change(f)`."""
    return Shaped(self.sizes, lambda size: change(self.at(size)), self.need)


def chances(kept: np.ndarray, gone: np.ndarray, always: int) -> np.ndarray:
  """How likely each need is under a uniform mask: float64 `[S + 1]`.

  Args:
    kept: int `[n]`, what each player needs where it is kept.
    gone: int `[n]`, no larger: what it needs where it is absent.
    always: what is needed in any case.

  Returns:
    The distribution of `always` and the players' needs together.
  """
  chex.assert_equal_shape([kept, gone])
  largest = always + int(kept.sum())
  found = np.zeros(largest + 1)
  found[always] = 1
  shift = lambda by: np.concatenate([np.zeros(by), found[: largest + 1 - by]])
  for some, none in zip(kept, gone):
    found = (shift(int(some)) + shift(int(none))) / 2
  return found


def choose(likely: np.ndarray, count: int) -> tuple[int, ...]:
  """The sizes, the largest need among them, whose mean cost is least.

  The cost of a mask is taken to be its size. By dynamic programming over the
  needs; S^2 steps a size.

  Args:
    likely: float `[S + 1]`, the chance of each need; S is always a size.
    count: at most so many sizes; those that spare less than 1 % of what is
      left without them are not taken.
  """
  chex.assert_rank(likely, 1)
  below = np.cumsum(likely)
  needs = np.append(np.flatnonzero(likely[:-1] > 0), len(likely) - 1)
  mass, size = below[needs], needs.astype(float)
  # Best mean cost of the masks up to each need, if it is the last size.
  cost, back = size * mass, []
  for _ in range(1, count):
    made = [
      (cost[:j] + size[j] * (mass[j] - mass[:j])) if j else np.array([cost[0]])
      for j in range(len(needs))
    ]
    back.append([int(row.argmin()) for row in made])
    new = np.minimum(cost, [row.min() for row in made])
    if new[-1] > 0.99 * cost[-1]:
      back.pop()
      break
    cost = new
  chosen, j = [len(needs) - 1], len(needs) - 1
  for step in reversed(back):
    j = step[j]
    chosen.append(j)
  return tuple(int(needs[j]) for j in sorted(set(chosen)))
