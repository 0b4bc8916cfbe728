"""Banks of others: memmaps of datamodels and COAR, and scores of TRAK.

Trainings of MadryLab's datamodels, and ablations of its COAR, lie in a
directory of `.npy` memmaps with a row each: `masks` (true: kept), the outputs
(`margins`, float16), and `_completed`, set last. The banks that MadryLab
published (datamodels-data) are files of the same kind, all rows complete:
`masks="train_masks_50pct", values="test_margins_50pct"`. TRAK keeps its scores
in `scores/<experiment>.mmap`, which is an `.npy` file too, `[N, T]`, with
`experiments.json` beside. Pickles are never loaded.

Shapes: R rows, n players, T targets, N training examples.
"""

import contextlib
import json
import os
import pathlib

import numpy as np

from spex_jax.masks import packing
from spex_jax.store import ledger, shards

_ROWS = 10_000  # Of a shard.


def import_memmaps(
  source: str | os.PathLike,
  into: ledger.Ledger,
  *,
  masks: str = "masks",
  values: str = "margins",
  rows_per_shard: int = _ROWS,
) -> int:
  """Copies a directory of memmaps into a ledger, which starts empty.

  Rows that were never completed are left out (without a file `_completed.npy`
  all count as complete); a row whose outputs are not
  finite counts as diverged. Every row gets the seed index 0: these banks vary
  the seed with the mask and do not record it. A copy that was interrupted is
  continued, and shards of it that were damaged are copied again.

  Args:
    source: the directory of the memmaps.
    into: the ledger that the rows are written to.
    masks: name of the file of bool `[R, n]`, without `.npy`.
    values: name of the file of floats `[R, T]` or `[R]`, without `.npy`.
    rows_per_shard: the rows per shard of completed rows.

  Returns:
    Rows copied, those of an earlier attempt included.

  Raises:
    FileNotFoundError: a file is missing.
    ValueError: shapes or dtypes that do not fit, no completed row, or a ledger
      that holds other rows: of another source or size of shards, or copied
      before the source had grown.
  """
  kept = _open(source, masks)
  outputs = _open(source, values)
  # Published banks have no such file.
  done = np.ones(len(kept), bool)
  with contextlib.suppress(FileNotFoundError):
    done = _open(source, "_completed")
  if kept.ndim != 2 or len(outputs) != len(kept) or done.size != len(kept):
    raise ValueError(
      f"{source}: {masks} {kept.shape}, {values} {outputs.shape} and "
      f"_completed {done.shape} must have one row per training."
    )
  if kept.dtype.kind not in "bu" or outputs.dtype.kind != "f":
    raise ValueError(
      f"{source}: {masks} must be boolean and {values} floats; they are "
      f"{kept.dtype} and {outputs.dtype}."
    )
  completed = np.flatnonzero(np.asarray(done).reshape(-1))
  if not len(completed):
    raise ValueError(f"{source}: no training was completed.")
  for index, start in enumerate(range(0, len(completed), rows_per_shard)):
    rows = completed[start : start + rows_per_shard]
    if _holds(into, index, kept[rows]):
      continue
    # float16 outputs are exact in float32.
    dtype = np.float64 if outputs.dtype.itemsize == 8 else np.float32
    into.write(index, shards.rows_of(kept[rows], outputs[rows], dtype=dtype))
  return len(completed)


def trak_scores(directory: str | os.PathLike, experiment: str) -> np.ndarray:
  """The scores of a finished experiment of TRAK, float32 `[N, T]`.

  Args:
    directory: TRAK's `save_dir`.
    experiment: its name, a key of TRAK's `experiments.json`.

  Raises:
    FileNotFoundError: no such directory or scores.
    ValueError: an unknown or unfinished experiment, or scores that are not
      finite.
  """
  folder = pathlib.Path(directory)
  known = json.loads((folder / "experiments.json").read_text())
  if experiment not in known:
    names = ", ".join(sorted(known)) or "none"
    raise ValueError(
      f"{folder} has no experiment {experiment!r}; it has {names}."
    )
  if not known[experiment].get("scores_finalized"):
    raise ValueError(f"{folder}: the scores of {experiment!r} are unfinished.")
  # By its name: the recorded path is that of the machine it was made on.
  place = folder / "scores" / f"{experiment}.mmap"
  scores = np.asarray(_load(place), np.float32)
  if scores.ndim != 2 or not np.isfinite(scores).all():
    raise ValueError(f"{place} must hold finite scores [N, T].")
  return scores


def _holds(into: ledger.Ledger, index: int, masks: np.ndarray) -> bool:
  """Whether a sound shard holds these masks; refuses one of others."""
  try:
    stored = into.read(index)
  except KeyError:
    return False
  except ledger.DamagedError as error:
    into.quarantine(index, str(error))
    return False
  if not np.array_equal(stored.packed, packing.pack(masks.astype(bool))):
    raise ValueError(
      f"Shard {index} of {into.path} holds other rows than this copy would put "
      "there. Copy into a new ledger, or with the rows_per_shard of the first "
      "attempt."
    )
  return True


def _open(source: str | os.PathLike, name: str) -> np.ndarray:
  return _load(pathlib.Path(source) / f"{name}.npy")


def _load(place: pathlib.Path) -> np.ndarray:
  return np.load(place, mmap_mode="r", allow_pickle=False)
