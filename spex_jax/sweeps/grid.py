"""A sweep: one configuration, its items, and the shards they are cut into.

A sweep's file has `get_config()`, an ml_collections.ConfigDict, and `sweep()`,
which yields the items: dictionaries of dotted settings to the values that an
item has in place of the configuration's. An item without any is the
configuration itself. Settings that every sweep has:

  build           "module:function": an item's configuration to a `run.Work`
  rows            masks of an item
  rows_per_shard  of them in one file; 10^4 to 10^5 suits a disk
  nan             what values that are not finite do: error, drop, keep
  retries         how often a shard that failed is tried again
  max_failed      the share of shards that may be given up

All others are the builder's. A shard is rows `start` to `stop` of one item; its
address, its place in the list of all, never changes.

Shapes: I items, S shards.
"""

import dataclasses
import hashlib
import importlib.util
import json
import pathlib
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import ml_collections
import numpy as np

from spex_jax import settings

NAN = ("error", "drop", "keep")
_NEEDED = ("build", "rows", "rows_per_shard", "nan", "retries", "max_failed")


@dataclasses.dataclass(frozen=True)
class Shard:
  """A part of an item.

  Attributes:
    index: its address, from 0.
    item: number of the item.
    start, stop: rows of the item.
  """

  index: int
  item: int
  start: int
  stop: int


@dataclasses.dataclass(frozen=True)
class Sweep:
  """What is to be done, as it was frozen.

  Attributes:
    config: as JSON.
    items: overrides of each, as JSON.
  """

  config: dict[str, Any]
  items: tuple[dict[str, Any], ...]

  @property
  def shards_per_item(self) -> np.ndarray:
    """int64 `[I]`."""
    return np.array(
      [-(-self.setting(i, "rows") // self.setting(i, "rows_per_shard"))
       for i in range(len(self.items))]
    )  # fmt: skip

  @property
  def num_shards(self) -> int:
    """S."""
    return int(self.shards_per_item.sum())

  @property
  def num_rows(self) -> int:
    """Of all items."""
    return sum(self.setting(i, "rows") for i in range(len(self.items)))

  def shards(self) -> list[Shard]:
    """All of them, by address."""
    found: list[Shard] = []
    for item in range(len(self.items)):
      rows, size = (
        self.setting(item, "rows"),
        self.setting(item, "rows_per_shard"),
      )
      for start in range(0, rows, size):
        stop = min(start + size, rows)
        found.append(Shard(len(found), item, start, stop))
    return found

  def of_task(self, index: int, count: int) -> list[Shard]:
    """The shards of one task of several: a run of neighbours.

    Raises:
      ValueError: an index outside 0..count-1.
    """
    if not 0 <= index < count:
      raise ValueError(
        f"task_index={index} must lie in 0..{count - 1} (task_count={count})."
      )
    every = self.shards()
    return every[
      len(every) * index // count : len(every) * (index + 1) // count
    ]

  def item_config(self, item: int) -> ml_collections.ConfigDict:
    """The configuration of an item, with its overrides."""
    config = ml_collections.ConfigDict(self.config)
    config.update_from_flattened_dict(dict(self.items[item]))
    return config

  def item_name(self, item: int) -> str:
    """What tells an item from the others."""
    own = self.items[item].items()
    return ", ".join(f"{name}={value}" for name, value in own) or "all settings"

  def item_of(self, index: int) -> int:
    """The item of a shard."""
    ends = np.cumsum(self.shards_per_item)
    return int(np.searchsorted(ends, index, side="right"))

  def setting(self, item: int, name: str) -> Any:
    """One setting of an item, its own or that of all."""
    return self.items[item].get(name, self.config[name])


def load(path: str, overrides: Mapping[str, Any] | None = None) -> Sweep:
  """Reads a sweep's file, `FILE[:SIZE]`.

  Args:
    path: of the file; `:SIZE` is given to `get_config` and `sweep`.
    overrides: dotted settings of the configuration, changed before its items.

  Raises:
    ValueError: no such file, one that does not run, a setting that the
      configuration lacks (with a close name), no item, or two that are equal.
  """
  name, colon, size = path.partition(":")
  file = pathlib.Path(name)
  if not file.is_file():
    raise ValueError(f"no sweep {name!r}: give a Python file of one.")
  spec = importlib.util.spec_from_file_location(f"_sweep_{file.stem}", file)
  if spec is None or spec.loader is None:
    raise ValueError(f"{file} is no Python file; its name must end in .py.")
  module = importlib.util.module_from_spec(spec)
  arguments = [size] if colon else []
  try:
    spec.loader.exec_module(module)
    config = module.get_config(*arguments)
    items = list(module.sweep(*arguments)) if hasattr(module, "sweep") else [{}]
  except (Exception, SystemExit) as error:  # Whatever the file does.
    raise ValueError(
      f"sweep {path!r}: {type(error).__name__}: {error}"
    ) from error
  return freeze(config, items, overrides)


def freeze(
  config: ml_collections.ConfigDict,
  items: Iterable[Mapping[str, Any]],
  overrides: Mapping[str, Any] | None = None,
) -> Sweep:
  """Checks a configuration and its items.

  Raises:
    TypeError: no ConfigDict, or a value of another type than the setting has.
    ValueError: as `load`; settings that every sweep needs missing or out of
      range.
  """
  if not isinstance(config, ml_collections.ConfigDict):
    raise TypeError(
      f"A sweep's configuration is a ConfigDict; got {type(config).__name__}."
    )
  config = config.copy_and_resolve_references()
  missing = [name for name in _NEEDED if name not in config]
  if missing:
    raise ValueError(f"The sweep's configuration lacks {', '.join(missing)}.")
  _apply(config, overrides or {}, "the command")
  frozen = []
  for number, item in enumerate(items):
    trial = config.copy_and_resolve_references()
    _apply(trial, item, f"item {number}")
    _check(trial, number)
    frozen.append(_plain(item))
  if not frozen:
    raise ValueError("The sweep has no item: `sweep()` yields none.")
  seen: dict[str, int] = {}
  for number, item in enumerate(frozen):
    text = json.dumps(item, sort_keys=True)
    if text in seen:
      raise ValueError(
        f"Items {seen[text]} and {number} of the sweep are equal: {text}."
      )
    seen[text] = number
  return Sweep(_plain(config.to_dict()), tuple(frozen))


def digest(items: Sequence[Mapping[str, Any]]) -> str:
  """SHA-256 of all items, in order."""
  text = json.dumps(list(items), sort_keys=True, allow_nan=False)
  return hashlib.sha256(text.encode()).hexdigest()


def _check(config: ml_collections.ConfigDict, number: int) -> None:
  where = f" (item {number})"
  for name, least in (("rows", 1), ("rows_per_shard", 1), ("retries", 0)):
    value = config[name]
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
      raise ValueError(f"{name}={value!r}: an integer from {least} up{where}.")
  if config.nan not in NAN:
    raise ValueError(
      f"nan={config.nan!r}: choose from {', '.join(NAN)}{where}."
    )
  if not 0 <= config.max_failed <= 1:
    raise ValueError(
      f"max_failed={config.max_failed}: a share, from 0 to 1{where}."
    )
  module, colon, function = str(config.build).partition(":")
  if not (module and colon and function):
    raise ValueError(f"build={config.build!r}: give module:function{where}.")


def _apply(config, overrides: Mapping[str, Any], who: str) -> None:
  for name in overrides:
    settings.check_key(str(name), config, f"{who}: the sweep's configuration")
  try:
    config.update_from_flattened_dict(dict(overrides))
  except TypeError as error:
    raise TypeError(f"{who} of the sweep: {error}") from error


def _plain(value: Any) -> Any:
  """As JSON holds it: tuples become lists, NumPy's numbers Python's."""
  if isinstance(value, Mapping):
    return {str(name): _plain(part) for name, part in value.items()}
  if isinstance(value, list | tuple):
    return [_plain(part) for part in value]
  if isinstance(value, np.generic):
    return value.item()
  return value
