"""Columns whose numbers or texts are categories of a model that is fitted.

Boosters are read here as estimators are called: LightGBM's and XGBoost's.
"""

from typing import Any

import numpy as np


class LightGbm:
  """A booster of LightGBM, as estimators are called."""

  def __init__(self, booster: Any):
    self.booster = booster
    names = booster.feature_name()
    self.n_features_in_ = booster.num_feature()
    # It makes such names up where it has seen none.
    made_up = [f"Column_{i}" for i in range(len(names))]
    if names != made_up:
      self.feature_names_in_ = names

  def categorical(self, columns: Any) -> list[Any]:
    """Those of the columns, in its order, that it splits as categories."""
    head = self.booster.model_to_string(num_iteration=1).splitlines()
    mark = "feature_infos="
    told = next((line for line in head if line.startswith(mark)), mark)
    # Of numbers the range, "[0:1]"; of categories each, "0:1:2".
    return [
      column
      for column, info in zip(columns, told.removeprefix(mark).split())
      if info != "none" and not info.startswith("[")
    ]

  def predict(self, rows: Any) -> np.ndarray:
    return np.asarray(self.booster.predict(rows))


class XgBoost:
  """A booster of XGBoost, as estimators are called."""

  def __init__(self, booster: Any):
    self.booster = booster
    self.n_features_in_ = booster.num_features()
    if booster.feature_names:
      self.feature_names_in_ = booster.feature_names

  def categorical(self, columns: Any) -> list[Any]:
    """Those of the columns, in its order, that it splits as categories."""
    kinds = self.booster.feature_types or ()
    return [column for column, kind in zip(columns, kinds) if kind == "c"]

  def predict(self, rows: Any) -> np.ndarray:
    import xgboost

    # A frame has names of its own.
    names = None if hasattr(rows, "columns") else self.booster.feature_names
    data = xgboost.DMatrix(rows, enable_categorical=True, feature_names=names)
    return np.asarray(self.booster.predict(data))


def takes_them(model: Any) -> bool:
  """Whether a model wants texts as pandas's categories."""
  kind = type(model)
  return (
    kind.__module__.startswith(("lightgbm", "xgboost"))
    or isinstance(model, LightGbm | XgBoost)
    or kind.__name__.startswith("HistGradientBoosting")
  )


def of_booster(model: Any, columns: Any) -> list[Any]:
  """Those of the columns that a booster was fitted to as pandas's categories.

  Raises:
    ValueError: their number is known, and which they are is not.
  """
  booster = _booster(model)
  if isinstance(booster, LightGbm):
    kept = booster.booster.pandas_categorical or []
    found = booster.categorical(columns)
    if kept and len(kept) != len(found):
      raise ValueError(
        f"The model was fitted with {len(kept)} columns of categories, of "
        f"which its file names {len(found)} "
        f"({', '.join(map(str, found)) or 'none'}): fit it without columns "
        "that hold one category."
      )
    return found if kept else []
  if isinstance(booster, XgBoost):
    return booster.categorical(columns)
  return []


def _booster(model: Any) -> Any:
  """LightGBM's or XGBoost's booster within a model, as it is read here."""
  if model is None or isinstance(model, LightGbm | XgBoost):
    return model
  home = type(model).__module__.partition(".")[0]
  if home == "lightgbm":
    return LightGbm(getattr(model, "booster_", model))
  if home == "xgboost":
    return XgBoost(
      model.get_booster() if hasattr(model, "get_booster") else model
    )
  return model


def of_model(model: Any, table: Any) -> set[Any]:
  """Columns whose numbers are categories: a mean of them is none."""
  columns = list(table.columns)
  booster = _booster(model)
  if isinstance(booster, LightGbm | XgBoost):
    return set(booster.categorical(columns))
  known = getattr(model, "is_categorical_", None)  # Of histogram boosting.
  if known is not None:
    return {name for name, flag in zip(columns, known) if flag}
  return set(_encoded(model, columns))


def _encoded(model: Any, columns: list[Any]) -> list[Any]:
  """Columns that an encoder takes, in scikit-learn's pipelines."""
  from sklearn import compose, pipeline  # Slow to import.

  if isinstance(model, pipeline.Pipeline):
    for _, step in model.steps:
      # Imputers and scalers before an encoder keep the columns.
      if found := _encoded(step, columns):
        return found
      if isinstance(step, compose.ColumnTransformer):
        break
    return []
  if not isinstance(model, compose.ColumnTransformer):
    known = getattr(model, "categories_", None)
    return columns if known is not None and len(known) == len(columns) else []
  found = []
  for _, inner, chosen in model.transformers_:
    if isinstance(inner, str):  # "drop" or "passthrough".
      continue
    found += _encoded(inner, _selected(columns, chosen))
  return found


def _selected(columns: list[Any], chosen: Any) -> list[Any]:
  """The columns that a transformer is given: by names, places or a mask."""
  if isinstance(chosen, slice):
    start, stop = chosen.start, chosen.stop
    if isinstance(start, str) or isinstance(stop, str):
      # Of names the last is part of it.
      start = None if start is None else columns.index(start)
      stop = None if stop is None else columns.index(stop) + 1
    return columns[start : stop : chosen.step]
  listed = np.atleast_1d(chosen)
  if listed.dtype.kind in "OUS":
    return listed.tolist()
  return np.array(columns, object)[listed].tolist()
