"""Runs: resumed, shared, failing; the same bytes all the same."""

import hashlib
import json
import os
import signal

import numpy as np
import pytest

from spex_jax import base
from spex_jax.store import folders, ledger
from spex_jax.sweeps import exports, failures, grid, process_metrics, run, state
from tests.sweeps import small


def _run(path, sweep=None, *task, **more):
  return run.Run(path, sweep or small.sweep(), small.Sum).run(*task, **more)


def _files(path, folder="shards"):
  return {place.name: place.read_bytes() for place in (path / folder).iterdir()}


@pytest.fixture
def whole(tmp_path):
  """A sweep that was never disturbed."""
  _run(tmp_path / "whole")
  return tmp_path / "whole"


def test_a_run_holds_every_value(whole):
  for item, scale in enumerate((1.0, 2.0)):
    masks, values = state.samples(whole, item)
    total = scale * (masks @ np.arange(1.0, small.N + 1))
    np.testing.assert_array_equal(values, np.stack([total, -total], axis=1))
    assert len(masks) == 20
  found = state.status(whole)
  assert (found.shards, found.num_shards) == (6, 6) and found.complete
  assert (found.rows, found.num_rows, found.marked) == (40, 40, 0)
  assert found.processes == 1 and found.rate > 0 and found.eta == 0


@pytest.mark.parametrize("order", [(0, 1, 2), (2, 0, 1)])
def test_tasks_make_the_same_bytes_as_one(whole, tmp_path, order):
  for index in order:
    report = _run(tmp_path / "parts", None, index, 3)
    assert report.shards == 2 and not report.given_up
  assert _files(tmp_path / "parts") == _files(whole)
  again = _run(tmp_path / "parts")
  assert again.shards == 0 and again.rows == 0


def test_a_signal_ends_after_the_shard_and_the_rest_is_done_later(
  whole, tmp_path
):
  path = tmp_path / "run"

  def interrupt(done, total, what):
    if done == 8:
      os.kill(os.getpid(), signal.SIGTERM)

  report = _run(path, progress=interrupt)
  assert report.interrupted and 1 <= report.shards <= 2
  assert not state.status(path).complete
  assert _run(path).shards == 6 - report.shards
  assert _files(path) == _files(whole)


@pytest.mark.parametrize("name", ["00000002.parquet", "00000002.json"])
@pytest.mark.parametrize("how", ["flip", "cut", "gone"])
def test_damage_is_found_and_made_again_alone(whole, tmp_path, name, how):
  clean = _files(whole)
  place = whole / "shards" / name
  data = bytearray(place.read_bytes())
  if how == "gone":
    place.unlink()
  else:
    data[len(data) // 2] ^= 4
    place.write_bytes(data if how == "flip" else data[: len(data) // 2])
  found = state.verify(whole)
  assert found.sound == 5 and found.missing == 1
  if (name, how) != ("00000002.json", "gone"):  # Else it is just not there.
    assert list(found.damaged) == [2]
    assert state.status(whole).quarantined == 1
  asked = len(small.Sum.asked)
  assert _run(whole).shards == 1
  assert len(small.Sum.asked) == asked + 1
  assert _files(whole) == clean


def test_a_run_mends_what_a_look_at_manifests_shows(whole):
  clean = _files(whole)
  (whole / "shards" / "00000001.parquet").write_bytes(b"cut")
  (whole / "shards" / "00000004.json").write_bytes(b"{}")
  assert _run(whole).shards == 2
  assert _files(whole) == clean


def test_a_damaged_list_of_items_is_refused(whole):
  place = whole / "items.json"
  place.write_text(place.read_text().replace("2.0", "3.0"))
  with pytest.raises(ValueError, match="contradict its sha256"):
    state.status(whole)


def test_rows_without_a_number_are_marked(tmp_path):
  for broken, kind in (("nan", 1), ("raise", 2)):
    path = tmp_path / broken
    report = _run(path, small.sweep(broken=broken))
    assert report.rows == 40 and not report.given_up
    book, _ = run.opened(path)
    for _, rows in book.scan():
      total = rows.masks() @ np.arange(1.0, small.N + 1)
      np.testing.assert_array_equal(rows.status, np.where(total > 30, kind, 0))
    masks, values = state.samples(path, 0)
    assert len(values) == (masks @ np.arange(1.0, small.N + 1) <= 30).sum()
    assert state.status(path).marked == 40 - 2 * len(values)
    kept = tmp_path / f"{broken}.parquet"
    assert exports.export(path, kept) == 2 * len(values)
  with pytest.raises(base.NotFiniteError, match="Shard 0 .scale=1.0.: .*drop"):
    _run(tmp_path / "strict", small.sweep(broken="nan", nan="error"))


def test_failures_are_told_retried_and_then_given_up(tmp_path):
  sweep = small.sweep(broken="build", retries=2)
  report = _run(tmp_path, sweep)
  assert report.shards == 3 and sorted(report.given_up) == [3, 4, 5]
  assert "RuntimeError: no such model (small.py" in report.given_up[3]
  attempts = failures.by_shard(folders.opened(tmp_path))
  assert [attempts[index].number for index in (3, 4, 5)] == [3, 3, 3]
  built = small.Sum.built
  assert sorted(_run(tmp_path, sweep).given_up) == [3, 4, 5]
  assert small.Sum.built == built  # Nothing is tried that was given up, ...
  _run(tmp_path, sweep, retry_failed=True)
  assert small.Sum.built == built + 1  # ... unless that is asked for.
  found = state.status(tmp_path)
  assert sorted(found.given_up) == [3, 4, 5] and found.shards == 3


@pytest.mark.parametrize(
  ("broken", "cause"),
  [
    ("always", "every mask of the shard failed: MemoryError: out of memory"),
    ("shape", "The value function gave 5 targets; 2 were announced"),
  ],
)
def test_too_much_that_fails_ends_the_sweep(tmp_path, broken, cause):
  sweep = small.sweep(broken=broken, max_failed=0.2)
  with pytest.raises(run.TooManyFailedError, match="2 of 6 shards") as error:
    _run(tmp_path, sweep)
  assert cause in str(error.value) and "max_failed=0.2" in str(error.value)


def test_two_writers_of_one_shard_agree(whole, tmp_path):
  """Both did the work; the first publishes, the second sees that."""
  path, other = tmp_path / "run", run.Run(tmp_path / "run", small.sweep(),
                                          small.Sum)  # fmt: skip

  def race(done, total, what):
    if done == 0:
      other.ledger.write(0, ledger.Ledger.read(run.opened(whole)[0], 0))

  report = _run(path, progress=race)
  assert report.shards == 5 and _files(path) == _files(whole)
  lines = process_metrics.read(folders.opened(path)).entries
  events = ["start", "twice", *["shard"] * 5, "end"]
  assert [line["event"] for line in lines] == events


def test_others_are_refused_by_name(whole, tmp_path, monkeypatch):
  with pytest.raises(ledger.OtherConfigError, match="sweep.scale differs"):
    _run(whole, small.sweep(scale=4.0))
  with pytest.raises(ledger.OtherConfigError, match="items.count, items.sha"):
    _run(whole, small.sweep([{}]))
  facts = run.environment.facts()
  facts["code"]["sources"] = "another"
  monkeypatch.setattr(run.environment, "facts", lambda sources: facts)
  with pytest.raises(
    ledger.OtherConfigError, match="code.sources differs.*--accept=code:"
  ):
    _run(whole)
  (tmp_path / "mine").mkdir()
  (tmp_path / "mine" / "thesis.txt").write_text("precious")
  with pytest.raises(ValueError, match="it is no ledger of"):
    _run(tmp_path / "mine")
  with pytest.raises(ValueError, match="holds no sweep"):
    state.status(tmp_path / "mine")


def test_directories_without_permission(whole, tmp_path, request):
  (tmp_path / "closed").mkdir(mode=0o000)
  (whole / "shards/00000002.json").unlink()
  for place in (tmp_path, whole, whole / "shards", whole / "log"):
    place.chmod(0o555)
  request.getfixturevalue("stranger")
  for name in ("new", "closed/run"):
    with pytest.raises(ValueError, match=f"{name} cannot be read and written"):
      _run(tmp_path / name)
  # One that is for reading alone can be looked at, and no more.
  assert state.status(whole).shards == 5
  with pytest.raises(ValueError, match="whole cannot be read and written"):
    _run(whole)


def test_clocks_may_go_backwards(whole, tmp_path, monkeypatch):
  clock = iter(range(10**6, 0, -1000))
  monkeypatch.setattr(process_metrics.time, "time", lambda: float(next(clock)))
  _run(tmp_path / "run")
  assert _files(tmp_path / "run") == _files(whole)
  found = state.status(tmp_path / "run")
  assert found.complete and found.rate > 0


def test_other_code_is_accepted_when_that_is_said(whole, tmp_path, monkeypatch):
  """And the manifests of what it made say so."""
  (whole / "shards/00000002.json").unlink()
  (whole / "shards/00000002.parquet").unlink()
  facts = run.environment.facts()
  facts["code"]["sources"] = "mended"
  monkeypatch.setattr(run.environment, "facts", lambda sources: facts)
  with pytest.raises(ValueError, match="accept='sweep': choose from code"):
    run.Run(whole, small.sweep(), small.Sum, accept=["sweep"])
  again = run.Run(whole, small.sweep(), small.Sum, accept=["code", "device"])
  assert again.run().shards == 1
  made = [again.ledger.manifest(index).get("made_with") for index in (1, 2)]
  assert made[0] is None and made[1] == {"code": facts["code"]}
  with pytest.raises(ledger.OtherConfigError, match="scale differs"):
    run.Run(whole, small.sweep(scale=3.0), small.Sum, accept=["code"])


def test_rubbish_is_collected_and_nothing_else(whole):
  clean = _files(whole)
  names = ("shards/.00000009.parquet.77.tmp", "shards/00000009.parquet",
           "quarantine/00000003.0.json")  # fmt: skip
  (whole / "quarantine").mkdir()
  for name in names:
    (whole / name).write_bytes(b"half")
  assert state.collect_garbage(whole) == []  # Somebody may be at work still.
  for name in names:
    os.utime(whole / name, (1, 1))
  assert state.collect_garbage(whole) == sorted(names)
  assert _files(whole) == clean and state.verify(whole).sound == 6


def test_export_is_read_by_others(whole, tmp_path):
  import pyarrow.parquet as pq

  assert exports.export(whole, tmp_path / "all.parquet") == 40
  table = pq.read_table(tmp_path / "all.parquet")
  assert table.column_names == [
    "item", "row", "n", "mask", "status", "value", "settings",
  ]  # fmt: skip
  rows = table.to_pylist()
  assert [row["row"] for row in rows] == [*range(20), *range(20)]
  assert json.loads(rows[-1]["settings"]) == {"scale": 2.0}
  bits = np.unpackbits(
    np.frombuffer(rows[-1]["mask"], np.uint8), count=small.N,
  )  # fmt: skip
  weights = np.arange(1.0, small.N + 1)
  assert rows[-1]["value"][0] == 2 * (bits @ weights)
  empty = small.sweep(broken="build", rows=8)
  _run(tmp_path / "none", grid.Sweep(empty.config, ({"scale": 2.0},)))
  told = (tmp_path / "all.parquet.sha256").read_text().split()
  data = (tmp_path / "all.parquet").read_bytes()
  assert told == [hashlib.sha256(data).hexdigest(), "all.parquet"]
  frame = exports.frame(whole)
  assert len(frame) == 40 and frame.value[39][0] == rows[-1]["value"][0]
  assert frame["mask"][39] == "".join(map(str, bits.tolist()))
  (whole / "shards/00000003.json").unlink()
  for export in (exports.export, lambda *_: exports.frame(whole)):
    with pytest.raises(exports.PartialError, match="1 of 6 shards are missing"):
      export(whole, tmp_path / "all.parquet")
  assert (tmp_path / "all.parquet").read_bytes() == data
  part = exports.export(whole, tmp_path / "part.parquet", partial=True)
  assert part == 32 == len(exports.frame(whole, partial=True))
  with pytest.raises(ValueError, match="nowhere is no folder"):
    exports.export(whole, tmp_path / "nowhere/all.parquet")
  with pytest.raises(ValueError, match="has no shard yet"):
    exports.export(tmp_path / "none", tmp_path / "no.parquet")
  assert not (tmp_path / "no.parquet").exists()
  for item, message in ((0, "has no row yet"), (3, "has 0..0")):
    with pytest.raises(ValueError, match=message):
      state.samples(tmp_path / "none", item)


def test_sinks_get_the_numbers(tmp_path):
  seen = []
  _run(tmp_path, sinks=(lambda step, numbers: seen.append((step, numbers)),))
  assert [step for step, _ in seen] == list(range(6))
  assert seen[-1][1]["done"] == 1.0 and seen[0][1]["rows"] == 8


def test_sql_is_answered(whole):
  pytest.importorskip("duckdb", reason="DuckDB is an extra")
  found = exports.query(
    whole,
    "select a.item, count(*) as number, max(a.value[1]) as most from sweep a "
    "join sweep b using (item, row) group by item order by item",
  ).to_pydict()
  assert found["item"] == [0, 1] and found["number"] == [20, 20]
  most = [state.samples(whole, item)[1][:, 0].max() for item in range(2)]
  assert found["most"] == most
  with pytest.raises(ValueError, match="sql='select nothing'"):
    exports.query(whole, "select nothing")
