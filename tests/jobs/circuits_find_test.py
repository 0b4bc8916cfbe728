"""Which pairs and edges `spex circuit find` takes, and what it keeps."""

import dataclasses
import json
import types

import numpy as np

from spex_jax.circuits import circuit_files, pair_files, scored
from spex_jax.circuits import graph as graph_lib
from spex_jax.jobs import circuits_find, circuits_kept, sweeping
from spex_jax.models import hub
from tests import command


def test_a_circuit_of_consistent_edges_has_no_others(
  model, pairs, tmp_path, capsys
):
  out = command.done(
    capsys, "circuit", "find", f"--model={model}", f"--task={pairs}",
    "--config.edges=99", "--config.random=0", "--config.compared=0",
    "--config.force", "--config.consistent=1", "--config.selection=top",
    f"--workdir={tmp_path}",
  )  # fmt: skip
  graph = graph_lib.Graph.of(hub.load(model))
  found = circuit_files.load(tmp_path / "circuit.json", graph).circuit
  values = scored.load(tmp_path / "scores.npz", graph).values
  # Every draw of two pairs has a mean of one sign where both have it.
  one_sign = (values > 0).all(axis=0) | (values < 0).all(axis=0)
  assert 0 < one_sign.sum() < len(graph)
  np.testing.assert_array_equal(found.kept, one_sign)
  assert f"{one_sign.sum()} edges have their sign" in out


def test_pairs_of_a_sorted_file_are_drawn_from_all_of_it(model, tmp_path):
  path = tmp_path / "pairs.jsonl"
  rows = [
    {"clean_ids": [1, 2], "corrupted_ids": [1, 3], "right_ids": [4 + i]}
    for i in range(16)
  ]
  path.write_text("\n".join(map(json.dumps, rows)))
  config = circuits_find.OfModel(model=model, task=str(path), num_pairs=8)
  found = circuits_find.question(config, tmp_path)
  asked = found.pairs.right[:, 0].tolist()
  assert len({*asked}) == 8 and max(asked) >= 12 and asked != sorted(asked)
  assert "drawn by seed=0" in found.facts["order"]
  plain = circuits_find.of_task(config, str(path), 8).pairs
  assert plain.right[:, 0].tolist() == list(range(4, 12))


def test_the_code_of_a_metric_tells_what_is_kept(
  model, pairs, tmp_path, monkeypatch
):
  """Two functions of one name share nothing."""
  monkeypatch.syspath_prepend(tmp_path)
  net = hub.load(model)
  some = pair_files.load(pairs, net.tokenizer)
  config = circuits_find.OfModel(model=model, metric="own_metric:loss")
  sweep = types.SimpleNamespace(config={"metric": config.metric}, items=[{}])
  folders, digests = set(), set()
  for body in ("logits[0]", "logits[1]", "logits[0]"):
    (tmp_path / "own_metric.py").write_text(
      f"def loss(logits, clean, right, wrong):\n  return {body}\n"
    )
    folders.add(str(circuits_kept.Kept(tmp_path, config, net, some)))
    digests.add(sweeping.sources(sweep)["own_metric"])
  assert len(folders) == len(digests) == 2
  # What only selects or judges is no other question; an ablation is.
  kept = lambda **more: str(
    circuits_kept.Kept(tmp_path, dataclasses.replace(config, **more), net, some)
  )
  assert {kept(refine=2, edges=3, top=4)} <= folders
  assert not {kept(ablation="zero")} & folders
  sweep.config["metric"] = "kl"
  assert not sweeping.sources(sweep)
