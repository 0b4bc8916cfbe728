"""Evaluates the shards of one task, and publishes each as it is done.

  config.json   the sweep, versions, device kind: what all values depend on
  items.json    the overrides of every item
  shards/       rows and manifests (`store.ledger`)
  failures/     one file for every attempt that failed, with its cause
  log/          one file of JSON lines for each process: times, hosts, rates

A task is `(workdir, task_index, task_count)`, and owns a run of neighbouring
shards. What is done is read from the shards, never from a scheduler: the same
command continues a killed run, and another number of tasks may, too. A process
holds one shard at a time; a kill costs that.

A value function that raises, or gives NaN, is asked again in halves until the
masks at fault are alone: these rows are marked, the others kept. What cannot
even be built is a failed attempt; after `retries` more it is given up, and the
run goes on.

Shapes: B masks, n players, T targets.
"""

import contextlib
import dataclasses
import json
import os
import pathlib
import signal
import socket
import time
import traceback
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Protocol

import numpy as np

from spex_jax import base
from spex_jax.store import ledger, shards
from spex_jax.sweeps import environment, failures, grid


class TooManyFailedError(RuntimeError):
  """More shards were given up than `max_failed` allows."""


class Work(Protocol):
  """One item, built: what a builder returns.

  Attributes:
    n: players.
    num_targets: T.
  """

  n: int
  num_targets: int

  def masks(self, start: int, stop: int) -> np.ndarray:
    """bool `[stop - start, n]`: the same rows whoever asks, and in parts."""
    ...

  def values(self, masks: np.ndarray) -> base.Array:
    """`[B]` or `[B, T]`; a row depends on its mask alone."""
    ...


Builder = Callable[[Any], Work]


@dataclasses.dataclass(frozen=True)
class Report:
  """What a call of `run` did.

  Attributes:
    shards: published by it.
    rows: of these.
    given_up: shards of the task that failed too often, with their causes.
    interrupted: whether a signal ended it after a shard.
    seconds: by the clock.
  """

  shards: int
  rows: int
  given_up: dict[int, str]
  interrupted: bool
  seconds: float


class Run:
  """A sweep's directory."""

  def __init__(
    self, workdir: str | os.PathLike, sweep: grid.Sweep, build: Builder
  ):
    """Opens the directory of a sweep, or starts it.

    Args:
      workdir: of this sweep, empty, or not there yet.
      sweep: what is to be done.
      build: an item's configuration to its work.

    Raises:
      store.ledger.OtherConfigError: it belongs to another sweep, other
        versions, another device kind or other code; the message names what
        differs.
      ValueError: a directory that is not empty and no run, or one without
        permission.
      OSError: no room.
    """
    self.sweep, self._build = sweep, build
    self.path = pathlib.Path(workdir)
    facts = {
      "sweep": sweep.config,
      "items": {"count": len(sweep.items), "sha256": grid.digest(sweep.items)},
      **environment.facts(),
    }
    try:
      self.ledger = ledger.Ledger(self.path, facts)
      items = self.path / "items.json"
      if not items.exists():
        grid.save_items(items, sweep)
      for name in ("failures", "log"):
        (self.path / name).mkdir(exist_ok=True)
    except PermissionError as error:
      raise ValueError(
        f"workdir {self.path} cannot be written: {error.strerror}. Give "
        "another --workdir."
      ) from error

  def run(
    self,
    task_index: int = 0,
    task_count: int = 1,
    *,
    progress: Callable[[int, int, str], None] | None = None,
    sinks: "tuple[Sink, ...]" = (),
    retry_failed: bool = False,
  ) -> Report:
    """Evaluates what is missing of a task's shards.

    Args:
      task_index: and
      task_count: which shards; see `grid.Sweep.of_task`.
      progress: told rows done and rows of the task, and what is being done.
      sinks: get the numbers of every shard.
      retry_failed: whether shards that were given up are tried once more.

    Raises:
      TooManyFailedError: of the whole sweep's shards; the message has the
        causes.
      base.NotFiniteError: NaN or infinity where `nan` is "error".
      OSError: no room; everything published stays.
      ValueError: an index outside the count.
    """
    mine = self.sweep.of_task(task_index, task_count)
    done = self._done(mine)
    total = sum(shard.stop - shard.start for shard in mine)
    finished = sum(s.stop - s.start for s in mine if s.index in done)
    say = progress or (lambda done, total, what: None)
    begin = time.monotonic()
    count = rows = 0
    given_up: dict[int, str] = {}
    attempts = failures.by_shard(self.path)
    allowed = self.sweep.config["retries"] + 1
    built: tuple[int, Work] | None = None
    with _until_signalled() as signalled, _log(self.path) as log:
      for shard in mine:
        if shard.index in done:
          continue
        if signalled():
          break
        causes = attempts.setdefault(shard.index, [])
        if len(causes) >= allowed and not retry_failed:
          given_up[shard.index] = causes[-1]
          continue
        say(finished, total, self.sweep.item_name(shard.item))
        while True:
          start = time.monotonic()
          try:
            if built is None or built[0] != shard.item:
              built = None  # Room for the next, first.
              config = self.sweep.item_config(shard.item)
              built = shard.item, self._build(config)
            found = self._evaluate(built[1], shard)
          except base.NotFiniteError:
            raise
          except (Exception, MemoryError) as error:
            if isinstance(error, OSError) and not isinstance(
              error, FileNotFoundError | ConnectionError | TimeoutError
            ):
              raise  # The disk's, not the item's.
            built = None
            causes.append(_cause(error))
            self._failed(shard, causes[-1], len(causes))
            log(event="failed", shard=shard.index, cause=causes[-1])
            if len(causes) < allowed:
              continue
            given_up[shard.index] = causes[-1]
            self._check_failed()
            break
          seconds = time.monotonic() - start
          first = self.ledger.write(shard.index, found)
          count, rows = count + first, rows + len(found)
          finished += len(found)
          numbers = {
            "rows": len(found),
            "rows_per_s": len(found) / max(seconds, 1e-9),
            "marked": int((found.status > 0).sum()),
            "done": finished / total,
          }
          log(
            event="shard" if first else "twice", shard=shard.index,
            item=shard.item, seconds=round(seconds, 4), **numbers,
          )  # fmt: skip
          for sink in sinks:
            sink(shard.index, numbers)
          say(finished, total, self.sweep.item_name(shard.item))
          break
      return Report(
        count, rows, given_up, signalled(), time.monotonic() - begin
      )

  def _done(self, mine: list[grid.Shard]) -> set[int]:
    """Which of these are published, with a sound manifest and a whole file.

    What `verify` finds only by reading, this does not see.
    """
    published, done = set(self.ledger.indices()), set()
    for shard in mine:
      if shard.index not in published:
        continue
      try:
        self.ledger.check(shard.index)
      except ledger.DamagedError as error:
        self.ledger.quarantine(shard.index, str(error))
      else:
        done.add(shard.index)
    return done

  def _evaluate(self, work: Work, shard: grid.Shard) -> shards.Rows:
    masks = base.check_masks(work.masks(shard.start, shard.stop), work.n)
    values = np.full((len(masks), work.num_targets), np.nan)
    status = np.full(len(masks), shards.Status.OK, np.uint8)
    strict = self.sweep.setting(shard.item, "nan") == "error"

    causes: dict[str, int] = {}
    # A stack, and no function that calls itself: that would be a cycle, which
    # holds a shard's masks until it is collected.
    waiting = [(0, len(masks))]
    while waiting:
      start, stop = waiting.pop()
      try:
        found = np.asarray(work.values(masks[start:stop]))
        found, finite = _checked(found, stop - start, work.num_targets)
        if strict and not finite.all():
          base.check_values(found, stop - start)  # Says which.
      except (Exception, MemoryError) as error:
        bad = isinstance(error, base.NotFiniteError)
        if strict and bad:
          raise base.NotFiniteError(
            f"Shard {shard.index} ({self.sweep.item_name(shard.item)}): "
            f"{error} Or set nan to drop or keep."
          ) from error
        if stop - start > 1:
          middle = (start + stop) // 2
          waiting += [(middle, stop), (start, middle)]
          continue
        kind = shards.Status.DIVERGED if bad else shards.Status.FAILED
        status[start] = kind
        causes.setdefault(_cause(error), start)
        if len(causes) > _CAUSES:
          raise RuntimeError(
            f"more than {_CAUSES} masks fail, each in its way: {error}"
          ) from error
      else:
        status[start:stop][~finite] = shards.Status.DIVERGED
        values[start:stop][finite] = found[finite]
    if (status == shards.Status.FAILED).all():
      raise RuntimeError(
        f"every mask of the shard failed: {next(iter(causes))}"
      )
    return shards.rows_of(masks, values, status=status, seeds=0)

  def _failed(self, shard: grid.Shard, cause: str, attempt: int) -> None:
    failures.write(self.path, shard.index, attempt, cause)

  def _check_failed(self) -> None:
    """Ends a sweep in which too much fails."""
    allowed = self.sweep.config["max_failed"] * self.sweep.num_shards
    causes = failures.given_up(
      self.path, self.sweep, set(self.ledger.indices())
    )
    if len(causes) > allowed:
      kinds: dict[str, int] = {}
      for cause in causes.values():
        kinds[cause] = kinds.get(cause, 0) + 1
      worst = sorted(kinds.items(), key=lambda pair: -pair[1])[:5]
      raise TooManyFailedError(
        f"{len(causes)} of {self.sweep.num_shards} shards were given up, more "
        f"than max_failed={self.sweep.config['max_failed']} allows: "
        + "; ".join(f"{count} x {cause}" for cause, count in worst)
      )


_CAUSES = 32  # Kinds of failure in one shard before the shard itself has.

# Gets a step and its numbers.
Sink = Callable[[int, Mapping[str, float]], None]


def opened(workdir: str | os.PathLike) -> tuple[ledger.Ledger, grid.Sweep]:
  """The ledger and the sweep of a directory, as they were frozen.

  Raises:
    ValueError: no directory of a sweep, or files that their checksums
      contradict.
  """
  path = pathlib.Path(workdir)
  config = ledger.stored_config(path)
  if config is None or "sweep" not in config:
    raise ValueError(
      f"{path} holds no sweep: no config.json of one. Start it by `spex sweep "
      "run --config=FILE --workdir=DIR`."
    )
  items = base.read_json(path / "items.json", must_have_checksum=True)["items"]
  if grid.digest(items) != config["items"]["sha256"]:
    raise ValueError(f"{path / 'items.json'} is of another sweep.")
  book = ledger.Ledger(path, config)
  return book, grid.Sweep(config["sweep"], tuple(items))


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


def _cause(error: BaseException) -> str:
  text = " ".join(str(error).split())[:500]
  frames = traceback.extract_tb(error.__traceback__)
  where = ""
  if frames:
    where = f" ({pathlib.Path(frames[-1].filename).name}:{frames[-1].lineno})"
  return f"{type(error).__name__}: {text}{where}"


@contextlib.contextmanager
def _until_signalled() -> Iterator[Callable[[], bool]]:
  """Whether the process was asked to end: a preemption, say, or control-C."""
  asked = False

  def note(number: int, frame: Any) -> None:
    nonlocal asked
    del frame
    if asked and number == signal.SIGINT:
      raise KeyboardInterrupt  # Asked twice: at once.
    asked = True

  before = {}
  for number in (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1):
    with contextlib.suppress(ValueError):  # Not in the main thread.
      before[number] = signal.signal(number, note)
  try:
    yield lambda: asked
  finally:
    for number, handler in before.items():
      signal.signal(number, handler)


@contextlib.contextmanager
def _log(path: pathlib.Path) -> Iterator[Callable[..., None]]:
  """Appends JSON lines to this process's own file."""
  host = socket.gethostname()
  place = path / "log" / f"{host}.{os.getpid()}.jsonl"
  with place.open("a") as file:

    def write(**entry: Any) -> None:
      file.write(json.dumps({"time": time.time(), "host": host} | entry) + "\n")
      file.flush()

    yield write
