"""Tables: scikit-learn's small ones by name, any arrays, or a file.

Shapes: N examples, F columns.
"""

import dataclasses
import os
import pathlib
from collections.abc import Sequence

import numpy as np

from spex_jax import base
from spex_jax.datasets import casts, cells, labels, splits

NAMES = ("breast_cancer", "diabetes", "iris", "wine")


@dataclasses.dataclass(frozen=True, eq=False)
class Table(base.ByValue):
  """Examples by columns.

  Attributes:
    features: float64 `[N, F]`, finite; `standard` narrows them.
    targets: `[N]`, int32 classes or float64 responses.
    columns: F names.
    rows: int64 `[N]`, what number each example had where it came from.
    classes: names of the classes; empty for a response.
  """

  features: np.ndarray
  targets: np.ndarray
  columns: tuple[str, ...]
  rows: np.ndarray
  classes: tuple[str, ...] = ()

  @property
  def num_examples(self) -> int:
    return len(self.features)

  def take(self, rows: np.ndarray) -> "Table":
    """The table of the given rows."""
    return dataclasses.replace(
      self,
      features=self.features[rows],
      targets=self.targets[rows],
      rows=self.rows[rows],
    )

  def split(
    self, key: base.Key, test_fraction: float
  ) -> tuple["Table", "Table"]:
    """Training and test tables; see `splits.split`. `key` is consumed."""
    train, test = splits.split(key, self.num_examples, test_fraction)
    return self.take(train), self.take(test)

  def moments(self) -> tuple[np.ndarray, np.ndarray]:
    """Mean and standard deviation of the columns, float64 `[F]`.

    A constant column has deviation 1, so that dividing by it is harmless.
    """
    mean = self.features.mean(axis=0)
    std = self.features.std(axis=0)
    # A constant column's deviation is rounding, not scale.
    return mean, np.where(np.ptp(self.features, axis=0) > 0, std, 1.0)

  def standard(self, mean: np.ndarray, std: np.ndarray) -> np.ndarray:
    """Features less a mean, over a scale, as networks take them: float32.

    Raises:
      ValueError: a column that the cast merges values of, named.
    """
    advice = "Clip what lies far off, or choose a model that is no network."
    return casts.narrow((self.features - mean) / std, self.columns, advice)

  def text(self, row: int) -> str:
    """An example's columns and target, as in "a=1, b=2.5; y=no"."""
    values = [f"{x:.12g}" for x in self.features[row].tolist()]
    cells = ", ".join(f"{c}={x}" for c, x in zip(self.columns, values))
    target = self.targets[row]
    answer = self.classes[target] if self.classes else f"{target:.12g}"
    return f"{cells}; target {answer}"


def from_arrays(
  features: base.Array,
  targets: base.Array,
  *,
  columns: Sequence[str] = (),
  classes: Sequence[str] = (),
) -> Table:
  """A checked table of your own arrays.

  Args:
    features: real `[N, F]`, neither of them 0; kept as float64.
    targets: `[N]`; integers and texts are classes, see `labels.numbered`,
      floats a response.
    columns: F names; `x0`, `x1`, ... if empty.
    classes: names of the classes; the distinct labels if empty.

  Raises:
    ValueError: shapes that disagree, masked entries, NaN or infinity (naming
      the first row and column), duplicate names, or a class outside the names
      given.
  """
  columns = tuple(columns)
  features = casts.real(features, "Features", columns)
  targets = casts.unmasked(targets, "Targets")
  if features.ndim != 2 or 0 in features.shape:
    raise ValueError(
      f"Features must be [examples, columns]; got shape {features.shape}."
    )
  if targets.shape != features.shape[:1]:
    raise ValueError(
      f"Need one target for each of {len(features)} examples; got shape "
      f"{targets.shape}."
    )
  columns = columns or tuple(f"x{i}" for i in range(features.shape[1]))
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
  if targets.dtype.kind == "f":
    targets, names = casts.real(targets, "Targets"), ()
    bad = np.flatnonzero(~np.isfinite(targets))
    if classes:
      raise ValueError("A response has no class names.")
    if len(bad):
      raise ValueError(
        f"A response must be finite; {len(bad)} are not (first: "
        f"{targets[bad[0]]} at row {bad[0]})."
      )
  else:
    targets, names = labels.numbered(targets, classes, "target")
  rows = np.arange(len(features))
  return Table(features, targets, columns, rows, names)


def load(name: str) -> Table:
  """One of scikit-learn's tables, by its name in `NAMES`.

  Raises:
    ValueError: a name that is not in `NAMES`.
  """
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


def read(
  path: str | os.PathLike, target: str = "", response: bool | None = None
) -> Table:
  """A table from a `.csv` file with a header, or an `.npz` file.

  Args:
    path: CSV, see `cells`, every column but the target numbers; or `.npz` with
      `x` `[N, F]` and `y` `[N]`, and perhaps `columns` and `classes`, names.
    target: the target of a CSV, the column to predict; the last by default.
    response: whether it is numbers to be predicted as such, True, or classes,
      False. None: texts and whole numbers of a CSV are classes, and so are
      integers of an `.npz`.

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
      return _csv(path, target, response)
    if path.suffix == ".npz" and not target:
      return _npz(path, response)
  except (TypeError, ValueError) as error:
    raise ValueError(f"{path}: {error}") from error
  if path.suffix == ".npz":
    raise ValueError(f"{path}: the target of an .npz file is y, no {target!r}.")
  raise ValueError(f"{path} must be .csv or .npz.")


def _csv(path: pathlib.Path, target: str, response: bool | None) -> Table:
  header, rows, separator = cells.read(path)
  if not rows or len(header) < 2:
    raise ValueError("need a header, two columns and one row at least.")
  if "" in header:
    raise ValueError(
      f"column {header.index('')} has no name. Name it, or leave it out: "
      "pandas writes numbers of rows there, but for index=False."
    )
  target = target or header[-1]
  if target not in header:
    raise ValueError(f"no column {target!r}; it has {', '.join(header)}.")
  place = header.index(target)
  columns = [name for i, name in enumerate(header) if i != place]
  commas = separator != "," and cells.has_decimal_commas(rows)
  features = np.stack(
    [
      cells.numbers([row[i] for row in rows], name, commas)
      for i, name in enumerate(header)
      if i != place
    ],
    axis=1,
  )
  answers = [row[place] for row in rows]
  labels.refuse_missing(answers, target)
  return from_arrays(
    features, _targets(answers, target, response, commas), columns=columns
  )


def _targets(
  answers: list[str], target: str, response: bool | None, commas: bool
) -> np.ndarray:
  """Responses, float64 `[N]`, or classes, integers or texts."""
  if response or all(map(cells.is_number, answers)):
    numbers = cells.numbers(answers, target, commas)
    for row in np.flatnonzero(~np.isfinite(numbers)):
      raise ValueError(f"row {row} has {answers[row]!r} as {target!r}.")
    whole = np.array_equal(numbers, np.round(numbers))
    if response or (response is None and not whole):
      return numbers
    small = whole and np.abs(numbers).max() < 2.0**53
    found = numbers.astype(np.int64) if small else np.array(answers)
  else:
    found = np.array(answers)
  count = len(np.unique(found))
  if count < 2 or count > max(2, len(answers) // 2):
    advice = ""
    if found.dtype.kind == "i":
      advice = (
        "; to predict the numbers themselves, say so by "
        "--config.response=true (response=True)"
      )
    raise ValueError(
      f"{target!r} has {count} classes in {len(answers)} rows. Classes are "
      f"texts or whole numbers{advice}."
    )
  return found


def read_npz(path: str | os.PathLike) -> dict[str, np.ndarray]:
  """The arrays of an `.npz` file, by name.

  Raises:
    ValueError: there are none, or more than this machine can hold; the message
      does not name the file.
    MemoryError: the arrays do not fit after all; the message names the file.
  """
  try:
    with np.load(path, allow_pickle=False) as file:
      # A small file may unpack to anything.
      size = sum(part.file_size for part in file.zip.infolist())
      if size > base.memory():
        raise ValueError(
          f"{size:,} bytes of them, unpacked, do not fit into this machine"
        )
      return dict(file)
  except MemoryError as error:  # This machine's, not the file's.
    raise MemoryError(f"{path}: {error}") from error
  except Exception as error:  # Whatever zipfile and zlib meet in a bad one.
    raise ValueError(f"no arrays of NumPy's: {error}.") from error


def _npz(path: pathlib.Path, response: bool | None) -> Table:
  arrays = read_npz(path)
  missing = {"x", "y"} - set(arrays)
  if missing:
    raise ValueError(
      f"holds {', '.join(arrays) or 'nothing'}; it must hold x and y."
    )
  names = {
    name: [str(entry) for entry in np.atleast_1d(arrays[name])]
    for name in ("columns", "classes")
    if name in arrays
  }
  y = arrays["y"]
  if response and y.dtype.kind in "iu":
    y = casts.real(y, "y")
  if response is False and y.dtype.kind == "f":
    whole = np.isfinite(y) & (y == np.round(y))
    if not whole.all():
      row = int(np.flatnonzero(~whole)[0])
      raise ValueError(f"y of row {row} is {y[row]}, no class.")
    y = y.astype(np.int64)
  return from_arrays(
    arrays["x"],
    y,
    columns=names.get("columns", ()),
    classes=names.get("classes", ()),
  )
