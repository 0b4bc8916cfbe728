"""What is submitted to Slurm, and when; scripts stand for its programs."""

import contextlib
import json
import pathlib
import subprocess
import sys
import time
import types

import pytest

# Now, not inside a test: it closes the stream that absl's logging has, unless
# that is stderr still.
import submitit  # noqa: F401

from launch import slurm, slurm_jobs, slurm_task
from tests.launch import sweeps

_ROOT = pathlib.Path(__file__).parents[2]
# Numbers its calls, and keeps what it was given.
_SBATCH = """
number=$(($(ls {0} | wc -l) + 100))
cp "$1" {0}/$number
echo "Submitted batch job $number"
"""


class Slurm:
  """A Slurm that does nothing; its queue is a file."""

  def __init__(self, folder, monkeypatch):
    self.taken, self.queue = folder / "taken", folder / "queue"
    self.taken.mkdir()
    self.queue.touch()
    sweeps.fake(
      folder / "bin",
      monkeypatch,
      sbatch=_SBATCH.format(self.taken),
      squeue=f"cat {self.queue}",
      srun="",
    )

  def scripts(self):
    """Of all submissions, in order."""
    return [place.read_text() for place in sorted(self.taken.iterdir())]

  def lists(self, *lines):
    """What squeue says from now on."""
    self.queue.write_text("".join(f"{line}\n" for line in lines))


@pytest.fixture
def fake(tmp_path, monkeypatch):
  return Slurm(tmp_path, monkeypatch)


@pytest.fixture
def launch(tmp_path):
  """Runs the command; the sweep has six shards."""

  def run(*words, tasks=3, extra=()):
    given = sweeps.given(
      slurm, f"--config={sweeps.config(tmp_path)}",
      f"--workdir={tmp_path / 'run'}", f"--tasks={tasks}", "--poll=0.01",
      *words,
    )  # fmt: skip
    return slurm.command(given, list(extra))

  return run


def _arrays(fake):
  return [
    line.partition("--array=")[2]
    for script in fake.scripts()
    for line in script.splitlines()
    if "--array" in line
  ]


def _submitted(tmp_path):
  jobs = json.loads((tmp_path / "run/.slurm/jobs.json").read_text())
  return [entry["tasks"] for entry in jobs]


def _meanwhile(monkeypatch, *events):
  """Does these one after the other, each time that the launcher waits."""
  left, now = list(events), [1000.0]

  def sleep(seconds):
    now[0] += seconds
    assert left, "the launcher waits on"
    left.pop(0)()

  # Of the module alone: submitit sleeps, too.
  clock = types.SimpleNamespace(
    sleep=sleep, time=time.time, monotonic=lambda: now[0]
  )
  monkeypatch.setattr(slurm_jobs, "time", clock)


def test_a_dry_run_prints_the_script_and_makes_nothing(
  tmp_path, launch, monkeypatch, capsys
):
  monkeypatch.setenv("PATH", "/nowhere")  # It needs no Slurm.
  words = (
    "--dry_run", "--partition=gpu", "--account=us", "--qos=low", "--time=30",
    "--mem=4G", "--cpus=3", "--gpus=2", "--array_parallelism=2",
    "--signal_delay=60", "--setup=module load cuda", "--option=constraint=a100",
    "--option=exclusive",
  )  # fmt: skip
  assert launch(*words, extra=["--config.scale=3.0"]) == 0
  said = capsys.readouterr().out
  for line in (
    "--array=0-2%2", "--partition=gpu", "--account=us", "--qos=low",
    "--time=30", "--mem=4G", "--cpus-per-task=3", "--gpus-per-node=2",
    "--signal=USR2@60", "--constraint=a100", "--exclusive", "--requeue",
    "--job-name=spex-run", "--open-mode=append",
  ):  # fmt: skip
    assert f"\n#SBATCH {line}\n" in said
  assert f"\nexport PYTHONPATH={_ROOT}${{PYTHONPATH:+:$PYTHONPATH}}\n" in said
  assert "\nmodule load cuda\n" in said
  assert "srun" in said and " --cpus-per-task=3 " in said  # Of the step, too.
  assert "--task_index=0 --task_count=3 --config.scale=3.0" in said
  assert not (tmp_path / "run").exists()


def test_the_printed_script_is_the_submitted_one(fake, launch, capsys):
  launch("--dry_run")
  printed = capsys.readouterr().out
  launch()
  assert fake.scripts()[0].strip() in printed


def test_only_tasks_that_are_not_alive_are_submitted(
  tmp_path, fake, launch, capsys
):
  assert launch() == 0
  assert _arrays(fake) == ["0-2%3"]
  fake.lists("100 0 RUNNING", "100 2 PENDING", "77 1 RUNNING")
  assert launch() == 0
  # Of the second array, element 0 is task 1; it is alone, and so no array.
  assert _submitted(tmp_path) == [[0, 1, 2], [1]]
  assert "2 tasks are there already (1 PENDING, 1 RUNNING)" in (
    capsys.readouterr().err
  )
  fake.lists("100 0 RUNNING", "100 2 PENDING", "101 N/A PENDING")
  assert launch() == 0
  assert "nothing to submit" in capsys.readouterr().err
  with pytest.raises(SystemExit, match="3 tasks of --tasks=3 are queued"):
    launch(tasks=2)
  assert len(fake.scripts()) == 2
  launch("--force", tasks=2)
  assert _submitted(tmp_path)[-1] == [0, 1]


def test_tasks_that_are_done_are_not_submitted(tmp_path, fake, launch):
  sweeps.do(tmp_path / "run", sweeps.config(tmp_path), 1, 3)
  launch()
  assert _submitted(tmp_path) == [[0, 2]]
  for index in (0, 2):
    sweeps.do(tmp_path / "run", sweeps.config(tmp_path), index, 3)
  assert launch("--wait") == 0
  assert len(fake.scripts()) == 1


def test_a_controller_that_is_away_is_no_empty_queue(
  tmp_path, fake, launch, monkeypatch, capsys
):
  launch()
  sweeps.fake(
    tmp_path / "bin", monkeypatch, squeue="echo no contact >&2; false"
  )
  _meanwhile(monkeypatch, lambda: None, lambda: None)
  with pytest.raises(SystemExit, match="squeue does not answer. Try later"):
    launch()
  assert "squeue does not answer: no contact" in capsys.readouterr().err
  assert len(fake.scripts()) == 1


def _outcome(tmp_path, task, code, job):
  place = slurm_task.outcome_file(str(tmp_path / "run/.slurm"), task)
  place.write_text(json.dumps({"code": code, "job": job, "time": 0}))


def test_a_task_whose_job_is_gone_is_submitted_again(
  tmp_path, fake, launch, monkeypatch, capsys
):
  """And those that end well, or are late to be seen, are not."""
  do = lambda index: sweeps.do(
    tmp_path / "run", sweeps.config(tmp_path), index, 3
  )
  _meanwhile(
    monkeypatch,
    lambda: fake.lists("100 0 RUNNING", "100 1 RUNNING", "100 2 PENDING"),
    lambda: (do(0), fake.lists("100 1 RUNNING", "100 2 PENDING")),
    # Job 1 is lost. What 2 made is seen a look later than that it is gone.
    lambda: fake.lists(),
    lambda: do(2),
    lambda: fake.lists("101 N/A RUNNING"),
    lambda: (do(1), fake.lists()),
  )
  fake.lists("100 0 PENDING")
  assert launch("--wait") == 0
  assert _submitted(tmp_path) == [[0, 1, 2], [1]]
  said = capsys.readouterr().err
  assert "task 1 (job 100_1) went without a word: killed, or its node" in said
  assert "6 of 6 shards are there" in said


@pytest.mark.parametrize(
  "stuck",
  ["100 N/A COMPLETING None", "100 N/A PENDING launch failed requeued held"],
)
def test_a_job_that_is_stuck_for_ever_is_gone(
  tmp_path, fake, launch, monkeypatch, stuck
):
  """As after a controller that was killed while it requeued the job."""
  config = sweeps.config(tmp_path)
  for index in (0, 2):
    sweeps.do(tmp_path / "run", config, index, 3)
  _meanwhile(
    monkeypatch,
    lambda: None,
    lambda: None,  # 40 s: it may be about to end.
    lambda: None,
    lambda: None,  # 80 s; seen gone once.
    lambda: fake.lists("101 N/A PENDING", stuck),
    lambda: fake.lists(stuck, "101 N/A RUNNING"),
    lambda: sweeps.do(tmp_path / "run", config, 1, 3),
  )
  fake.lists(stuck)
  assert launch("--wait", "--poll=20", "--stall=60") == 0
  assert _submitted(tmp_path) == [[1], [1]]


def test_two_launchers_submit_a_lost_task_once(
  tmp_path, fake, launch, monkeypatch
):
  """The other was first, while this one waited for the lock."""
  config, lock = sweeps.config(tmp_path), slurm_jobs.alone

  @contextlib.contextmanager
  def late(log_dir):
    if fake.scripts():
      slurm_jobs.Jobs(log_dir).add("500", [1], 3)
      fake.lists("500 N/A PENDING")
    with lock(log_dir):
      yield

  monkeypatch.setattr(slurm_jobs, "alone", late)
  for index in (0, 2):
    sweeps.do(tmp_path / "run", config, index, 3)
  _meanwhile(
    monkeypatch,
    lambda: None,
    lambda: sweeps.do(tmp_path / "run", config, 1, 3),
  )
  assert launch("--wait") == 0
  assert len(fake.scripts()) == 1
  assert _submitted(tmp_path) == [[1], [1]]


def test_an_error_that_stays_is_not_tried_again(
  tmp_path, fake, launch, monkeypatch, capsys
):
  def fail():
    for index in range(3):
      _outcome(tmp_path, index, 1, "100")
      log = tmp_path / f"run/.slurm/100_{index}_0_log.err"
      log.write_text("WARNING\nspex: error: no such model\n\n")
    fake.lists()

  fake.lists("100 0 RUNNING")
  _meanwhile(monkeypatch, fail, lambda: None)
  assert launch("--wait", "--resubmits=9") == 1
  assert len(fake.scripts()) == 1
  said = capsys.readouterr().err
  assert (
    "task 2 (job 100_2) ended with 1. Its last words in 100_2_0_log.err: "
    "spex: error: no such model; not tried again"
  ) in said


def test_resubmissions_end(tmp_path, fake, launch, monkeypatch, capsys):
  # What an earlier job said does not count.
  _meanwhile(monkeypatch, *[lambda: _outcome(tmp_path, 0, 1, "99")] * 7)
  assert launch("--wait", "--resubmits=2", tasks=2) == 1
  assert _submitted(tmp_path) == [[0, 1]] * 3
  assert "nothing was started" in capsys.readouterr().err


def test_given_up_shards_are_not_waited_for(
  tmp_path, fake, launch, monkeypatch, capsys
):
  config = pathlib.Path(sweeps.config(tmp_path))
  broken = config.read_text().replace(
    "small.config()", "small.config(broken='build')"
  )
  config.write_text(broken)
  monkeypatch.setattr(sweeps, "config", lambda _: str(config))
  sweeps.do(tmp_path / "run", str(config), 0, 1)
  assert launch("--wait") == 1
  said = capsys.readouterr().err
  assert "shard 3 was given up: RuntimeError: no such model" in said
  assert not fake.scripts()


def test_nodes_are_joined_and_see_all_their_gpus(tmp_path, launch, capsys):
  launch("--dry_run", "--nodes=2", "--gpus=4")
  said = capsys.readouterr().out
  assert "--task_count=3 --distributed" in said
  assert "#SBATCH --nodes=2" in said and "--ntasks-per-node=1" in said
  given = sweeps.given(
    slurm, f"--config={sweeps.config(tmp_path)}", f"--workdir={tmp_path}/run",
    "--tasks=3", "--nodes=2", "--gpus=4",
  )  # fmt: skip
  task = slurm.plan_of(given, []).task(1)
  assert task.environment == {"JAX_LOCAL_DEVICE_IDS": "0,1,2,3"}
  assert task.patience == 75  # Slurm's 90 s of warning, less a margin.


@pytest.mark.parametrize(
  ("words", "message"),
  [
    (["--time=0"], "--time=0: at least 1"),
    (["--nodes=0"], "--nodes=0: at least 1"),
    (["--time=1", "--signal_delay=60"], "leave nothing of --time=1 minutes"),
    (["--workdir=s3://bucket/run"], "is a URL: give --logs"),
    (["--tasks=0"], "a sweep has at least one task"),
    (["--config=no.py"], "no configuration"),
    (["--logs=/proc/nothing"], "/proc/nothing cannot be written"),
  ],
)
def test_wrong_use_is_refused_in_one_line(fake, launch, words, message):
  with pytest.raises(SystemExit, match=message) as refused:
    launch(*words)
  assert "\n" not in str(refused.value) and not fake.scripts()


def test_no_slurm_here(launch, monkeypatch):
  monkeypatch.setenv("PATH", "/nowhere")
  with pytest.raises(SystemExit, match="No sbatch here: run this where"):
    launch()


def test_sbatch_refuses(tmp_path, fake, launch, monkeypatch):
  refuses = "echo 'sbatch: error: invalid partition' >&2; exit 1"
  sweeps.fake(tmp_path / "bin", monkeypatch, sbatch=refuses)
  with pytest.raises(SystemExit, match="refused .* invalid partition"):
    launch()


def test_the_command_as_users_give_it(tmp_path):
  done = subprocess.run(
    [
      sys.executable, "-m", "launch.slurm",
      f"--config={sweeps.config(tmp_path)}", f"--workdir={tmp_path / 'run'}",
      "--tasks=2", "--dry_run", "--", "--config.scael=2",
    ],
    cwd=_ROOT, capture_output=True, text=True,
  )  # fmt: skip
  assert done.returncode == 1
  assert "Did you mean scale?" in done.stderr
  assert "Traceback" not in done.stderr
