"""Rows are written as they come, and calls are timed apart."""

import numpy as np
import pytest

from experiments import rows


def test_rows_are_on_disk_before_the_next_is_measured(tmp_path, capsys):
  path = tmp_path / "rows.jsonl"

  def measured():
    yield {"a": 1}
    assert rows.read(path) == [{"a": 1}]
    yield {"b": [0.5, None]}

  kept = rows.write(measured(), str(path))
  assert kept == rows.read(path) == [{"a": 1}, {"b": [0.5, None]}]
  assert capsys.readouterr().out == '{"a": 1}\n{"b": [0.5, null]}\n'


def test_without_a_file_rows_are_printed_alone(capsys):
  assert rows.write(iter([{"a": 1}])) == [{"a": 1}]
  assert capsys.readouterr().out == '{"a": 1}\n'


def test_a_table_is_markdown():
  assert rows.table(["x", "y"], [["1", "2"]]) == (
    "| x | y |\n| --- | --- |\n| 1 | 2 |"
  )


def test_seconds_separates_the_first_call(monkeypatch):
  calls, lasts, now = [], [8.0, 2.0, 0.5, 1.0], [0.0]
  monkeypatch.setattr(rows.time, "perf_counter", lambda: now[0])

  def slow_at_first(argument):
    now[0] += lasts[len(calls)]
    calls.append(argument)

  assert rows.seconds(slow_at_first, 7, repeats=3) == (8.0, 0.5)
  assert calls == [7] * 4


def test_without_repeats_the_first_call_stands_for_both():
  first, best = rows.seconds(lambda: None, repeats=0)
  assert first == best > 0


def test_what_is_kept_is_not_computed_again(tmp_path):
  asked = []

  def value_fn(masks):
    asked.extend(masks.tolist())
    return masks.sum(axis=1) * 1.5

  masks = np.tri(5, dtype=bool)
  for _ in range(2):
    kept = rows.Kept(tmp_path, "a model", 3).values("sums", value_fn, 2)
    np.testing.assert_array_equal(kept(masks), 1.5 * np.arange(1, 6))
    assert asked == masks.tolist()
  np.testing.assert_array_equal(kept(masks[:4]), 1.5 * np.arange(1, 5))
  assert len(asked) == 5  # Its parts of two were there.
  for folder, name in ((tmp_path, "another"), (None, "a model")):
    other = rows.Kept(folder, name, 3).values("sums", value_fn, 2)
    other(masks)
  assert len(asked) == 15


def test_what_fails_is_not_kept(tmp_path):
  kept = rows.Kept(tmp_path)
  with pytest.raises(ZeroDivisionError):
    kept("x", lambda: 1 / 0)
  values, seconds = kept("x", lambda: [1.0, 2.0])
  assert values.tolist() == [1, 2] and seconds >= 0
  assert kept("x", lambda: 1 / 0)[1] == seconds
