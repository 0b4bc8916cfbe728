"""Manifests of shards: their names, and what they must have to be believed.

A manifest that lacks an entry, or whose entries are of another kind, is
damaged like one that its checksum contradicts. The file that it names lies
beside it and has the shard's number: no other is read, moved or removed.
"""

import re
from collections.abc import Callable
from typing import Any

from spex_jax import base
from spex_jax.store import shards

SHARDS = "shards"
PER_FOLDER = 10_000
NAME = re.compile(r"(\d{8,})\.json")
ROWS = re.compile(r"(\d{8,})(?:\.[0-9a-f]{12})?\.parquet")
_SHA256 = re.compile(r"[0-9a-f]{64}")


class ForeignError(shards.DamagedError):
  """A sound manifest, of another configuration."""


def folder(index: int) -> str:
  """Where a shard lies."""
  block = index // PER_FOLDER
  return f"{SHARDS}/{block:04d}" if block else SHARDS


def name(index: int, suffix: str) -> str:
  """The file of a shard, "json" for its manifest, "parquet" for its rows."""
  return f"{folder(index)}/{index:08d}.{suffix}"


def described(rows: shards.Rows) -> dict[str, Any]:
  """What a manifest tells of rows."""
  return {
    "rows": len(rows),
    "n": rows.n,
    "targets": rows.num_targets,
    "dtype": str(rows.values.dtype),
    "counts": rows.counts(),
  }


def checked(
  data: bytes, place: str, index: int, config: str | None
) -> dict[str, Any]:
  """A manifest that can be believed.

  Args:
    data: the bytes of its file, JSON.
    place: the place of it, for messages.
    index: the address of the shard that it should be of, from 0.
    config: SHA-256 of the configuration; None for any.

  Raises:
    ForeignError: one of another configuration.
    DamagedError: one that its checksum contradicts, of another shard, or that
      lacks an entry.
  """
  try:
    body = base.from_json(data, place, must_have_checksum=True)
  except ValueError as error:
    raise shards.DamagedError(str(error)) from error
  if config not in (None, body.get("config")):
    raise ForeignError(f"{place} is of another configuration.")
  if body.get("shard") != index:
    raise shards.DamagedError(f"{place} is of shard {body.get('shard')}.")
  for key, fits in _FORM.items():
    if not fits(body.get(key)):
      raise shards.DamagedError(f"{place} is damaged: {key}={body.get(key)!r}.")
  match = ROWS.fullmatch(body["file"])
  if not match or int(match[1]) != index:  # A path, perhaps, to elsewhere.
    raise shards.DamagedError(f"{place} names the file {body['file']!r}.")
  return body


def _whole(value: Any) -> bool:
  return isinstance(value, int) and not isinstance(value, bool) and value >= 0


# What a manifest must have.
_FORM: dict[str, Callable[[Any], bool]] = {
  "schema": lambda value: value == shards.SCHEMA,
  "file": lambda value: isinstance(value, str),
  "file_sha256": lambda value: (
    isinstance(value, str) and _SHA256.fullmatch(value) is not None
  ),
  "bytes": _whole,
  "rows": _whole,
  "n": _whole,
  "targets": _whole,
  "dtype": lambda value: isinstance(value, str),
  "counts": lambda value: (
    isinstance(value, dict)
    and value.keys() == {status.name.lower() for status in shards.Status}
    and all(map(_whole, value.values()))
  ),
}
