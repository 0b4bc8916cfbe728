"""A sweep whose directory is a URL: in memory, and on S3 with kills.

The quick half runs in memory; the other needs moto and s3fs (`make
test-cluster`).
"""

import os
import signal
import subprocess
import sys
import time
import uuid

import numpy as np
import pytest

from spex_jax.store import folders, ledger
from spex_jax.sweeps import exports, run, state
from tests.sweeps import crash_test, small


def _bytes(url):
  """Of every published file."""
  folder = folders.opened(url)
  return folder.read_all(f"shards/{name}" for name in folder.sizes("shards"))


@pytest.fixture
def url():
  return f"memory://{uuid.uuid4().hex}/run"


def test_a_sweep_in_memory_is_that_on_a_disk(url, tmp_path):
  sweep = small.sweep()
  for index in (1, 0):
    assert run.Run(url, sweep, small.Sum).run(index, 2).shards == 3
  run.Run(tmp_path, sweep, small.Sum).run()
  assert _bytes(url) == _bytes(tmp_path)
  found = state.status(url)
  assert found.complete and found.processes == 2 and found.rate > 0
  masks, values = state.samples(url, 1)
  np.testing.assert_array_equal(
    values[:, 0], 2 * (masks @ np.arange(1.0, small.N + 1))
  )
  assert exports.export(url, tmp_path / "all.parquet") == 40
  assert run.Run(url, sweep, small.Sum).run().shards == 0


def test_damage_is_put_aside_and_made_again(url):
  sweep = small.sweep()
  run.Run(url, sweep, small.Sum).run()
  whole, folder = _bytes(url), folders.opened(url)
  for name, change in (
    ("shards/00000001.parquet", lambda data: data[:90] + b"?" + data[91:]),
    ("shards/00000002.json", lambda data: data[:50]),
    ("shards/00000004.parquet", lambda data: data[:-1]),
  ):
    folder.replace(name, change(folder.read(name)))
  found = state.verify(url)
  assert sorted(found.damaged) == [1, 2, 4] and found.missing == 3
  assert state.status(url).quarantined == 3
  assert run.Run(url, sweep, small.Sum).run().shards == 3
  assert _bytes(url) == whole
  assert len(state.collect_garbage(url, older_than=-1)) == 9
  assert _bytes(url) == whole


def test_others_are_refused_there_too(url):
  run.Run(url, small.sweep(), small.Sum)
  with pytest.raises(ledger.OtherConfigError, match="scale differs"):
    run.Run(url, small.sweep(scale=3.0), small.Sum)
  other = f"memory://{uuid.uuid4().hex}/mine"
  folders.opened(other).create("thesis.txt", b"precious")
  with pytest.raises(ValueError, match="it is no ledger of"):
    run.Run(other, small.sweep(), small.Sum)


def test_a_store_that_does_not_answer_is_named(url, monkeypatch):
  def broken(folder, name):
    raise ConnectionError("reset by peer")

  run.Run(url, small.sweep(), small.Sum)
  monkeypatch.setattr(folders.ObjectStore, "read", broken)
  with pytest.raises(
    ConnectionError, match=f"workdir {url} is out of reach: Conn"
  ):
    state.status(url)


@pytest.fixture(scope="module")
def bucket():
  """An S3 of its own, whose clients find it by their environment."""
  moto = pytest.importorskip("moto.server", reason="make test-cluster")
  server = moto.ThreadedMotoServer(ip_address="127.0.0.1", port=0)
  server.start()
  host, port = server.get_host_and_port()
  settings = {
    "AWS_ENDPOINT_URL": f"http://{host}:{port}", "AWS_ACCESS_KEY_ID": "test",
    "AWS_SECRET_ACCESS_KEY": "test", "AWS_DEFAULT_REGION": "us-east-1",
  }  # fmt: skip
  with pytest.MonkeyPatch.context() as patch:
    for name, value in settings.items():
      patch.setenv(name, value)
    import s3fs

    s3fs.S3FileSystem().mkdir("sweeps")
    yield "s3://sweeps"
  server.stop()


def _start(workdir, *more):
  words = [
    sys.executable, "-c", "from spex_jax import cli; cli.run()", "sweep", "run",
    f"--config={crash_test._CONFIG}", f"--workdir={workdir}", *more,
    *crash_test._SETTINGS,
  ]  # fmt: skip
  return subprocess.Popen(
    words, cwd=crash_test._ROOT, stdout=subprocess.DEVNULL, env=os.environ
  )


@pytest.mark.cluster
def test_kills_over_s3_change_no_byte(bucket, tmp_path):
  """Two workers, SIGKILLed three times; the bytes are those of a disk."""
  url = f"{bucket}/kills"
  rng = np.random.default_rng(0)
  folder = folders.opened(url)
  published: dict = {}
  for mark in (10, 40, 80):
    workers = [
      _start(url, f"--task_index={i}", "--task_count=2") for i in range(2)
    ]
    deadline = time.monotonic() + 600
    while len(folder.sizes("shards")) < 2 * mark:
      assert time.monotonic() < deadline
      time.sleep(0.02)
    time.sleep(rng.random() * 0.05)
    for worker in workers:
      worker.send_signal(signal.SIGKILL)
      worker.wait()
    now = {n: d for n, d in _bytes(url).items() if n.endswith(".json")}
    assert published.items() <= now.items()
    published = now
  assert _start(url).wait(120) == 0
  assert _start(tmp_path / "disk").wait(120) == 0
  assert _bytes(url) == _bytes(tmp_path / "disk")
  found = state.verify(url)
  assert (found.sound, found.damaged, found.lines) == (120, {}, {})


@pytest.mark.cluster
def test_of_two_writers_on_s3_one_wins(bucket):
  one = folders.opened(f"{bucket}/race")
  other = folders.opened(f"{bucket}/race")
  won = [(one.create(f"{i}", b"1"), other.create(f"{i}", b"2"))
         for i in range(5)]  # fmt: skip
  assert won == [(True, False)] * 5
  large = bytes(20 << 20)  # In several parts.
  assert one.create("large", large) and not other.create("large", b"2")
  assert other.read("large") == large


@pytest.mark.cluster
def test_a_bucket_that_is_not_there_is_told(bucket, tmp_path, capsys):
  from tests import command

  code, _, err = command.run(
    capsys, "sweep", "run", f"--config={crash_test._CONFIG}",
    "--workdir=s3://no-such-bucket/run", *crash_test._SETTINGS,
  )  # fmt: skip
  assert code == 1 and "specified bucket does not exist" in err
