"""The README keeps its word: its example prints what it shows."""

import json
import pathlib
import re
import subprocess
import sys

import jax
import numpy as np
import pytest

import spex_jax
from tests import command
from tests.jobs import small
from tests.models import checkpoints, marian_test

_ROOT = pathlib.Path(__file__).parents[1]


def _snippet(page: str) -> str:
  """The first Python block of a page of `docs/how_to`."""
  text = (_ROOT / "docs" / "how_to" / page).read_text()
  match = re.search(r"```python\n(.*?)```", text, re.DOTALL)
  assert match is not None
  return match.group(1)


def test_the_worked_example_prints_what_is_shown():
  text = (_ROOT / "README.md").read_text()
  match = re.search(r"```python\n(.*?)```\n\n```\n(.*?)```", text, re.DOTALL)
  assert match is not None
  code, shown = match.groups()
  done = subprocess.run(
    [sys.executable, "-c", code], capture_output=True, text=True, check=True
  )
  assert done.stdout == shown


def test_no_placeholder_is_left():
  for path in [*_ROOT.glob("*.md"), *_ROOT.glob("*/*.md")]:
    assert "@" * 2 not in path.read_text(), path


def test_every_file_that_is_named_exists():
  text = (_ROOT / "README.md").read_text()
  for name in re.findall(r"`((?:\w+/)+\w+\.\w+)`", text):
    if not name.startswith("runs/"):
      assert (_ROOT / name).exists(), name


def test_the_five_lines_each_run_as_they_stand(tmp_path, monkeypatch, capsys):
  small.bert(tmp_path / "CLASSIFIER")
  small.gpt2(tmp_path / "LANGUAGE_MODEL")
  small.vit(tmp_path / "IMAGE_CLASSIFIER")
  code = _snippet("explain.md")
  monkeypatch.chdir(tmp_path)  # Where these names are directories.
  # All masks are few enough to be quick.
  code = code.replace("7, 7", "2, 2")
  exec(compile(code, "docs/how_to", "exec"), {})
  shown = capsys.readouterr().out
  assert re.findall(r"sets of (\d+) players", shown) == ["5", "4", "4", "4"]


@pytest.mark.slow
def test_generating_from_python_runs_as_it_stands(
  tmp_path, monkeypatch, capsys
):
  marian_test.save(tmp_path / "TRANSLATOR")
  code = _snippet("generate.md")
  monkeypatch.chdir(tmp_path)
  names = {}
  exec(compile(code, "docs/how_to", "exec"), names)
  shown = capsys.readouterr().out
  assert len(re.findall(r"-\d+\.\d\d nats: '", shown)) == 2
  made = names["made"]
  assert made.logits.shape == (1, 8, 11)
  (pattern,) = made.activations.values()
  assert pattern.shape == (1, 8, 2, 5)


@pytest.mark.slow
def test_circuits_from_python_run_as_they_stand(tmp_path, monkeypatch, capsys):
  small.gpt2(tmp_path / "LANGUAGE_MODEL")
  words = ["fun", "the film", "film is the", "is the fun"]
  rows = [
    {"clean": f"{a} is", "corrupted": f"{a} the", "right": " fun",
     "wrong": " film"}
    for a in words
  ]  # fmt: skip
  (tmp_path / "PAIRS.jsonl").write_text("\n".join(map(json.dumps, rows)))
  code = _snippet("circuits.md")
  monkeypatch.chdir(tmp_path)
  names = {}
  exec(compile(code, "docs/how_to", "exec"), names)
  shown = capsys.readouterr().out
  assert "Kendall" in shown
  assert "CMD" in shown
  assert "identities: all edges = the clean run" in shown
  assert names["heads"].moved().shape == (2, 3)
  graph = names["graph"]
  kept = spex_jax.circuits.circuit_files.load(tmp_path / "circuit.json", graph)
  assert kept.circuit == names["circuit"]


def test_the_sweep_that_is_written_there_runs(tmp_path, monkeypatch, capsys):
  code = _snippet("sweeps.md")
  (tmp_path / "mine.py").write_text(code)
  (tmp_path / "my_module.py").write_text(
    "def value(masks):\n  return masks.sum(axis=1) * 1.0\n"
  )
  monkeypatch.chdir(tmp_path)
  code, out, err = command.run(
    capsys, "sweep", "run", "--config=mine.py", "--workdir=run",
    "--config.rows=40", "--config.rows_per_shard=20",
  )  # fmt: skip
  assert code == 0 and "10 items, 400 rows in 20 shards" in out, err
  frozen = json.loads((tmp_path / "run/config.json").read_text())["config"]
  assert "my_module" in frozen["code"]


@pytest.mark.slow
def test_taking_apart_from_python_runs_as_it_stands(
  tmp_path, monkeypatch, capsys
):
  small.vit(tmp_path / "IMAGE_CLASSIFIER")
  code = _snippet("components.md")
  monkeypatch.chdir(tmp_path)
  names = {}
  exec(compile(code, "docs/how_to", "exec"), names)
  report, edit = capsys.readouterr().out.split("Edit of ")
  assert re.search(r"COAR +0\.9\d\d ± ", report)
  assert re.search(r"\d components? removed", edit)
  net = names["net"]
  for old, new in zip(*map(jax.tree.leaves, (net.params, names["params"]))):
    np.testing.assert_array_equal(old, new)
  assert (tmp_path / "edit.json").exists()


@pytest.mark.slow
def test_asking_about_edges_runs_as_it_stands(tmp_path, monkeypatch, capsys):
  model = checkpoints.shared("stories260k")
  (tmp_path / "LANGUAGE_MODEL").symlink_to(model)
  code = _snippet("edges.md")
  monkeypatch.chdir(tmp_path)
  names = {}
  exec(compile(code, "docs/how_to", "exec"), names)
  assert "{blocks.4 -> final_norm.in}" in capsys.readouterr().out
  assert names["found"].faithfulness > 0.7
  assert names["slopes"].shape == (26,) and names["slopes"].any()


@pytest.mark.slow
def test_retraining_from_python_runs_as_it_stands(
  tmp_path, monkeypatch, capsys
):
  code = _snippet("retrain.md")
  monkeypatch.chdir(tmp_path)  # Where the bank is.
  exec(compile(code, "docs/how_to", "exec"), {})
  lds, surrogate, report, *_ = capsys.readouterr().out.splitlines()
  assert float(re.search(r"LDS (\S+)", lds)[1]) > 0.8
  assert surrogate.startswith("R^2 0.") and "of 3 interactions" in report
