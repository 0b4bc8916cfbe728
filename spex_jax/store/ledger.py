"""A directory of shards that survives anything: the ledger of a run.

  config.json            what all values depend on, and its SHA-256
  shards/00000007.parquet    the rows of shard 7; never changed
  shards/00000007.json       its manifest: SHA-256, rows, counts; published last
  quarantine/                what was damaged

A file is written under another name, fsynced, and linked to its own: the first
writer wins, and a name stands for whole contents. A shard without a manifest
does not exist yet. Reading checks the bytes against the manifest, then every
page. A shard that fails is moved to `quarantine/` with a reason and counts as
absent, so that it, and nothing else, is made again.

One flipped bit in a zstd page was read back silently in 299 of 300 trials
without these checks.
"""

import contextlib
import dataclasses
import hashlib
import json
import os
import pathlib
from collections.abc import Iterator, Mapping
from typing import Any

from absl import logging

from spex_jax import base
from spex_jax.store import shards

DamagedError = shards.DamagedError
Rows = shards.Rows
_CONFIG = "config.json"


class OtherConfigError(ValueError):
  """A directory that belongs to another configuration."""


@dataclasses.dataclass(frozen=True)
class Quarantined:
  """A shard that was found damaged.

  Attributes:
    index: of the shard.
    reason: what was wrong.
    rows: that its manifest announced; None if that is what is damaged.
  """

  index: int
  reason: str
  rows: int | None


class Ledger:
  """Shards by index, in one directory, of one configuration."""

  def __init__(self, path: str | os.PathLike, config: Mapping[str, Any]):
    """Opens a directory, or starts one.

    Args:
      path: a directory of the same configuration, or one that is empty or
        does not exist yet.
      config: what the values depend on, as JSON.

    Raises:
      OtherConfigError: the directory has another configuration; the message
        names the keys that differ.
      DamagedError: a `config.json` that its checksum contradicts.
      ValueError: a directory that holds something else, or a configuration
        that is no JSON.
      OSError: no room or no permission.
    """
    self.path = pathlib.Path(path)
    self.config = _as_json(config)
    self.hash = config_hash(self.config)
    self.quarantined: list[Quarantined] = []
    self._shards = self.path / "shards"
    place = self.path / _CONFIG
    if not place.exists():
      if self.path.exists() and not self.path.is_dir():
        raise ValueError(f"{self.path} is a file; give a directory.")
      if self.path.is_dir() and any(
        not entry.name.startswith(".") for entry in self.path.iterdir()
      ):
        raise ValueError(
          f"{self.path} holds files, but no {_CONFIG}: it is no ledger of "
          "ours. Choose an empty or new directory."
        )
      self.path.mkdir(parents=True, exist_ok=True)
      _publish_json(place, {"config": self.config, "hash": self.hash})
    _check_same(place, self.config)
    self._shards.mkdir(exist_ok=True)

  def indices(self) -> list[int]:
    """The shards that are published, ascending; none of them read yet."""
    names = (entry.name for entry in os.scandir(self._shards))
    manifests = (name for name in names if name.endswith(".json"))
    return sorted(int(name[:-5]) for name in manifests if name[:-5].isdigit())

  def manifest(self, index: int) -> dict[str, Any]:
    """What is known of a shard without reading it.

    Raises:
      KeyError: no such shard.
      DamagedError: a manifest that its checksum contradicts, or of another
        configuration.
    """
    place = self._place(index, "json")
    try:
      body = base.read_json(place, must_have_checksum=True)
    except FileNotFoundError:
      raise KeyError(f"{self.path} has no shard {index}.") from None
    except ValueError as error:
      raise DamagedError(str(error)) from error
    if body.get("config") != self.hash:
      raise DamagedError(f"{place} is of another configuration.")
    return body

  def check(self, index: int) -> None:
    """Reads the manifest of a shard, and the size of its file.

    Raises:
      KeyError: no such shard.
      DamagedError: a damaged manifest, or a file that is missing or of another
        size.
    """
    manifest, place = self.manifest(index), self._place(index, "parquet")
    try:
      size = place.stat().st_size
    except FileNotFoundError:
      raise DamagedError(f"{place} is missing.") from None
    if size != manifest.get("bytes"):
      raise DamagedError(
        f"{place} has {size} of {manifest.get('bytes')} bytes."
      )

  def read(self, index: int) -> Rows:
    """The rows of a shard, after checking every byte.

    Raises:
      KeyError: no such shard.
      DamagedError: bytes or a page that a checksum contradicts.
    """
    manifest = self.manifest(index)
    place = self._place(index, "parquet")
    try:
      data = place.read_bytes()
    except FileNotFoundError:
      raise DamagedError(f"{place} is missing.") from None
    if hashlib.sha256(data).hexdigest() != manifest["file_sha256"]:
      raise DamagedError(
        f"{place} contradicts its SHA-256 ({len(data)} of "
        f"{manifest['bytes']} bytes)."
      )
    rows = shards.from_bytes(data)
    if len(rows) != manifest["rows"]:
      raise DamagedError(f"{place} holds {len(rows)} rows.")
    return rows

  def scan(self) -> Iterator[tuple[int, Rows]]:
    """Every sound shard, ascending; damaged ones go to quarantine."""
    for index in self.indices():
      try:
        yield index, self.read(index)
      except DamagedError as error:
        self.quarantine(index, str(error))

  def verify(self) -> int:
    """Reads everything; returns how many shards are sound.

    `quarantined` tells of the others.
    """
    return sum(1 for _ in self.scan())

  def quarantine(self, index: int, reason: str) -> None:
    """Puts a shard aside, so that it can be made again."""
    try:
      count = int(self.manifest(index)["rows"])
    except (KeyError, DamagedError):
      count = None
    folder = self.path / "quarantine"
    folder.mkdir(exist_ok=True)
    turn = sum(1 for _ in folder.glob(f"{index:08d}.*.txt"))
    # The manifest first: without it the shard does not exist.
    for suffix in ("json", "parquet"):
      with contextlib.suppress(FileNotFoundError):
        self._place(index, suffix).rename(
          folder / f"{index:08d}.{turn}.{suffix}"
        )
    (folder / f"{index:08d}.{turn}.txt").write_text(reason + "\n")
    base.sync(self._shards)
    self.quarantined.append(Quarantined(index, reason, count))
    logging.warning("Shard %d of %s: %s", index, self.path, reason)

  def write(
    self, index: int, rows: Rows, facts: Mapping[str, Any] | None = None
  ) -> bool:
    """Publishes a shard at its address; the first writer wins.

    Args:
      index: address, from 0.
      rows: its contents, at least one row.
      facts: further entries of the manifest, as JSON.

    Returns:
      False if the shard was published already, whatever it holds.

    Raises:
      ValueError: no rows.
      OSError: no room or no permission; nothing is published.
    """
    data = shards.to_bytes(_some(rows))
    if self._publish(index, rows, data, facts):
      return True
    if self._place(index, "json").exists():
      return False
    # Left by a writer that died before its manifest, and not the same.
    self.quarantine(index, "no manifest, and other contents than it should")
    return self._publish(index, rows, data, facts)

  def append(self, rows: Rows, facts: Mapping[str, Any] | None = None) -> int:
    """Publishes rows at the lowest free index, and returns that.

    Another process may append at the same time: no index is given twice.
    """
    data = shards.to_bytes(_some(rows))
    taken = set(self.indices())
    index = 0
    while True:
      if index not in taken and self._publish(index, rows, data, facts):
        return index
      index += 1

  def export(self) -> Any:
    """All sound rows as one `pyarrow.Table`, in order of shards.

    Columns as in `shards`; `to_pandas()` and DuckDB read it.
    """
    import pyarrow as pa  # Slow to import.
    import pyarrow.parquet as pq

    parts = [
      pq.read_table(pa.BufferReader(self._place(index, "parquet").read_bytes()))
      for index, _ in self.scan()
    ]
    if not parts:
      raise ValueError(f"{self.path} holds no shard yet.")
    return pa.concat_tables(parts)

  def _publish(self, index, rows, data, facts) -> bool:
    place = self._place(index, "parquet")
    if not _publish(place, data) and place.read_bytes() != data:
      return False
    body = {
      "schema": shards.SCHEMA,
      "config": self.hash,
      "file_sha256": hashlib.sha256(data).hexdigest(),
      "bytes": len(data),
      "rows": len(rows),
      "n": rows.n,
      "targets": rows.num_targets,
      "dtype": str(rows.values.dtype),
      "counts": rows.counts(),
      **(facts or {}),
    }
    return _publish_json(self._place(index, "json"), body)

  def _place(self, index: int, suffix: str) -> pathlib.Path:
    return self._shards / f"{index:08d}.{suffix}"


def config_hash(config: Mapping[str, Any]) -> str:
  """SHA-256 of a configuration, whatever the order of its keys."""
  text = json.dumps(_as_json(config), sort_keys=True, allow_nan=False)
  return hashlib.sha256(text.encode()).hexdigest()


def stored_config(path: str | os.PathLike) -> dict[str, Any] | None:
  """The configuration of a ledger; None where none has been started.

  Raises:
    DamagedError: it contradicts its checksum.
  """
  place = pathlib.Path(path) / _CONFIG
  try:
    return base.read_json(place, must_have_checksum=True)["config"]
  except FileNotFoundError:
    return None
  except (ValueError, KeyError) as error:
    raise DamagedError(f"{place} is damaged: {error}") from error


def differing(one: Any, other: Any, prefix: str = "") -> list[str]:
  """Dotted names of the keys in which two configurations differ."""
  if not (isinstance(one, dict) and isinstance(other, dict)):
    return [] if one == other else [prefix or "everything"]
  found = []
  for key in sorted(one.keys() | other.keys()):
    name = f"{prefix}.{key}" if prefix else key
    if key not in one or key not in other:
      found.append(name)
    else:
      found += differing(one[key], other[key], name)
  return found


def _check_same(place: pathlib.Path, config: dict[str, Any]) -> None:
  stored = stored_config(place.parent)
  if stored != config:
    names = differing(stored, config)
    verb = "differs" if len(names) == 1 else "differ"
    raise OtherConfigError(
      f"{place.parent} belongs to another configuration: {', '.join(names)} "
      f"{verb}. Use its settings, or choose another directory."
    )


def _as_json(config: Mapping[str, Any]) -> dict[str, Any]:
  try:
    return json.loads(json.dumps(dict(config), allow_nan=False))
  except (TypeError, ValueError) as error:
    raise ValueError(f"The configuration is no JSON: {error}.") from error


def _some(rows: Rows) -> Rows:
  if not len(rows):
    raise ValueError("A shard needs at least one row.")
  return rows


def _publish(place: pathlib.Path, data: bytes) -> bool:
  """Writes a file whole, or not at all; False if the name is taken."""
  temporary = place.with_name(f".{place.name}.{os.getpid()}.tmp")
  try:
    with temporary.open("wb") as file:
      file.write(data)
      file.flush()
      os.fsync(file.fileno())
    try:
      os.link(temporary, place)
    except FileExistsError:
      return False
    base.sync(place.parent)
    return True
  finally:
    temporary.unlink(missing_ok=True)


def _publish_json(place: pathlib.Path, body: dict[str, Any]) -> bool:
  """As `_publish`, of what `base.read_json` reads."""
  draft = place.with_name(f".{place.name}.{os.getpid()}.draft")
  try:
    base.write_json(draft, body)
    return _publish(place, draft.read_bytes())
  finally:
    draft.unlink(missing_ok=True)
