"""Adapters merged as they are read, against matrices added in NumPy."""

import json

import numpy as np
import pytest
import safetensors.numpy

from spex_jax.models import hub
from tests.models import checkpoints

_Q = "model.layers.0.self_attn.q_proj"
_DOWN = "model.layers.1.mlp.down_proj"


def _adapter(folder, tensors, settings=(), base=None):
  folder.mkdir()
  told = {"peft_type": "LORA", "r": 2, "lora_alpha": 6, "bias": "none",
          "base_model_name_or_path": base and str(base)}  # fmt: skip
  told |= dict(settings)
  (folder / "adapter_config.json").write_text(json.dumps(told))
  safetensors.numpy.save_file(tensors, folder / "adapter_model.safetensors")
  return folder


def _matrices(tensors, names, rank=2):
  rng, found = np.random.default_rng(3), {}
  for name in names:
    out, into = tensors[f"{name}.weight"].shape
    for part, shape in (("A", (rank, into)), ("B", (out, rank))):
      key = f"base_model.model.{name}.lora_{part}.weight"
      found[key] = rng.normal(size=shape).astype(np.float32)
  return found


@pytest.fixture
def base(tmp_path):
  return checkpoints.make(tmp_path / "base", checkpoints.LLAMA)


@pytest.mark.parametrize("rooted", [False, True])
def test_is_the_sum(base, tmp_path, rooted):
  folder, tensors = base
  some = _matrices(tensors, [_Q, _DOWN])
  adapter = _adapter(tmp_path / "a", some, {"use_rslora": rooted}, folder)
  scale = 6 / (2**0.5 if rooted else 2)
  both = dict(tensors)
  for name in (_Q, _DOWN):
    a, b = (some[f"base_model.model.{name}.lora_{x}.weight"] for x in "AB")
    both[f"{name}.weight"] = tensors[f"{name}.weight"] + scale * b @ a
  want = tmp_path / "want"
  checkpoints.save(want, checkpoints.LLAMA, both)
  expected = hub.load(want).params
  for got in (hub.load(folder, adapter=adapter), hub.load(adapter)):
    # One rounding of float32 each.
    for name in ("blocks_0", "blocks_1"):
      for part in ("attn", "mlp"):
        for kind, one in got.params[name][part].items():
          np.testing.assert_allclose(
            one["kernel"], expected[name][part][kind]["kernel"], rtol=1e-5,
            atol=1e-5,
          )  # fmt: skip


def test_what_is_refused(base, tmp_path):
  folder, tensors = base
  some = _matrices(tensors, [_Q])
  other = {k.replace("layers.0", "layers.7"): v for k, v in some.items()}
  wide = {k: np.ones((v.shape[0] + ("_B" in k), v.shape[1]), np.float32)
          for k, v in some.items()}  # fmt: skip
  half = {k: v for k, v in some.items() if "_A" in k}
  for number, (tensors, settings, match) in enumerate([
    (other, {}, "which this base does not have: it is the adapter of another"),
    (wide, {}, "it is the adapter of another"),
    (half, {}, "but one of A and B"),
    (some, {"r": 4}, "its matrices have rank 2"),
    (some, {"use_dora": True}, "use_dora=True, which is not implemented"),
    ({"x.weight": np.ones((2, 2), np.float32)}, {}, "no matrix A or B"),
  ]):  # fmt: skip
    adapter = _adapter(tmp_path / str(number), tensors, settings)
    with pytest.raises(ValueError, match=match):
      hub.load(folder, adapter=adapter)
  (adapter / "adapter_model.safetensors").unlink()
  with pytest.raises(FileNotFoundError, match="is missing"):
    hub.load(folder, adapter=adapter)
