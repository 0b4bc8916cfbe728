"""Checkpoints: Orbax for the arrays, and a manifest that vouches for them.

A checkpoint is a directory: `state/`, written by Orbax, and `manifest.json`
with the SHA-256 of every file, the shape and dtype of every leaf, and the
configuration. It is written beside its place and renamed into it, manifest
last, so that a directory of that name is whole or is refused. (Orbax alone
notices neither a flipped bit nor a template of another shape, which it fills
by cutting or padding.)
"""

import errno
import hashlib
import os
import pathlib
import shutil
import time
from typing import Any

import jax
import numpy as np

from spex_jax import base

_MANIFEST = "manifest.json"
_STATE = "state"


class DamagedError(ValueError):
  """A directory that is no checkpoint, or no longer the one that was saved."""


def save(path: str | os.PathLike, state: Any, config: dict[str, Any]) -> None:
  """Writes `state` to the directory `path`, whole or not at all.

  Args:
    path: must not exist yet; checkpoints are never overwritten.
    state: a pytree of arrays.
    config: what the state depends on, as JSON; `restore` compares it.

  Raises:
    FileExistsError: `path` exists, perhaps since another process was quicker.
    OSError: no room or no permission, naming `path`; nothing is left behind.
  """
  import orbax.checkpoint as ocp  # Slow to import.

  path = pathlib.Path(path).absolute()
  if path.exists():
    raise _exists(path)
  temporary = base.draft(path)
  try:
    temporary.mkdir(parents=True, exist_ok=False)
    with ocp.StandardCheckpointer() as checkpointer:
      checkpointer.save(temporary / _STATE, state)
    for file in _files(temporary):
      base.sync(temporary / file)
    manifest = {
      "config": config,
      "leaves": _leaves(state),
      "files": {file: _digest(temporary / file) for file in _files(temporary)},
    }
    base.write_json(temporary / _MANIFEST, manifest)
    try:
      temporary.rename(path)
    except OSError as error:
      if error.errno in _TAKEN:
        raise _exists(path) from error
      raise
    base.sync(path.parent)
  except FileExistsError:
    raise
  except Exception as error:  # Of the system, or Orbax's own kinds.
    raise OSError(f"{path} could not be saved: {_reason(error)}.") from error
  finally:
    _remove(temporary)


def restore(path: str | os.PathLike, like: Any, config: dict[str, Any]) -> Any:
  """Reads what `save` wrote, after checking every byte of it.

  Args:
    path: the directory.
    like: a pytree of arrays or `jax.ShapeDtypeStruct`s of the same structure,
      shapes and dtypes, such as `jax.eval_shape` of the initialiser gives.
    config: must equal the one saved.

  Returns:
    The state, its leaves NumPy arrays.

  Raises:
    FileNotFoundError: no such directory.
    DamagedError: no manifest (an unfinished or foreign directory), a file that
      is missing, unknown or damaged.
    ValueError: another configuration (naming the keys that differ), or another
      structure.
  """
  import orbax.checkpoint as ocp  # Slow to import.

  path = pathlib.Path(path).absolute()
  manifest = _verified(path)
  saved = manifest["config"]
  if saved != config:
    keys = sorted(
      key
      for key in saved.keys() | config.keys()
      if saved.get(key, _ABSENT) != config.get(key, _ABSENT)
    )
    raise ValueError(
      f"{path} belongs to another configuration: {_differ(keys)}. {_REMEDY}"
    )
  leaves = _leaves(like)
  if manifest["leaves"] != leaves:
    names = sorted(
      name
      for name in leaves.keys() | manifest["leaves"].keys()
      if leaves.get(name) != manifest["leaves"].get(name)
    )
    raise ValueError(
      f"{path} holds a state of another structure: {_differ(names)} in "
      f"presence, shape or dtype. {_REMEDY}"
    )
  template = jax.tree.map(lambda leaf: np.zeros(leaf.shape, leaf.dtype), like)
  with ocp.StandardCheckpointer() as checkpointer:
    return checkpointer.restore(path / _STATE, template)


def _remove(folder: pathlib.Path) -> None:
  """Removes a folder that threads may still write into, as Orbax's do."""
  deadline = time.monotonic() + 5.0
  shutil.rmtree(folder, ignore_errors=True)
  while folder.exists() and time.monotonic() < deadline:
    time.sleep(0.01)
    shutil.rmtree(folder, ignore_errors=True)


_ABSENT = object()
# Of a rename onto what another writer has put there.
_TAKEN = (errno.EEXIST, errno.ENOTEMPTY, errno.ENOTDIR)
_REMEDY = "Remove it, or choose another directory (--workdir of a command)."


def _exists(path: pathlib.Path) -> FileExistsError:
  return FileExistsError(f"{path} exists; checkpoints are not overwritten.")


def _differ(names: list[str]) -> str:
  return f"{', '.join(names)} {'differs' if len(names) == 1 else 'differ'}"


def _reason(error: BaseException) -> str:
  """Why a file was not written: what the system said, if it is to blame."""
  cause: BaseException | None = error
  while cause is not None:
    if isinstance(cause, OSError) and cause.strerror:
      return cause.strerror
    cause = cause.__cause__ or cause.__context__
  # Storage below Orbax gives its errors as text, of many lines.
  lines = str(error).strip().splitlines() or [""]
  known = (os.strerror(e) for e in (errno.ENOSPC, errno.EFBIG, errno.EDQUOT))
  for text in known:
    if text in str(error):
      return text
  return f"{type(error).__name__}: {lines[0]}".rstrip(".")


def _verified(path: pathlib.Path) -> dict[str, Any]:
  """The manifest of a directory whose files all agree with it."""
  if path.exists() and not path.is_dir():
    raise DamagedError(f"{path} is a file, not a checkpoint. {_REMEDY}")
  if not path.exists():
    raise FileNotFoundError(f"No checkpoint at {path}.")
  if not (path / _MANIFEST).is_file():
    raise DamagedError(
      f"{path} has no {_MANIFEST}: not a finished checkpoint. {_REMEDY}"
    )
  try:
    manifest = base.read_json(path / _MANIFEST)
  except ValueError as error:
    raise DamagedError(
      f"{path} is damaged: {_MANIFEST} cannot be read. {_REMEDY}"
    ) from error
  parts = [manifest.get(name) for name in ("config", "leaves", "files")]
  if not all(isinstance(part, dict) for part in parts):
    raise DamagedError(
      f"{path} is damaged: {_MANIFEST} is none of a checkpoint. {_REMEDY}"
    )
  expected, present = manifest["files"], set(_files(path))
  missing = sorted(expected.keys() - present)
  foreign = sorted(present - expected.keys())
  if missing or foreign:
    raise DamagedError(
      f"{path} is damaged: missing files {missing}, unknown files {foreign}. "
      f"{_REMEDY}"
    )
  for file, digest in expected.items():
    if _digest(path / file) != digest:
      raise DamagedError(
        f"{path} is damaged: {file} contradicts its SHA-256. {_REMEDY}"
      )
  return manifest


def _leaves(state: Any) -> dict[str, list[Any]]:
  return {
    jax.tree_util.keystr(path): [list(leaf.shape), str(leaf.dtype)]
    for path, leaf in jax.tree_util.tree_leaves_with_path(state)
  }


def _files(path: pathlib.Path) -> list[str]:
  files = (p for p in path.rglob("*") if p.is_file())
  names = (p.relative_to(path).as_posix() for p in files)
  return sorted(name for name in names if name != _MANIFEST)


def _digest(path: pathlib.Path) -> str:
  with path.open("rb") as file:
    return hashlib.file_digest(file, "sha256").hexdigest()
