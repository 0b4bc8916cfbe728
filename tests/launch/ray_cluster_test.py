"""A real Ray on this machine: `make test-cluster`.

Whatever is killed, the shards are the bytes of those that one process makes.
"""

import os
import signal
import socket
import subprocess
import sys
import tempfile

import pytest

from tests.launch import clusters

pytestmark = pytest.mark.cluster
# Ray writes nothing into the home of who tests.
_ENVIRONMENT = {"RAY_AUTH_MODE": "disabled", "RAY_USAGE_STATS_ENABLED": "0"}


@pytest.fixture(scope="module", autouse=True)
def _folder():
  """Of Ray's own files; sockets' names must be short, and pytest's is not."""
  with tempfile.TemporaryDirectory(
    prefix="ray", dir="/tmp", ignore_cleanup_errors=True
  ) as folder:
    _ENVIRONMENT["RAY_TMPDIR"] = folder
    yield


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
  return clusters.undisturbed(tmp_path_factory.mktemp("whole") / "run")


@pytest.fixture
def launch(tmp_path):
  """Starts the launcher; what it left is killed behind the test."""
  started = []

  def run(*words):
    found = clusters.Launched(
      "ray", tmp_path / "run", "--tasks=2", *words, environment=_ENVIRONMENT
    )
    started.append(found)
    return found

  yield run
  for found in started:
    below = clusters.processes("", below=found.process.pid)
    found.kill()
    for pid in below:
      if pid in clusters.processes("ray"):
        os.kill(pid, signal.SIGKILL)


def _workers(launched):
  return clusters.processes("ray::work", below=launched.process.pid)


@pytest.mark.parametrize("words", [(), ("--working_dir=.",)])
def test_nothing_disturbs(launch, whole, words):
  """By the code of this folder, and by the copy of it that Ray carries."""
  launched = launch("--address=local", *words)
  code, said = launched.end()
  assert code == 0, said
  clusters.check(launched.workdir, whole, {})
  assert "2 of 2 tasks are with Ray" in said


@pytest.mark.parametrize(
  "number", [signal.SIGKILL, signal.SIGTERM, signal.SIGUSR1]
)
def test_a_worker_that_is_killed_or_asked_to_end(launch, whole, number):
  """Its task is tried again in another process."""
  launched = launch("--address=local")
  before = launched.until(20)
  victim = _workers(launched)[0]
  os.kill(victim, number)
  clusters.wait(lambda: victim not in _workers(launched))
  code, said = launched.end()
  assert code == 0, said
  clusters.check(launched.workdir, whole, before)


def test_a_killed_driver_takes_its_tasks_and_goes_on(launch, whole):
  launched = launch("--address=local")
  before = launched.until(20)
  below = clusters.processes("", below=launched.process.pid)
  workers = _workers(launched)
  assert workers
  launched.kill()
  clusters.wait(lambda: not set(below) & set(clusters.processes("ray")))
  again = launch("--address=local")
  code, said = again.end()
  assert code == 0, said
  clusters.check(launched.workdir, whole, before)
  # What is done is not even started.
  third = launch("--address=local")
  code, said = third.end()
  assert code == 0 and "0 of 2 tasks are with Ray" in said


def _free_port():
  with socket.socket() as probe:
    probe.bind(("127.0.0.1", 0))
    return probe.getsockname()[1]


def _node(folder, *words):
  """A node of a cluster, in the foreground."""
  return subprocess.Popen(
    [
      sys.executable, "-m", "ray.scripts.scripts", "start", "--block",
      "--num-cpus=1", "--node-ip-address=127.0.0.1", f"--temp-dir={folder}",
      "--disable-usage-stats", *words,
    ],
    env=os.environ | _ENVIRONMENT, stdout=subprocess.DEVNULL,
    stderr=subprocess.DEVNULL,
  )  # fmt: skip


def test_a_node_that_is_lost(launch, whole, tmp_path):
  """Two nodes of one core, one task on each; one is killed with its task."""
  port = _free_port()
  folder = f"{_ENVIRONMENT['RAY_TMPDIR']}/nodes"
  head = _node(folder, "--head", f"--port={port}", "--include-dashboard=false")
  nodes = [head]
  try:
    clusters.wait(lambda: clusters.processes("raylet", below=head.pid), head)
    nodes.append(_node(folder, f"--address=127.0.0.1:{port}"))
    clusters.wait(
      lambda: clusters.processes("raylet", below=nodes[1].pid), nodes[1]
    )
    launched = launch(f"--address=127.0.0.1:{port}", "--strategy=SPREAD")
    before = launched.until(20)
    lost = clusters.processes("", below=nodes[1].pid)
    assert clusters.processes("ray::work", below=nodes[1].pid)
    nodes[1].kill()
    for pid in lost:
      if pid in clusters.processes("ray"):
        os.kill(pid, signal.SIGKILL)
    code, said = launched.end()
    assert code == 0, said
    clusters.check(launched.workdir, whole, before)
  finally:
    for node in nodes:
      below = clusters.processes("", below=node.pid)
      node.terminate()
      node.wait(clusters.LIMIT)
      for pid in below:
        if pid in clusters.processes("ray"):
          os.kill(pid, signal.SIGKILL)


def test_a_group_without_room_is_told(launch):
  launched = launch(
    "--address=local", "--strategy=STRICT_PACK", "--cpus_per_task=4000",
    "--group_timeout=2",
  )  # fmt: skip
  code, said = launched.end()
  assert code == 1 and "Give fewer --bundles" in said, said
  assert "no node has 4000 CPU yet" in said


def test_a_group_packs_the_tasks(launch, whole):
  launched = launch("--address=local", "--strategy=PACK", "--bundles=1")
  code, said = launched.end()
  assert code == 0, said
  clusters.check(launched.workdir, whole, {})


def test_no_cluster_to_join(launch):
  launched = launch("--address=auto")
  code, said = launched.end()
  assert code == 1 and "No Ray at --address=auto" in said, said
  assert "Traceback" not in said


def test_an_error_that_stays_is_told_and_not_tried_again(launch, tmp_path):
  """A directory that is no sweep's."""
  (tmp_path / "run").mkdir()
  (tmp_path / "run/letter.txt").write_text("not ours")
  launched = launch("--address=local")
  code, said = launched.end()
  assert code == 1, said
  assert said.count("holds files, but no config.json") == 2
