"""Several processes of one task, as JAX knows them: who is who.

Each evaluates shards of its own on its own devices and publishes them; nothing
is exchanged. A process that dies takes nothing with it but the shard that it
was at: JAX is told that processes may be lost (`jax_enable_recoverability`),
which else end one another by SIGABRT. Process 0 coordinates, and the others
cannot live without it; so it stays until they are done.
"""

import contextlib
import signal
import socket
import time
from collections.abc import Callable, Iterator
from typing import Any

import jax

_RETRY = 0.2  # Seconds.
_LOOK = 2.0  # Seconds between two looks for what is published.


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
    process_id: of this one.
    num_processes: of the task.
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
  found, since = left(), time.monotonic()
  while found and time.monotonic() - since < patience and not asked():
    time.sleep(_LOOK)
    now = left()
    if now < found:
      since = time.monotonic()
    found = now
  return found


def leave() -> None:
  """Leaves the task; the others go on."""
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
  for number in (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1):
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
