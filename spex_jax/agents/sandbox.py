r"""Code of interpreters and models, run where it can do no harm.

  with Sandbox() as box:
    outcome = box.run("def f(x):\n  return 2 * x", [1.0, 2.0])
    outcome.outputs    # [2.0, 4.0]

Never in this process: in a child of another one (`sandboxed`), which has no
environment, files, network or children, and so much time, memory and output.
What goes wrong there is an outcome here, never an exception.
"""

import contextlib
import dataclasses
import json
import os
import pathlib
import select
import subprocess
import sys
import time
from collections.abc import Sequence
from typing import Any

_GRACE = 10.0  # Seconds beyond its own that the other process may take.
_MOST_CODE = 1 << 20  # Letters.
_PLAIN = str | bool | int | float | None
# A child opens no file: what it may import is there before.
_MODULES = (
  "bisect", "cmath", "collections", "datetime", "decimal", "difflib",
  "fractions", "functools", "heapq", "itertools", "math", "numpy", "numpy.fft",
  "numpy.linalg", "numpy.random", "operator", "random", "re", "statistics",
  "string", "textwrap", "traceback", "typing", "unicodedata",
)  # fmt: skip
_START = """\
import runpy, sys
for name in sys.argv[3:]:
  try:
    __import__(name)
  except ImportError:
    pass
exec(sys.argv[2], {})
runpy.run_path(sys.argv[1], run_name="__main__")
"""
_SERVER = pathlib.Path(__file__).with_name("sandboxed.py")


@dataclasses.dataclass(frozen=True)
class Outcome:
  """What became of a program.

  Attributes:
    status: "ok", "error" (it raised), "time", "memory", "output" (too much of
      it), "refused" (what it may not), "died".
    outputs: one an input, None where the function raised; empty unless "ok".
    error: in a line; of an "ok", of the inputs where it raised.
    said: the beginning of what it printed.
    filtered: whether system calls were filtered while it ran.
  """

  status: str
  outputs: tuple[Any, ...] = ()
  error: str = ""
  said: str = ""
  filtered: bool = False


class Sandbox:
  """Runs programs, one at a time."""

  def __init__(
    self,
    seconds: float = 5.0,
    memory: int = 1 << 28,
    output: int = 1 << 20,
    modules: Sequence[str] = (),
    prepare: str = "",
  ):
    """Nothing is started before the first program.

    Args:
      seconds: each may take, by the clock.
      memory: bytes each may have.
      output: bytes it may print, and bytes that its outputs may have.
      modules: that it may import besides, where they are installed.
      prepare: Python of ours that runs once, behind what is imported and before
        any program, with all rights.

    Raises:
      ValueError: a limit that is not positive.
    """
    if not (seconds > 0 and memory > 0 and output > 0):
      raise ValueError(
        f"Limits must be positive: seconds={seconds}, memory={memory}, "
        f"output={output}."
      )
    self._limits = {"seconds": seconds, "memory": memory, "output": output}
    self._modules = (*_MODULES, *modules)
    self._prepare = prepare
    self._process: subprocess.Popen | None = None

  def __enter__(self) -> "Sandbox":
    return self

  def __exit__(self, *_: Any) -> None:
    self.close()

  def run(self, code: str, inputs: Sequence[Any], name: str = "f") -> Outcome:
    """Runs a program, then its function on each input.

    Args:
      code: Python; NumPy and much of the standard library can be imported.
      inputs: numbers, texts, or lists of them.
      name: the name of the function that the program defines.
    """
    if not isinstance(code, str) or len(code) > _MOST_CODE:
      return Outcome("error", error=f"no text of up to {_MOST_CODE:,} letters")
    try:
      request = json.dumps(
        {"code": code, "inputs": list(inputs), "name": name, **self._limits}
      ).encode()
    except (TypeError, UnicodeError, RecursionError) as error:
      return Outcome("error", error=str(error)[:300])
    try:
      answer = self._asked(request)
    except (OSError, ValueError) as error:
      self.close()
      return Outcome("died", error=f"{type(error).__name__}: {error}"[:300])
    outputs, errors = answer.get("outputs", []), answer.get("errors", [])
    status, error = str(answer.get("status")), answer.get("error")
    if status == "ok" and not (
      isinstance(outputs, list)
      and isinstance(errors, list)
      and len(outputs) == len(inputs)
      and all(isinstance(y, _PLAIN) for y in outputs)
    ):
      status, outputs, errors = "error", [], ["it wrote an answer of its own"]
    return Outcome(
      status, (*outputs,) if status == "ok" else (),
      str(error or "; ".join(map(str, errors)))[:1000],
      str(answer.get("said", "")), bool(answer.get("filtered")),
    )  # fmt: skip

  def close(self) -> None:
    """Ends the other process."""
    process, self._process = self._process, None
    if process is None:
      return
    process.kill()
    for end in (process.stdin, process.stdout):
      with contextlib.suppress(OSError):
        if end is not None:
          end.close()
    process.wait()

  def _asked(self, request: bytes) -> dict[str, Any]:
    if self._process is None or self._process.poll() is not None:
      self.close()
      self._process = subprocess.Popen(
        [
          sys.executable,
          "-I",
          "-c",
          _START,
          str(_SERVER),
          self._prepare,
          *self._modules,
        ],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        # Nothing of ours; one thread, as a process that forks should have.
        env={"OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"},
        close_fds=True,
      )
    stdin, stdout = self._process.stdin, self._process.stdout
    assert stdin is not None and stdout is not None
    stdin.write(len(request).to_bytes(8, "little") + request)
    stdin.flush()
    deadline = time.monotonic() + self._limits["seconds"] + _GRACE
    head = _read(stdout.fileno(), 8, deadline)
    size = int.from_bytes(head, "little")
    answer = json.loads(_read(stdout.fileno(), size, deadline))
    if not isinstance(answer, dict):
      raise ValueError("the answer is no object")
    return answer


def _read(end: int, size: int, deadline: float) -> bytes:
  """So many bytes; OSError where they do not come in time."""
  data = b""
  while len(data) < size:
    left = deadline - time.monotonic()
    ready, _, _ = select.select([end], [], [], max(left, 0))
    part = os.read(end, min(size - len(data), 1 << 16)) if ready else b""
    if not part:
      raise OSError("the process that runs code does not answer")
    data += part
  return data
