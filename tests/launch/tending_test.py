"""A sweep that is checked before, and watched after."""

import pytest

from launch import tending
from tests.launch import sweeps


def test_a_watch_tells_which_tasks_have_work_left(tmp_path, capsys):
  config, workdir = sweeps.config(tmp_path), str(tmp_path / "run")
  watch = tending.Watch(workdir, 4)
  assert watch.look() is None
  assert watch.missing() == [0, 1, 2, 3]
  sweeps.do(workdir, config, 1, 4)
  assert watch.missing() == [0, 2, 3]
  found = watch.look()
  assert found is not None and not found.complete
  assert "12 of 40 rows (30.0%)" in capsys.readouterr().err
  assert not tending.verdict(workdir, found)
  # More tasks than shards: those without a shard have nothing to do.
  assert len(tending.unfinished(workdir, 100)) == 4
  for index in range(4):
    sweeps.do(workdir, config, index, 4)
  found = watch.look()
  assert watch.missing() == [] and tending.verdict(workdir, found)


def test_a_sweep_that_stands_still_is_told(tmp_path, monkeypatch, capsys):
  config, workdir = sweeps.config(tmp_path), str(tmp_path / "run")
  clock = [1000.0]
  monkeypatch.setattr(tending.time, "monotonic", lambda: clock[0])
  watch = tending.Watch(workdir, 2, stall=60)
  watch.look()
  clock[0] += 50
  watch.look()
  assert "no new row" not in capsys.readouterr().err
  clock[0] += 20
  watch.look()
  assert "no new row for 1 min" in capsys.readouterr().err
  clock[0] += 20
  sweeps.do(workdir, config, 0, 2)
  watch.look()
  clock[0] += 50
  watch.look()
  assert "no new row" not in capsys.readouterr().err


def test_a_store_that_does_not_answer_is_asked_again(
  tmp_path, monkeypatch, capsys
):
  config, workdir = sweeps.config(tmp_path), str(tmp_path / "run")
  sweeps.do(workdir, config, 0, 1)
  watch = tending.Watch(workdir, 2)

  def stale(*_):
    raise OSError("Stale file handle")

  with monkeypatch.context() as broken:
    broken.setattr(tending.ledger, "stored_config", stale)
    assert watch.look() is None and watch.missing() is None
    with pytest.raises(SystemExit, match="cannot be read"):
      tending.unfinished(workdir, 2)
  assert "Stale file handle" in capsys.readouterr().err
  assert watch.missing() == []


def test_a_bucket_out_of_reach_is_asked_again(tmp_path, monkeypatch, capsys):
  """A damaged directory is for tasks to mend."""
  config, workdir = sweeps.config(tmp_path), str(tmp_path / "run")
  sweeps.do(workdir, config, 0, 1)
  watch = tending.Watch(workdir, 2)

  def away(_):
    raise ValueError("out of reach") from ConnectionError("no route")

  with monkeypatch.context() as broken:
    broken.setattr(tending.state, "status", away)
    assert watch.look() is None and watch.missing() is None
  assert "as it should: out of reach" in capsys.readouterr().err
  # What a task mends is none's alone to do.
  place = tmp_path / "run" / "items.json"
  whole = place.read_text()
  place.write_text(whole.replace("2.0", "3.0"))
  assert watch.look() is None and watch.missing() == [0, 1]
  assert watch.missing() == tending.unfinished(workdir, 2) == [0, 1]
  assert capsys.readouterr().err.count("items.json is damaged") == 2
  place.write_text(whole)
  assert watch.missing() == []


def test_paths_are_made_absolute_and_urls_left(tmp_path, monkeypatch, capsys):
  config = sweeps.config(tmp_path)
  monkeypatch.chdir(tmp_path)
  found = tending.checked("sweep_small.py", "run", 2)
  assert found == (config, str(tmp_path / "run"))
  assert "2 items, 40 rows in 6 shards" in capsys.readouterr().out
  assert not (tmp_path / "run").exists()
  assert tending.checked(config, "gs://bucket/run", 2)[1] == "gs://bucket/run"


@pytest.mark.parametrize(
  ("changes", "extra", "message"),
  [
    ({"count": 0}, (), "--tasks=0: a sweep has at least one task"),
    ({"config": "no.py"}, (), "no configuration .*no.py"),
    ({}, ("--config.scael=2",), "Did you mean scale"),
    ({}, ("--rows=2",), "has no flag .--rows"),
    ({}, ("--task_index=0",), "the launcher's to give"),
    ({}, ("--workdir=x",), "the launcher's to give"),
    ({"workdir": "s3:/bucket/run"}, (), "s3://bucket/run"),
    ({"workdir": "sweep_small.py"}, (), "sweep_small.py is no directory"),
    ({"workdir": "sweep_small.py/run"}, (), "sweep_small.py is no directory"),
  ],
)
def test_what_cannot_be_run_is_refused_in_one_line(
  tmp_path, monkeypatch, changes, extra, message
):
  monkeypatch.chdir(tmp_path)
  usual = {"config": sweeps.config(tmp_path), "workdir": "run", "count": 2}
  with pytest.raises(SystemExit, match=message) as refused:
    tending.checked(**(usual | changes), extra=extra)
  assert "\n" not in str(refused.value)


def test_a_folder_without_permission(tmp_path, monkeypatch):
  config = sweeps.config(tmp_path)
  monkeypatch.setattr(tending.os, "access", lambda *_: False)  # Root may all.
  with pytest.raises(SystemExit, match="no permission to write in"):
    tending.checked(config, str(tmp_path / "a" / "run"), 2)
