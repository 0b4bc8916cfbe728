"""The shards of one task, one after the other, and what is told of each.

A shard that another task published meanwhile is left out, and the rest is taken
from the other end: two tasks with the same shards meet in the middle.
"""

import collections
import dataclasses
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from absl import logging

from spex_jax.store import ledger, shards
from spex_jax.sweeps import (
  anchors,
  evaluating,
  failures,
  grid,
  process_metrics,
  processes,
  stalls,
)

BACKOFF = 1.0  # Seconds before a shard's second attempt; then twice as many.
_MOST = 60.0  # Seconds before any.
_COUNT = 10.0  # Seconds between two counts of what all tasks gave up.

# Gets a step and its numbers.
Sink = Callable[[int, Mapping[str, float]], None]
# Of an item's configuration.
Builder = Callable[[Any], evaluating.Work]


class TooManyFailedError(RuntimeError):
  """More shards, or rows, failed than `max_failed` allows."""


@dataclasses.dataclass(frozen=True)
class Report:
  """What a task did.

  Attributes:
    shards: how many the task published.
    rows: how many rows these shards hold.
    marked: of these rows, those that have no value.
    given_up: shards of the task that failed too often, with their causes.
    interrupted: whether a signal ended it after a shard.
    seconds: how long it took, by the clock.
  """

  shards: int
  rows: int
  marked: int
  given_up: dict[int, str]
  interrupted: bool
  seconds: float


class _Anchors(NamedTuple):
  """What an item answers to its first masks; see `anchors.check`."""

  item: int
  values: np.ndarray
  seen: tuple[anchors.Witness, np.ndarray] | None


class Task:
  """A task at work; see `run.Run.run`, which makes it."""

  def __init__(
    self,
    book: ledger.Ledger,
    sweep: grid.Sweep,
    build: Builder,
    mine: Sequence[grid.Shard],
    log: process_metrics.Writer,
    *,
    group: processes.Alone,
    signalled: Callable[[], bool],
    sinks: Sequence[Sink] = (),
    say: Callable[[int, int, str], None] = lambda done, total, what: None,
    made_with: Mapping[str, Any] | None = None,
    retry_failed: bool = False,
    stall: float = stalls.LIMIT,
  ):
    """Reads what is done, and what failed.

    Args:
      book: the ledger that shards are published in.
      sweep: the sweep whose shards they are.
      build: an item's configuration to its work.
      mine: the shards of this task, in the order in which they are made.
      log: the log of this process.
      group: the group of processes at the same shard.
      signalled: whether the process was asked to end.
      sinks: get the numbers of every shard.
      say: told rows done, all rows, and what is being done.
      made_with: what differs from what the sweep was begun with.
      retry_failed: whether what was given up, and shards with rows that
        failed, are evaluated again.
      stall: seconds after which a call that does not return ends the process;
        0 for never.
    """
    self.book, self.sweep, self._build, self.log = book, sweep, build, log
    self.group, self._signalled, self._say = group, signalled, say
    self._sinks, self._made_with = list(sinks), dict(made_with or {})
    self._retry = retry_failed
    self._allowed = sweep.config["retries"] + 1
    self._built: tuple[int, evaluating.Work] | None = None
    self._unbuildable: dict[int, str] = {}
    self._failed_rows, self._nan_rows, self._counted = 0, 0, -_COUNT
    self._stalls = stalls.Watch(stall)
    self._max_nan = sweep.config.get("max_nan", grid.Plan.max_nan)
    self._again: set[int] = set()
    self._anchor_values: _Anchors | None = None
    self.count = self.rows = self.marked = 0
    self.given_up: dict[int, str] = {}
    self._total = sum(shard.stop - shard.start for shard in mine)
    done = self._begun(mine)
    self.num_done = len(done)
    self._finished = sum(s.stop - s.start for s in mine if s.index in done)
    self._left = collections.deque(s for s in mine if s.index not in done)

  def run(self) -> Report:
    """Evaluates what is left; raises as `run.Run.run`."""
    begin = time.monotonic()
    if self.group.any(bool(self._failed)) and not self._retry:
      self._check_failed(now=True)
    self._check_nan()
    while self._left:
      if self.group.any(self._signalled()):
        break
      shard = self._left.popleft()
      if self._tried[shard.index] >= self._allowed and not self._retry:
        self.given_up[shard.index] = self._failed.get(
          shard.index, "process 0 tells why"
        )
      elif self._is_there(shard):
        self._finished += shard.stop - shard.start
        self._left.reverse()
      elif self.group.any(self._until_published(shard) == "twice"):
        self._left.reverse()
    if self.given_up:
      self._check_failed(now=True)
    asked = self.group.any(self._signalled())
    seconds = time.monotonic() - begin
    return Report(
      self.count, self.rows, self.marked, self.given_up, asked, seconds
    )

  def _begun(self, mine: Sequence[grid.Shard]) -> set[int]:
    """Which shards are done; and how often each was tried in vain."""
    done: dict[int, dict[str, Any]] = {}
    known: dict[int, failures.Attempts] = {}
    if self.group.first:
      done = self.book.check(shard.index for shard in mine)
      known = failures.by_shard(self.book.folder)
    self._failed = {index: tries.cause for index, tries in known.items()}
    if self._retry:
      # Where NaN is the rule, it is a fault of the function, too.
      bad = sum(body["counts"]["diverged"] for body in done.values())
      kinds = ["failed", "diverged"][: 1 + (bad > self._max_nan * self._total)]
      self._again = {
        i for i in done if any(done[i]["counts"][kind] for kind in kinds)
      }
    for index in self._again:
      del done[index]
    self._done = set(done)
    failed_rows = sum(body["counts"]["failed"] for body in done.values())
    nan_rows = sum(body["counts"]["diverged"] for body in done.values())
    self._failed_rows, self._nan_rows = self.group.follow(
      [failed_rows, nan_rows]
    )
    numbers = {index: tries.number for index, tries in known.items()}
    there = self.group.follow([shard.index in done for shard in mine])
    tried = self.group.follow([numbers.get(s.index, 0) for s in mine])
    self._tried = {s.index: int(number) for s, number in zip(mine, tried)}
    return {shard.index for shard, is_there in zip(mine, there) if is_there}

  def _is_there(self, shard: grid.Shard) -> bool:
    """Whether another task published it since this one began."""
    there = (
      self.group.first
      and shard.index not in self._again
      and self.book.published([shard.index])
    )
    return self.group.any(bool(there))

  def _until_published(self, shard: grid.Shard) -> str | None:
    """Evaluates a shard, again if it fails; None if it is given up."""
    what = self.sweep.item_name(shard.item)
    self._say(self._finished, self._total, what)
    if shard.item in self._unbuildable:
      self._fail(shard, self._unbuildable[shard.item], 0.0, self._allowed)
      return None
    while True:
      begin = time.monotonic()
      lost = lambda why, begin=begin: self._note(
        shard, why, time.monotonic() - begin, self._tried[shard.index] + 1
      )
      part = f"rows {shard.start} to {shard.stop - 1} of shard {shard.index}"
      try:
        with self._stalls.on(f"the work of {what}", lost):
          work = self._work(shard)
        with self._stalls.on(f"the values of {part} ({what})", lost):
          found = evaluating.shard(
            work,
            shard.start,
            shard.stop,
            strict=self.sweep.setting(shard.item, "nan") == "error",
            retries=self.sweep.config["retries"],
            group=self.group,
          )
      except evaluating.StrictError as error:
        raise evaluating.StrictError(
          f"Shard {shard.index} ({what}): {error}"
        ) from error
      except (processes.LostError, ledger.UnreadableError):
        raise
      except (Exception, MemoryError) as error:
        could_build = self._built is not None
        self._built = None
        cause, seconds = evaluating.cause(error), time.monotonic() - begin
        attempt = self._tried[shard.index] + 1
        if attempt >= self._allowed and not could_build:
          self._unbuildable[shard.item] = cause
        self._fail(shard, cause, seconds, attempt)
        if attempt >= self._allowed:
          return None
        self._pause(min(_MOST, BACKOFF * 2 ** (attempt - 1)))
        if self.group.any(self._signalled()):
          return None
      else:
        self._check_anchor()
        return self._publish(shard, found, time.monotonic() - begin)

  def _work(self, shard: grid.Shard) -> evaluating.Work:
    item = shard.item
    if self._built is not None and self._built[0] == item:
      return self._built[1]
    self._built = None  # Room for the next, first.
    config = self.sweep.item_config(item)
    work = self.group.agreed(self._build, config)
    number = min(getattr(work, "anchors", 0), self.sweep.setting(item, "rows"))
    self._anchor_values = None
    if number:
      witness, span = self._witness(shard, number)
      try:
        values, seen = self._first_values(work, 0, number), None
        if span is not None:
          found = self._first_values(work, *span)
          seen = None if witness is None else (witness, found)
        self._anchor_values = _Anchors(item, values, seen)
      except processes.LostError:
        raise
      except (Exception, MemoryError):
        pass  # It will fail again, and be told then.
    self._built = item, work
    return work

  def _first_values(
    self, work: evaluating.Work, start: int, count: int
  ) -> np.ndarray:
    """float64 `[count, T]`, of the item's rows from `start` on."""
    values = self.group.agreed(
      lambda span: evaluating.asked(work, work.masks(*span)),
      (start, start + count),
    )
    return values.astype(np.float64).reshape(count, -1)

  def _witness(
    self, shard: grid.Shard, count: int
  ) -> tuple[anchors.Witness | None, tuple[int, int] | None]:
    """Published rows of the item, where its anchors are lost or damaged.

    And their place in the item, which all of the group are told.
    """
    found = None
    if self.group.first:
      size = self.sweep.setting(shard.item, "rows_per_shard")
      rows = self.sweep.setting(shard.item, "rows")
      first = shard.index - shard.start // size
      every = range(first, first - (-rows // size))
      wanted = None
      try:
        if anchors.kept(self.book.folder, shard.item) is None:
          # Most often the item is new: all of its names are not listed for it.
          wanted = self._done.intersection(every)
          wanted |= self.book.published({every[0], every[-1]} - wanted)
      except ledger.DamagedError:
        wanted = self.book.listed(every)
      if wanted:
        found = anchors.witness(self.book, first, size, sorted(wanted), count)
    span = (found.start, len(found.rows)) if found else (-1, 0)
    start, length = self.group.follow(span)
    return found, (None if start < 0 else (start, length))

  def _check_anchor(self) -> None:
    """Before the first shard of an item is published."""
    if self._anchor_values is None:
      return
    found, self._anchor_values = self._anchor_values, None
    item = found.item
    error = None
    if self.group.first:
      try:
        anchors.check(
          self.book.folder,
          item,
          self.sweep.item_name(item),
          found.values,
          found.seen,
        )
      except anchors.OtherValuesError as caught:
        error = caught
    if self.group.any(error is not None):
      raise error or anchors.OtherValuesError(
        f"Item {item} is not what it was: process 0 tells why."
      )

  def _fail(
    self, shard: grid.Shard, cause: str, seconds: float, attempt: int
  ) -> None:
    self._tried[shard.index] = attempt
    self._failed[shard.index] = cause
    self._note(shard, cause, seconds, attempt)
    if attempt >= self._allowed:
      self.given_up[shard.index] = cause
      self._check_failed()

  def _note(
    self, shard: grid.Shard, cause: str, seconds: float, attempt: int
  ) -> None:
    if self.group.first:
      failures.write(self.book.folder, shard.index, attempt, cause)
    self.log(
      event="failed", shard=shard.index, attempt=attempt,
      seconds=round(seconds, 4), cause=cause,
    )  # fmt: skip

  def _publish(
    self, shard: grid.Shard, found: evaluating.Found, seconds: float
  ) -> str:
    rows = found.rows
    self._check_rows(found)
    event = "followed"
    if self.group.first:
      facts = {"made_with": self._made_with} if self._made_with else None
      if shard.index in self._again:
        self.book.quarantine(
          shard.index, "asked again", always=True, damaged=False
        )
      first = self.book.write(shard.index, rows, facts)
      event = "shard" if first else "twice"
      failures.forget(self.book.folder, shard.index, self._tried[shard.index])
    if event == "shard":
      self.count, self.rows = self.count + 1, self.rows + len(rows)
      self.marked += int((rows.status != shards.Status.OK).sum())
    self._finished += len(rows)
    numbers = {
      "rows": len(rows),
      "rows_per_s": len(rows) / max(seconds, 1e-9),
      "marked": int((rows.status != shards.Status.OK).sum()),
      "done": self._finished / self._total,
    }
    more: dict[str, Any] = {"causes": found.causes} if found.causes else {}
    if self._made_with:
      more["made_with"] = sorted(self._made_with)
    self.log(
      event=event, shard=shard.index, item=shard.item,
      attempt=self._tried[shard.index] + 1, seconds=round(seconds, 4),
      **numbers, **more,
    )  # fmt: skip
    for sink in list(self._sinks):
      try:
        sink(shard.index, numbers)
      except Exception as error:  # Of somebody else's server, perhaps.
        logging.warning("A sink is given up: %s", evaluating.cause(error))
        self._sinks.remove(sink)
    self._say(self._finished, self._total, self.sweep.item_name(shard.item))
    return event

  def _pause(self, seconds: float) -> None:
    end = time.monotonic() + seconds
    while time.monotonic() < end and not self._signalled():
      time.sleep(min(0.2, max(end - time.monotonic(), 0.0)))

  def _check_rows(self, found: evaluating.Found) -> None:
    """Ends a sweep in which too many rows of a task fail."""
    self._failed_rows += sum(found.causes.values())
    share = self.sweep.config["max_failed"]
    if found.causes and self._failed_rows > share * self._total:
      raise TooManyFailedError(
        f"{self._failed_rows} rows of this task failed, more than max_failed="
        f"{share} of its {self._total} allows: {_most(found.causes)}. Mend "
        "the function, and go on by --accept=code; --retry_failed asks the "
        "rows that failed once more."
      )

    self._nan_rows += int((found.rows.status == shards.Status.DIVERGED).sum())
    self._check_nan()

  def _check_nan(self) -> None:
    if self._nan_rows > self._max_nan * self._total:
      raise TooManyFailedError(
        f"{self._nan_rows} rows of this task have no value (NaN or infinity), "
        f"more than max_nan={self._max_nan} of its {self._total} allows. Mend "
        "the function, and go on by --accept=code --retry_failed, which asks "
        "them again; or begin another sweep with a larger max_nan."
      )

  def _check_failed(self, *, now: bool = False) -> None:
    """Ends a sweep in which too many shards fail, in all tasks together.

    Those of the others are counted now and then alone: it means reading all.
    """
    share, number = self.sweep.config["max_failed"], self.sweep.num_shards
    causes: dict[int, str] = {}
    late = time.monotonic() - self._counted > _COUNT
    if self.group.first and (
      now or late or len(self.given_up) > share * number
    ):
      self._counted = time.monotonic()
      # What is tried again is not given up yet.
      causes = (
        self.given_up
        if self._retry
        else failures.given_up(
          self.book.folder, self.sweep, self.book.published
        )
      )
    if self.group.any(len(causes) > share * number):
      most = _most(collections.Counter(causes.values()))
      raise TooManyFailedError(
        f"{len(causes)} of {number} shards were given up, more than max_failed="
        f"{share} allows: {most}. --retry_failed tries them once more."
      )


def _most(causes: Mapping[str, int]) -> str:
  """The most frequent causes."""
  most = sorted(causes.items(), key=lambda pair: -pair[1])[:5]
  return "; ".join(f"{count} x {cause}" for cause, count in most) or (
    "process 0 tells why"
  )
