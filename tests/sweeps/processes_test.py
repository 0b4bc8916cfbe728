"""Two processes of one task, one of them killed; and a coordinator gone."""

import os
import signal
import socket
import subprocess
import sys
import time

import numpy as np
import pytest

from spex_jax.jobs import sweeping
from spex_jax.store import shards
from spex_jax.sweeps import processes, run, state
from tests.sweeps import crash_test

_SETTINGS = ("--config.model.kind=ridge", "--config.rows=24")


def _free_port():
  with socket.socket() as probe:
    probe.bind(("127.0.0.1", 0))
    return probe.getsockname()[1]


def _start(*more, settings=_SETTINGS, **environment):
  words = [
    sys.executable, "-c", "from spex_jax import cli; cli.run()", "sweep", "run",
    f"--config={crash_test._CONFIG}", *settings,
  ]  # fmt: skip
  return subprocess.Popen(
    [*words, *more], cwd=crash_test._ROOT, stdout=subprocess.DEVNULL,
    stderr=subprocess.PIPE, text=True, env=os.environ | environment,
  )  # fmt: skip


def _wait_for(workdir, number):
  """Until so many shards are published."""
  deadline = time.monotonic() + crash_test._LIMIT
  while len(crash_test._published(workdir)) < number:
    assert time.monotonic() < deadline
    time.sleep(0.005)


def _both(workdir, *more, settings=_SETTINGS):
  """Two processes of one task."""
  address = f"127.0.0.1:{_free_port()}"
  return [
    _start(
      f"--workdir={workdir}", f"--coordinator={address}",
      f"--process_id={index}", "--num_processes=2", *more, settings=settings,
    )
    for index in range(2)
  ]  # fmt: skip


@pytest.fixture(scope="module")
def one(tmp_path_factory):
  workdir = tmp_path_factory.mktemp("one") / "run"
  assert _start(f"--workdir={workdir}").wait(120) == 0
  return crash_test._bytes(workdir)


@pytest.mark.slow
def test_two_processes_make_the_bytes_of_one(one, tmp_path):
  both = _both(tmp_path)
  assert [process.wait(120) for process in both] == [0, 0]
  found = state.status(tmp_path)
  assert found.complete and found.processes == 2
  assert crash_test._bytes(tmp_path) == one


@pytest.mark.slow
@pytest.mark.parametrize("devices", [1, 8])
def test_any_number_of_devices_makes_the_same_bytes(one, tmp_path, devices):
  """The batch of one device is part of the configuration."""
  flags = f"--xla_force_host_platform_device_count={devices}"
  process = _start(f"--workdir={tmp_path}", XLA_FLAGS=flags)
  assert process.wait(120) == 0
  assert crash_test._bytes(tmp_path) == one


_EXPLAINED = """
from spex_jax.configs import digits

def get_config():
  config = digits.get_config("quick")
  config.build = "spex_jax.jobs.sweeping:explanations"
  config.keep, config.batch_size, config.model_dir = 0.5, 16, "model"
  config.rows, config.rows_per_shard, config.nan = 90, 45, "error"
  config.retries, config.max_failed = 0, 0.0
  return config
"""


@pytest.mark.slow
def test_explanations_too_are_the_same_on_any_number_of_devices(tmp_path):
  (tmp_path / "explained.py").write_text(_EXPLAINED)
  found = []
  for devices in (1, 3):
    workdir = tmp_path / f"run{devices}"
    flags = f"--xla_force_host_platform_device_count={devices}"
    done = subprocess.run(
      [sys.executable, "-c", "from spex_jax import cli; cli.run()", "sweep",
       "run", "--config=explained.py", f"--workdir={workdir}"],
      cwd=tmp_path, capture_output=True, text=True,
      env=os.environ | {"XLA_FLAGS": flags,
                        "PYTHONPATH": str(crash_test._ROOT)},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    found.append(crash_test._bytes(workdir))
  assert found[0] == found[1]


@pytest.mark.slow
def test_a_process_that_is_killed_takes_no_other_with_it(tmp_path):
  """The other ends its part; the same command makes what is missing."""
  many = (*_SETTINGS, "--config.rows=96", "--config.rows_per_shard=2")
  both = _both(tmp_path / "two", "--patience=3", settings=many)
  _wait_for(tmp_path / "two", 6)
  both[1].send_signal(signal.SIGKILL)
  _, said = both[0].communicate(timeout=crash_test._LIMIT)
  assert both[0].returncode == 75, said
  assert "other processes of this task did not publish" in said
  published = crash_test._published(tmp_path / "two")
  assert 48 <= len(published) < 96
  both = _both(tmp_path / "two", settings=many)
  assert [process.wait(120) for process in both] == [0, 0]
  assert published.items() <= crash_test._published(tmp_path / "two").items()
  process = _start(f"--workdir={tmp_path / 'one'}", settings=many)
  assert process.wait(120) == 0
  left = crash_test._bytes(tmp_path / "two")
  whole = {n: data for n, data in left.items() if not n.startswith(".")}
  assert whole == crash_test._bytes(tmp_path / "one")


def test_where_there_is_no_job_that_is_said(tmp_path):
  _, said = _start(f"--workdir={tmp_path}", "--distributed").communicate()
  assert "JAX finds no job of several processes here: give" in said


def test_a_coordinator_that_does_not_answer():
  address = f"127.0.0.1:{_free_port()}"
  begin = time.monotonic()
  with pytest.raises(TimeoutError, match=f"Nobody answers .* {address} within"):
    processes.join(address, 1, 2, timeout=0.5)
  assert time.monotonic() - begin < 200  # JAX's own limit is 300 s.


@pytest.mark.parametrize(
  ("address", "index", "count", "message"),
  [
    ("nowhere", 0, 2, "give HOST:PORT"),
    ("host:http", 0, 2, "give HOST:PORT"),
    ("127.0.0.1:1", 2, 2, "process_id=2 must lie in 0..1"),
    ("127.0.0.1:1", None, None, "needs process_id and num_processes"),
  ],
)
def test_jobs_that_cannot_be(address, index, count, message):
  with pytest.raises(ValueError, match=message):
    processes.join(address, index, count)


_SPLIT = """
import ml_collections

def get_config():
  return ml_collections.ConfigDict({
    "build": "spex_jax.jobs.sweeping:calls",
    "function": "tests.sweeps.split:value", "n": 12, "keep": 0.5, "seed": 0,
    "rows": 60, "rows_per_shard": 6, "nan": "drop", "retries": 0,
    "max_failed": 0.5,
  })
"""


def _together(workdir, file, broken="", axes="masks,model"):
  """Two processes with two devices each, at every shard together."""
  address = f"127.0.0.1:{_free_port()}"
  flags = "--xla_force_host_platform_device_count=2"
  return [
    subprocess.Popen(
      [
        sys.executable, "-c", "from spex_jax import cli; cli.run()", "sweep",
        "run", f"--config={file}", f"--workdir={workdir}", "--together",
        f"--coordinator={address}", f"--process_id={index}",
        "--num_processes=2",
      ],
      cwd=crash_test._ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE,
      text=True,
      env=os.environ | {
        "XLA_FLAGS": flags, "SPLIT_AXES": axes,
        "SPLIT_BROKEN": broken,
      },
    )
    for index in range(2)
  ]  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("axes", ["masks,model", "model,masks"])
def test_parameters_may_lie_on_several_processes(tmp_path, axes):
  """A mask that fails is marked, and all else is evaluated."""
  (tmp_path / "split.py").write_text(_SPLIT)
  both = _together(tmp_path / "run", tmp_path / "split.py", "yes", axes)
  said = [process.communicate(timeout=crash_test._LIMIT)[1] for process in both]
  assert [process.returncode for process in both] == [0, 0], said
  found = state.status(tmp_path / "run")
  assert found.complete and found.processes == 2
  book, _ = run.opened(tmp_path / "run")
  weights = np.random.default_rng(0).normal(size=(12, 16)).astype(np.float32)
  for _, rows in book.scan():
    masks = rows.masks()
    wrong = masks[:, :3].all(axis=1)
    np.testing.assert_array_equal(rows.status, np.where(wrong, 2, 0))
    expected = np.tanh(masks.astype(np.float64) @ weights).sum(axis=1)
    # 16 values of at most 1, each with errors of a few roundings.
    np.testing.assert_allclose(
      rows.values[~wrong, 0], expected[~wrong], rtol=0, atol=2e-5
    )


def test_without_another_a_process_ends_where_it_can_go_on(tmp_path):
  """The values are those of a run that nobody disturbed."""
  (tmp_path / "split.py").write_text(
    _SPLIT.replace('"rows": 60', '"rows": 12000')
  )
  both = _together(tmp_path / "run", tmp_path / "split.py")
  _wait_for(tmp_path / "run", 4)
  both[1].send_signal(signal.SIGKILL)
  _, said = both[0].communicate(timeout=crash_test._LIMIT)
  assert both[0].returncode == 75, said
  assert "another process of this task is gone" in said
  before = crash_test._published(tmp_path / "run")
  assert 4 <= len(before) < 2000 and not state.status(tmp_path / "run").given_up


@pytest.mark.slow
def test_together_all_take_the_same_shard_whatever_others_do(tmp_path):
  """Another task publishes shards meanwhile; no value is of another mask."""
  (tmp_path / "split.py").write_text(
    _SPLIT.replace('"rows": 60', '"rows": 3000')
  )
  both = _together(tmp_path / "run", tmp_path / "split.py")
  _wait_for(tmp_path / "run", 4)
  book, sweep = run.opened(tmp_path / "run")
  weights = np.random.default_rng(0).normal(size=(12, 16)).astype(np.float32)
  work = sweeping.calls(sweep.item_config(0))
  for index in range(0, 500, 7):
    shard = sweep.shard(index)
    masks = work.masks(shard.start, shard.stop)
    values = np.tanh(masks.astype(np.float32) @ weights).sum(axis=1)
    book.write(index, shards.rows_of(masks, values))
  said = [process.communicate(timeout=crash_test._LIMIT)[1] for process in both]
  assert [process.returncode for process in both] == [0, 0], said
  assert state.status(tmp_path / "run").complete
  for _, rows in book.scan():
    expected = np.tanh(rows.masks().astype(np.float64) @ weights).sum(axis=1)
    np.testing.assert_allclose(rows.values[:, 0], expected, rtol=0, atol=2e-5)
