"""Failed attempts of shards: a file for each, with its cause.

`failures/00000007.0002.json` is the second of shard 7.
"""

import pathlib
import socket
import time

from spex_jax import base
from spex_jax.sweeps import grid


def write(path: pathlib.Path, index: int, attempt: int, cause: str) -> None:
  """Notes an attempt of a shard, numbered from 1."""
  base.write_json(
    path / "failures" / f"{index:08d}.{attempt:04d}.json",
    {"cause": cause, "host": socket.gethostname(), "time": time.time()},
  )


def attempts(
  path: pathlib.Path, index: int | None = None
) -> list[tuple[int, str]]:
  """Failed attempts of a shard, or of all: shard and cause, oldest first."""
  pattern = "*.json" if index is None else f"{index:08d}.*.json"
  found = []
  for place in sorted((path / "failures").glob(pattern)):
    try:
      cause = str(base.read_json(place, must_have_checksum=True)["cause"])
    except (ValueError, KeyError):
      cause = "a cause that is damaged on the disk"
    found.append((int(place.name.partition(".")[0]), cause))
  return found


def by_shard(path: pathlib.Path) -> dict[int, list[str]]:
  """The causes of every shard that ever failed, oldest first."""
  causes: dict[int, list[str]] = {}
  for index, cause in attempts(path):
    causes.setdefault(index, []).append(cause)
  return causes


def given_up(
  path: pathlib.Path, sweep: grid.Sweep, done: set[int]
) -> dict[int, str]:
  """Shards that failed as often as they may, with the last cause."""
  allowed = sweep.config["retries"] + 1
  return {
    index: causes[-1]
    for index, causes in by_shard(path).items()
    if index not in done and len(causes) >= allowed
  }
