"""A child process that is tended: it outlives what kills it, not its parent.

Imports neither JAX nor anything of ours: it runs beside every task.
"""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence

_POLL = 0.2  # Seconds between two looks at a child.
STEADY = 600.0  # A child that lived so long may be started anew as often.

# Seconds before one that can go on is started again; five minutes in all.
PAUSES = (1, 2, 4, 8, 16, 32, 60, 60, 60, 60)

# Becomes the command; on Linux it is killed when its parent dies (prctl's
# PR_SET_PDEATHSIG), which may have happened before it could ask for that.
_BOUND = """
import os, signal, sys
parent, ignored, *words = sys.argv[1:]
if sys.platform == "linux":
  import ctypes
  ctypes.CDLL(None).prctl(1, int(signal.SIGKILL))
  if os.getppid() != int(parent):
    sys.exit(os.EX_TEMPFAIL)
for number in ignored.split():
  signal.signal(int(number), signal.SIG_IGN)
os.execvp(words[0], words)
"""


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

    `os.EX_TEMPFAIL` if it was asked to end before all was done, or can still
    not go on after minutes.
    """
    left, pauses = self._restarts, iter(PAUSES)
    while not self.asked:
      begin = time.monotonic()
      self._process = started(self.words, self._environment, self._ignore)
      code = self._wait()
      if time.monotonic() - begin > STEADY:
        left, pauses = self._restarts, iter(PAUSES)
      if self.asked:
        break
      if code == os.EX_TEMPFAIL:  # Its store was out of reach, say.
        pause = next(pauses, None)
        if pause is None:
          break
        say(f"the task can go on; started again in {pause} s")
        self._pause(pause)
      elif code < 0 and left:
        left -= 1
        say(
          f"the task ended by signal {-code}; started again ({left} more times)"
        )
      else:
        self.code = code
        return code
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

  def _pause(self, seconds: float) -> None:
    """Shorter where it was asked to end meanwhile."""
    deadline = time.monotonic() + seconds
    while not self.asked and time.monotonic() < deadline:
      time.sleep(_POLL)

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


def started(
  words: Sequence[str],
  environment: Mapping[str, str] | None = None,
  ignore: Sequence[int] = (),
) -> subprocess.Popen:
  """A process that does not outlive this one (on Linux); see `Child`.

  On Linux it ends with the thread that called this.
  """
  numbers = " ".join(str(int(number)) for number in ignore)
  parent = str(os.getpid())
  return subprocess.Popen(
    [sys.executable, "-S", "-E", "-c", _BOUND, parent, numbers, *words],
    env=environment,
  )


def say(text: str) -> None:
  """One line of a launcher, with the time: it may be read days later."""
  text = "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text)
  print(f"{time.strftime('%H:%M:%S')} {text}", file=sys.stderr, flush=True)


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
