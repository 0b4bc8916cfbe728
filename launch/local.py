"""Runs a sweep in several processes of this machine.

  python -m launch.local --config=experiments/configs/sweep_digits.py \
    --workdir=DIR --processes=2

Every process is one task of `spex sweep run`. One that dies is started again,
`--restarts` times; the others go on. `--dry_run` prints the commands. Threads
and devices are split: each process gets its share of the cores.

Exit code 0 if every shard is there, 1 else.
"""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence

from absl import app, flags

from spex_jax.sweeps import state

_POLL = 0.2  # Seconds.


def command(
  config: str, workdir: str, index: int, count: int, extra: Sequence[str] = ()
) -> list[str]:
  """The command of one task."""
  return [
    sys.executable,
    "-c",
    "from spex_jax import cli; cli.run()",
    "sweep",
    "run",
    f"--config={config}",
    f"--workdir={workdir}",
    f"--task_index={index}",
    f"--task_count={count}",
    *extra,
  ]


def run(
  config: str,
  workdir: str,
  processes: int,
  *,
  restarts: int = 3,
  extra: Sequence[str] = (),
) -> bool:
  """Starts all tasks, and those that die again; returns whether all is done.

  Args:
    config: of the sweep, a file.
    workdir: of the sweep.
    processes: tasks.
    restarts: of each task, after it died.
    extra: more flags of `spex sweep run`.
  """
  cores = max(1, (os.cpu_count() or 1) // processes)
  environment = os.environ | {
    "OMP_NUM_THREADS": str(cores),
    "OPENBLAS_NUM_THREADS": str(cores),
    # Cores that XLA's thread pool may use.
    "NPROC": str(cores),
  }
  begin = lambda index: subprocess.Popen(
    command(config, workdir, index, processes, extra), env=environment
  )
  tasks = {index: begin(index) for index in range(processes)}
  left = dict.fromkeys(tasks, restarts)
  try:
    while tasks:
      time.sleep(_POLL)
      for index, process in list(tasks.items()):
        code = process.poll()
        if code is None:
          continue
        del tasks[index]
        if code < 0 and left[index]:  # By a signal: killed, out of memory.
          left[index] -= 1
          print(
            f"task {index} ended by signal {-code}; started again "
            f"({left[index]} more times)",
            file=sys.stderr,
          )
          tasks[index] = begin(index)
        elif code:
          print(f"task {index} ended with {code}", file=sys.stderr)
  except KeyboardInterrupt:
    for process in tasks.values():
      process.send_signal(signal.SIGTERM)
    for process in tasks.values():
      process.wait()
    raise
  return state.status(workdir).complete


def main(argv):
  """Runs, or prints what it would run."""
  given = flags.FLAGS
  extra = argv[1:]
  if given.processes < 1:
    raise app.UsageError("--processes must be at least 1.")
  if given.dry_run:
    for index in range(given.processes):
      words = command(
        given.config, given.workdir, index, given.processes, extra
      )
      print(" ".join(words))
    return
  done = run(
    given.config,
    given.workdir,
    given.processes,
    restarts=given.restarts,
    extra=extra,
  )
  sys.exit(0 if done else 1)


if __name__ == "__main__":
  flags.DEFINE_string("config", None, "File of the sweep.", required=True)
  flags.DEFINE_string("workdir", None, "Its directory.", required=True)
  flags.DEFINE_integer("processes", 2, "Tasks.")
  flags.DEFINE_integer("restarts", 3, "Of a task that was killed.")
  flags.DEFINE_bool("dry_run", False, "Prints the commands.")
  app.run(main)
