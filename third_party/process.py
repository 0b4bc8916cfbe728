"""A peer package in a process of its own: start it, ask it, end it.

The process runs one adapter of this folder in the peer's environment. It is
sent one JSON object per line and answers with one; arrays travel as `.npz`
files in a folder that both know. While it works, it may ask for values of
masks (`{"evaluate": file}`), which are computed here, so that every side sees
the same function and no peer needs its model.

Shapes: n players, B masks.
"""

import contextlib
import json
import os
import pathlib
import subprocess
import tempfile
import threading
from collections.abc import Callable
from typing import Any, Generic, Self, TypeVar

import numpy as np

_HERE = pathlib.Path(__file__).resolve().parent

ValueFn = Callable[[np.ndarray], np.ndarray]
AnyPeer = TypeVar("AnyPeer", bound="Peer")


class PeerError(RuntimeError):
  """The peer is not installed, raised, died or took too long."""


def optional(
  kind: "type[AnyPeer]", wanted: bool
) -> "contextlib.AbstractContextManager[AnyPeer | None]":
  """A peer for a `with` block, or None where it is not wanted."""
  return kind() if wanted else contextlib.nullcontext()


class Kept(Generic[AnyPeer]):
  """A peer that is started when first called for, and anew when it has died.

  with Kept(Shapiq) as peer:
    peer().decode(...)
  """

  def __init__(self, start: Callable[[], AnyPeer]):
    self._start = start
    self._running: AnyPeer | None = None

  def __call__(self) -> AnyPeer:
    """The running peer. Raises PeerError if it cannot be started."""
    if self._running is None or not self._running.alive:
      self.close()
      self._running = self._start()
    return self._running

  def close(self) -> None:
    """Ends what runs."""
    if self._running is not None:
      self._running.close()

  def __enter__(self) -> Self:
    return self

  def __exit__(self, *exc_info: object) -> None:
    self.close()


class Peer:
  """The process; a subclass names its adapter and its environment.

  Attributes:
    adapter: module of this folder that the process runs.
    variable: environment variable that may name another interpreter.
    environment: folder of the environment that `target` builds, here.
    target: of the Makefile.
  """

  adapter: str
  variable: str
  environment: str
  target: str

  def __init__(
    self,
    python: str | os.PathLike | None = None,
    timeout: float = 3600.0,
    *,
    threads: int | None = None,
  ):
    """Starts the peer.

    Args:
      python: interpreter of an environment that holds it; by default the one
        that `variable` names, or that of `environment`.
      timeout: seconds that one task may take.
      threads: most that its OpenMP may run; None for as many as it likes.

    Raises:
      PeerError: no such environment, or the peer does not import in it.
    """
    ours = _HERE / self.environment / "bin" / "python"
    python = python or os.environ.get(self.variable) or ours
    if not pathlib.Path(python).exists():
      raise PeerError(
        f"No peer environment at {python}: run `make {self.target}`, or name "
        f"its interpreter in {self.variable}."
      )
    self._timeout = timeout
    self._folder = tempfile.TemporaryDirectory(prefix="peer-")
    self._log = pathlib.Path(self._folder.name, "stderr.txt")
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
    if threads is not None:
      environment["OMP_THREAD_LIMIT"] = str(threads)
    with self._log.open("w") as log:
      self._process = subprocess.Popen(
        [os.fspath(python), "-m", f"third_party.{self.adapter}"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=log,
        text=True,
        env=environment,
        cwd=_HERE.parent,
      )
    try:
      self.versions: dict[str, str] = self._ask("versions")
    except BaseException:
      self.close()
      raise

  @property
  def alive(self) -> bool:
    """Whether the process still answers; start another one if not."""
    return self._process.poll() is None

  def close(self) -> None:
    """Ends the process and removes its files; may be called again."""
    if self.alive:
      self._process.kill()
    self._process.wait()
    for pipe in (self._process.stdin, self._process.stdout):
      if pipe is not None:
        with contextlib.suppress(BrokenPipeError):  # Unsent to a dead peer.
          pipe.close()
    self._folder.cleanup()

  def __enter__(self) -> Self:
    return self

  def __exit__(self, *exc_info: object) -> None:
    self.close()

  def _path(self, name: str) -> str:
    return os.path.join(self._folder.name, f"{name}.npz")

  def _ask(
    self, task: str, value_fn: ValueFn | None = None, **request: Any
  ) -> dict[str, Any]:
    alarm = threading.Timer(self._timeout, self._process.kill)
    alarm.start()
    try:
      self._send({"task": task} | request)
      answer = self._receive(task)
      while "evaluate" in answer:
        assert value_fn is not None, f"{task} was given no value function."
        with np.load(answer["evaluate"]) as file:
          masks = file["masks"]
        path = self._path("answers")
        try:
          values = np.asarray(value_fn(masks), np.float64)
        except BaseException:
          self._process.kill()  # It would wait for values for ever.
          raise
        np.savez(path, values=values)
        self._send({"values": path})
        answer = self._receive(task)
    finally:
      alarm.cancel()
    if "error" in answer:
      raise PeerError(f"The peer's `{task}` raised {answer['error']}")
    return answer

  def _send(self, message: dict[str, Any]) -> None:
    stdin = self._process.stdin
    assert stdin is not None
    with contextlib.suppress(BrokenPipeError):  # `_receive` finds it dead.
      stdin.write(json.dumps(message) + "\n")
      stdin.flush()

  def _receive(self, task: str) -> dict[str, Any]:
    stdout = self._process.stdout
    assert stdout is not None
    line = stdout.readline()
    if line:
      return json.loads(line)
    tail = self._log.read_text()[-2000:]
    raise PeerError(
      f"The peer ended during `{task}` (limit {self._timeout:g} s). "
      f"Its last words:\n{tail}"
    )
