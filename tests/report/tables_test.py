"""Tables and progress, as they appear where no terminal is."""

import io
import re
import sys
import threading

import pytest
from rich import console

from spex_jax.ablate import evaluate
from spex_jax.indices import interactions as interactions_lib
from spex_jax.report import progress, tables


def _text(renderable):
  out = io.StringIO()
  console.Console(file=out, width=200).print(renderable)
  return out.getvalue()


def test_interactions_are_named_sets_with_values_and_units():
  found = interactions_lib.Interactions.from_sets(
    3,
    [((0,), 0.5), ((1, 2), -2.0), ((1,), -0.25), ((0, 1), 0.125)],
    index="STII",
    order=2,
    names=("[bold]age", "sex", "x\ny"),
    units="nat",
  )
  lines = _text(tables.interactions(found, top=1)).splitlines()
  assert "STII, order up to 2" in lines[0]
  rows = [line.split() for line in lines if re.search(r"[+-]\d", line)]
  assert rows == [
    ["+0.5", "nat", "{[bold]age}"],
    ["-2", "nat", "{sex,", "x\\ny}"],
  ]


def test_standard_errors_have_a_column():
  found = interactions_lib.Interactions.from_sets(
    3,
    [((0,), 0.5), ((1, 2), -2.0), ((1,), -0.75)],
    index="STII",
    order=2,
    units="nat",
    std=[0.125, 0.25, 0.0],
  )
  lines = _text(tables.interactions(found)).splitlines()
  assert ["value", "+/-", "units", "set"] in [line.split() for line in lines]
  rows = [line.split() for line in lines if re.search(r"[+-]\d", line)]
  assert rows == [
    ["-0.75", "0", "nat", "{1}"],
    ["+0.5", "0.125", "nat", "{0}"],
    ["-2", "0.25", "nat", "{1,", "2}"],
  ]


def test_names_units_and_index_are_text_not_markup(capsys):
  found = interactions_lib.Interactions.from_sets(
    3,
    [((0,), 0.5), ((1,), -0.25), ((2,), 0.125)],
    index="[red]x[/red]",
    order=1,
    names=("[/]:smile:", "", "\x1b[31ma\nb"),
    units="[b]\n",
  )
  tables.printer()(tables.interactions(found))
  lines = [line.strip() for line in capsys.readouterr().out.splitlines()]
  assert lines[0] == "[red]x[/red], order up to 1"
  rows = [line.split() for line in lines if re.match(r"[+-]\d", line)]
  assert rows == [
    ["+0.5", "[b]\\n", "{[/]:smile:}"],
    ["-0.25", "[b]\\n", "{#1}"],
    ["+0.125", "[b]\\n", "{\\x1b[31ma\\nb}"],
  ]


def test_plain_text_is_printed_as_it_is(capsys):
  tables.printer()("[red]x[/red] :smile:")
  assert capsys.readouterr().out == "[red]x[/red] :smile:\n"


def test_long_names_are_not_wrapped_in_a_file(capsys):
  name = "x" * 300
  found = interactions_lib.Interactions.from_sets(
    1, [((0,), 1.0)], index="SV", order=1, names=(name,)
  )
  tables.printer()(tables.interactions(found))
  assert f"{{{name}}}" in capsys.readouterr().out


def test_cost_says_what_was_spent():
  stats = evaluate.Stats(
    evaluations=3000,
    padded=72,
    batches=12,
    compile_seconds=0.5,
    run_seconds=1.25,
    batch_shape=(256, 64),
    device="2 x cpu",
  )
  assert tables.cost(stats, 2.25) == (
    "12 batches (batch_size=256; 72 rows of padding) on 2 x cpu; "
    "compile 0.50 s, run 1.25 s, decode 2.25 s"
  )
  stats.device_batch, stats.microbatch = 128, 32
  assert tables.cost(stats, 2.25).startswith(
    "12 batches (batch_size=256, microbatch=32; 72 rows of padding) on"
  )
  stats.sizes = {40: 1200, 89: 1800}
  assert "padding; rows by length: 1,200 of 40, 1,800 of 89) on" in (
    tables.cost(stats, 2.25)
  )
  host = evaluate.Stats(evaluations=5, batches=1, run_seconds=1.0)
  assert tables.cost(host, 0.5) == (
    "1 batch on host; compile 0.00 s, run 1.00 s, decode 0.50 s"
  )


def test_long_lines_are_not_wrapped_in_a_file(capsys):
  tables.printer()(tables.fact("asked", "why [red] " + "x" * 300))
  out = capsys.readouterr().out
  assert out == f"{'asked':<14}why [red] {'x' * 300}\n"


def test_counts_agree_with_their_nouns():
  assert tables.count(1, "batch", "batches") == "1 batch"
  assert tables.count(0, "batch", "batches") == "0 batches"
  assert tables.count(4000, "mask") == "4,000 masks"


def test_pace_has_a_rate_and_the_time_left(monkeypatch):
  now = [0.0]
  monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
  pace = progress.Pace(400)
  pace.begin()
  now[0] = 7.0  # The first call lasts.
  assert str(pace) == "evaluating: 0 of 400 masks, for 7 s"
  now[0] = 10.0
  pace.end()
  pace.done = 200
  now[0] = 13.0
  assert str(pace) == "decoding: 3 s"
  pace.begin()  # Decoding is not counted against the rate.
  assert str(pace) == "evaluating: 200 of 400 masks, 20 masks/s, 10 s left"
  # Where calls are not told apart, all time counts.
  pace = progress.Pace(400)
  now[0], pace.done = 18.0, 100
  assert str(pace) == "evaluating: 100 of 400 masks, 20 masks/s, 15 s left"


def test_a_log_of_an_hour_is_short(monkeypatch):
  now = [0.0]
  monkeypatch.setattr(progress, "_SECONDS", 5.0)
  monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
  due, told = progress.Due(), []
  for now[0] in range(3600):
    if due():
      told.append(now[0])
  assert told[:7] == [5, 15, 35, 75, 155, 315, 615] and len(told) == 16
  lines = []
  monkeypatch.setattr(progress, "_say", lines.append)
  monkeypatch.setattr(sys, "stderr", io.StringIO())
  now[0] = 0
  with progress.sweep(10) as say:
    for now[0] in range(0, 180, 5):
      say(1, 10, "item")
  assert len(lines) == 5


@pytest.mark.parametrize("what", ["a batch", "decoding", "loading"])
def test_nothing_is_silent(what, capsys, monkeypatch):
  said = threading.Event()
  lines = []
  monkeypatch.setattr(progress, "_SECONDS", 0.001)
  monkeypatch.setattr(
    progress, "_say", lambda line: (lines.append(line), said.set())
  )
  wait = lambda *_: said.wait(60)
  if what == "loading":
    with progress.phase("loading"):
      wait()
  else:
    with progress.evaluations(100) as monitor:
      monitor.watch(wait if what == "a batch" else lambda masks: masks)(1)
      said.clear()
      lines.clear()
      wait()
  assert lines[-1].startswith("loading" if what == "loading" else "decoding")


class _Terminal(io.StringIO):
  def isatty(self):
    return True


def _terminal(monkeypatch):
  stream = _Terminal()
  monkeypatch.setattr(sys, "stderr", stream)
  monkeypatch.setenv("TERM", "xterm-256color")
  return stream


def test_progress_draws_bars_that_stay_on_a_terminal(monkeypatch):
  terminal = _terminal(monkeypatch)
  with progress.evaluations(100) as monitor:
    function = monitor.watch(lambda masks: masks)
    function(1)
    monitor.report(50)
    function(2)
    monitor.report(170)  # Repeats are evaluated beyond the budget.
  last = terminal.getvalue().split("evaluating")[-1]
  assert "100/100" in last and "decoding" in last
  assert "\x1b[1A" not in last  # Not taken back.


def test_a_bar_is_full_when_fewer_masks_were_needed(monkeypatch):
  terminal = _terminal(monkeypatch)
  with progress.evaluations(100) as monitor:
    monitor.report(50)
  last = terminal.getvalue().split("evaluating")[-1]
  assert "50/100" in last and "decoding" not in last
