"""Injected faults: flipped bits in every kind of file, and bad inputs.

`make faults` runs these at full size, and the kills of `tests/sweeps`.
"""

import json
import os

import numpy as np
import pytest

from spex_jax import base, cli
from spex_jax.ablate import closed
from spex_jax.sweeps import anchors, run, state
from tests import command
from tests.sweeps import small

pytestmark = pytest.mark.faults

_KINDS = ("config", "items", "manifest", "rows", "anchors", "failures", "log")


class _Anchored(small.Sum):
  anchors = 2


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
  """A sweep with a file of every kind."""
  path = tmp_path_factory.mktemp("whole")
  run.Run(path, small.sweep(broken="build"), _Anchored).run()
  return path


def _place(path, kind):
  return {
    "config": path / "config.json",
    "items": path / "items.json",
    "manifest": path / "shards/00000001.json",
    "rows": path / "shards/00000001.parquet",
    "anchors": path / "anchors/00000000.json",
    "failures": path / "failures/00000004.0002.json",
    "log": next((path / "log").rglob("metrics.jsonl")),
  }[kind]


def _is_found(path):
  try:
    found = state.verify(path)
  except ValueError:
    return True
  return bool(found.damaged or found.failures or found.anchors or found.lines)


def _flips(path, kind, number, seed):
  """How many of so many flips of one bit are found; all is as it was after."""
  place, rng, found = _place(path, kind), np.random.default_rng(seed), 0
  # A shard is put aside whole.
  kept = {
    one: one.read_bytes()
    for one in (place, _place(path, "manifest"), _place(path, "rows"))
  }
  size = len(kept[place])
  for at in [size - 1, *rng.integers(size, size=number - 1)]:
    damaged = bytearray(kept[place])
    damaged[at] ^= 1 << rng.integers(8)
    place.write_bytes(damaged)
    found += _is_found(path)
    for one, data in kept.items():
      one.write_bytes(data)
  return found


@pytest.mark.parametrize("kind", _KINDS)
def test_flipped_bits_are_found(whole, kind):
  assert not _is_found(whole)
  assert _flips(whole, kind, 6, seed=0) == 6
  assert not _is_found(whole)


@pytest.mark.slow
def test_two_hundred_flips_of_two_hundred_are_found(whole, record_property):
  number = {kind: 28 + (i < 4) for i, kind in enumerate(_KINDS)}
  assert sum(number.values()) == 200
  found = {kind: _flips(whole, kind, number[kind], seed=1) for kind in _KINDS}
  told = ", ".join(f"{kind} {count}" for kind, count in found.items())
  total = sum(found.values())
  record_property("fault", f"{total} flipped bits found of 200: {told}")
  assert found == number


def test_flipped_bits_of_answers_on_disk_are_found(tmp_path):
  path = tmp_path / "answers.jsonl"
  with closed.File(path, "m") as cache:
    cache.put(np.eye(3, dtype=bool), np.arange(3.0))
  sound, rng = path.read_bytes(), np.random.default_rng(0)
  for at in [len(sound) - 1, *rng.integers(len(sound), size=20)]:
    damaged = bytearray(sound)
    damaged[at] ^= 1 << rng.integers(8)
    path.write_bytes(damaged)
    with pytest.raises(ValueError, match="damaged"):
      closed.File(path, "m")


_TAMPERED = {
  "a path upwards": {"file": "../../precious"},
  "a path from the root": {"file": "/etc/passwd"},
  "the folder above": {"file": ".."},
  "the file of another": {"file": "00000002.parquet"},
  "a NUL": {"file": "a\0b"},
  "no text": {"file": 7},
  "rows in words": {"rows": "four"},
  "true rows": {"rows": True},
  "fewer rows": {"rows": 3},
  "other players": {"n": 5},
  "other targets": {"targets": 9},
  "another dtype": {"dtype": "int8"},
  "no counts": {"counts": {}},
  "a short sum": {"file_sha256": "abc"},
} | {
  f"no {key}": {key: None}
  for key in ("schema", "file", "file_sha256", "bytes", "rows", "n", "targets",
              "dtype", "counts")
}  # fmt: skip


@pytest.mark.parametrize("what", _TAMPERED)
def test_a_manifest_that_lies_is_put_aside_and_nothing_else(
  tmp_path, record_property, what
):
  """Its checksum is right; what it names outside stays, after gc, too."""
  path, precious = tmp_path / "run", tmp_path / "precious"
  sweep = small.sweep(broken="build")
  run.Run(path, sweep, small.Sum).run()
  precious.write_text("x")
  place = path / "shards/00000001.json"
  body = json.loads(place.read_bytes())
  del body["sha256"]
  body |= _TAMPERED[what]
  place.write_bytes(
    base.to_json({k: v for k, v in body.items() if v is not None})
  )
  found = state.verify(path)
  assert list(found.damaged) == [1] and found.sound == 2
  record_property("fault", f"manifest, {what}: {found.damaged[1]}")
  state.collect_garbage(path, older_than=-1.0)
  assert precious.read_text() == "x"
  assert run.Run(path, sweep, small.Sum).run().shards == 1
  assert state.verify(path).sound == 3


_UNREADABLE = (
  ModuleNotFoundError("No module named 'pydoc'"),
  NotImplementedError("Support for codec 'zstd' not built"),
  MemoryError("malloc of size 192000000 failed"),
  OSError("Corrupt snappy compressed data."),
)


@pytest.mark.parametrize("error", _UNREADABLE, ids=lambda e: type(e).__name__)
def test_what_a_machine_cannot_read_is_not_damaged(
  whole, monkeypatch, capsys, error
):
  import pyarrow.parquet as pq

  def read(*unused, **more):
    raise error

  before = sorted(place.name for place in (whole / "shards").iterdir())
  with monkeypatch.context() as patch:
    patch.setattr(pq, "read_table", read)
    for words in (["verify"], ["export", "--partial", "--output=x.parquet"]):
      assert cli.main(["sweep", *words, f"--workdir={whole}"]) == 1
  assert str(error) in capsys.readouterr().err
  assert sorted(place.name for place in (whole / "shards").iterdir()) == before
  assert state.verify(whole).sound == 3


def test_what_was_put_aside_wrongly_is_kept(tmp_path):
  """As an earlier release did, whose shards nobody made again since."""
  run.Run(tmp_path, small.sweep(), small.Sum).run()
  aside = tmp_path / "quarantine"
  aside.mkdir()
  for kind in ("json", "parquet"):
    place = tmp_path / f"shards/00000002.{kind}"
    place.rename(aside / f"00000002.0123abcd.{kind}")
  (aside / "00000002.0123abcd.txt").write_text("MemoryError\n")
  (aside / "00000003.0123abcd.json").write_text("half")
  collect = lambda: state.collect_garbage(tmp_path, older_than=-1.0)
  assert collect() == ["quarantine/00000003.0123abcd.json"]
  run.Run(tmp_path, small.sweep(), small.Sum).run()  # Makes it again, alike.
  assert len(collect()) == 3 and not any(aside.iterdir())


def test_a_configuration_of_another_run_moves_no_shard(tmp_path):
  for name, seed in (("one", 1.0), ("other", 2.0)):
    sweep = small.sweep([{"scale": seed}])
    run.Run(tmp_path / name, sweep, small.Sum).run()
  place = tmp_path / "one/config.json"
  sound = place.read_bytes()
  for name in ("config.json", "items.json"):
    data = (tmp_path / "other" / name).read_bytes()
    (tmp_path / "one" / name).write_bytes(data)
  with pytest.raises(ValueError, match=r"config.json is of another run than"):
    state.verify(tmp_path / "one")
  assert not (tmp_path / "one/quarantine").exists()
  place.write_bytes(sound)
  with pytest.raises(ValueError, match="items.json is of another sweep"):
    state.verify(tmp_path / "one")


def test_lost_anchors_still_guard(tmp_path):
  """Published rows stand in, whether the file is damaged or gone."""

  class Other(_Anchored):
    def values(self, masks):
      return 3 * super().values(masks)

  sweep = small.sweep()
  run.Run(tmp_path, sweep, _Anchored).run()
  place = tmp_path / "anchors/00000000.json"
  sound = place.read_bytes()
  for index in (0, 2):
    for kind in ("json", "parquet"):
      (tmp_path / f"shards/{index:08d}.{kind}").unlink()
  for damaged in (b"{" + sound[2:], None):
    place.unlink(missing_ok=True)
    if damaged:
      place.write_bytes(damaged)
      assert state.verify(tmp_path).anchors == ["anchors/00000000.json"]
      place.write_bytes(damaged)
    with pytest.raises(anchors.OtherValuesError, match="Item 0"):
      run.Run(tmp_path, sweep, Other).run()
  assert run.Run(tmp_path, sweep, _Anchored).run().shards == 2
  assert place.read_bytes() == sound


@pytest.mark.parametrize("what", ["folder", "pipe", "circle", "empty"])
@pytest.mark.parametrize("kind", ["manifest", "rows"])
def test_what_is_no_file_is_put_aside(tmp_path, kind, what):
  run.Run(tmp_path, small.sweep(), small.Sum).run()
  place = _place(tmp_path, kind)
  sound = place.read_bytes()
  place.unlink()
  {
    "folder": place.mkdir,
    "pipe": lambda: os.mkfifo(place),
    "circle": lambda: place.symlink_to(place),
    "empty": place.touch,
  }[what]()
  run.Run(tmp_path, small.sweep(), small.Sum).run()
  found = state.verify(tmp_path)
  assert (found.sound, found.missing) == (6, 0)
  if kind == "manifest":
    body = json.loads(place.read_bytes())
    assert body["file_sha256"] == json.loads(sound)["file_sha256"]


_CONFIG = """\
import ml_collections
def get_config():
  return ml_collections.ConfigDict(dict(
    build="spex_jax.jobs.sweeping:calls", function="mine:value", n=4, seed=0,
    keep=.5, rows=8, rows_per_shard=4, nan="drop", retries=0, max_failed=0.))
"""
_BAD = {
  "rows": (["run", "--config.rows=1000000000000", "--dry_run"], "rows_per_sh"),
  "more rows": (["run", f"--config.rows={10**30}"], "rows_per_shard"),
  "a place in /proc": (["run", "--workdir=/proc/none"], "cannot be made"),
  "/proc": (["run", "--workdir=/proc"], "no ledger of ours"),
  "stall": (["run", "--stall=nan"], "--stall=nan"),
  "price": (["status", "--price=nan"], "--price=nan"),
  "onto a folder": (["export", "--output=."], "is a folder"),
  "onto a device": (["export", "--output=/dev/null"], "is a device"),
  "onto a link": (["export", "--output=link"], "is a link"),
  "onto a pipe": (["export", "--output=pipe"], "is a pipe"),
  "its sum": (["export", "--output=summed"], "summed.sha256 is a link"),
  "onto a shard": (
    ["export", "--output=run/shards/00000000.parquet"], "own files",
  ),
  "older than": (["gc", "--older_than=inf"], "--older_than=inf"),
}  # fmt: skip


@pytest.fixture(scope="module")
def place(tmp_path_factory):
  place = tmp_path_factory.mktemp("place")
  (place / "sweep.py").write_text(_CONFIG)
  (place / "mine.py").write_text("def value(masks): return masks.sum(1)\n")
  (place / "link").symlink_to("target")
  (place / "summed.sha256").symlink_to("target")
  os.mkfifo(place / "pipe")
  with pytest.MonkeyPatch.context() as patch:
    patch.chdir(place)
    patch.syspath_prepend(str(place))
    words = ["--config=sweep.py", "--workdir=run"]
    assert cli.main(["sweep", "run", *words]) == 0
    yield place


@pytest.mark.parametrize("what", _BAD)
def test_bad_inputs_of_a_sweep_give_one_line(
  place, capsys, record_property, what
):
  (action, *more), match = _BAD[what]
  words = ["--config=sweep.py"] if action == "run" else []
  said = command.refused(
    capsys, "sweep", action, *words, "--workdir=run", *more
  )
  assert match in said
  record_property("fault", f"sweep {action}, {what}: {said}")
  assert not (place / "target").exists() and (place / "link").is_symlink()
  assert state.verify("run").sound == 2
