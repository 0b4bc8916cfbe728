"""Masks that were answered before: within a request, and across requests.

A store answers by mask. `Recent` holds the latest answers in memory;
`closed.File` holds all of them on disk.

Shapes: n players, B masks, U distinct ones, T targets.
"""

import collections
import dataclasses
from collections.abc import Sequence
from typing import Protocol

import numpy as np

from spex_jax import base
from spex_jax.masks import packing

# Python's own share of an entry: the key, the array's header, the links.
_ENTRY_BYTES = 280


class Store(Protocol):
  """Answers by mask."""

  def get(self, masks: np.ndarray) -> list[np.ndarray | None]:
    """For each mask of bool `[B, n]` its value, `[]` or `[T]`, or None."""
    ...

  def put(self, masks: np.ndarray, values: np.ndarray) -> None:
    """Takes float64 values `[B]` or `[B, T]` of bool `[B, n]` masks."""
    ...


class Recent:
  """The answers used last, in at most `max_bytes` of memory.

  Keyed by the 128-bit hash of `masks.packing`.
  """

  def __init__(self, max_bytes: int):
    self._max_bytes = max_bytes
    self._values: collections.OrderedDict[bytes, np.ndarray] = (
      collections.OrderedDict()
    )
    self.num_bytes = 0

  def __len__(self) -> int:
    return len(self._values)

  def get(self, masks: np.ndarray) -> list[np.ndarray | None]:
    found: list[np.ndarray | None] = []
    for key in _keys(masks):
      value = self._values.get(key)
      if value is not None:
        self._values.move_to_end(key)
      found.append(value)
    return found

  def put(self, masks: np.ndarray, values: np.ndarray) -> None:
    for key, value in zip(_keys(masks), values):
      self._drop(key)
      # A copy: a view would keep its whole batch alive.
      self._values[key] = value = np.array(value)
      self.num_bytes += _ENTRY_BYTES + value.nbytes
    while self.num_bytes > self._max_bytes:
      self._drop(next(iter(self._values)))

  def _drop(self, key: bytes) -> None:
    value = self._values.pop(key, None)
    if value is not None:
      self.num_bytes -= _ENTRY_BYTES + value.nbytes


@dataclasses.dataclass(frozen=True)
class Split:
  """A request, and what of it is to be run.

  Attributes:
    first: int64 `[U]`: where each distinct mask first stands.
    inverse: int64 `[B]`: which of the distinct ones each row is.
    known: the value of each distinct mask that a store has, else None.
    missing: int64, ascending: those of the distinct masks that none has.
  """

  first: np.ndarray
  inverse: np.ndarray
  known: list[np.ndarray | None]
  missing: np.ndarray

  @property
  def rows(self) -> np.ndarray:
    """Where each mask to be run first stands in the request."""
    return self.first[self.missing]

  @property
  def counts(self) -> np.ndarray:
    """How often each mask to be run stands in the request."""
    all_counts = np.bincount(self.inverse, minlength=len(self.first))
    return all_counts[self.missing]

  def scatter(self, values: np.ndarray | None) -> np.ndarray:
    """Values of the whole request from those of the masks that were run.

    Raises:
      ValueError: another number of targets than the stores have.
    """
    stored = [value for value in self.known if value is not None]
    shapes = {value.shape for value in stored}
    if values is not None:
      shapes.add(values.shape[1:])
    if len(shapes) > 1:
      raise ValueError(
        "The value function returned another number of targets than it did "
        f"for masks that it answered before: shapes {sorted(shapes)}."
      )
    out = np.empty((len(self.first), *shapes.pop()))
    for i, value in enumerate(self.known):
      if value is not None:
        out[i] = value
    if values is not None:
      out[self.missing] = values
    return out[self.inverse]


def split(masks: base.Masks, stores: Sequence[Store]) -> Split:
  """Finds the distinct rows of bool `[B, n]`, and which are known.

  The first store that has a mask answers, and the stores before it are told.
  """
  masks = np.asarray(masks)
  distinct = packing.distinct_masks(masks)
  known: list[np.ndarray | None] = [None] * len(distinct.first)
  missing = np.arange(len(distinct.first))
  for number, store in enumerate(stores):
    if not len(missing):
      break
    found = store.get(masks[distinct.first[missing]])
    hits = [i for i, value in enumerate(found) if value is not None]
    for i in hits:
      known[missing[i]] = found[i]
      row = distinct.first[missing[i]]
      for earlier in stores[:number]:
        earlier.put(masks[[row]], np.asarray(found[i])[None])
    missing = np.delete(missing, hits)
  return Split(distinct.first, distinct.inverse, known, missing)


def _keys(masks: np.ndarray) -> list[bytes]:
  return [row.tobytes() for row in packing.hash_masks(masks)]
