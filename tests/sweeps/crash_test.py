"""Kills, of workers and of the whole run, over real retrainings.

After any number of them masks, values and status are the same bytes as those of
a run that nobody disturbed, and what was published is never made again.
"""

import os
import pathlib
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

from launch import local
from spex_jax.sweeps import state

_ROOT = pathlib.Path(__file__).parents[2]
_CONFIG = str(_ROOT / "experiments/configs/sweep_digits.py") + ":quick"
# Ridge regressions compile in a second; many small shards leave room to kill.
_SETTINGS = (
  "--config.model.kind=ridge",
  "--config.rows=120",
  "--config.rows_per_shard=2",
)
_SHARDS = 120
_LIMIT = 600.0  # Seconds that one wait may take.


def _start(workdir, index=0, count=1):
  words = local.command(_CONFIG, str(workdir), index, count, _SETTINGS)
  return subprocess.Popen(words, cwd=_ROOT, stdout=subprocess.DEVNULL)


def _published(workdir):
  """Manifests, and what would change if one were written again."""
  folder = workdir / "shards"
  if not folder.exists():
    return {}
  return {
    entry.name: (entry.stat().st_ino, entry.stat().st_mtime_ns)
    for entry in os.scandir(folder)
    if entry.name.endswith(".json") and not entry.name.startswith(".")
  }


def _bytes(workdir):
  return {
    place.name: place.read_bytes() for place in (workdir / "shards").iterdir()
  }


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
  workdir = tmp_path_factory.mktemp("whole") / "run"
  assert _start(workdir).wait(_LIMIT) == 0
  assert state.status(workdir).shards == _SHARDS
  return _bytes(workdir)


def _kill_again_and_again(workdir, kills, seed):
  """Two workers, killed at random, one or both; started again each time."""
  rng = np.random.default_rng(seed)
  acknowledged: dict = {}
  marks = np.sort(rng.integers(1, _SHARDS - 4, kills))
  for mark in marks:
    workers = [_start(workdir, index, 2) for index in range(2)]
    deadline = time.monotonic() + _LIMIT
    while len(_published(workdir)) < mark:
      assert time.monotonic() < deadline, "nothing is published any more"
      if all(worker.poll() is not None for worker in workers):
        break
      time.sleep(0.005)
    time.sleep(rng.random() * 0.02)  # Anywhere in a shard.
    victims = workers if rng.random() < 0.5 else workers[:1]
    for worker in victims:
      worker.send_signal(signal.SIGKILL)
    for worker in set(workers) - set(victims):
      worker.send_signal(signal.SIGTERM)  # Ends behind its shard.
    for worker in workers:
      worker.wait(_LIMIT)
    now = _published(workdir)
    # None that was acknowledged is lost, or written again.
    assert acknowledged.items() <= now.items()
    acknowledged = now
  for index in range(2):
    assert _start(workdir, index, 2).wait(_LIMIT) == 0
  assert acknowledged.items() <= _published(workdir).items()


def _check(workdir, whole):
  found = state.verify(workdir)
  assert (found.sound, found.damaged, found.missing) == (_SHARDS, {}, 0)
  left = _bytes(workdir)
  # What a kill leaves of a shard in flight has a name of its own.
  rest = {name for name in left if name.startswith(".")}
  assert {name: left[name] for name in left.keys() - rest} == whole


@pytest.mark.slow
def test_five_kills_change_no_byte(whole, tmp_path):
  _kill_again_and_again(tmp_path / "run", 5, seed=0)
  _check(tmp_path / "run", whole)


@pytest.mark.slow
def test_fifty_kills_change_no_byte(whole, tmp_path):
  _kill_again_and_again(tmp_path / "run", 50, seed=1)
  _check(tmp_path / "run", whole)


@pytest.mark.slow
def test_the_launcher_starts_killed_tasks_again(whole, tmp_path):
  """A worker is killed from outside; the launcher ends with all done."""
  workdir = tmp_path / "run"
  words = [
    sys.executable, "-m", "launch.local", f"--config={_CONFIG}",
    f"--workdir={workdir}", "--processes=2", "--", *_SETTINGS,
  ]  # fmt: skip
  launcher = subprocess.Popen(
    words, cwd=_ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE
  )
  deadline = time.monotonic() + _LIMIT
  while len(_published(workdir)) < 10 and time.monotonic() < deadline:
    time.sleep(0.01)
  children = subprocess.run(
    ["ps", "-o", "pid=", "--ppid", str(launcher.pid)],
    capture_output=True, text=True, check=True,
  ).stdout.split()  # fmt: skip
  os.kill(int(children[0]), signal.SIGKILL)
  _, said = launcher.communicate(timeout=_LIMIT)
  assert launcher.returncode == 0, said
  assert b"ended by signal 9; started again (2 more times)" in said
  _check(workdir, whole)
