"""What a function stands on: modules beside it, and files that are named."""

import pytest

from spex_jax.sweeps import code


@pytest.fixture
def folder(tmp_path):
  for name, text in {
    "mine.py": "import numpy, helper\ndef f(m):\n  from pkg import deep\n",
    "helper.py": "FACTOR = 1\n",
    "pkg/__init__.py": "",
    "pkg/deep.py": "from . import near\nfrom .near import x\nimport mine\n",
    "pkg/near.py": "x = 1\n",
    "pkg/other.py": "x = 1\n",
    "aside.py": "x = 1\n",
  }.items():
    place = tmp_path / name
    place.parent.mkdir(exist_ok=True)
    place.write_text(text)
  return tmp_path


@pytest.mark.parametrize(
  ("name", "counts"),
  [
    ("mine.py", True), ("helper.py", True), ("pkg/__init__.py", True),
    ("pkg/deep.py", True), ("pkg/near.py", True), ("pkg/other.py", False),
    ("aside.py", False),
  ],
)  # fmt: skip
def test_what_is_imported_from_beside_it_counts(folder, name, counts):
  before = code.digest("mine", folder / "mine.py")
  with (folder / name).open("a") as file:
    file.write("y = 2\n")
  assert (code.digest("mine", folder / "mine.py") != before) == counts


def test_a_module_of_a_package_is_found_from_its_root(folder):
  before = code.digest("pkg.deep", folder / "pkg/deep.py")
  (folder / "helper.py").write_text("FACTOR = 3\n")  # Imported by `mine`.
  assert code.digest("pkg.deep", folder / "pkg/deep.py") != before


def test_files_that_are_named_count(tmp_path, monkeypatch):
  monkeypatch.chdir(tmp_path)
  (tmp_path / "w.txt").write_text("1")
  before = code.files(["w.txt"])
  assert list(before) == ["file w.txt"]
  (tmp_path / "w.txt").write_text("3")
  assert code.files(["w.txt"]) != before
  with pytest.raises(ValueError, match="files: none.txt: No such file"):
    code.files(["none.txt"])
