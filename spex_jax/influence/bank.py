"""The bank: outputs of retrainings on disk, that every method and metric reads.

A row is a mask, a seed index, and the outputs on T test points. It is known by
the configuration (the directory's, by its hash), the 128-bit hash of the packed
mask, and the seed index; initialisation and order derive from the same, so a
mask that a decoder chooses is as good as a random one, and a row is the same
whoever asks for it, when, and in what company.

Asking for masks trains what is missing, shard by shard: a run that is killed
loses at most the shard it was at, and the same request goes on from there.
Asking for more masks or seeds extends the bank. A damaged shard is put aside
when the bank is opened, and its rows, no others, are trained when they are next
asked for. The microbatch is frozen with the configuration, because the last
digits of a value depend on it; batch size, devices and kills leave every byte
as it is.

Shapes: B masks, n players, S seeds, T test points, R rows.
"""

import itertools
import os
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import numpy as np

from spex_jax import base
from spex_jax.influence import examples
from spex_jax.masks import packing
from spex_jax.store import ledger, shards

_ROWS = 4096  # Of a shard: what a kill may cost.


class Samples(NamedTuple):
  """What methods and metrics read; all values finite.

  Attributes:
    masks: bool `[R, n]`.
    values: float64 `[R, T]`.
    seeds: int32 `[R]`.
    num_left_out: rows that diverged or failed, and are not here.
  """

  masks: np.ndarray
  values: np.ndarray
  seeds: np.ndarray
  num_left_out: int


class Bank:
  """A `ValueFn` that remembers: bool `[B, n]` to float64 `[B, T]`."""

  def __init__(
    self,
    path: str | os.PathLike,
    retrainer: examples.Retrainer,
    *,
    rows_per_shard: int | None = None,
    progress: Callable[[int, int], None] | None = None,
  ):
    """Opens the bank of a retrainer's configuration, or starts it.

    Args:
      path: the directory of the bank.
      retrainer: trains what is missing. Where it has no microbatch of its own,
        it takes the bank's; a new bank takes the retrainer's.
      rows_per_shard: the rows per shard of a new bank, 4,096 by default; an old
        one keeps its.
      progress: told the rows done and asked for, after each shard.

    Raises:
      store.ledger.OtherConfigError: a bank of another configuration; the
        message names the keys that differ.
      ValueError: rows_per_shard below 1, a directory that is no bank, or a
        retrainer of another microbatch.
    """
    self.retrainer = retrainer
    stored = ledger.stored_config(path) or {}
    if "microbatch" in stored:
      retrainer.fix(stored["microbatch"])
    if rows_per_shard is None:
      rows_per_shard = stored.get("rows_per_shard", _ROWS)
    if base.check_integer(rows_per_shard, "rows_per_shard") < 1:
      raise ValueError(
        f"rows_per_shard must be positive; got {rows_per_shard}."
      )
    self.rows_per_shard = rows_per_shard
    config = retrainer.config | {
      # Not measured for a bank that will be refused all the same.
      "microbatch": stored.get("microbatch") or retrainer.microbatch,
      "rows_per_shard": rows_per_shard,
    }
    self.ledger = ledger.Ledger(path, config)
    self._progress = progress or (lambda done, asked: None)
    self._rows: list[shards.Rows] = []
    self._known: dict[bytes, tuple[int, int]] = {}
    for _, rows in self.ledger.scan():
      self._remember(rows)
    # Sizes of the shards that were damaged, until they are made again.
    self._lost = [lost.rows for lost in self.ledger.quarantined if lost.rows]

  @property
  def n(self) -> int:
    """Number of players."""
    return self.retrainer.n

  def __len__(self) -> int:
    return len(self._known)

  def ask(
    self, masks: base.Masks, seeds: "int | list[int] | None" = None
  ) -> np.ndarray:
    """Values float64 `[B, S, T]`, NaN where a training diverged.

    Args:
      masks: bool `[B, n]`; a mask that stands there twice is trained once.
      seeds: how many seed indices, from 0, or a list of them; the retrainer's
        number by default.

    Raises:
      ValueError: masks that the retrainer refuses, no mask or no seed.
    """
    masks = base.check_masks(masks, self.n)
    if not len(masks):
      raise ValueError("Need at least one mask to ask for; got none.")
    if seeds is None:
      seeds = self.retrainer.num_seeds
    if isinstance(seeds, int | np.integer):
      seeds = list(range(seeds))
    if not len(seeds):
      raise ValueError("Need at least one seed to ask for; got none.")
    self.retrainer.check(masks)
    hashes = packing.hash_masks(masks)
    missing: dict[bytes, tuple[int, int]] = {}
    for seed in seeds:  # The seeds outside: all masks of one run together.
      for row, key in enumerate(_keys(hashes, seed)):
        if key not in self._known and key not in missing:
          missing[key] = row, seed
    todo = np.array(list(missing.values()), np.int64).reshape(-1, 2)
    asked = len(masks) * len(seeds)
    for start, stop in self._chunks(len(todo)):
      rows = self._train(masks, todo[start:stop])
      self.ledger.append(rows, _facts())
      self._remember(rows)
      self._progress(asked - len(todo) + stop, asked)
    values = np.empty((len(masks), len(seeds), self.retrainer.num_targets))
    for column, seed in enumerate(seeds):
      for row, key in enumerate(_keys(hashes, seed)):
        shard, place = self._known[key]
        values[row, column] = self._rows[shard].values[place]
    return values

  def __call__(self, masks: base.Masks) -> np.ndarray:
    """Means over the retrainer's seeds, of trainings that did not diverge.

    Raises:
      ValueError: what `ask` refuses, or a mask whose trainings all diverged.
    """
    return examples.mean_over_seeds(self.ask(masks))

  def samples(self) -> Samples:
    """All rows, in the order in which they were first trained."""
    return samples(self.ledger)

  @property
  def num_diverged(self) -> int:
    """Rows whose training diverged; they are marked, and in no mean."""
    return sum(int((rows.status > 0).sum()) for rows in self._rows)

  def noise(self, num_seeds: int) -> examples.Noise:
    """The noise floor over the masks that have all of some seeds.

    Raises:
      ValueError: fewer than two seeds, or no mask that has them.
    """
    found = samples(self.ledger)
    hashes = packing.hash_masks(found.masks).view("V16").ravel()
    _, groups = np.unique(hashes, return_inverse=True)
    counts = np.bincount(groups[found.seeds < num_seeds])
    if num_seeds < 2 or not (counts >= 2).any():
      raise ValueError(
        "The noise floor needs masks with two seeds or more: ask(masks, 2)."
      )
    values = np.full((len(counts), num_seeds, found.values.shape[1]), np.nan)
    first = found.seeds < num_seeds
    values[groups[first], found.seeds[first]] = found.values[first]
    return examples.noise_of(values)

  def _chunks(self, count: int) -> "list[tuple[int, int]]":
    """Cuts missing rows into shards: first what was lost, of its own size."""
    edges = [0]
    while edges[-1] < count:
      size = self._lost.pop(0) if self._lost else self.rows_per_shard
      edges.append(min(edges[-1] + size, count))
    return list(itertools.pairwise(edges))

  def _train(self, masks: np.ndarray, todo: np.ndarray) -> shards.Rows:
    """Rows of `(mask, seed)` pairs `[R, 2]`, in their order."""
    values = np.empty((len(todo), self.retrainer.num_targets))
    for seed in np.unique(todo[:, 1]):
      here = todo[:, 1] == seed
      runs = self.retrainer.run(masks[todo[here, 0]], int(seed))
      values[here] = runs.values
    return shards.rows_of(
      masks[todo[:, 0]], values, seeds=todo[:, 1], dtype=self.retrainer.dtype
    )

  def _remember(self, rows: shards.Rows) -> None:
    hashes = packing.hash_packed(rows.packed, rows.n)
    seeds = np.asarray(rows.seeds)
    for place, hash in enumerate(hashes):
      self._known[_key(hash, seeds[place])] = len(self._rows), place
    self._rows.append(rows)


def samples(source: ledger.Ledger) -> Samples:
  """The sound rows of any ledger, such as an imported bank.

  A row that stands there twice (two processes asked at once) counts once.

  Raises:
    ValueError: no row.
  """
  parts = [rows for _, rows in source.scan()]
  if not parts:
    raise ValueError(f"{source.path} holds no row yet.")
  rows = shards.concatenate(parts)
  keys = np.concatenate(
    [
      packing.hash_packed(rows.packed, rows.n).view(np.uint8),
      rows.seeds.astype("<i4")[:, None].view(np.uint8),
    ],
    axis=1,
  )
  rows = rows.take(packing.distinct(keys).first)
  ok = rows.status == shards.Status.OK
  sound = rows.take(ok)
  return Samples(
    sound.masks(),
    sound.values.astype(np.float64),
    sound.seeds,
    int((~ok).sum()),
  )


def _keys(hashes: np.ndarray, seed: int) -> list[bytes]:
  return [_key(hash, seed) for hash in hashes]


def _key(hash: np.ndarray, seed: Any) -> bytes:
  return hash.astype("<u8").tobytes() + int(seed).to_bytes(4, "little")


def _facts() -> dict[str, Any]:
  """Of the manifest: what last digits may depend on, besides the config."""
  return {"jax": jax.__version__, "device": jax.devices()[0].device_kind}
