"""Distinct labels are the classes; missing ones are named by row."""

import numpy as np
import pytest

from spex_jax.datasets import images, labelled, labelled_texts, labels, tabular

_Y = np.arange(8) % 2


@pytest.mark.parametrize(
  ("given", "names"),
  [
    (_Y + 1, ("1", "2")),
    (_Y * 2 - 1, ("-1", "1")),
    (_Y * 255, ("0", "255")),
    (_Y * 10_000_000, ("0", "10000000")),
    (_Y.astype(np.uint64) * 2**63, ("0", str(2**63))),
    (_Y.astype(bool), ("0", "1")),
    (np.array(["no", "yes"])[_Y], ("no", "yes")),
    (np.array(["no", "yes"], object)[_Y], ("no", "yes")),
  ],
)
def test_gaps_make_no_phantom_classes(tmp_path, given, names):
  numbers, found = labels.numbered(given)
  assert found == names and numbers.dtype == np.int32
  np.testing.assert_array_equal(numbers, _Y)
  x = np.random.default_rng(0).normal(size=(8, 2))
  assert tabular.from_arrays(x, given).classes == names
  assert labelled.from_arrays(x, given).classes == names
  pixels = x.reshape(8, 1, 1, 2)
  assert images.from_arrays(pixels, given).classes == names
  if given.dtype != object:
    np.savez(tmp_path / "a.npz", x=x, y=given)
    assert tabular.read(tmp_path / "a.npz").classes == names
    assert labelled.load(str(tmp_path / "a.npz"))[0].classes == names


def test_names_that_are_given_are_numbered_from_zero():
  numbers, names = labels.numbered(_Y, ("no", "yes", "never"))
  assert names == ("no", "yes", "never") and numbers.tolist() == _Y.tolist()
  numbers, _ = labels.numbered(["yes", "no"], ("no", "yes"))
  assert numbers.tolist() == [1, 0]
  with pytest.raises(ValueError, match="row 1 is 'off', none of the classes"):
    labels.numbered(["yes", "off"], ("no", "yes"))
  with pytest.raises(ValueError, match="distinct names"):
    labels.numbered(_Y, ("no", "no"))


def test_test_examples_share_the_classes(tmp_path):
  x = np.random.default_rng(0).normal(size=(8, 2))
  np.savez(tmp_path / "a.npz", x=x, y=_Y * 7, x_test=x, y_test=_Y * 9)
  train, test = labelled.load(str(tmp_path / "a.npz"))
  assert test is not None and train.classes == test.classes == ("0", "7", "9")
  assert train.y.tolist() == _Y.tolist()
  assert test.y.tolist() == (_Y * 2).tolist()


_WAYS = ("NA", "N/A", "?", "NaN", "nan", "null", "NULL", "None", "", "<NA>")


@pytest.mark.parametrize("way", _WAYS)
@pytest.mark.parametrize("kind", ["01", "ab"])
def test_missing_labels_are_named_by_row(tmp_path, way, kind):
  answers = [kind[i % 2] for i in range(8)]
  answers[3] = way
  path = tmp_path / "a.csv"
  path.write_text(
    "\n".join(["text,label", *(f"{i},{a}" for i, a in enumerate(answers))])
  )
  for read in (tabular.read, labelled_texts.read):
    with pytest.raises(ValueError, match="row 3 has no 'label'"):
      read(path)
  held = np.array([None if a == "" else a for a in answers], object)
  x = np.arange(8.0)[:, None]
  for make in (tabular.from_arrays, labelled.from_arrays):
    with pytest.raises(ValueError, match="row 3 has no '(y|target)'"):
      make(x, held)


def test_a_response_is_said_and_offered(tmp_path):
  path = tmp_path / "a.csv"
  path.write_text("\n".join(["a,y", *(f"{i},{3 * i}" for i in range(8))]))
  with pytest.raises(ValueError, match="8 classes in 8 rows.*response=true"):
    tabular.read(path)
  table = tabular.read(path, response=True)
  assert not table.classes and table.targets.tolist() == [
    3 * i for i in range(8)
  ]
  y = np.array([1.5, np.nan, 2.5])
  with pytest.raises(ValueError, match="1 are not .first: nan at row 1"):
    tabular.from_arrays(np.ones((3, 1)), y)
  np.savez(tmp_path / "a.npz", x=np.arange(8.0)[:, None], y=np.arange(8) % 3)
  assert len(tabular.read(tmp_path / "a.npz").classes) == 3
  assert not tabular.read(tmp_path / "a.npz", response=True).classes
