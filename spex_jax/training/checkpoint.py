"""Checkpoints: Orbax for the arrays, and a manifest that vouches for them.

A checkpoint is a directory: `state/`, written by Orbax, and `manifest.json`
with the SHA-256 of every file, the shape and dtype of every leaf, and the
configuration. It is written beside its place and renamed into it, manifest
last, so that a directory of that name is whole or is refused. (Orbax alone
notices neither a flipped bit nor a template of another shape, which it fills
by cutting or padding.)
"""

import hashlib
import os
import pathlib
import shutil
from typing import Any

import jax
import numpy as np

from spex_jax import base

_MANIFEST = "manifest.json"
_STATE = "state"


def save(path: str | os.PathLike, state: Any, config: dict[str, Any]) -> None:
  """Writes `state` to the directory `path`, whole or not at all.

  Args:
    path: must not exist yet; checkpoints are never overwritten.
    state: a pytree of arrays.
    config: what the state depends on, as JSON; `restore` compares it.

  Raises:
    FileExistsError: `path` exists.
    OSError: no room or no permission; nothing is left behind.
  """
  import orbax.checkpoint as ocp  # Slow to import.

  path = pathlib.Path(path).absolute()
  if path.exists():
    raise FileExistsError(f"{path} exists; checkpoints are not overwritten.")
  temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
  temporary.mkdir(parents=True)
  try:
    with ocp.StandardCheckpointer() as checkpointer:
      checkpointer.save(temporary / _STATE, state)
    for file in _files(temporary):
      _sync(temporary / file)
    manifest = {
      "config": config,
      "leaves": _leaves(state),
      "files": {file: _digest(temporary / file) for file in _files(temporary)},
    }
    base.write_json(temporary / _MANIFEST, manifest)
    temporary.rename(path)
    _sync(path.parent)
  finally:
    shutil.rmtree(temporary, ignore_errors=True)


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
    ValueError: no manifest (an unfinished or foreign directory), a file that
      is missing, unknown or damaged, another configuration (naming the keys
      that differ), or another structure.
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
      f"{path} belongs to another configuration: {', '.join(keys)} differ. "
      "Choose another directory, or the configuration it was made with."
    )
  leaves = _leaves(like)
  if manifest["leaves"] != leaves:
    names = sorted(
      name
      for name in leaves.keys() | manifest["leaves"].keys()
      if leaves.get(name) != manifest["leaves"].get(name)
    )
    raise ValueError(
      f"{path} holds a state of another structure: {', '.join(names)} "
      "differ in presence, shape or dtype."
    )
  template = jax.tree.map(lambda leaf: np.zeros(leaf.shape, leaf.dtype), like)
  with ocp.StandardCheckpointer() as checkpointer:
    return checkpointer.restore(path / _STATE, template)


_ABSENT = object()


def _verified(path: pathlib.Path) -> dict[str, Any]:
  """The manifest of a directory whose files all agree with it."""
  if not path.is_dir():
    raise FileNotFoundError(f"No checkpoint at {path}.")
  if not (path / _MANIFEST).is_file():
    raise ValueError(
      f"{path} has no {_MANIFEST}: not a finished checkpoint. Remove it."
    )
  manifest = base.read_json(path / _MANIFEST)
  if not {"config", "leaves", "files"} <= manifest.keys():
    raise ValueError(f"{path / _MANIFEST} is not a checkpoint's manifest.")
  expected, present = manifest["files"], set(_files(path))
  missing = sorted(expected.keys() - present)
  foreign = sorted(present - expected.keys())
  if missing or foreign:
    raise ValueError(
      f"{path} is damaged: missing files {missing}, unknown files {foreign}."
    )
  for file, digest in expected.items():
    if _digest(path / file) != digest:
      raise ValueError(
        f"{path} is damaged: {file} contradicts its SHA-256. Remove the "
        "checkpoint and make it anew."
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


def _sync(path: pathlib.Path) -> None:
  descriptor = os.open(path, os.O_RDONLY)
  try:
    os.fsync(descriptor)
  finally:
    os.close(descriptor)
