"""Batch sizes that were measured before, in a file that users can see.

A measurement holds for one program, on one kind and number of devices; it is
found again by a fingerprint of the program. Deleting the file, or a line of it,
has them measured again.
"""

import contextlib
import json
import os
import pathlib
from typing import Any

NAME = "spex_batches.json"


def folder() -> pathlib.Path:
  """Of JAX's compiled programs, or `users`."""
  import jax  # Slow to import.

  own = jax.config.values.get("jax_compilation_cache_dir")
  return pathlib.Path(own) if own and "://" not in own else users()


def users() -> pathlib.Path:
  """The folder in the user's cache."""
  root = os.environ.get("XDG_CACHE_HOME") or pathlib.Path.home() / ".cache"
  return pathlib.Path(root) / "spex_jax"


def default() -> pathlib.Path:
  """The file in `folder`."""
  return folder() / NAME


def read(path: pathlib.Path, fingerprint: str) -> tuple[int, int] | None:
  """Rows a device and microbatch that are remembered, or None."""
  found = _all(path).get(fingerprint)
  if not isinstance(found, dict):
    return None
  rows, microbatch = found.get("rows_a_device"), found.get("microbatch")
  if not (isinstance(rows, int) and isinstance(microbatch, int)):
    return None
  if microbatch < 1 or rows < microbatch or rows % microbatch:
    return None
  return rows, microbatch


def write(
  path: pathlib.Path,
  fingerprint: str,
  rows: int,
  microbatch: int,
  **facts: Any,
) -> None:
  """Remembers a choice; a folder that cannot be written forgets it.

  Args:
    path: the path of the file.
    fingerprint: what the choice holds for, `program.Source.fingerprint`.
    rows: how many rows a batch has on one device.
    microbatch: how many of them are computed at once.
    facts: what else is told of the choice, as JSON, for the reader.
  """
  entry = {"rows_a_device": rows, "microbatch": microbatch, **facts}
  body = json.dumps(_all(path) | {fingerprint: entry}, indent=1)
  temporary = path.with_name(f".{path.name}.{os.getpid()}")
  with contextlib.suppress(OSError):
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary.write_text(body + "\n", "utf-8")
    temporary.replace(path)


def _all(path: pathlib.Path) -> dict[str, Any]:
  try:
    found = json.loads(path.read_text("utf-8"))
  except (OSError, ValueError):  # None yet, or not ours: measured again.
    return {}
  return found if isinstance(found, dict) else {}
