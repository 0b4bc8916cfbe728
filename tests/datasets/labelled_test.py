"""Labelled examples by name and from files; bad ones are named."""

import re

import numpy as np
import pytest

from spex_jax.datasets import labelled


def test_digits_are_images_and_keep_their_numbers():
  data, test = labelled.load("digits")
  assert test is None and data.are_images
  assert data.x.shape == (1797, 8, 8) and data.x.max() == 1
  two = data.only(("8", "3"))
  assert two.classes == ("8", "3") and set(two.y) == {0, 1}
  np.testing.assert_array_equal(two.x, data.x[two.rows])
  eights = data.y[two.rows] == 8
  np.testing.assert_array_equal(two.y == 0, eights)
  some = two.take([5, 2])
  np.testing.assert_array_equal(some.rows, two.rows[[5, 2]])


def test_tables_and_files(tmp_path):
  data, test = labelled.load("iris")
  assert data.x.shape == (150, 4) and len(data.classes) == 3
  assert test is None and not data.are_images
  path = tmp_path / "own.npz"
  x, y = np.arange(12.0).reshape(6, 2), np.array([0, 1, 0, 1, 0, 1])
  np.savez(path, x=x, y=y, x_test=x[:2], y_test=np.array([2, 0]))
  data, test = labelled.load(str(path))
  # A class that only test examples have is a class.
  assert data.classes == ("0", "1", "2") and test is not None
  assert test.y.tolist() == [2, 0]
  np.testing.assert_array_equal(data.x, x)
  csv = tmp_path / "own.csv"
  csv.write_text("a,b,kind\n1,2,cat\n3,4,dog\n5,6,cat\n7,8,dog\n")
  data, _ = labelled.load(str(csv))
  assert data.classes == ("cat", "dog") and data.y.tolist() == [0, 1, 0, 1]


_X, _Y = np.zeros((4, 2)), np.array([0, 1, 0, 1])


@pytest.mark.parametrize(
  ("x", "y", "classes", "error", "message"),
  [
    (_X[:, 0], _Y, (), ValueError, "x must hold numbers [examples, ...]"),
    (_X[:0], _Y[:0], (), ValueError, "of shape (0, 2)"),
    (_X.astype(str), _Y, (), ValueError, "x must hold real numbers"),
    (_X, _Y + 0.5, (), TypeError, "y must hold integers"),
    (_X, _Y[:3], (), ValueError, "one label in y for each of 4 examples"),
    (_X, _Y - 1, ("a", "b"), ValueError, "2 do not (first: -1 at row 0)"),
    (_X, 3 * _Y, ("a", "b"), ValueError, "2 do not (first: 3 at row 1)"),
    (
      np.full((4, 2), np.nan),
      _Y,
      (),
      ValueError,
      "4 examples hold NaN or infinity (first: 0)",
    ),
  ],
)
def test_bad_arrays_are_named(x, y, classes, error, message):
  with pytest.raises(error, match=re.escape(message)):
    labelled.from_arrays(x, y, classes)


def test_bad_sources_are_named(tmp_path):
  with pytest.raises(ValueError, match="data='dogs': choose from digits"):
    labelled.load("dogs")
  with pytest.raises(FileNotFoundError, match="is no file"):
    labelled.load(str(tmp_path / "gone.npz"))
  data, _ = labelled.load("iris")
  with pytest.raises(ValueError, match="choose distinct ones of setosa"):
    data.only(("setosa", "setosa"))
  path = tmp_path / "shapes.npz"
  np.savez(path, x=_X, y=_Y, x_test=_X[:, :1], y_test=_Y)
  with pytest.raises(ValueError, match=r"x_test has examples of shape \(1,\)"):
    labelled.load(str(path))
  csv = tmp_path / "response.csv"
  csv.write_text("a,b\n1,2.5\n3,4.25\n")
  with pytest.raises(ValueError, match="has a response; classes are needed"):
    labelled.load(str(csv))
