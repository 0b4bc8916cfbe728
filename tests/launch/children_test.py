"""Children that are tended: killed, asked to end, left by their parents."""

import os
import pathlib
import signal
import subprocess
import sys
import threading
import time

import pytest

from launch import children

_ROOT = pathlib.Path(__file__).parents[2]


def _python(text, *arguments):
  return [sys.executable, "-S", "-c", text, *map(str, arguments)]


_DIES = """
import os, sys, pathlib
count = len(list(pathlib.Path(sys.argv[1]).iterdir()))
pathlib.Path(sys.argv[1], str(count)).touch()
if count < int(sys.argv[2]): os.kill(os.getpid(), int(sys.argv[3]))
sys.exit(int(sys.argv[4]))
"""


@pytest.mark.parametrize(
  ("deaths", "restarts", "last", "code", "starts"),
  [
    (0, 3, 0, 0, 1),
    (2, 3, 0, 0, 3),
    (9, 2, 0, -signal.SIGKILL, 3),
    (0, 3, 1, 1, 1),  # An error that stays is not tried again.
    (1, 3, 1, 1, 2),
    (0, 0, os.EX_TEMPFAIL, os.EX_TEMPFAIL, 3),  # After both of the pauses.
    (1, 1, os.EX_TEMPFAIL, os.EX_TEMPFAIL, 4),
  ],
)
def test_a_killed_child_is_started_again(
  tmp_path, monkeypatch, deaths, restarts, last, code, starts
):
  monkeypatch.setattr(children, "PAUSES", (0.1, 0.1))
  words = _python(_DIES, tmp_path, deaths, int(signal.SIGKILL), last)
  child = children.Child(words, restarts=restarts)
  assert child.run() == code == child.code
  assert len(list(tmp_path.iterdir())) == starts


_ENDS = """
import signal, sys, time
def end(*_):
  print("ends", flush=True)
  sys.exit(int(sys.argv[1]))
signal.signal(signal.SIGTERM, end if sys.argv[1] != "never" else signal.SIG_IGN)
print("up", flush=True)
time.sleep(60)
"""


def _when_up(output, then):
  """Does something once a child has said that it is up."""

  def wait():
    while b"up" not in output.read_bytes():
      time.sleep(0.01)
    then()

  thread = threading.Thread(target=wait)
  thread.start()
  return thread


def _run_to_file(child, output):
  """Runs a child whose output goes to a file."""
  before = os.dup(1)
  with output.open("wb") as file:
    os.dup2(file.fileno(), 1)
  try:
    return child.run()
  finally:
    os.dup2(before, 1)
    os.close(before)


@pytest.mark.parametrize(
  ("last", "code"), [("75", os.EX_TEMPFAIL), ("0", 0), ("1", os.EX_TEMPFAIL)]
)
def test_a_signal_ends_the_child_behind_its_shard(tmp_path, capfd, last, code):
  """The handler waits for it: whoever runs is free to leave then."""
  output = tmp_path / "output"
  output.touch()
  child = children.Child(_python(_ENDS, last))
  found = []
  before = signal.signal(signal.SIGUSR2, lambda *_: found.append(child.end()))
  thread = _when_up(output, lambda: os.kill(os.getpid(), signal.SIGUSR2))
  try:
    assert _run_to_file(child, output) == code
  finally:
    thread.join()
    signal.signal(signal.SIGUSR2, before)
  assert found == [code] and child.asked
  assert output.read_text() == "up\nends\n"  # Once, and not started again.


def test_a_signal_ends_the_pause_before_a_start(tmp_path, monkeypatch):
  words = _python(_DIES, tmp_path, 0, 9, os.EX_TEMPFAIL)
  child = children.Child(words)
  monkeypatch.setattr(children, "PAUSES", (3600.0,))
  timer = threading.Timer(0.2, os.kill, (os.getpid(), signal.SIGUSR2))
  monkeypatch.setattr(children, "say", lambda text: timer.start())
  before = signal.signal(signal.SIGUSR2, lambda *_: child.end())
  try:
    assert child.run() == os.EX_TEMPFAIL  # Not in an hour.
  finally:
    timer.cancel()
    signal.signal(signal.SIGUSR2, before)
  assert child.asked and len(list(tmp_path.iterdir())) == 1


def test_a_child_that_does_not_end_is_killed(tmp_path, capfd):
  output = tmp_path / "output"
  output.touch()
  child = children.Child(_python(_ENDS, "never"), patience=0.2)
  before = signal.signal(signal.SIGUSR2, lambda *_: child.end())
  thread = _when_up(output, lambda: os.kill(os.getpid(), signal.SIGUSR2))
  try:
    assert _run_to_file(child, output) == os.EX_TEMPFAIL
  finally:
    thread.join()
    signal.signal(signal.SIGUSR2, before)
  assert "not ended within 0.2 s: killed" in capfd.readouterr().err


def test_what_is_asked_before_its_start_is_never_started(tmp_path):
  child = children.Child(_python(_DIES, tmp_path, 0, 9, 0))
  assert child.end() == os.EX_TEMPFAIL == child.run()
  assert not list(tmp_path.iterdir())


def test_signals_that_a_child_shall_not_see():
  text = "import os, signal; os.kill(os.getpid(), signal.SIGUSR2)"
  seen = children.Child(_python(text), restarts=0)
  spared = children.Child(_python(text), restarts=0, ignore=(signal.SIGUSR2,))
  assert (seen.run(), spared.run()) == (-signal.SIGUSR2, 0)


@pytest.mark.skipif(sys.platform != "linux", reason="PR_SET_PDEATHSIG")
def test_a_child_does_not_outlive_a_killed_parent():
  text = (
    "from launch import children\n"
    "import sys\n"
    "children.Child([sys.executable, '-S', '-c', 'import os, time; "
    "print(os.getpid(), flush=True); time.sleep(60)']).run()"
  )
  parent = subprocess.Popen(
    [sys.executable, "-c", text], cwd=_ROOT, stdout=subprocess.PIPE
  )
  assert parent.stdout is not None
  pid = int(parent.stdout.readline())
  os.kill(pid, 0)  # It lives.
  parent.kill()
  parent.wait()
  deadline = time.monotonic() + 120
  while time.monotonic() < deadline:
    state = pathlib.Path(f"/proc/{pid}/stat")
    if not state.exists() or state.read_text().split()[2] == "Z":
      return
    time.sleep(0.02)
  pytest.fail("the child lives on")
