"""Models that are fitted already, asked about a row of a table."""

import pathlib
import re

import flax.linen as nn
import flax.serialization
import jax
import joblib
import numpy as np
import orbax.checkpoint as ocp
import pandas as pd
import pytest
from flax import nnx
from sklearn import (
  compose,
  ensemble,
  impute,
  linear_model,
  pipeline,
  preprocessing,
)

from spex_jax import settings
from spex_jax.jobs import table_rows

_RNG = np.random.default_rng(0)
_FRAME = pd.DataFrame(
  {
    "age": _RNG.integers(20, 70, 60),
    "city": _RNG.choice(["Rome", "Oslo", "Bonn"], 60),
    "income": np.where(_RNG.random(60) < 0.2, np.nan, _RNG.normal(size=60)),
  }
)
_CHURN = np.where(
  (_FRAME["age"] > 45) ^ (_FRAME["city"] == "Oslo"), "leaves", "stays"
)
_MASKS = ((np.arange(8)[:, None] >> np.arange(3)) & 1).astype(bool)


class Linen(nn.Module):
  classes: int = 2

  @nn.compact
  def __call__(self, x):
    return nn.Dense(self.classes)(nn.relu(nn.Dense(4)(x)))


class Nnx(nnx.Module):
  def __init__(self, inputs=3, outputs=2, rngs=None):
    self.out = nnx.Linear(inputs, outputs, rngs=rngs or nnx.Rngs(0))

  def __call__(self, x):
    return self.out(x)


@pytest.fixture
def churn(tmp_path):
  path = tmp_path / "churn.csv"
  _FRAME.assign(churn=_CHURN).to_csv(path, index=False)
  return path


def _subject(table, file, tmp_path, **changes):
  config = settings.changed(
    table_rows.Table(),
    {"table": str(table), "model.file": str(file), "row": 3, **changes},
  )
  return table_rows.subject(config, tmp_path)


def _filled(kept, row, background):
  """Frames of one mask: kept cells of the row over the background."""
  frame = background.copy()
  for name, keep in zip(frame.columns, kept):
    if keep:
      frame[name] = [row[name]] * len(frame)
  return frame


def _common(frame):
  """The mean of numbers, the most frequent of texts."""
  return pd.DataFrame(
    {
      "age": [frame["age"].mean()],
      "city": frame["city"].mode()[:1],
      "income": [frame["income"].mean()],
    }
  )


def _pipeline():
  make = compose.make_column_transformer(
    (preprocessing.OneHotEncoder(), ["city"]),
    (impute.SimpleImputer(), ["age", "income"]),
  )
  return pipeline.make_pipeline(
    make, preprocessing.StandardScaler(), linear_model.LogisticRegression()
  ).fit(_FRAME, _CHURN)


@pytest.mark.parametrize("suffix", ["joblib", "pkl"])
@pytest.mark.parametrize("separator", [",", ";"])
def test_a_pipeline_with_categories_and_missing_values(
  tmp_path, suffix, separator
):
  model = _pipeline()
  file, table = tmp_path / f"m.{suffix}", tmp_path / "churn.csv"
  joblib.dump(model, file)
  _FRAME.assign(churn=_CHURN).to_csv(
    table, index=False, sep=separator, encoding="utf-8-sig",
    decimal="," if separator == ";" else ".",
  )  # fmt: skip
  subject = _subject(table, file, tmp_path)
  row = _FRAME.iloc[3]
  sign = 1 if model.predict(_FRAME)[3] == model.classes_[1] else -1
  expected = [
    sign * model.decision_function(_filled(m, row, _common(_FRAME)))[0]
    for m in _MASKS
  ]
  np.testing.assert_allclose(subject.evaluator(_MASKS), expected, rtol=1e-12)
  assert subject.names == ("age", "city", "income")
  assert "ran the code" in subject.facts["model"]
  (note,) = subject.notes
  assert f"row 3 of {table}: age={row['age']}, city={row['city']}" in note
  drawn = _subject(
    table, file, tmp_path, baseline="resample", baseline_draws=60
  )
  expected = [
    sign * model.decision_function(_filled(m, row, _FRAME)).mean()
    for m in _MASKS
  ]
  np.testing.assert_allclose(drawn.evaluator(_MASKS), expected, rtol=1e-9)


def _categories():
  return _FRAME.astype({"city": "category"})


@pytest.mark.parametrize("library", ["lightgbm", "xgboost"])
def test_boosters(churn, tmp_path, library):
  module = pytest.importorskip(library)
  frame, y = _categories(), (_CHURN == "leaves").astype(int)
  if library == "lightgbm":
    file = tmp_path / "m.txt"
    options = {"objective": "binary", "verbose": -1, "num_threads": 1}
    options |= {"min_data_in_leaf": 2, "min_data_per_group": 1}
    options |= {"cat_smooth": 0.1, "cat_l2": 0.1}
    booster = module.train(options, module.Dataset(frame, y), 5)
    booster.save_model(file)
    predict = booster.predict
  else:
    file = tmp_path / "m.json"
    wrap = lambda f: module.DMatrix(f, enable_categorical=True)
    data = module.DMatrix(frame, y, enable_categorical=True)
    booster = module.train({"nthread": 1}, data, 5)
    booster.save_model(file)
    predict = lambda f: booster.predict(wrap(f))
  subject = _subject(churn, file, tmp_path)
  expected = []
  for mask in _MASKS:
    given = _filled(mask, _FRAME.iloc[3], _common(_FRAME))
    given["city"] = given["city"].astype(frame["city"].dtype)
    expected.append(predict(given)[0])
  np.testing.assert_allclose(subject.evaluator(_MASKS), expected, rtol=1e-6)
  assert len(set(np.round(expected, 6))) > 2


@pytest.mark.parametrize("kind", ["Linen", "Nnx"])
@pytest.mark.parametrize("saved", ["msgpack", "orbax"])
def test_flax_parameters(tmp_path, kind, saved):
  x = _RNG.normal(size=(9, 3)).astype(np.float32)
  table, file = tmp_path / "x.npz", tmp_path / f"p.{saved}"
  np.savez(table, x=x, y=np.arange(9) % 2)
  if kind == "Linen":
    module = Linen()
    held = module.init(jax.random.key(0), x)
    apply = lambda rows: module.apply(held, rows)
  else:
    apply = Nnx()
    held = nnx.to_pure_dict(nnx.state(apply))
  if saved == "msgpack":
    file.write_bytes(flax.serialization.msgpack_serialize(
      jax.tree.map(np.asarray, held)
    ))  # fmt: skip
  else:
    with ocp.StandardCheckpointer() as saver:
      saver.save(file.resolve(), held)
  subject = _subject(
    table, file, tmp_path, **{"model.kind": f"{__name__}:{kind}"}
  )
  logits = np.asarray(apply(np.where(_MASKS, x[3], x.mean(axis=0))))
  first, second = np.argsort(np.asarray(apply(x[3:4]))[0])[::-1]
  expected = logits[:, first] - logits[:, second]
  np.testing.assert_allclose(subject.evaluator(_MASKS), expected, atol=1e-5)
  assert subject.game is not None
  assert f"output {first} less output {second}" in subject.facts["value"]


@pytest.mark.parametrize("kind", ["Linen", "Nnx"])
def test_flax_modules_are_trained(tmp_path, kind):
  x = np.random.default_rng(2).normal(size=(60, 3))
  table = tmp_path / "x.npz"
  np.savez(table, x=x, y=np.where(x[:, 0] > 0, 1, 0))
  changes = {"model.kind": f"{__name__}:{kind}", "training.learning_rate": 0.05}
  asked = lambda: _subject(table, "", tmp_path, **changes)
  values = asked().evaluator(_MASKS)
  told = asked().facts["model"]
  right = re.search(r"of Flax, ([\d.]+)% of 15 test rows", told)
  assert right and float(right[1]) >= 80 and "restored" in told
  np.testing.assert_array_equal(asked().evaluator(_MASKS), values)
  # The one column that counts moves the answer most.
  by_column = [np.ptp(values.reshape(2, 2, 2), axis=2 - i).max()
               for i in range(3)]  # fmt: skip
  assert np.argmax(by_column) == 0
  np.savez(table, x=x, y=np.arange(60) % 3)
  with pytest.raises(ValueError, match="gives 2 numbers for a row; this tab"):
    _subject(table, "", tmp_path / "w", **changes)


_CODES = {3: 1.0, 7: -1.0, 11: 2.0}  # Of a category whose mean is none.


@pytest.mark.parametrize(
  "kind", ["lightgbm", "lightgbm arrays", "xgboost", "histogram", "pipeline"]
)
def test_numbers_that_are_categories_take_the_most_frequent(tmp_path, kind):
  """A mean of codes is no code; here it is nearer to another one."""
  rng = np.random.default_rng(1)
  code = np.repeat(list(_CODES), (40, 12, 20))
  rng.shuffle(code)
  x = pd.DataFrame({"code": code, "age": rng.integers(20, 70, len(code))})
  y = np.vectorize(_CODES.get)(code) + 0.01 * x["age"]
  table = tmp_path / "t.csv"
  x.assign(y=y).to_csv(table, index=False)
  typed = x.astype({"code": "category"})
  library = kind.split()[0]
  if library in ("lightgbm", "xgboost"):
    module = pytest.importorskip(library)
  if library == "lightgbm":
    options = {"verbose": -1, "num_threads": 1, "min_data_in_leaf": 2}
    options |= {"min_data_per_group": 1, "cat_smooth": 0.1, "cat_l2": 0.1}
    arrays = kind.endswith("arrays")
    data = module.Dataset(
      x.to_numpy() if arrays else typed, y,
      categorical_feature=[0] if arrays else "auto",
    )  # fmt: skip
    model, file = module.train(options, data, 20), tmp_path / "m.txt"
    model.save_model(file)
  elif library == "xgboost":
    data = module.DMatrix(typed, y, enable_categorical=True)
    model, file = module.train({"nthread": 1}, data, 20), tmp_path / "m.json"
    model.save_model(file)
  else:
    file = tmp_path / "m.joblib"
    if library == "histogram":
      model = ensemble.HistGradientBoostingRegressor(
        max_iter=60, min_samples_leaf=2, categorical_features=["code"]
      ).fit(x, y)
    else:
      encode = pipeline.make_pipeline(
        impute.SimpleImputer(strategy="most_frequent"),
        preprocessing.OneHotEncoder(handle_unknown="ignore"),
      )
      make = compose.make_column_transformer(
        (encode, ["code"]), remainder="passthrough"
      )
      model = pipeline.make_pipeline(make, linear_model.Ridge(1e-3)).fit(x, y)
    joblib.dump(model, file)
  row = int(np.flatnonzero(code == 7)[0])
  subject = _subject(table, file, tmp_path, row=row, target_column="y")
  assert "of code the most frequent" in subject.facts["value"]
  both, age, own, none = subject.evaluator(
    np.array([[1, 1], [0, 1], [1, 0], [0, 0]], bool)
  )
  # The row's -1 against the most frequent one's 1, not 11's 2 or 0.
  for gap in (both - age, own - none):
    assert gap == pytest.approx(-2.0, abs=0.3)


def test_files_that_do_not_fit_are_named(churn, tmp_path):
  model = _pipeline()
  file = tmp_path / "m.joblib"
  joblib.dump(model, file)
  bad = {
    "gone.joblib": (None, "gone.joblib' is no file"),
    "m.onnx": (b"x", r"it must be \.joblib"),
    "m.skops": (b"x", r"it must be \.joblib"),
    "m.txt": (b"x", "m.txt' cannot be read: LightGBMError"),
    "m.json": (b"{}", "m.json' cannot be read: XGBoostError"),
    "x.joblib": (b"junk", "x.joblib' cannot be read"),
    "y.msgpack": (b"\xc1", "model.kind='nowhere:Net'"),
  }
  for name, (content, words) in bad.items():
    path = tmp_path / name
    if content is not None:
      path.write_bytes(content)
    changes = {"model.kind": "nowhere:Net"} if "msgpack" in name else {}
    with pytest.raises(ValueError, match=words):
      _subject(churn, path, tmp_path, **changes)
  joblib.dump([1, 2], tmp_path / "z.pkl")
  with pytest.raises(ValueError, match="holds a list, which has no `predict`"):
    _subject(churn, tmp_path / "z.pkl", tmp_path)
  with pytest.raises(ValueError, match="row=60: .*churn.csv has rows 0 to 59"):
    _subject(churn, file, tmp_path, row=60)
  with pytest.raises(ValueError, match="column 'city' holds no numbers"):
    _subject(churn, file, tmp_path, baseline="zero")
  less = tmp_path / "less.csv"
  _FRAME.drop(columns="age").to_csv(less, index=False)
  with pytest.raises(ValueError, match="was fitted on: age"):
    _subject(less, file, tmp_path)
  assert pathlib.Path(file).exists()
