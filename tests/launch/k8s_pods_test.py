"""Manifests at work: their pods as processes, as Kubernetes would run them."""

import signal
import socket
import subprocess
import time

import pytest

from launch import local
from launch.k8s import manifests, settings
from spex_jax.sweeps import state
from tests.launch import kubelet

_CONFIG = str(kubelet.ROOT / "tests/launch/sweep_sums.py")
_LIMIT = 600.0  # Seconds that one wait may take.


def _documents(**changes):
  given = {"image": "i", "name": "sums", "claim": "c", "workdir": "/data/run"}
  return manifests.documents(settings.Settings(_CONFIG, **given | changes))


def _free_port():
  with socket.socket() as probe:
    probe.bind(("127.0.0.1", 0))
    return probe.getsockname()[1]


def _bytes(workdir):
  return {
    place.name: place.read_bytes() for place in (workdir / "shards").iterdir()
  }


def _wait_for_shard(workdir, index):
  deadline = time.monotonic() + _LIMIT
  while not (workdir / f"shards/{index:08d}.json").exists():
    assert time.monotonic() < deadline, "nothing is published"
    time.sleep(0.01)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
  """What one process makes."""
  workdir = tmp_path_factory.mktemp("whole") / "run"
  words = local.command(_CONFIG, str(workdir), 0, 1)
  subprocess.run(words, cwd=kubelet.ROOT, timeout=_LIMIT, check=True)
  return _bytes(workdir)


@pytest.mark.slow
def test_pods_of_a_job_make_the_bytes_of_one_process(whole, tmp_path):
  """Three pods, one of them evicted on the way, as Kubernetes runs them."""
  found = _documents(tasks=3, env={"PAUSE": "0.1"})
  job, workdir = found[-1], tmp_path / "workdir" / "run"
  running = {i: kubelet.start(found, job, i, tmp_path) for i in range(3)}
  _wait_for_shard(workdir, 14)  # The second of this pod's thirteen.
  running[1].send_signal(signal.SIGTERM)
  codes: dict[int, list[int]] = {i: [] for i in running}
  while running:
    for index, process in list(running.items()):
      codes[index].append(process.wait(_LIMIT))
      del running[index]
      action = kubelet.verdict(job, codes[index][-1])
      assert action in ("Complete", "Ignore")
      if action == "Ignore":
        assert not state.status(workdir).complete
        running[index] = kubelet.start(found, job, index, tmp_path)
  assert codes == {0: [0], 1: [75, 0], 2: [0]}
  assert state.status(workdir).complete
  assert _bytes(workdir) == whole


def test_bad_input_fails_a_task_at_once(tmp_path):
  """A config that only the image refuses: exit code 1, no second try."""
  found = _documents(extra=("--config.scales=1",))
  process = kubelet.start(found, found[-1], 0, tmp_path)
  assert kubelet.verdict(found[-1], process.wait(_LIMIT)) == "FailIndex"


@pytest.mark.cluster
def test_slices_of_two_hosts_make_the_bytes_of_one_process(whole, tmp_path):
  """Two JobSets of two hosts each, whose processes join through process 0.

  One after the other: each thinks that it is alone at its address.
  """
  found = _documents(kind="jobset", tasks=2, hosts=2, port=_free_port())
  workdir = tmp_path / "workdir" / "run"
  for task, jobset in enumerate(found[1:]):
    hosts = [kubelet.start(found, jobset, i, tmp_path) for i in range(2)]
    assert [host.wait(_LIMIT) for host in hosts] == [0, 0]
    # No more than the slice's own share, and all of it.
    assert state.status(workdir).shards == 20 * (task + 1)
  assert state.status(workdir).complete
  assert _bytes(workdir) == whole


@pytest.mark.cluster
def test_a_slice_that_loses_a_host_comes_back_as_a_whole(whole, tmp_path):
  """As JobSet does it: one pod fails, the other is ended, both start anew."""
  found = _documents(
    kind="jobset", hosts=2, port=_free_port(), env={"PAUSE": "0.1"}
  )
  jobset, workdir = found[-1], tmp_path / "workdir" / "run"
  hosts = [kubelet.start(found, jobset, i, tmp_path) for i in range(2)]
  _wait_for_shard(workdir, 22)  # The third of the second host's.
  hosts[1].kill()
  assert kubelet.verdict(jobset, hosts[1].wait(_LIMIT)) == "Count"
  assert kubelet.job_spec(jobset)["backoffLimit"] == 0
  hosts[0].terminate()
  # 75, or an end by JAX that misses the other: neither ends the JobSet.
  assert kubelet.verdict(jobset, hosts[0].wait(_LIMIT)) == "Count"
  assert not state.status(workdir).complete
  hosts = [kubelet.start(found, jobset, i, tmp_path) for i in range(2)]
  assert [host.wait(_LIMIT) for host in hosts] == [0, 0]
  left = _bytes(workdir)
  assert {n: left[n] for n in left if not n.startswith(".")} == whole
