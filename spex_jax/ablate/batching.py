"""How many masks to run at once: measured, then fixed.

Two sizes matter. A microbatch is what one `vmap` takes: on a CPU small ones
are often fastest, because they stay in the caches; on an accelerator large
ones. A call takes one microbatch or several in a row, so that a call lasts
long enough for its overhead not to show.

Candidates are powers of two. One that would not fit into memory, by the
compiler's own analysis, is not run. On a CPU sizes grow until two in a row are
slower than the best; on an accelerator they shrink from the largest, past
those that run out of memory, until the same happens.
"""

import math
import os
import time
from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax
import numpy as np

from spex_jax.ablate import program as program_lib

# Masks in a call on one device; `explain` asks for 1,024 at a time.
LARGEST = 1024
_CALL_SECONDS = 0.05  # A call should last about this long.
_TIMED_CALLS = 3
_PATIENCE = 2  # Slower sizes in a row before the search ends.
# Of jobs of up to so many masks, whose sizes are not measured.
SMALL = 1024
_MICROBATCH, _CPU_MICROBATCH = 64, 16
_SPARE = 0.8  # Of the memory that is free: others use it too.

Build = Callable[[int, int], program_lib.Program]  # Rows a device, microbatch.


class Candidate(NamedTuple):
  """A batch size that was considered.

  Attributes:
    rows: masks in a call, over all devices.
    microbatch: masks in one `vmap` on one device.
    masks_per_second: as measured; None if it was not run to its end.
    memory_bytes: what the compiler says it needs on one device, or None.
    note: "" or why it was not run: "over the memory limit", "out of memory".
  """

  rows: int
  microbatch: int
  masks_per_second: float | None
  memory_bytes: int | None
  note: str = ""


def choose(
  build: Build,
  n: int,
  *,
  limit: int | None,
  shrink: bool,
  sizes: Sequence[int] | None = None,
) -> tuple[program_lib.Program, tuple[Candidate, ...]]:
  """Measures batch sizes, and returns the fastest program with all measured.

  Args:
    build: compiles a program of some rows a device and some microbatch.
    n: the number of players, the length of a mask.
    limit: bytes that a program may need on one device; None for no limit.
    shrink: start from the largest size, as on an accelerator.
    sizes: microbatches to consider, ascending; powers of two up to
      `LARGEST` by default.

  Raises:
    MemoryError: no size fits.
  """
  tried: list[Candidate] = []
  best: tuple[float, program_lib.Program] | None = None
  worse = 0

  def attempt(per_device: int, microbatch: int) -> float | None:
    nonlocal best
    made, candidate = _measure(build, per_device, microbatch, n, limit)
    tried.append(candidate)
    rate = candidate.masks_per_second
    if made is not None and rate is not None and (not best or rate > best[0]):
      best = rate, made
    return rate

  sizes = sizes or [1 << k for k in range(LARGEST.bit_length())]
  smallest = sizes[0]
  # The smallest alone says how long a mask takes, from above.
  rate = attempt(smallest, smallest)
  if rate is None or best is None:
    raise MemoryError(
      f"Not even a batch of {smallest} masks a device fits: "
      f"{tried[0].note}, {_bytes(tried[0].memory_bytes)} of {_bytes(limit)}. "
      "Use a smaller model or dtype, shorter inputs, or shard the parameters."
    )
  shards = best[1].rows // smallest
  lasting = _power_of_two(_CALL_SECONDS * rate / shards)
  for size in reversed(sizes) if shrink else sizes:
    per_device = max(size, lasting // size * size)
    if (per_device, size) == (smallest, smallest):
      continue  # Measured above.
    fastest = best[0]
    rate = attempt(per_device, size)
    if rate is None:
      if not shrink:
        break  # Larger ones fit still less.
      continue
    worse = 0 if rate > fastest else worse + 1
    if worse == _PATIENCE:
      break
  return best[1], tuple(tried)


def modest(
  build: Build, masks: int, *, limit: int | None, cpu: bool
) -> program_lib.Program:
  """A program of usual sizes, no larger than the job; nothing is measured.

  For jobs so small that measuring would take longer than it could save.

  Args:
    build: compiles a program, as for `choose`.
    masks: the masks of the whole job, on one device.
    limit: bytes that a program may need on one device; None for no limit.
    cpu: whether the devices are CPUs, whose caches hold little.

  Raises:
    MemoryError: not even one mask fits.
  """
  size = min(_CPU_MICROBATCH if cpu else _MICROBATCH, max(masks, 1))
  while True:
    made = build(size, size)
    memory = made.memory_bytes
    if limit is None or memory is None or memory <= limit:
      return made
    if size == 1:
      raise MemoryError(
        f"Not even one mask a device fits: {_bytes(memory)} of "
        f"{_bytes(limit)}. Use a smaller model or dtype, shorter inputs, or "
        "shard the parameters."
      )
    size //= 2


def memory_limit(devices: Sequence[jax.Device]) -> int | None:
  """Bytes that a program may use on each device, or None if nobody says.

  What the device has free; on a CPU, what the machine has free, shared among
  the devices that it simulates.
  """
  limits = []
  for device in devices:
    stats = device.memory_stats() or {}
    if "bytes_limit" in stats:
      free = stats["bytes_limit"] - stats.get("bytes_in_use", 0)
      limits.append(int(_SPARE * free))
  if not limits and devices[0].platform == "cpu":
    try:
      pages = os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (ValueError, OSError, AttributeError):  # Not on this system.
      return None
    limits.append(int(_SPARE * pages) // len(devices))
  return min(limits, default=None)


def out_of_memory(error: BaseException) -> bool:
  """Whether a device or the host ran out of memory."""
  text = str(error).upper()
  return isinstance(error, MemoryError) or (
    "RESOURCE_EXHAUSTED" in text or "OUT OF MEMORY" in text
  )


def _measure(build, per_device, microbatch, n, limit):
  rows, memory = per_device, None
  try:
    made = build(per_device, microbatch)
    rows, memory = made.rows, made.memory_bytes
    if limit is not None and memory is not None and memory > limit:
      note = "over the memory limit"
      return None, Candidate(rows, microbatch, None, memory, note)
    # Neither all kept nor all absent, and no two rows in a row alike.
    masks = np.arange(rows * n).reshape(rows, n) % 3 > 0
    times = []
    for _ in range(1 + _TIMED_CALLS):
      begin = time.perf_counter()
      made.start(masks)()
      times.append(time.perf_counter() - begin)
  except Exception as error:
    if not out_of_memory(error):
      raise
    return None, Candidate(rows, microbatch, None, memory, "out of memory")
  rate = rows / min(times[1:])
  return made, Candidate(rows, microbatch, rate, memory)


def _power_of_two(x: float) -> int:
  return 1 << max(0, min(int(math.log2(max(x, 1))), LARGEST.bit_length() - 1))


def _bytes(count: int | None) -> str:
  return "unknown memory" if count is None else f"{count / 2**20:,.1f} MiB"
