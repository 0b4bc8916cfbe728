"""Several processes of one task, as JAX knows them: who is who.

Each evaluates shards of its own on its own devices and publishes them; nothing
is exchanged. A process that dies takes nothing with it but the shard that it
was at: JAX is told that processes may be lost (`jax_enable_recoverability`),
which else end one another by SIGABRT. Process 0 coordinates, and the others
cannot live without it; so it stays until they are done.

Where the parameters lie on the devices of all processes, these evaluate every
shard `Together`; the first publishes it before anything else is exchanged.
"""

import contextlib
import signal
import socket
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
import numpy as np

_RETRY = 0.2  # Seconds.
_GRACE = 5.0  # Seconds.
_LOOK = 2.0  # Seconds between two looks for what is published, at first, ...
_SELDOM = 60.0  # ... and later.


class LostError(InterruptedError):
  """Another process of the task is gone; the same command goes on."""


class Alone:
  """A process that evaluates its shards by itself."""

  @property
  def first(self) -> bool:
    """Whether it is the one of its group that publishes."""
    return True

  def any(self, flag: bool) -> bool:
    """Whether the flag of one of the group is set."""
    return flag

  def follow(self, numbers: Sequence[int]) -> Sequence[int]:
    """What the first of the group has in their place."""
    return numbers

  def agreed(self, function: Callable[[Any], Any], given: Any) -> Any:
    """`function(given)`; raises in all of the group if it does in one."""
    return function(given)


ALONE = Alone()


class Together(Alone):
  """All processes of a task, after `join`, at the same shard at a time.

  What fails must fail in all of them alike: one that raises where the others
  wait for it within a collective ends the task, as one that is killed does.

  Raises:
    LostError: by every method, where another process is gone.
  """

  @property
  def first(self) -> bool:
    """See `Alone`."""
    return jax.process_index() == 0

  def any(self, flag: bool) -> bool:
    """See `Alone`."""
    return bool(self._gathered(np.array([flag], np.int32)).any())

  def follow(self, numbers: Sequence[int]) -> Sequence[int]:
    """See `Alone`."""
    if not numbers:
      return numbers
    return self._gathered(np.asarray(numbers, np.int32))[0].tolist()

  def agreed(self, function: Callable[[Any], Any], given: Any) -> Any:
    """See `Alone`."""
    found, error = None, None
    try:
      found = function(given)
    except (Exception, MemoryError) as caught:
      error = caught
    if self.any(error is not None):
      raise error or RuntimeError("it failed in another process of the task")
    return found

  def _gathered(self, numbers: np.ndarray) -> np.ndarray:
    from jax.experimental import multihost_utils

    try:
      return np.asarray(multihost_utils.process_allgather(numbers))
    except Exception as error:
      raise LostError(
        "another process of this task is gone, and this one cannot go on "
        f"without it; the same command goes on "
        f"({' '.join(str(error).split())[:120]})."
      ) from error


def join(
  address: str | None = None,
  process_id: int | None = None,
  num_processes: int | None = None,
  *,
  timeout: float = 60.0,
) -> tuple[int, int]:
  """Joins the processes of a task; returns this one's number, and how many.

  Args:
    address: HOST:PORT of process 0; None where JAX finds all three itself, as
      on TPU slices and under Slurm.
    process_id: the process id of this one.
    num_processes: the number of processes of the task.
    timeout: seconds to wait for the others.

  Raises:
    ValueError: an address that is none, a number outside the task, or a place
      where JAX finds nothing by itself.
    TimeoutError: nobody answers at the address, or the others do not come.
  """
  jax.config.update("jax_enable_recoverability", True)
  if address is None:
    return _found(timeout)
  host, colon, port = address.rpartition(":")
  if not (host and colon and port.isdigit()):
    raise ValueError(f"coordinator={address!r}: give HOST:PORT.")
  if num_processes is None or process_id is None:
    raise ValueError("A coordinator needs process_id and num_processes, too.")
  if not 0 <= process_id < num_processes:
    raise ValueError(
      f"process_id={process_id} must lie in 0..{num_processes - 1}."
    )
  begin = time.monotonic()
  if process_id:
    _reach(host, int(port), address, timeout)
  left = max(1, int(timeout - (time.monotonic() - begin)))
  try:
    jax.distributed.initialize(
      address, num_processes, process_id, initialization_timeout=left
    )
  except Exception as error:  # Of several kinds, by release.
    raise _unmet(error, f" at {address}", timeout) from error
  return process_id, num_processes


def stay(
  left: Callable[[], int], patience: float, *, asked: Callable[[], bool]
) -> int:
  """Waits for the other processes, by what they publish.

  Args:
    left: how many of the task's shards are missing.
    patience: seconds without a new one after which they count as lost.
    asked: whether the wait should end.

  Returns:
    How many shards are missing still.
  """

  def seen(before: int) -> int:
    try:
      return left()
    except Exception:  # A store that does not answer: no news.
      return before

  found, since = seen(1), time.monotonic()
  looked, pause = since, _LOOK
  while found and time.monotonic() - since < patience and not asked():
    time.sleep(_RETRY)
    if time.monotonic() - looked < min(pause, patience):
      continue
    now, looked = seen(found), time.monotonic()
    pause = min(pause * 1.5, _SELDOM)  # Looking costs requests.
    if now < found:
      since = time.monotonic()
    found = now
  return found


def leave() -> None:
  """Leaves the task; the others go on.

  Process 0 is given a few seconds for the others to leave first: one that
  finds it gone is aborted, though all that it did is published.
  """
  if jax.process_index() == 0:
    time.sleep(_GRACE)
  with contextlib.suppress(Exception):  # They may have left before.
    jax.distributed.shutdown()


@contextlib.contextmanager
def until_signalled() -> Iterator[Callable[[], bool]]:
  """Whether the process was asked to end: a preemption, say, or control-C."""
  asked = False

  def note(number: int, frame: Any) -> None:
    nonlocal asked
    del frame
    if asked and number == signal.SIGINT:
      raise KeyboardInterrupt  # Asked twice: at once.
    asked = True

  before = {}
  asking = [signal.SIGTERM, signal.SIGINT, signal.SIGUSR1]
  # A terminal that goes; nohup has it ignored.
  if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:
    asking.append(signal.SIGHUP)
  for number in asking:
    with contextlib.suppress(ValueError):  # Not in the main thread.
      before[number] = signal.signal(number, note)
  try:
    yield lambda: asked
  finally:
    for number, handler in before.items():
      signal.signal(number, handler)


def _found(timeout: float) -> tuple[int, int]:
  """By what the scheduler or the slice tells JAX."""
  try:
    jax.distributed.initialize(initialization_timeout=max(1, int(timeout)))
  except ValueError as error:  # Nothing was told.
    raise ValueError(
      "JAX finds no job of several processes here: give --coordinator="
      "HOST:PORT --process_id=I --num_processes=N, or leave --distributed out "
      f"({error})."
    ) from error
  except Exception as error:
    raise _unmet(error, "", timeout) from error
  return jax.process_index(), jax.process_count()


def _unmet(error: Exception, where: str, timeout: float) -> Exception:
  text = " ".join(str(error).split())[:200]
  if "must be called before" in text:
    return RuntimeError(
      "JAX was in use before the processes of the task could join: let the "
      "sweep's file compute nothing when it is read."
    )
  return TimeoutError(
    f"The processes of the task did not meet{where} within {timeout:g} s: "
    f"{text}"
  )


def _reach(host: str, port: int, address: str, timeout: float) -> None:
  """Waits until somebody listens.

  JAX's own wait ends the process.
  """
  deadline = time.monotonic() + timeout
  while True:
    try:
      with socket.create_connection((host, port), timeout=max(_RETRY, 1.0)):
        return
    except OSError as error:
      if time.monotonic() >= deadline:
        raise TimeoutError(
          f"Nobody answers at the coordinator {address} within {timeout:g} s "
          f"({error}). Is process 0 up, and the port open?"
        ) from error
      time.sleep(_RETRY)
