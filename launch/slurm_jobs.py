"""The jobs of a sweep on Slurm: submitted, asked after, submitted again.

Completion is read from the sweep's files. Of Slurm we ask only which jobs are
queued or running: without accounting it forgets the others.
"""

import collections
import contextlib
import dataclasses
import fcntl
import json
import os
import pathlib
import subprocess
import time
from collections.abc import Iterator, Sequence
from typing import Any

from launch import local, slurm_task, tending

_MARGIN = 15  # Seconds between a child's last and its job's.
_TRIES = 3  # Of squeue, before its answer counts as unknown.
# Of a job that should be so for seconds, or until somebody releases it.
_IDLE = ("COMPLETING", "HELD")
_HELD = "requeued held"  # In words of Slurm's: its launch failed.
_FOREVER = 1_000_000  # Time limits that a task may reach.


@dataclasses.dataclass(frozen=True)
class Plan:
  """What is to be submitted.

  Attributes:
    config, workdir, count, extra: of `spex sweep run`.
    log_dir: of submitit's files, and ours.
    parameters: of submitit's executor.
    nodes: processes of one task, each on a node of its own.
    gpus: of one process.
    restarts: of a child that was killed.
    signal_delay: seconds between Slurm's warning and the time limit.
  """

  config: str
  workdir: str
  count: int
  extra: tuple[str, ...]
  log_dir: pathlib.Path
  parameters: dict[str, Any]
  nodes: int = 1
  gpus: int = 0
  restarts: int = 3
  signal_delay: int = 90

  def task(self, index: int) -> slurm_task.Task:
    """What a job runs."""
    extra, environment = list(self.extra), {}
    if self.nodes > 1:
      extra.append("--distributed")
      if self.gpus:
        # JAX would give a process under Slurm one device, by its local number.
        devices = ",".join(map(str, range(self.gpus)))
        environment["JAX_LOCAL_DEVICE_IDS"] = devices
    return slurm_task.Task(
      local.command(self.config, self.workdir, index, self.count, extra),
      index=index,
      restarts=self.restarts,
      patience=max(self.signal_delay - _MARGIN, 1),
      environment=environment,
      log_dir=str(self.log_dir),
    )


class Jobs:
  """The jobs of one sweep: a file of their numbers, and what squeue knows."""

  def __init__(self, log_dir: pathlib.Path):
    """`log_dir` need not be there yet."""
    self._place = log_dir / "jobs.json"
    self.submitted: list[dict[str, Any]] = []
    self._read()

  def add(self, job: str, tasks: Sequence[int], count: int) -> None:
    """Remembers an array whose elements are these tasks."""
    self._read()
    entry = {"job": job, "tasks": list(tasks), "count": count}
    self.submitted.append(entry | {"time": time.time()})
    draft = self._place.with_suffix(f".{os.getpid()}.tmp")
    draft.write_text(json.dumps(self.submitted))
    draft.replace(self._place)

  def _read(self) -> None:
    """Other launchers of this sweep may have added theirs."""
    with contextlib.suppress(FileNotFoundError):
      self.submitted = json.loads(self._place.read_text())

  def last(self, task: int) -> str | None:
    """The job that a task was last submitted with, as `123_4`."""
    for entry in reversed(self.submitted):
      if task in entry["tasks"]:
        return f"{entry['job']}_{entry['tasks'].index(task)}"
    return None

  def alive(self) -> dict[tuple[int, int], str] | None:
    """Tasks that are queued or running, as index and count, with their state.

    None if Slurm does not answer.
    """
    self._read()
    if not self.submitted:
      return {}
    listed = _squeue()
    if listed is None:
      return None
    known = {entry["job"]: entry for entry in self.submitted}
    found = {}
    for line in listed.splitlines():
      job, element, state, reason = [*line.split(maxsplit=3), "", "", ""][:4]
      # A job of one task is no array.
      place = int(element) if element.isdigit() else 0
      if job in known and place < len(known[job]["tasks"]):
        task = known[job]["tasks"][place], known[job]["count"]
        if found.get(task, _IDLE[0]) in _IDLE:  # Else, a later job is it.
          found[task] = "HELD" if _HELD in reason else state
    return found


def _squeue() -> str | None:
  """One line for each of our tasks; None if Slurm does not answer."""
  words = ["squeue", "--me", "--noheader", "--array", "--format=%F %K %T %r"]
  error = ""
  for attempt in range(_TRIES):
    if attempt:
      time.sleep(1)
    asked = subprocess.run(words, capture_output=True, text=True)
    if asked.returncode == 0:
      return asked.stdout
    error = asked.stderr.strip()
  tending.say(f"squeue does not answer: {error}")
  return None


@contextlib.contextmanager
def alone(log_dir: pathlib.Path) -> Iterator[None]:
  """No other launcher submits between our look and our submission.

  Raises:
    SystemExit: no permission, or no room; one line says what to do.
  """
  try:
    log_dir.mkdir(parents=True, exist_ok=True)
    file = (log_dir / "lock").open("w")
  except OSError as error:
    raise SystemExit(
      f"{log_dir} cannot be written: {error.strerror}. Give another --workdir "
      "or --logs."
    ) from error
  with file:
    fcntl.flock(file, fcntl.LOCK_EX)
    yield


def submit(plan: Plan, tasks: Sequence[int], jobs: Jobs) -> str:
  """Submits tasks as one array; returns its number.

  Raises:
    SystemExit: sbatch refused it; with its words.
  """
  import submitit

  executor = submitit.SlurmExecutor(plan.log_dir, max_num_timeout=_FOREVER)
  executor.update_parameters(**plan.parameters)
  try:
    with executor.batch():
      made = [executor.submit(plan.task(index)) for index in tasks]
  except (
    submitit.core.utils.FailedJobError,
    submitit.core.utils.FailedSubmissionError,
    subprocess.CalledProcessError,
  ) as error:
    words = str(getattr(error, "stderr", None) or error).split()
    raise SystemExit(f"sbatch refused the array: {' '.join(words)}") from error
  job = made[0].job_id.partition("_")[0]
  jobs.add(job, tasks, plan.count)
  tending.say(
    f"submitted {len(tasks)} of {plan.count} tasks as job {job}; logs in "
    f"{plan.log_dir}"
  )
  return job


def script(plan: Plan, tasks: Sequence[int]) -> str:
  """What sbatch would get."""
  import submitit

  class Printer(submitit.SlurmExecutor):
    """Needs no Slurm."""

    @classmethod
    def affinity(cls) -> int:
      return 1

  executor = Printer(plan.log_dir)
  executor.update_parameters(**plan.parameters)
  if len(tasks) > 1:
    executor.parameters["map_count"] = len(tasks)
  return executor._make_submission_file_text(executor._submitit_command_str, "")


def follow(
  plan: Plan, jobs: Jobs, *, resubmits: int, poll: float, stall: float
) -> bool:
  """Waits until all is there, or nothing more will come.

  A task whose job is gone while it has missing shards is submitted again, when
  it was found so twice: a shared file system shows new files late. A job that
  does nothing but complete, or is held as its launch failed, for `stall`
  seconds counts as gone: a controller that dies at the wrong time leaves it so
  for ever.
  """
  watch = tending.Watch(plan.workdir, plan.count, stall=stall)
  again: collections.Counter[int] = collections.Counter()
  suspected: set[int] = set()
  leaving: dict[int, float] = {}  # Since when.
  while True:
    alive = jobs.alive()  # Before the store: what ends now has published.
    found = watch.look()
    if found is not None and found.complete:
      return tending.verdict(plan.workdir, found)
    missing = watch.missing()
    if alive is not None and missing is not None:
      now, mine = time.monotonic(), _states(alive, plan.count)
      leaving = {
        index: leaving.get(index, now)
        for index, state in mine.items()
        if state in _IDLE
      }
      stuck = {i for i, since in leaving.items() if now - since > stall}
      gone = set(missing) - (mine.keys() - stuck)
      sure = sorted(gone & suspected)
      suspected = gone
      mended = [
        index
        for index in sure
        if again[index] < resubmits and _worth(plan, jobs, index)
      ]
      if mended:
        again.update(mended)
        suspected -= set(mended)
        _submit_again(plan, mended, jobs)
      elif len(alive) == len(stuck) and len(sure) == len(gone):
        for index in sure[:10]:
          tending.say(f"task {index} {why(plan, jobs, index)}; not tried again")
        return tending.verdict(plan.workdir, found)
    time.sleep(poll)


def _states(alive: dict[tuple[int, int], str], count: int) -> dict[int, str]:
  """Of the tasks of a sweep that is cut into `count`."""
  return {task: state for (task, of), state in alive.items() if of == count}


def _submit_again(plan: Plan, tasks: Sequence[int], jobs: Jobs) -> None:
  """Tells why; leaves those that another launcher was first to submit."""
  with alone(plan.log_dir):
    alive = jobs.alive()
    if alive is None:
      return
    mine = _states(alive, plan.count)
    tasks = [index for index in tasks if mine.get(index, _IDLE[0]) in _IDLE]
    for index in tasks[:10]:
      tending.say(f"task {index} {why(plan, jobs, index)}")
    if tasks:
      submit(plan, tasks, jobs)


def why(plan: Plan, jobs: Jobs, index: int) -> str:
  """How a task's last job ended."""
  job = jobs.last(index)
  if job is None:
    return "was never submitted"
  entry = _outcome(plan, jobs, index)
  found = sorted(plan.log_dir.glob(f"{job}_*_log.err"))
  found += sorted(plan.log_dir.glob(f"{job.partition('_')[0]}_?_log.err"))
  lines = [
    line.strip()
    for place in found[:1]
    for line in place.read_text(errors="replace").splitlines()
    if line.strip()
  ]
  last = f" Its last words in {found[0].name}: {lines[-1]}" if lines else ""
  if entry is None:
    return f"(job {job}) went without a word: killed, or its node lost.{last}"
  return f"(job {job}) ended with {entry['code']}.{last}"


def _outcome(plan: Plan, jobs: Jobs, index: int) -> dict[str, Any] | None:
  """What a process of the last job wrote of it; the worst, of several."""
  job, found = jobs.last(index), []
  for rank in range(plan.nodes):
    with contextlib.suppress(FileNotFoundError, ValueError):
      place = slurm_task.outcome_file(str(plan.log_dir), index, rank)
      entry = json.loads(place.read_text())
      if job is not None and entry["job"] == job.partition("_")[0]:
        found.append(entry)
  errors = [entry for entry in found if entry["code"] == 1]
  return next(iter(errors + found), None)


def _worth(plan: Plan, jobs: Jobs, index: int) -> bool:
  """Whether trying again may mend it: 1 is an error that stays."""
  entry = _outcome(plan, jobs, index)
  return entry is None or entry["code"] != 1
