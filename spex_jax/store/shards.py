"""One shard: rows of masks and values as the bytes of a Parquet file.

Columns: `mask`, the packed mask in `ceil(n / 8)` bytes (`masks.packing`);
`seed`, int32; `status`, uint8; `value`, T numbers of one dtype. Pages carry
checksums, and are compressed by zstd. The same rows give the same bytes, with
the same release of pyarrow. What may differ between two runs of the same work
(hosts, times, attempts) has no place in a shard.

Shapes: R rows, n players, W = ceil(n / 8) bytes, T targets.
"""

import dataclasses
import enum
import io
from typing import Any

import numpy as np

from spex_jax import base
from spex_jax.masks import packing

SCHEMA = 1  # Of this layout; a file of another one is refused.
_KEY = b"spex_jax"


class DamagedError(ValueError):
  """A file that its checksum, its pages or its shape contradict."""


class UnreadableError(RuntimeError):
  """A sound file that this machine cannot read: it lacks a codec, say."""


class Status(enum.IntEnum):
  """How a row ended. Only the values of `OK` rows are values."""

  OK = 0
  DIVERGED = 1  # Training or output was not finite.
  FAILED = 2  # A user's function raised, or gave no number.


@dataclasses.dataclass(frozen=True)
class Rows:
  """Masks and what they were worth.

  Attributes:
    n: number of players.
    packed: uint8 `[R, W]`, the masks as bits, see `masks.packing`.
    seeds: int32 `[R]`, the index of the seed.
    status: uint8 `[R]`, a `Status`.
    values: float32 or float64 `[R, T]`; NaN in rows that are not OK.
  """

  n: int
  packed: np.ndarray
  seeds: np.ndarray
  status: np.ndarray
  values: np.ndarray

  def __post_init__(self):
    rows = len(self.packed)
    if (
      self.packed.shape != (rows, packing.num_bytes(self.n))
      or self.packed.dtype != np.uint8
    ):
      raise ValueError(
        f"Packed masks of {self.n} players must be uint8 "
        f"[R, {packing.num_bytes(self.n)}]; got {self.packed.dtype} "
        f"{self.packed.shape}."
      )
    if self.values.ndim != 2 or len(self.values) != rows:
      raise ValueError(
        f"Values must be [{rows}, T], a row per mask; got {self.values.shape}."
      )
    if self.values.dtype not in (np.float32, np.float64):
      raise TypeError(f"Values must be floats; got {self.values.dtype}.")
    for name, dtype in (("seeds", np.int32), ("status", np.uint8)):
      column = getattr(self, name)
      if column.shape != (rows,) or column.dtype != dtype:
        raise ValueError(
          f"{name} must be {np.dtype(dtype)} [{rows}]; got {column.dtype} "
          f"{column.shape}."
        )
    ok = self.status == Status.OK
    if not np.isfinite(self.values[ok]).all():
      raise ValueError("A row with NaN or infinity cannot have the status OK.")
    if not np.isnan(self.values[~ok]).all():
      raise ValueError("Rows that are not OK must hold NaN and nothing else.")

  def __len__(self) -> int:
    return len(self.packed)

  @property
  def num_targets(self) -> int:
    """T."""
    return self.values.shape[1]

  def masks(self) -> np.ndarray:
    """bool `[R, n]`."""
    return packing.unpack(self.packed, self.n)

  def take(self, rows: Any) -> "Rows":
    """The rows that a slice, indices or booleans name."""
    parts = (self.packed, self.seeds, self.status, self.values)
    return Rows(self.n, *(part[rows] for part in parts))

  def counts(self) -> dict[str, int]:
    """How many rows have each status, by its name in small letters."""
    number = np.bincount(self.status, minlength=len(Status))
    return {status.name.lower(): int(number[status]) for status in Status}


def rows_of(
  masks: base.Masks,
  values: base.Array,
  *,
  seeds: base.Array | int = 0,
  status: base.Array | None = None,
  dtype: Any = np.float64,
) -> Rows:
  """Rows of bool `[R, n]` masks and `[R]` or `[R, T]` values.

  Args:
    masks: bool `[R, n]`, True for players that are kept.
    values: real `[R]` or `[R, T]`; stored as NaN in rows that are not OK.
    seeds: int `[R]`, or one for all.
    status: `Status` `[R]`; None for OK where all values are finite, and
      DIVERGED elsewhere.
    dtype: float32 or float64, of the stored values.
  """
  masks = base.check_masks(masks)
  values = np.asarray(values)
  values = values.reshape(len(values), -1).astype(dtype)
  if status is None:
    finite = np.isfinite(values).all(axis=1)
    status = np.where(finite, Status.OK, Status.DIVERGED)
  status = np.asarray(status).astype(np.uint8)
  values[status != Status.OK] = np.nan
  seeds = np.broadcast_to(np.asarray(seeds, np.int32), (len(masks),))
  packed = packing.pack(masks)
  return Rows(masks.shape[1], packed, np.array(seeds), status, values)


def concatenate(parts: "list[Rows]") -> Rows:
  """All rows of `parts`, at least one, in order."""
  fields = ("packed", "seeds", "status", "values")
  columns = (
    np.concatenate([getattr(p, name) for p in parts]) for name in fields
  )
  return Rows(parts[0].n, *columns)


def to_bytes(rows: Rows) -> bytes:
  """The file of a shard."""
  import pyarrow as pa  # Slow to import.
  import pyarrow.parquet as pq

  count, width = rows.packed.shape
  values = pa.array(np.ascontiguousarray(rows.values).ravel())
  columns = {
    "mask": pa.FixedSizeBinaryArray.from_buffers(
      pa.binary(width),
      count,
      [None, pa.py_buffer(np.ascontiguousarray(rows.packed).tobytes())],
    ),
    "seed": pa.array(rows.seeds),
    "status": pa.array(rows.status),
    "value": pa.FixedSizeListArray.from_arrays(values, rows.num_targets),
  }
  facts = f"{SCHEMA} {rows.n}".encode()
  table = pa.table(columns).replace_schema_metadata({_KEY: facts})
  sink = io.BytesIO()
  pq.write_table(
    table,
    sink,
    compression="zstd",
    write_page_checksum=True,
    # Masks and values hardly ever repeat: a dictionary would only cost time.
    use_dictionary=False,
    row_group_size=max(1, count),
  )
  return sink.getvalue()


def from_bytes(data: bytes) -> Rows:
  """The rows of a shard's file, every page checked.

  Raises:
    DamagedError: no Parquet file, a page that its checksum contradicts, or
      columns of another layout.
    MemoryError, ImportError: of this machine, which tell nothing of the file.
  """
  import pyarrow as pa  # Slow to import.
  import pyarrow.parquet as pq

  try:
    table = pq.read_table(
      pa.BufferReader(data), page_checksum_verification=True
    )
    schema, n = map(int, (table.schema.metadata or {})[_KEY].split())
    if schema != SCHEMA:
      raise DamagedError(f"layout {schema}, where {SCHEMA} is read")
    mask = table.column("mask").combine_chunks()
    value = table.column("value").combine_chunks()
    count, width = len(table), mask.type.byte_width
    buffer = mask.buffers()[1]
    packed = np.frombuffer(buffer, np.uint8, count * width, mask.offset * width)
    flat = value.flatten().to_numpy(zero_copy_only=False)
    return Rows(
      n,
      packed.reshape(count, width).copy(),
      table.column("seed").to_numpy().astype(np.int32, copy=False),
      table.column("status").to_numpy().astype(np.uint8, copy=False),
      flat.reshape(count, value.type.list_size).copy(),
    )
  except (DamagedError, MemoryError, ImportError):
    raise
  except Exception as error:  # pyarrow has many, and damage can be anywhere.
    first = (str(error).splitlines() or [""])[0]
    raise DamagedError(f"{type(error).__name__}: {first}") from error
