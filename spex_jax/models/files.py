"""The tensors of a checkpoint directory, read from safetensors one by one.

Every read maps its file anew, so that pages that were read leave the memory;
the largest tensors come first, while little else is there. So loading needs
little more memory than what is loaded.
"""

import contextlib
import math
import pathlib
import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np

from spex_jax.models import reading

INDEX = "model.safetensors.index.json"
SINGLE = "model.safetensors"
_PICKLES = ("*.bin", "*.pt", "*.pth", "*.ckpt", "*.pkl", "*.msgpack", "*.h5")

# What a shard may be called: no folder, no step out of the directory.
_NAME = re.compile(r"[\w][\w.+-]*\.safetensors")

Tensors = Iterator[tuple[str, Callable[[], np.ndarray]]]


class Files:
  """The safetensors files of a directory.

  Attributes:
    keys: the keys of every tensor.
  """

  def __init__(self, folder: pathlib.Path):
    """Opens what an index promises, or the one file.

    Raises:
      FileNotFoundError: a file that is missing.
      ValueError: two sources, a damaged file or index, an index that promises
        what its shards do not hold, or a pickle instead.
    """
    self._sizes: list[tuple[int, str, pathlib.Path]] = []
    promised = _files(folder)
    held = {}
    for path in promised:
      with _open(path) as file:
        held[path] = set(file.keys())
        for key in held[path]:
          size = math.prod(file.get_slice(key).get_shape())
          self._sizes.append((-size, key, path))
    _check_index(held, promised)
    self.keys = frozenset(key for _, key, _ in self._sizes)

  def tensors(self) -> Tensors:
    """Every tensor: its key, and a function that reads it."""
    for _, key, path in sorted(self._sizes):
      yield key, lambda key=key, path=path: _read(path, key)


def tensors(path: pathlib.Path) -> Tensors:
  """Every tensor of one file.

  Raises:
    FileNotFoundError: there is none.
    ValueError: a damaged file.
  """
  if not path.is_file():
    raise FileNotFoundError(f"{path} is missing.")
  with _open(path) as file:
    keys = sorted(file.keys())
  for key in keys:
    yield key, lambda key=key: _read(path, key)


def _files(folder: pathlib.Path) -> dict[pathlib.Path, set[str] | None]:
  """The safetensors files, each with the keys that an index promises."""
  if (folder / INDEX).is_file():
    if (folder / SINGLE).is_file():
      raise ValueError(
        f"{folder} holds both {SINGLE} and {INDEX}, which may name other "
        "weights; remove the one that is not meant."
      )
    weight_map = reading.json_object(folder / INDEX).get("weight_map", {})
    if not isinstance(weight_map, dict):
      raise ValueError(
        f"{folder / INDEX}: weight_map must be an object, tensor to file; got "
        f"{type(weight_map).__name__}."
      )
    promised: dict[pathlib.Path, set[str] | None] = {}
    for key, name in weight_map.items():
      # A path could lead to a file outside the directory.
      if not isinstance(name, str) or not _NAME.fullmatch(name):
        raise ValueError(
          f"{folder / INDEX} keeps {key!r} in {name!r}; that must be the name "
          "of a .safetensors file of the same directory."
        )
      keys = promised.setdefault(folder / name, set())
      if keys is not None:
        keys.add(key)
    if not promised:
      raise ValueError(f"{folder / INDEX} lists no tensors.")
    missing = [path.name for path in promised if not path.is_file()]
    if missing:
      raise FileNotFoundError(
        f"{folder / INDEX} names files that are missing: "
        f"{', '.join(sorted(missing))}."
      )
    return promised
  if (folder / SINGLE).is_file():
    return {folder / SINGLE: None}
  other = [path.name for kind in _PICKLES for path in folder.glob(kind)]
  if other:
    raise ValueError(
      f"{folder} holds {', '.join(sorted(other))} but no {SINGLE}. Pickles "
      "can run code when they are read and are refused; save the model with "
      "safetensors."
    )
  raise FileNotFoundError(f"{folder} holds no {SINGLE} and no {INDEX}.")


@contextlib.contextmanager
def _open(path: pathlib.Path) -> Iterator[Any]:
  import safetensors

  try:
    with safetensors.safe_open(str(path), "np") as file:
      yield file
  except safetensors.SafetensorError as error:
    raise ValueError(
      f"{path} is truncated, damaged or no safetensors file: {error}."
    ) from None


def _check_index(
  opened: Mapping[pathlib.Path, set[str]], files: Mapping
) -> None:
  faults = []
  for path, keys in files.items():
    if keys is not None:
      held = opened[path]
      for key in sorted(keys ^ held):
        where = "not listed by" if key in held else "missing, listed by"
        faults.append(f"{path.name}: {key!r} is {where} {INDEX}")
  if faults:
    raise ValueError("The shards do not fit their index: " + "; ".join(faults))


def _read(path: pathlib.Path, key: str) -> np.ndarray:
  with _open(path) as file:
    kind = file.get_slice(key).get_dtype()
    if kind not in ("F64", "F32", "F16", "BF16"):
      raise ValueError(
        f"{path.name}: the tensor {key!r} is stored as {kind}; only floating "
        "tensors of 16 bits and more can be read."
      )
    return file.get_tensor(key)
