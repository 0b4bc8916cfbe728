"""What is done, failed or damaged in a sweep's directory; and its rows.

Shapes: R rows, T targets.
"""

import dataclasses
import json
import os
import pathlib
import time
from typing import Any

import numpy as np

from spex_jax.store import shards
from spex_jax.sweeps import failures, run


@dataclasses.dataclass(frozen=True)
class Status:
  """A sweep as its files tell it.

  Attributes:
    shards, num_shards: published, and all.
    rows, num_rows: the same of rows.
    marked: rows that are published, and have no value.
    given_up: shards that failed too often, with the last cause.
    rate: rows per second of all processes of the last ten minutes of work, or
      None before the first shard.
    eta: seconds that the rest takes at this rate, or None.
    cost: seconds of processes that evaluated, all together.
    processes: that wrote a log.
    quarantined: files put aside as damaged.
  """

  shards: int
  num_shards: int
  rows: int
  num_rows: int
  marked: int
  given_up: dict[int, str]
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


def status(workdir: str | os.PathLike) -> Status:
  """Reads manifests and logs; no shard is opened.

  Raises:
    ValueError: no sweep, or a damaged configuration.
  """
  book, sweep = run.opened(workdir)
  path = pathlib.Path(workdir)
  done = set(book.indices())
  every = sweep.shards()
  rows = sum(every[i].stop - every[i].start for i in done if i < len(every))
  entries, processes = _entries(path)
  latest = max((e["time"] for e in entries), default=0.0)
  recent = [e for e in entries if e["time"] > latest - _WINDOW]
  rate = None
  if recent:
    begin = min(e["time"] - e["seconds"] for e in recent)
    rate = sum(e["rows"] for e in recent) / max(latest - begin, 1e-9)
  left = sweep.num_rows - rows
  folder = path / "quarantine"
  return Status(
    shards=len(done),
    num_shards=sweep.num_shards,
    rows=rows,
    num_rows=sweep.num_rows,
    marked=sum(e["marked"] for e in entries if e["event"] == "shard"),
    given_up=failures.given_up(path, sweep, done),
    rate=rate,
    eta=left / rate if rate else None,
    cost=sum(e["seconds"] for e in entries),
    processes=processes,
    quarantined=sum(1 for _ in folder.glob("*.txt")) if folder.exists() else 0,
  )


@dataclasses.dataclass(frozen=True)
class Verified:
  """What reading everything found.

  Attributes:
    sound: shards whose bytes, pages and rows are right.
    damaged: shards put aside, with what was wrong; the next run makes them
      again.
    missing: shards that are not published yet.
  """

  sound: int
  damaged: dict[int, str]
  missing: int


def verify(workdir: str | os.PathLike) -> Verified:
  """Reads every byte; damaged shards go to quarantine.

  Raises:
    ValueError: no sweep, or a damaged configuration.
  """
  book, sweep = run.opened(workdir)
  every, sound = sweep.shards(), 0
  for index, rows in book.scan():
    if index >= len(every):
      book.quarantine(index, "no shard of this sweep")
    elif len(rows) != every[index].stop - every[index].start:
      book.quarantine(index, f"{len(rows)} rows")
    else:
      sound += 1
  damaged = {one.index: one.reason for one in book.quarantined}
  return Verified(sound, damaged, sweep.num_shards - sound)


def export(workdir: str | os.PathLike, path: str | os.PathLike) -> int:
  """All rows as one Parquet file, shard by shard; returns how many.

  Columns: `item` and `row` int, then those of `store.shards` with masks as
  binary of any length, and one of the overrides of the items as JSON. Pandas
  and DuckDB read it. Rows without a value are left out, unless `nan` is "keep".

  Raises:
    ValueError: no sweep, or none of its shards is there.
    OSError: no room; no file is left.
  """
  import pyarrow as pa  # Slow to import.
  import pyarrow.parquet as pq

  book, sweep = run.opened(workdir)
  every = sweep.shards()
  place = pathlib.Path(path)
  temporary = place.with_name(f".{place.name}.{os.getpid()}.tmp")
  total, writer = 0, None
  try:
    for index, rows in book.scan():
      shard = every[index]
      keep = np.ones(len(rows), bool)
      if sweep.setting(shard.item, "nan") != "keep":
        keep = rows.status == shards.Status.OK
      numbers = np.arange(shard.start, shard.stop)[keep]
      rows = rows.take(keep)
      values = pa.array(rows.values.astype(np.float64).ravel())
      ends = np.arange(len(rows) + 1, dtype=np.int32) * rows.num_targets
      table = pa.table(
        {
          "item": np.full(len(rows), shard.item, np.int64),
          "row": numbers,
          "n": np.full(len(rows), rows.n, np.int32),
          "mask": pa.array([bytes(row) for row in rows.packed], pa.binary()),
          "status": rows.status,
          "value": pa.ListArray.from_arrays(pa.array(ends), values),
          "settings": pa.array(
            [json.dumps(sweep.items[shard.item], sort_keys=True)] * len(rows),
            pa.string(),
          ),
        }
      )
      if writer is None:
        writer = pq.ParquetWriter(
          temporary, table.schema, compression="zstd", write_page_checksum=True
        )
      writer.write_table(table)
      total += len(rows)
    if writer is None:
      raise ValueError(f"{workdir} has no shard yet: nothing to export.")
    writer.close()
    with temporary.open("rb") as file:
      os.fsync(file.fileno())
    temporary.replace(place)
  finally:
    temporary.unlink(missing_ok=True)
  return total


def samples(
  workdir: str | os.PathLike, item: int
) -> tuple[np.ndarray, np.ndarray]:
  """The sound rows of one item: masks bool `[R, n]`, values float64 `[R, T]`.

  What `spex_jax.decode` takes.

  Raises:
    ValueError: no sweep, no such item, or none of its rows.
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
  workdir: str | os.PathLike, *, older_than: float = 3600.0
) -> list[str]:
  """Removes what killed writers left, and what is in quarantine.

  Args:
    workdir: of the sweep.
    older_than: seconds; younger files may belong to a writer at work.

  Returns:
    The names that were removed.

  Raises:
    ValueError: no sweep.
  """
  book, _ = run.opened(workdir)
  path = pathlib.Path(workdir)
  limit = time.time() - older_than
  found = [*path.rglob(".*.tmp"), *path.rglob(".*.draft")]
  found += (path / "quarantine").glob("*")
  published = set(book.indices())
  found += (  # Rows whose manifest was never written.
    place
    for place in (path / "shards").glob("*.parquet")
    if int(place.stem) not in published
  )
  removed = []
  for place in found:
    if place.is_file() and place.stat().st_mtime < limit:
      place.unlink()
      removed.append(str(place.relative_to(path)))
  return sorted(removed)


def _entries(path: pathlib.Path) -> tuple[list[dict[str, Any]], int]:
  """Lines of published shards of all logs, and how many logs there are."""
  entries, count = [], 0
  for place in sorted((path / "log").glob("*.jsonl")):
    count += 1
    for line in place.read_text(errors="replace").splitlines():
      try:
        entry = json.loads(line)
      except json.JSONDecodeError:
        continue  # Cut off by a kill.
      if isinstance(entry, dict) and entry.get("event") in ("shard", "twice"):
        entries.append(entry)
  return entries, count
