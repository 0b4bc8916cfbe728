"""One task of a sweep inside a job of Slurm: what submitit runs on a node.

`spex sweep run` is a child process, so that a crash of it ends nothing else.
Signals, and what is done about them:

  USR2, or SUBMITIT_PREEMPT_SIGNAL   the time limit, or a preemption: the child
      ends behind its shard, and submitit requeues the job
  TERM    Slurm's own word before it preempts or cancels: the child ends behind
      its shard; in the first case the job is queued again, which Slurm does not
      do by itself for one that ends within its GraceTime
"""

import dataclasses
import json
import os
import pathlib
import re
import signal
import subprocess
import time
from typing import Any

from launch import tending


@dataclasses.dataclass
class Task:
  """Callable once; submitit pickles it.

  Attributes:
    words: of the command.
    index: of the task.
    restarts: of the child, after it was killed.
    patience: seconds that it has to end behind its shard.
    environment: more variables of the child.
    log_dir: where it says how it ended.
  """

  words: list[str]
  index: int
  restarts: int
  patience: float
  environment: dict[str, str]
  log_dir: str

  _child: tending.Child | None = dataclasses.field(default=None, init=False)
  _rank: int = dataclasses.field(default=0, init=False)

  def __call__(self) -> None:
    """Runs the child to its end.

    Raises:
      SystemExit: with its code, unless that is 0.
    """
    import submitit

    self._rank = submitit.JobEnvironment().global_rank
    warning = preempt_signal()
    self._child = tending.Child(
      self.words,
      environment=os.environ | _shares() | self.environment,
      restarts=self.restarts,
      patience=self.patience,
      ignore=(warning,),
    )
    # submitit lets TERM pass, and the warning of all processes but the first.
    signal.signal(signal.SIGTERM, self._end)
    if self._rank:
      signal.signal(warning, self._end)
    code = self._child.run()
    self._record(code)
    if self._child.asked and not self._rank and _preempted():
      job = os.environ["SLURM_JOB_ID"]
      tending.say(f"preempted: job {job} is queued again")
      subprocess.run(["scontrol", "requeue", job], check=False)
    if code:
      raise SystemExit(code if code > 0 else 128 - code)

  def checkpoint(self) -> Any:
    """Ends the child; returns the same task, to be queued again.

    Raises:
      SystemExit: all was done just now; nothing is to be queued.
    """
    import submitit

    if self._child is not None and self._child.end() == 0:
      self._record(0)
      raise SystemExit(0)
    self._record(os.EX_TEMPFAIL)
    return submitit.helpers.DelayedSubmission(dataclasses.replace(self))

  def _end(self, number: int, frame: Any) -> None:
    del frame
    tending.say(f"got {signal.Signals(number).name}: ends behind its shard")
    assert self._child is not None
    self._child.end()

  def _record(self, code: int) -> None:
    """How it ended, for the launcher: a job says nothing once it is gone."""
    place = outcome_file(self.log_dir, self.index, self._rank)
    body = {
      "code": code,
      "job": os.environ.get(
        "SLURM_ARRAY_JOB_ID", os.environ.get("SLURM_JOB_ID", "")
      ),
      "time": time.time(),
    }
    draft = place.with_suffix(f".{os.getpid()}.tmp")
    draft.write_text(json.dumps(body))
    draft.replace(place)


def outcome_file(log_dir: str, index: int, rank: int = 0) -> pathlib.Path:
  """Where process `rank` of a task says how it ended."""
  return pathlib.Path(log_dir) / f"task-{index}-{rank}.json"


def preempt_signal() -> int:
  """The signal that submitit takes for a warning."""
  name = os.environ.get("SUBMITIT_PREEMPT_SIGNAL", "USR2")
  return int(signal.Signals[f"SIG{name.removeprefix('SIG')}"])


def _preempted() -> bool:
  """Whether Slurm takes the node for another job."""
  shown = subprocess.run(
    ["scontrol", "show", "job", os.environ["SLURM_JOB_ID"]],
    capture_output=True,
    text=True,
  )
  return re.search(r"\bPreemptTime=\d", shown.stdout) is not None


def _shares() -> dict[str, str]:
  """Threads, as many as Slurm gave cores."""
  cores = os.environ.get("SLURM_CPUS_PER_TASK")
  if not cores:
    return {}
  names = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NPROC")
  return dict.fromkeys(names, cores)
