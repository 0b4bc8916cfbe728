"""Flipped bits in every kind of file, and a disk that is really full."""

import subprocess

import pytest

from spex_jax.store import folders
from spex_jax.sweeps import process_metrics, run, state
from tests.sweeps import small


def _run(path, sweep):
  return run.Run(path, sweep, small.Sum).run()


def _files(path):
  return {p.name: p.read_bytes() for p in (path / "shards").iterdir()}


@pytest.mark.parametrize("kind", ["config", "items", "failures", "log"])
@pytest.mark.parametrize("position", [0.1, 0.5, 0.99])
def test_a_flipped_bit_is_found_in_every_file(tmp_path, kind, position):
  """Of shards and manifests: `run_test`. What a run needs it writes again."""
  sweep = small.sweep(broken="build")
  _run(tmp_path, sweep)
  place = {
    "config": tmp_path / "config.json",
    "items": tmp_path / "items.json",
    "failures": tmp_path / "failures/00000004.0002.json",
    "log": next((tmp_path / "log").rglob("metrics.jsonl")),
  }[kind]
  data = place.read_bytes()
  at = int(len(data) * position)
  place.write_bytes(data[:at] + bytes([data[at] ^ 4]) + data[at + 1 :])
  if kind in ("config", "items"):
    with pytest.raises(ValueError, match=place.name):
      state.status(tmp_path)
    _run(tmp_path, sweep)
    assert place.read_bytes() == data
  found = state.verify(tmp_path)
  assert found.sound == 3 and not found.damaged
  names = ["failures/00000004.0002.json"] if kind == "failures" else []
  assert found.failures == names
  assert sum(found.lines.values()) == (kind == "log")
  if kind == "failures":  # Put aside; so it is tried once more.
    assert not place.exists() and state.verify(tmp_path).failures == []
    assert 4 not in state.status(tmp_path).given_up


def test_a_line_that_a_kill_cut_off_is_no_damage(tmp_path):
  _run(tmp_path, small.sweep())
  folder = folders.opened(tmp_path)
  before = process_metrics.read(folder)
  log = next((tmp_path / "log").rglob("metrics.jsonl"))
  data = log.read_bytes()
  log.write_bytes(data + data[:30])
  assert process_metrics.read(folder) == before and before.damaged == {}


@pytest.fixture
def tiny_disk(tmp_path):
  """A file system of 1.5 MiB."""
  place = tmp_path / "disk"
  place.mkdir()
  mount = ["mount", "-t", "tmpfs", "-o", "size=1536k", "tmpfs", str(place)]
  if subprocess.run(mount, capture_output=True).returncode:
    pytest.skip("mounting needs root")
  yield place
  subprocess.run(["umount", "-l", str(place)], check=True)


def test_a_full_disk_is_an_error_and_nothing_is_lost(tiny_disk, tmp_path):
  """As the system says it; the shards before it stay, and no part of one."""
  sweep = small.sweep([{"scale": float(number)} for number in range(1, 31)])
  ballast = tiny_disk / ".ballast"
  ballast.write_bytes(bytes(1200 << 10))
  path = tiny_disk / "run"
  for _ in range(2):
    with pytest.raises(OSError, match="No space left"):
      _run(path, sweep)
  before = state.verify(path)
  assert 0 < before.sound < 90 and not before.damaged
  assert not state.status(path).given_up
  ballast.unlink()
  assert _run(path, sweep).shards == 90 - before.sound
  _run(tmp_path / "roomy", sweep)
  assert _files(path) == _files(tmp_path / "roomy")
