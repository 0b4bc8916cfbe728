"""The paper's files: read from a zip or a folder, run in the sandbox alone."""

import io
import json
import math
import pickle
import sys
import types
import zipfile

import numpy as np
import pytest

from spex_jax.agents import llm
from spex_jax.agents.find import functions, model_referee, official, referees
from spex_jax.agents.interpreters import naive

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


def test_a_zip_is_read_and_run_in_the_sandbox(archive, box):
  found, left_out = official.load(str(archive), "numeric", box)
  assert len(found) == 2 and left_out == 1
  np.testing.assert_array_equal(found[0].values([1.0, 2.0]), [3.0, 6.0])
  with pytest.raises(functions.Failed, match="refused: os.listdir"):
    functions.Query(found[1], 3)([1.0])
  answer = naive.interpolation(functions.Query(found[0], 200), 200)
  verdict = referees.judge(found[0], answer, box)
  assert (verdict["paper"], verdict["ours"]) == (1, None)
  (text,), _ = official.load(str(archive), "strings", box)
  assert text.values(["ab"]) == ["abab"]
  verdict = referees.judge(text, referees.truth(text), box)
  assert (verdict["paper"], verdict["ours"]) == (1, None)


def test_a_folder_is_read(archive, box, tmp_path):
  with zipfile.ZipFile(archive) as own:
    own.extractall(tmp_path / "out")
  found, _ = official.load(str(tmp_path / "out"), "numeric", box, count=1)
  assert len(found) == 1


def test_what_is_none_is_told(archive, box, tmp_path):
  with pytest.raises(FileNotFoundError, match="no such zip"):
    official.load(str(tmp_path / "none.zip"), "numeric", box)
  with pytest.raises(ValueError, match="entities, relations are read"):
    official.load(str(archive), "pictures", box)
  with pytest.raises(ValueError, match="need an oracle"):
    official.load(str(archive), "entities", box)
  with pytest.raises(ValueError, match="no neurons_entities/fNNNNN"):
    official.load(str(archive), "entities", box, oracle=llm.Scripted([]))
  (tmp_path / "bad.zip").write_bytes(b"PK no zip")
  with pytest.raises(ValueError, match="is no zip"):
    official.load(str(tmp_path / "bad.zip"), "numeric", box)
  for text in ('[{"nome": 1}]', "[3]", "3"):
    with zipfile.ZipFile(tmp_path / "other.zip", "w") as own:
      own.writestr("strings/unit_test_data.json", text)
    with pytest.raises(ValueError, match="no list of what has a 'name'"):
      official.load(str(tmp_path / "other.zip"), "strings", box)
  (tmp_path / "empty").mkdir()
  with pytest.raises(ValueError, match="no numeric/fNNNNN"):
    official.load(str(tmp_path / "empty"), "numeric", box)


def _saved(monkeypatch, tensors):
  """What `torch.save` writes of a mapping of float32 arrays."""
  kinds = {"torch": ["FloatStorage"], "torch._utils": ["_rebuild_tensor_v2"]}
  for module, names in kinds.items():
    own = types.ModuleType(module)
    for name in names:
      thing = type(name, (), {"__module__": module, "__qualname__": name})
      setattr(own, name, thing)
    monkeypatch.setitem(sys.modules, module, own)
  rebuild = sys.modules["torch._utils"]._rebuild_tensor_v2

  class Tensor:
    def __init__(self, key, array):
      self.key, self.array = key, array

    def __reduce__(self):
      storage = _Storage(str(self.key), self.array.size)
      strides = tuple(s // 4 for s in self.array.strides)
      return rebuild, (storage, 0, self.array.shape, strides, False, None)

  class _Storage:
    def __init__(self, key, count):
      self.pid = ("storage", sys.modules["torch"].FloatStorage, key, "cpu",
                  count)  # fmt: skip

  class Pickler(pickle.Pickler):
    def persistent_id(self, own):
      return own.pid if isinstance(own, _Storage) else None

  head, whole = io.BytesIO(), io.BytesIO()
  Pickler(head, 2).dump(
    {name: Tensor(i, own) for i, (name, own) in enumerate(tensors.items())}
  )
  with zipfile.ZipFile(whole, "w") as archive:
    archive.writestr("model/data.pkl", head.getvalue())
    for i, own in enumerate(tensors.values()):
      archive.writestr(f"model/data/{i}", own.astype("<f4").tobytes())
  return whole.getvalue()


class _Evil:
  def __reduce__(self):
    return print, ("run",)


def test_a_network_needs_no_framework(monkeypatch, tmp_path, box, capsys):
  rng = np.random.default_rng(0)
  shapes = [(64, 1), (64,), (1, 64), (1,)]
  names = ("0.weight", "0.bias", "2.weight", "2.bias")
  own = {
    f"layers.{name}": rng.normal(size=shape).astype(np.float32)
    for name, shape in zip(names, shapes)
  }
  code = "import torch\nPATH = 'mlp_approx_model.pt'\n"
  evil = io.BytesIO()
  with zipfile.ZipFile(evil, "w") as archive:
    archive.writestr("model/data.pkl", pickle.dumps(_Evil()))
  models = [_saved(monkeypatch, own), evil.getvalue(), b"no zip"]
  for number, data in enumerate(models):
    folder = tmp_path / "numeric" / f"f{number:05d}"
    folder.mkdir(parents=True)
    (folder / "function_code.py").write_text(code)
    (folder / "mlp_approx_model.pt").write_bytes(data)
  (found,), left_out = official.load(str(tmp_path), "numeric", box)
  assert left_out == 2 and "run" not in capsys.readouterr().out
  weights, biases, out, offset = (array.ravel() for array in own.values())
  for x in (-3.5, 0.0, 100.0):
    wanted = np.maximum(weights * x + biases, 0) @ out + offset[0]
    # float32 parameters, float64 sums there and float32 here.
    assert found.values([x])[0] == pytest.approx(float(wanted), rel=1e-4)
  verdict = referees.judge(found, referees.truth(found), box)
  assert (verdict["paper"], verdict["ours"]) == (1, None)


class _Oracle:
  """Knows that a dog is an animal, and what France's capital is."""

  def chat(self, messages, tools=None):
    text = messages[0]["content"]
    if "related to animals" in text:
      share = 0.9 if text.endswith("dog") else 0.2
      first = {"1": math.log(share / 2), "0": math.log((1 - share) / 2)}
      return llm.Reply("1", (), 1, 1, "stop", first)
    return llm.Reply(" Paris\n" if text.endswith("France") else "undefined")


def test_words_are_answered_by_a_model(tmp_path, box):
  pairs = [["Oslo", "France", "red"], ["x", " Paris", "y"]]
  for name, own, tests in (
    ("entities", {"concept1": "animals", "concept2": None},
     [["tree", "dog", "car"]]),
    ("relations", {"concept1": "a country", "concept2": "its capital",
                   "exeption": "it is in Asia"}, [pairs]),
  ):  # fmt: skip
    folder = tmp_path / f"neurons_{name}"
    folder.mkdir()
    data = [own | {"dir": f"/data/f0000{i}", "initial": ["dog"]} for i in "01"]
    (folder / "data.json").write_text(json.dumps(data))
    known = [{"name": "f00000", "test_vec": tests, "correct_inx": [2]}]
    (folder / "unit_test_data.json").write_text(json.dumps(known))
  load = lambda name: official.load(str(tmp_path), name, box, oracle=_Oracle())
  (entity,), left_out = load("entities")
  assert left_out == 1
  np.testing.assert_allclose(entity.values(["dog", "car"]), [0.9, 0.2])
  (relation,), _ = load("relations")
  assert relation.values(["France", "Oslo"]) == ["Paris", "undefined"]
  for own in (entity, relation):
    query = functions.Query(own, 60)
    assert query.about["hints"] == ["dog"]
    found = referees.judge(own, referees.truth(own), box)
    assert (found["paper"], found["ours"]) == (1, None)
    found = referees.judge(own, naive.constant(query, 60), box)
    assert found["paper"] < 1
  (choices, right), *_ = model_referee.tests(relation)
  assert choices[right] == "'France' -> 'Paris'"
  assert model_referee.tests(entity) == [(["tree", "dog", "car"], 1)]
