"""Values of an item's first masks, as the sweep was begun with.

A task whose own differ has another model, other data or another device, which
no setting tells: weights that changed on the disk, say, or were trained anew.
Where they are lost or damaged, a shard that is published stands in for them:
its first rows are asked again.

Shapes: A anchors, T targets.
"""

import dataclasses
from collections.abc import Sequence

import numpy as np

from spex_jax import base
from spex_jax.store import folders, ledger, shards

FOLDER = "anchors"
_RTOL = 1e-3  # Of the spread of the values; last digits may differ.


class OtherValuesError(RuntimeError):
  """An item that is not what it was."""


@dataclasses.dataclass(frozen=True)
class Witness:
  """Published rows of an item whose anchors are gone.

  Attributes:
    start: row of the item that is the first of `rows`.
    rows: at most A, of a sound shard.
  """

  start: int
  rows: shards.Rows


def kept(folder: folders.Folder, item: int) -> np.ndarray | None:
  """An item's values float64 `[A, T]`; None if there are none yet.

  Raises:
    store.ledger.DamagedError: those that are there are damaged.
  """
  try:
    return _read(folder.read(_name(item)), _name(item))
  except FileNotFoundError:
    return None


def damaged(folder: folders.Folder) -> list[str]:
  """Names of files that their checksum contradicts."""
  found = []
  names = sorted(f"{FOLDER}/{name}" for name in folder.names(FOLDER))
  for name, data in folder.read_all(names).items():
    try:
      _read(data, name)
    except ledger.DamagedError:
      found.append(name)
  return found


def witness(
  book: ledger.Ledger, first: int, size: int, wanted: Sequence[int], count: int
) -> Witness | None:
  """The first rows of the first sound shard of several.

  Args:
    book: the book of the sweep.
    first: index of the item's first shard.
    size: rows per shard.
    wanted: published shards of the item; one that is damaged is passed over.
    count: A, the number of rows to take from its beginning.
  """
  for index in wanted:
    try:
      rows = book.read(index)
    except (KeyError, ledger.DamagedError):
      continue
    if (rows.status[:count] == shards.Status.OK).any():
      return Witness((index - first) * size, rows.take(slice(count)))
  return None


def check(
  folder: folders.Folder,
  item: int,
  name: str,
  values: np.ndarray,
  seen: tuple[Witness, np.ndarray] | None = None,
) -> None:
  """Keeps the values of an item, or compares them with those kept.

  Args:
    folder: the folder of the sweep.
    item: the item's number in the sweep, from 0.
    name: the name of the item, for messages.
    values: float64 `[A, T]`.
    seen: published rows, where no values are kept, and what is answered to
      their masks now.

  Raises:
    OtherValuesError: they differ.
  """
  place = _name(item)
  try:
    before = kept(folder, item)
  except ledger.DamagedError:
    folder.move(place, f"{ledger.QUARANTINE}/{place}")
    before = None
  if before is None and seen is not None:
    rows, found = seen[0].rows, seen[1]
    ok = rows.status == shards.Status.OK
    _compare(item, name, found[ok], rows.values[ok].astype(np.float64))
  if not np.isfinite(values).all():
    return
  if before is None:
    if folder.create(place, base.to_json({"values": values.tolist()})):
      return
    before = kept(folder, item)  # Of another task, just now.
  if before is not None:
    _compare(item, name, values, before)


def _compare(
  item: int, name: str, values: np.ndarray, before: np.ndarray
) -> None:
  # At least the rounding of float32 values.
  scale = max(
    float(np.ptp(before)), 1e-3 * float(np.abs(before).max(initial=0))
  )
  if before.shape == values.shape and np.allclose(
    values, before, rtol=0, atol=_RTOL * scale + 1e-12
  ):
    return
  most = "of another shape"
  if before.shape == values.shape:
    most = f"as much as {np.abs(values - before).max():.3g} away"
  raise OtherValuesError(
    f"Item {item} ({name}): the values of its first masks are {most} from "
    f"those that the sweep was begun with. Is its model, or its data, another "
    "(weights trained anew, a file that changed), or does it draw at random? "
    "Give back what it was, or choose another --workdir; anchors=0 in the "
    "configuration leaves this check out."
  )


def _name(item: int) -> str:
  return f"{FOLDER}/{item:08d}.json"


def _read(data: bytes, name: str) -> np.ndarray:
  """Raises DamagedError where they are."""
  try:
    body = base.from_json(data, name, must_have_checksum=True)
    values = np.asarray(body["values"], np.float64)
  except (KeyError, TypeError, ValueError) as error:
    raise ledger.DamagedError(f"{name} is damaged: {error}") from error
  if values.ndim != 2 or not values.size or not np.isfinite(values).all():
    raise ledger.DamagedError(f"{name} is damaged: its values are none.")
  return values
