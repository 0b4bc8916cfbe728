"""Fitted models on an install without pandas: numbers alone need none."""

import sys
import warnings

import joblib
import numpy as np
import pandas as pd
import pytest
from sklearn import (
  compose,
  datasets,
  ensemble,
  linear_model,
  pipeline,
  preprocessing,
)

from spex_jax import settings
from spex_jax.jobs import number_tables, table_rows

_WINE = datasets.load_wine(as_frame=True)
_X = _WINE.data.iloc[:, :4]
_NAMES = _WINE.target_names[_WINE.target]
_MASKS = ((np.arange(16)[:, None] >> np.arange(4)) & 1).astype(bool)


class _Blocked:
  """Finds pandas as little as an environment without it does."""

  def find_spec(self, name, path=None, target=None):
    if name.partition(".")[0] == "pandas":
      raise ModuleNotFoundError(f"No module named {name!r}", name=name)


@pytest.fixture
def no_pandas(monkeypatch):
  """Takes pandas away when called; scikit-learn looks into sys.modules, too."""

  def take_away():
    for name in [n for n in sys.modules if n.partition(".")[0] == "pandas"]:
      monkeypatch.delitem(sys.modules, name)
    monkeypatch.setattr(sys, "meta_path", [_Blocked(), *sys.meta_path])

  return take_away


def _subject(table, file, tmp_path, **changes):
  config = settings.changed(
    table_rows.Table(),
    {"table": str(table), "model.file": str(file), "row": 3, **changes},
  )
  return table_rows.subject(config, tmp_path)


def _written(tmp_path, model, table=None, **options):
  """A model's file and a table's."""
  file, path = tmp_path / "m.joblib", tmp_path / "wine.csv"
  joblib.dump(model, file)
  table = _X.assign(kind=_NAMES) if table is None else table
  table.to_csv(path, index=False, **options)
  return path, file


@pytest.mark.parametrize("fitted_to", ["frame", "array"])
@pytest.mark.parametrize("baseline", ["mean", "median", "zero", "resample"])
def test_numbers_are_read_as_pandas_reads_them(
  tmp_path, no_pandas, fitted_to, baseline
):
  x = _X if fitted_to == "frame" else _X.to_numpy()
  model = pipeline.make_pipeline(
    preprocessing.StandardScaler(), linear_model.LogisticRegression()
  ).fit(x, _NAMES)
  path, file = _written(tmp_path, model, sep=";", decimal=",")
  asked = lambda: _subject(path, file, tmp_path, baseline=baseline)
  told = asked()
  expected = told.evaluator(_MASKS)
  no_pandas()
  with warnings.catch_warnings():
    warnings.simplefilter("error")
    found = asked()
    values = found.evaluator(_MASKS)
  # Two parsers of decimals differ in the last bit.
  np.testing.assert_allclose(values, expected, rtol=1e-9)
  assert len(set(np.round(values, 6))) > 8
  assert found.names == told.names == tuple(_X.columns)
  assert found.facts == told.facts


def test_columns_are_found_by_their_names(tmp_path, no_pandas):
  model = linear_model.Ridge().fit(_X, _WINE.target)
  shuffled = _X.assign(kind=_NAMES, unused="text").iloc[:, ::-1]
  path, file = _written(tmp_path, model, shuffled)
  no_pandas()
  found = _subject(path, file, tmp_path)
  values = found.evaluator(_MASKS)
  rows = np.where(_MASKS, _X.to_numpy()[3], _X.to_numpy().mean(axis=0))
  expected = rows @ model.coef_ + model.intercept_
  np.testing.assert_allclose(values, expected, rtol=1e-9)


def test_codes_take_the_most_frequent(tmp_path, no_pandas):
  codes = pd.DataFrame(
    {"code": np.repeat([3, 7, 11], (40, 12, 20)), "age": np.arange(72) % 50}
  )
  y = np.where(codes["code"] == 11, 2.0, 0.0)
  model = ensemble.HistGradientBoostingRegressor(
    min_samples_leaf=2, categorical_features=[0]
  ).fit(codes.to_numpy(), y)
  path, file = _written(tmp_path, model, codes.assign(y=y))
  asked = lambda: _subject(path, file, tmp_path)
  masks = _MASKS[:4, :2]
  expected = asked().evaluator(masks)
  no_pandas()
  found = asked()
  np.testing.assert_allclose(found.evaluator(masks), expected, rtol=1e-9)
  assert "of code the most frequent" in found.facts["value"]


def _by_names():
  return pipeline.make_pipeline(
    compose.make_column_transformer(
      (preprocessing.StandardScaler(), ["alcohol", "ash"])
    ),
    linear_model.LogisticRegression(),
  ).fit(_X, _NAMES)


@pytest.mark.parametrize("trouble", ["text", "missing", "named", "twice"])
def test_what_needs_pandas_says_so(tmp_path, no_pandas, trouble):
  model = linear_model.RidgeClassifier().fit(_X.to_numpy(), _NAMES)
  table, said = _X.assign(kind=_NAMES), "row 2, column 'ash' is {}: texts and"
  if trouble == "text":
    table = table.astype({"ash": object})
    table.loc[2, "ash"] = "much"
    said = said.format("'much'")
  elif trouble == "missing":
    table.loc[2, "ash"] = np.nan
    said = said.format("''")
  elif trouble == "named":
    model, said = _by_names(), r"\(no names without pandas"
  else:
    table = table.rename(columns={"malic_acid": "ash"})
    said = "columns of one name need pandas"
  path, file = _written(tmp_path, model, table)
  no_pandas()
  with pytest.raises(ValueError, match=said) as caught:
    _subject(path, file, tmp_path)
  assert number_tables.PANDAS in str(caught.value)


@pytest.mark.parametrize("library", ["lightgbm", "xgboost"])
def test_boosters_of_numbers_need_no_pandas(tmp_path, no_pandas, library):
  module = pytest.importorskip(library)
  y = (_WINE.target == 0).astype(int)
  path = tmp_path / "wine.csv"
  _X.assign(y=y).to_csv(path, index=False)

  def saved(x, name):
    if library == "lightgbm":
      options = {"objective": "binary", "verbose": -1, "num_threads": 1}
      booster = module.train(options, module.Dataset(x, y), 5)
      file = tmp_path / f"{name}.txt"
    else:
      data = module.DMatrix(x, y, enable_categorical=True)
      booster = module.train({"nthread": 1}, data, 5)
      file = tmp_path / f"{name}.json"
    booster.save_model(file)
    return file

  numbers = saved(_X, "numbers")
  codes = saved(
    _X.assign(ash=(_X["ash"] > 2).astype(int).astype("category")), "codes"
  )
  expected = _subject(path, numbers, tmp_path).evaluator(_MASKS)
  no_pandas()
  found = _subject(path, numbers, tmp_path).evaluator(_MASKS)
  np.testing.assert_allclose(found, expected, rtol=1e-6)
  assert len(set(np.round(found, 6))) > 2
  with pytest.raises(ValueError, match="fitted to categories, which need pan"):
    _subject(path, codes, tmp_path)
