"""`spex sweep`: its words, its tasks, and what it says when used wrongly."""

import json
import os
import pathlib
import signal

import pytest
from pyarrow import parquet

from spex_jax.jobs import scheduled, sweep
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
  out = command.done(capsys, "sweep", *run, "--task_index=0", "--task_count=2")
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
  assert (code, out) == (0, "wrote         32 rows to all.parquet\n")
  assert "removed       0 files" in _spex(capsys, "gc", "--workdir=run")[1]


@pytest.mark.parametrize(
  "build", ["spex_jax.jobs.sweeping:explanations", "mine:own"]
)
def test_a_model_that_is_nowhere_is_said_before_any_shard(
  build, capsys, tmp_path, monkeypatch
):
  monkeypatch.chdir(tmp_path)
  pathlib.Path("theirs.py").write_text(
    "from spex_jax import configs\nfrom spex_jax.jobs import sentiment\n"
    "def get_config():\n"
    "  config = configs.config(sentiment.Sentiment)\n"
    f"  config.build = {build!r}\n"
    "  config.rows, config.rows_per_shard, config.batch_size = 8, 4, 8\n"
    "  config.nan, config.retries, config.max_failed = 'error', 0, 0.0\n"
    "  config.seed = 0\n  return config\n"
    "def sweep():\n  yield {'row': 0}\n"
  )
  words = ("run", "--config=theirs.py", "--workdir=run")
  code, _, err = _spex(capsys, *words, "--config.model=/nowhere/model")
  assert code == 1 and err.count("\n") == 1
  assert err.startswith("spex: error: '/nowhere/model' is neither a directory")
  assert not pathlib.Path("run").exists()


def test_where_all_is_done_no_model_is_looked_for(file, capsys, monkeypatch):
  run = ("run", f"--config={file}", "--workdir=run", "--config.rows=16")
  looked = []
  monkeypatch.setattr(sweep.sweeping, "check_models", looked.append)
  assert _spex(capsys, *run)[0] == 0 and len(looked) == 1
  assert _spex(capsys, *run)[0] == 0 and len(looked) == 1


def test_an_export_of_a_part_is_one_that_was_asked_for(file, capsys):
  pytest.importorskip("duckdb", reason="an extra")
  run = ("run", f"--config={file}", "--workdir=run", "--config.rows=16")
  assert _spex(capsys, *run, "--task_index=0", "--task_count=4")[0] == 0
  export = ("export", "--workdir=run", "--output=all.parquet")
  code, out, err = _spex(capsys, *export)
  assert (code, out) == (1, "") and not pathlib.Path("all.parquet").exists()
  missing = "3 of 4 shards, 24 of 32 rows, are missing"
  assert f"{missing}; nothing is exported. `spex sweep run` makes them" in err
  code, out, err = _spex(capsys, *export, "--partial")
  assert (code, out) == (0, "wrote         8 rows to all.parquet\n")
  assert err == f"spex: a part: {missing}.\n"
  sql = ("export", "--workdir=run", "--sql=select count(*) as n from sweep")
  code, out, err = _spex(capsys, *sql)
  assert (code, out) == (1, "") and missing in err
  code, out, err = _spex(capsys, *sql, "--partial")
  assert (code, out) == (0, "n\n8\n") and missing in err
  assert _spex(capsys, *run)[0] == 0
  code, out, err = _spex(capsys, *export, "--partial=no")
  assert (code, out) == (0, "wrote         32 rows to all.parquet\n"), err
  assert err == "" and parquet.read_metadata("all.parquet").num_rows == 32


def test_an_export_that_meets_damage_is_none(file, capsys):
  run = ("run", f"--config={file}", "--workdir=run", "--config.rows=16")
  assert _spex(capsys, *run)[0] == 0

  def damage():
    shard = sorted(pathlib.Path("run/shards").rglob("*.parquet"))[2]
    data = bytearray(shard.read_bytes())
    data[len(data) // 2] ^= 1
    shard.write_bytes(data)

  damage()
  export = ("export", "--workdir=run", "--output=all.parquet")
  code, out, err = _spex(capsys, *export)
  assert (code, out) == (1, "") and "1 of them damaged and put aside" in err
  assert not list(pathlib.Path().glob("all.parquet*"))
  code, _, err = _spex(capsys, *export)
  assert code == 1 and "1 of 4 shards, 8 of 32 rows, are missing (1 put" in err
  assert _spex(capsys, *run)[0] == 0
  damage()
  code, out, err = _spex(capsys, *export, "--partial")
  assert code == 0 and "wrote         24 rows" in out
  assert "a part: 1 of 4 shards, 8 of 32 rows, are missing" in err


def test_what_was_given_up_is_told_by_its_item(file, capsys):
  run = ("run", f"--config={file}", "--workdir=run", "--config.broken=build")
  code, out, _ = _spex(capsys, *run)
  line = "given up      shard 3 (scale=2.0): RuntimeError: no such model"
  retry = "`spex sweep run --retry_failed` tries them again"
  assert code == 0 and line in out and retry in out
  code, out, _ = _spex(capsys, "status", "--workdir=run")
  assert code == 0 and line in out and retry in out
  code, _, err = _spex(
    capsys, "export", "--workdir=run", "--output=all.parquet"
  )
  assert code == 1 and "are missing (3 given up)" in err
  assert "`spex sweep run --retry_failed` makes them" in err


def test_garbage_is_removed_by_its_age(file, capsys):
  assert _spex(capsys, "run", f"--config={file}", "--workdir=run")[0] == 0
  left = pathlib.Path("run/quarantine/00000000.0.txt")
  left.parent.mkdir()
  left.write_text("damaged")
  gc = ("gc", "--workdir=run")
  assert "removed       0 files" in _spex(capsys, *gc)[1]
  code, _, err = _spex(capsys, *gc, "--older_than=soon")
  assert code == 1 and "older_than=soon: must be a number" in err
  out = _spex(capsys, *gc, "--older_than=0")[1]
  assert "removed       1 file\n" in out and left.name in out
  assert not left.exists()


def test_a_dry_run_of_gc_asks_for_one(file, capsys, monkeypatch):
  asked = []

  def collect(workdir, **how):
    asked.append((workdir, how))
    return [f"quarantine/{index:08d}.0.txt" for index in range(30)]

  monkeypatch.setattr(state, "collect_garbage", collect)
  code, out, _ = _spex(capsys, "gc", "--workdir=run", "--dry_run")
  assert code == 0 and out.startswith("would remove  30 files\n")
  assert out.endswith("and 10 more\n")
  assert asked == [("run", {"older_than": 3600.0, "dry_run": True})]


def test_home_and_bare_flags(file, capsys, monkeypatch, tmp_path):
  monkeypatch.setenv("HOME", str(tmp_path / "home"))
  run = ("run", f"--config={file}", "--workdir=~/run")
  assert _spex(capsys, *run, "--dry_run=true")[0] == 0
  assert not (tmp_path / "home").exists()
  command.done(capsys, "sweep", *run, "--dry_run", "--dry_run=false")
  assert (tmp_path / "home" / "run" / "config.json").exists()
  assert not (tmp_path / "~").exists()
  code, out, _ = _spex(capsys, "status", "--workdir=~/run", "--json=0")
  assert code == 0 and out.startswith("done ")
  _spex(capsys, "export", "--workdir=~/run", "--output=~/all.parquet")
  assert (tmp_path / "home" / "all.parquet").exists()


def test_text_of_a_setting_stays_text(file, capsys):
  run = ("run", f"--config={file}", "--workdir=run", "--dry_run")
  for value in ("3,5", "123", "None", "'a'"):
    command.done(capsys, "sweep", *run, f"--config.broken={value}")
  code, out, _ = _spex(capsys, *run, "--config.rows=7")
  assert code == 0 and "14 rows" in out
  code, _, err = _spex(capsys, *run, "--config.rows=7.5")
  assert code == 1 and "--config.rows=7.5: must be an integer" in err


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
  command.done(
    capsys, "sweep", "run", f"--config={file}", "--workdir=run",
    "--sinks=tensorboard",
  )  # fmt: skip
  log = next(pathlib.Path("run/log").iterdir())
  events = next(log.glob("events.out.tfevents.*")).read_bytes()
  assert b"rows_per_s" in events and b"marked" in events
  assert state.verify("run").lines == {}


@pytest.mark.cluster
def test_weights_and_biases_gets_the_numbers(file, capsys, monkeypatch):
  monkeypatch.setenv("WANDB_MODE", "offline")
  command.done(
    capsys, "sweep", "run", f"--config={file}", "--workdir=run",
    "--sinks=wandb",
  )  # fmt: skip
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
    (["run"], "spex sweep run needs --workdir, --config."),
    (["run", "--workdir=run"], "spex sweep run needs --config."),
    (["run", "--config=mine.py"], "needs --workdir."),
    (["status"], "spex sweep status needs --workdir."),
    (["status", "--workdir=none"], "holds no sweep"),
    (["export", "--workdir=run"], "needs --output=FILE.parquet"),
    (["status", "--workdir=gs//b/run"], "holds no sweep"),
    (["status", "--workdir=floppy://b/run"], "Protocol not known: floppy"),
    (["run", "--config=mine.py", "--workdir=run", "--distributed"],
     "JAX was in use before the processes of the task"),
    (["run", "--config=mine.py", "--workdir=run", "--accept=sweep"],
     "accept=sweep: choose from code, versions, flags"),
    (["run", "--config=mine.py", "--workdir=run", "--fast"], "no flag '--fast"),
    (["status", "--work_dir=run"], "Did you mean --workdir?"),
    (["run", "--workdir", "--task_index=0"], "--workdir needs a value"),
    (["status", "--workdir"], "--workdir needs a value"),
    (["run", "--config=mine.py", "--workdir=run", "--task_index="],
     "--task_index=: must be an integer"),
    (["run", "--config=mine.py", "--workdir=run", "--config.rows"],
     "Missing value for flag --config.rows"),
    (["run", "--config=mine.py", "--workdir=run", "--dry_run=perhaps"],
     "--dry_run=perhaps: must be true or false"),
    (["status", "--workdir=s3:/bucket/run"],
     "a URL has two slashes: give s3://bucket/run, or ./s3:/bucket/run"),
    (["run", "--config=mine.py", "--workdir=file:/tmp/run"],
     "--workdir=file:/tmp/run: a URL has two slashes: give /tmp/run, or"),
    (["export", "--workdir=run", "--output=s3://bucket/all.parquet"],
     "an export is written to a disk"),
    (["status", "--workdir=run", "more"], "unexpected argument 'more'"),
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
      "sinks=paper: choose from tensorboard, wandb",
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
  assert scheduled.task_of(variables={}) == (0, 1)
  slurm = {
    "SLURM_ARRAY_TASK_ID": "7", "SLURM_ARRAY_TASK_MIN": "4",
    "SLURM_ARRAY_TASK_COUNT": "8",
  }  # fmt: skip
  assert scheduled.task_of(variables=slurm) == (3, 8)
  pods = {"JOB_COMPLETION_INDEX": "2", "SPEX_TASK_COUNT": "5"}
  assert scheduled.task_of(variables=pods) == (2, 5)
  assert scheduled.task_of(0, 2, slurm) == (0, 2)
  with pytest.raises(ValueError, match="JOB_COMPLETION_INDEX needs both"):
    scheduled.task_of(variables={"JOB_COMPLETION_INDEX": "2"})
  with pytest.raises(ValueError, match="no whole numbers"):
    scheduled.task_of(
      variables={"JOB_COMPLETION_INDEX": "a", "SPEX_TASK_COUNT": "2"}
    )
