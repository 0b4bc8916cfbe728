"""`spex circuit`: end to end on small models, and refused in one line."""

import csv
import json
import xml.etree.ElementTree

import ml_collections
import numpy as np
import pytest

from spex_jax import cli, configs, settings, usage
from spex_jax.circuits import circuit_files, scored
from spex_jax.circuits import exact_effects as exact_lib
from spex_jax.circuits import graph as graph_lib
from spex_jax.jobs import (
  circuits_find,
  circuits_sweep,
  circuits_toy,
  report,
  sweeping,
)
from spex_jax.models import hub
from tests import command
from tests.jobs import small


def table(path):
  with open(path, newline="") as file:
    return list(csv.DictReader(file))


def test_every_configuration_is_tested_here():
  found = {
    word: list(configs.named(f"circuit_{word}")) for word in usage.CIRCUITS
  }
  assert found == {
    "score": ["circuit_score"],
    "judge": ["circuit_judge"],
    "find": ["circuit_find", "circuit_find_lm"],
    "patch": ["circuit_patch"],
    "paths": ["circuit_paths"],
    "dcm": ["circuit_dcm"],
    "cmap": ["circuit_cmap"],
    "tasks": ["circuit_tasks"],
  }


@pytest.fixture(scope="module")
def exact(model, pairs, tmp_path_factory):
  """The command, run once: what it wrote."""
  path = tmp_path_factory.mktemp("scores") / "exact.csv"
  code = cli.main(
    ["circuit", "score", f"--model={model}", f"--pairs={pairs}",
     "--config.method=exact", f"--output={path}"]
  )  # fmt: skip
  assert code == 0
  return path


def test_scores_are_of_every_edge(exact, model):
  rows = table(exact)
  assert list(rows[0]) == ["writer", "reader", "row", "score"]
  graph = graph_lib.Graph.of(hub.load(model))
  edges = [(r["writer"], r["reader"], int(r["row"])) for r in rows]
  assert edges == [graph.edge(i) for i in range(len(graph))]
  scores = np.array([float(r["score"]) for r in rows])
  assert np.isfinite(scores).all()
  assert np.ptp(scores) > 0


@pytest.mark.parametrize("method", ["eap", "eap-ig", "clean-corrupted"])
def test_methods_by_their_names(method, exact, model, pairs, tmp_path, capsys):
  path = tmp_path / "scores.csv"
  out = command.done(
    capsys, "circuit", "score", f"--model={model}", f"--pairs={pairs}",
    f"--config.method={method}", "--config.steps=2", "--config.rule=left",
    "--config.compared=6", f"--output={path}",
  )  # fmt: skip
  assert "agreement     Kendall" in out
  assert "metric        logit_difference: clean" in out
  assert f"wrote         {path}" in out
  keys = [{n: row[n] for n in ("writer", "reader", "row")}
          for file in (exact, path) for row in table(file)]  # fmt: skip
  half = len(keys) // 2
  assert keys[:half] == keys[half:]


def test_judging(exact, model, pairs, tmp_path, capsys):
  edges = [[r["writer"], r["reader"], int(r["row"])] for r in table(exact)]
  for name, kept in (("all", edges), ("none", []), ("some", edges[-3:])):
    (tmp_path / f"{name}.json").write_text(json.dumps({"edges": kept}))
  path = tmp_path / "judged.csv"
  out = command.done(
    capsys, "circuit", "judge", f"--model={model}", f"--pairs={pairs}",
    f"--circuit={tmp_path / 'all.json'}", str(tmp_path / "none.json"),
    str(tmp_path / "some.json"), f"--output={path}",
  )  # fmt: skip
  assert "identities" in out
  rows = table(path)
  assert list(rows[0]) == ["circuit", "pair", "metric", "faithfulness"]
  assert len(rows) == 3 * len(small.PAIRS)
  shares = {
    name: [float(r["faithfulness"]) for r in rows if r["circuit"] == name]
    for name in ("all", "none", "some")
  }
  # Float32, over sums of 12 terms.
  np.testing.assert_allclose(shares["all"], 1, atol=1e-3)
  np.testing.assert_allclose(shares["none"], 0, atol=1e-3)
  # Too narrow, as of bfloat16: the remedy is a setting.
  line = command.refused(
    capsys, "circuit", "judge", f"--model={model}", f"--pairs={pairs}",
    f"--circuit={tmp_path / 'some.json'}", "--config.tolerance=1e-12",
    f"--output={tmp_path / 'none.csv'}",
  )  # fmt: skip
  assert "raise `tolerance` (--config.tolerance)" in line
  shown = report.read(tmp_path)[0]
  assert "judged.csv" in [view["title"] for view in shown.views]
  assert shown.facts["command"].startswith("spex circuit judge")


def test_finding_in_pairs_of_a_file(model, pairs, tmp_path, capsys):
  out = command.done(
    capsys, "circuit", "find", f"--model={model}", f"--task={pairs}",
    "--config.edges=6", "--config.random=1", "--config.compared=6",
    "--config.force", "--config.refine=2", f"--workdir={tmp_path}",
  )  # fmt: skip
  assert "asked         Which edges carry pairs?" in out
  for said in ("accuracy", "metric", "scores", "cost", "agreement", "CMD",
               "circuit  ", "refined"):  # fmt: skip
    assert f"\n{said}" in out, said
  graph = graph_lib.Graph.of(hub.load(model))
  found = circuit_files.load(tmp_path / "circuit.json", graph)
  assert len(found.circuit) <= 6
  assert found.about["task"] == "pairs"
  scores = scored.load(tmp_path / "scores.npz", graph)
  assert scores.values.shape == (2, len(graph))
  assert (tmp_path / "faithfulness.png").read_bytes().startswith(b"\x89PNG")
  xml.etree.ElementTree.parse(tmp_path / "circuit.svg")
  shown = report.read(tmp_path)[0]
  kinds = [view["kind"] for view in shown.views]
  assert kinds == ["curve", "table", "table", "image", "table"]
  # Six edges by chance, of a model without training: nothing to rely on.
  assert "accuracy" in [name for name, _, _ in shown.trust]
  names = [name for name, _ in shown.files]
  assert {"eap_ig.json", "circuit_tracer.json", "circuit.json"} <= {*names}
  body = json.loads(dict(shown.files)["circuit_tracer.json"])
  assert len(body["metadata"]["prompt_tokens"]) == 3


def test_a_killed_sweep_of_exact_effects_goes_on(
  model, pairs, tmp_path, capsys, monkeypatch
):
  def find(folder, *more):
    return command.run(
      capsys, "circuit", "find", f"--model={model}", f"--task={pairs}",
      "--config.method=exact", "--config.random=0", "--config.edges=12",
      "--config.batch_size=1", "--config.force", f"--workdir={folder}", *more,
    )  # fmt: skip

  code, out, err = find(tmp_path / "whole")
  assert code == 0, err
  assert "36 effects of single pairs computed, 0 found" in out
  effects, calls = exact_lib._program, []

  def killed(*given):
    calls.append(given)
    if len(calls) == 2:
      raise RuntimeError("killed")
    return effects(*given)

  monkeypatch.setattr(exact_lib, "_program", killed)
  assert find(tmp_path / "parts")[0] == 1
  monkeypatch.setattr(exact_lib, "_program", effects)
  code, out, err = find(tmp_path / "parts")
  assert code == 0, err
  assert "18 effects of single pairs computed, 18 found" in out
  files_of = lambda name: [
    (tmp_path / folder / name).read_bytes() for folder in ("whole", "parts")
  ]
  for name in ("scores.npz", "circuit.json", "circuit.svg"):
    one, other = files_of(name)
    assert one == other
  # Another question is another folder.
  code, out, err = find(tmp_path / "parts", "--config.ablation=zero")
  assert code == 0, err
  assert "36 effects of single pairs computed, 0 found" in out


@pytest.mark.parametrize(
  "level", ["node", "neuron", pytest.param("position", marks=pytest.mark.slow)]
)
def test_finding_other_levels(level, model, pairs, tmp_path, capsys):
  out = command.done(
    capsys, "circuit", "find", f"--model={model}", f"--task={pairs}",
    "--config.method=eap", "--config.random=1", "--config.edges=3",
    "--config.compared=0", "--config.force", f"--config.level={level}",
    "--config.selection=top", f"--workdir={tmp_path}",
  )  # fmt: skip
  assert f"3 {level}s" in out
  assert not (tmp_path / "circuit.svg").exists()
  command.done(
    capsys, "circuit", "judge", f"--model={model}", f"--pairs={pairs}",
    f"--circuit={tmp_path / 'circuit.json'}", f"--output={tmp_path / 'j.csv'}",
  )  # fmt: skip
  assert len(table(tmp_path / "j.csv")) == 3


def test_a_task_that_the_model_fails_is_refused(model, tmp_path, capsys):
  rows = [{**row, "right": row["wrong"], "wrong": row["right"]}
          for row in small.PAIRS]  # fmt: skip
  codes, outs = [], []
  for name, given in (("a", small.PAIRS), ("b", rows)):
    path = tmp_path / f"{name}.jsonl"
    path.write_text("\n".join(map(json.dumps, given)))
    code, out, err = command.run(
      capsys, "circuit", "patch", f"--model={model}", f"--task={path}",
      f"--workdir={tmp_path / name}",
    )  # fmt: skip
    codes.append(code)
    outs.append((out, err))
  # Right in one order is wrong in the other: one of the two is failed.
  assert sorted(codes) == [0, 1]
  out, err = outs[codes.index(1)]
  assert "accuracy" in out
  assert "The model fails" in err
  assert "--config.force" in err


def test_patching(model, pairs, tmp_path, capsys):
  out = command.done(
    capsys, "circuit", "patch", f"--model={model}", f"--task={pairs}",
    "--sweep=attn_head_out_all_pos", "--config.force", "--config.num_pairs=1",
    f"--workdir={tmp_path}",
  )  # fmt: skip
  assert f"pairs         1 of {pairs}" in out
  rows = table(tmp_path / "attn_head_out_all_pos.csv")
  assert list(rows[0]) == ["layer", "head", "metric", "moved"]
  assert len(rows) == 3
  picture = tmp_path / "attn_head_out_all_pos.png"
  assert picture.read_bytes().startswith(b"\x89PNG")
  assert "share of the effect moved" in out
  (run,) = report.read(tmp_path)
  assert [view["kind"] for view in run.views] == ["table", "image", "table"]
  assert [name for name, _, _ in run.trust] == ["accuracy", "effect"]


def test_tasks_that_a_tokenizer_lacks_are_told(model, capsys):
  out = command.done(
    capsys, "circuit", "tasks", f"--model={model}", "--config.num_pairs=2",
    "--config.tasks=capital,gender",
  )  # fmt: skip
  assert "capital gave 0 of 2 pairs for this tokenizer" in out


@pytest.mark.slow
def test_a_network_is_trained_and_its_circuit_found(tmp_path):
  config = cli.load_config(
    "circuit_find:quick", "circuit_find", {"random": 0, "compared": 4}
  )
  lines = []
  found = circuits_find.run(config, tmp_path, show=lines.append)
  said = "\n".join(line for line in lines if isinstance(line, str))
  assert "trained in 4 steps" in said
  assert len(found.curve.faithfulness) == 10
  assert found.curve.faithfulness[-1] == pytest.approx(1, abs=1e-4)
  # MLPs write zeros.
  graph = found.scores.graph
  quiet = [graph.writers[w].endswith(".mlp") for w in graph.writer]
  np.testing.assert_array_equal(found.scores.values[:, quiet], 0)
  lines.clear()
  circuits_find.run(config, tmp_path, show=lines.append)
  assert any("restored from" in str(line) for line in lines)


def test_pairs_of_induction():
  toy = circuits_toy.TOY
  pairs = circuits_toy.pairs(toy, 20, 0)
  for row in range(20):
    clean, other = pairs.clean[row], pairs.corrupted[row]
    (first,) = np.flatnonzero(clean != other)
    assert clean[first] == clean[-1]
    assert other[first] not in clean
    assert pairs.right[row] == [clean[first + 1]]
    assert (clean[:-1] == clean[-1]).sum() == 1


_BAD = {
  "unequal": ({"corrupted": "fun is the is"}, "equally long"),
  "two tokens": ({"right": " tram"}, "4 tokens"),
  "equal": ({"corrupted": "fun is the"}, "are equal"),
}


@pytest.mark.parametrize("name", _BAD)
def test_bad_pairs_are_one_line(name, model, tmp_path, capsys):
  change, complaint = _BAD[name]
  path = tmp_path / "pairs.jsonl"
  path.write_text(json.dumps(small.PAIRS[0] | change))
  line = command.refused(
    capsys, "circuit", "score", f"--model={model}", f"--pairs={path}",
    f"--output={tmp_path / 'a.csv'}",
  )  # fmt: skip
  assert complaint in line
  assert "Pair 0" in line


def _nan(logits, clean, right, wrong):
  del clean, wrong
  return logits[right[0]] * np.nan


def _mean_of_batch(logits, clean, right, wrong):
  del clean, wrong
  return logits[:, right].mean()


@pytest.mark.parametrize(
  ("words", "complaint"),
  [
    (("score",), "--model is missing"),
    (("score", "--model={model}"), "--pairs is missing"),
    (("score", "--model={model}", "--pairs={empty}"), "zero rows"),
    (
      ("score", "--model={model}", "--pairs={pairs}", "--config.metric=loss"),
      "metric='loss': choose from",
    ),
    (
      ("score", "--model={model}", "--pairs={pairs}",
       "--config.metric=tests.jobs.circuits_test:_mean_of_batch"),
      "does not take one example",
    ),
    (
      ("score", "--model={model}", "--pairs={pairs}",
       "--config.metric=tests.jobs.circuits_test:_nan"),
      "The metric of pair 0 is nan",
    ),
    (("score", "--model={model}", "--pairs={ids}"), "token 9999 of its right"),
    (("score", "--model={bert}", "--pairs={pairs}"), "attribute components"),
    (("patch", "--model={bert}", "--task={pairs}"), "(Encoder) is no causal"),
    (("judge", "--model={model}", "--pairs={pairs}"), "--circuit is missing"),
    (
      ("judge", "--model={model}", "--pairs={pairs}", "--circuit={other}"),
      "a circuit of another model",
    ),
    (("find", "--model={model}", "--task=chess"), "task='chess': choose from"),
    (("find", "--model={model}", "--task=ioi"), "gave 0 of 64 pairs"),
    (
      ("score", "--model={model}", "--pairs={pairs}", "--output={pairs}/a.csv"),
      "output's folder",
    ),
    (("find", "--config.model=x"), "model='x': subject=induction trains"),
    (("tasks", "--model={model}", "--config.tasks=chess"), "choose from ioi"),
    (("patch", "--model={model}", "--sweep=chess"), "chess"),
    (("paths", "--model={model}", "--config.steps=a@-1:2"), "NAME=INTO@PLACE"),
    (
      ("paths", "--model={model}", "--task={pairs}", "--config.force",
       "--config.steps=a=logits@verb:2"),
      "no span 'verb'",
    ),
    (("dcm", "--model={model}"), "--triples is missing"),
    (("dcm", "--model={model}", "--triples=none.jsonl"), "There is no file"),
    (("cmap", "--model={model}", "--task={pairs}"), "--tuned is missing"),
    (("score", "--modle=x"), "Did you mean --model?"),
    (("chess",), "has the words score, judge, find, patch, paths, dcm, cmap"),
  ],
)  # fmt: skip
def test_bad_input_is_one_line(
  words, complaint, model, pairs, tmp_path, capsys, monkeypatch
):
  monkeypatch.chdir(tmp_path)
  (tmp_path / "empty.jsonl").write_text("")
  row = {"clean_ids": [1, 2], "corrupted_ids": [1, 3], "right_ids": [9999]}
  (tmp_path / "ids.jsonl").write_text(json.dumps(row))
  other = {"edges": [], "fingerprint": "0123", "num_edges": 7}
  (tmp_path / "other.json").write_text(json.dumps(other))
  places = {
    "model": model, "pairs": pairs, "empty": tmp_path / "empty.jsonl",
    "ids": tmp_path / "ids.jsonl", "other": tmp_path / "other.json",
    "bert": "",
  }  # fmt: skip
  if "--model={bert}" in words:
    places["bert"] = small.bert(tmp_path / "bert")
  line = command.refused(
    capsys, "circuit", *(word.format(**places) for word in words)
  )
  assert complaint in line


@pytest.mark.parametrize("word", ["", "score", "judge", "find", "patch",
                                  "paths", "dcm", "cmap", "tasks"])  # fmt: skip
def test_help(word, capsys):
  words = [word] if word else []
  out = command.done(capsys, "circuit", *words, "--help")
  assert f"spex circuit {word}".strip() in out
  if word:
    assert f"circuit_{word}" in out


_PLAN = {
  "rows_per_shard": 4, "nan": "error", "retries": 0, "max_failed": 0.0,
}  # fmt: skip


def test_sweeps_of_circuits(model, pairs):
  config = settings.as_dict(
    circuits_find.OfModel(
      model=model, task=pairs, compared=0, random=1, batch_size=2
    )
  )
  config |= _PLAN | {"shares": (0.2, 1.0), "rows": 4}
  config["build"] = "spex_jax.jobs.circuits_sweep:sizes"
  own = sweeping.classes(config)
  assert own == circuits_sweep.classes_of("sizes")
  work = sweeping.build(ml_collections.ConfigDict(config))
  masks = work.masks(0, 4)
  assert masks.shape == (4, work.n)
  assert masks[1].all()
  assert masks[3].all()
  values = work.values(masks)
  assert values.shape == (4, 1)
  np.testing.assert_allclose(values[1], values[3], rtol=1e-5)
  config["rows"] = 5
  with pytest.raises(ValueError, match="this item has 4 circuits"):
    circuits_sweep.sizes(config)


def test_sweeps_of_exact_effects(exact, model, pairs):
  config = settings.as_dict(
    circuits_find.OfModel(model=model, task=pairs, batch_size=2)
  )
  config |= _PLAN | {"rows": 12}
  config["build"] = "spex_jax.jobs.circuits_sweep:exact"
  work = circuits_sweep.exact(config)
  scores = np.array([float(row["score"]) for row in table(exact)])
  assert work.n == len(scores)
  masks = work.masks(3, 9)
  assert (masks.sum(axis=1) == work.n - 1).all()
  found = work.values(masks).mean(axis=1)
  # Float32, in batches of other sizes: logits of size 1.
  np.testing.assert_allclose(found, scores[3:9], atol=2e-5)
  config["rows"] = len(scores) + 1
  with pytest.raises(ValueError, match=f"this item has {len(scores)} edges"):
    circuits_sweep.exact(config)
