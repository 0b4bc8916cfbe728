"""Tables: scikit-learn's small ones by name, any arrays, or a file.

Shapes: N examples, F columns.
"""

import csv
import dataclasses
import os
import pathlib
from collections.abc import Sequence

import numpy as np

from spex_jax import base
from spex_jax.datasets import splits

NAMES = ("breast_cancer", "diabetes", "iris", "wine")


@dataclasses.dataclass(frozen=True, eq=False)
class Table(base.ByValue):
  """Examples by columns.

  Attributes:
    features: float32 `[N, F]`, finite.
    targets: `[N]`, int32 classes or float32 responses.
    columns: F names.
    classes: names of the classes; empty for a response.
  """

  features: np.ndarray
  targets: np.ndarray
  columns: tuple[str, ...]
  classes: tuple[str, ...] = ()

  @property
  def num_examples(self) -> int:
    return len(self.features)

  def take(self, rows: np.ndarray) -> "Table":
    """The table of the given rows."""
    return dataclasses.replace(
      self, features=self.features[rows], targets=self.targets[rows]
    )

  def split(
    self, key: base.Key, test_fraction: float
  ) -> tuple["Table", "Table"]:
    """Training and test tables; see `splits.split`. `key` is consumed."""
    train, test = splits.split(key, self.num_examples, test_fraction)
    return self.take(train), self.take(test)

  def moments(self) -> tuple[np.ndarray, np.ndarray]:
    """Mean and standard deviation of the columns, float32 `[F]`.

    A constant column has deviation 1, so that dividing by it is harmless.
    """
    mean = self.features.mean(axis=0, dtype=np.float64)
    std = self.features.std(axis=0, dtype=np.float64)
    # A constant column's deviation is rounding, not scale.
    floor = 1e-6 * np.abs(mean)
    return (
      mean.astype(np.float32),
      np.where(std > floor, std, 1.0).astype(np.float32),
    )


def from_arrays(
  features: base.Array,
  targets: base.Array,
  *,
  columns: Sequence[str] = (),
  classes: Sequence[str] = (),
) -> Table:
  """A checked table of your own arrays.

  Args:
    features: real `[N, F]`.
    targets: `[N]`; integers are classes, numbered from 0, floats a response.
    columns: F names; `x0`, `x1`, ... if empty.
    classes: names of the classes; their numbers if empty.

  Raises:
    ValueError: shapes that disagree, NaN or infinity (naming the first row and
      column), duplicate names, or a class outside the names given.
  """
  features = np.asarray(features, np.float32)
  targets = np.asarray(targets)
  if features.ndim != 2 or 0 in features.shape:
    raise ValueError(
      f"Features must be [examples, columns]; got shape {features.shape}."
    )
  if targets.shape != features.shape[:1]:
    raise ValueError(
      f"Need one target for each of {len(features)} examples; got shape "
      f"{targets.shape}."
    )
  columns = tuple(columns) or tuple(f"x{i}" for i in range(features.shape[1]))
  if len(columns) != features.shape[1] or len(set(columns)) != len(columns):
    raise ValueError(
      f"Need {features.shape[1]} distinct column names; got {len(columns)} "
      f"({len(set(columns))} distinct)."
    )
  bad = np.argwhere(~np.isfinite(features))
  if len(bad):
    row, column = bad[0]
    raise ValueError(
      f"Features hold {len(bad)} NaN or infinite entries (first at row "
      f"{row}, column {columns[column]!r}); drop or impute them first."
    )
  if targets.dtype.kind in "iub":
    targets = targets.astype(np.int32)
    top = int(targets.max())
    names = tuple(classes) or tuple(str(c) for c in range(top + 1))
    if targets.min() < 0 or top >= len(names):
      raise ValueError(
        f"Classes must lie in 0..{len(names) - 1}; got {targets.min()} to "
        f"{top}."
      )
  else:
    targets = targets.astype(np.float32)
    names = ()
    if classes or not np.isfinite(targets).all():
      raise ValueError("A response must be finite, and has no class names.")
  return Table(
    features=features, targets=targets, columns=columns, classes=names
  )


def load(name: str) -> Table:
  """One of scikit-learn's tables, by its name in `NAMES`."""
  if name not in NAMES:
    raise ValueError(f"Unknown table {name!r}; known are {', '.join(NAMES)}.")
  from sklearn import datasets  # Slow to import.

  bunch = getattr(datasets, f"load_{name}")()
  return from_arrays(
    bunch.data,
    bunch.target,
    columns=tuple(str(c) for c in bunch.feature_names),
    classes=tuple(str(c) for c in getattr(bunch, "target_names", ())),
  )


def read(path: str | os.PathLike, target: str = "") -> Table:
  """A table from a `.csv` file with a header, or an `.npz` file.

  Args:
    path: CSV in UTF-8, every column but the target numbers; or `.npz` with
      `x` `[N, F]` and `y` `[N]`, and perhaps `columns` and `classes`, names.
    target: of a CSV, the column to predict; the last by default. Texts and
      whole numbers are classes, other numbers a response.

  Raises:
    FileNotFoundError: no such file.
    ValueError: another kind of file, a column that is missing, an entry that
      is no number (named), or what `from_arrays` refuses.
  """
  path = pathlib.Path(path)
  if not path.is_file():
    raise FileNotFoundError(f"{str(path)!r} is no file.")
  try:
    if path.suffix == ".csv":
      return _csv(path, target)
    if path.suffix == ".npz" and not target:
      return _npz(path)
  except ValueError as error:
    raise ValueError(f"{path}: {error}") from error
  if path.suffix == ".npz":
    raise ValueError(f"{path}: the target of an .npz file is y, no {target!r}.")
  raise ValueError(f"{path} must be .csv or .npz.")


def _csv(path: pathlib.Path, target: str) -> Table:
  try:
    with path.open(newline="", encoding="utf-8") as file:
      lines = [line for line in csv.reader(file) if line]
  except (csv.Error, UnicodeDecodeError) as error:
    raise ValueError(f"no CSV of UTF-8 text: {error}.") from error
  if len(lines) < 2 or len(lines[0]) < 2:
    raise ValueError("need a header, two columns and one row at least.")
  header, *rows = [[cell.strip() for cell in line] for line in lines]
  target = target or header[-1]
  if target not in header:
    raise ValueError(f"no column {target!r}; it has {', '.join(header)}.")
  ragged = [i for i, row in enumerate(rows) if len(row) != len(header)]
  if ragged:
    raise ValueError(
      f"row {ragged[0]} has {len(rows[ragged[0]])} cells; the header has "
      f"{len(header)}."
    )
  place = header.index(target)
  columns = [name for i, name in enumerate(header) if i != place]
  features = np.empty((len(rows), len(columns)), np.float32)
  for number, row in enumerate(rows):
    cells = row[:place] + row[place + 1 :]
    for column, cell in enumerate(cells):
      try:
        features[number, column] = float(cell)
      except ValueError:
        raise ValueError(
          f"row {number}, column {columns[column]!r}: {cell!r} is no number. "
          "Encode texts as numbers, and drop or impute what is missing."
        ) from None
  return _labelled(features, [row[place] for row in rows], columns, target)


def _labelled(
  features: np.ndarray, answers: list[str], columns: list[str], target: str
) -> Table:
  if "" in answers:
    raise ValueError(f"row {answers.index('')} has no {target!r}.")
  try:
    numbers = np.array([float(answer) for answer in answers])
  except ValueError:
    numbers = None
  if numbers is not None and not np.isfinite(numbers).all():
    row = int(np.flatnonzero(~np.isfinite(numbers))[0])
    raise ValueError(f"row {row} has {answers[row]!r} as {target!r}.")
  if numbers is not None and not (numbers == np.round(numbers)).all():
    return from_arrays(features, numbers, columns=columns)
  if numbers is None:
    classes = sorted(set(answers))
  else:
    classes = [str(int(x)) for x in np.unique(numbers)]
    answers = [str(int(x)) for x in numbers]
  if len(classes) < 2 or len(classes) > max(2, len(answers) // 2):
    raise ValueError(
      f"{target!r} has {len(classes)} classes in {len(answers)} rows. Classes "
      "are texts or whole numbers; give a response a decimal point."
    )
  index = {name: number for number, name in enumerate(classes)}
  labels = np.array([index[answer] for answer in answers], np.int32)
  return from_arrays(features, labels, columns=columns, classes=classes)


def read_npz(path: str | os.PathLike) -> dict[str, np.ndarray]:
  """The arrays of an `.npz` file, by name.

  Raises:
    ValueError: there are none; the message does not name the file.
  """
  try:
    with np.load(path, allow_pickle=False) as file:
      return dict(file)
  except (OSError, ValueError, TypeError, AttributeError) as error:
    raise ValueError(f"no arrays of NumPy's: {error}.") from error


def _npz(path: pathlib.Path) -> Table:
  arrays = read_npz(path)
  missing = {"x", "y"} - set(arrays)
  if missing:
    raise ValueError(
      f"holds {', '.join(arrays) or 'nothing'}; it must hold x and y."
    )
  names = {
    name: [str(entry) for entry in arrays[name]]
    for name in ("columns", "classes")
    if name in arrays
  }
  return from_arrays(
    arrays["x"],
    arrays["y"],
    columns=names.get("columns", ()),
    classes=names.get("classes", ()),
  )
