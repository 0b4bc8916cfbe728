"""Labelled texts, read from a CSV file.

Shapes: N texts.
"""

import dataclasses
import os
import pathlib

import numpy as np

from spex_jax import base
from spex_jax.datasets import cells, labels

# Columns that are taken where none is named.
_TEXTS = ("text", "review", "sentence", "content")
_LABELS = ("label", "sentiment", "class", "target")


@dataclasses.dataclass(frozen=True, eq=False)
class Texts(base.ByValue):
  """Labelled texts.

  Attributes:
    texts: N of them, none empty.
    labels: int32 `[N]`, the number of each text's class, an index of `classes`.
    classes: names of the classes, sorted.
  """

  texts: tuple[str, ...]
  labels: np.ndarray
  classes: tuple[str, ...]

  @property
  def num_examples(self) -> int:
    return len(self.texts)


def read(
  path: str | os.PathLike, text_column: str = "", label_column: str = ""
) -> Texts:
  """Texts and labels of a CSV file with a header.

  Quotes at the ends of a text are taken off: some files quote every text.

  Args:
    path: a CSV file with a header, as `cells` reads it.
    text_column: its name; "" takes the one named like a text.
    label_column: the name of that of the labels; "" takes one of the usual
      names.

  Raises:
    FileNotFoundError: no such file.
    ValueError: no such column, no column that looks like one, no CSV, an empty
      text, a missing label, or fewer than two classes.
  """
  path = pathlib.Path(path)
  if not path.is_file():
    raise FileNotFoundError(f"{path} is no file.")
  try:
    header, rows, _ = cells.read(path)
  except ValueError as error:
    raise ValueError(f"{path}: {error}") from error
  of_text = _column(path, header, text_column, _TEXTS, "text_column")
  of_label = _column(path, header, label_column, _LABELS, "label_column")
  texts = [row[header.index(of_text)].strip('"').strip() for row in rows]
  if "" in texts:
    raise ValueError(f"{path}: row {texts.index('')} has an empty {of_text!r}.")
  try:
    numbers, classes = labels.numbered(
      np.array([row[header.index(of_label)] for row in rows], np.str_),
      (),
      of_label,
    )
  except ValueError as error:
    raise ValueError(f"{path}: {error}") from error
  if len(classes) < 2:
    raise ValueError(
      f"{path}: labels need two classes or more; {of_label!r} has "
      f"{list(classes)}."
    )
  return Texts(tuple(texts), numbers, classes)


def _column(
  path: pathlib.Path,
  header: list[str],
  name: str,
  usual: tuple[str, ...],
  setting: str,
) -> str:
  if name:
    found = [name] if name in header else []
  else:
    found = [known for known in usual if known in header]
  if not found:
    wanted = repr(name) if name else " or ".join(usual)
    raise ValueError(
      f"{path} has no column {wanted}; it has {', '.join(header) or 'none'}. "
      f"Name one by {setting}."
    )
  return found[0]
