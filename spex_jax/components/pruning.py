"""Which k components to keep, so that what a network does survives.

Five ways to choose, one kind of answer: the optimum of a sparse expansion (as
ProxySPEX does, arXiv 2505.17495, section 5), the largest of linear scores (of
lasso or COAR), the best of random subsets, and greedy elimination. Each is told
by how many masks it asked for; the first two ask for none beyond those that
were fitted.

Shapes: n components, k kept, B masks.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from spex_jax import base
from spex_jax.fourier import sparse
from spex_jax.indices import optimum
from spex_jax.masks import sampling


class Choice(NamedTuple):
  """Components to keep.

  Attributes:
    mask: bool `[n]`, True = kept.
    value: what the chooser expects or saw, in the units of the values.
    asked: masks that were evaluated for it.
    proved: whether no other subset of this size has a larger expected value.
  """

  mask: np.ndarray
  value: float
  asked: int = 0
  proved: bool = False


def by_expansion(
  fourier: sparse.SparseFourier, count: int, *, time_limit: float = 60.0
) -> Choice:
  """The subset of `count` components where an expansion is largest.

  Args:
    fourier: an expansion of one target.
    count: the number of components to keep.
    time_limit: seconds for the solver; then the best so far is taken.

  Raises:
    ValueError: what `indices.optimum.best_mask` refuses.
  """
  found = optimum.best_mask(fourier, exactly=count, time_limit=time_limit)
  return Choice(found.mask, found.value, proved=found.status == "optimal")


def by_scores(scores: base.Array, count: int) -> Choice:
  """The `count` largest scores; of equal ones the first.

  Args:
    scores: `[n]`: how much each component raises the value by being kept.
    count: the number of components to keep.

  Raises:
    ValueError: NaN, or a count outside 0..n.
  """
  scores = np.asarray(scores, np.float64)
  if scores.ndim != 1 or not np.isfinite(scores).all():
    raise ValueError(f"Need finite scores [n]; got shape {scores.shape}.")
  mask = np.zeros(len(scores), bool)
  mask[np.argsort(-scores, kind="stable")[: _count(count, len(scores))]] = True
  return Choice(mask, float(scores[mask].sum()), proved=True)


def best_of_random(
  value_fn: base.ValueFn, n: int, count: int, num_masks: int, key: base.Key
) -> Choice:
  """The best of random subsets of `count` components, all evaluated.

  Args:
    value_fn: bool masks `[B, n]` to values of one target.
    n: the number of components.
    count: the number of components to keep.
    num_masks: the number of masks drawn; those that repeat are asked once.
    key: a random key, consumed by the draw of masks.

  Raises:
    ValueError: a count outside 0..n, no mask, or values that are NaN.
  """
  if num_masks < 1:
    raise ValueError(f"num_masks must be at least 1; got {num_masks}.")
  weights = np.arange(n + 1) == _count(count, n)
  masks = np.unique(sampling.by_size(key, num_masks, n, weights), axis=0)
  values = _values(value_fn, masks)
  best = int(values.argmax())
  return Choice(masks[best], float(values[best]), len(masks))


def greedy(
  value_fn: base.ValueFn, n: int, counts: Sequence[int]
) -> dict[int, Choice]:
  """Drops the component whose absence costs least, one after the other.

  Args:
    value_fn: bool masks `[B, n]` to values of one target; asked for n masks,
      then n - 1, and so on.
    n: the number of components.
    counts: sizes to report, in any order.

  Returns:
    The subset of each size; n (n + 1) / 2 masks at most for all of them, and
    `asked` says how many were asked up to it.

  Raises:
    ValueError: a count outside 0..n, or values that are NaN.
  """
  wanted = {_count(count, n) for count in counts}
  mask, asked, found = np.ones(n, bool), 0, {}
  value = float("nan")
  if n in wanted:
    value, asked = float(_values(value_fn, mask[None])[0]), 1
    found[n] = Choice(mask.copy(), value, asked)
  for size in range(n - 1, min(wanted, default=n) - 1, -1):
    kept = np.flatnonzero(mask)
    masks = np.repeat(mask[None], len(kept), axis=0)
    masks[np.arange(len(kept)), kept] = False
    values = _values(value_fn, masks)
    asked += len(masks)
    best = int(values.argmax())
    mask, value = masks[best], float(values[best])
    if size in wanted:
      found[size] = Choice(mask.copy(), value, asked)
  return found


def _count(count: int, n: int) -> int:
  count = base.check_integer(count, "The number kept")
  if not 0 <= count <= n:
    raise ValueError(f"The number kept must lie in 0..{n}; got {count}.")
  return count


def _values(value_fn: base.ValueFn, masks: np.ndarray) -> np.ndarray:
  values = base.check_values(base.ask(value_fn, masks), len(masks))
  if values.ndim != 1:
    raise ValueError(f"Need one value a mask; got shape {values.shape}.")
  return values
