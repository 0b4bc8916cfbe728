"""One's own tables and pictures, read from files."""

import numpy as np
import pytest
from PIL import Image

from spex_jax.datasets import images, tabular


def _csv(tmp_path, content):
  path = tmp_path / "mine.csv"
  path.write_text(content)
  return path


def test_a_csv_of_classes(tmp_path):
  path = _csv(tmp_path, "a, kind,b\n1,dog,2.5\n3,cat,-4\n\n5,dog,0\n7,cat,1\n")
  table = tabular.read(path, "kind")
  assert table.columns == ("a", "b") and table.classes == ("cat", "dog")
  assert table.targets.tolist() == [1, 0, 1, 0]
  np.testing.assert_array_equal(
    table.features, [[1, 2.5], [3, -4], [5, 0], [7, 1]]
  )


def test_numbers_are_classes_if_whole(tmp_path):
  table = tabular.read(_csv(tmp_path, "a,y\n1,5\n2,7\n3,5\n4,7.0\n"))
  assert table.classes == ("5", "7") and table.targets.tolist() == [0, 1, 0, 1]
  table = tabular.read(_csv(tmp_path, "a,y\n1,5.5\n2,7\n"))
  assert table.classes == () and table.targets.tolist() == [5.5, 7.0]


def test_an_npz(tmp_path):
  path = tmp_path / "mine.npz"
  x, y = np.arange(6.0).reshape(3, 2), np.array([0, 1, 1])
  np.savez(path, x=x, y=y, columns=["u", "v"], classes=["no", "yes"])
  table = tabular.read(path)
  assert table.columns == ("u", "v") and table.classes == ("no", "yes")
  np.testing.assert_array_equal(table.features, x)
  with pytest.raises(ValueError, match="the target of an .npz file is y, no"):
    tabular.read(path, "v")
  np.savez(path, x=x)
  with pytest.raises(ValueError, match="holds x; it must hold x and y"):
    tabular.read(path)
  path.write_text("no zip")
  with pytest.raises(ValueError, match=r"mine.npz: no arrays of NumPy's"):
    tabular.read(path)
  with path.open("wb") as file:
    np.save(file, x)  # One array without a name.
  with pytest.raises(ValueError, match=r"mine.npz: no arrays of NumPy's"):
    tabular.read(path)


@pytest.mark.parametrize(
  ("content", "target", "message"),
  [
    ("a,y\n1,0\n2,1\n", "z", "no column 'z'; it has a, y"),
    ("a,y\nx,0\n2,1\n", "", "row 0, column 'a': 'x' is no number. Encode"),
    ("a,y\n1,0\n,1\n", "", "row 1, column 'a': '' is no number"),
    ("a,y\n1,0\n2\n", "", "row 1 has 1 cells; the header has 2"),
    ("a,y\n1,\n2,1\n", "", "row 0 has no 'y'"),
    ("a,y\n1,0\n2,0\n", "", "'y' has 1 classes in 2 rows"),
    ("a,y\n1,1\n2,2\n3,3\n4,4\n", "", "'y' has 4 classes in 4 rows. Classes"),
    ("a,y\nnan,1\n2,0\n", "", "1 NaN or infinite entries .*row 0, column 'a'"),
    ("a,a,y\n1,1,1\n2,2,0\n", "", "Need 2 distinct column names"),
    ("y\n1\n", "", "need a header, two columns and one row"),
  ],
)
def test_tables_that_are_refused(tmp_path, content, target, message):
  with pytest.raises(ValueError, match=message):
    tabular.read(_csv(tmp_path, content), target)


def test_other_files(tmp_path):
  with pytest.raises(FileNotFoundError, match="gone.csv' is no file"):
    tabular.read(tmp_path / "gone.csv")
  path = tmp_path / "mine.txt"
  path.write_text("a,y\n")
  with pytest.raises(ValueError, match="mine.txt must be .csv or .npz"):
    tabular.read(path)


def test_pictures(tmp_path):
  pixels = np.random.default_rng(0).integers(0, 256, (4, 5, 3), np.uint8)
  Image.fromarray(pixels).save(tmp_path / "a.png")
  np.testing.assert_array_equal(images.read(tmp_path / "a.png"), pixels)
  Image.fromarray(pixels[..., 0]).save(tmp_path / "grey.png")
  grey = images.read(tmp_path / "grey.png")
  np.testing.assert_array_equal(grey, np.stack([pixels[..., 0]] * 3, -1))
  np.save(tmp_path / "a.npy", pixels)
  np.testing.assert_array_equal(images.read(tmp_path / "a.npy"), pixels)
  np.save(tmp_path / "grey.npy", pixels[..., 0])
  np.testing.assert_array_equal(images.read(tmp_path / "grey.npy"), grey)
  np.save(tmp_path / "ready.npy", np.ones((1, 4, 5)))
  ready = images.read(tmp_path / "ready.npy")
  assert ready.shape == (1, 4, 5) and ready.dtype == np.float32
  assert images.read("flower").shape == (427, 640, 3)
  (tmp_path / "bad.npy").write_text("x")
  with pytest.raises(ValueError, match="bad.npy is no array of NumPy's"):
    images.read(tmp_path / "bad.npy")
