"""`spex maia`: what it writes, and how it goes on."""

import functools
import json

import pytest

from spex_jax import cli
from spex_jax.ablate import closed, services
from spex_jax.agents import loopback
from spex_jax.agents.maia import scripted
from spex_jax.jobs import maia
from spex_jax.report import tables
from tests.jobs import small


def _rows(path):
  return [json.loads(line) for line in path.read_text().splitlines()]


def _run(folder, *more):
  return cli.main(
    ["maia", "--config=maia:quick", "--config.seed=3", f"--workdir={folder}",
     *more]
  )  # fmt: skip


def test_the_command_describes_and_goes_on(tmp_path, capsys, monkeypatch):
  assert _run(tmp_path, "--config.agent=scripted") == 0
  rows = _rows(tmp_path / maia.UNITS)
  assert [row["kind"] for row in rows] == ["one", "or", "and", "and-not"]
  for row in rows:
    assert row["label"] == row["truth"] and row["agent"] == "scripted"
    assert row["truth_table_accuracy"] == 1 and row["predictive_score"] > 0.99
    assert row["description_length"] == len(row["label"]) and row["calls"] > 0
    assert row["error"] == ""
  base = {row["kind"]: row for row in _rows(tmp_path / maia.BASELINE)}
  assert base["and"]["truth_table_accuracy"] < 1
  assert base["and-not"]["truth_table_accuracy"] < 1
  page = (tmp_path / "pages" / "scripted-and-000.html").read_text()
  assert "What makes and-000 fire?" in page and "data:image/png" in page
  text = capsys.readouterr().out
  assert "exemplars (alone)" in text and "and-not" in text

  # What is kept is not asked again; more units may join.
  def unlucky(tools):
    raise ZeroDivisionError("odd")

  monkeypatch.setattr(scripted, "run", unlucky)
  assert _run(tmp_path, "--config.count=2", "--config.kinds=one,and") == 0
  rows = _rows(tmp_path / maia.UNITS)
  assert [row["error"] for row in rows] == ["", "ZeroDivisionError: odd"] * 2
  assert rows[1]["label"] == "" and rows[1]["truth_table_accuracy"] == 0
  assert "ZeroDivisionError" in capsys.readouterr().out
  assert _run(tmp_path, "--config.noise=0.1") == 1
  assert "noise differ" in capsys.readouterr().err


def test_a_model_behind_an_endpoint(tmp_path, monkeypatch):
  at_once = functools.partial(closed.Retry, sleep=lambda seconds: None)
  monkeypatch.setattr(closed, "Retry", at_once)
  # Units are asked alike until they have shown something.
  call = 'CALL: {"tool": "exemplars", "arguments": {}}'
  replies = [call, "[DESCRIPTION] Red.\n[LABEL] red thing", RuntimeError("no")]

  def chat(body):
    reply = replies.pop(0) if len(replies) > 1 else replies[0]
    if isinstance(reply, Exception):
      raise reply
    return {"choices": [{"message": {"content": reply}}]}

  with loopback.Server({"/v1/chat/completions": chat}) as server:
    config = maia.Maia(
      seed=3, agent="model", kinds=("one",), count=2, scenes=300,
      endpoint=f"{server.url}/v1", model="m", pages=False,
    )  # fmt: skip
    said = []
    rows = maia.run(config, tmp_path, show=said.append)
    assert rows[0]["label"] == "red thing" and rows[0]["tokens"] > 0
    assert rows[1]["error"].startswith(services.Overloaded.__name__)
    # It may pass: that unit alone is asked again.
    replies[:] = ["[LABEL] moon"]
    again = maia.run(config, tmp_path, show=said.append)
  assert [row["label"] for row in again] == ["red thing", "moon"]
  assert any(isinstance(item, tables.Fact) for item in said)


def test_units_of_a_network(tmp_path):
  small.vit(tmp_path / "net")
  config = maia.Maia(
    seed=0, network=str(tmp_path / "net"), site="blocks.0.mlp.neurons",
    numbers=(0, 2), scenes=40,
  )  # fmt: skip
  rows = maia.run(config, tmp_path / "run", show=lambda item: None)
  assert [row["unit"] for row in rows] == [
    "blocks.0.mlp.neurons-0", "blocks.0.mlp.neurons-2",
  ]  # fmt: skip
  for row in rows:
    assert row["truth"] is None and "truth_table_accuracy" not in row
    assert row["error"] == "" and 0 <= row["predictive_score"] <= 1


@pytest.mark.parametrize(
  ("words", "message"),
  [
    (["--config.kinds=xor"], "choose from one, or"),
    (["--config.tools=paint"], "choose from exemplars"),
    (["--config.agent=gpt"], "choose from scripted"),
    (["--config.agent=model"], "endpoint and model are needed"),
    (["--config.images=x"], "go together"),
    (["--config.images=x", "--config.vision=y"], "the drawn world alone"),
    (["--config.money=1"], "money needs prices"),
    (["--config.count=0"], "at least 1"),
    (["--config.network=/nowhere"], "nowhere"),
  ],
)
def test_settings_are_checked(tmp_path, capsys, words, message):
  assert _run(tmp_path, *words) == 1
  assert message in capsys.readouterr().err
