"""Failed attempts of shards: a file for each, with its cause.

`failures/00000007.0002.json` is the second of shard 7. The highest number
counts: a shard of an item that cannot be built is given up by one file.
"""

import dataclasses
import re
import socket
import time
from collections.abc import Callable, Iterable

from spex_jax import base
from spex_jax.store import folders
from spex_jax.sweeps import grid

FOLDER = "failures"
_FILE = re.compile(r"(\d{8,})\.(\d{4,})\.json")


def write(folder: folders.Folder, index: int, attempt: int, cause: str) -> None:
  """Notes an attempt of a shard, numbered from 1."""
  body = {"cause": cause, "host": socket.gethostname(), "time": time.time()}
  folder.create(_name(index, attempt), base.to_json(body))


def forget(folder: folders.Folder, index: int, attempts: int) -> None:
  """Removes what is known of a shard's failures, since it is published.

  Its log keeps them.
  """
  for attempt in range(1, attempts + 1):
    folder.remove(_name(index, attempt))


@dataclasses.dataclass(frozen=True)
class Attempts:
  """Of one shard.

  Attributes:
    number: how many attempts failed, at least 1.
    cause: the cause of the last of them, in words.
  """

  number: int
  cause: str


def by_shard(folder: folders.Folder) -> dict[int, Attempts]:
  """The attempts of every shard that ever failed."""
  found: dict[int, Attempts] = {}
  for (shard, number), cause in sorted(_read(folder).items()):
    found[shard] = Attempts(
      number, cause or "a cause that is damaged on the disk"
    )
  return found


def damaged(folder: folders.Folder) -> list[str]:
  """Names of files whose contents contradict their checksum."""
  read = _read(folder).items()
  return [_name(*key) for key, cause in read if cause is None]


def given_up(
  folder: folders.Folder,
  sweep: grid.Sweep,
  published: Callable[[Iterable[int]], set[int]],
) -> dict[int, str]:
  """Shards that failed as often as they may, with the last cause.

  Args:
    folder: the folder of the sweep.
    sweep: the sweep, whose `retries` says how often a shard may fail.
    published: which of a few shards are there all the same.
  """
  allowed = sweep.config["retries"] + 1
  lost = {
    index: attempts.cause
    for index, attempts in by_shard(folder).items()
    if attempts.number >= allowed
  }
  there = published(lost) if lost else set()
  return {index: cause for index, cause in lost.items() if index not in there}


def _name(index: int, attempt: int) -> str:
  return f"{FOLDER}/{index:08d}.{attempt:04d}.json"


def _read(folder: folders.Folder) -> dict[tuple[int, int], str | None]:
  """Causes by shard and attempt; None where one is damaged."""
  matches = (_FILE.fullmatch(name) for name in folder.names(FOLDER))
  keys = {f"{FOLDER}/{m[0]}": (int(m[1]), int(m[2])) for m in matches if m}
  found: dict[tuple[int, int], str | None] = {}
  for name, data in folder.read_all(keys).items():
    try:
      body = base.from_json(data, name, must_have_checksum=True)
      cause = body["cause"]
      found[keys[name]] = cause if isinstance(cause, str) else None
    except (ValueError, KeyError):
      found[keys[name]] = None
  return found
