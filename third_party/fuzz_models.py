"""Random checkpoints of every family, with what transformers gives for them.

Runs in the environment of PyTorch and transformers alone:

    python -m third_party.fuzz_models --output=FOLDER --each=25 --seed=0

Every checkpoint is legal: its configuration is made by transformers' own class
from random settings that it documents, its weights are random, and it is saved
by `save_pretrained` and read again. Beside it lies `reference.npz`, as in the
recorded models: `in_*` and `out_logits`.
"""

import argparse
import json
import pathlib
import random
from typing import Any

import numpy as np
import safetensors.numpy
import torch
import transformers

from third_party import fuzz_families


def _inputs(r: np.random.Generator, config: Any) -> dict[str, np.ndarray]:
  if hasattr(config, "num_channels"):
    size = getattr(config, "image_size", 20)
    shape = (2, config.num_channels, size, size)
    return {"pixel_values": r.normal(size=shape).astype(np.float32)}
  length = int(r.integers(5, 15))
  ids = r.integers(3, fuzz_families.VOCAB - 1, (2, length))
  mask = np.ones_like(ids)
  mask[1, length // 2 :] = 0
  ids[mask == 0] = config.pad_token_id or 0
  found = {"input_ids": ids, "attention_mask": mask}
  if config.is_encoder_decoder:
    found["decoder_input_ids"] = r.integers(3, fuzz_families.VOCAB - 1, (2, 6))
  return found


def _as_before(path: pathlib.Path) -> None:
  """Some settings by the names that they have in older files of the hub."""
  settings = json.loads(path.read_text())
  if settings["model_type"] == "qwen3_moe":
    settings["num_experts"] = settings.pop("num_local_experts")
  if settings["model_type"] == "modernbert":
    ropes = settings["rope_parameters"]
    if all(rope["rope_type"] == "default" for rope in ropes.values()):
      del settings["rope_parameters"]
      for kind, name in (("full", "global"), ("sliding", "local")):
        theta = ropes[f"{kind}_attention"]["rope_theta"]
        settings[f"{name}_rope_theta"] = theta
    settings["layer_norm_eps"] = settings["norm_eps"]
    settings |= {
      "position_embedding_type": "absolute", "repad_logits_with_grad": False,
      "reference_compile": None,
    }  # fmt: skip
    for step in (1, 2, 3):
      kinds = [
        "sliding_attention" if number % step else "full_attention"
        for number in range(settings["num_hidden_layers"])
      ]
      if settings.get("layer_types") == kinds:
        del settings["layer_types"]
        settings["global_attn_every_n_layers"] = step
  path.write_text(json.dumps(settings))


def _make(folder: pathlib.Path, family: str, seed: int) -> None:
  made, model_of, kwargs = fuzz_families.FAMILIES[family](
    random.Random(f"{family} {seed}")
  )
  torch.manual_seed(seed)
  model = model_of(made(**kwargs)).eval()
  with torch.no_grad():
    for name, x in model.named_parameters():
      # Off their start, so that a bias or norm left out is seen.
      if not ("embed_positions" in name and model.config.is_encoder_decoder):
        x.add_(torch.randn_like(x) * (0.3 if x.ndim > 1 else 0.4))
    for name, x in model.named_buffers():
      if "running_mean" in name or name == "final_logits_bias":
        x.add_(torch.randn_like(x) * 0.3)
      elif "running_var" in name:
        x.add_(torch.rand_like(x))
  model.save_pretrained(folder)
  if seed % 2:
    _as_before(folder / "config.json")
  model = model_of.from_pretrained(folder).eval()
  inputs = _inputs(np.random.default_rng(seed), model.config)
  with torch.no_grad():
    out = model(**{key: torch.from_numpy(x) for key, x in inputs.items()})
  if hasattr(out, "logits"):
    logits = out.logits
  elif family == "resnet":
    logits = out.pooler_output.flatten(1)
  elif family == "modernbert":  # An embedding, as sentence-transformers' mean.
    mask = torch.from_numpy(inputs["attention_mask"])[..., None]
    total = (out.last_hidden_state * mask).sum(1) / mask.sum(1)
    logits = torch.nn.functional.normalize(total, dim=-1)
  else:
    logits = out.last_hidden_state[:, 0]
  recorded: dict[str, Any] = {f"in_{key}": x for key, x in inputs.items()}
  np.savez(folder / "reference.npz", out_logits=logits.numpy(), **recorded)


def pack(folder: pathlib.Path, path: pathlib.Path) -> None:
  """One checkpoint with its recorded outputs as one small file, for tests.

  `config` is the text of `config.json`, `t_KEY` a tensor; the rest is that of
  `reference.npz`.
  """
  tensors = safetensors.numpy.load_file(folder / "model.safetensors")
  with np.load(folder / "reference.npz") as reference:
    packed: dict[str, Any] = {f"t_{key}": x for key, x in tensors.items()}
    config = (folder / "config.json").read_text()
    np.savez_compressed(path, config=config, **packed, **reference)


def main() -> None:
  """Makes the checkpoints that are asked for."""
  parser = argparse.ArgumentParser(description=__doc__)
  parser.add_argument("--output", type=pathlib.Path, required=True)
  parser.add_argument("--each", type=int, default=25)
  parser.add_argument("--seed", type=int, default=0)
  parser.add_argument("--families", default=",".join(fuzz_families.FAMILIES))
  parser.add_argument(
    "--pack", type=pathlib.Path, help="also as one file each, into this folder"
  )
  given = parser.parse_args()
  transformers.logging.set_verbosity_error()
  transformers.logging.disable_progress_bar()
  for family in given.families.split(","):
    for number in range(given.each):
      folder = given.output / f"{family}_{number:02d}"
      _make(folder, family, given.seed + number)
      if given.pack:
        given.pack.mkdir(parents=True, exist_ok=True)
        pack(folder, given.pack / f"{folder.name}.npz")
    print(f"{family}: {given.each} made", flush=True)


if __name__ == "__main__":
  main()
