"""The paper's own functions, for those who have its files.

A zip or a folder with `CATEGORY/fNNNNN/function_code.py`, each a program with a
`function(x)`. It is a stranger's code: every query runs in the sandbox. Those
that need PyTorch or a language model are left out, and counted. Nothing says
their family in a form that is right, so that they have the paper's score alone.
"""

import pathlib
import re
import zipfile
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from spex_jax.agents import sandbox
from spex_jax.agents.find import functions, numeric, strings

CATEGORIES = ("numeric", "strings")
MODULES = ("scipy.signal",)  # Which a sandbox for them imports beforehand.
_FILE = re.compile(r"(?:^|/)(numeric|strings)/(f\d{5})/function_code\.py$")
_MOST = 1 << 20  # Bytes of a program.
_NEEDS = re.compile(r"^\s*(?:import|from)\s+(?:torch|openai|fastchat)", re.M)
_ALIAS = "\n\ndef f(x):\n  return function(x)\n"


def load(
  path: str, category: str, box: sandbox.Sandbox, count: int | None = None
) -> tuple[list[functions.Function], int]:
  """Functions of a category, and how many were left out.

  Args:
    path: of the zip, or of the folder that it was unpacked into.
    category: of `CATEGORIES`.
    box: with `MODULES`, where they run.
    count: the first so many; all by default.

  Raises:
    FileNotFoundError: there is nothing at `path`.
    ValueError: another category, a file that is no zip, or no function in it.
  """
  if category not in CATEGORIES:
    raise ValueError(
      f"{category!r}: of the official files {', '.join(CATEGORIES)} are read."
    )
  found, left_out = [], 0
  for name, code in sorted(_programs(path, category)):
    if _NEEDS.search(code):
      left_out += 1
    elif count is None or len(found) < count:
      found.append(_function(category, name, code, box))
  if not found:
    raise ValueError(
      f"{path}: no {category}/fNNNNN/function_code.py that can be run; "
      f"{left_out} need PyTorch or a language model."
    )
  return found, left_out


def _programs(path: str, category: str) -> Iterator[tuple[str, str]]:
  place = pathlib.Path(path)
  if not place.exists():
    raise FileNotFoundError(f"{path}: no such zip or folder.")
  if place.is_dir():
    for file in sorted(place.rglob("function_code.py")):
      match = _FILE.search(file.relative_to(place.parent).as_posix())
      if match and match[1] == category and file.stat().st_size <= _MOST:
        yield match[2], file.read_text(errors="replace")
    return
  try:
    with zipfile.ZipFile(place) as archive:
      for info in archive.infolist():
        match = _FILE.search(info.filename)
        if match and match[1] == category and info.file_size <= _MOST:
          yield match[2], archive.read(info).decode(errors="replace")
  except zipfile.BadZipFile as error:
    raise ValueError(f"{path} is no zip: {error}.") from error


def _function(
  category: str, name: str, code: str, box: sandbox.Sandbox
) -> functions.Function:
  code += _ALIAS

  def values(xs: Sequence[Any]) -> Any:
    outcome = box.run(code, [x.item() if hasattr(x, "item") else x for x in xs])
    if outcome.status != "ok":
      raise functions.Failed(f"{outcome.status}: {outcome.error}")
    if category == "strings":
      return list(outcome.outputs)
    return np.array(
      [np.nan if y is None else float(y) for y in outcome.outputs]
    )

  about: dict[str, Any] = {"category": category, "is_network": False}
  tests: list[str] = []
  if category == "numeric":
    about |= {
      "inputs": f"numbers from -{numeric.RANGE:g} to {numeric.RANGE:g}",
      "outputs": "numbers; NaN where it has none",
      "notes": "It may be noisy, and odd in one interval.",
    }
  else:
    about |= {"inputs": "texts", "outputs": "texts"}
    tests = strings.texts(functions.rng(0, name, "official"), strings.NUM_TESTS)
  return functions.Function(
    f"{category}-official-{name}", category, about,
    {"variant": "official", "code": code}, values, values, tests,
  )  # fmt: skip
