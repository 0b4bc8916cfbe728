"""A query for those in other languages and processes: a pipe, or HTTP.

A line, or a body, `{"inputs": [...]}` is answered by `{"outputs": [...],
"left": N}`, or by `{"error": "..."}`; `{"about": true}` by what an interpreter
is told. NaN is null. The truth is never sent.
"""

import json
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np

from spex_jax.agents import loopback
from spex_jax.agents.find import functions

_MOST = 1 << 20  # Letters of a line.


def answered(query: functions.Query, body: Any) -> dict[str, Any]:
  """The answer to a request.

  Raises:
    loopback.Refused: it is none, overspends, or the function failed.
  """
  if isinstance(body, dict) and body.get("about"):
    return {"about": dict(query.about), "left": query.left}
  if not (isinstance(body, dict) and isinstance(body.get("inputs"), list)):
    raise loopback.Refused('A request is {"inputs": [...]} or {"about": true}.')
  try:
    outputs = query(body["inputs"])
  except (functions.Overspent, functions.Failed) as error:
    raise loopback.Refused(str(error)) from error
  return {"outputs": [_plain(y) for y in outputs], "left": query.left}


def routes(query: functions.Query) -> dict[str, loopback.Route]:
  """For `loopback.Server`."""
  return {
    "/query": lambda body: answered(query, body),
    "/about": lambda body: answered(query, {"about": True}),
  }


def pipe(
  query: functions.Query, lines: Iterable[str], write: Callable[[str], Any]
) -> None:
  """Answers lines until there are no more.

  Args:
    query: the function, and the budget of what may be asked.
    lines: requests as JSON, one to a line; empty lines are passed over.
    write: is called with each answer, a line of JSON; also of a refused
      request.
  """
  for line in lines:
    if not line.strip():
      continue
    try:
      if len(line) > _MOST:
        raise loopback.Refused(f"A line has at most {_MOST:,} letters.")
      answer = answered(query, json.loads(line))
    except (loopback.Refused, ValueError, RecursionError) as error:
      answer = {"error": str(error)}
    write(json.dumps(answer) + "\n")


def _plain(value: Any) -> Any:
  value = value.item() if hasattr(value, "item") else value
  finite = not isinstance(value, float) or np.isfinite(value)
  return value if finite else None
