"""Evaluates the shards of one task, and publishes each as it is done.

  config.json   the sweep, versions, device kind: what all values depend on
  items.json    the overrides of every item
  shards/       rows and manifests (`store.ledger`)
  failures/     one file for every attempt that failed, with its cause
  log/          a folder for each process: its `metrics.jsonl` (`metrics`)

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
import os
import pathlib
import time
import traceback
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, Protocol

import numpy as np

from spex_jax import base
from spex_jax.store import folders, ledger, shards
from spex_jax.sweeps import environment, failures, grid, metrics, processes


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
  """A sweep's directory.

  Attributes:
    folder: where its files are.
    log: the name of this process's folder in it.
  """

  def __init__(
    self,
    workdir: str | os.PathLike,
    sweep: grid.Sweep,
    build: Builder,
    *,
    sources: Mapping[str, str] | None = None,
    accept: Sequence[str] = (),
  ):
    """Opens the directory of a sweep, or starts it.

    Args:
      workdir: of this sweep, empty, or not there yet; or a URL.
      sweep: what is to be done.
      build: an item's configuration to its work.
      sources: what tells one release of the caller's own code from the next,
        by names of its own.
      accept: of "code", "versions" and "device": what may differ from what the
        directory was begun with. Manifests of new shards then tell it.

    Raises:
      store.ledger.OtherConfigError: it belongs to another sweep, other
        versions, another device kind or other code; the message names what
        differs.
      ValueError: a directory that is not empty and no run, one without
        permission, or an unknown word of `accept`.
      OSError: no room, or (`ConnectionError`) an object store out of reach.
    """
    self.sweep, self._build = sweep, build
    self.folder = folders.opened(workdir)
    self.log = metrics.of_process()
    facts = {
      "sweep": sweep.config,
      "items": {"count": len(sweep.items), "sha256": grid.digest(sweep.items)},
      **environment.facts(sources),
    }
    with _reachable(self.folder):
      stored = _stored(self.folder, accept)
      known = facts | {name: stored[name] for name in accept if name in stored}
      self._made_with = {
        name: facts[name] for name in accept if known[name] != facts[name]
      }
      try:
        self.ledger = ledger.Ledger(self.folder, known)
      except ledger.OtherConfigError as error:
        raise _advised(error) from error
      _write_items(self.folder, sweep)

  def run(
    self,
    task_index: int = 0,
    task_count: int = 1,
    *,
    progress: Callable[[int, int, str], None] | None = None,
    sinks: "tuple[Sink, ...]" = (),
    retry_failed: bool = False,
    group: processes.Alone = processes.ALONE,
  ) -> Report:
    """Evaluates what is missing of a task's shards.

    Args:
      task_index: and
      task_count: which shards; see `grid.Sweep.of_task`.
      progress: told rows done and rows of the task, and what is being done.
      sinks: get the numbers of every shard.
      retry_failed: whether shards that were given up are tried once more.
      group: of processes that evaluate every shard together, all of them by
        this call; the first of them publishes.

    Raises:
      processes.LostError: one of the group is gone.
      TooManyFailedError: of the whole sweep's shards; the message has the
        causes.
      base.NotFiniteError: NaN or infinity where `nan` is "error".
      OSError: no room; everything published stays.
      ValueError: an index outside the count.
    """
    mine = self.sweep.of_task(task_index, task_count)
    failed = {i: c[-1] for i, c in failures.by_shard(self.folder).items()}
    done, tried = self._begun(mine, group)
    total = sum(shard.stop - shard.start for shard in mine)
    finished = sum(s.stop - s.start for s in mine if s.index in done)
    say = progress or (lambda done, total, what: None)
    begin = time.monotonic()
    count = rows = 0
    given_up: dict[int, str] = {}
    allowed = self.sweep.config["retries"] + 1
    built: tuple[int, Work] | None = None
    with _reachable(self.folder):
      writer = metrics.Writer(self.folder, self.log)
    with (
      processes.until_signalled() as signalled,
      contextlib.closing(writer) as log,
    ):
      log(
        event="start", task_index=task_index, task_count=task_count,
        shards=len(mine), done=len(done), **environment.of_process(),
      )  # fmt: skip
      for shard in mine:
        if shard.index in done:
          continue
        if group.any(signalled()):
          break
        if tried[shard.index] >= allowed and not retry_failed:
          given_up[shard.index] = failed.get(shard.index, "see process 0")
          continue
        say(finished, total, self.sweep.item_name(shard.item))
        while True:
          start = time.monotonic()
          try:
            if built is None or built[0] != shard.item:
              built = None  # Room for the next, first.
              config = self.sweep.item_config(shard.item)
              built = shard.item, group.agreed(self._build, config)
            found = self._evaluate(built[1], shard, group)
          except base.NotFiniteError:
            raise
          except (Exception, MemoryError) as error:
            if isinstance(error, OSError) and not isinstance(
              error, FileNotFoundError | ConnectionError | TimeoutError
            ):
              raise  # The disk's, not the item's.
            built = None
            tried[shard.index] += 1
            attempt, cause = tried[shard.index], _cause(error)
            failed[shard.index] = cause
            if group.first:
              failures.write(self.folder, shard.index, attempt, cause)
            log(
              event="failed", shard=shard.index, attempt=attempt,
              seconds=round(time.monotonic() - start, 4), cause=cause,
            )  # fmt: skip
            if attempt < allowed:
              continue
            given_up[shard.index] = cause
            self._check_failed(group)
            break
          seconds = time.monotonic() - start
          facts = {"made_with": self._made_with} if self._made_with else None
          event = "followed"
          if group.first:
            first = self.ledger.write(shard.index, found, facts)
            event = "shard" if first else "twice"
          count, rows = count + (event == "shard"), rows + len(found)
          finished += len(found)
          numbers = {
            "rows": len(found),
            "rows_per_s": len(found) / max(seconds, 1e-9),
            "marked": int((found.status > 0).sum()),
            "done": finished / total,
          }
          log(
            event=event, shard=shard.index, item=shard.item,
            attempt=tried[shard.index] + 1, seconds=round(seconds, 4),
            **numbers,
          )  # fmt: skip
          for sink in sinks:
            sink(shard.index, numbers)
          say(finished, total, self.sweep.item_name(shard.item))
          break
      asked = group.any(signalled())
      log(event="end", shards=count, rows=rows, interrupted=asked)
      return Report(count, rows, given_up, asked, time.monotonic() - begin)

  def _begun(
    self, mine: list[grid.Shard], group: processes.Alone
  ) -> tuple[set[int], dict[int, int]]:
    """Which shards are done, and how often each was tried in vain."""
    done: Iterable[int] = ()
    causes: dict[int, list[str]] = {}
    if group.first:
      done = self.ledger.check(shard.index for shard in mine)
      causes = failures.by_shard(self.folder)
    there = group.follow([shard.index in done for shard in mine])
    tried = group.follow([len(causes.get(s.index, ())) for s in mine])
    return (
      {shard.index for shard, is_there in zip(mine, there) if is_there},
      {shard.index: int(number) for shard, number in zip(mine, tried)},
    )

  def _evaluate(
    self, work: Work, shard: grid.Shard, group: processes.Alone
  ) -> shards.Rows:
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
        found = np.asarray(group.agreed(work.values, masks[start:stop]))
        found, finite = _checked(found, stop - start, work.num_targets)
        if strict and not finite.all():
          base.check_values(found, stop - start)  # Says which.
      except processes.LostError:
        raise
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

  def _check_failed(self, group: processes.Alone) -> None:
    """Ends a sweep in which too much fails."""
    allowed = self.sweep.config["max_failed"] * self.sweep.num_shards
    causes: dict[int, str] = {}
    if group.first:
      causes = failures.given_up(
        self.folder, self.sweep, set(self.ledger.indices())
      )
    if group.any(len(causes) > allowed):
      kinds: dict[str, int] = {}
      for cause in causes.values():
        kinds[cause] = kinds.get(cause, 0) + 1
      worst = sorted(kinds.items(), key=lambda pair: -pair[1])[:5]
      raise TooManyFailedError(
        f"{len(causes)} of {self.sweep.num_shards} shards were given up, more "
        f"than max_failed={self.sweep.config['max_failed']} allows: "
        + ("; ".join(f"{count} x {cause}" for cause, count in worst)
           or "process 0 tells the causes")
      )  # fmt: skip


_ITEMS = "items.json"
_ACCEPTED = ("code", "versions", "device")
_CAUSES = 32  # Kinds of failure in one shard before the shard itself has.

# Gets a step and its numbers.
Sink = Callable[[int, Mapping[str, float]], None]


def opened(
  workdir: str | os.PathLike | folders.Folder,
) -> tuple[ledger.Ledger, grid.Sweep]:
  """The ledger and the sweep of a directory, as they were frozen.

  Raises:
    ValueError: no directory of a sweep, or files that their checksums
      contradict.
    ConnectionError: an object store out of reach.
  """
  folder = folders.opened(workdir)
  with _reachable(folder):
    config = ledger.stored_config(folder)
    if config is None or "sweep" not in config:
      raise ValueError(
        f"{folder.path} holds no sweep: no config.json of one. Start it by "
        "`spex sweep run --config=FILE --workdir=DIR`."
      )
    items = _items(folder, config["items"]["sha256"])
    book = ledger.Ledger(folder, config)
  return book, grid.Sweep(config["sweep"], tuple(items))


def _items(folder: folders.Folder, digest: str) -> list[dict[str, Any]]:
  place = f"{folder.path}/{_ITEMS}"
  try:
    data = folder.read(_ITEMS)
    items = base.from_json(data, place, must_have_checksum=True)["items"]
  except (FileNotFoundError, ValueError) as error:
    raise ValueError(
      f"{error} The run's own command writes it again."
    ) from error
  if grid.digest(items) != digest:
    raise ValueError(f"{place} is of another sweep.")
  return items


def _write_items(folder: folders.Folder, sweep: grid.Sweep) -> None:
  """Writes the items, or what is left of them, again."""
  try:
    _items(folder, grid.digest(sweep.items))
  except ValueError:
    folder.replace(_ITEMS, base.to_json({"items": list(sweep.items)}))


def _stored(folder: folders.Folder, accept: Sequence[str]) -> dict[str, Any]:
  """What the directory was begun with, where some of that is accepted."""
  for name in accept:
    if name not in _ACCEPTED:
      raise ValueError(f"accept={name!r}: choose from {', '.join(_ACCEPTED)}.")
  return (ledger.stored_config(folder) or {}) if accept else {}


def _advised(error: ledger.OtherConfigError) -> ledger.OtherConfigError:
  """With a way on, where only code, versions or the device are others."""
  text = str(error)
  names = text.partition("another configuration: ")[2].partition(" differ")[0]
  kinds = {name.partition(".")[0] for name in names.split(", ")}
  if kinds <= set(_ACCEPTED):
    text += (
      f" Or accept the difference by --accept={','.join(sorted(kinds))}: the "
      "manifests of new shards then tell it."
    )
  return ledger.OtherConfigError(text)


@contextlib.contextmanager
def _reachable(folder: folders.Folder) -> Iterator[None]:
  """Says of what cannot be reached which directory that is."""
  try:
    yield
  except (ValueError, FileNotFoundError):
    raise
  except PermissionError as error:
    raise ValueError(
      f"workdir {folder.path} cannot be read and written: "
      f"{error.strerror or error}. Give another --workdir, or credentials."
    ) from error
  except Exception as error:
    if isinstance(folder, folders.Directory):
      raise
    raise ConnectionError(
      f"workdir {folder.path} is out of reach: {type(error).__name__}: {error}"
    ) from error


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
