"""Tables: scikit-learn's small ones by name, or any arrays.

Shapes: N examples, F columns.
"""

import dataclasses
from collections.abc import Sequence

import numpy as np

from spex_jax import base
from spex_jax.datasets import splits

NAMES = ("breast_cancer", "diabetes", "iris", "wine")


@dataclasses.dataclass(frozen=True)
class Table:
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
