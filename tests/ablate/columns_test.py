"""Columns of one row absent: against a loop over masks and background rows."""

import jax
import numpy as np
import pandas as pd
import pytest

import spex_jax as spex
from spex_jax.ablate import columns

_FRAME = pd.DataFrame(
  {
    "age": [30, 40, 50, 60],
    "city": pd.Categorical(["Rome", "Oslo", "Rome", None]),
    "plan": ["a", None, "b", "a"],
    "income": [1.5, np.nan, 2.5, 3.5],
    "when": 1_700_000_000 + np.arange(4),
    "open": [True, False, True, False],
    "count": pd.array([1, None, 3, 4], dtype="Int64"),
  }
)
_ALL = ((np.arange(128)[:, None] >> np.arange(7)) & 1).astype(bool)


def _predict(frame):
  """One number for a row, in which every column's value and type matters."""
  assert list(frame.columns) == list(_FRAME.columns)
  assert (frame.dtypes == _FRAME.dtypes).all(), frame.dtypes
  city = frame["city"].cat.codes.to_numpy(float)
  value = frame["age"].to_numpy(float) * (1 + city)
  value += frame["plan"].map({"a": 3.0, "b": 5.0}).fillna(0.25).to_numpy(float)
  value += frame["income"].fillna(-1).to_numpy() * frame["open"].to_numpy()
  value += (frame["when"].to_numpy() - 1_700_000_000.0) / 8
  return value + frame["count"].fillna(-7).to_numpy(float) * 100


def _slowly(row, background):
  """The definition, one mask and one background row at a time."""
  values = []
  for mask in _ALL:
    total = 0.0
    for other in range(len(background)):
      frame = background.iloc[[other]].copy()
      for name, kept in zip(_FRAME.columns, mask):
        if kept:
          frame[name] = row[[name]].set_axis(frame.index)[name]
      total += float(_predict(frame)[0])
    values.append(total / len(background))
  return np.array(values)


@pytest.mark.slow_where("3-0", "3-1", "3-2", "1-1")
@pytest.mark.parametrize("place", range(4))
@pytest.mark.parametrize("size", [1, 3])
def test_frames_keep_their_types(place, size):
  row, background = _FRAME.iloc[[place]], _FRAME.iloc[:size]
  expected = _slowly(row, background)
  for given in (row, _FRAME.iloc[place], _FRAME.iloc[place].to_dict()):
    evaluator = columns.masked(_predict, given, background)
    np.testing.assert_allclose(evaluator(_ALL), expected, rtol=1e-12)
  few = columns.masked(_predict, row, background, rows_per_call=5)
  np.testing.assert_array_equal(few(_ALL), evaluator(_ALL))
  if size == 1:  # One row is a constant.
    constant = columns.masked(_predict, row, background.iloc[0].to_dict())
    assert constant.names == tuple(_FRAME.columns)


def test_explained_in_one_line():
  answer = spex.explain(
    columns.masked(_predict, _FRAME.iloc[2], _FRAME), key=jax.random.key(0)
  )
  assert answer.names == tuple(_FRAME.columns)
  assert answer.faithfulness == pytest.approx(1)
  shapley = answer.interactions("SV", 1)
  total = _predict(_FRAME)[2] - _predict(_FRAME).mean()
  values = [shapley[i] for i in range(7)]
  assert sum(values) == pytest.approx(total)


def test_arrays_and_several_targets():
  rng = np.random.default_rng(0)
  background, weights = rng.normal(size=(5, 3)), rng.normal(size=(3, 2))
  row = np.array([1e9 + 1, -2.0, 3.0])  # Float64: it stays as it is.
  masks = ((np.arange(8)[:, None] >> np.arange(3)) & 1).astype(bool)
  expected = np.stack(
    [(np.where(m, row, background) @ weights).mean(axis=0) for m in masks]
  )
  evaluator = columns.masked(lambda x: x @ weights, row, background)
  np.testing.assert_allclose(evaluator(masks), expected, rtol=1e-12)
  answer = spex.explain(evaluator, key=jax.random.key(0))
  assert answer.names == ("x0", "x1", "x2")
  jitted = jax.jit(lambda x: (x @ np.float32(weights))[:, 0])
  found = columns.masked(jitted, row - [1e9, 0, 0], background)(masks)
  expected = np.where(masks[:, None], row - [1e9, 0, 0], background)
  expected = (expected @ weights[:, 0]).mean(axis=1)
  np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5)


def test_a_missing_cell_of_a_column_of_integers():
  frame = pd.DataFrame({"a": [1, 2], "b": [1.0, 2.0]})
  seen = columns.masked(
    lambda f: f["a"].isna() * 5.0 + f["b"], {"a": None, "b": 4.0}, frame
  )
  masks = np.array([[True, False], [False, True]])
  np.testing.assert_array_equal(seen(masks), [6.5, 4.0])


@pytest.mark.parametrize(
  ("row", "background", "error", "message"),
  [
    ({"age": 1}, _FRAME, ValueError, "row lacks city, plan, income"),
    (_FRAME.iloc[:2], _FRAME, ValueError, "got a frame of 2"),
    (_FRAME.iloc[0], _FRAME[:0], ValueError, "background has no rows"),
    (
      _FRAME.iloc[0].to_dict() | {"city": "Bonn"},
      _FRAME,
      ValueError,
      "'city' is 'Bonn', no category .*: Oslo, Rome",
    ),
    (7, _FRAME, TypeError, "got int"),
    (np.ones(2), np.ones((3, 4)), ValueError, r"shape \(2,\); .* 4 columns"),
    (
      np.ma.masked_array([1.0, 2], mask=[0, 1]),
      np.ones((3, 2)),
      ValueError,
      "Cells of row come .* 1 of 2 entries masked",
    ),
  ],
)
def test_what_does_not_fit_is_named(row, background, error, message):
  with pytest.raises(error, match=message):
    columns.masked(_predict, row, background)


def test_what_a_model_may_not_return():
  x = np.ones((2, 2))
  with pytest.raises(ValueError, match="predict returns texts"):
    columns.masked(lambda x: np.array(["a"] * len(x)), x[0], x)(_ALL[:1, :2])
  with pytest.raises(ValueError, match=r"shape \(1,\) for 2 rows"):
    columns.masked(lambda x: np.ones(1), x[0], x)(_ALL[:1, :2])
