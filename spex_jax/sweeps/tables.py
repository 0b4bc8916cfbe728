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
from typing import Any

import numpy as np

from spex_jax import base
from spex_jax.store import shards
from spex_jax.sweeps import grid, run, state


def batches(workdir: state.Workdir) -> Any:
  """A `pyarrow.RecordBatchReader`, which holds one shard at a time.

  Damaged shards are put aside and left out.

  Raises:
    ValueError: no sweep, or none of its shards is there.
  """
  import pyarrow as pa  # Slow to import.

  book, sweep = run.opened(workdir)
  if not book.indices():
    raise ValueError(f"{workdir} has no shard yet: nothing to export.")
  every = sweep.shards()
  schema = pa.schema(
    [
      ("item", pa.int64()), ("row", pa.int64()), ("n", pa.int32()),
      ("mask", pa.binary()), ("status", pa.uint8()),
      ("value", pa.list_(pa.float64())), ("settings", pa.string()),
    ]
  )  # fmt: skip
  made = (
    _batch(sweep, every[index], rows)
    for index, rows in book.scan()
    if index < len(every)
  )
  return pa.RecordBatchReader.from_batches(
    schema, (batch.cast(schema) for batch in made)
  )


def export(workdir: state.Workdir, path: str | os.PathLike) -> int:
  """All rows as one Parquet file, shard by shard; returns how many.

  Beside it, `PATH.sha256` is what `sha256sum --check` reads.

  Raises:
    ValueError: no sweep, none of its shards is there, or the path of a folder
      that is not there.
    OSError: no room; no file is left.
  """
  import pyarrow.parquet as pq  # Slow to import.

  place = pathlib.Path(path)
  if not place.parent.is_dir():
    raise ValueError(f"{place.parent} is no folder; {place.name} needs one.")
  temporary = base.draft(place)
  reader, total = batches(workdir), 0
  try:
    with pq.ParquetWriter(
      temporary, reader.schema, compression="zstd", write_page_checksum=True
    ) as writer:
      for batch in reader:
        writer.write_batch(batch)
        total += len(batch)
    with temporary.open("rb") as file:
      os.fsync(file.fileno())
      told = hashlib.file_digest(file, "sha256").hexdigest()
    temporary.replace(place)
    place.with_name(f"{place.name}.sha256").write_text(
      f"{told}  {place.name}\n"
    )
  finally:
    temporary.unlink(missing_ok=True)
  return total


def frame(workdir: state.Workdir) -> Any:
  """All rows as a `pandas.DataFrame`.

  Raises:
    ImportError: no pandas.
    ValueError: as `batches`.
  """
  try:
    import pandas  # noqa: F401
  except ImportError:
    raise ImportError(
      "A DataFrame needs pandas (pip install pandas)."
    ) from None
  return batches(workdir).read_pandas()


def query(workdir: state.Workdir, sql: str) -> Any:
  """What DuckDB answers to `sql`, a `pyarrow.Table`; the table is `sweep`.

  Raises:
    ImportError: no DuckDB.
    ValueError: as `batches`, and what DuckDB says of the query.
  """
  try:
    import duckdb
  except ImportError:
    raise ImportError(
      "SQL over a sweep needs DuckDB (pip install duckdb)."
    ) from None
  reader = batches(workdir)
  with (
    tempfile.TemporaryDirectory() as place,  # Rows need not fit into memory.
    duckdb.connect(f"{place}/rows.duckdb") as database,
  ):
    database.register("_rows", reader)
    # Kept, since a query may look at rows twice.
    database.execute("create table sweep as select * from _rows")
    database.unregister("_rows")
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
