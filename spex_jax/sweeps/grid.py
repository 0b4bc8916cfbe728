"""A sweep: one configuration, its items, and the shards they are cut into.

A sweep's file has `get_config()`, an ml_collections.ConfigDict, and `sweep()`,
which yields the items: dictionaries of dotted settings to the values that an
item has in place of the configuration's. An item without any is the
configuration itself. Settings that every sweep has:

  build           "module:function": an item's configuration to a `run.Work`
  rows            masks of an item
  rows_per_shard  of them in one file; 10^4 to 10^5 suits a disk
  nan             what values that are not finite do: error, drop, keep
  retries         how often a shard that failed, or a mask alone, is tried again
  max_failed      the share of shards that may be given up, and of a task's rows
                  that may fail

The last two hold for the whole sweep: no item has its own. All others are the
builder's. A shard is rows `start` to `stop` of one item; its address, its place
in the list of all, never changes.

Shapes: I items, S shards.
"""

import ast
import dataclasses
import functools
import hashlib
import importlib.util
import json
import pathlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import ml_collections
import numpy as np

from spex_jax import settings

NAN = ("error", "drop", "keep")
_MOST_SHARDS = 2_000_000  # A task lists its own, and a folder them all.
_OF_ALL = ("retries", "max_failed")  # Not of one item.
_NEEDED = ("build", "rows", "rows_per_shard", "nan", *_OF_ALL)
NEEDED = frozenset(_NEEDED)


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

  def __post_init__(self):
    rows = [self._of(item, "rows") for item in self.items]
    sizes = [self._of(item, "rows_per_shard") for item in self.items]
    shards = sum(-(-all_of // size) for all_of, size in zip(rows, sizes))
    if shards > _MOST_SHARDS or sum(rows) >= 1 << 62:
      # As few shards as may be, in sizes alike.
      size = -(-sum(rows) // max(1, _MOST_SHARDS - len(rows)))
      raise ValueError(
        f"rows={max(rows):,} at rows_per_shard={min(sizes):,}: {shards:,} "
        f"shards of {sum(rows):,} rows, where {_MOST_SHARDS:,} shards are the "
        f"most: give a rows_per_shard from {size:,} up, or at most "
        f"{_MOST_SHARDS * min(sizes) // len(rows):,} rows."
      )

  @functools.cached_property
  def _rows(self) -> np.ndarray:
    """int64 `[I]`, of each item."""
    return self._numbers("rows")

  @functools.cached_property
  def _sizes(self) -> np.ndarray:
    """int64 `[I]`, rows per shard."""
    return self._numbers("rows_per_shard")

  @functools.cached_property
  def _ends(self) -> np.ndarray:
    """int64 `[I]`, the address behind the last shard of each item."""
    return np.cumsum(self.shards_per_item)

  @property
  def shards_per_item(self) -> np.ndarray:
    """int64 `[I]`."""
    return -(-self._rows // self._sizes)

  @property
  def num_shards(self) -> int:
    """S."""
    return int(self._ends[-1])

  @property
  def num_rows(self) -> int:
    """Of all items."""
    return int(self._rows.sum())

  def shards(self) -> list[Shard]:
    """All of them, by address."""
    return self._between(0, self.num_shards)

  def shard(self, index: int) -> Shard:
    """The shard of an address.

    Raises:
      ValueError: there is none.
    """
    self._check_address(index)
    return self._between(index, index + 1)[0]

  def of_task(self, index: int, count: int) -> list[Shard]:
    """The shards of one task of several: a run of neighbours.

    Raises:
      ValueError: an index outside 0..count-1.
    """
    if not 0 <= index < count:
      raise ValueError(
        f"task_index={index} must lie in 0..{count - 1} (task_count={count})."
      )
    total = self.num_shards
    return self._between(total * index // count, total * (index + 1) // count)

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
    """The item of a shard.

    Raises:
      ValueError: no such shard.
    """
    self._check_address(index)
    return int(np.searchsorted(self._ends, index, side="right"))

  def setting(self, item: int, name: str) -> Any:
    """One setting of an item, its own or that of all."""
    return self.items[item].get(name, self.config[name])

  def _between(self, start: int, stop: int) -> list[Shard]:
    """Shards by address, and no other is made."""
    found: list[Shard] = []
    item = int(np.searchsorted(self._ends, start, side="right"))
    while start < stop:
      end, rows, size = (
        int(numbers[item]) for numbers in (self._ends, self._rows, self._sizes)
      )
      first = end + -rows // size  # The item's first address.
      for index in range(start, min(stop, end)):
        begin = (index - first) * size
        found.append(Shard(index, item, begin, min(begin + size, rows)))
      start, item = min(stop, end), item + 1
    return found

  def _numbers(self, name: str) -> np.ndarray:
    return np.array([self._of(item, name) for item in self.items], np.int64)

  def _of(self, item: Mapping[str, Any], name: str) -> int:
    return item.get(name, self.config[name])

  def _check_address(self, index: int) -> None:
    if not 0 <= index < self.num_shards:
      raise ValueError(
        f"shard {index}: the sweep has 0..{self.num_shards - 1}."
      )


def load(path: str, overrides: Mapping[str, Any] | None = None) -> Sweep:
  """Reads a sweep's file, `FILE[:SIZE]`.

  Args:
    path: of the file; `:SIZE` is given to `get_config` and `sweep`.
    overrides: dotted settings of the configuration, changed before its items;
      text for a setting of another type is read as Python writes such values.

  Raises:
    ValueError: no such file, one that does not run, a setting that the
      configuration lacks (with a close name), no item, two that give the same
      configuration, or one with a setting that holds for the whole sweep.
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
  defaults = _flat(config)
  given = {k: _read(v, defaults.get(k)) for k, v in (overrides or {}).items()}
  _apply(config, given, "the command")
  resolve = _resolver(config)
  frozen = []
  seen: dict[str, int] = {}
  for number, item in enumerate(items):
    _check({name: item.get(name, config[name]) for name in _NEEDED}, number)
    text = resolve(number, item)
    own = _plain(item)
    if text in seen:
      first = seen[text]
      raise ValueError(
        f"Items {first} and {number} of the sweep are equal: "
        f"{json.dumps(frozen[first])} and {json.dumps(own)} give the same "
        "configuration."
      )
    seen[text] = number
    frozen.append(own)
  if not frozen:
    raise ValueError("The sweep has no item: `sweep()` yields none.")
  return Sweep(_plain(config.to_dict()), tuple(frozen))


def digest(items: Sequence[Mapping[str, Any]]) -> str:
  """SHA-256 of all items, in order."""
  text = json.dumps(list(items), sort_keys=True, allow_nan=False)
  return hashlib.sha256(text.encode()).hexdigest()


def _resolver(
  config: ml_collections.ConfigDict,
) -> Callable[[int, Mapping[str, Any]], str]:
  """What checks an item, and tells the configuration that it gives.

  Two items give the same text if they give the same configuration: it holds
  what differs from the configuration of all. A ConfigDict is asked once about
  a setting and a type: there may be 10^6 items.
  """
  defaults = {name: _canonical(v) for name, v in _flat(config).items()}
  tried: set[tuple[str, type]] = set()

  def resolve(number: int, item: Mapping[str, Any]) -> str:
    for name in _OF_ALL:
      if name in item:
        raise ValueError(
          f"item {number} of the sweep sets {name}, which holds for the whole "
          f"sweep: set it in get_config(), or by --config.{name}=VALUE."
        )
    kinds = {(name, type(value)) for name, value in item.items()}
    own: Mapping[str, Any] = item
    if not kinds <= tried:
      trial = config.copy_and_resolve_references()
      _apply(trial, item, f"item {number}")
      if item.keys() <= defaults.keys():
        tried.update(kinds)
      else:  # A group of settings.
        own = _flat(trial)
    changed = {name: _canonical(_plain(value)) for name, value in own.items()}
    changed = {
      name: value
      for name, value in changed.items()
      if name not in defaults or value != defaults[name]
    }
    gone = [] if own is item else sorted(defaults.keys() - own.keys())
    return json.dumps([changed, gone], sort_keys=True)

  return resolve


def _check(settings: Mapping[str, Any], number: int) -> None:
  where = f" (item {number})"
  for name, least in (("rows", 1), ("rows_per_shard", 1), ("retries", 0)):
    value = settings[name]
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
      raise ValueError(f"{name}={value!r}: an integer from {least} up{where}.")
  if settings["nan"] not in NAN:
    raise ValueError(
      f"nan={settings['nan']!r}: choose from {', '.join(NAN)}{where}."
    )
  share = settings["max_failed"]
  if not isinstance(share, int | float) or not 0 <= share <= 1:
    raise ValueError(f"max_failed={share!r}: a share, from 0 to 1{where}.")
  module, colon, function = str(settings["build"]).partition(":")
  if not (module and colon and function):
    raise ValueError(
      f"build={settings['build']!r}: give module:function{where}."
    )


def _apply(config, overrides: Mapping[str, Any], who: str) -> None:
  for name in overrides:
    settings.check_key(str(name), config, f"{who}: the sweep's configuration")
  try:
    config.update_from_flattened_dict(dict(overrides))
  except TypeError as error:
    raise TypeError(f"{who} of the sweep: {error}") from error


def _read(value: Any, default: Any) -> Any:
  """A value that may be text, for a setting that is `default`."""
  if not isinstance(value, str) or isinstance(default, str):
    return value
  truth = {"true": True, "yes": True, "false": False, "no": False}
  if isinstance(default, bool) and value.lower() in truth:
    return truth[value.lower()]
  try:
    return ast.literal_eval(value)
  except (ValueError, SyntaxError):
    return value


def _flat(
  config: ml_collections.ConfigDict, prefix: str = ""
) -> dict[str, Any]:
  """Values by dotted names, as JSON holds them; an empty group is a value."""
  found: dict[str, Any] = {}
  for name, value in config.items():
    if isinstance(value, ml_collections.ConfigDict) and len(value):
      found |= _flat(value, f"{prefix}{name}.")
    else:
      found[f"{prefix}{name}"] = _plain(value)
  return found


def _canonical(value: Any) -> Any:
  """Equal numbers alike, as 1 and 1.0 are."""
  if isinstance(value, dict):
    return {name: _canonical(part) for name, part in value.items()}
  if isinstance(value, list):
    return [_canonical(part) for part in value]
  if isinstance(value, float) and value.is_integer():
    return int(value)
  return value


def _plain(value: Any) -> Any:
  """As JSON holds it: tuples become lists, NumPy's numbers Python's."""
  if isinstance(value, ml_collections.ConfigDict):
    value = value.to_dict()
  if isinstance(value, Mapping):
    return {str(name): _plain(part) for name, part in value.items()}
  if isinstance(value, list | tuple):
    return [_plain(part) for part in value]
  if isinstance(value, np.generic):
    return value.item()
  return value
