"""Runs a sweep in several processes of this machine.

  python -m launch.local --config=experiments/configs/sweep_digits.py \
    --workdir=DIR --processes=2 [-- more flags of `spex sweep run`]

Every process is one task of `spex sweep run`. One that dies is started again,
`--restarts` times; the others go on. One that publishes nothing for `--stall`
seconds (two hours) is killed, and started again, too. Asked to end (TERM, HUP,
or control-C), all end behind their shards. `--dry_run` prints the commands.
Threads and GPUs are split: each process gets its share of the cores, and GPUs
of its own; where there are fewer GPUs than processes, a share of the memory of
one, unless XLA_PYTHON_CLIENT_MEM_FRACTION is set.

Exit code 0 if every shard is there, 75 if it was asked to end before (the same
command goes on), 1 else.
"""

import itertools
import os
import pathlib
import re
import shlex
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence

from absl import app, flags

from launch import children, tending
from spex_jax.store import folders
from spex_jax.sweeps import process_metrics, processes

_POLL = 0.2  # Seconds.
_DEVICES = pathlib.Path("/dev")
_FRACTION = "XLA_PYTHON_CLIENT_MEM_FRACTION"


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


def shares(count: int, environment: Mapping[str, str]) -> list[dict[str, str]]:
  """Variables that give each of `count` processes GPUs of its own.

  Several of them where there are more GPUs than processes, one to share where
  there are fewer; nothing without GPUs.

  Args:
    count: processes.
    environment: of them all.
  """
  gpus = _gpus(environment)
  if not gpus:
    return [{} for _ in range(count)]
  found = []
  for index in range(count):
    own = gpus[index::count] or [gpus[index % len(gpus)]]
    found.append({"CUDA_VISIBLE_DEVICES": ",".join(own)})
  each = -(-count // len(gpus))
  if each > 1 and _FRACTION not in environment:
    for share in found:
      share[_FRACTION] = f"{0.75 / each:.3f}"  # JAX takes 0.75, alone.
  return found


def _gpus(environment: Mapping[str, str]) -> list[str]:
  """The GPUs that a process would see, as CUDA_VISIBLE_DEVICES names them."""
  if environment.get("JAX_PLATFORMS") == "cpu":
    return []
  listed = environment.get("CUDA_VISIBLE_DEVICES")
  if listed is not None:
    names = [name.strip() for name in listed.split(",")]
    # CUDA stops at the first that is none.
    return list(itertools.takewhile(lambda name: name not in ("", "-1"), names))
  try:
    told = subprocess.run(
      ["nvidia-smi", "-L"], capture_output=True, text=True, timeout=60
    ).stdout
  except FileNotFoundError:  # As in a container that is for computing alone.
    devices = [p for p in _DEVICES.glob("nvidia*") if p.name[6:].isdigit()]
    return [str(index) for index in range(len(devices))]
  except (OSError, subprocess.TimeoutExpired):
    return []
  found: list[str] = []
  for name in re.findall(r"UUID: ((?:GPU|MIG)-[^)\s]+)", told):
    # A GPU that is cut up is used by its parts alone; they stand below it.
    if name.startswith("MIG") and found and found[-1].startswith("GPU"):
      found.pop()
    found.append(name)
  return found


def _cores() -> int:
  """Those that this process may use."""
  if hasattr(os, "sched_getaffinity"):
    return len(os.sched_getaffinity(0))
  return os.cpu_count() or 1


class Task:
  """One process of the sweep, and those that were started in its place.

  Attributes:
    index: of the task.
    left: times that it may be started again.
  """

  def __init__(
    self,
    index: int,
    words: list[str],
    restarts: int,
    environment: Mapping[str, str],
  ):
    """Nothing is started yet."""
    self.index, self.left = index, restarts
    self.stalled, self._pauses, self._after = False, iter(children.PAUSES), 0.0
    self._words, self._restarts = words, restarts
    self._environment = environment

  def start(self) -> None:
    """Starts it, again perhaps."""
    self.began, self.stalled, self._after = time.monotonic(), False, 0.0
    self.process = children.started(self._words, self._environment)

  def goes_on(self, code: int) -> bool:
    """Whether it should be started again; says why it ended."""
    if code in (0, 1):
      if code:
        children.say(f"task {self.index} ended with {code}: see above")
      return False
    # One that was killed for its silence lived long, and did nothing.
    if not self.stalled and time.monotonic() - self.began > children.STEADY:
      self.left, self._pauses = self._restarts, iter(children.PAUSES)
    if code == os.EX_TEMPFAIL:  # Its store was out of reach, say.
      pause = next(self._pauses, None)
      if pause is not None:
        children.say(f"task {self.index} can go on; started again in {pause} s")
        self._after = time.monotonic() + pause
        return True
    cause = f"by signal {-code}" if code < 0 else f"with {code}"
    if not self.left:
      children.say(f"task {self.index} ended {cause}, once too often")
      return False
    self.left -= 1
    children.say(
      f"task {self.index} ended {cause}; started again ({self.left} more times)"
    )
    return True

  @property
  def pauses(self) -> bool:
    """Whether it waits for its next start."""
    return self._after > 0

  def is_due(self) -> bool:
    """Whether its pause is over."""
    return time.monotonic() >= self._after

  def silent_for(self, folder: folders.Folder) -> float:
    """Seconds since it wrote to its log, or was started."""
    mine = f"{socket.gethostname()}.{self.process.pid}."
    latest = 0.0
    try:
      for name in folder.names(process_metrics.FOLDER, deep=True):
        if name.startswith(mine):
          latest = max(
            latest, folder.modified(f"{process_metrics.FOLDER}/{name}")
          )
    except Exception as error:  # A store that does not answer tells nothing.
      children.say(f"the store does not answer: {error}")
      return 0.0
    lived = time.monotonic() - self.began
    return min(lived, time.time() - latest) if latest else lived


def run(
  config: str,
  workdir: str,
  count: int,
  *,
  restarts: int = 3,
  stall: float = 0.0,
  extra: Sequence[str] = (),
) -> int:
  """Starts all tasks, and those that die again; returns the exit code.

  Args:
    config: of the sweep, a file.
    workdir: of the sweep.
    count: tasks.
    restarts: of each task, after it died; again as many once one has lived for
      ten minutes.
    stall: seconds without a line in its log after which a task is killed; 0
      for none.
    extra: more flags of `spex sweep run`.
  """
  cores = str(max(1, _cores() // count))
  # The last is of XLA's thread pool.
  names = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NPROC")
  split = os.environ | dict.fromkeys(names, cores)
  tasks = [
    Task(i, command(config, workdir, i, count, extra), restarts, split | share)
    for i, share in enumerate(shares(count, os.environ))
  ]
  watch = tending.Watch(workdir, count)
  folder = folders.opened(workdir)
  told = looked = time.monotonic()
  asked = False
  with processes.until_signalled() as signalled:
    for task in tasks:
      task.start()
    while tasks:
      time.sleep(_POLL)
      if signalled() and not asked:
        asked = True
        children.say("asked to end: each task ends behind its shard")
        for task in tasks:
          task.process.send_signal(signal.SIGTERM)
      now = time.monotonic()
      if stall and now - looked > min(stall / 4, 30.0):
        looked = now
        for task in tasks:
          if task.process.poll() is None and task.silent_for(folder) > stall:
            children.say(f"task {task.index} said nothing for {stall:g} s")
            task.stalled = True
            task.process.kill()
      if now - told > _REPORT:
        told = now
        watch.look()
      for task in list(tasks):
        if task.pauses:
          if asked:
            tasks.remove(task)
          elif task.is_due():
            task.start()
          continue
        code = task.process.poll()
        if code is None:
          continue
        if asked or not task.goes_on(code):
          tasks.remove(task)
        elif not task.pauses:
          task.start()
  if tending.verdict(workdir, watch.look()):
    return 0
  return os.EX_TEMPFAIL if asked else 1


_REPORT = 30.0  # Seconds between two lines about the whole.


def main(argv):
  """Runs, or prints what it would run."""
  given = flags.FLAGS
  extra = argv[1:]
  config, workdir = tending.checked(
    given.config, given.workdir, given.processes, extra
  )
  for index, share in enumerate(shares(given.processes, os.environ)):
    words = [f"{name}={shlex.quote(value)}" for name, value in share.items()]
    task = command(config, workdir, index, given.processes, extra)
    print(" ".join([*words, shlex.join(task)]))
  if given.dry_run:
    return
  sys.stdout.flush()
  sys.exit(
    run(
      config,
      workdir,
      given.processes,
      restarts=given.restarts,
      stall=given.stall,
      extra=extra,
    )
  )


if __name__ == "__main__":
  flags.DEFINE_string("config", None, "File of the sweep.", required=True)
  flags.DEFINE_string("workdir", None, "Its directory.", required=True)
  flags.DEFINE_integer("processes", 2, "Tasks.", lower_bound=1)
  flags.DEFINE_integer("restarts", 3, "Of a task that was killed.")
  flags.DEFINE_float("stall", 7200.0, "Seconds of silence; 0: for ever.")
  flags.DEFINE_bool("dry_run", False, "Prints the commands.")
  app.run(main)
