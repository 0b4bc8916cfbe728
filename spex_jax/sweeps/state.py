"""What is done, failed or damaged in a sweep's directory; and its rows.

Shapes: R rows, T targets.
"""

import dataclasses
import os
import time

import numpy as np

from spex_jax.store import aside as aside_of
from spex_jax.store import ledger, shards
from spex_jax.sweeps import anchors, failures, process_metrics, run

Workdir = str | os.PathLike  # Or a URL.


@dataclasses.dataclass(frozen=True)
class Status:
  """A sweep as its files tell it.

  Attributes:
    shards, num_shards: published, and all.
    rows, num_rows: the same of rows.
    marked: rows that are published, and have no value, as the logs tell.
    given_up: shards that failed too often, with the last cause.
    causes: the causes of rows that failed in a user's function, and how many
      each, as the logs tell.
    accepted: shards that were made with other code, versions or device than
      the sweep was begun with, as the logs tell.
    rate: rows per second of all processes of the last ten minutes of work, or
      None before the first shard.
    eta: seconds that the rest, but what was given up, takes at this rate, or
      None.
    cost: seconds of processes that evaluated, all together; of failed attempts
      and shards that were made twice, too.
    processes: how many processes wrote a log.
    quarantined: how many shards were put aside as damaged.
  """

  shards: int
  num_shards: int
  rows: int
  num_rows: int
  marked: int
  given_up: dict[int, str]
  causes: dict[str, int]
  accepted: int
  rate: float | None
  eta: float | None
  cost: float
  processes: int
  quarantined: int

  @property
  def complete(self) -> bool:
    """Whether every shard is there."""
    return self.shards == self.num_shards


_WINDOW = 600.0  # Seconds that a rate is taken over.


def status(workdir: Workdir) -> Status:
  """Reads the names of what is published, and logs; no shard is opened.

  Raises:
    ValueError: no sweep, or a damaged configuration.
  """
  book, sweep = run.opened(workdir)
  every = sweep.shards()
  done = {index for index in book.indices() if index < len(every)}
  rows = sum(every[index].stop - every[index].start for index in done)
  lines = process_metrics.read(book.folder)
  entries = [e for e in lines.entries if "seconds" in e]
  made = [e for e in entries if e["event"] == "shard"]
  # The last word on a shard counts: one in quarantine is made again.
  latest = {e["shard"]: e for e in made if e["shard"] in done}
  causes: dict[str, int] = {}
  for entry in latest.values():
    for cause, number in entry.get("causes", {}).items():
      causes[cause] = causes.get(cause, 0) + number
  now = max((e["time"] for e in made), default=0.0)
  recent = [e for e in made if e["time"] > now - _WINDOW]
  rate = None
  if recent:
    begin = min(e["time"] - e["seconds"] for e in recent)
    rate = sum(e["rows"] for e in recent) / max(now - begin, 1e-9)
  given_up = failures.given_up(book.folder, sweep, done.intersection)
  lost = sum(every[i].stop - every[i].start for i in given_up if i < len(every))
  left = sweep.num_rows - rows - lost
  put_aside = book.folder.names("quarantine")
  return Status(
    shards=len(done),
    num_shards=sweep.num_shards,
    rows=rows,
    num_rows=sweep.num_rows,
    marked=sum(entry["marked"] for entry in latest.values()),
    given_up=given_up,
    causes=causes,
    accepted=sum("made_with" in entry for entry in latest.values()),
    rate=rate,
    eta=left / rate if rate else None,
    cost=sum(e["seconds"] for e in entries),
    processes=lines.processes,
    quarantined=sum(name.endswith(".txt") for name in put_aside),
  )


@dataclasses.dataclass(frozen=True)
class Verified:
  """What reading everything found.

  Attributes:
    sound: shards whose bytes, pages and rows are right.
    damaged: shards put aside, with what was wrong; the next run makes them
      again.
    missing: shards that are not published yet.
    failures: damaged records of failed attempts, put aside as well: the shard
      may be tried once more.
    anchors: damaged values of items' first masks, put aside as well: the rows
      that are published stand in for them.
    lines: damaged lines of logs, by the name of the log; no value depends on
      them.
  """

  sound: int
  damaged: dict[int, str]
  missing: int
  failures: list[str]
  anchors: list[str]
  lines: dict[str, int]


def verify(workdir: Workdir) -> Verified:
  """Reads every byte; what is damaged goes to quarantine.

  Raises:
    ValueError: no sweep, or a damaged configuration.
  """
  book, sweep = run.opened(workdir)
  every, sound = sweep.shards(), 0
  for index, rows in book.scan():
    if index >= len(every):
      book.quarantine(index, "no shard of this sweep", always=True)
    elif len(rows) != every[index].stop - every[index].start:
      book.quarantine(index, f"{len(rows)} rows", always=True)
    else:
      sound += 1
  records = failures.damaged(book.folder)
  guards = anchors.damaged(book.folder)
  for name in (*records, *guards):
    book.folder.move(name, f"{ledger.QUARANTINE}/{name}")
  damaged = {one.index: one.reason for one in book.quarantined}
  lines = process_metrics.read(book.folder).damaged
  return Verified(
    sound, damaged, sweep.num_shards - sound, records, guards, lines
  )


def samples(
  workdir: str | os.PathLike, item: int
) -> tuple[np.ndarray, np.ndarray]:
  """The sound rows of one item: masks bool `[R, n]`, values float64 `[R, T]`.

  What `spex_jax.decode` takes.

  Raises:
    ValueError: no sweep, no such item, or none of its rows; a damaged shard,
      which `verify` puts aside.
  """
  book, sweep = run.opened(workdir)
  if not 0 <= item < len(sweep.items):
    raise ValueError(f"item={item}: the sweep has 0..{len(sweep.items) - 1}.")
  done, parts = set(book.indices()), []
  for shard in sweep.shards():
    if shard.item == item and shard.index in done:
      parts.append(book.read(shard.index))
  if not parts:
    raise ValueError(f"Item {item} has no row yet.")
  rows = shards.concatenate(parts)
  rows = rows.take(rows.status == shards.Status.OK)
  return rows.masks(), rows.values.astype(np.float64)


def collect_garbage(
  workdir: Workdir, *, older_than: float = 3600.0, dry_run: bool = False
) -> list[str]:
  """Removes what killed writers left, and what is in quarantine.

  But what is sound by its bytes, and published nowhere else, stays there.

  Args:
    workdir: the directory of the sweep.
    older_than: seconds; younger files may belong to a writer at work.
    dry_run: only tell what would be removed.

  Returns:
    The names that were removed, or would be.

  Raises:
    ValueError: no sweep.
  """
  book, _ = run.opened(workdir)
  folder, limit = book.folder, time.time() - older_than
  found = folder.rest()
  aside = {f"quarantine/{n}" for n in folder.names("quarantine", deep=True)}
  if aside:
    aside -= {*aside_of.sound(book)}
  found += aside
  orphans = book.rest()
  old = []
  for name in [*found, *orphans]:
    try:
      if folder.modified(name) < limit:
        old.append(name)
    except FileNotFoundError:  # Its writer is done.
      continue
  still = set(book.rest())  # Some may have been published just now.
  removed = [name for name in old if name not in orphans or name in still]
  if not dry_run:
    for name in removed:
      folder.remove(name)
  return sorted(removed)
