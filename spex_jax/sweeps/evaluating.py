"""One shard's masks and their values, in halves where something fails.

Shapes: B masks, n players, T targets.
"""

import dataclasses
import os
import pathlib
import traceback
from collections.abc import Callable
from typing import NoReturn, Protocol

import numpy as np

from spex_jax import base
from spex_jax.masks import packing
from spex_jax.store import shards
from spex_jax.sweeps import processes

_HOPELESS = 32  # Masks that fail alone, before any succeeds.


class StrictError(base.NotFiniteError):
  """NaN or infinity, where `nan` is "error": it ends the sweep."""


class ExitError(RuntimeError):
  """A value function that would end the process."""


class Work(Protocol):
  """One item, built: what a builder returns.

  Attributes:
    n: the number of players.
    num_targets: T, the number of values of a mask.

  One that has `anchors`, a number of masks, has their values compared with
  those that the sweep was begun with (`anchors`).
  """

  n: int
  num_targets: int

  def masks(self, start: int, stop: int) -> np.ndarray:
    """bool `[stop - start, n]`: the same rows whoever asks, and in parts."""
    ...

  def values(self, masks: np.ndarray) -> base.Array:
    """`[B]` or `[B, T]`; a row depends on its mask alone."""
    ...


@dataclasses.dataclass(frozen=True)
class Item:
  """A `Work` of functions.

  Attributes:
    n: the number of players.
    num_targets: T, the number of values of a mask.
    masks: from the first row and the one behind the last to bool `[B, n]`.
    values: masks bool `[B, n]` to values `[B]` or `[B, T]`.
    anchors: how many first masks are compared, see `Work`; 0 for none.
  """

  n: int
  num_targets: int
  masks: Callable[[int, int], np.ndarray]
  values: Callable[[np.ndarray], base.Array]
  anchors: int = 0


@dataclasses.dataclass(frozen=True)
class Found:
  """A shard.

  Attributes:
    rows: masks, values and status of the shard, as it is published.
    causes: the causes of rows that failed, and how many each; the first text of
      a kind stands for all.
  """

  rows: shards.Rows
  causes: dict[str, int]


def shard(
  work: Work,
  start: int,
  stop: int,
  *,
  strict: bool,
  retries: int,
  group: processes.Alone = processes.ALONE,
) -> Found:
  """Evaluates rows `start` to `stop`.

  What raises or is not finite is asked again in halves, until the masks at
  fault are alone; these are asked `retries` times more, and then marked.

  Raises:
    StrictError: NaN or infinity, where that is an error.
    RuntimeError: every mask failed, or so many that none will succeed.
    processes.LostError: a process of the group is gone.
    ValueError: masks of another shape.
  """
  packing.check_fits(
    stop - start, work.n + 16 * work.num_targets, "rows_per_shard"
  )
  # Its own copy: what a function keeps and writes into later is another.
  masks = group.agreed(
    lambda span: np.array(base.check_masks(work.masks(*span), work.n)),
    (start, stop),
  )
  ask = lambda chosen: asked(work, chosen)
  values = np.full((len(masks), work.num_targets), np.nan)
  status = np.full(len(masks), shards.Status.OK, np.uint8)
  kinds: dict[str, str] = {}
  causes: dict[str, int] = {}
  succeeded, alone = False, 0
  # A stack, and no function that calls itself: that would be a cycle, which
  # holds a shard's masks until it is collected.
  waiting = [(0, len(masks), 0)]
  while waiting:
    first, last, attempt = waiting.pop()
    try:
      found = group.agreed(ask, masks[first:last])
      found, finite = _checked(found, last - first, work.num_targets)
    except processes.LostError:
      raise
    except (Exception, MemoryError) as error:
      if last - first > 1:
        middle = (first + last) // 2
        waiting += [(middle, last, 0), (first, middle, 0)]
        continue
      bad = isinstance(error, base.NotFiniteError)
      if strict and bad:
        raise StrictError(str(error)) from error
      if attempt < retries and not bad:
        waiting.append((first, last, attempt + 1))
        continue
      status[first] = shards.Status.DIVERGED if bad else shards.Status.FAILED
      if bad:
        continue
      alone += 1
      text = cause(error)
      text = kinds.setdefault(_kind(error), text)
      causes[text] = causes.get(text, 0) + 1
      if not succeeded and alone >= _HOPELESS:
        raise RuntimeError(
          f"all of the first {alone} masks that were asked alone failed: {text}"
        ) from error
    else:
      succeeded = True
      if strict and not finite.all():
        row = start + first + int(np.flatnonzero(~finite)[0])
        raise StrictError(
          f"{(~finite).sum()} values are NaN or infinite, that of row {row} "
          "first. Mend the value function, or set nan to drop or keep."
        )
      status[first:last][~finite] = shards.Status.DIVERGED
      values[first:last][finite] = found[finite]
  if (status == shards.Status.FAILED).all():
    raise RuntimeError(f"every mask of the shard failed: {next(iter(causes))}")
  return Found(shards.rows_of(masks, values, status=status, seeds=0), causes)


def asked(work: Work, masks: np.ndarray) -> np.ndarray:
  """Values of masks by a function that may do anything.

  It gets a copy of the masks, which it may write into; where it would end the
  process by `os._exit`, perhaps as if all were well, it fails. Errors of a
  device come when its values are fetched.

  Raises:
    ExitError: it called `os._exit`.
    ValueError: a NumPy masked array that masks some.
  """
  own, leave = os.getpid(), os._exit

  def refuse(status: int) -> NoReturn:
    if os.getpid() != own:  # A process that it forked ends like this.
      leave(status)
    raise ExitError(f"the function called os._exit({status})")

  os._exit = refuse
  try:
    found = work.values(masks.copy())
    base.check_unmasked(found, "Values")
    return np.asarray(found)
  finally:
    os._exit = leave


def cause(error: BaseException) -> str:
  """One line: the kind, the message, and where it was raised."""
  text = base.printable(" ".join(str(error).split()))[:500]
  return f"{type(error).__name__}: {text}{_where(error)}"


def _kind(error: BaseException) -> str:
  """What two failures have in common whose messages differ in numbers."""
  return f"{type(error).__name__}{_where(error)}"


def _where(error: BaseException) -> str:
  frames = traceback.extract_tb(error.__traceback__)
  if not frames:
    return ""
  return f" ({pathlib.Path(frames[-1].filename).name}:{frames[-1].lineno})"


def _checked(
  found: np.ndarray, count: int, num_targets: int
) -> tuple[np.ndarray, np.ndarray]:
  """Values float64 `[B, T]`, and which rows are finite."""
  finite = np.ones(count, bool)
  if found.dtype.kind == "f" and len(found) == count and found.ndim in (1, 2):
    finite = np.asarray(np.isfinite(found).reshape(count, -1).all(axis=1))
    base.check_values(np.where(np.isfinite(found), found, 0), count)
  else:
    base.check_values(found, count)
  found = found.astype(np.float64).reshape(count, -1)
  if found.shape[1] != num_targets:
    raise ValueError(
      f"The value function gave {found.shape[1]} targets; {num_targets} were "
      "announced."
    )
  return found, finite
