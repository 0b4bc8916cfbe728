"""A sweep's rows for others: one Parquet file, pandas, DuckDB's SQL.

Columns: `item` and `row` int64, `n` int32, `mask` binary (`masks.packing`),
`status` uint8, `value` a list of float64 for each target, and `settings`, what
the item has in place of the configuration's, as JSON. Rows without a value are
left out, unless `nan` is "keep".
"""

import hashlib
import json
import os
import pathlib
import tempfile
from collections.abc import Iterator
from typing import Any

import numpy as np

from spex_jax import base
from spex_jax.store import folders, shards
from spex_jax.sweeps import grid, run, state


class PartialError(ValueError):
  """Some of a sweep's shards cannot be read."""


def batches(workdir: state.Workdir) -> Any:
  """A `pyarrow.RecordBatchReader`, which holds one shard at a time.

  Damaged shards are put aside and left out.

  Raises:
    ValueError: no sweep, or none of its shards is there.
  """
  return _Reading(workdir).reader


class _Reading:
  """A reader of all shards, and what it could not read."""

  def __init__(self, workdir: state.Workdir):
    import pyarrow as pa  # Slow to import.

    self._book, self._sweep = run.opened(workdir)
    self._read = 0
    if not self._book.indices():
      raise ValueError(f"{workdir} has no shard yet: nothing to export.")
    schema = pa.schema(
      [
        ("item", pa.int64()), ("row", pa.int64()), ("n", pa.int32()),
        ("mask", pa.binary()), ("status", pa.uint8()),
        ("value", pa.list_(pa.float64())), ("settings", pa.string()),
      ]
    )  # fmt: skip
    self.reader = pa.RecordBatchReader.from_batches(
      schema, (batch.cast(schema) for batch in self._batches())
    )

  def _batches(self) -> Iterator[Any]:
    for index, rows in self._book.scan():
      if index < self._sweep.num_shards:
        self._read += 1
        yield _batch(self._sweep, self._sweep.shard(index), rows)

  def check_whole(self) -> None:
    """After all was read.

    Raises:
      PartialError: shards were missing, or damaged.
    """
    missing = self._sweep.num_shards - self._read
    if missing:
      damaged = len(self._book.quarantined)
      raise PartialError(
        f"{missing} of {self._sweep.num_shards} shards are missing"
        + (f", {damaged} of them damaged and put aside" * bool(damaged))
        + "; nothing is exported. `spex sweep run` makes them; or export the "
        "others as a part (--partial)."
      )


def export(
  workdir: state.Workdir, path: str | os.PathLike, *, partial: bool = False
) -> int:
  """All rows as one Parquet file, shard by shard; returns how many.

  Beside it, `PATH.sha256` is what `sha256sum --check` reads.

  Args:
    workdir: the directory of the sweep.
    path: the path of the file.
    partial: whether shards may be missing or damaged, and are left out.

  Raises:
    PartialError: they are, or are damaged; an older file stays.
    ValueError: no sweep, none of its shards is there, a path in a folder that
      is not there or is the sweep's own, or at which something other than a
      file is: a folder, a link, a device, a pipe.
    OSError: no room; no file is left.
  """
  import pyarrow.parquet as pq  # Slow to import.

  place = pathlib.Path(path)
  if not place.parent.is_dir():
    raise ValueError(f"{place.parent} is no folder; {place.name} needs one.")
  base.check_replaceable(place)
  told_at = place.with_name(f"{place.name}.sha256")
  base.check_replaceable(told_at)
  _check_apart(workdir, place)
  temporary = base.draft(place)
  reading, total = _Reading(workdir), 0
  try:
    with pq.ParquetWriter(
      temporary,
      reading.reader.schema,
      compression="zstd",
      write_page_checksum=True,
    ) as writer:
      for batch in reading.reader:
        writer.write_batch(batch)
        total += len(batch)
    if not partial:
      reading.check_whole()
    with temporary.open("rb") as file:
      os.fsync(file.fileno())
      told = hashlib.file_digest(file, "sha256").hexdigest()
    # One whose sum is that of an older file is found wrong, not right.
    temporary.replace(place)
    temporary.write_text(f"{told}  {place.name}\n")
    temporary.replace(told_at)
  finally:
    temporary.unlink(missing_ok=True)
  return total


def _check_apart(workdir: state.Workdir, place: pathlib.Path) -> None:
  """Refuses a path among the files of the sweep itself."""
  folder = folders.opened(workdir)
  if not isinstance(folder, folders.Directory):
    return
  within = place.resolve()
  if within.is_relative_to(folder.path.resolve()):
    name = within.relative_to(folder.path.resolve()).as_posix()
    if "/" in name or name in run.FILES:
      raise ValueError(
        f"{place} is among the sweep's own files: choose another place."
      )


def frame(workdir: state.Workdir, *, partial: bool = False) -> Any:
  """All rows as a `pandas.DataFrame`; `mask` is text, as `0110`: 1 is kept.

  Args:
    workdir: the directory of the sweep.
    partial: whether shards may be missing or damaged, and are left out.

  Raises:
    PartialError: they are, or are damaged.
    ImportError: no pandas.
    ValueError: as `batches`.
  """
  try:
    import pandas  # noqa: F401
  except ImportError:
    raise ImportError(
      "A DataFrame needs pandas (pip install pandas)."
    ) from None
  reading = _Reading(workdir)
  found = reading.reader.read_pandas()
  if not partial:
    reading.check_whole()
  found["mask"] = [
    "".join("01"[bit] for bit in np.unpackbits(np.frombuffer(m, np.uint8))[:n])
    for m, n in zip(found["mask"], found["n"])
  ]
  return found


def query(workdir: state.Workdir, sql: str, *, partial: bool = False) -> Any:
  """What DuckDB answers to `sql`, a `pyarrow.Table`; the table is `sweep`.

  Args:
    workdir: the directory of the sweep.
    sql: a query.
    partial: whether shards may be missing or damaged, and are left out.

  Raises:
    PartialError: they are, or are damaged.
    ImportError: no DuckDB.
    ValueError: as `batches`, and what DuckDB says of the query.
  """
  try:
    import duckdb
  except ImportError:
    raise ImportError(
      "SQL over a sweep needs DuckDB (pip install duckdb)."
    ) from None
  reading = _Reading(workdir)
  with (
    tempfile.TemporaryDirectory() as place,  # Rows need not fit into memory.
    duckdb.connect(f"{place}/rows.duckdb") as database,
  ):
    database.register("_rows", reading.reader)
    # Kept, since a query may look at rows twice.
    database.execute("create table sweep as select * from _rows")
    database.unregister("_rows")
    if not partial:
      reading.check_whole()
    try:
      found = database.sql(sql)
      if found is None:
        raise ValueError(f"sql={sql!r} answers nothing: begin with select.")
      return found.to_arrow_table()
    except duckdb.Error as error:
      raise ValueError(f"sql={sql!r}: {error}") from error


def _batch(sweep: grid.Sweep, shard: grid.Shard, rows: shards.Rows) -> Any:
  import pyarrow as pa

  keep = np.ones(len(rows), bool)
  if sweep.setting(shard.item, "nan") != "keep":
    keep = rows.status == shards.Status.OK
  numbers = np.arange(shard.start, shard.start + len(keep))[keep]
  rows = rows.take(keep)
  values = pa.array(rows.values.astype(np.float64).ravel())
  ends = np.arange(len(rows) + 1, dtype=np.int32) * rows.num_targets
  settings = json.dumps(sweep.items[shard.item], sort_keys=True)
  return pa.record_batch(
    {
      "item": pa.array(np.full(len(rows), shard.item, np.int64)),
      "row": pa.array(numbers),
      "n": pa.array(np.full(len(rows), rows.n, np.int32)),
      "mask": pa.array([bytes(row) for row in rows.packed], pa.binary()),
      "status": pa.array(rows.status),
      "value": pa.ListArray.from_arrays(pa.array(ends), values),
      "settings": pa.array([settings] * len(rows), pa.string()),
    }
  )
