"""Runs: failures are one answer's, what is kept is not run again."""

import functools
import json
import time
from typing import Any

import numpy as np
import pytest

from spex_jax import cli
from spex_jax.ablate import closed
from spex_jax.agents import loopback, running
from spex_jax.agents.find import (
  functions,
  generating,
  interpretations,
  numeric,
  referees,
)
from spex_jax.jobs import find
from spex_jax.store import folders


@pytest.fixture(autouse=True)
def _short(monkeypatch):
  monkeypatch.setattr(numeric, "_EPOCHS", 3)


def _raises(query, budget):
  raise ZeroDivisionError("odd")


def _overspends(query, budget):
  query(["x"] * (budget + 1))


def _hangs(query, budget):
  time.sleep(30)


def _leaves(query, budget):
  raise SystemExit(3)


def _says(code):
  return lambda query, budget: interpretations.Answer("", code)


_NO_TEXT: Any = {1: {2}}


@pytest.mark.parametrize(
  ("run", "complaint"),
  [
    (_raises, "ZeroDivisionError: odd"),
    (_overspends, "Overspent: 61 inputs"),
    (_hangs, "TimeoutError: it took more than"),
    (_leaves, "SystemExit: 3"),
    (lambda query, budget: None, "the answer is a NoneType"),
    (lambda query, budget: interpretations.Answer(_NO_TEXT, ""), "not JSON"),
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
    return interpretations.Answer("", "def f(x): return x")

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
    "queries": 4, "length": 10, "seconds": 1.0, "tokens": 0, "money": 0,
    "error": "",
  }  # fmt: skip
  rows = referees.table([verdict, verdict | {"paper": 0.0, "error": "x"}])
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
  assert all(needed == row.keys() for row in rows)
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
  files = [tmp_path / "a" / f for f in ("leaderboard.json", "functions.jsonl")]
  before = [file.read_bytes() for file in files]
  # As if it had been killed half-way, and one answer was written badly.
  for file in (*files, *(tmp_path / "a/answers/piecewise").iterdir()):
    file.unlink()
  (tmp_path / "a/answers/enumeration/strings-00001.json").write_text("{")
  assert cli.main([*_RUN, place]) == 0
  assert [file.read_bytes() for file in files] == before


def _reply(text):
  message = {"role": "assistant", "content": text}
  usage = {"prompt_tokens": 1000, "completion_tokens": 100}
  return {"choices": [{"message": message, "finish_reason": "stop"}],
          "usage": usage}  # fmt: skip


def test_models_of_an_endpoint_in_a_run(tmp_path, monkeypatch, capsys):
  """An agent, a judge, prices, and a failure that the next run asks anew."""
  monkeypatch.setenv("OUR_KEY", "hunter2")
  down = [True]

  def answer(body):
    if body["model"] == "judge":
      return _reply("1")
    if down[0]:
      raise RuntimeError("down")
    return _reply("[DESCRIPTION] as it is [CODE]\ndef f(x):\n  return x")

  at_once = functools.partial(closed.Retry, sleep=lambda seconds: None)
  monkeypatch.setattr(closed, "Retry", at_once)
  with loopback.Server({"/v1/chat/completions": answer}) as server:
    words = [
      "find", "run", "--config.categories=strings", "--config.count=2",
      "--config.interpreters=one-shot", "--config.model=small",
      "--config.judge=judge", f"--config.endpoint={server.url}/v1",
      "--config.key_variable=OUR_KEY", "--config.money=1",
      "--config.price_prompt=2", "--config.price_reply=10",
      f"--workdir={tmp_path}",
    ]  # fmt: skip
    assert cli.main(words) == 0
    assert "Overloaded" in capsys.readouterr().out
    down[0] = False
    assert cli.main(words) == 0
  rows = json.loads((tmp_path / "details.json").read_text())
  own = {r["mode"]: r for r in rows if r["interpreter"] == "one-shot"}
  assert own["paper"]["failed"] == 0
  assert own["paper"]["tokens"] == 1100
  assert own["paper"]["money"] == pytest.approx((2 * 1000 + 10 * 100) / 1e6)
  assert own["language"]["functions"] == 2
  for file in tmp_path.rglob("*"):
    assert file.is_dir() or b"hunter2" not in file.read_bytes()


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
    (["find", "run", "--config.judge=m"], "endpoint is where they are"),
    (["find", "run", "--config.money=1"], "money needs prices"),
    (["find", "run", "--config.official=x.zip"], "oracle is needed"),
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
  (tmp_path / find.DETAILS).write_text('[{"category": 1}]')
  with pytest.raises(ValueError, match="is damaged"):
    find.report([str(tmp_path)])
