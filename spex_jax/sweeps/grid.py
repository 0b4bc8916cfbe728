"""A sweep: one configuration, its items, and the shards they are cut into.

A sweep's file has `get_config()`, an ml_collections.ConfigDict, and `sweep()`,
which yields the items: dictionaries of dotted settings to the values that an
item has in place of the configuration's. An item without any is the
configuration itself. Settings that every sweep has are those of `Plan`; those
from `retries` on hold for the whole sweep: no item has its own. All others are
the builder's. A shard is rows `start` to `stop` of one item; its address, its
place in the list of all, never changes.

Shapes: I items, S shards.
"""

import dataclasses
import functools
import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from spex_jax import settings

if TYPE_CHECKING:
  import ml_collections

_MOST_SHARDS = 2_000_000  # A task lists its own, and a folder them all.
_OF_ALL = ("retries", "max_failed", "max_nan", "files")  # Not of one item.


@dataclasses.dataclass(frozen=True)
class Plan(settings.Settings):
  """The settings of every sweep."""

  build: str = settings.field(
    help="module:function, an item's configuration to a `run.Work`"
  )
  rows: int = settings.field(help="masks of an item", low=1)
  rows_per_shard: int = settings.field(
    help="of them in one file; 10^4 to 10^5 suits a disk", low=1
  )
  nan: str = settings.field(
    help="what values that are not finite do", choices=("error", "drop", "keep")
  )
  retries: int = settings.field(
    help="how often a shard that failed, or a mask alone, is tried again",
    low=0,
  )
  max_failed: float = settings.field(
    help="the share of shards that may be given up, and of a task's rows that "
    "may fail",
    low=0,
    high=1,
  )
  max_nan: float = settings.field(
    0.5,
    "the share of a task's rows that may have no value (NaN, infinity)",
    low=0,
    high=1,
  )
  files: tuple[str, ...] = settings.field(
    (), "what values are read from: a task that has others is refused"
  )

  def check(self) -> None:
    """Refuses a builder that names no function.

    Raises:
      ValueError: `build` is not module:function.
    """
    module, colon, function = self.build.partition(":")
    if not (module and colon and function):
      raise ValueError(f"build={self.build!r}: give module:function.")


@dataclasses.dataclass(frozen=True)
class Shard:
  """A part of an item.

  Attributes:
    index: its address, from 0.
    item: the number of the item in the sweep, from 0.
    start, stop: the item's rows start..stop - 1, counted from 0.
  """

  index: int
  item: int
  start: int
  stop: int


@dataclasses.dataclass(frozen=True)
class Sweep:
  """What is to be done, as it was frozen.

  Attributes:
    config: the settings that all items share, as JSON has them.
    items: `[I]`, for each item the settings in place of those, by dotted name.
  """

  config: dict[str, Any]
  items: tuple[dict[str, Any], ...]

  def __post_init__(self):
    for name in ("build", "nan", "retries", "max_failed"):
      self.config[name]  # A KeyError names it.
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

  def item_config(self, item: int) -> "ml_collections.ConfigDict":
    """The configuration of an item, with its overrides."""
    import ml_collections

    found = settings.merged(self.config, self.items[item])
    return ml_collections.ConfigDict(found)

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


def freeze(
  config: Any,
  items: Iterable[Mapping[str, Any]],
  classes: Sequence[type[settings.Settings]] = (),
) -> Sweep:
  """Checks a configuration and its items.

  Args:
    config: the settings of all items, a ConfigDict or another mapping.
    items: what each has in place of the configuration's, by dotted names.
    classes: of all settings but those of `Plan`; by default types are those
      that the configuration's values have.

  Raises:
    ValueError: a setting that no class has (with a close name), one that is
      missing or not what it may be, no item, two that give the same
      configuration, or one with a setting that holds for the whole sweep.
  """
  config = settings.plain(config)
  where = "The sweep's configuration"
  classes = (*(classes or [settings.like(config)]), Plan)
  settings.read(config, *classes, where=where)
  kinds: dict[str, settings.Kind] = {}
  for cls in classes:
    kinds |= settings.leaves(cls)
  defaults = {
    name: _canonical(value) for name, value in settings.flat(config).items()
  }
  frozen = []
  seen: dict[str, int] = {}
  for number, item in enumerate(items):
    changed = _changed(item, kinds, defaults, f"item {number} of the sweep")
    text = json.dumps(changed, sort_keys=True)
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
  return Sweep(_plain(config), tuple(frozen))


def _changed(
  item: Mapping[str, Any],
  kinds: Mapping[str, settings.Kind],
  defaults: Mapping[str, Any],
  who: str,
) -> dict[str, Any]:
  """What an item checks and changes; 10^6 of them take some seconds."""
  found = {}
  for name, value in settings.flat(item).items():
    if name in _OF_ALL:
      raise ValueError(
        f"{who} sets {name}, which holds for the whole sweep: set it in "
        f"get_config(), or by --config.{name}=VALUE."
      )
    if name not in kinds:
      raise settings.unknown(name, list(kinds), who)
    value = settings.checked(f"{who}: {name}", kinds[name], value)
    value = _canonical(_plain(value))
    if name not in defaults or value != defaults[name]:
      found[name] = value
  return found


def digest(items: Sequence[Mapping[str, Any]]) -> str:
  """SHA-256 of all items, in order."""
  text = json.dumps(list(items), sort_keys=True, allow_nan=False)
  return hashlib.sha256(text.encode()).hexdigest()


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
  if isinstance(value, Mapping):
    return {str(name): _plain(part) for name, part in value.items()}
  if isinstance(value, list | tuple):
    return [_plain(part) for part in value]
  if isinstance(value, np.generic):
    return value.item()
  return value
