"""Interpreters over functions: answered, judged, kept, one by one.

What is kept is not run again, whatever stopped the run: one file an answer,
written whole (`store.folders`). A failure is that of one answer, never of the
run: an interpreter that raises, overspends or takes too long scores 0, and the
file says why. What an endpoint failed in, and may pass, the next run asks anew.
"""

import contextlib
import dataclasses
import json
import signal
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from spex_jax import base
from spex_jax.ablate import services
from spex_jax.agents import sandbox
from spex_jax.agents.find import (
  functions,
  interpretations,
  model_referee,
  referees,
)
from spex_jax.agents.interpreters import (
  naive,
  piecewise,
  spectral,
  splitting,
)
from spex_jax.store import configs, folders

CEILING = "truth"
LOOPHOLE = "interpolation"
_WORDS = ("strings", "entities", "relations")
_ALL = ("numeric", *_WORDS, "setfn", "unit")
# Interpreter to what runs it on a category.
INTERPRETERS: dict[str, dict[str, interpretations.Interpreter]] = {
  "constant": dict.fromkeys(_ALL, naive.constant),
  LOOPHOLE: dict.fromkeys(_ALL, naive.interpolation),
  "polynomial": {"numeric": naive.polynomial},
  "piecewise": {"numeric": piecewise.run},
  "enumeration": {"strings": splitting.texts},
  "tables": {
    "entities": splitting.concepts, "relations": splitting.relations
  },
  "spex": {"numeric": spectral.bits, "setfn": spectral.planted,
           "unit": spectral.planted},
}  # fmt: skip
BUDGETS = {
  "numeric": 500, "strings": 60, "entities": 60, "relations": 60,
  "setfn": 5000, "unit": 200,
}  # fmt: skip
Judge = Callable[[functions.Function, str], float]
_CONFIG = "config.json"
_JUDGING = 60.0  # Seconds more: code has limits of its own.


def check_same(folder: folders.Folder, config: Mapping[str, Any]) -> None:
  """Writes what all answers depend on, or finds it written.

  Raises:
    ValueError: the folder is another configuration's, or damaged.
  """
  own = configs.as_json(config)
  if folder.create(_CONFIG, base.to_json({"config": own})):
    return
  place = f"{folder.path}/{_CONFIG}"
  stored = base.from_json(folder.read(_CONFIG), place, must_have_checksum=True)
  if names := configs.differing(stored["config"], own):
    raise ValueError(
      f"{folder.path} belongs to another run: {', '.join(names)} differ; use "
      "its settings, or choose another directory."
    )


def write(folder: folders.Folder, name: str, body: Any) -> None:
  """Writes a file of JSON that people read, too."""
  text = json.dumps(body, indent=1, allow_nan=False)
  folder.replace(name, text.encode() + b"\n")


def write_lines(
  folder: folders.Folder, name: str, rows: Sequence[Mapping[str, Any]]
) -> None:
  """Writes a file of JSON, a row a line."""
  folder.replace(name, "".join(json.dumps(r) + "\n" for r in rows).encode())


def interpreted(
  function: functions.Function,
  name: str,
  run: interpretations.Interpreter | None,
  budget: int,
  box: sandbox.Sandbox,
  seconds: float,
  judge: Judge | None = None,
) -> dict[str, Any]:
  """An answer and its scores, as JSON; never raises for the interpreter.

  Args:
    function: with its truth, which stays here.
    name: the name of the interpreter, kept with the answer.
    run: it; None for the truth itself.
    budget: the number of inputs that it may ask.
    box: the sandbox that code of the answer is run in.
    seconds: the most that it may take, in the main thread.
    judge: who scores descriptions, of categories in
      `model_referee.CATEGORIES`; or None.
  """
  query = functions.Query(function, budget)
  start, error = time.monotonic(), ""
  try:
    with limited(seconds):
      answer = referees.truth(function) if run is None else run(query, budget)
    if not isinstance(answer, interpretations.Answer):
      raise TypeError(f"the answer is a {type(answer).__name__}")
    if not isinstance(answer.code, str):
      raise TypeError(f"its code is a {type(answer.code).__name__}, no text")
    json.dumps(shown := _finite(dataclasses.asdict(answer)))
    error = answer.error[:300]
  except (Exception, SystemExit) as caught:
    error = f"{type(caught).__name__}: {caught}"[:300]
    answer = interpretations.Answer("none", "")
    shown = dataclasses.asdict(answer)
  took = time.monotonic() - start
  verdict: dict[str, Any] = {"paper": 0.0, "ours": 0.0, "length": 0}
  if not error:
    try:  # The function itself may fail, too.
      with limited(seconds + _JUDGING):
        verdict = referees.judge(function, answer, box)
        if judge is not None and function.category in model_referee.CATEGORIES:
          verdict["language"] = judge(function, answer.description)
    except Exception as caught:
      error = f"{type(caught).__name__}: {caught}"[:300]
  if error:
    verdict |= {"error": error}
  spent = lambda what: sum(t.get(what, 0) for t in answer.transcript)
  body = {
    "interpreter": name, "function": function.name,
    "category": function.category, "queries": query.spent,
    "tokens": spent("tokens"), "money": spent("money"),
    "seconds": round(took, 3), **verdict, "answer": shown,
  }  # fmt: skip
  return _finite(body)


def as_file(body: Mapping[str, Any]) -> bytes:
  """A verdict as `kept` reads it: JSON, NaN and infinities as texts."""
  return base.to_json(_finite(body))


def _finite(value: Any) -> Any:
  """As JSON has it: NaN and infinities are texts."""
  if isinstance(value, Mapping):
    return {str(k): _finite(v) for k, v in value.items()}
  if isinstance(value, list | tuple | np.ndarray):
    return [_finite(v) for v in value]
  if isinstance(value, np.generic):
    value = value.item()
  if isinstance(value, float) and not np.isfinite(value):
    return str(value)
  return value


@contextlib.contextmanager
def limited(seconds: float) -> Iterator[None]:
  """Raises TimeoutError after so many seconds; in the main thread alone."""
  if threading.current_thread() is not threading.main_thread():
    yield
    return

  def stop(number: int, frame: Any) -> None:
    del number, frame
    raise TimeoutError(f"it took more than {seconds:g} s")

  before = signal.signal(signal.SIGALRM, stop)
  signal.setitimer(signal.ITIMER_REAL, seconds)
  try:
    yield
  finally:
    signal.setitimer(signal.ITIMER_REAL, 0)
    signal.signal(signal.SIGALRM, before)


def run(
  todo: Sequence[functions.Function],
  names: Sequence[str],
  folder: folders.Folder,
  box: sandbox.Sandbox,
  *,
  budgets: Mapping[str, int],
  seconds: float,
  more: Mapping[str, Mapping[str, interpretations.Interpreter]] | None = None,
  judge: Judge | None = None,
  tell: Callable[[str, int, int], None] | None = None,
) -> list[dict[str, Any]]:
  """All verdicts, those that are kept included.

  Args:
    todo: the functions to interpret.
    names: the names of interpreters; the ceiling and the loophole come along.
    folder: where answers are kept, one file each.
    box: the sandbox that code of answers is run in.
    budgets: each category to the number of inputs that may be asked.
    seconds: the most that an interpretation may take.
    more: further interpreters, by category and name, beside `INTERPRETERS`.
    judge: who scores descriptions, as for `interpreted`.
    tell: called with a name, and how many are done of how many.

  Raises:
    ValueError: an unknown interpreter.
  """
  known = INTERPRETERS | dict(more or {})
  for name in names:
    if name not in known and name != CEILING:
      raise ValueError(
        f"No interpreter {name!r}; they are {', '.join([*known, CEILING])}."
      )
  names = list(dict.fromkeys([*names, LOOPHOLE, CEILING]))
  pairs = [
    (function, name)
    for name in names
    for function in todo
    if name == CEILING or function.category in known[name]
  ]
  found = []
  for count, (function, name) in enumerate(pairs, 1):
    file = f"answers/{name}/{function.name}.json"
    verdict = kept(folder, file)
    if verdict is None:
      own = None if name == CEILING else known[name][function.category]
      budget = budgets[function.category]
      verdict = interpreted(function, name, own, budget, box, seconds, judge)
      folder.replace(file, base.to_json(verdict))
    found.append(verdict)
    if tell is not None:
      tell(name, count, len(pairs))
  return found


def kept(folder: folders.Folder, file: str) -> dict[str, Any] | None:
  """A verdict of before; None where there is none that need not be asked anew.

  Args:
    folder: where answers are kept, one file each.
    file: the path of this one in the folder.
  """
  try:
    data = folder.read(file)
    found = base.from_json(data, file, must_have_checksum=True)
    passing = found["error"].startswith(services.Overloaded.__name__)
    return None if passing else found
  except (FileNotFoundError, ValueError):  # Not there, or damaged: anew.
    return None
