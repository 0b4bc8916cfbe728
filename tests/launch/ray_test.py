"""What Ray would be given, without Ray."""

import json
import os
import subprocess
import sys

import pytest

from launch import ray as launcher
from launch import tending
from tests.launch import sweeps


@pytest.fixture
def launch(tmp_path):
  """Runs the command; the sweep has six shards."""

  def run(*words, extra=(), tasks=3):
    given = sweeps.given(
      launcher, f"--config={sweeps.config(tmp_path)}",
      f"--workdir={tmp_path / 'run'}", f"--tasks={tasks}", *words,
    )  # fmt: skip
    return launcher.command(given, list(extra))

  return run


def _said(capsys):
  """Commands, options and environment of a dry run."""
  lines = capsys.readouterr().out.splitlines()
  read = lambda name: json.loads(
    next(x for x in lines if x.startswith(f"# {name}: ")).partition(": ")[2]
  )
  commands = [line for line in lines if line.startswith("spex sweep run")]
  return commands, read("options"), read("runtime_env")


def test_a_dry_run_prints_the_tasks_and_starts_nothing(
  tmp_path, launch, monkeypatch, capsys
):
  monkeypatch.setitem(sys.modules, "ray", None)  # It is not even imported.
  monkeypatch.setenv("PYTHONPATH", "/their/own")
  words = (
    "--dry_run", "--cpus_per_task=2", "--gpus_per_task=0.5",
    "--resources=TPU=4,memory=1e9", "--max_retries=-1",
  )  # fmt: skip
  assert launch(*words, extra=["--config.scale=3.0"]) == 0
  commands, options, environment = _said(capsys)
  assert len(commands) == 3
  assert commands[2].endswith(
    "--task_index=2 --task_count=3 --config.scale=3.0"
  )
  assert f"--workdir={tmp_path / 'run'}" in commands[0]
  assert options == {
    "num_cpus": 2, "num_gpus": 0.5, "max_retries": -1, "max_calls": 1,
    "resources": {"TPU": 4, "memory": 1e9}, "scheduling_strategy": "SPREAD",
  }  # fmt: skip
  assert environment["env_vars"]["OMP_NUM_THREADS"] == "2"
  assert environment["env_vars"]["PYTHONPATH"] == os.pathsep.join(
    [str(tending.ROOT), "/their/own"]
  )
  assert not (tmp_path / "run").exists()


def test_a_folder_that_ray_carries(tmp_path, launch, capsys):
  """Workers find the sweep's file in their copy of it."""
  launch("--dry_run", f"--working_dir={tmp_path}")
  commands, _, environment = _said(capsys)
  assert "--config=sweep_small.py " in commands[0]
  assert environment["working_dir"] == str(tmp_path)
  assert "PYTHONPATH" not in environment["env_vars"]
  (tmp_path / "other").mkdir()
  with pytest.raises(SystemExit, match="does not lie in --working_dir"):
    launch("--dry_run", f"--working_dir={tmp_path / 'other'}")


def test_a_placement_group_is_no_option_of_a_task(launch, capsys):
  launch("--dry_run", "--strategy=PACK", "--bundles=2")
  assert "scheduling_strategy" not in _said(capsys)[1]


@pytest.mark.parametrize(
  ("words", "message"),
  [
    (["--tasks=0"], "a sweep has at least one task"),
    (["--config=no.py"], "no configuration"),
    (["--cpus_per_task=-1"], "--cpus_per_task=-1.0: at least 0"),
    (["--max_retries=-2"], "--max_retries=-2: at least -1"),
    (["--bundles=2"], "--bundles goes with --strategy=PACK"),
    (["--resources=TPU"], "give NAME=AMOUNT"),
    (["--resources=TPU=many"], "give NAME=AMOUNT"),
  ],
)
def test_wrong_use_is_refused_in_one_line(launch, words, message):
  with pytest.raises(SystemExit, match=message) as refused:
    launch("--dry_run", *words)
  assert "\n" not in str(refused.value)


def test_no_ray_here(launch, monkeypatch):
  monkeypatch.setitem(sys.modules, "ray", None)
  with pytest.raises(SystemExit, match="pip install ray"):
    launch()


def test_the_launcher_is_not_taken_for_the_package(tmp_path):
  """Both are called `ray`."""
  done = subprocess.run(
    [
      sys.executable, "-m", "launch.ray",
      f"--config={sweeps.config(tmp_path)}", f"--workdir={tmp_path / 'run'}",
      "--tasks=2", "--dry_run",
    ],
    cwd=tending.ROOT, capture_output=True, text=True,
  )  # fmt: skip
  assert done.returncode == 0, done.stderr
  assert done.stdout.count("spex sweep run") == 2
