"""What every adapter does: answers requests, line by line, until the end.

Runs inside a peer's environment, so it needs NumPy alone. See `process.py`
for the other end.
"""

import importlib.metadata
import json
import os
import platform
import sys
from collections.abc import Callable
from typing import Any

import numpy as np

Request = dict[str, Any]
Task = Callable[[Request], dict[str, Any]]

# What the peer prints, from Python or from C, must not be taken for answers.
_answers = os.fdopen(os.dup(1), "w")


def _send(message: dict[str, Any]) -> None:
  print(json.dumps(message), file=_answers, flush=True)


def values_at(masks: np.ndarray, folder: str) -> np.ndarray:
  """Asks the caller for the values `[B]` of `masks` bool `[B, n]`."""
  path = os.path.join(folder, "questions.npz")
  np.savez(path, masks=np.asarray(masks, bool))
  _send({"evaluate": path})
  with np.load(json.loads(sys.stdin.readline())["values"]) as file:
    return file["values"]


def versions_of(*names: str) -> dict[str, str]:
  """Versions of installed packages, and of Python."""
  return {name: importlib.metadata.version(name) for name in names} | {
    "python": platform.python_version()
  }


def serve(*tasks: Task) -> None:
  """Answers requests for `tasks`, by name, until standard input closes."""
  os.dup2(2, 1)
  known = {task.__name__: task for task in tasks}
  for line in iter(sys.stdin.readline, ""):
    request = json.loads(line)
    try:
      answer = known[request["task"]](request)
    except Exception as error:  # The caller gets it, and raises it there.
      answer = {"error": f"{type(error).__name__}: {error}"}
    _send(answer)
