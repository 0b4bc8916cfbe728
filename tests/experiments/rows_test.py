"""Rows are written as they come, and calls are timed apart."""

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
