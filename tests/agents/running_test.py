"""Runs: failures are one answer's, what is kept is not run again."""

import json
import time

import numpy as np
import pytest

from spex_jax import cli
from spex_jax.agents import running, sandbox
from spex_jax.agents.find import (
  answers,
  functions,
  generating,
  numeric,
  scores,
)
from spex_jax.jobs import find
from spex_jax.store import folders


@pytest.fixture(autouse=True)
def _short(monkeypatch):
  monkeypatch.setattr(numeric, "_EPOCHS", 3)


@pytest.fixture(scope="module")
def box():
  with sandbox.Sandbox(seconds=1) as own:
    yield own


def _raises(query, budget):
  raise ZeroDivisionError("odd")


def _overspends(query, budget):
  query(["x"] * (budget + 1))


def _hangs(query, budget):
  time.sleep(30)


def _says(code):
  return lambda query, budget: answers.Answer("", code)


@pytest.mark.parametrize(
  ("run", "complaint"),
  [
    (_raises, "ZeroDivisionError: odd"),
    (_overspends, "Overspent: 61 inputs"),
    (_hangs, "TimeoutError: it took more than"),
    (lambda query, budget: None, "the answer is a NoneType"),
    (_says("while True: pass"), "time"),
    (_says("import socket"), "refused"),
    (_says(None), "no text"),
    (_says("x" * (2 << 20)), "no text of up to"),
  ],
)
def test_a_failure_is_of_one_answer(box, run, complaint):
  own = generating.generate(0, "strings", 1)[0]
  found = running.interpreted(own, "a", run, 60, box, 0.2)
  assert complaint in found["error"]
  assert (found["paper"], found["ours"]) == (0, 0)
  json.dumps(found, allow_nan=False)


def _by(values):
  about = {"category": "numeric", "is_network": False}
  truth = {
    "variant": "clean", "family": "constant", "parameters": {"value": 1.0},
    "code": "def f(x): return 1.0",
  }  # fmt: skip
  return functions.Function("n", "numeric", about, truth, values, values)


def _full(value):
  return lambda xs: np.full(len(xs), value)


@pytest.mark.parametrize("name", ["constant", "interpolation", "piecewise"])
@pytest.mark.parametrize(
  ("values", "complaint"),
  [
    (lambda xs: 1 / 0, "ZeroDivisionError"),
    (lambda xs: time.sleep(30), "TimeoutError"),
    (lambda xs: None, "TypeError"),
    (_full(np.nan), ""),
    (_full(np.inf), ""),
    (_full(1e300), ""),
  ],
)
def test_a_function_that_fails_is_told(box, name, values, complaint):
  run = running.INTERPRETERS[name]["numeric"]
  found = running.interpreted(_by(values), name, run, 400, box, 0.3)
  assert complaint in found["error"] and found["ours"] == 0
  json.dumps(found, allow_nan=False)


def test_what_is_kept_is_not_run_again(tmp_path, box):
  todo = generating.generate(0, "relations", 2)
  calls = []

  def counted(query, budget):
    calls.append(query)
    return answers.Answer("", "def f(x): return x")

  folder = folders.opened(tmp_path)
  go = lambda: running.run(
    todo, ["mine"], folder, box, budgets=running.BUDGETS, seconds=5,
    more={"mine": {"relations": counted}},
  )  # fmt: skip
  first = go()
  assert len(calls) == 2 and go() == first and len(calls) == 2
  names = {v["interpreter"] for v in first}
  assert names == {"mine", running.CEILING, running.LOOPHOLE}
  damaged = tmp_path / "answers" / "mine" / f"{todo[0].name}.json"
  damaged.write_text("{")
  assert len(go()) == len(first) and len(calls) == 3
  with pytest.raises(ValueError, match="No interpreter 'who'"):
    running.run(todo, ["who"], folder, box, budgets={}, seconds=1)


def test_rows_of_a_leaderboard():
  verdict = {
    "interpreter": "a", "category": "strings", "paper": 1.0, "ours": 0.0,
    "queries": 4, "length": 10, "seconds": 1.0, "tokens": 0, "error": "",
  }  # fmt: skip
  rows = scores.table([verdict, verdict | {"paper": 0.0, "error": "x"}])
  assert [(r["mode"], r["score"], r["failed"]) for r in rows] == [
    ("paper", 0.5, 1), ("ours", 0.0, 1)
  ]  # fmt: skip


_RUN = [
  "find", "run", "--config.seed=3", "--config.categories=numeric,strings",
  "--config.count=2", "--config.interpreters=piecewise,enumeration",
]  # fmt: skip


def test_the_command(tmp_path, capsys):
  place = f"--workdir={tmp_path / 'a'}"
  assert cli.main([*_RUN, place]) == 0
  rows = json.loads((tmp_path / "a" / "leaderboard.json").read_text())
  needed = {"interpreter", "category", "score", "mode", "functions", "queries"}
  assert all(needed <= row.keys() for row in rows)
  by = {(r["interpreter"], r["category"], r["mode"]): r for r in rows}
  assert by["enumeration", "strings", "ours"]["score"] == 1
  assert by["truth", "strings", "paper"]["score"] == 1
  assert ("interpolation", "numeric", "paper") in by
  lines = (tmp_path / "a" / "functions.jsonl").read_text().splitlines()
  told = [json.loads(line) for line in lines]
  assert len(told) == 4 and all("code" in own["truth"] for own in told)
  capsys.readouterr()
  assert cli.main(["find", "report", str(tmp_path / "a")]) == 0
  assert "enumeration" in capsys.readouterr().out
  before = (tmp_path / "a" / "leaderboard.json").read_bytes()
  assert cli.main([*_RUN, place]) == 0
  assert (tmp_path / "a" / "leaderboard.json").read_bytes() == before


@pytest.mark.parametrize(
  ("words", "complaint"),
  [
    (["find"], "has the words run, report, serve; got ''"),
    (["find", "report"], "Name a directory"),
    (["find", "report", "/nowhere"], "run `spex find run`"),
    (["find", "run", "--config.categories=pictures"], "choose from numeric"),
    (["find", "run", "--config.interpreters=gpt"], "choose from constant"),
    (["find", "run", "--config.count=0"], "must be at least 1"),
    (["find", "run", "--config.categories=unit"], "network is needed"),
    (["find", "run", "--config.interpreters=agent"], "endpoint and model"),
    (["find", "serve", "--category=x"], "choose from numeric"),
    (["serve"], "needs --model"),
  ],
)
def test_bad_words_are_a_line(capsys, words, complaint):
  assert cli.main(words) == 1
  assert complaint in capsys.readouterr().err


def test_another_run_s_folder_is_refused(tmp_path):
  folder = folders.opened(tmp_path)
  running.check_same(folder, {"seed": 1})
  running.check_same(folder, {"seed": 1})
  with pytest.raises(ValueError, match="belongs to another run: seed differ"):
    running.check_same(folder, {"seed": 2})


def test_a_damaged_leaderboard_is_told(tmp_path):
  (tmp_path / find.LEADERBOARD).write_text('[{"category": 1}]')
  with pytest.raises(ValueError, match="is damaged"):
    find.report([str(tmp_path)])
