"""A fitted model of tables, asked about one row with some columns absent.

An absent column takes the value that it has in rows of a background, over
which the predictions are averaged (Lundberg and Lee 2017, interventional):
with one row, a constant. Frames of pandas keep their columns' types, categories
and missing values; nothing is cast on the way to the model.

Shapes: n columns, B masks, R background rows, T targets.
"""

from collections.abc import Callable
from typing import Any

import numpy as np

from spex_jax import base
from spex_jax.ablate import evaluate

# Rows that a model is given at a time.
_ROWS = 65_536


def masked(
  predict: Callable[[Any], Any],
  row: Any,
  background: Any,
  *,
  rows_per_call: int = _ROWS,
) -> evaluate.Evaluator:
  """The value function of one row: columns are players, named by the frame.

    answer = spex.explain(masked(model.predict_proba, X.iloc[3], X[:50]), key=k)

  Args:
    predict: a frame (an array, where `background` is one) of rows to numbers
      `[rows]` or `[rows, T]`; any callable, jitted ones too.
    row: what is explained: a Series, a frame of one row, a mapping by column,
      or an array `[n]` (`[1, n]`).
    background: a frame or array of R rows, or one row as above. What is
      missing in it, or in `row`, is given to `predict` as it is.
    rows_per_call: the most that `predict` is given at once, or R if that is
      more.

  Returns:
    An evaluator with `names`, for `explain` and `assess`.

  Raises:
    TypeError: a background or row of another kind.
    ValueError: no background row, a row of other columns or with a value that
      is no category of its column, masked entries, columns of one name, or
      what `predict` returns: texts, or another number of rows.
  """
  rows_per_call = base.check_integer(rows_per_call, "rows_per_call")
  if rows_per_call < 1:
    raise ValueError(f"rows_per_call must be 1 or more; got {rows_per_call}.")
  pool = _pool(row, background)
  n, stand_ins = len(pool.names), pool.size - 1

  def value(masks: np.ndarray) -> np.ndarray:
    # Row 0 of the pool is the one explained, the others stand in.
    others = np.arange(1, stand_ins + 1)
    places = np.where(masks[:, None, :], 0, others[None, :, None])
    given = pool.take(places.reshape(-1, n))
    answers = _numbers(predict(given), len(masks) * stand_ins)
    answers = answers.reshape(len(masks), stand_ins, *answers.shape[1:])
    return answers.mean(axis=1)

  batch_size = max(1, rows_per_call // stand_ins)
  evaluator = evaluate.host(value, n, batch_size=batch_size)
  evaluator.names = pool.names
  return evaluator


class _Pool:
  """The row and the background one above the other, by column.

  Attributes:
    names: n of them.
    size: R + 1.
  """

  def __init__(self, columns: dict[Any, Any], frame: Any, dtype: Any = None):
    self._columns, self._frame, self._dtype = columns, frame, dtype
    self.names = tuple(map(str, columns))
    self.size = len(next(iter(columns.values())))
    if len(set(self.names)) != len(self.names):
      raise ValueError("Columns must have distinct names.")

  def take(self, places: np.ndarray) -> Any:
    """Rows whose cell of column i is that of the pool's row `places[:, i]`."""
    columns = {
      name: column.take(places[:, i])
      for i, (name, column) in enumerate(self._columns.items())
    }
    if self._frame is not None:
      return self._frame(columns)
    return np.stack(list(columns.values()), axis=1, dtype=self._dtype)


def _pool(row: Any, background: Any) -> _Pool:
  if hasattr(background, "to_frame") and hasattr(background, "index"):
    background = background.to_frame().T.infer_objects()  # A Series.
  if hasattr(background, "columns") and hasattr(background, "iloc"):
    return _of_frame(row, background)
  if hasattr(background, "items"):
    import pandas as pd  # Whoever has rows by name has it, or is told.

    return _of_frame(row, pd.DataFrame({k: [v] for k, v in background.items()}))
  return _of_arrays(row, background)


def _of_arrays(row: Any, background: Any) -> _Pool:
  given = []
  for what, array in (("row", row), ("background", background)):
    base.check_unmasked(array, f"Cells of {what}")
    array = np.atleast_2d(np.asarray(array))
    if array.ndim != 2 or 0 in array.shape:
      raise ValueError(f"{what} must be [rows, n]; got {array.shape}.")
    given.append(array)
  own, others = given
  if own.shape != (1, others.shape[1]):
    raise ValueError(
      f"row has shape {np.shape(row)}; one row of the background has "
      f"{others.shape[1]} columns."
    )
  dtype = np.result_type(own, others) if own.dtype != others.dtype else None
  table = np.concatenate([own, others], dtype=dtype)
  return _Pool(
    {f"x{i}": column for i, column in enumerate(table.T)}, None, table.dtype
  )


def _of_frame(row: Any, background: Any) -> _Pool:
  import pandas as pd

  if not len(background):
    raise ValueError("background has no rows.")
  columns = list(background.columns)
  if len(set(columns)) != len(columns):
    raise ValueError("background has columns of one name.")
  if isinstance(row, pd.DataFrame):
    if len(row) != 1:
      raise ValueError(f"row must be one row; got a frame of {len(row)}.")
    cells = {name: row[name] for name in row.columns}
  elif hasattr(row, "items"):
    cells = {name: pd.Series([value]) for name, value in row.items()}
  elif np.ndim(row) == 1 and len(row) == len(columns):
    cells = {name: pd.Series([v]) for name, v in zip(columns, row)}
  else:
    raise TypeError(
      "row must be a Series, a frame of one row, a mapping by column, or a "
      f"list of {len(columns)} values; got {type(row).__name__}."
    )
  if missing := [str(name) for name in columns if name not in cells]:
    raise ValueError(f"row lacks {', '.join(missing)} of the background.")
  pool = {
    name: _column(name, cells[name], background[name]) for name in columns
  }
  return _Pool(pool, pd.DataFrame)


def _column(name: Any, cell: Any, others: Any) -> Any:
  """A column of pandas's, the row's cell first, in the background's type."""
  import pandas as pd

  value, dtype = cell.iloc[0], others.dtype
  missing = bool(pd.api.types.is_scalar(value) and pd.isna(value))
  if isinstance(dtype, pd.CategoricalDtype):
    if not missing and value not in dtype.categories:
      raise ValueError(
        f"row's {name!r} is {value!r}, no category of the background's: "
        f"{', '.join(map(str, dtype.categories))}."
      )
    cell = pd.Series([None if missing else value], dtype=dtype)
  elif not missing:
    # A row of mixed types holds objects; its cells are of their columns' type.
    try:
      cast = pd.Series([value]).astype(dtype)
      cell = cast if cast.iloc[0] == value else pd.Series([value])
    except (TypeError, ValueError, OverflowError):
      cell = pd.Series([value])
  elif isinstance(dtype, np.dtype) and dtype.kind in "iu":
    cell = pd.Series([np.nan])  # The column becomes one of floats.
  else:
    try:
      cell = pd.Series([value], dtype=object).astype(dtype)
    except (TypeError, ValueError):
      cell = pd.Series([value], dtype=object)
  return pd.concat([cell, others], ignore_index=True).array


def _numbers(answers: Any, count: int) -> np.ndarray:
  base.check_unmasked(answers, "What predict returns")
  array = np.asarray(answers)
  if array.dtype.kind in "OUS":
    raise ValueError(
      "predict returns texts or objects; it must return numbers, as "
      "predict_proba and decision_function do."
    )
  if array.ndim not in (1, 2) or len(array) != count:
    raise ValueError(
      f"predict returns an array of shape {array.shape} for {count} rows; it "
      "must be one number per row, or T of them."
    )
  if array.ndim == 2 and array.shape[1] == 1:
    array = array[:, 0]
  return array.astype(np.float64) if array.dtype.kind != "f" else array
