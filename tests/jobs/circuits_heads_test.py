"""`spex circuit paths|dcm|cmap`: end to end on a small model."""

import json

import numpy as np
import safetensors.numpy

from spex_jax.models import hub
from tests import command
from tests.jobs import circuits_test, small


def test_groups_by_paths_and_what_they_are_put_into(
  model, pairs, tmp_path, capsys
):
  out = command.done(
    capsys, "circuit", "paths", f"--model={model}", f"--task={pairs}",
    "--config.steps=last=logits@-1:2", "--config.metric=kl",
    "--config.random=1", "--config.force", f"--workdir={tmp_path}",
  )  # fmt: skip
  groups = tmp_path / "groups.json"
  found = json.loads(groups.read_text())
  assert found["last"]["at"] == -1 and len(found["last"]["heads"]) == 2
  assert "faithfulness" in out and "completeness" not in out
  rows = circuits_test.table(tmp_path / "last.csv")
  assert [row["sender"] for row in rows] == [
    f"blocks.0.heads.{i}" for i in range(3)
  ]
  for name in ("last", "groups"):
    assert (tmp_path / f"{name}.png").read_bytes().startswith(b"\x89PNG")
  # An adapter of the same model, for which these groups are.
  adapter = _adapter(tmp_path / "adapter", model)
  command.done(
    capsys, "circuit", "cmap", f"--model={model}", f"--task={pairs}",
    f"--tuned={adapter}", f"--config.groups={groups}", "--config.forms=out,qkv",
    f"--workdir={tmp_path}",
  )  # fmt: skip
  rows = circuits_test.table(tmp_path / "cmap.csv")
  assert [r["group"] for r in rows] == [
    "base",
    "last, out",
    "last, qkv",
    "tuned",
  ]
  values = [float(row["metric"]) for row in rows]
  assert values[0] != values[-1]
  assert (tmp_path / "cmap.png").read_bytes().startswith(b"\x89PNG")
  other = small.gpt2(tmp_path / "other", n_layer=2)
  line = command.refused(
    capsys, "circuit", "cmap", f"--model={model}", f"--task={pairs}",
    f"--tuned={other}", f"--workdir={tmp_path}",
  )  # fmt: skip
  assert "are of two architectures: " in line
  assert "num_blocks 1 and 2" in line


def _adapter(folder, model):
  """LoRA of queries, keys and values, stored the way that GPT-2 has them."""
  folder.mkdir()
  told = {"peft_type": "LORA", "r": 1, "lora_alpha": 1, "fan_in_fan_out": True,
          "base_model_name_or_path": model}  # fmt: skip
  (folder / "adapter_config.json").write_text(json.dumps(told))
  width = hub.load(model).config.width
  name = "base_model.model.transformer.h.0.attn.c_attn.lora_"
  rng = np.random.default_rng(0)
  draw = lambda *shape: rng.normal(size=shape).astype(np.float32)
  safetensors.numpy.save_file(
    {f"{name}A.weight": draw(1, width), f"{name}B.weight": draw(3 * width, 1)},
    folder / "adapter_model.safetensors",
  )
  return folder


def test_masks_of_triples(model, tmp_path, capsys):
  path = tmp_path / "some.jsonl"
  rows = [
    {"base": row["clean"], "source": row["corrupted"], "target": target}
    for row in small.PAIRS for target in (" film", " is")
  ]  # fmt: skip
  path.write_text("\n".join(map(json.dumps, rows)))
  heads = [f"blocks.0.heads.{i}" for i in range(3)]
  groups = tmp_path / "groups.json"
  groups.write_text(json.dumps({"last": {"at": -1, "heads": heads}}))
  found = []
  for more in ((), (f"--config.groups={groups}",)):
    out = command.done(
      capsys, "circuit", "dcm", f"--model={model}", f"--triples={path}",
      "--config.penalties=0.01", "--config.seeds=2", "--config.epochs=2",
      f"--workdir={tmp_path}", *more,
    )  # fmt: skip
    found.append(circuits_test.table(tmp_path / "dcm.csv"))
  rows = found[0]
  assert found[1] == rows  # Of the same heads, by their group.
  assert [row["member"] for row in rows] == [
    f"blocks.0.heads.{i} @ -1" for i in range(3)
  ]
  assert "enumerated: objective" in out
  assert (tmp_path / "some.png").read_bytes().startswith(b"\x89PNG")
