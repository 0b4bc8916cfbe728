"""Asks a value function: in batches, within a budget, and checked.

Shapes: n players, B masks, T targets.
"""

import time
from collections.abc import Callable
from typing import Any, Protocol

import jax
import numpy as np

from spex_jax import base
from spex_jax.masks import request

_JITTED_BATCH, _HOST_BATCH = 256, 1024
_REPEATS = 4
_SHOWN = 10  # Players of a mask that an error names.

_SECOND = 1.0  # A call of a host function should last about as long.
_GROWTH = 8  # From one call to the next, at most.
_FASTER = 1.2  # Masks a second, by which a larger call must be worth it.

Progress = Callable[[int, int], None]  # Distinct masks asked, and the budget.
Watch = Callable[[Callable[..., Any]], Callable[..., Any]]


class Kept(Protocol):
  """Values by mask that outlive this process."""

  def anchors(self, n: int) -> tuple[np.ndarray, np.ndarray] | None:
    """A few masks `[A, n]`, and their kept values `[A]` or `[A, T]`."""
    ...

  def get(self, masks: np.ndarray) -> list[np.ndarray | None]:
    """For each mask of bool `[B, n]` its value, `[]` or `[T]`, or None."""
    ...

  def put(self, masks: np.ndarray, values: np.ndarray) -> None:
    """Takes float64 values `[B]` or `[B, T]` of bool `[B, n]` masks."""
    ...


class Growing:
  """How many masks to ask a host function for in its next call.

  One at first; then as many as fill about a second, at most eight times as many
  as before. Where a call takes longer whatever it holds, sizes double for as
  long as that makes the masks quicker.

  Attributes:
    size: the size of the next call.
  """

  def __init__(self, most: int):
    self.size, self._most = 1, most
    self._best = (0.0, 1)  # Masks a second, and the size that had them.

  def took(self, count: int, seconds: float) -> None:
    """Learns from a call of `count` masks."""
    if count < self.size:
      return  # The last ones of a request say little.
    rate = count / max(seconds, 1e-9)
    fastest, size = self._best
    if rate > _FASTER * fastest:
      self._best = (rate, count)
      wanted = max(int(rate * _SECOND), 2 * count)
    else:
      wanted = max(int(rate * _SECOND), size if size < count else 1)
    self.size = max(1, min(wanted, _GROWTH * count, self._most))


def prove(kept: Kept, n: int, ask: Callable[[np.ndarray], np.ndarray]) -> None:
  """Asks a function for a few values that are kept, before any is believed.

  Args:
    kept: values kept from another process.
    n: number of players.
    ask: bool masks `[A, n]` to float64 values `[A, T]` or `[A]`.

  Raises:
    ValueError: they differ, and the function repeats its values: they are
      another function's.
  """
  found = kept.anchors(n)
  if found is None:
    return
  masks, before = found
  before = before.reshape(len(masks), -1)
  again = lambda: ask(masks).reshape(len(masks), -1)
  now = again()
  if now.shape == before.shape and _alike(now, before):
    return
  if now.shape != before.shape or _alike(now, again()):
    raise ValueError(
      f"{getattr(kept, 'path', kept)} keeps values of another function: those "
      f"of {len(masks)} masks that it was asked again differ. Give this "
      "function a file of its own, or delete that one."
    )


def _alike(first: np.ndarray, second: np.ndarray) -> bool:
  rounding = repeatable(np.concatenate([first, second]))
  return bool((np.abs(first - second) <= rounding).all())


class Asker:
  """The one place where `explain` calls a value function.

  Attributes:
    asked: masks asked so far; the caller keeps them distinct.
    num_repeats: masks asked a second time, outside the budget.
    noise: `[T]` standard deviation of one value between repeats, or None.
    note: a sentence on repeats that differ, or "".
    single: whether values come as `[B]`, without targets.
    seconds: the time spent in the value function.
  """

  def __init__(
    self,
    value_fn: base.ValueFn,
    n: int,
    budget: int,
    *,
    batch_size: int | None = None,
    progress: Progress | None = None,
    kept: Kept | None = None,
    watch: Watch | None = None,
  ):
    """Wraps `value_fn`; nothing is asked yet.

    Args:
      value_fn: bool masks `[b, n]` to values `[b]` or `[b, T]`.
      n: number of players.
      budget: most masks to ask, repeats aside.
      batch_size: masks in a call; None for 256 if `value_fn` is jitted, else
        1,024. A jitted function gets batches of exactly this size, padded,
        so that it compiles once, but never larger than the budget; any other
        gets the last rows as they are. A host function of which nothing is
        known begins with one mask: see `Growing`.
      progress: called after each batch.
      kept: answers masks that were asked in another process, and is given the
        values of each batch; repeats are asked of `value_fn` itself.
      watch: `value_fn` to the function that is called in its place, and so sees
        the calls.

    Raises:
      ValueError: a batch size below 1.
    """
    if batch_size is not None:
      batch_size = request.whole("batch_size", batch_size, 1)
    self.n, self.budget = n, budget
    self.asked, self.num_repeats, self.seconds = 0, 0, 0.0
    self.single, self.note = True, ""
    self.noise: np.ndarray | None = None
    self._ends: list[np.ndarray | None] = [None, None]
    self._no_ends = False
    self._fn, self._progress = value_fn, progress
    self._pads = isinstance(value_fn, jax.stages.Wrapped)
    size = batch_size or (_JITTED_BATCH if self._pads else _HOST_BATCH)
    self._size = min(size, budget) if self._pads else size
    self._growing = None
    own_batches = getattr(value_fn, "compiled", False)  # An evaluator.
    if own_batches and (expect := getattr(value_fn, "expect", None)):
      expect(budget)
    elif not self._pads and batch_size is None:
      own = getattr(value_fn, "batch_size", None)  # A host evaluator's.
      self._size = own or size
      self._growing = None if own else Growing(size)
    self._kept, self._proven = kept, kept is None
    if watch is not None:
      self._fn = watch(value_fn)
    self._shape: tuple[int, ...] | None = None

  def __call__(self, masks: np.ndarray) -> np.ndarray:
    """Values, float64 `[B, T]`, of bool `[B, n]` not asked before.

    Raises:
      RuntimeError: more masks than the budget has left: nothing is asked.
      ValueError: values of another shape, NaN or infinite; the message names
        the players that the first such mask keeps.
      TypeError: values that are not real numbers.
    """
    if self.asked + len(masks) > self.budget:
      raise RuntimeError(
        f"Asked for {self.asked + len(masks)} masks on a budget of "
        f"{self.budget}."
      )
    if self._kept is not None and not self._proven:
      prove(self._kept, self.n, lambda few: self._evaluate(few, count=False))
      self._proven = True
    return self._evaluate(masks, count=True)

  def ends(self) -> tuple[np.ndarray, np.ndarray] | None:
    """f(none) and f(all), `[T]` each; asked now if the budget has room.

    None where it has not, and one of them was not among the masks; and, with a
    note, where f has no finite value there, which nothing else needs.
    """
    if self._no_ends:
      return None

    corners = np.stack([np.zeros(self.n, bool), np.ones(self.n, bool)])
    new = [i for i, end in enumerate(self._ends) if end is None]
    if new and self.asked + len(new) <= self.budget:
      try:
        self(corners[new])
      except base.NotFiniteError:
        self._no_ends = True
        self.note += (" " if self.note else "") + (
          "f has no finite value for the empty or the full mask, which nothing "
          "but its reported ends needs."
        )
        return None
    none, everyone = self._ends
    return None if none is None or everyone is None else (none, everyone)

  def repeat(
    self, masks: np.ndarray, values: np.ndarray, *, strict: bool
  ) -> None:
    """Asks up to four masks again and measures the noise.

    Raises:
      ValueError: values that differ, if `strict`.
    """
    again = self._evaluate(masks[:_REPEATS], count=False)
    self.num_repeats = len(again)
    self.noise = spread_of_pairs(again, values[:_REPEATS])
    if (self.noise > repeatable(np.concatenate([values, again]))).any():
      gap = np.abs(again - values[:_REPEATS]).max()
      self.note = (
        f"The value function is not deterministic: {len(again)} masks asked "
        f"twice differ by up to {gap:.3g}"
      )
      if strict:
        raise ValueError(
          f"{self.note}. Fix its seeds, or allow a noise floor: strict=False."
        )
      self.note += "; see the noise floor."

  def _evaluate(self, masks, count):
    parts, start = [], 0
    while start < len(masks):
      size = self._growing.size if self._growing else self._size
      rows = masks[start : start + size]
      start += len(rows)
      values = self._answers(rows, self._kept if count else None)
      if self._shape is None:
        self._shape, self.single = values.shape[1:], values.ndim == 1
      if values.shape[1:] != self._shape:
        raise ValueError(
          f"The value function returned shape {self._shape} a mask for one "
          f"batch and {values.shape[1:]} for another."
        )
      values = values.reshape(len(rows), -1)
      for end, found in enumerate((~rows.any(axis=1), rows.all(axis=1))):
        if count and found.any():
          self._ends[end] = values[found][0]
      parts.append(values)
      if count:
        self.asked += len(rows)
        if self._progress:
          self._progress(self.asked, self.budget)
    if not parts:
      return np.zeros((0, *(self._shape or (1,))))
    return np.concatenate(parts)

  def _answers(self, rows, kept):
    """Values of one batch, checked; `kept` takes the new ones."""
    known = [None] * len(rows) if kept is None else kept.get(rows)
    new = np.array([value is None for value in known])
    if not new.any():
      return np.stack([value for value in known if value is not None])
    asked = rows[new]
    batch = asked.copy()  # The function may write into its masks.
    if self._pads:
      # The padding keeps every player: a mask like any other.
      batch = np.ones((self._size, self.n), bool)
      batch[: len(asked)] = asked
    begin = time.perf_counter()
    output = self._fn(batch)
    base.check_unmasked(output, "The value function's values")
    output = np.asarray(output)
    seconds = time.perf_counter() - begin
    self.seconds += seconds
    if self._growing:
      self._growing.took(len(asked), seconds)
    if output.shape[:1] == (len(batch),):
      output = output[: len(asked)]
      _check_finite(asked, output)
      values = base.check_values(output, len(asked))
    else:
      values = base.check_values(output, len(batch))
    if kept is not None:
      kept.put(asked, values)
    if new.all():
      return values
    whole = np.empty((len(rows), *values.shape[1:]))
    whole[new] = values
    whole[~new] = np.stack([value for value in known if value is not None])
    return whole


def _check_finite(masks, output):
  """Names the first mask itself: its row in a batch would say nothing."""
  if output.dtype.kind != "f" and output.dtype.name != "bfloat16":
    return
  finite = np.isfinite(output.astype(np.float64))
  bad = np.flatnonzero(~finite.reshape(len(masks), -1).all(axis=1))
  if not len(bad):
    return
  kept = np.flatnonzero(masks[bad[0]]).tolist()
  shown = ", ".join(map(str, kept[:_SHOWN]))
  more = ", ..." if len(kept) > _SHOWN else ""
  raise base.NotFiniteError(
    f"The value function returned NaN or infinity for {len(bad)} of the "
    f"{len(masks)} masks of one call. The first keeps {len(kept)} of "
    f"{masks.shape[1]} players: [{shown}{more}]. Nothing can be decoded from "
    "such values; mend the value function."
  )


def spread_of_pairs(first: np.ndarray, second: np.ndarray) -> np.ndarray:
  """`[T]` standard deviation of one value, from `[B, T]` asked twice."""
  gap = second - first
  size = np.abs(gap).max(axis=0)
  unit = gap / np.where(size > 0, size, 1.0)  # No square overflows.
  # The difference of two draws has twice the variance of one.
  return np.sqrt((unit**2).mean(axis=0) / 2) * size


def repeatable(values: np.ndarray) -> np.ndarray:
  """`[T]` differences between repeats that are rounding, of values `[B, T]`.

  A millionth of their spread, or what sums of a few dozen terms lose in the
  narrowest float that holds all of them: models run in float32, of which
  float64 values may be copies.
  """
  size = np.abs(values).max(axis=0)
  with np.errstate(over="ignore"):
    narrow = (values == values.astype(np.float32)).all(axis=0)
  eps = np.where(narrow, *(float(np.finfo(t).eps) for t in ("f4", "f8")))
  low, high = values.min(axis=0), values.max(axis=0)
  return np.maximum(1e-6 * (high / 2 - low / 2) * 2, 16 * eps * size)
