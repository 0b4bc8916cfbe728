"""`spex sweep`: its words, its tasks, and what it says when used wrongly."""

import json
import os
import pathlib
import signal

import pytest

from spex_jax.jobs import sweep as job
from spex_jax.sweeps import state
from tests import command
from tests.sweeps import small


@pytest.fixture
def file(tmp_path, monkeypatch):
  monkeypatch.chdir(tmp_path)
  (tmp_path / "mine.py").write_text(
    "from tests.sweeps import small\n"
    "def get_config():\n  return small.config()\n"
    "def sweep():\n  yield {'scale': 1.0}\n  yield {'scale': 2.0}\n"
  )
  return "mine.py"


def _spex(capsys, *arguments):
  return command.run(capsys, "sweep", *arguments)


def test_from_a_file_to_a_table(file, capsys):
  run = ("run", f"--config={file}", "--workdir=run", "--config.rows=16")
  code, out, err = _spex(capsys, *run, "--task_index=0", "--task_count=2")
  assert code == 0, err
  assert "2 items, 32 rows in 4 shards" in out
  assert "0 of 2: 2 shards, 16 rows" in out and "2 shards, 16 rows in" in out
  code, out, _ = _spex(capsys, "status", "--workdir=run", "--price=2")
  assert "2 of 4 shards, 16 of 32 rows (50.0%)" in out and "rows/s; " in out
  assert "in 1 process; 0.00 at 2 an hour" in out
  told = json.loads(_spex(capsys, "status", "--workdir=run", "--json")[1])
  assert (told["shards"], told["complete"]) == (2, False)
  assert _spex(capsys, *run)[0] == 0
  code, out, _ = _spex(capsys, "verify", "--workdir", "run")
  assert (code, out) == (0, "sound         4 shards; 0 are not there\n")
  code, out, _ = _spex(
    capsys, "export", "--workdir=run", "--output=all.parquet"
  )
  assert "wrote         32 rows to all.parquet" in out
  assert "removed       0 files" in _spex(capsys, "gc", "--workdir=run")[1]


def test_asked_to_end_it_says_that_it_can_go_on(file, capsys, monkeypatch):
  values = small.Sum.values

  def preempted(work, masks):
    os.kill(os.getpid(), signal.SIGTERM)
    return values(work, masks)

  run = ("run", f"--config={file}", "--workdir=run")
  with monkeypatch.context() as patch:
    patch.setattr(small.Sum, "values", preempted)
    code, out, err = _spex(capsys, *run)
  assert code == 75 and "done          1 shard, 8 rows" in out
  assert err.splitlines()[-1].startswith("spex: asked to end: what was begun")
  assert _spex(capsys, *run)[0] == 0 and state.status("run").complete


def test_tensorboard_reads_what_its_sink_wrote(file, capsys):
  pytest.importorskip("tensorboardX", reason="an extra")
  code, _, err = _spex(
    capsys, "run", f"--config={file}", "--workdir=run", "--sinks=tensorboard"
  )
  assert code == 0, err
  log = next(pathlib.Path("run/log").iterdir())
  events = next(log.glob("events.out.tfevents.*")).read_bytes()
  assert b"rows_per_s" in events and b"marked" in events
  assert state.verify("run").lines == {}


@pytest.mark.cluster
def test_weights_and_biases_gets_the_numbers(file, capsys, monkeypatch):
  monkeypatch.setenv("WANDB_MODE", "offline")
  code, _, err = _spex(
    capsys, "run", f"--config={file}", "--workdir=run", "--sinks=wandb"
  )
  assert code == 0, err
  logs = list(pathlib.Path("run/log").rglob("*.wandb"))
  assert len(logs) == 1 and b"rows_per_s" in logs[0].read_bytes()


def test_a_dry_run_does_nothing(file, capsys, tmp_path):
  code, out, _ = _spex(
    capsys, "run", f"--config={file}", "--workdir=run", "--dry_run"
  )
  assert code == 0 and "scale=2.0" in out and not (tmp_path / "run").exists()


@pytest.mark.parametrize(
  ("arguments", "message"),
  [
    ([], "has the words run, status, verify, export, gc; got ''"),
    (["go"], "got 'go'"),
    (["run", "--workdir=run"], "needs --config=FILE"),
    (["run", "--config=mine.py"], "needs --workdir=DIR"),
    (["status"], "needs --workdir=DIR"),
    (["status", "--workdir=none"], "holds no sweep"),
    (["export", "--workdir=run"], "needs --output=FILE.parquet"),
    (["status", "--workdir=gs//b/run"], "holds no sweep"),
    (["status", "--workdir=floppy://b/run"], "Protocol not known: floppy"),
    (["run", "--config=mine.py", "--workdir=run", "--distributed"],
     "JAX was in use before the processes of the task"),
    (["run", "--config=mine.py", "--workdir=run", "--accept=sweep"],
     "accept='sweep': choose from code, versions, device"),
    (["run", "--config=mine.py", "--workdir=run", "--fast"], "flag --fast"),
    (["run", "more"], "unexpected argument 'more'"),
    (
      ["run", "--config=mine.py", "--workdir=run", "--config.scael=1"],
      "Did you mean scale?",
    ),
    (
      ["run", "--config=mine.py", "--workdir=run", "--task_index=2"],
      "needs both an index and a count",
    ),
    (
      ["run", "--config=mine.py", "--workdir=run", "--task_index=2",
       "--task_count=2"],
      "task_index=2 must lie in 0..1",
    ),
    (
      ["run", "--config=mine.py", "--workdir=run", "--process_id=1"],
      "needs --coordinator=HOST:PORT, --process_id=I and",
    ),
    (
      ["run", "--config=mine.py", "--workdir=run", "--sinks=paper"],
      "sinks='paper': choose from tensorboard, wandb",
    ),
    (["run", "--config=mine.py", "--workdir=run",
      "--config.build=tests.sweeps.small:Nothing", "--config.max_failed=0.0"],
     "has no function 'Nothing'"),
  ],
)  # fmt: skip
def test_used_wrongly(file, capsys, arguments, message):
  code, _, err = _spex(capsys, *arguments)
  assert code == 1 and message in err, err
  assert err.splitlines()[-1].startswith("spex: error: ")


def test_tasks_of_schedulers():
  assert job.task_of({}, {}) == (0, 1)
  slurm = {
    "SLURM_ARRAY_TASK_ID": "7", "SLURM_ARRAY_TASK_MIN": "4",
    "SLURM_ARRAY_TASK_COUNT": "8",
  }  # fmt: skip
  assert job.task_of({}, slurm) == (3, 8)
  pods = {"JOB_COMPLETION_INDEX": "2", "SPEX_TASK_COUNT": "5"}
  assert job.task_of({}, pods) == (2, 5)
  flags = {"task_index": "0", "task_count": "2"}
  assert job.task_of(flags, slurm) == (0, 2)
  with pytest.raises(ValueError, match="JOB_COMPLETION_INDEX needs both"):
    job.task_of({}, {"JOB_COMPLETION_INDEX": "2"})
  with pytest.raises(ValueError, match="no whole numbers"):
    job.task_of({"task_index": "a", "task_count": "2"}, {})
