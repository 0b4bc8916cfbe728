"""What an experiment is asked wrongly, it refuses before it runs."""

import subprocess
import sys
import types

import pytest
from absl import app

from experiments import (
  bench_circuits,
  bench_components,
  bench_first,
  bench_singles,
  members_worth,
  rows,
)
from experiments.configs import sweep_reviews
from third_party import process, shapiq_peer

_SCRIPT = """
from absl import flags
from experiments import command
command.some_of("rows", ("a",), {"a": 1, "b": 2}, "Which rows")
command.some_of("few", None, "xy", "Others")
command.run(lambda argv: print(flags.FLAGS.rows, flags.FLAGS.few), {"full": 0})
"""


def _ran(*words):
  done = subprocess.run(
    [sys.executable, "-c", _SCRIPT, *words], capture_output=True, text=True
  )
  return done.returncode, done.stdout, done.stderr


def test_a_list_of_choices_takes_these_and_no_others():
  assert _ran() == (0, "['a'] None\n", "")
  assert _ran("--rows=b,a", "--few=y") == (0, "['b', 'a'] ['y']\n", "")
  code, _, said = _ran("--rows=a,c")
  assert code == 1 and "['a', 'c']: choose from a, b." in said
  code, said, _ = _ran("--help")
  assert "Which rows: choose from a, b." in said and "--config" in said


_FAILS = """
from experiments import command
from third_party import shapiq_peer
def main(argv):
  if argv[1:] == ["peer"]:
    shapiq_peer.Shapiq("/nowhere/python")
  if len(argv) > 1:
    raise KeyError("ours")
  open("/nowhere/file")
command.start(main)
"""


@pytest.mark.parametrize(
  ("words", "short", "last"),
  [
    ((), True, "/nowhere/file"),
    (("peer",), True, "run `make peers-shapiq`"),
    (("--debug",), False, "FileNotFoundError"),
    (("peer", "--debug"), False, "PeerError"),
    (("more",), False, "KeyError: 'ours'"),
  ],
)
def test_what_is_not_there_is_said_in_a_line(words, short, last):
  done = subprocess.run(
    [sys.executable, "-c", _FAILS, *words], capture_output=True, text=True
  )
  said = done.stderr.strip().splitlines()
  assert done.returncode == 1 and last in said[-1]
  assert (len(said) == 1) == short
  if short:
    assert "error: " in said[0] and "--debug" in said[0]


def test_a_peer_that_is_missing_is_told_before_any_row(monkeypatch):
  monkeypatch.setenv(shapiq_peer.Shapiq.variable, "/nowhere/python")
  game = lambda *_: pytest.fail("A game was made.")
  monkeypatch.setitem(bench_singles.GAMES, "planted14", game)
  measured = bench_singles.run(bench_singles.CONFIGS["quick"])
  with pytest.raises(process.PeerError, match="No peer environment"):
    next(measured)


def test_a_run_that_fails_at_once_leaves_the_rows_of_another(tmp_path):
  path = tmp_path / "rows.jsonl"
  rows.write([{"a": 1}], str(path))

  def fails():
    raise ValueError("No.")
    yield

  with pytest.raises(ValueError, match="No."):
    rows.write(fails(), str(path))
  assert rows.read(path) == [{"a": 1}]
  assert rows.write([{"a": 2}], str(path)) == rows.read(path) == [{"a": 2}]


_GIVEN = dict(
  config="quick", output=None, rows=[], games=None, model=None, stories=None,
  tasks=["ioi"], scores=None, workdir=None, peer=None, checkout=None,
  calls=False, budget=None, budgets=[], recorded=None, torch=False,
  peer_rows=None, figure=None, seeds=0,
)  # fmt: skip


@pytest.mark.parametrize(
  ("experiment", "given", "said"),
  [
    (bench_circuits, {"rows": "table"}, "needs --model"),
    (bench_circuits, {"rows": "", "peer": "python"}, "go together"),
    (bench_circuits, {"rows": "", "checkout": "DIR"}, "go together"),
    (
      bench_circuits,
      {"rows": "table", "model": "DIR", "scores": ["eap", "refined"]},
      "start from eap-ig",
    ),
    (bench_components, {"rows": ["language"]}, "needs --stories"),
    (bench_first, {"model": "nowhere"}, "--model=nowhere is no folder"),
    (bench_singles, {"games": ["mlp16"], "peer": False}, "needs --recorded"),
    (members_worth, {"config": "recorded"}, "No recorded games"),
    (members_worth, {"games": "nowhere"}, "--games=nowhere"),
  ],
)
def test_what_cannot_be_is_said_before_anything_runs(
  experiment, given, said, monkeypatch
):
  flags = types.SimpleNamespace(FLAGS=types.SimpleNamespace(**_GIVEN | given))
  monkeypatch.setattr(experiment, "flags", flags)
  monkeypatch.setattr(rows, "write", lambda *_: pytest.fail("It ran."))
  with pytest.raises(app.UsageError, match=said):
    experiment.main([])


def test_sizes_of_a_sweep_are_named():
  for ask in (sweep_reviews.get_config, sweep_reviews.sweep):
    with pytest.raises(ValueError, match="full, brief, quick; got 'nope'"):
      list(ask("nope"))
