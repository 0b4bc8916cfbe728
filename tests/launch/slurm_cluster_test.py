"""A real Slurm on the loopback: `make test-cluster`.

Whatever is killed, requeued or preempted, the shards are the bytes of those
that one process makes.
"""

import os
import signal
import socket
import subprocess
import time

import pytest

from tests.launch import clusters, sweeps

pytestmark = pytest.mark.cluster
_SCRIPT = clusters.ROOT / "launch/slurm_loopback.sh"


def _free_port():
  """The first of three."""
  with socket.socket() as probe:
    probe.bind(("127.0.0.1", 0))
    return min(probe.getsockname()[1], 60000)


@pytest.fixture(scope="module")
def slurm(tmp_path_factory):
  """Its directory; the environment is that of the test."""
  folder = tmp_path_factory.mktemp("slurm")
  patch = pytest.MonkeyPatch()
  patch.setenv("SPEX_SLURM_PORT", str(_free_port()))
  patch.setenv("SLURM_CONF", str(folder / "slurm.conf"))
  subprocess.run([_SCRIPT, "start", folder], check=True)
  yield folder
  subprocess.run([_SCRIPT, "stop", folder], check=True)
  patch.undo()


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
  return clusters.undisturbed(tmp_path_factory.mktemp("whole") / "run")


@pytest.fixture
def launched(slurm, tmp_path):
  """Two tasks, one on each node."""
  found = clusters.Launched(
    "slurm", tmp_path / "run", "--tasks=2", "--cpus=1", "--wait", "--time=30"
  )
  yield found
  subprocess.run(["scancel", "--me"], check=True)
  found.kill()
  clusters.wait(lambda: not _squeue())


def _squeue(*words):
  words = ["squeue", "--me", "--noheader", "--array", *words]
  return subprocess.run(
    words, capture_output=True, text=True, check=True
  ).stdout.split()


def _running():
  listed = _squeue("--format=%i=%T")  # --states takes completing ones, too.
  return [x.partition("=")[0] for x in listed if x.endswith("=RUNNING")]


def _children(launched):
  """Processes of `spex sweep run`."""
  return clusters.processes("spex_jax", "sweep run", str(launched.workdir))


def _parents(launched):
  return clusters.processes("submitit.core._submit", str(launched.workdir))


def test_nothing_disturbs(launched, whole):
  code, said = launched.end()
  assert code == 0, said
  clusters.check(launched.workdir, whole, {})
  assert "600 of 600 shards are there" in said


def test_a_killed_controller(slurm, launched, whole):
  """It is away for a while; jobs and launcher go on."""
  before = launched.until(20)
  pid = int((slurm / "slurmctld.pid").read_text())
  os.kill(pid, signal.SIGKILL)
  launched.until(len(before) + 20)  # Nobody controls them.
  subprocess.run([_SCRIPT, "controller", slurm], check=True)
  code, said = launched.end()
  assert code == 0, said
  clusters.check(launched.workdir, whole, before)


def test_a_killed_child_is_started_again_in_its_job(launched, whole):
  before = launched.until(20)
  os.kill(_children(launched)[0], signal.SIGKILL)
  code, said = launched.end()
  assert code == 0, said
  assert "submitted" in said and said.count("submitted") == 1
  clusters.check(launched.workdir, whole, before)
  logs = [p.read_text() for p in launched.workdir.glob(".slurm/*_log.err")]
  assert sum("ended by signal 9; started again" in log for log in logs) == 1


def test_a_job_that_dies_takes_its_child_and_is_submitted_again(
  launched, whole
):
  before = launched.until(20)
  victim = _parents(launched)
  children = _children(launched)
  # Of srun, slurmstepd's child and such, the one above a child.
  tree = subprocess.run(
    ["ps", "-o", "ppid=", "-p", str(children[0])],
    capture_output=True, text=True, check=True,
  )  # fmt: skip
  parent = int(tree.stdout)
  assert parent in victim
  os.kill(parent, signal.SIGKILL)
  clusters.wait(lambda: children[0] not in _children(launched))
  code, said = launched.end()
  assert code == 0, said
  assert said.count("submitted") == 2, said
  assert "went without a word: killed, or its node lost." in said
  clusters.check(launched.workdir, whole, before)


def _requeue(job):
  subprocess.run(["scontrol", "requeue", job], check=True)


def _warn(job):
  subprocess.run(["scancel", "--signal=USR2", job], check=True)


@pytest.mark.parametrize("disturb", [_requeue, _warn], ids=["requeue", "warn"])
def test_a_job_that_is_queued_again(launched, whole, disturb):
  """By hand, and by submitit when Slurm warns of the time limit."""
  before = launched.until(20)
  job = _running()[0]
  disturb(job)
  clusters.wait(lambda: job in _squeue("--states=PENDING", "--format=%i"))
  code, said = launched.end()
  assert code == 0, said
  assert said.count("submitted") == 1, said
  clusters.check(launched.workdir, whole, before)


def test_a_preempted_job_ends_behind_its_shard_and_is_queued_again(
  launched, whole
):
  """Within its GraceTime, so that the other job need not wait for that."""
  before = launched.until(20)
  begin = time.monotonic()
  urgent = ["--partition=urgent", "--nodes=2", "--output=/dev/null"]
  subprocess.run(
    ["sbatch", "--wait", *urgent, "--wrap=true"],
    check=True, stdout=subprocess.DEVNULL,
  )  # fmt: skip
  waited = time.monotonic() - begin
  code, said = launched.end()
  assert code == 0, said
  assert said.count("submitted") == 1, said
  assert waited < 15, waited  # GraceTime is 20.
  clusters.check(launched.workdir, whole, before)
  logs = [p.read_text() for p in launched.workdir.glob(".slurm/*_log.err")]
  # The other task may have been done just then.
  assert any("preempted: job" in log for log in logs)


def test_two_nodes_join_for_one_task(slurm, whole, tmp_path):
  """Each makes its share; one that is killed comes back."""
  launched = clusters.Launched(
    "slurm", tmp_path / "run", "--tasks=1", "--nodes=2", "--cpus=1", "--wait"
  )
  before = launched.until(20)
  assert len(_children(launched)) == 2
  os.kill(_children(launched)[-1], signal.SIGKILL)
  code, said = launched.end()
  assert code == 0, said
  clusters.check(launched.workdir, whole, before)


def test_the_launcher_is_killed_and_started_again(launched, whole, tmp_path):
  """It finds the jobs that it had submitted, and follows them."""
  before = launched.until(20)
  launched.kill()
  again = clusters.Launched(
    "slurm", tmp_path / "run", "--tasks=2", "--cpus=1", "--wait"
  )
  code, said = again.end()
  assert code == 0, said
  assert "2 tasks are there already (2 RUNNING)" in said
  assert "submitted" not in said
  clusters.check(launched.workdir, whole, before)


def test_an_error_that_stays_ends_the_wait(slurm, tmp_path):
  """Each task says that the directory is another sweep's; once."""
  sweeps.do(tmp_path / "run", sweeps.config(tmp_path), 0, 6)
  launched = clusters.Launched(
    "slurm", tmp_path / "run", "--tasks=2", "--cpus=1", "--wait"
  )
  code, said = launched.end()
  assert code == 1, said
  assert said.count("ended with 1. Its last words in ") == 2, said
  assert "not tried again" in said and said.count("submitted") == 1
