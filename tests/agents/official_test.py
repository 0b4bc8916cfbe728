"""The paper's files: read from a zip or a folder, run in the sandbox alone."""

import zipfile

import numpy as np
import pytest

from spex_jax.agents import sandbox
from spex_jax.agents.find import functions, official, scores
from spex_jax.agents.interpreters import baselines

_LINE = "import sys\n\ndef function(x):\n  return 3 * x\n"
_HOSTILE = "import os\n\ndef function(x):\n  return os.listdir('/')\n"
_TORCH = "import torch\n\ndef function(x):\n  return torch.tensor(x)\n"


@pytest.fixture
def archive(tmp_path):
  path = tmp_path / "find.zip"
  with zipfile.ZipFile(path, "w") as own:
    for number, code in enumerate([_LINE, _HOSTILE, _TORCH]):
      own.writestr(f"find/numeric/f{number:05d}/function_code.py", code)
    own.writestr("find/numeric/data.json", "{}")
    text = "def function(s):\n  return s + s\n"
    own.writestr("find/strings/f00000/function_code.py", text)
  return path


@pytest.fixture(scope="module")
def box():
  with sandbox.Sandbox(seconds=2) as own:
    yield own


def test_a_zip_is_read_and_run_in_the_sandbox(archive, box):
  found, left_out = official.load(str(archive), "numeric", box)
  assert len(found) == 2 and left_out == 1
  np.testing.assert_array_equal(found[0].values([1.0, 2.0]), [3.0, 6.0])
  with pytest.raises(functions.Failed, match="refused: os.listdir"):
    functions.Query(found[1], 3)([1.0])
  answer = baselines.interpolation(functions.Query(found[0], 200), 200)
  verdict = scores.judge(found[0], answer, box)
  assert (verdict["paper"], verdict["ours"]) == (1, None)
  (text,), _ = official.load(str(archive), "strings", box)
  assert text.values(["ab"]) == ["abab"]
  verdict = scores.judge(text, scores.truth(text), box)
  assert (verdict["paper"], verdict["ours"]) == (1, None)


def test_a_folder_is_read(archive, box, tmp_path):
  with zipfile.ZipFile(archive) as own:
    own.extractall(tmp_path / "out")
  found, _ = official.load(str(tmp_path / "out"), "numeric", box, count=1)
  assert len(found) == 1


def test_what_is_none_is_told(archive, box, tmp_path):
  with pytest.raises(FileNotFoundError, match="no such zip"):
    official.load(str(tmp_path / "none.zip"), "numeric", box)
  with pytest.raises(ValueError, match="numeric, strings are read"):
    official.load(str(archive), "entities", box)
  (tmp_path / "bad.zip").write_bytes(b"PK no zip")
  with pytest.raises(ValueError, match="is no zip"):
    official.load(str(tmp_path / "bad.zip"), "numeric", box)
  (tmp_path / "empty").mkdir()
  with pytest.raises(ValueError, match="no numeric/fNNNNN"):
    official.load(str(tmp_path / "empty"), "numeric", box)
