"""Cells of a CSV file, as spreadsheets and programs write them.

A byte order mark is no part of a name. Cells are separated by commas,
semicolons or tabs, whichever the header has; where they are not commas, a
comma is a decimal one. A separator at the end of all lines makes no column. A
first line "sep=;" says which it is.

Rows count from 0, below the header; empty lines are none.
"""

import csv
import io
import pathlib
import re
from decimal import Decimal, InvalidOperation

import numpy as np

_SEPARATORS = (",", ";", "\t", "|")
_THOUSANDS = re.compile(r"[+-]?[1-9]\d{0,2}(,\d{3})+")
_SAID = re.compile(r'"?sep=(.)"?\r?\n')  # Excel's own first line.
_MARKS = {
  b"\xff\xfe": "utf-16",
  b"\xfe\xff": "utf-16",
  b"\xef\xbb\xbf": "utf-8-sig",
}


def read(
  path: pathlib.Path, *, strip: bool = True
) -> tuple[list[str], list[list[str]], str]:
  """The header, the rows and the separator of a CSV file with a header.

  Args:
    path: the path of the file.
    strip: whether spaces around a cell are none of it; of a name they never
      are.

  Raises:
    ValueError: no CSV of UTF-8 or UTF-16 text, one column without a separator
      that is known, a first line of numbers, or a row of another length than
      the header's; the messages do not name the file.
  """
  data = path.read_bytes()
  encoding = next(
    (name for mark, name in _MARKS.items() if data.startswith(mark)), "utf-8"
  )
  try:
    text = data.decode(encoding)
    told = _SAID.match(text)
    separator = told[1] if told else _separator(text)
    text = text[told.end() :] if told else text
    file = io.StringIO(text, newline="")
    lines = list(csv.reader(file, delimiter=separator))
  except (csv.Error, UnicodeDecodeError) as error:
    raise ValueError(f"no CSV of UTF-8 text: {error}.") from error
  lines = [line for line in lines if any(line)]
  if not lines:
    return [], [], separator
  header, *rows = lines
  header = [name.strip() for name in header]
  if strip:
    rows = [[cell.strip() for cell in row] for row in rows]
  while len(header) > 1 and not header[-1] and _ends_empty(rows, len(header)):
    header = header[:-1]
    rows = [row[: len(header)] for row in rows]
  if all(map(is_number, header)):
    raise ValueError(
      "the first line has numbers alone; a header of names is needed there."
    )
  for number, row in enumerate(rows):
    if len(row) != len(header):
      raise ValueError(
        f"row {number} has {len(row)} cells; the header has {len(header)}."
      )
  return header, rows, separator


def _separator(text: str) -> str:
  """What separates the cells of the first line that is not empty."""
  first = next((line for line in text.splitlines() if line.strip()), "")
  bare = re.sub(r'"[^"]*"', "", first)
  counts = {mark: bare.count(mark) for mark in _SEPARATORS}
  best = max(_SEPARATORS, key=lambda mark: counts[mark])
  return best if counts[best] else ","


def _ends_empty(rows: list[list[str]], width: int) -> bool:
  return all(
    len(row) == width - 1 or (len(row) == width and not row[-1]) for row in rows
  )


def numbers(
  cells: list[str], column: str, decimal_commas: bool = False
) -> np.ndarray:
  """A column of numbers, float64 `[N]`.

  Args:
    cells: the N texts of the column, one a row.
    column: the name of the column, for messages.
    decimal_commas: whether the file has some, perhaps in other columns: then
      the points of a column of "1.234" may be those of thousands.

  Raises:
    ValueError: a cell that is no finite number, or whose commas or points may
      be decimal ones or thousands (with its row), or numbers that float64
      cannot tell apart.
  """
  found = np.empty(len(cells))
  for mark, name in ((",", "comma"), (".", "point")):
    marked = [cell for cell in cells if mark in cell]
    if mark == "." and not decimal_commas:
      continue
    alike = (cell.replace(mark, ",") for cell in marked)
    if marked and all(map(_THOUSANDS.fullmatch, alike)):
      row = cells.index(marked[0])
      raise ValueError(
        f"row {row}, column {column!r}: the {name} of {marked[0]!r} may be a "
        "decimal one or one of thousands; write numbers without it."
      )
  plain = [
    cell.replace(",", ".") if cell.count(",") == 1 and "." not in cell else cell
    for cell in cells
  ]
  for row, cell in enumerate(plain):
    if is_number(cell):
      found[row] = float(cell)
    else:
      advice = "Encode texts as numbers, and drop or impute what is missing."
      if "," in cell:
        advice = "Write numbers without commas of thousands."
      raise ValueError(
        f"row {row}, column {column!r}: {cells[row]!r} is no number. {advice}"
      )
  if max(map(len, plain), default=0) > 15:
    _refuse_loss(plain, found, column)
  return found


def _refuse_loss(plain: list[str], found: np.ndarray, column: str) -> None:
  """Refuses long numbers that float64 merges, such as ids of 19 digits."""
  try:
    distinct = len({Decimal(cell) for cell in plain})
  except InvalidOperation:
    return  # Such as Unicode's digits.
  kept = len(np.unique(found))
  if kept < distinct and np.isfinite(found).all():
    raise ValueError(
      f"column {column!r} has {distinct:,} distinct values, of which float64 "
      f"keeps {kept:,}. Subtract what they share, or leave it out."
    )


def has_decimal_commas(rows: list[list[str]]) -> bool:
  """Whether some cell is a number with a comma."""
  return any("," in cell and is_number(cell) for row in rows for cell in row)


def is_number(cell: str) -> bool:
  """Whether a cell is a number, perhaps with a decimal comma."""
  try:
    float(cell.replace(",", ".") if cell.count(",") == 1 else cell)
  except ValueError:
    return False
  return "_" not in cell  # Python reads 1_000; no other program does.
