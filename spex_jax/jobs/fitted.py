"""Models of tables that are fitted already, read from files.

A model answers one row: a classifier its decision value or probability of the
class that it predicts, anything else its prediction. The table is read as
pandas reads it, so that categories and missing values reach a pipeline as they
did when it was fitted; without pandas tables of numbers alone are read.

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
from spex_jax.datasets import tabular
from spex_jax.jobs import categories, number_tables, subjects

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
  stand_ins, absent = _background(
    config, table, categories.of_model(model, table)
  )
  enter, hint = lambda rows: rows, ""
  if isinstance(table, number_tables.Numbers):
    given = table.array()[[config.row]]
    cells = zip(table.columns, (f"{value:.12g}" for value in given[0]))
    if _names_of(model):
      hint = f" (no names without {number_tables.PANDAS})"
  else:
    given = table.iloc[[config.row]]
    cells = given.iloc[0].items()
    if not _names_of(model):
      enter = lambda frame: frame.to_numpy()
  try:
    with number_tables.unnamed():
      read, what, units = answer(model, enter(given))
      found = np.shape(read(enter(given)))
  except Exception as error:  # Whatever a model does.
    raise ValueError(
      f"model.file={config.model.file!r} cannot answer row {config.row} of "
      f"{config.table}{hint}: {type(error).__name__}: {error}"
    ) from error
  if found != (1,):
    raise ValueError(
      f"model.file={config.model.file!r} gives {found} for one row; one number "
      "is needed."
    )

  def predict(rows):
    with number_tables.unnamed():
      return read(enter(rows))

  names = tuple(map(str, table.columns))
  evaluator = masked.masked(
    predict,
    given,
    stand_ins,
    rows_per_call=config.batch_size * len(stand_ins),
  )
  evaluator.names = names
  fact = f"{type(model).__name__}, read from {path}"
  if path.suffix in _PICKLES:
    fact += " (which ran the code that the file holds)"
  return Asked(
    evaluator,
    names,
    what,
    units,
    fact,
    absent,
    ": " + ", ".join(f"{column}={cell}" for column, cell in cells),
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
    what = f"{error.name}; install it"
    if error.name == "pandas":
      what = number_tables.PANDAS
    raise ValueError(f"model.file={str(path)!r} needs {what}.") from error
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

  Without pandas `number_tables.Numbers` of all columns, not yet numbers.

  Raises:
    FileNotFoundError: there is no such CSV.
    ValueError: a file that `cells` refuses.
  """
  try:
    import pandas as pd
  except ModuleNotFoundError:
    return number_tables.read(config)
  path = pathlib.Path(config.table)
  if path.suffix != ".csv":
    if path.suffix == ".npz":
      data = tabular.read(path)
    else:
      data = tabular.load(config.table)
    return pd.DataFrame(data.features, columns=list(data.columns))
  header, rows, decimal = number_tables.of_csv(path)
  # Written again, so that pandas finds the types that it always finds.
  text = io.StringIO(newline="")
  csv.writer(text).writerows([header, *rows])
  text.seek(0)
  return pd.read_csv(text, decimal=decimal)


def taken(table: Any, columns: list[Any], config: Any) -> Any:
  """Some columns of what `frame` returns.

  Raises:
    ValueError: without pandas, what are no numbers.
  """
  if not isinstance(table, number_tables.Numbers):
    return table[columns]
  try:
    return table.chosen(columns)
  except ValueError as error:
    raise ValueError(f"{config.table}: {error}") from error


def _own(model: Any, table: Any, config: Any) -> Any:
  """The model's columns of a table, in its order.

  Raises:
    ValueError: columns that are missing, or another number of them; without
      pandas what needs it.
  """
  plain = isinstance(table, number_tables.Numbers)
  chosen = _chosen(model, list(table.columns), config)
  if plain and categories.of_booster(model, chosen):
    raise ValueError(
      f"model.file={config.model.file!r} was fitted to categories, which need "
      f"{number_tables.PANDAS}."
    )
  table = taken(table, chosen, config)
  if not plain and categories.takes_them(model):
    texts = table.select_dtypes(exclude=["number", "bool"]).columns
    table = table.astype(dict.fromkeys(texts, "category"))
    # Numbers of categories: as a booster was fitted to them.
    for name in categories.of_booster(model, table.columns):
      table = table.astype({name: "category"})
  return table


def _chosen(model: Any, columns: list[Any], config: Any) -> list[Any]:
  """The model's columns among a table's, in its order.

  Raises:
    ValueError: columns that are missing, or another number of them.
  """
  names = _names_of(model)
  if names:
    # LightGBM writes names without spaces.
    plain = {str(name).replace(" ", "_"): name for name in columns}
    chosen = [n if n in columns else plain.get(n) for n in names]
    if None in chosen:
      absent = [n for n, c in zip(names, chosen) if c is None]
      raise ValueError(
        f"{config.table} lacks columns that the model was fitted on: "
        f"{', '.join(absent)}."
      )
    return chosen
  count = getattr(model, "n_features_in_", None)
  target = config.target_column
  if target:
    if target not in columns:
      raise ValueError(f"{config.table} has no column {target!r}.")
    columns = [name for name in columns if name != target]
  elif count is None or len(columns) == count + 1:
    columns = columns[:-1]  # The last is the target, as elsewhere.
  if count is not None and len(columns) != count:
    raise ValueError(
      f"{config.table} has {len(columns)} columns beside its target; "
      f"the model was fitted on {count}."
    )
  return columns


def _background(
  config: Any, table: Any, categorical: set[Any]
) -> tuple[Any, str]:
  """Rows that stand in, of the table's kind and columns, and in words."""
  plain = isinstance(table, number_tables.Numbers)
  if config.baseline == "resample":
    draws = np.arange(len(table), dtype=np.float64)
    rows, words = subjects.baseline_of(config, draws[0], draws)
    words = words.replace("training example", "row")
    rows = rows.astype(int)
    return (table.array()[rows] if plain else table.iloc[rows]), words
  found, texts = {}, []
  for name, column in table.items():
    number = column.dtype.kind in "iufb" and name not in categorical
    known = column if plain else column.dropna()
    if number and len(known):
      wide = np.asarray(known, np.float64)
      value, words = subjects.baseline_of(config, wide[0], wide)
      found[name] = [float(value)]
    elif config.baseline in ("mean", "median"):
      texts.append(str(name))
      found[name] = [_commonest(known)]
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
  if plain:
    return np.concatenate(list(found.values()))[None], words
  import pandas as pd

  one = pd.DataFrame(found)
  for name, column in table.items():
    if column.dtype.kind not in "iufb" or name in categorical:
      one[name] = one[name].astype(column.dtype)
  return one, words


def _commonest(column: Any) -> Any:
  """The most frequent of the values that are not missing, or None."""
  if isinstance(column, np.ndarray):
    values, counts = np.unique(column, return_counts=True)
    return values[counts.argmax()]
  return next(iter(column.mode()), None)


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
