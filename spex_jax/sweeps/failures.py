"""Failed attempts of shards: a file for each, with its cause.

`failures/00000007.0002.json` is the second of shard 7.
"""

import socket
import time

from spex_jax import base
from spex_jax.store import folders
from spex_jax.sweeps import grid

FOLDER = "failures"


def write(folder: folders.Folder, index: int, attempt: int, cause: str) -> None:
  """Notes an attempt of a shard, numbered from 1."""
  body = {"cause": cause, "host": socket.gethostname(), "time": time.time()}
  folder.create(f"{FOLDER}/{index:08d}.{attempt:04d}.json", base.to_json(body))


def by_shard(folder: folders.Folder) -> dict[int, list[str]]:
  """The causes of every shard that ever failed, oldest first."""
  causes: dict[int, list[str]] = {}
  for name, cause in _read(folder):
    index = int(name.removeprefix(f"{FOLDER}/").partition(".")[0])
    causes.setdefault(index, []).append(
      "a cause that is damaged on the disk" if cause is None else cause
    )
  return causes


def damaged(folder: folders.Folder) -> list[str]:
  """Names of files whose contents contradict their checksum."""
  return [name for name, cause in _read(folder) if cause is None]


def given_up(
  folder: folders.Folder, sweep: grid.Sweep, done: set[int]
) -> dict[int, str]:
  """Shards that failed as often as they may, with the last cause."""
  allowed = sweep.config["retries"] + 1
  return {
    index: causes[-1]
    for index, causes in by_shard(folder).items()
    if index not in done and len(causes) >= allowed
  }


def _read(folder: folders.Folder) -> list[tuple[str, str | None]]:
  """Names and causes by shard and attempt; None where one is damaged."""
  names = [
    f"{FOLDER}/{name}" for name in sorted(folder.sizes(FOLDER))
    if name.endswith(".json")
  ]  # fmt: skip
  found: list[tuple[str, str | None]] = []
  read = folder.read_all(names)
  for name in names:
    try:
      body = base.from_json(read[name], name, must_have_checksum=True)
      found.append((name, str(body["cause"])))
    except ValueError:
      found.append((name, None))
    except KeyError:  # Gone between the two looks, or no cause.
      found.append((name, None))
  return found
