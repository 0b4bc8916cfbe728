"""Sweeps for an hour, under faults: nothing is lost, and memory is flat.

  python -m experiments.soak --workdir=DIR                  # an hour, 2 cores
  python -m experiments.soak --workdir=DIR --config=quick   # a minute

One process sweeps again and again, in folders of its own, for as long as that
takes; its memory is read behind every sweep. Beside it two workers do the same
sweep, round after round, while one fault after another is drawn:

  kill    a worker ends at once (SIGKILL), and is started again
  end     a worker is asked to end (SIGTERM), and is started again
  stop    a worker is stopped for a second or two, and goes on
  full    a worker can write no more than 2 kB to a file, as on a full disk
  flip    a bit of something published is another
  cut     the end of something published is gone
  gone    a file of a published shard is gone

Behind every round the workers' command runs on until all is there, `verify`
reads every byte, what it put aside is made again, and the bytes of all shards
must be those of a sweep that nobody disturbed. One difference ends the soak.

Prints one JSON line: rounds, shards of these and of the steady process that
were compared, faults of each kind (of workers that still ran), and the bytes of
memory of the steady process, early and late. Expect no shard lost, and memory
late within a few per cent of early.
"""

import dataclasses
import json
import os
import pathlib
import resource
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator

import numpy as np
from absl import flags

from experiments import command, rows
from experiments.configs import sweep_digits
from launch import local
from spex_jax.jobs import sweeping
from spex_jax.sweeps import run, state

_ROOT = pathlib.Path(__file__).parents[1]
_FILE = str(_ROOT / "experiments/configs/sweep_digits.py") + ":quick"
_PATIENCE = 600.0  # Seconds that one wait may take.
_FULL = 2048  # Bytes of a file.


@dataclasses.dataclass(frozen=True)
class Config:
  """Sizes.

  Attributes:
    seconds: after which no round is begun.
    rows: of each of the two items of a sweep.
    faults: of a round.
    seed: of the faults.
  """

  seconds: float = 3600.0
  rows: int = 120
  faults: int = 12
  seed: int = 0


CONFIGS = {
  "full": Config(),
  "quick": Config(seconds=1.0, rows=24, faults=7),
}


def soak(config: Config, workdir: pathlib.Path) -> Iterator[rows.Row]:
  """Yields the row, when the time is over.

  Args:
    config: sizes.
    workdir: an empty folder; what is right is removed again.

  Raises:
    RuntimeError: something was lost, differs, or does not end.
  """
  settings = _settings(config)
  _finish([_start(workdir / "whole", settings, k) for k in range(2)])
  whole = published(workdir / "whole")
  begin = time.monotonic()
  beside = subprocess.Popen(
    [
      sys.executable, "-m", "experiments.soak", "--role=steady",
      f"--workdir={workdir}", f"--seconds={config.seconds}",
      f"--rows={config.rows}",
    ],
    cwd=_ROOT,
  )  # fmt: skip
  rng, faults, rounds = np.random.default_rng(config.seed), dict[str, int](), 0
  try:
    while not rounds or time.monotonic() < begin + config.seconds:
      for name in _round(workdir / "faulty", settings, config, whole, rng):
        faults[name] = faults.get(name, 0) + 1
      rounds += 1
  except BaseException:
    beside.kill()  # It would sweep on for the rest of the hour.
    raise
  if beside.wait(_PATIENCE):
    raise RuntimeError(f"The steady process ended with {beside.returncode}.")
  swept = rows.read(workdir / "steady.jsonl")
  memory = np.array([row["bytes"] for row in swept])
  tenth = max(1, len(memory) // 10)
  yield rows.common("soak") | {
    "seconds": round(time.monotonic() - begin),
    "rounds": rounds,
    "shards_under_faults": rounds * len(whole) // 2,
    "shards_steady": len(swept) * len(whole) // 2,
    "faults": faults,
    "steady_sweeps": len(swept),
    "early_mb": round(float(np.median(memory[tenth : 2 * tenth])) / 1e6)
    if len(memory) > 1
    else round(memory[0] / 1e6),
    "late_mb": round(float(np.median(memory[-tenth:])) / 1e6),
    "load": round(os.getloadavg()[0], 1),
  }


def steady(config: Config, workdir: pathlib.Path) -> Iterator[rows.Row]:
  """Sweeps in this process till the time is over; yields its memory."""
  whole = published(workdir / "whole")
  plan = sweep_digits.get_config("quick")
  plan.model.kind, plan.rows, plan.rows_per_shard = "ridge", config.rows, 2
  sweep = sweeping.freeze(plan, sweep_digits.sweep("quick"))
  sources = sweeping.sources(sweep)
  begin, number = time.monotonic(), 0
  while not number or time.monotonic() < begin + config.seconds:
    place = workdir / "steady"
    run.Run(place, sweep, sweeping.build, sources=sources).run()
    compare(place, whole)
    shutil.rmtree(place)
    number += 1
    yield {"sweep": number, "bytes": _resident()}


def _settings(config: Config) -> tuple[str, ...]:
  # Ridge regressions compile in a second; small shards leave room to kill.
  return (
    "--config.model.kind=ridge",
    f"--config.rows={config.rows}",
    "--config.rows_per_shard=2",
  )


def _round(workdir, settings, config, whole, rng) -> Iterator[str]:
  """One sweep under faults; yields the name of each."""
  workers = [_start(workdir, settings, k) for k in range(2)]
  for _ in range(config.faults):
    _let_work(workers, workdir / "shards", float(rng.exponential(1.0)))
    which = int(rng.integers(2))
    name = str(rng.choice([*_SIGNALS, *_OF_FILES]))
    if name in _OF_FILES:
      if damage(workdir / "shards", name, rng):
        yield name
      continue
    worker = workers[which]
    if worker.poll() is not None:  # Nothing can happen to it, and it may mend.
      workers[which] = _start(workdir, settings, which)
      continue
    worker.send_signal(_SIGNALS[name])
    if name == "stop":
      time.sleep(float(rng.uniform(1.0, 2.0)))
      worker.send_signal(signal.SIGCONT)
    else:
      worker.wait(_PATIENCE)
      limit = (_FULL,) if name == "full" else ()
      workers[which] = _start(workdir, settings, which, *limit)
    yield name
  for worker in workers:
    worker.wait(_PATIENCE)
  # What verification puts aside is made again.
  for _ in range(2):
    _finish([_start(workdir, settings, k) for k in range(2)])
    found = state.verify(workdir)
    if not found.damaged and not found.missing:
      break
  compare(workdir, whole)
  shutil.rmtree(workdir)


def _let_work(workers, folder: pathlib.Path, seconds: float) -> None:
  """Waits for another shard, or half a minute, and so long behind it."""
  number = lambda: len(list(folder.glob("[0-9]*")))
  count, end = number(), time.monotonic() + 30.0
  while number() <= count and time.monotonic() < end:
    if all(worker.poll() is not None for worker in workers):
      break  # All is there.
    time.sleep(0.05)
  time.sleep(seconds)


_SIGNALS = {
  "kill": signal.SIGKILL,
  "end": signal.SIGTERM,
  "full": signal.SIGTERM,
  "stop": signal.SIGSTOP,
}
_OF_FILES = ("flip", "cut", "gone")


def damage(folder: pathlib.Path, name: str, rng: np.random.Generator) -> bool:
  """Does that to a file of a published shard; whether it changed one."""
  places = sorted(folder.glob("[0-9]*")) if folder.exists() else []
  if not places:
    return False
  place = places[rng.integers(len(places))]
  data = bytearray(place.read_bytes())
  if name == "gone":
    place.unlink()
  elif not data:
    return False  # Cut before.
  elif name == "cut":
    place.write_bytes(data[: rng.integers(len(data))])
  else:
    data[rng.integers(len(data))] ^= 1 << rng.integers(8)
    place.write_bytes(data)
  return True


def _start(workdir, settings, index, limit=resource.RLIM_INFINITY):
  """A worker, which can write so many bytes to a file."""
  return subprocess.Popen(
    local.command(_FILE, str(workdir), index, 2, settings),
    cwd=_ROOT,
    stdout=subprocess.DEVNULL,
    stderr=subprocess.DEVNULL,
    preexec_fn=lambda: resource.setrlimit(
      resource.RLIMIT_FSIZE, (limit, limit)
    ),
  )


def _finish(workers):
  for worker in workers:
    if worker.wait(_PATIENCE):
      raise RuntimeError(f"A worker ended with {worker.returncode}.")


def published(workdir: pathlib.Path) -> dict[str, bytes]:
  """Of all that is published. What was in flight has a dot in front."""
  return {
    place.name: place.read_bytes()
    for place in (workdir / "shards").glob("[0-9]*")
  }


def compare(workdir: pathlib.Path, whole: dict[str, bytes]) -> None:
  """Raises RuntimeError where published files are lost, or others."""
  left = published(workdir)
  other = sorted(
    name
    for name in left.keys() | whole.keys()
    if left.get(name) != whole.get(name)
  )
  if other:
    raise RuntimeError(
      f"{workdir}: {len(other)} files of {len(whole)} are lost or others, "
      f"{other[0]} first."
    )


def _resident() -> int:
  """Bytes of memory that this process holds now."""
  pages = pathlib.Path("/proc/self/statm").read_text().split()[1]
  return int(pages) * resource.getpagesize()


def main(argv):
  """Prints the row."""
  del argv
  given = flags.FLAGS
  workdir = pathlib.Path(given.workdir)
  workdir.mkdir(parents=True, exist_ok=True)
  config = CONFIGS[given.config]
  if given.seconds is not None:
    config = dataclasses.replace(config, seconds=given.seconds)
  if given.rows is not None:
    config = dataclasses.replace(config, rows=given.rows)
  if given.role == "steady":
    with open(workdir / "steady.jsonl", "w") as file:
      for row in steady(config, workdir):
        print(json.dumps(row), file=file, flush=True)
  else:
    rows.write(soak(config, workdir), given.output)


if __name__ == "__main__":
  flags.DEFINE_enum("role", "soak", ["soak", "steady"], "For its own use.")
  flags.DEFINE_float("seconds", None, "Instead of the hour.")
  flags.DEFINE_integer("rows", None, "Rows of an item.")
  flags.DEFINE_string("workdir", None, "An empty folder.", required=True)
  command.run(main, CONFIGS)
