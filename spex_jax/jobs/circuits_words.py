"""The words of `spex circuit`: settings and what runs them."""

import pathlib
from collections.abc import Mapping
from typing import Any

from spex_jax import settings
from spex_jax.jobs import (
  circuits_cmap,
  circuits_dcm,
  circuits_files,
  circuits_find,
  circuits_patch,
  circuits_paths,
  circuits_tasks,
)

_KINDS: Mapping[str, type[settings.Settings]] = {
  "score": circuits_files.Score,
  "judge": circuits_files.Judge,
  "patch": circuits_patch.Patch,
  "paths": circuits_paths.Paths,
  "dcm": circuits_dcm.Dcm,
  "cmap": circuits_cmap.Cmap,
  "tasks": circuits_tasks.Tasks,
}
_INTO_FOLDERS = {
  "find": circuits_find, "patch": circuits_patch, "paths": circuits_paths,
  "dcm": circuits_dcm, "cmap": circuits_cmap,
}  # fmt: skip


def kind_of(
  word: str, given: Mapping[str, Any], where: str
) -> type[settings.Settings]:
  """The class of settings of a word; of `find`, by their `subject`.

  Raises:
    ValueError: a subject that there is not.
  """
  if word == "find":
    return circuits_find.kind_of(given, where)
  return _KINDS[word]


def run(word: str, config: Any, workdir: pathlib.Path, before: float) -> None:
  """Runs a word.

  Args:
    word: one of `_KINDS`, or find.
    config: of its class.
    workdir: of those that write into one.
    before: seconds of the command that have passed already.

  Raises:
    ValueError: what a job refuses.
  """
  if word in _INTO_FOLDERS:
    _INTO_FOLDERS[word].run(config, workdir, before=before)
  elif word == "score":
    circuits_files.score(config, before=before)
  elif word == "judge":
    circuits_files.judge(config, before=before)
  else:
    circuits_tasks.run(config, before=before)
