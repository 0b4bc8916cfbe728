"""Several processes of one job, as JAX knows them: who is who.

Each evaluates shards of its own on its own devices and publishes them; nothing
is exchanged, so that a process that dies takes nothing with it but the shard it
was at. `jax.distributed` is joined all the same, for value functions whose
parameters lie on the devices of all processes.
"""

import contextlib
import socket
import time

import jax

_RETRY = 0.2  # Seconds.


def join(
  address: str, process_id: int, num_processes: int, *, timeout: float = 60.0
) -> None:
  """Joins the processes of a job.

  Args:
    address: HOST:PORT of process 0.
    process_id: of this one.
    num_processes: of the job.
    timeout: seconds to wait for the others.

  Raises:
    ValueError: an address that is none, or a number outside the job.
    TimeoutError: nobody answers at the address, or the others do not come.
  """
  host, colon, port = address.rpartition(":")
  if not (host and colon and port.isdigit()):
    raise ValueError(f"coordinator={address!r}: give HOST:PORT.")
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
    raise TimeoutError(
      f"The {num_processes} processes of the job did not meet at {address} "
      f"within {timeout:g} s: {' '.join(str(error).split())[:200]}"
    ) from error


def leave() -> None:
  """Leaves the job; the others go on."""
  with contextlib.suppress(Exception):  # They may have left before.
    jax.distributed.shutdown()


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
