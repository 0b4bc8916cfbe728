"""Files of pairs: `.jsonl` and `.csv`, and the tables of EAP-IG and MIB.

A row is a pair, as texts or as token ids:

  {"clean": "...", "corrupted": "...", "right": [" Mary"], "wrong": [" John"]}
  {"clean_ids": [5, 7], "corrupted_ids": [5, 8], "right_ids": [3],
   "wrong_ids": []}

in `.jsonl`, where "spans" may name positions, {"subject": [3, 4]}; or `clean`,
`corrupted`, `right`, `wrong` in `.csv`, several answers in one cell as a JSON
list. In EAP-IG's table of greater-than `label` is a year's last two digits:
those above it are right, all others wrong.
"""

import csv
import io
import json
import pathlib
from typing import Any

import numpy as np

from spex_jax import base
from spex_jax.circuits import pairs as pairs_lib
from spex_jax.models import tokens

# Columns of right and wrong answers in other tables: EAP-IG's, then MIB's. The
# last two hold texts, the others ids of tokens.
_COLUMNS: tuple[tuple[str, str], ...] = (
  ("correct_idx", "incorrect_idx"),
  ("answers_idx", "corrupted_answers_idx"),
  ("country_idx", "corrupted_country_idx"),
  ("clean_answer_idx", "corrupted_answer_idx"),
  ("clean_answer", "corrupted_answer"),
)


def load(
  path: str | pathlib.Path,
  tokenizer: tokens.Tokenizer | None = None,
  bos: str = "auto",
  start: str = "",
) -> pairs_lib.Pairs:
  """Reads pairs from a `.jsonl` or `.csv` file.

  Args:
    path: the path of the file.
    tokenizer: of the model; needed where rows are texts.
    bos: as for `pairs.from_texts`; ids are taken as they are.
    start: a text in front of every prompt, as for `pairs.from_texts`.

  Raises:
    FileNotFoundError: no such file.
    ValueError: another kind of file, a row that is no object, texts without a
      tokenizer; see also `pairs`.
  """
  path = pathlib.Path(path)
  if path.suffix not in (".jsonl", ".csv"):
    raise ValueError(f"{path}: pairs are read from .jsonl and .csv files.")
  if not path.is_file():
    raise FileNotFoundError(f"There is no file {path}.")
  try:
    text = path.read_text(encoding="utf-8-sig")
  except UnicodeDecodeError as error:
    raise ValueError(f"{path} is no text in UTF-8: {error}.") from error
  read = _csv_rows if path.suffix == ".csv" else jsonl_rows
  rows = read(text, path) if text.strip() else []
  if not rows:
    raise ValueError(f"{path} holds no pairs: zero rows.")
  with_ids = [any(name in row for name in pairs_lib.IDS[:2]) for row in rows]
  if any(with_ids) and not all(with_ids):
    raise ValueError(
      f"{path}: row {with_ids.index(not with_ids[0])} has texts where others "
      "have ids, or the reverse."
    )
  try:
    if all(with_ids):
      return pairs_lib.from_ids(rows)
    if tokenizer is None:
      raise ValueError(
        "its rows are texts, and the model has no tokenizer: give clean_ids, "
        "corrupted_ids, right_ids and wrong_ids."
      )
    return pairs_lib.from_texts(rows, tokenizer, bos, start)
  except (ValueError, TypeError) as error:
    raise ValueError(f"{path}: {error}") from error


def save(pairs: pairs_lib.Pairs, path: str | pathlib.Path) -> None:
  """Writes pairs as token ids, with their texts where they are known.

  Args:
    pairs: pairs of prompts, with texts or without.
    path: ending in `.jsonl`, or in `.csv`, which keeps no spans.

  Raises:
    ValueError: another ending.
  """
  path, rows = pathlib.Path(path), as_rows(pairs)
  if path.suffix == ".jsonl":
    lines = [json.dumps(row, ensure_ascii=False) for row in rows]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
  elif path.suffix == ".csv":
    names = [name for name in rows[0] if name != "spans"]
    with path.open("w", newline="", encoding="utf-8") as file:
      writer = csv.writer(file)
      writer.writerow(names)
      writer.writerows([json.dumps(row[n]) for n in names] for row in rows)
  else:
    raise ValueError(f"{path}: pairs are written to .jsonl and .csv files.")


def as_rows(pairs: pairs_lib.Pairs) -> list[dict[str, Any]]:
  """Pairs as `pairs.from_ids` takes them."""
  rows = []
  for i, length in enumerate(pairs.lengths.tolist()):
    row: dict[str, Any] = {
      "clean_ids": pairs.clean[i, :length].tolist(),
      "corrupted_ids": pairs.corrupted[i, :length].tolist(),
      "right_ids": pairs.right[i][pairs.right[i] >= 0].tolist(),
      "wrong_ids": pairs.wrong[i][pairs.wrong[i] >= 0].tolist(),
    }
    if pairs.texts is not None:
      row["texts"] = list(pairs.texts[i])
    if pairs.spans is not None:
      where = pairs.spans.owner[i % len(pairs.spans.owner), :length]
      row["spans"] = {
        name: np.flatnonzero(where == k).tolist()
        for k, name in enumerate(pairs.spans.names)
      }
    rows.append(row)
  return rows


def jsonl_rows(text: str, path: pathlib.Path) -> list[dict[str, Any]]:
  """The objects of a text, one a line; `path` is for messages.

  Raises:
    ValueError: a line that is none.
  """
  rows = []
  for number, row in base.json_lines(text, path):
    if not isinstance(row, dict):
      raise ValueError(f"{path}: line {number} is no object.")
    rows.append(row)
  return rows


def _csv_rows(text, path) -> list[dict[str, Any]]:
  """Rows of a table, whichever of the known columns it has."""
  reader = csv.DictReader(io.StringIO(text, newline=""), strict=True)
  try:
    rows = [dict(row) for row in reader]
  except csv.Error as error:
    raise ValueError(f"{path}: {error}.") from error
  columns = list(reader.fieldnames or ())
  for number, row in enumerate(rows):
    if None in row or None in row.values():
      raise ValueError(
        f"{path}: row {number} has not as many cells as the header, which has "
        f"{len(columns)}. A cell with a comma stands in quotes."
      )
  if {"clean_ids", "right_ids"} <= {*columns}:
    parsed = [*pairs_lib.IDS, "texts"]
    return [{n: _cell(row[n]) for n in parsed if n in columns} for row in rows]
  if {"clean", "corrupted", "right"} <= {*columns}:
    answers = ("right", "wrong")
    return [
      {n: _list(x) if n in answers else x for n, x in row.items()}
      for row in rows
    ]
  if {"clean", "corrupted", "label"} <= {*columns}:
    return [_greater(row, f"{path}: row {i}") for i, row in enumerate(rows)]
  for right, wrong in _COLUMNS:
    if {"clean", "corrupted", right, wrong} <= {*columns}:
      read = _cell if right.endswith("_idx") else str
      return [
        {
          "clean": row["clean"],
          "corrupted": row["corrupted"],
          "right": read(row[right]),
          "wrong": read(row[wrong]),
        }
        for row in rows
      ]
  known = ["right, wrong", "label", *(", ".join(pair) for pair in _COLUMNS)]
  raise ValueError(
    f"{path} has the columns {columns}; known are clean, corrupted and one of: "
    f"{'; '.join(known)}."
  )


def _list(text: str) -> Any:
  """The answers of a cell: a list in JSON, or one text."""
  found = _cell(text) if text.startswith("[") else text
  return found if isinstance(found, list) else text


def _greater(row: dict[str, Any], where: str) -> dict[str, Any]:
  """A row of texts, of one whose label is the two digits to be exceeded."""
  label = row["label"].strip()
  if not label.isdecimal() or int(label) > 98:
    raise ValueError(
      f"{where}: a label is the last two digits of a year, 0 to 98; got "
      f"{label!r}."
    )
  years, split = [f"{year:02d}" for year in range(100)], int(label) + 1
  return {
    "clean": row["clean"],
    "corrupted": row["corrupted"],
    "right": years[split:],
    "wrong": years[:split],
  }


def _cell(text: str) -> Any:
  """What a cell of a table holds: JSON, or the text itself."""
  try:
    return json.loads(text)
  except (json.JSONDecodeError, TypeError):
    return text
