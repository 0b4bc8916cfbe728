"""Two processes of one job, and a coordinator that nobody is."""

import socket
import subprocess
import sys
import time

import pytest

from spex_jax.sweeps import processes, state
from tests.sweeps import crash_test


def _free_port():
  with socket.socket() as probe:
    probe.bind(("127.0.0.1", 0))
    return probe.getsockname()[1]


def test_two_processes_make_the_bytes_of_one(tmp_path):
  settings = ("--config.model.kind=ridge", "--config.rows=24")
  words = [
    sys.executable, "-c", "from spex_jax import cli; cli.run()", "sweep", "run",
    f"--config={crash_test._CONFIG}", *settings,
  ]  # fmt: skip
  start = lambda *more: subprocess.Popen(
    [*words, *more], cwd=crash_test._ROOT, stdout=subprocess.DEVNULL
  )
  address = f"127.0.0.1:{_free_port()}"
  both = [
    start(
      f"--workdir={tmp_path / 'two'}", f"--coordinator={address}",
      f"--process_id={index}", "--num_processes=2",
    )
    for index in range(2)
  ]  # fmt: skip
  assert [process.wait(120) for process in both] == [0, 0]
  assert start(f"--workdir={tmp_path / 'one'}").wait(120) == 0
  found = state.status(tmp_path / "two")
  assert found.complete and found.processes == 2
  assert crash_test._bytes(tmp_path / "two") == crash_test._bytes(
    tmp_path / "one"
  )


def test_a_coordinator_that_does_not_answer():
  address = f"127.0.0.1:{_free_port()}"
  begin = time.monotonic()
  with pytest.raises(TimeoutError, match=f"Nobody answers .* {address} within"):
    processes.join(address, 1, 2, timeout=0.5)
  assert time.monotonic() - begin < 30


@pytest.mark.parametrize(
  ("address", "index", "count", "message"),
  [
    ("nowhere", 0, 2, "give HOST:PORT"),
    ("host:http", 0, 2, "give HOST:PORT"),
    ("127.0.0.1:1", 2, 2, "process_id=2 must lie in 0..1"),
  ],
)
def test_jobs_that_cannot_be(address, index, count, message):
  with pytest.raises(ValueError, match=message):
    processes.join(address, index, count)
