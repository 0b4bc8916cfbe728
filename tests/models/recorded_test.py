"""Small random checkpoints and what transformers 5.24 gave for them.

`recorded/*.npz` are of `third_party/fuzz_models.py --pack`; `make fuzz` asks
the same of many more.
"""

import json
import pathlib

import jax
import numpy as np
import pytest

from spex_jax.models import hub
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
  net = hub.load(folder)
  inputs = {
    key[3:]: x.astype(np.int32 if x.dtype.kind == "i" else np.float32)
    for key, x in arrays.items()
    if key.startswith("in_")
  }
  out = jax.jit(net.apply)(net.params, **inputs)
  mask = inputs.get("attention_mask")
  if mask is None or out.logits.shape[:2] != mask.shape:
    mask = None
  # Some 40 sums of up to 40 products in float32, in another order.
  gap = checkpoints.difference(out.logits, arrays["out_logits"], mask)
  assert gap < 2e-5
