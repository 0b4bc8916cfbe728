"""Removal curves: what is lost without the players that matter most.

Shapes: n players, C numbers of players removed.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from spex_jax import base
from spex_jax.fourier import sparse
from spex_jax.indices import optimum


class Removal(NamedTuple):
  """What removing k players does, for several k.

  Attributes:
    counts: int `[C]`, k.
    masks: bool `[C, n]`, True = kept.
    predicted: float64 `[C]`, the expansion's f(all) - f(mask).
    actual: float64 `[C]`, the same of the value function.
    full: the value function's f(all).
    status: `[C]`, whether each set is proved the most influential
      ("optimal"), or the best found in time ("time_limit").
  """

  counts: np.ndarray
  masks: np.ndarray
  predicted: np.ndarray
  actual: np.ndarray
  full: float
  status: tuple[str, ...]


def removal_curve(
  fourier: sparse.SparseFourier,
  value_fn: base.ValueFn,
  counts: Sequence[int],
  *,
  time_limit: float = 10.0,
) -> Removal:
  """Removes the k players that matter most, and asks the model.

  They are the set whose removal changes the expansion most, up or down (SPEX,
  arXiv 2502.13870, section on feature identification). The paper divides by
  |f(all)|; here changes keep their units and `full` is beside them.

  Args:
    fourier: an expansion of one target.
    value_fn: bool masks `[B, n]` to values `[B]`.
    counts: numbers of players to remove, 0..n.
    time_limit: seconds for each of two searches per count.

  Raises:
    TypeError: a count that is no integer.
    ValueError: a count outside 0..n, or values that are not `[B]` and finite.
  """
  n = fourier.n
  removed = np.asarray(
    [base.check_integer(k, "A count of players") for k in counts], np.int64
  )
  if np.any((removed < 0) | (removed > n)):
    raise ValueError(f"counts must lie in 0..{n}; got {removed.tolist()}.")
  everyone = np.ones((1, n), bool)
  full_guess = float(np.asarray(fourier(everyone))[0])
  chosen, status = [], []
  for k in removed.tolist():
    found = [
      optimum.best_mask(
        fourier, maximise=up, exactly=n - k, time_limit=time_limit
      )
      for up in (False, True)
    ]
    best = max(found, key=lambda one: abs(one.value - full_guess))
    chosen.append(best)
    proved = all(one.status == "optimal" for one in found)
    status.append("optimal" if proved else "time_limit")
  masks = np.concatenate([everyone, *(one.mask[None] for one in chosen)])
  values = base.check_values(base.ask(value_fn, masks), len(masks))
  if values.ndim != 1:
    raise ValueError(
      f"A removal curve needs one target; values have shape {values.shape}."
    )
  return Removal(
    counts=removed,
    masks=masks[1:],
    predicted=full_guess - np.asarray([one.value for one in chosen]),
    actual=values[0] - values[1:],
    full=float(values[0]),
    status=tuple(status),
  )
