"""COAR-Edit: which components to remove so that a model answers otherwise.

From scores of components for examples (`coar`, or any `Attribution`):

  welch    how differently a component acts on target and reference examples
  choose   the k components at one end of that statistic, k by validation
  Edit     their removal, as an object: printed, saved, joined with others,
           applied to parameters or at inference
  Applied  edited parameters with what the edits took from them, to be undone

Source: Shah, Ilyas, Madry 2024, arXiv:2404.11534, section 5.

Shapes: n components, T examples, B masks, G sizes of an edit.
"""

import dataclasses
from collections.abc import Sequence
from typing import Literal

import numpy as np

from spex_jax import base
from spex_jax.components import applied, edit

Edit = edit.Edit
Applied = applied.Applied


def welch(
  scores: base.Array, target: base.Array, reference: base.Array
) -> np.ndarray:
  """Welch's statistic of every component, float64 `[n]`.

  (mean_T - mean_R) / sqrt(var_T / |T| + var_R / |R|) over the rows of the
  target and reference examples, with population variances, as the paper's code
  has them. Components of low statistic hold the targets down: removing them
  raises the targets' outputs more than the references'.

  One example in a set has variance 0: an error is mended with one target.
  Where neither set varies the statistic is 0 if the means agree and else
  infinite; if that is so of every component (one example each), it is the
  difference of the means itself.

  Args:
    scores: float `[T, n]`, such as `Attribution.scores`.
    target: the rows of the target examples, ints, or bool `[T]`.
    reference: the rows of the reference examples, in the same form. Both may
      name a row, as sets drawn at random do.

  Raises:
    ValueError: scores that are not `[T, n]` or not finite, an empty set, a row
      that is not there or named twice.
    TypeError: rows that are neither integers nor booleans.
  """
  scores = np.asarray(scores, np.float64)
  if scores.ndim != 2 or not scores.size or not np.isfinite(scores).all():
    raise ValueError(
      f"Scores must be finite [T, n], one row per example; got {scores.shape}."
    )
  sets = [
    scores[_rows(rows, len(scores), name)]
    for rows, name in ((target, "target"), (reference, "reference"))
  ]
  means = [part.mean(axis=0) for part in sets]
  difference = means[0] - means[1]
  square = sum(part.var(axis=0) / len(part) for part in sets)
  if not np.any(square > 0):
    return difference
  with np.errstate(divide="ignore", invalid="ignore"):
    statistic = difference / np.sqrt(square)
  return np.where(difference == 0, 0.0, statistic)


@dataclasses.dataclass(frozen=True, eq=False)
class Choice:
  """How many components to remove, and what each number was worth.

  Attributes:
    order: int `[n]`, the components in the order in which they go.
    grid: int `[G]`, the numbers that were tried, from 0.
    objective: float64 `[G]`, what was to be made large.
    guards: float64 `[G, H]`, what was to be kept; H may be 0.
    allowed: bool `[G]`, whether every guard was kept.
    k: the number that was chosen, an entry of `grid`; 0 removes nothing.
  """

  order: np.ndarray
  grid: np.ndarray
  objective: np.ndarray
  guards: np.ndarray
  allowed: np.ndarray
  k: int

  @property
  def removed(self) -> np.ndarray:
    """int `[k]`: the components to remove."""
    return self.order[: self.k]

  @property
  def mask(self) -> np.ndarray:
    """bool `[n]`, True = kept."""
    return _without(self.order, self.k)

  def __str__(self) -> str:
    lines = ["   k  objective  guards"]
    rows = zip(self.grid, self.objective, self.guards, self.allowed)
    for k, value, kept, allowed in rows:
      guards = " ".join(f"{guard:.4g}" for guard in kept) or "-"
      note = " <- chosen" if k == self.k else "" if allowed else " (not kept)"
      lines.append(f"{k:4d}  {value:9.4g}  {guards}{note}")
    return "\n".join(lines)


def choose(
  statistic: base.Array,
  validate: base.ValueFn,
  *,
  direction: Literal["raise", "lower"],
  grid: Sequence[int],
  allowed: float | Sequence[float] = 0.0,
) -> Choice:
  """The number of components to remove, by validation.

  All sizes are asked for in one call, so that an evaluator runs them as one
  batch. The largest objective among those that keep the guards wins; of equal
  ones the smallest size. Size 0, no edit, is always among them.

  Args:
    statistic: `[n]`, such as `welch` gives.
    validate: bool masks `[G, n]` to `[G]`, the objective, or to `[G, 1 + H]`,
      the objective and H guards, each the better the larger. Of examples other
      than those that scored the components, where there are any.
    direction: "raise" removes the lowest first, to raise the targets' outputs;
      "lower" the highest. Equal ones go by number.
    grid: numbers of components, 0..n; such as `ladder(64)`.
    allowed: the most that a guard may fall below its value without an edit; one
      number, or one for each guard.

  Raises:
    ValueError: a statistic that is not `[n]` or NaN, another direction, sizes
      outside 0..n or none, values of another shape or not finite, a negative
      allowance or not one per guard.
    TypeError: sizes that are no integers.
  """
  statistic = np.asarray(statistic, np.float64)
  if statistic.ndim != 1 or not statistic.size or np.isnan(statistic).any():
    raise ValueError(
      f"The statistic must be [n] and not NaN; got shape {statistic.shape}."
    )
  if direction not in ("raise", "lower"):
    raise ValueError(f"direction={direction!r}: choose raise or lower.")
  n = len(statistic)
  sizes = sorted({base.check_integer(k, "A size of an edit") for k in grid})
  if not sizes or not 0 <= sizes[0] <= sizes[-1] <= n:
    raise ValueError(f"Sizes of an edit must lie in 0..{n}; got {sizes}.")
  sizes = np.unique([0, *sizes])
  sign = 1 if direction == "raise" else -1
  order = np.argsort(sign * statistic, kind="stable")
  masks = np.stack([_without(order, k) for k in sizes])
  values = base.check_values(validate(masks), len(masks))
  values = values.reshape(len(masks), -1)
  guards = values[:, 1:]
  loss = np.asarray(allowed, np.float64)
  if loss.ndim > 1 or not (loss >= 0).all():
    raise ValueError(f"allowed must not be negative; got {allowed}.")
  if loss.ndim and len(loss) != guards.shape[1]:
    raise ValueError(
      f"allowed has {len(loss)} entries for {guards.shape[1]} guards."
    )
  kept = (guards >= guards[0] - loss).all(axis=1)
  best = np.where(kept, values[:, 0], -np.inf).argmax()
  return Choice(order, sizes, values[:, 0], guards, kept, int(sizes[best]))


def ladder(most: int) -> tuple[int, ...]:
  """Sizes 0, 1, 2, 3, 4, 6, 8, 12, 16, 24, ... up to `most`, and `most`.

  Raises:
    ValueError: `most` below 1.
  """
  if base.check_integer(most, "The largest size") < 1:
    raise ValueError(f"The largest size must be at least 1; got {most}.")
  sizes, power = {0, 1, most}, 2
  while power <= most:
    sizes |= {power, min(power + power // 2, most)}
    power *= 2
  return tuple(sorted(sizes))


def _without(order: np.ndarray, k: int) -> np.ndarray:
  mask = np.ones(len(order), bool)
  mask[order[:k]] = False
  return mask


def _rows(rows: base.Array, size: int, name: str) -> np.ndarray:
  array = np.asarray(rows)
  if array.dtype == np.bool_:
    if array.shape != (size,):
      raise ValueError(f"{name} must be bool [{size}]; got {array.shape}.")
    array = np.flatnonzero(array)
  if not array.size:
    raise ValueError(f"The {name} set is empty.")
  if array.dtype.kind not in "iu" or array.ndim != 1:
    raise TypeError(
      f"{name} must be rows, integers or booleans; got {array.dtype} "
      f"{array.shape}."
    )
  if array.min() < 0 or array.max() >= size:
    raise ValueError(f"{name} names rows outside 0..{size - 1}.")
  if len(np.unique(array)) < len(array):
    raise ValueError(f"{name} names a row twice.")
  return array
