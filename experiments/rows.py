"""What the benchmarks share: rows as they come, tables, and timing."""

import contextlib
import functools
import json
import os
import pathlib
import platform
import time
import zlib
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import jax
import numpy as np

from spex_jax import base
from spex_jax.fourier import score

Row = dict[str, Any]
KEPT = 64  # Masks of a call whose values are kept.


def common(bench: str) -> Row:
  """What every row says about where it was measured."""
  return {
    "bench": bench,
    "device": jax.devices()[0].device_kind,
    "python": platform.python_version(),
    "jax": jax.__version__,
    "numpy": np.__version__,
  }


def write(rows: Iterable[Row], output: str | None = None) -> list[Row]:
  """Prints each row as a JSON line as soon as it comes; returns them all.

  Args:
    rows: measured while they are asked for.
    output: file for the lines too, or None. What was there is overwritten, once
      there is a row.
  """
  kept = []
  with contextlib.ExitStack() as stack:
    file = None
    for row in rows:
      if file is None:
        file = stack.enter_context(open(output or os.devnull, "w"))
      line = json.dumps(row)
      print(line, flush=True)
      print(line, file=file, flush=True)
      kept.append(row)
  return kept


def read(path: str | os.PathLike) -> list[Row]:
  """The rows of a file that `write` wrote."""
  lines = pathlib.Path(path).read_text().splitlines()
  return [json.loads(line) for line in lines if line]


def r2(
  truth: base.Values, guess: base.Values, name: str = "r2", digits: int = 4
) -> Row:
  """R² of guesses, and its standard error over these masks, beside it."""
  return {
    name: round(float(score.r2(truth, guess)), digits),
    f"{name}_std": round(float(score.r2_std(truth, guess)), digits),
  }


class Kept:
  """Arrays in a folder, so that a run that was stopped goes on.

  Arrays of other settings lie in other folders. Without a folder none is kept.
  """

  def __init__(self, folder: str | os.PathLike | None, *settings: Any):
    """Names the folder; `settings` tell themselves whole by `repr`."""
    mark = zlib.crc32(repr(settings).encode())
    self._folder = None
    if folder is not None:
      self._folder = pathlib.Path(folder) / f"{mark:08x}"

  def __call__(
    self, name: str, make: Callable[[], Any]
  ) -> tuple[np.ndarray, float]:
    """What `make` returned, now or before, and the seconds that it took."""
    path = None
    if self._folder is not None:
      path = self._folder / f"{name.replace(' ', '-')}.npz"
      if path.exists():
        with np.load(path) as found:
          return found["values"], float(found["seconds"])
    begin = time.perf_counter()
    values = np.asarray(make())
    seconds = time.perf_counter() - begin
    if path is not None:
      path.parent.mkdir(parents=True, exist_ok=True)
      part = path.with_suffix(".part.npz")
      np.savez(part, values=values, seconds=seconds)
      part.replace(path)  # Whole, or not at all.
    return values, seconds

  def values(
    self, name: str, value_fn: base.ValueFn, size: int = KEPT
  ) -> base.ValueFn:
    """A value function whose values are kept, `size` masks at a time."""

    def asked(masks):
      masks, found = np.asarray(masks, bool), []
      for part in np.split(masks, range(size, len(masks), size)):
        mark = zlib.crc32(np.packbits(part, axis=1).tobytes())
        make = functools.partial(value_fn, part)
        found.append(self(f"{name} {mark:08x}", make)[0])
      return np.concatenate(found)

    return asked


def table(header: Sequence[str], lines: Iterable[Sequence[str]]) -> str:
  """A markdown table of cells."""
  rule = ["---"] * len(header)
  parts = [header, rule, *lines]
  return "\n".join("| " + " | ".join(cells) + " |" for cells in parts)


def seconds(
  fn: Callable[..., Any], *args: Any, repeats: int
) -> tuple[float, float]:
  """Returns (first call, best later call): compile cost, then steady cost.

  Each call ends when its result is ready. Without repeats, the first call
  stands for both.
  """
  times = []
  for _ in range(repeats + 1):
    start = time.perf_counter()
    jax.block_until_ready(fn(*args))
    times.append(time.perf_counter() - start)
  return times[0], min(times[1:] or times)
