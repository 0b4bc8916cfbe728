"""Models of tables that are fitted already, read from files.

A model answers one row: a classifier its decision value or probability of the
class that it predicts, anything else its prediction. The table is read as
pandas reads it, so that categories and missing values reach a pipeline as they
did when it was fitted.

Loading a `.joblib` or `.pkl` file runs whatever code it holds; the other kinds
hold numbers alone.
"""

import csv
import io
import pathlib
import pickle
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from spex_jax import base
from spex_jax.ablate import columns as masked
from spex_jax.ablate import evaluate
from spex_jax.datasets import cells, tabular
from spex_jax.jobs import categories, subjects

_PICKLES = (".joblib", ".pkl", ".pickle")
_KINDS = ".joblib, .pkl, .txt (LightGBM), .json or .ubj (XGBoost), .msgpack"


class Asked(NamedTuple):
  """A model, asked about one row of a table.

  Attributes:
    evaluator: the value function; columns are players.
    names: the names of the columns, one for each player.
    what: what the value is, in words.
    units: the units of the value; "" where it has none.
    fact: the model, in words, with where it comes from.
    absent: what an absent column takes, in words.
    row: what is known of the row, behind its number.
    game: the same value as JAX differentiates it, if it does.
  """

  evaluator: evaluate.Evaluator
  names: tuple[str, ...]
  what: str
  units: str
  fact: str
  absent: str
  row: str
  game: base.Game | None = None


def asked(config: Any, workdir: pathlib.Path) -> Asked:
  """The model of `model.file`, asked about a row of the table.

  Args:
    config: the settings of the subject `table`.
    workdir: not used, as nothing is fitted.

  Raises:
    ValueError: no such file or row, a file of another kind, a library that is
      not installed, or a table that lacks columns of the model.
  """
  del workdir
  path = pathlib.Path(config.model.file)
  model = _loaded(path)
  table = _own(model, frame(config), config)
  check_row(config, table)
  given = table.iloc[[config.row]]
  stand_ins, absent = _background(
    config, table, categories.of_model(model, table)
  )
  as_array = not _names_of(model)
  enter = (
    (lambda frame: frame.to_numpy()) if as_array else (lambda frame: frame)
  )
  try:
    read, what, units = answer(model, enter(given))
    found = np.shape(read(enter(given)))
  except Exception as error:  # Whatever a model does.
    raise ValueError(
      f"model.file={config.model.file!r} cannot answer row {config.row} of "
      f"{config.table}: {type(error).__name__}: {error}"
    ) from error
  if found != (1,):
    raise ValueError(
      f"model.file={config.model.file!r} gives {found} for one row; one number "
      "is needed."
    )
  evaluator = masked.masked(
    lambda rows: read(enter(rows)),
    given,
    stand_ins,
    rows_per_call=config.batch_size * len(stand_ins),
  )
  fact = f"{type(model).__name__}, read from {path}"
  if path.suffix in _PICKLES:
    fact += " (which ran the code that the file holds)"
  return Asked(
    evaluator,
    tuple(map(str, table.columns)),
    what,
    units,
    fact,
    absent,
    ": " + ", ".join(f"{c}={v}" for c, v in given.iloc[0].items()),
  )


def check_row(config: Any, table: Any) -> None:
  """Raises ValueError where a table has no row of the number asked for."""
  if config.row >= len(table):
    raise ValueError(
      f"row={config.row}: {config.table} has rows 0 to {len(table) - 1}."
    )


def _loaded(path: pathlib.Path) -> Any:
  """A fitted model.

  Raises:
    ValueError: says what is wrong with the file.
  """
  try:
    if path.suffix in _PICKLES:
      import joblib  # Comes with scikit-learn; reads pickles, too.

      model = joblib.load(path)
    elif path.suffix == ".txt":
      import lightgbm

      return categories.LightGbm(lightgbm.Booster(model_file=str(path)))
    elif path.suffix in (".json", ".ubj"):
      import xgboost

      booster = xgboost.Booster()
      booster.load_model(str(path))
      return categories.XgBoost(booster)
    else:
      raise ValueError(f"it must be {_KINDS}, or an Orbax directory.")
  except ModuleNotFoundError as error:
    raise ValueError(
      f"model.file={str(path)!r} needs {error.name}; install it."
    ) from error
  except (Exception, pickle.UnpicklingError) as error:
    text = str(error).strip().splitlines() or [""]
    raise ValueError(
      f"model.file={str(path)!r} cannot be read: {type(error).__name__}: "
      f"{text[0]}"
    ) from error
  if not hasattr(model, "predict"):
    raise ValueError(
      f"model.file={str(path)!r} holds a {type(model).__name__}, which has no "
      "`predict`."
    )
  return model


def _names_of(model: Any) -> list[str]:
  """The columns that a model was fitted on, if it knows them."""
  return [str(name) for name in getattr(model, "feature_names_in_", ())]


def frame(config: Any) -> Any:
  """The table as a frame, the target perhaps among its columns.

  Raises:
    FileNotFoundError: there is no such CSV.
    ValueError: pandas is not installed, or a file that `cells` refuses.
  """
  try:
    import pandas as pd
  except ModuleNotFoundError as error:
    raise ValueError(
      "model.file needs pandas, for categories and missing values; install it."
    ) from error
  path = pathlib.Path(config.table)
  if path.suffix != ".csv":
    if path.suffix == ".npz":
      data = tabular.read(path)
    else:
      data = tabular.load(config.table)
    return pd.DataFrame(data.features, columns=list(data.columns))
  if not path.is_file():
    raise FileNotFoundError(f"{str(path)!r} is no file.")
  try:
    header, rows, separator = cells.read(path, strip=False)
  except ValueError as error:
    raise ValueError(f"{path}: {error}") from error
  # Written again, so that pandas finds the types that it always finds.
  text = io.StringIO(newline="")
  csv.writer(text).writerows([header, *rows])
  text.seek(0)
  decimal = "," if separator != "," and cells.has_decimal_commas(rows) else "."
  return pd.read_csv(text, decimal=decimal)


def _own(model: Any, table: Any, config: Any) -> Any:
  """The model's columns of a table, in its order.

  Raises:
    ValueError: columns that are missing, or another number of them.
  """
  names = _names_of(model)
  if names:
    # LightGBM writes names without spaces.
    plain = {str(name).replace(" ", "_"): name for name in table.columns}
    chosen = [n if n in table.columns else plain.get(n) for n in names]
    if None in chosen:
      absent = [n for n, c in zip(names, chosen) if c is None]
      raise ValueError(
        f"{config.table} lacks columns that the model was fitted on: "
        f"{', '.join(absent)}."
      )
    table = table[chosen]
  else:
    count = getattr(model, "n_features_in_", None)
    target = config.target_column
    if target:
      if target not in table.columns:
        raise ValueError(f"{config.table} has no column {target!r}.")
      table = table.drop(columns=target)
    elif count is None or len(table.columns) == count + 1:
      table = table.iloc[:, :-1]  # The last is the target, as elsewhere.
    if count is not None and len(table.columns) != count:
      raise ValueError(
        f"{config.table} has {len(table.columns)} columns beside its target; "
        f"the model was fitted on {count}."
      )
  if categories.takes_them(model):
    texts = table.select_dtypes(exclude=["number", "bool"]).columns
    table = table.astype(dict.fromkeys(texts, "category"))
    # Numbers of categories: as a booster was fitted to them.
    for name in categories.of_booster(model, table):
      table = table.astype({name: "category"})
  return table


def _background(
  config: Any, table: Any, categorical: set[Any]
) -> tuple[Any, str]:
  """Rows that stand in, as a frame of the table's columns, and in words."""
  if config.baseline == "resample":
    draws = np.arange(len(table), dtype=np.float64)
    rows, words = subjects.baseline_of(config, draws[0], draws)
    words = words.replace("training example", "row")
    return table.iloc[rows.astype(int)], words
  found, texts = {}, []
  for name, column in table.items():
    number = column.dtype.kind in "iufb" and name not in categorical
    if number and column.notna().any():
      wide = column.dropna().to_numpy(np.float64)
      value, words = subjects.baseline_of(config, wide[0], wide)
      found[name] = [float(value)]
    elif config.baseline in ("mean", "median"):
      texts.append(str(name))
      common = column.mode()  # Of what is not missing.
      found[name] = list(common.iloc[:1]) or [None]
    else:
      raise ValueError(
        f"baseline={config.baseline}: column {name!r} holds no numbers, or "
        "those of categories; choose mean, median or resample."
      )
  words = {
    "zero": "zero",
    "constant": f"the constant {config.baseline_value:g}",
  }.get(config.baseline, f"the {config.baseline} of the table")
  if texts:
    words += f", and of {', '.join(texts)} the most frequent"
  import pandas as pd

  one = pd.DataFrame(found)
  for name, column in table.items():
    if column.dtype.kind not in "iufb" or name in categorical:
      one[name] = one[name].astype(column.dtype)
  return one, words


def answer(
  model: Any, x: Any, classes: tuple[str, ...] | None = None
) -> tuple[Callable[[Any], np.ndarray], str, str]:
  """How to read one number per row off a model, what it is, and its units.

  Args:
    model: a fitted model, with `predict` at least.
    x: one row, as the model takes it.
    classes: names, where the model was fitted to their numbers; () for a
      response; None where the model says itself what it predicts.

  Raises:
    ValueError: a classifier without one score for each class.
  """
  labels = getattr(model, "classes_", None)
  if classes == () or (classes is None and labels is None):
    return _predicted(model, x)
  if labels is None:
    raise ValueError(
      f"{type(model).__name__} has no classes_ once fitted: no classifier."
    )
  # Labels need not be the classes' numbers, nor all be in the training part.
  column = int(np.flatnonzero(labels == model.predict(x)[0])[0])
  label = labels[column]
  name = str(label) if classes is None else classes[int(label)]
  if hasattr(model, "decision_function"):
    shape = np.shape(model.decision_function(x))
    if shape != (1,) and shape != (1, len(labels)):
      raise ValueError(
        f"decision_function of {type(model).__name__} gives {shape[1:]} scores "
        f"for {len(labels)} classes, such as one for each pair of "
        "them; one for each class is needed. For scikit-learn's SVC leave out "
        "decision_function_shape='ovo'."
      )

    def decision(rows):
      scores = model.decision_function(rows)
      if scores.ndim == 1:  # Two classes: one score, for the second.
        return scores if column == 1 else -scores
      return scores[:, column]

    return decision, f"decision value for {name}", "decision value"
  if hasattr(model, "predict_proba"):
    probability = lambda rows: model.predict_proba(rows)[:, column]
    return probability, f"probability of {name}", "probability"
  raise ValueError(
    f"{type(model).__name__} has neither decision_function nor predict_proba; "
    "a hard class cannot be explained."
  )


def _predicted(
  model: Any, x: Any
) -> tuple[Callable[[Any], np.ndarray], str, str]:
  """The prediction, or of several for a row the largest one's."""
  first = np.asarray(model.predict(x))
  if first.ndim == 2 and first.shape[1] > 1:
    column = int(first[0].argmax())
    read = lambda rows: np.asarray(model.predict(rows))[:, column]
    return read, f"prediction {column} of {first.shape[1]}", "prediction"
  return lambda rows: np.ravel(model.predict(rows)), "response", "response"
