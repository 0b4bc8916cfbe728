"""Heads that carry what a name is bound to are told, task by task."""

import dataclasses

import pytest

from experiments import variable_binding
from spex_jax.circuits import measured, swaps
from spex_jax.circuits import pairs as pairs_lib
from spex_jax.circuits import tasks as circuits_tasks
from spex_jax.models import hub
from tests.jobs import small

_PAIRS = pairs_lib.Pairs(
  clean=[[1, 2, 3, 4]] * 8, corrupted=[[1, 2, 3, 5]] * 8, lengths=[4] * 8,
  right=[[8]] * 8, wrong=[[2]] * 8,
)  # fmt: skip


@pytest.fixture
def net(tmp_path, monkeypatch):
  made = circuits_tasks.Made("gender", _PAIRS, {})
  monkeypatch.setattr(circuits_tasks, "make", lambda *_, **__: made)
  return hub.load(small.gpt2(tmp_path / "lm"))


@pytest.mark.slow
def test_quick_rows_are_whole(net, monkeypatch):
  monkeypatch.setattr(measured, "LEAST", -1.0)
  config = dataclasses.replace(variable_binding.CONFIGS["quick"], budget=8)
  (row,) = variable_binding.measure(net, config)
  heads = swaps.heads_of(net)
  assert row["task"] == "gender" and row["held"] == 2
  assert row["of"] == len(heads) and len(row["heads"]) <= len(heads)
  ((penalty, patched, right),) = row["by penalty"]
  assert (penalty, patched) == (0.1, len(row["heads"])) and 0 <= right <= 1
  # As many patched as not cannot be more than all.
  for name in ("accuracy", "all others", "random", "every head"):
    assert 0 <= row[name] <= 1
  assert row["expansion patches"] <= len(heads)


@pytest.mark.slow
def test_a_task_that_the_model_cannot_do_is_left_out(net, monkeypatch):
  monkeypatch.setattr(measured, "LEAST", 2.0)
  (row,) = variable_binding.measure(net, variable_binding.CONFIGS["quick"])
  assert set(row) == {"task", "first", "left out"}
