"""A table of numbers in an array, for models that are fitted already.

It stands in for a frame of pandas where that is not installed. Texts, missing
values and columns that a model calls by name need a frame, which is said.

Shapes: N rows, F columns.
"""

import contextlib
import dataclasses
import pathlib
import warnings
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from spex_jax.datasets import cells, tabular

PANDAS = "pandas (pip install 'spex-jax[tables]')"


@dataclasses.dataclass(frozen=True, eq=False)
class Numbers:
  """Columns of numbers, none of which is missing.

  Attributes:
    columns: the names of the F columns.
    cells: `[N]` rows of F cells: texts as they were read, or an array.
  """

  columns: tuple[str, ...]
  cells: Sequence[Sequence[str]] | np.ndarray
  decimal: str = "."

  def __len__(self) -> int:
    return len(self.cells)

  def chosen(self, names: Sequence[str]) -> "Numbers":
    """The columns of these names, as an array: float64 `[N, F]`.

    Raises:
      ValueError: cells that are missing or no numbers, with the first.
    """
    places = [self.columns.index(name) for name in names]
    if isinstance(self.cells, np.ndarray):
      return Numbers(tuple(names), self.cells[:, places])
    found = np.empty((len(self.cells), len(names)))
    for i, (name, place) in enumerate(zip(names, places)):
      column = [line[place] for line in self.cells]
      for row, cell in enumerate(column):
        plain = cell.replace(self.decimal, ".")
        number = "," not in plain and cells.is_number(plain)
        if not number or np.isnan(float(plain)):
          raise ValueError(
            f"row {row}, column {name!r} is {cell!r}: texts and missing values "
            f"need {PANDAS}."
          )
      found[:, i] = cells.numbers(column, name, self.decimal == ",")
    return Numbers(tuple(names), found)

  def array(self) -> np.ndarray:
    """The numbers that `chosen` read, `[N, F]`."""
    return np.asarray(self.cells, np.float64)

  def items(self) -> Iterator[tuple[str, np.ndarray]]:
    """Each column's name and numbers, `[N]`."""
    return zip(self.columns, self.array().T)


def read(config: Any) -> Numbers:
  """The table of `config.table`, the target perhaps among its columns.

  Raises:
    FileNotFoundError: there is no such CSV.
    ValueError: columns of one name, or a file that `cells` refuses.
  """
  path = pathlib.Path(config.table)
  if path.suffix != ".csv":
    data = (
      tabular.read(path)
      if path.suffix == ".npz"
      else tabular.load(config.table)
    )
    return Numbers(data.columns, data.features)
  header, rows, decimal = of_csv(path)
  # As pandas calls those that a file does not name.
  names = [name or f"Unnamed: {i}" for i, name in enumerate(header)]
  if len(set(names)) != len(names):
    raise ValueError(f"{path}: columns of one name need {PANDAS}.")
  return Numbers(tuple(names), rows, decimal)


def of_csv(path: pathlib.Path) -> tuple[list[str], list[list[str]], str]:
  """Header, rows and decimal mark of a CSV file.

  Raises:
    FileNotFoundError: there is no such file.
    ValueError: a file that `cells` refuses, named.
  """
  if not path.is_file():
    raise FileNotFoundError(f"{str(path)!r} is no file.")
  try:
    header, rows, separator = cells.read(path, strip=False)
  except ValueError as error:
    raise ValueError(f"{path}: {error}") from error
  commas = separator != "," and cells.has_decimal_commas(rows)
  return header, rows, "," if commas else "."


@contextlib.contextmanager
def unnamed() -> Iterator[None]:
  """Within it scikit-learn does not say that arrays have no names."""
  with warnings.catch_warnings():
    warnings.filterwarnings("ignore", "X does not have valid feature names")
    yield
