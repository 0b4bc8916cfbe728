"""Evaluates the shards of one task, and publishes each as it is done.

  config.json   the sweep, versions, device kind: what all values depend on
  items.json    the overrides of every item
  shards/       rows and manifests (`store.ledger`)
  failures/     one file for every attempt that failed, with its cause
  anchors/      values of every item's first masks
  log/          a folder for each process: `metrics.jsonl`, of `process_metrics`

A task is `(workdir, task_index, task_count)`, and owns a run of neighbouring
shards. What is done is read from the shards, never from a scheduler: the same
command continues a killed run, and another number of tasks may, too. A process
holds one shard at a time; a kill costs that.

A value function that raises, or gives NaN, is asked again in halves until the
masks at fault are alone, and each of these `retries` times more: then its row
is marked, the others kept. A shard of which nothing can be had, or whose item
cannot be built, is a failed attempt; after `retries` more it is given up, and
the run goes on, until more than `max_failed` of all shards, or of a task's
rows, have failed; or more than `max_nan` (.5) of a task's rows are NaN. A call
that does not return is told of, and ended in the end (`stalls`).

Shapes: B masks, n players, T targets.
"""

import contextlib
import errno
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from spex_jax import base
from spex_jax.store import folders, ledger
from spex_jax.sweeps import (
  environment,
  evaluating,
  grid,
  process_metrics,
  processes,
  stalls,
  task,
)

Builder = task.Builder
Report = task.Report
Sink = task.Sink
TooManyFailedError = task.TooManyFailedError
Work = evaluating.Work


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
      workdir: the directory of this sweep, empty, or not there yet; or a URL.
      sweep: what is to be done, from `grid.freeze`.
      build: an item's configuration to its work.
      sources: what tells one release of the caller's own code from the next,
        by names of its own.
      accept: of "code", "versions", "flags" and "device": what may differ from
        what the directory was begun with. Manifests of new shards tell it.

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
    self.log = process_metrics.of_process()
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
    stall: float = stalls.LIMIT,
  ) -> Report:
    """Evaluates what is missing of a task's shards.

    Args:
      task_index: the number of this task, from 0 to `task_count` - 1; and
      task_count: how many tasks share the shards; see `grid.Sweep.of_task`.
      progress: told rows done and rows of the task, and what is being done.
      sinks: get the numbers of every shard.
      retry_failed: whether shards that were given up are tried once more, and
        those with rows that failed are made again.
      group: the group of processes that evaluate every shard together, all of
        them by this call; the first of them publishes.
      stall: seconds after which a call of the item's work that does not return
        ends the process, with `os.EX_TEMPFAIL`; it counts as a failed attempt.
        0 for never.

    Raises:
      processes.LostError: one of the group is gone.
      TooManyFailedError: of the whole sweep's shards, or the task's rows; the
        message has the causes.
      anchors.OtherValuesError: an item is not what it was when the sweep was
        begun.
      base.NotFiniteError: NaN or infinity where `nan` is "error".
      OSError: no room; everything published stays. `ConnectionError`: a store
        out of reach.
      ValueError: an index outside the count.
    """
    mine = self.sweep.of_task(task_index, task_count)
    with (
      _reachable(self.folder),
      processes.until_signalled() as signalled,
      contextlib.closing(process_metrics.Writer(self.folder, self.log)) as log,
    ):
      at_work = task.Task(
        self.ledger,
        self.sweep,
        self._build,
        mine,
        log,
        group=group,
        signalled=signalled,
        sinks=sinks,
        say=progress or (lambda done, total, what: None),
        made_with=self._made_with,
        retry_failed=retry_failed,
        stall=stall,
      )
      log(
        event="start", task_index=task_index, task_count=task_count,
        shards=len(mine), done=at_work.num_done, **environment.of_process(),
      )  # fmt: skip
      report = at_work.run()
      log(
        event="end", shards=report.shards, rows=report.rows,
        interrupted=report.interrupted,
      )  # fmt: skip
    return report


_ITEMS = "items.json"
FILES = ("config.json", _ITEMS)
ACCEPTED = ("code", "versions", "flags", "device")
# What a file system of other machines says when these are away.
_AWAY = (errno.ESTALE, errno.ETIMEDOUT, errno.EREMOTEIO, errno.EHOSTDOWN)


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
    try:
      digest = config["items"]["sha256"]
      # What a sweep needs; its items may be damaged by themselves.
      grid.Sweep(config["sweep"], ({},))
    except (KeyError, TypeError, AttributeError) as error:
      raise ValueError(
        f"{folder.path}/config.json is damaged: it lacks what a sweep has "
        f"({error!r})."
      ) from error
    items = _items(folder, digest)
    book = ledger.Ledger(folder, config)
  return book, grid.Sweep(config["sweep"], tuple(items))


def _items(folder: folders.Folder, digest: str) -> list[dict[str, Any]]:
  place = f"{folder.path}/{_ITEMS}"
  try:
    data = folder.read(_ITEMS)
    items = base.from_json(data, place, must_have_checksum=True)["items"]
    if not isinstance(items, list):
      raise ValueError(f"{place} is damaged: its items are no list.")
  except (FileNotFoundError, KeyError, ValueError) as error:
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
    if name not in ACCEPTED:
      raise ValueError(f"accept={name!r}: choose from {', '.join(ACCEPTED)}.")
  if not accept:
    return {}
  try:
    return ledger.stored_config(folder) or {}
  except ledger.DamagedError:  # Mended by what is at hand, if at all.
    return {}


def _advised(error: ledger.OtherConfigError) -> ledger.OtherConfigError:
  """With a way on, where only code, versions or the device are others."""
  text = str(error)
  names = text.partition("another configuration: ")[2].partition(" differ")[0]
  kinds = {name.partition(".")[0] for name in names.split(", ")}
  if kinds <= set(ACCEPTED):
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
  except (
    ValueError,
    TypeError,
    LookupError,
    AttributeError,
    RuntimeError,
    MemoryError,
    ImportError,
    FileNotFoundError,
    InterruptedError,
  ):  # Ours, or nothing that time mends.
    raise
  except PermissionError as error:
    raise ValueError(
      f"workdir {folder.path} cannot be read and written: "
      f"{error.strerror or error}. Give another --workdir, or credentials."
    ) from error
  except Exception as error:
    away = isinstance(error, OSError) and error.errno in _AWAY
    if isinstance(folder, folders.Directory) and not away:
      raise
    if "Credentials" in type(error).__name__:
      raise ValueError(f"workdir {folder.path}: {error}") from error
    raise ConnectionError(
      f"workdir {folder.path} is out of reach: {type(error).__name__}: {error}"
    ) from error
