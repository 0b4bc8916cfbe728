"""What the launchers of clusters share: a child that is tended, and a watch.

Completion is read from the sweep's store alone.
"""

import ctypes
import os
import pathlib
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence

from spex_jax.jobs import sweep as sweep_job
from spex_jax.report import tables
from spex_jax.store import ledger
from spex_jax.sweeps import run, state

ROOT = pathlib.Path(__file__).resolve().parents[1]

_POLL = 0.2  # Seconds between two looks at a child.
_STEADY = 600.0  # A child that lived so long may be started anew as often.
_DEATH_SIGNAL = 1  # Of prctl: what a process gets when its parent dies.
_LIBC = ctypes.CDLL(None) if sys.platform == "linux" else None


class Child:
  """A process that is started again when a signal kills it.

  It does not outlive this one (on Linux).

  Attributes:
    code: with which it ended, or None while it has not.
    asked: whether it was to end.
  """

  def __init__(
    self,
    words: Sequence[str],
    *,
    environment: Mapping[str, str] | None = None,
    restarts: int = 3,
    patience: float = 60.0,
    ignore: Sequence[int] = (),
  ):
    """Nothing is started yet.

    Args:
      words: of the command.
      environment: of it; this process's own by default.
      restarts: after it was killed; again as many once one has lived for ten
        minutes.
      patience: seconds to wait for one that was asked to end.
      ignore: signals that it shall not see: what goes to a job goes to all of
        its processes.
    """
    self.words = list(words)
    self.code: int | None = None
    self.asked = False
    self._environment = environment
    self._restarts, self._patience = restarts, patience
    self._ignore = tuple(ignore)
    self._process: subprocess.Popen | None = None

  def run(self) -> int:
    """Starts it and waits, in the main thread; returns its last code.

    `os.EX_TEMPFAIL` if it was asked to end before all was done.
    """
    left = self._restarts
    while not self.asked:
      begin = time.monotonic()
      self._process = subprocess.Popen(
        self.words,
        env=self._environment,
        preexec_fn=_bound_to(os.getpid(), self._ignore),
      )
      code = self._wait()
      if time.monotonic() - begin > _STEADY:
        left = self._restarts
      if self.asked:
        break
      if code >= 0 and code != os.EX_TEMPFAIL:
        self.code = code
        return code
      if not left:
        self.code = code
        return code
      left -= 1
      cause = f"by signal {-code}" if code < 0 else "as it was asked to"
      say(f"the task ended {cause}; started again ({left} more times)")
    if self.code is None:
      self.code = os.EX_TEMPFAIL
    return self.code

  def end(self) -> int:
    """Asks it to end behind its shard, and waits; may be called by a handler.

    Returns:
      0 if it had done all, else `os.EX_TEMPFAIL`.
    """
    self.asked = True
    self.code = os.EX_TEMPFAIL
    process, deadline = self._process, time.monotonic() + self._patience
    if process is None:
      return self.code
    _send(process.pid, signal.SIGTERM)
    while (code := _left(process)) is None:
      if time.monotonic() > deadline:
        say(f"not ended within {self._patience:g} s: killed")
        _send(process.pid, signal.SIGKILL)
        deadline += self._patience
      time.sleep(_POLL / 4)
    if code == 0:
      self.code = 0
    return self.code

  def _wait(self) -> int:
    process = self._process
    assert process is not None
    sent = False
    while True:
      try:
        code = process.wait(_POLL)
      except subprocess.TimeoutExpired:
        if self.asked and not sent:  # Between its start and our knowing it.
          sent = True
          process.terminate()
        continue
      if code == os.EX_TEMPFAIL and not self.asked:
        time.sleep(_POLL)  # The same signal may be on its way to us.
      return code


def say(text: str) -> None:
  """One line of a launcher, with the time: it may be read days later."""
  print(f"{time.strftime('%H:%M:%S')} {text}", file=sys.stderr, flush=True)


def checked(
  config: str, workdir: str, count: int, extra: Sequence[str] = ()
) -> tuple[str, str]:
  """Checks what would be run, before anything is; prints the first task.

  Returns:
    Config and workdir, absolute where they are paths.

  Raises:
    SystemExit: with one line that says what to do.
  """
  if count < 1:
    raise SystemExit(f"--tasks={count}: a sweep has at least one task.")
  file, colon, size = config.partition(":")
  config = os.path.abspath(file) + colon + size
  if "://" not in workdir:
    workdir = os.path.abspath(os.path.expanduser(workdir))
    _check_writable(pathlib.Path(workdir))
  for word in extra:
    name = word.lstrip("-").partition("=")[0]
    if name in ("task_index", "task_count", "config", "workdir"):
      raise SystemExit(f"{word}: --{name} is the launcher's to give.")
  try:
    sweep_job.command(
      [
        "run", f"--config={config}", f"--workdir={workdir}", "--task_index=0",
        f"--task_count={count}", *extra, "--dry_run",
      ]
    )  # fmt: skip
  except (ValueError, TypeError, OSError, ImportError) as error:
    raise SystemExit(" ".join(str(error).split())) from error
  return config, workdir


class Watch:
  """A sweep's store, as a launcher looks at it again and again."""

  def __init__(self, workdir: str, count: int, *, stall: float = 1800.0):
    """Nothing is read yet.

    Args:
      workdir: of the sweep; it need not be there yet.
      count: tasks.
      stall: seconds without a new row after which it says so.
    """
    self.workdir, self.count = workdir, count
    self._stall = stall
    self._rows = -1
    self._since = time.monotonic()
    self._spans: list[tuple[int, int]] | None = None

  def look(self) -> state.Status | None:
    """What is done, and says it where that is new; None before a start.

    A store that does not answer counts as one without news.

    Raises:
      ValueError: files that their checksums contradict.
    """
    try:
      if ledger.stored_config(self.workdir) is None:
        return self._waited(None)
      found = state.status(self.workdir)
    except OSError as error:
      say(f"the store does not answer: {error}")
      return self._waited(None)
    if found.rows != self._rows:
      self._rows, self._since = found.rows, time.monotonic()
      share = found.rows / max(found.num_rows, 1)
      line = f"{found.rows:,} of {found.num_rows:,} rows ({share:.1%})"
      if found.rate and not found.complete:
        line += f", {found.rate:,.1f} rows/s"
      if found.eta:
        line += f", {tables.duration(found.eta)} left"
      say(line)
    return self._waited(found)

  def missing(self) -> list[int]:
    """Tasks that have a shard neither published nor given up.

    All of them before a start.
    """
    if ledger.stored_config(self.workdir) is None:
      return list(range(self.count))
    book, sweep = run.opened(self.workdir)
    if self._spans is None:
      parts = [sweep.of_task(i, self.count) for i in range(self.count)]
      self._spans = [
        (part[0].index, part[-1].index + 1) if part else (0, 0)
        for part in parts
      ]
    there = {*book.indices(), *state.status(self.workdir).given_up}
    return [
      index
      for index, (start, stop) in enumerate(self._spans)
      if any(shard not in there for shard in range(start, stop))
    ]

  def _waited(self, found: state.Status | None) -> state.Status | None:
    now = time.monotonic()
    if now - self._since > self._stall:
      self._since = now
      say(
        f"no new row for {tables.duration(self._stall)}: do the tasks run, "
        "and does what they say tell why?"
      )
    return found


def verdict(workdir: str, found: state.Status | None) -> bool:
  """Says how it ended; returns whether all is there."""
  if found is None:
    say(f"{workdir}: nothing was started")
    return False
  for shard, cause in list(found.given_up.items())[:10]:
    say(f"shard {shard} was given up: {cause}")
  say(f"{found.shards:,} of {found.num_shards:,} shards are there")
  return found.complete


def _check_writable(path: pathlib.Path) -> None:
  """Without making anything."""
  place = path
  while not place.exists() and place != place.parent:
    place = place.parent
  if not place.is_dir():
    raise SystemExit(f"--workdir={path}: {place} is no directory.")
  if not os.access(place, os.W_OK | os.X_OK):
    raise SystemExit(
      f"--workdir={path}: no permission to write in {place}; give another."
    )


def _bound_to(parent: int, ignore: Sequence[int]) -> Callable[[], None]:
  """What a child does between fork and exec."""

  def prepare() -> None:
    if _LIBC is not None:
      _LIBC.prctl(_DEATH_SIGNAL, int(signal.SIGKILL))
      if os.getppid() != parent:  # It died before we asked for that.
        os._exit(os.EX_TEMPFAIL)
    for number in ignore:
      signal.signal(number, signal.SIG_IGN)

  return prepare


def _send(pid: int, number: int) -> None:
  try:
    os.kill(pid, number)
  except ProcessLookupError:
    return


def _left(process: subprocess.Popen) -> int | None:
  """The code of a process that ended, else None.

  It is not reaped: a handler may have interrupted `Popen.wait`, which holds a
  lock.
  """
  if process.returncode is not None:
    return process.returncode
  try:
    found = os.waitid(
      os.P_PID, process.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT
    )
  except ChildProcessError:  # Reaped by the interrupted call; its code is lost.
    return os.EX_TEMPFAIL
  if found is None:
    return None
  exited = found.si_code == os.CLD_EXITED
  return found.si_status if exited else -found.si_status
