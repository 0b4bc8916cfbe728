"""Bad inputs of the command: one clear line each, which names the offender."""

import json

import numpy as np
import pytest

from tests import command
from tests.models import checkpoints

pytestmark = pytest.mark.faults

_CALL = (
  "explain", "--config=callable:quick", "--config.function=bad_inputs:value",
)  # fmt: skip
_SIZES = {
  "a budget of 10^30": (f"--config.budget={10**30}", "--config.n=40"),
  "10^12 players": (f"--config.n={10**12}",),
  "10^30 players": (f"--config.n={10**30}",),
  "minus players": ("--config.n=-1",),
  "an order of -10^30": (f"--config.order=-{10**30}", "--config.n=4"),
  "a seed of 10^30": (f"--config.seed={10**30}", "--config.n=4"),
}


@pytest.fixture
def here(tmp_path, monkeypatch):
  (tmp_path / "bad_inputs.py").write_text(
    "def value(masks): return masks.sum(1)\n"
  )
  monkeypatch.chdir(tmp_path)
  monkeypatch.syspath_prepend(str(tmp_path))
  return tmp_path


@pytest.mark.parametrize("what", _SIZES)
def test_sizes_without_a_limit(here, capsys, record_property, what):
  said = command.refused(capsys, *_CALL, *_SIZES[what])
  setting = _SIZES[what][0].partition("=")[0].removeprefix("--config.")
  assert setting in said
  record_property("fault", f"{what}: {said}")


def test_a_place_in_proc(here, capsys, record_property):
  said = command.refused(capsys, *_CALL, "--config.n=4", "--workdir=/proc/none")
  assert "/proc/none" in said
  record_property("fault", f"a place in /proc: {said}")


@pytest.mark.parametrize(
  "name",
  ["inf.csv", "nothing.npz", "empty.npz", "bomb.npz", "pickle.npz", "long.npz"],
)
@pytest.mark.parametrize("verb", ["explain", "attribute"])
def test_tables(here, capsys, record_property, name, verb):
  path = here / name
  path.write_text("a,y\n1.5,0\n2.5,1\n3.5,inf\n" if name == "inf.csv" else "")
  if name == "empty.npz":
    np.savez(path)
  if name == "bomb.npz":
    _huge(path, (1 << 25, 1 << 20))
  if name == "long.npz":
    _huge(path, (3,))
  if name == "pickle.npz":
    np.savez(path, x=np.array([{}]), y=np.zeros(1, int))
  words = ["explain", "--config=tabular", f"--config.table={path}"]
  if verb == "attribute":
    words = ["attribute", "data", "--config=data_file", f"--config.data={path}"]
  said = command.refused(capsys, *words, "--workdir=w")
  assert name in said
  record_property("fault", f"{verb} {name}: {said}")


def _huge(path, shape):
  """An archive whose header promises more than it holds, or less."""
  import zipfile

  with zipfile.ZipFile(path, "w") as file:
    for name in "xy":
      head = str({"descr": "<f8", "fortran_order": False, "shape": shape})
      head = head.encode() + b" " * (117 - len(head)) + b"\n"
      magic = b"\x93NUMPY\x01\x00" + len(head).to_bytes(2, "little")
      file.writestr(f"{name}.npy", magic + head + bytes(16))


_LLAMA = checkpoints.LLAMA
_SETTINGS = {
  "zero heads": ({"num_attention_heads": 0}, "num_attention_heads=0"),
  "a list of types": ({"model_type": ["llama"]}, "models of type"),
  "sizes as strings": ({"hidden_size": "12"}, "hidden_size='12'"),
  "10^5 layers": ({"num_hidden_layers": 10**5}, "num_hidden_layers=100000"),
  "a vocabulary of 10^12": ({"vocab_size": 10**12}, "vocab_size"),
  "architectures a string": (
    {"architectures": "LlamaForCausalLM"}, "architectures=",
  ),
  "an epsilon of -1": ({"rms_norm_eps": -1}, "rms_norm_eps=-1"),
  "an epsilon of NaN": ({"rms_norm_eps": float("nan")}, "rms_norm_eps=nan"),
}  # fmt: skip


def _refused_model(capsys, folder, record_property, what, match):
  said = command.refused(
    capsys, "explain", "--config=lm:quick", "--config.text=the film is",
    f"--config.model={folder}", f"--workdir={folder / 'w'}",
  )  # fmt: skip
  assert match in said and str(folder) in said, said
  record_property("fault", f"checkpoint, {what}: {said}")


@pytest.mark.parametrize("what", _SETTINGS)
def test_settings_of_checkpoints(tmp_path, capsys, record_property, what):
  change, match = _SETTINGS[what]
  folder, _ = checkpoints.make(tmp_path / "model", _LLAMA)
  (folder / "config.json").write_text(json.dumps(_LLAMA | change))
  _refused_model(capsys, folder, record_property, what, match)


def _nan(folder, tensors):
  tensors["model.norm.weight"][0] = np.nan
  checkpoints.save(folder, _LLAMA, tensors)


def _promise(size):
  def write(folder, tensors):
    head = json.dumps(
      {"a": {"dtype": "F32", "shape": [size], "data_offsets": [0, 4 * size]}}
    ).encode()
    data = len(head).to_bytes(8, "little") + head + bytes(16)
    (folder / "model.safetensors").write_bytes(data)

  return write


def _head_of(size):
  return lambda folder, tensors: (folder / "model.safetensors").write_bytes(
    size.to_bytes(8, "little") + b"{}"
  )


def _index(body):
  def write(folder, tensors):
    (folder / "model.safetensors").rename(folder / "a.safetensors")
    (folder / "model.safetensors.index.json").write_text(json.dumps(body))

  return write


_FILES = {
  "a weight map that is a list": (
    _index({"weight_map": ["a"]}), "weight_map must be",
  ),
  "a shard outside": (
    _index({"weight_map": {"a": "../a.safetensors"}}), "same directory",
  ),
  "nested settings": (
    lambda folder, _: (folder / "config.json").write_text("[" * 100_000),
    "nested too deep",
  ),
  "NaN weights": (_nan, "'model.norm.weight' holds NaN"),
  "a tensor of 4 TB that is not there": (_promise(10**12), "model.safetensors"),
  "a header of 2^62 bytes": (_head_of(1 << 62), "model.safetensors"),
  "an empty file": (
    lambda folder, _: (folder / "model.safetensors").write_bytes(b""),
    "model.safetensors",
  ),
}  # fmt: skip


@pytest.mark.parametrize("what", _FILES)
def test_files_of_checkpoints(tmp_path, capsys, record_property, what):
  write, match = _FILES[what]
  folder, tensors = checkpoints.make(tmp_path / "model", _LLAMA)
  write(folder, tensors)
  _refused_model(capsys, folder, record_property, what, match)
