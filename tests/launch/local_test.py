"""Tasks as processes of this machine."""

import os
import pathlib
import signal
import subprocess
import sys
import time

import pytest

from launch import local
from spex_jax.sweeps import state
from tests.sweeps import crash_test

_SLOW = """
import os, time
import numpy as np
from experiments.configs import sweep_scale

def get_config():
  config = sweep_scale.get_config()
  config.function = "slow:value"
  config.n, config.rows, config.rows_per_shard = 10, 40, 4
  return config

def value(masks):
  if os.environ["SLOW"] == "hang" and not os.path.exists("hung"):
    open("hung", "w").close()
    time.sleep(1000)
  time.sleep(0.2)
  return masks.sum(axis=1) * 1.0
"""


@pytest.fixture
def folder(tmp_path):
  (tmp_path / "slow.py").write_text(_SLOW)
  return tmp_path


def _launch(folder, *more, how="slow"):
  return subprocess.Popen(
    [sys.executable, "-m", "launch.local", "--config=slow.py", "--workdir=run",
     *more],
    cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    env=os.environ | {"SLOW": how, "PYTHONPATH": str(crash_test._ROOT)},
  )  # fmt: skip


def test_a_dry_run_prints_the_commands_and_does_nothing(folder):
  out, err = _launch(folder, "--processes=3", "--dry_run").communicate()
  lines = [line for line in out.splitlines() if "--task_index" in line]
  assert len(lines) == 3 and "--task_index=2 --task_count=3" in lines[2], err
  assert "1 item, 40 rows in 10 shards" in out
  assert not (folder / "run").exists()


def _nvidia_smi(folder, monkeypatch, told):
  program = folder / "nvidia-smi"
  program.write_text(f"#!/bin/sh\ncat <<'END'\n{told}\nEND\n")
  program.chmod(0o755)
  monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")


def test_gpus_are_split_among_processes(folder, monkeypatch):
  def visible(count, **environment):
    found = local.shares(count, environment)
    return [share.get("CUDA_VISIBLE_DEVICES") for share in found]

  listed = {"CUDA_VISIBLE_DEVICES": "4,5,GPU-6,7"}
  assert visible(4, **listed) == ["4", "5", "GPU-6", "7"]
  assert visible(2, **listed) == ["4,GPU-6", "5,7"]
  assert visible(3, **listed) == ["4,7", "5", "GPU-6"]
  none = [{}, {}]
  assert local.shares(2, {"CUDA_VISIBLE_DEVICES": ""}) == none
  assert local.shares(2, {"CUDA_VISIBLE_DEVICES": "-1"}) == none
  assert local.shares(2, listed | {"JAX_PLATFORMS": "cpu"}) == none
  _nvidia_smi(folder, monkeypatch, "NVIDIA-SMI has failed")
  assert local.shares(2, {}) == none
  _nvidia_smi(
    folder, monkeypatch,
    "GPU 0: NVIDIA A100 (UUID: GPU-aa)\nGPU 1: NVIDIA A100 (UUID: GPU-bb)\n"
    "  MIG 1g.5gb     Device  0: (UUID: MIG-cc)\n"
    "  MIG 1g.5gb     Device  1: (UUID: MIG-dd)",
  )  # fmt: skip
  assert visible(3) == ["GPU-aa", "MIG-cc", "MIG-dd"]
  monkeypatch.setenv("PATH", str(folder / "none"))
  monkeypatch.setattr(local, "_DEVICES", folder)
  assert local.shares(2, {}) == none
  for name in ("nvidia3", "nvidia5", "nvidiactl", "nvidia-uvm"):
    (folder / name).touch()
  assert visible(2) == ["0", "1"]  # Numbered anew, as CUDA does.


def test_processes_that_share_a_gpu_share_its_memory():
  name = "XLA_PYTHON_CLIENT_MEM_FRACTION"
  two = {"CUDA_VISIBLE_DEVICES": "0,1"}
  found = local.shares(5, two)
  assert [s["CUDA_VISIBLE_DEVICES"] for s in found] == ["0", "1", "0", "1", "0"]
  assert {share[name] for share in found} == {"0.250"}
  assert all(name not in share for share in local.shares(2, two))
  assert all(name not in s for s in local.shares(5, two | {name: "0.1"}))


@pytest.mark.slow
def test_the_commands_and_the_tasks_have_their_gpus(folder):
  (folder / "slow.py").write_text(
    _SLOW.replace(
      "  time.sleep(0.2)\n",
      "  open('gpu' + os.environ['CUDA_VISIBLE_DEVICES'], 'w').close()\n",
    )
  )
  with pytest.MonkeyPatch.context() as patch:
    patch.setenv("CUDA_VISIBLE_DEVICES", "3,7")
    patch.delenv("JAX_PLATFORMS", raising=False)
    patch.delenv("XLA_PYTHON_CLIENT_MEM_FRACTION", raising=False)
    out, err = _launch(folder).communicate(timeout=crash_test._LIMIT)
  lines = [line for line in out.splitlines() if "--task_index" in line]
  assert [line[:23] for line in lines] == [
    "CUDA_VISIBLE_DEVICES=3 ", "CUDA_VISIBLE_DEVICES=7 "
  ], err  # fmt: skip
  assert {path.name for path in folder.glob("gpu*")} == {"gpu3", "gpu7"}


@pytest.mark.slow
def test_asked_to_end_all_tasks_end_and_the_same_command_goes_on(folder):
  launcher = _launch(folder)
  deadline = time.monotonic() + crash_test._LIMIT
  while len(crash_test._published(folder / "run")) < 2:
    assert time.monotonic() < deadline and launcher.poll() is None
    time.sleep(0.02)
  launcher.send_signal(signal.SIGTERM)
  _, err = launcher.communicate(timeout=crash_test._LIMIT)
  assert launcher.returncode == 75, err
  assert "asked to end: each task ends behind its shard" in err
  assert 2 <= state.status(folder / "run").shards < 10
  again = _launch(folder)
  _, err = again.communicate(timeout=crash_test._LIMIT)
  assert again.returncode == 0 and "10 of 10 shards are there" in err


@pytest.mark.slow  # `tending_test` has it by a clock of its own.
def test_a_task_that_hangs_is_killed_and_started_again(folder):
  launcher = _launch(folder, "--processes=1", "--stall=30", how="hang")
  _, err = launcher.communicate(timeout=crash_test._LIMIT)
  assert launcher.returncode == 0, err
  assert "task 0 said nothing for 30 s" in err
  assert "task 0 ended by signal 9; started again (2 more times)" in err


def test_a_launcher_that_is_killed_takes_its_tasks_with_it(folder):
  launcher = _launch(folder)
  deadline = time.monotonic() + crash_test._LIMIT
  while not crash_test._published(folder / "run"):
    assert time.monotonic() < deadline and launcher.poll() is None
    time.sleep(0.02)
  launcher.kill()
  launcher.communicate()
  time.sleep(1)
  before = len(crash_test._published(folder / "run"))
  time.sleep(1)
  assert len(crash_test._published(folder / "run")) == before < 10


@pytest.mark.slow_where("more1", "more2")
@pytest.mark.parametrize(
  ("more", "message"),
  [
    (["--processes=0"], "positive integer"),
    (["--", "--config.rosw=3"], "has no setting 'rosw'. Did you mean rows"),
    (["--", "--task_index=3"], "--task_index is the launcher's to give"),
    (["--", "--workdir=other"], "--workdir is the launcher's to give"),
  ],
)
def test_used_wrongly(folder, more, message):
  launcher = _launch(folder, *more)
  _, err = launcher.communicate(timeout=crash_test._LIMIT)
  assert launcher.returncode == 1 and message in err
  assert not (folder / "run").exists() and not pathlib.Path("run").exists()
