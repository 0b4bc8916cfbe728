"""Parts of a command's time add up to the wall clock."""

import re
import types

from spex_jax.report import clock as clock_lib


def test_parts_add_up(monkeypatch):
  now = [100.0]
  monkeypatch.setattr(clock_lib.time, "perf_counter", lambda: now[0])
  clock = clock_lib.Clock(before=2.0)
  for _ in range(2):
    with clock.of("load"):
      now[0] += 30.0
  now[0] += 5.0
  clock.add({"run": 4.0})
  text = str(clock)
  assert text == (
    "67.0 s (1 min 7 s): start 2.0 s, load 60.0 s, run 4.0 s, rest 1.0 s"
  )
  whole, *parts = map(float, re.findall(r"([\d.]+) s(?:,|:| \(|$)", text))
  assert sum(parts) == whole


def test_compilation_is_counted_once():
  stats = types.SimpleNamespace(
    candidates=(), probe_seconds=7.0, compile_seconds=5.0, head_seconds=1.0,
    run_seconds=3.0,
  )  # fmt: skip
  spent = clock_lib.evaluation(stats, 2.0)
  assert spent == {
    "compile": 5.0, "measure": 0.0, "head": 1.0, "run": 3.0, "decode": 2.0
  }  # fmt: skip
  stats.candidates = (1,)  # Their compilation is part of measuring.
  spent = clock_lib.evaluation(stats)
  assert spent["compile"] == 0.0 and spent["measure"] == 7.0
