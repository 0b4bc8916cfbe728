"""A process's own lines of JSON: times, hosts, rates. No value depends on them.

`log/HOST.PID.TOKEN/metrics.jsonl`, in parts on an object store. The folder has
one writer, and may hold the events of TensorBoard, too. Each line ends with a
checksum of its own; one that a kill cut off is skipped.
"""

import dataclasses
import json
import os
import secrets
import socket
import time
import zlib
from collections.abc import Callable
from typing import Any

from absl import logging

from spex_jax.store import folders

FOLDER = "log"


def of_process() -> str:
  """The folder of this process's log; of no other, whoever has its number."""
  token = secrets.token_hex(3)
  return f"{FOLDER}/{socket.gethostname()}.{os.getpid()}.{token}"


class Writer:
  """Appends lines to one log."""

  def __init__(self, folder: folders.Folder, name: str):
    """Begins `name/metrics.jsonl`."""
    self._log = folder.log(f"{name}/metrics.jsonl")
    self._host, self._told = socket.gethostname(), False

  def __call__(self, **entry: Any) -> None:
    """Writes a line, with the time and the host."""
    body = {"time": time.time(), "host": self._host} | entry
    self._try(lambda: self._log.write(_line(body)))

  def close(self) -> None:
    """Ends the log."""
    self._try(self._log.close)

  def _try(self, do: Callable[[], None]) -> None:
    """A log that cannot be written ends no run: no value depends on it."""
    try:
      do()
    except Exception as error:
      if not self._told:
        logging.warning("The log cannot be written: %s", error)
      self._told = True


@dataclasses.dataclass(frozen=True)
class Lines:
  """What the logs of all processes tell.

  Attributes:
    entries: the entries of all logs, by time.
    processes: how many processes wrote a log.
    damaged: lines that their checksum contradicts, by the name of the log.
  """

  entries: list[dict[str, Any]]
  processes: int
  damaged: dict[str, int]


def read(folder: folders.Folder) -> Lines:
  """Every line of every log."""
  names = sorted(
    f"{FOLDER}/{name}"
    for name in folder.names(FOLDER, deep=True)
    if name.endswith(".jsonl")
  )
  entries: list[dict[str, Any]] = []
  damaged: dict[str, int] = {}
  for name, data in folder.read_all(names).items():
    *lines, last = data.split(b"\n")
    # The last is empty, or was cut off by a kill; but one that is whole, and
    # does not end as a line does, was not.
    if _entry(last) is not None or (last and _entry(last[:-1]) is not None):
      lines.append(last)
    for line in lines:
      entry = _entry(line)
      if entry is None:
        damaged[name] = damaged.get(name, 0) + 1
      else:
        entries.append(entry)
  entries.sort(key=lambda entry: entry["time"])
  writers = {name.rpartition("/")[0] for name in names}
  return Lines(entries, len(writers), damaged)


def _line(body: dict[str, Any]) -> bytes:
  text = json.dumps(body)
  return f'{text[:-1]}, "crc32": "{_sum(text)}"}}\n'.encode()


def _entry(line: bytes) -> dict[str, Any] | None:
  """What a line says; None if it is damaged, or lacks what its kind has."""
  text, comma, told = line.decode(errors="replace").rpartition(', "crc32": ')
  if not comma or told != f'"{_sum(text + "}")}"}}':
    return None
  try:
    body = json.loads(text + "}")
  except (ValueError, RecursionError):
    return None
  needed = _NEEDED | _NEEDED_BY.get(str(body.get("event")), {})
  for name, kinds in needed.items():
    if not isinstance(body.get(name), kinds) or body[name] is True:
      return None
  causes = body.get("causes", {})
  if not isinstance(causes, dict) or not all(
    isinstance(number, int) for number in causes.values()
  ):
    return None
  return body


_NUMBER = (int, float)
_NEEDED: dict[str, Any] = {"time": _NUMBER, "event": str}
_EVALUATED: dict[str, Any] = {"shard": int, "seconds": _NUMBER}
_PUBLISHED = _EVALUATED | {"rows": int, "marked": int}
_NEEDED_BY: dict[str, dict[str, Any]] = {
  "failed": _EVALUATED,
  "shard": _PUBLISHED,
  "twice": _PUBLISHED,
  "followed": _PUBLISHED,
}


def _sum(text: str) -> str:
  return f"{zlib.crc32(text.encode()):08x}"
