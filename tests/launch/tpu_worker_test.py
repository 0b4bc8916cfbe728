"""The script on the workers of a TPU pod: what outlives a connection."""

import os
import signal
import subprocess
import time

import pytest

from tests.launch import kubelet

_SCRIPT = str(kubelet.ROOT / "launch/tpu_worker.sh")
_LIMIT = 300.0  # Seconds that one wait may take.

# In place of `spex`: writes what it is asked to, waits, and ends as it is told.
_SPEX = """\
#!/bin/bash
trap 'echo asked; sleep 0.2; echo ended; exit 75' TERM
[[ $1 != deaf ]] || trap '' TERM
echo "began $*"
echo "$*" >> "$HOME/began"
until [[ -e $HOME/go ]]; do sleep 0.05; done
echo "ended $*"
exit "$(cat "$HOME/go")"
"""


@pytest.fixture
def home(tmp_path, monkeypatch):
  """Of a worker; whatever still runs there is ended."""
  place = tmp_path / "spex"
  place.write_text(_SPEX)
  place.chmod(0o755)
  monkeypatch.setenv("HOME", str(tmp_path))
  monkeypatch.setenv("SPEX", str(place))
  monkeypatch.setenv("SPEX_POLL", "0.05")
  yield tmp_path
  (tmp_path / "go").write_text("0")
  subprocess.run([_SCRIPT, "stop"], env=os.environ | {"SPEX_GRACE": "1"})


def _start(*words, **env):
  return subprocess.Popen(
    [_SCRIPT, *words],
    env=os.environ | env,
    stdout=subprocess.PIPE,
    text=True,
    start_new_session=True,  # As of one connection.
  )


def _wait_for(condition):
  deadline = time.monotonic() + _LIMIT
  while not condition():
    assert time.monotonic() < deadline, "nothing happens"
    time.sleep(0.02)


def _began(home):
  place = home / "began"
  return place.read_text().splitlines() if place.exists() else []


@pytest.mark.parametrize(
  ("code", "ends"), [(0, 0), (75, 75), (134, 134), (1, 65)]
)
def test_it_ends_as_the_sweep_does(home, code, ends):
  (home / "go").write_text(str(code))
  worker = _start("run", "a", "sweep", "two words")
  said, _ = worker.communicate(timeout=_LIMIT)
  assert worker.returncode == ends
  assert "began sweep two words" in said and "ended sweep" in said


def test_a_lost_connection_ends_nothing(home):
  """The same ID follows what runs, from its first line."""
  worker = _start("run", "a", "sweep")
  _wait_for(lambda: _began(home))
  os.killpg(worker.pid, signal.SIGKILL)
  worker.communicate(timeout=_LIMIT)
  again = _start("run", "a", "sweep")
  time.sleep(0.2)
  (home / "go").write_text("0")
  said, _ = again.communicate(timeout=_LIMIT)
  assert again.returncode == 0
  assert "began sweep" in said and "ended sweep" in said
  assert _began(home) == ["sweep"]  # Once.


def test_another_id_ends_what_runs_first(home):
  first = _start("run", "a", "one")
  _wait_for(lambda: _began(home))
  second = _start("run", "b", "two")
  said, _ = first.communicate(timeout=_LIMIT)
  assert first.returncode == 75 and "asked" in said and "ended" in said
  _wait_for(lambda: _began(home) == ["one", "two"])
  (home / "go").write_text("0")
  second.communicate(timeout=_LIMIT)
  assert second.returncode == 0


def test_stop_asks_and_waits(home):
  worker = _start("run", "a", "sweep")
  _wait_for(lambda: _began(home))
  subprocess.run([_SCRIPT, "stop"], check=True, timeout=_LIMIT)
  assert (home / ".spex/a.code").read_text() == "75\n"
  worker.communicate(timeout=_LIMIT)
  assert worker.returncode == 75
  # Nothing runs: nothing to do.
  subprocess.run([_SCRIPT, "stop"], check=True, timeout=_LIMIT)


def test_what_does_not_end_is_killed(home):
  worker = _start("run", "a", "deaf")
  _wait_for(lambda: _began(home))
  env = os.environ | {"SPEX_GRACE": "0"}
  subprocess.run([_SCRIPT, "stop"], check=True, env=env, timeout=_LIMIT)
  worker.communicate(timeout=_LIMIT)
  assert worker.returncode == 137


def test_a_run_whose_processes_were_killed_ends(home):
  """With nobody left to write down how."""
  worker = _start("run", "a", "sweep")
  _wait_for(lambda: _began(home))
  leader = int((home / ".spex/running").read_text().split()[0])
  os.killpg(leader, signal.SIGKILL)
  worker.communicate(timeout=_LIMIT)
  assert worker.returncode == 75
  subprocess.run([_SCRIPT, "stop"], check=True, timeout=_LIMIT)


def test_a_number_of_before_a_restart_is_nobody(home):
  """The process that has it now is left alone, and a run ends by itself."""
  other = subprocess.Popen(
    ["bash", "-c", "sleep 30 & wait"], start_new_session=True
  )
  try:
    (home / ".spex").mkdir()
    (home / ".spex/running").write_text(f"{other.pid} a another-boot\n")
    (home / ".spex/a.started").touch()
    (home / ".spex/a.log").touch()
    subprocess.run([_SCRIPT, "stop"], check=True, timeout=_LIMIT)
    worker = _start("run", "a", "sweep")
    worker.communicate(timeout=_LIMIT)
    assert worker.returncode == 75 and not _began(home)
    time.sleep(0.1)
    assert other.poll() is None  # Nor was its child ended, which it waits for.
  finally:
    os.killpg(other.pid, signal.SIGKILL)
    other.wait()


def test_it_installs_from_every_lock_once(home):
  """By a Python of the test, which keeps what it was told."""
  checkout = home / "checkout"
  (checkout / "launch").mkdir(parents=True)
  script = checkout / "launch/tpu_worker.sh"
  script.write_text((kubelet.ROOT / "launch/tpu_worker.sh").read_text())
  fake = home / "bin/python3"
  fake.parent.mkdir()
  fake.write_text('#!/bin/sh\necho "$@" >> "$HOME/told"\nmkdir -p env\n')
  fake.chmod(0o755)
  env = os.environ | {"PATH": f"{fake.parent}:{os.environ['PATH']}"}
  for _ in range(2):
    subprocess.run(["bash", script, "install"], check=True, env=env)
  told = (home / "told").read_text().splitlines()
  locks = [line.split("-r ")[1] for line in told if "--require-hashes" in line]
  assert locks == [
    "requirements-core.lock", "launch/locks/stores.lock",
    "launch/locks/tpu.lock",
  ]  # fmt: skip
  for lock in locks:
    assert (kubelet.ROOT / lock).exists()
  assert len(told) == 6 and "--no-deps" in told[-1]
