"""Small random checkpoints and what transformers 5.24 gave for them.

`recorded/*.npz` are of `third_party/fuzz_models.py --pack`; `make fuzz` asks
the same of many more.
"""

import json
import pathlib

import numpy as np
import pytest

from experiments import fuzz_models
from tests.models import checkpoints

_RECORDED = sorted(pathlib.Path(__file__).with_name("recorded").glob("*.npz"))


def _unpack(path, folder):
  with np.load(path) as file:
    arrays = dict(file)
  tensors = {key[2:]: x for key, x in arrays.items() if key.startswith("t_")}
  settings = json.loads(str(arrays["config"]))
  return checkpoints.save(folder, settings, tensors), arrays


def test_there_are_recordings():
  assert len(_RECORDED) > 12


@pytest.mark.slow_where("untied", "distilbert_masked")
@pytest.mark.parametrize("path", _RECORDED, ids=lambda path: path.stem)
def test_logits(path, tmp_path):
  folder, arrays = _unpack(path, tmp_path / "model")
  np.savez(folder / "reference.npz", **arrays)
  answer = fuzz_models.ask(folder)
  assert answer.verdict == "right", answer


def test_a_thousandth_of_a_weight_is_no_rounding(tmp_path):
  (path,) = [path for path in _RECORDED if path.stem == "gpt_neo"]
  folder, arrays = _unpack(path, tmp_path / "model")
  np.savez(folder / "reference.npz", **arrays)
  tensors = {key[2:]: x for key, x in arrays.items() if key.startswith("t_")}
  (name,) = [name for name in tensors if "h.0.mlp.c_fc.weight" in name]
  tensors[name] = tensors[name] * np.float32(1.001)
  checkpoints.save(folder, json.loads(str(arrays["config"])), tensors)
  answer = fuzz_models.ask(folder)
  assert answer.verdict == "wrong" and answer.gap > 1e-5, answer
