"""Times a sweep's own work: rows to disk, memory, and going on after a kill.

  python -m experiments.bench_sweep --workdir=/tmp/sweep   # a minute or two
  python -m experiments.bench_sweep --config=quick --workdir=/tmp/sweep

Prints one JSON line per row. Rows:

  rows    10^7 masks of 1,000 players through a weighted sum: rows per second
          from drawing masks to fsynced, checksummed Parquet; the peak of memory
          after a tenth of them and at the end, which a run of any length keeps
  parts   the same work by itself: masks, values, Parquet with checksums, fsync
  resume  1,000 shards: seconds until a run knows that nothing is left to do,
          and to read and check every byte

The folder is left as it is, for a look by `spex sweep status`.
"""

import dataclasses
import os
import pathlib
import resource
import time
from collections.abc import Iterator

import ml_collections
from absl import flags

from experiments import command, rows
from experiments.configs import sweep_scale
from spex_jax import base
from spex_jax.jobs import sweeping
from spex_jax.store import shards
from spex_jax.sweeps import grid, run, state


@dataclasses.dataclass(frozen=True)
class Config:
  """Sizes.

  Attributes:
    rows: of the sweep.
    rows_per_shard: of them.
    num_shards: of the row `resume`, 64 rows each.
  """

  rows: int = 10_000_000
  rows_per_shard: int = 100_000
  num_shards: int = 1000


CONFIGS = {"full": Config(), "quick": Config(20_000, 2_000, 20)}


def bench(config: Config, workdir: pathlib.Path) -> Iterator[rows.Row]:
  """Yields the rows; each in a folder of its own."""
  common = rows.common("sweep") | {"cores": os.cpu_count()}
  settings = sweep_scale.get_config()
  settings.rows, settings.rows_per_shard = config.rows, config.rows_per_shard
  peaks = []

  def note(done: int, total: int, what: str) -> None:
    del what
    if not peaks and done >= total / 10:
      peaks.append(_peak())

  report = _run(settings, workdir / "rows", progress=note)
  peaks.append(_peak())
  size = sum(
    place.stat().st_size for place in (workdir / "rows/shards").iterdir()
  )
  yield common | {
    "row": "rows",
    "n": settings.n,
    "rows": report.rows,
    "rows_per_shard": config.rows_per_shard,
    "seconds": round(report.seconds, 2),
    "rows_per_s": round(report.rows / max(report.seconds, 1e-9)),
    "peak_mb_after_a_tenth": round(peaks[0] / 1e6),
    "peak_mb": round(peaks[-1] / 1e6),
    "bytes_per_row": round(size / config.rows, 1),
    "load": round(os.getloadavg()[0], 1),
  }
  yield common | _parts(settings, workdir)
  settings.rows, settings.rows_per_shard = 64 * config.num_shards, 64
  _run(settings, workdir / "resume")
  begin = time.perf_counter()
  again = _run(settings, workdir / "resume")
  resumed = time.perf_counter() - begin
  begin = time.perf_counter()
  found = state.verify(workdir / "resume")
  yield common | {
    "row": "resume",
    "shards": found.sound,
    "made_again": again.shards,
    "resume_s": round(resumed, 3),
    "verify_s": round(time.perf_counter() - begin, 3),
  }


def _run(settings, folder, **more) -> run.Report:
  sweep = grid.freeze(settings, [{}])
  return run.Run(folder, sweep, sweeping.build).run(**more)


def _parts(settings: ml_collections.ConfigDict, workdir: pathlib.Path):
  """Seconds that one shard spends on each part."""
  work = sweeping.build(settings)
  times = {}
  begin = time.perf_counter()

  def lap(name: str) -> None:
    nonlocal begin
    times[f"{name}_s"] = round(time.perf_counter() - begin, 3)
    begin = time.perf_counter()

  masks = work.masks(0, settings.rows_per_shard)
  lap("masks")
  values = work.values(masks)
  lap("values")
  found = shards.rows_of(masks, values)
  lap("rows")
  data = shards.to_bytes(found)
  lap("parquet")
  place = workdir / "part"
  place.write_bytes(data)
  base.sync(place)
  lap("fsync")
  place.unlink()
  return {"row": "parts", "rows": settings.rows_per_shard, **times}


def _peak() -> int:
  """Bytes of memory at most, so far."""
  return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def main(argv):
  """Prints the rows."""
  del argv
  given = flags.FLAGS
  workdir = pathlib.Path(given.workdir)
  workdir.mkdir(parents=True, exist_ok=True)
  rows.write(bench(CONFIGS[given.config], workdir), given.output)


if __name__ == "__main__":
  flags.DEFINE_string("workdir", None, "An empty folder.", required=True)
  command.run(main, CONFIGS)
