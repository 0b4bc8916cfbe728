"""Shards survive kills, flipped bits, truncation and a second writer."""

import json
import signal
import subprocess
import sys

import numpy as np
import pytest

from spex_jax.masks import packing
from spex_jax.store import folders, ledger, memmaps, shards

_N, _TARGETS = 19, 3
_CONFIG = {"data": "planted", "model": {"width": 4, "rate": 0.1}}


def _rows(seed=0, count=40, dtype=np.float64):
  rng = np.random.default_rng(seed)
  masks = rng.random((count, _N)) < 0.5
  values = rng.normal(size=(count, _TARGETS))
  values[3] = np.inf
  return shards.rows_of(masks, values, seeds=np.arange(count), dtype=dtype)


def _same(one, other):
  np.testing.assert_array_equal(one.packed, other.packed)
  np.testing.assert_array_equal(one.seeds, other.seeds)
  np.testing.assert_array_equal(one.status, other.status)
  np.testing.assert_array_equal(one.values, other.values)
  assert one.values.dtype == other.values.dtype and one.n == other.n


def _files(path):
  return {
    str(place.relative_to(path)): place.read_bytes()
    for place in sorted(path.rglob("*"))
    if place.is_file()
  }


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_rows_come_back_as_they_were(tmp_path, dtype):
  book = ledger.Ledger(tmp_path / "run", _CONFIG)
  rows = _rows(dtype=dtype)
  assert book.write(4, rows, {"device": "cpu"})
  again = ledger.Ledger(tmp_path / "run", dict(reversed(_CONFIG.items())))
  assert again.indices() == [4]
  _same(again.read(4), rows)
  assert rows.status[3] == shards.Status.DIVERGED
  manifest = again.manifest(4)
  assert manifest["counts"] == {"ok": 39, "diverged": 1, "failed": 0}
  assert (manifest["rows"], manifest["device"]) == (40, "cpu")
  np.testing.assert_array_equal(
    packing.pack(again.read(4).masks()), rows.packed
  )
  assert shards.to_bytes(rows) == shards.to_bytes(_rows(dtype=dtype))
  table = again.export()
  assert table.column_names == ["mask", "seed", "status", "value"]
  assert table.num_rows == 40
  # Nothing but the files of the layout is left.
  assert len(_files(tmp_path / "run")) == 3


def test_every_flipped_bit_is_found(tmp_path):
  """In each kind of file; the shard is put aside, and made again alone."""
  book = ledger.Ledger(tmp_path, _CONFIG)
  for index in range(3):
    book.write(index, _rows(index))
  clean = _files(tmp_path)
  rng = np.random.default_rng(0)
  for name in ("shards/00000001.parquet", "shards/00000001.json"):
    for _ in range(25):
      damaged = bytearray(clean[name])
      # Whitespace at the end of a JSON file is no content.
      at = rng.integers(len(damaged) - 1)
      damaged[at] ^= 1 << rng.integers(7)
      (tmp_path / name).write_bytes(damaged)
      with pytest.raises((ledger.DamagedError, KeyError)):
        book.read(1)
      (tmp_path / name).write_bytes(clean[name])
  place = tmp_path / "shards" / "00000001.parquet"
  place.write_bytes(clean["shards/00000001.parquet"][:-7])
  assert book.verify() == 2
  (lost,) = book.quarantined
  assert (lost.index, lost.rows) == (1, 40)
  assert "contradicts its SHA-256" in lost.reason
  assert book.indices() == [0, 2]
  (reason,) = (tmp_path / "quarantine").glob("00000001.*.txt")
  assert reason.read_text().strip() == lost.reason
  assert book.append(_rows(1)) == 1
  after = _files(tmp_path)
  assert {name: after[name] for name in clean} == clean


def test_pages_carry_checksums():
  """Even without the manifest, a flipped bit in a page is not read back."""
  data = shards.to_bytes(_rows())
  found = 0
  for at in range(4, len(data) // 2, 7):
    damaged = bytearray(data)
    damaged[at] ^= 16
    try:
      _same(shards.from_bytes(bytes(damaged)), _rows())
    except shards.DamagedError:
      found += 1
    except AssertionError:
      pytest.fail(f"byte {at} was read back wrong")
  assert found > 20


def test_the_first_writer_wins(tmp_path):
  one = ledger.Ledger(tmp_path, _CONFIG)
  other = ledger.Ledger(tmp_path, _CONFIG)
  assert one.write(0, _rows(0))
  assert not other.write(0, _rows(1))
  _same(other.read(0), _rows(0))
  # At an index that another took meanwhile, rows go to the next.
  assert other.append(_rows(1)) == 1
  assert one.append(_rows(2)) == 2


def test_a_shard_without_manifest_does_not_exist(tmp_path):
  book = ledger.Ledger(tmp_path, _CONFIG)
  book.write(0, _rows(0))
  clean = _files(tmp_path)
  (tmp_path / "shards" / "00000000.json").unlink()
  assert book.indices() == []
  with pytest.raises(KeyError, match="no shard 0"):
    book.read(0)
  # The same rows complete it; others are kept in a file of another name.
  assert book.append(_rows(0)) == 0
  assert _files(tmp_path) == clean
  (tmp_path / "shards" / "00000000.json").unlink()
  assert book.write(0, _rows(2))
  _same(book.read(0), _rows(2))
  file = f"shards/{book.manifest(0)['file']}"
  assert file.count(".") == 2 and not book.quarantined
  assert book.rest() == ["shards/00000000.parquet"]


def test_a_lost_configuration_is_written_again(tmp_path):
  book = ledger.Ledger(tmp_path, _CONFIG)
  book.write(0, _rows())
  place = tmp_path / "config.json"
  text = place.read_text()
  place.unlink()
  with pytest.raises(ValueError, match="no ledger of ours"):
    ledger.Ledger(tmp_path, {"data": "other"})
  ledger.Ledger(tmp_path, _CONFIG)
  assert place.read_text() == text


def test_two_may_begin_at_once(tmp_path, monkeypatch):
  """One sees nothing, and then the files of the other."""
  is_empty = folders.Directory.is_empty

  def slow(folder):
    with monkeypatch.context() as patch:
      patch.setattr(folders.Directory, "is_empty", is_empty)
      ledger.Ledger(tmp_path / "run", _CONFIG).write(0, _rows())
    return is_empty(folder)

  (tmp_path / "run").mkdir()
  with monkeypatch.context() as patch:
    patch.setattr(folders.Directory, "is_empty", slow)
    one = ledger.Ledger(tmp_path / "run", _CONFIG)
  _same(one.read(0), _rows())


def test_what_another_put_aside_is_let_be(tmp_path):
  book = ledger.Ledger(tmp_path, _CONFIG)
  book.write(0, _rows())
  (tmp_path / "shards/00000000.json").unlink()  # A writer is at work.
  book.quarantine(0, "damaged")
  assert (tmp_path / "shards/00000000.parquet").exists()


def test_of_two_writers_of_other_rows_one_is_read(tmp_path, monkeypatch):
  """Whatever the order of their four files."""
  one, other = (ledger.Ledger(tmp_path, _CONFIG) for _ in range(2))
  create = folders.Directory.create

  def slow(folder, name, data):
    if name.endswith(".json") and folder is one.folder:
      assert other.write(0, _rows(1))  # Between the rows and their manifest.
    return create(folder, name, data)

  with monkeypatch.context() as patch:
    patch.setattr(folders.Directory, "create", slow)
    assert not one.write(0, _rows(0))
  _same(one.read(0), _rows(1))
  assert list(one.check([0])) == [0] and one.verify() == 1
  assert one.rest() == ["shards/00000000.parquet"]


def test_a_shard_in_the_place_of_another_is_found(tmp_path):
  book = ledger.Ledger(tmp_path, _CONFIG)
  for index in range(2):
    book.write(index, _rows(index))
  for kind in ("json", "parquet"):
    paths = [tmp_path / f"shards/0000000{i}.{kind}" for i in range(2)]
    data = [path.read_bytes() for path in paths]
    for path, other in zip(paths, reversed(data)):
      path.write_bytes(other)
  assert book.verify() == 0 and len(book.quarantined) == 2
  assert "is of shard 1" in book.quarantined[0].reason


def test_what_another_mended_is_not_put_aside(tmp_path):
  one, other = (ledger.Ledger(tmp_path, _CONFIG) for _ in range(2))
  one.write(0, _rows(0))
  (tmp_path / "shards/00000000.parquet").write_bytes(b"cut")
  with pytest.raises(ledger.DamagedError):
    one.read(0)
  other.verify()
  other.write(0, _rows(0))
  one.quarantine(0, "cut")  # What it saw is no longer so.
  _same(one.read(0), _rows(0))
  one.quarantine(0, "wanted anew", always=True)
  assert one.indices() == []


def test_another_configuration_is_refused_by_its_keys(tmp_path):
  ledger.Ledger(tmp_path, _CONFIG)
  changed = {"data": "planted", "model": {"width": 5, "decay": 0}}
  with pytest.raises(
    ledger.OtherConfigError,
    match=r"model\.decay, model\.rate, model\.width differ\. Use its settings",
  ):
    ledger.Ledger(tmp_path, changed)


def test_a_damaged_configuration_is_mended_by_who_knows_it(tmp_path):
  place = tmp_path / "config.json"
  book = ledger.Ledger(tmp_path, _CONFIG)
  text = place.read_text()
  book.write(0, _rows())
  place.write_text(text.replace("planted", "plantee"))
  with pytest.raises(ledger.DamagedError, match="contradict its sha256"):
    ledger.stored_config(tmp_path)
  with pytest.raises(ledger.DamagedError, match="give the settings that the"):
    ledger.Ledger(tmp_path, {"data": "plantee"})
  assert ledger.Ledger(tmp_path, _CONFIG).read(0).n == book.read(0).n
  assert place.read_text() == text
  aside = next((tmp_path / "quarantine").glob("*.config.json"))
  assert "plantee" in aside.read_text()


def test_unfit_directories_and_rows_are_refused(tmp_path):
  (tmp_path / "thesis.txt").write_text("all of it")
  with pytest.raises(ValueError, match="no ledger of ours"):
    ledger.Ledger(tmp_path, _CONFIG)
  with pytest.raises(ValueError, match="is a file"):
    ledger.Ledger(tmp_path / "thesis.txt", _CONFIG)
  with pytest.raises(ValueError, match="no JSON"):
    ledger.Ledger(tmp_path / "new", {"rate": np.nan})
  book = ledger.Ledger(tmp_path / "new", _CONFIG)
  rows = _rows()
  parts = rows.packed, rows.seeds, rows.status, rows.values
  with pytest.raises(ValueError, match="at least one row"):
    book.write(0, shards.Rows(_N, *(part[:0] for part in parts)))
  with pytest.raises(ValueError, match="no shard yet"):
    book.export()
  with pytest.raises(ValueError, match="cannot have the status OK"):
    shards.Rows(_N, rows.packed, rows.seeds, rows.status * 0, rows.values)
  with pytest.raises(ValueError, match="NaN and nothing else"):
    shards.Rows(_N, rows.packed, rows.seeds, rows.status + 1, rows.values)
  with pytest.raises(ValueError, match=r"must be uint8 \[R, 4\]"):
    shards.Rows(25, rows.packed, rows.seeds, rows.status, rows.values)


def test_many_shards_lie_in_folders_of_their_own(tmp_path):
  book = ledger.Ledger(tmp_path, _CONFIG)
  for index in (7, 9_999, 10_000, 25_000):
    assert book.write(index, _rows(index)) and not book.write(index, _rows())
  names = {p.relative_to(tmp_path).as_posix() for p in tmp_path.rglob("*.json")}
  assert names == {
    "config.json", "shards/00000007.json", "shards/00009999.json",
    "shards/0001/00010000.json", "shards/0002/00025000.json",
  }  # fmt: skip
  assert book.indices() == [7, 9_999, 10_000, 25_000]
  assert _same(book.read(25_000), _rows(25_000)) is None
  (tmp_path / "shards/0001/00010000.parquet").write_bytes(b"cut")
  assert set(book.check([7, 10_000, 25_000, 30_000])) == {7, 25_000}
  assert book.published([7, 10_000, 9_999]) == {7, 9_999}
  assert book.verify() == 3


def test_no_permission_is_an_error(tmp_path, request):
  (tmp_path / "shut").mkdir(mode=0o500)
  request.getfixturevalue("stranger")
  with pytest.raises(PermissionError):
    ledger.Ledger(tmp_path / "shut" / "run", _CONFIG)


_WRITER = """
import sys
import numpy as np
from spex_jax.store import ledger, shards
book = ledger.Ledger(sys.argv[1], {"data": 1})
for index in range(1000):
  masks = np.random.default_rng(index).random((50, 20)) < 0.5
  if index not in set(book.indices()):
    book.write(index, shards.rows_of(masks, np.full((50, 2), float(index))))
    print(index, flush=True)
"""


def test_a_killed_writer_loses_nothing_it_acknowledged(tmp_path):
  acknowledged = []
  for _ in range(2):
    process = subprocess.Popen(
      [sys.executable, "-c", _WRITER, str(tmp_path)],
      stdout=subprocess.PIPE,
      text=True,
    )
    assert process.stdout is not None
    for line in process.stdout:
      acknowledged.append(int(line))
      if len(acknowledged) % 12 == 0:
        break
    process.send_signal(signal.SIGKILL)
    process.wait()
    acknowledged += [int(line) for line in process.stdout if line.strip()]
    process.stdout.close()
  book = ledger.Ledger(tmp_path, {"data": 1})
  found = dict(book.scan())
  assert not book.quarantined
  assert set(acknowledged) <= set(found)
  assert len(acknowledged) == len(set(acknowledged)) >= 24
  assert all((rows.values == index).all() for index, rows in found.items())


def _memmaps(folder, rows=25):
  folder.mkdir()
  rng = np.random.default_rng(0)
  masks = rng.random((rows, 9)) < 0.5
  margins = rng.normal(size=(rows, 4)).astype(np.float16)
  margins[5, 2] = np.nan
  done = rng.random(rows) < 0.8
  done[5] = True
  for name, array in (
    ("masks", masks),
    ("margins", margins),
    ("_completed", done),
  ):
    np.save(folder / f"{name}.npy", array)
  return masks, margins, done


def test_memmaps_of_others_are_imported(tmp_path):
  masks, margins, done = _memmaps(tmp_path / "theirs")
  book = ledger.Ledger(tmp_path / "ours", {"origin": "theirs"})
  for _ in range(2):  # The second time there is nothing left to do.
    count = memmaps.import_memmaps(tmp_path / "theirs", book, rows_per_shard=8)
    assert count == done.sum()
  rows = shards.concatenate([rows for _, rows in book.scan()])
  np.testing.assert_array_equal(rows.masks(), masks[done])
  good = np.isfinite(margins[done]).all(axis=1)
  np.testing.assert_array_equal(rows.values[good], margins[done][good])
  assert rows.counts() == {
    "ok": int(done.sum()) - 1, "diverged": 1, "failed": 0
  }  # fmt: skip
  # A damaged copy is made again.
  place = book.path / "shards" / "00000001.parquet"
  data = place.read_bytes()
  place.write_bytes(data[:-9] + bytes(9))
  memmaps.import_memmaps(tmp_path / "theirs", book, rows_per_shard=8)
  assert place.read_bytes() == data and len(book.quarantined) == 1
  # Rows that came since, or shards of another size, would be lost or doubled.
  with pytest.raises(ValueError, match="Shard 0 of .* holds other rows"):
    memmaps.import_memmaps(tmp_path / "theirs", book, rows_per_shard=9)
  np.save(tmp_path / "theirs" / "_completed.npy", np.ones(25, bool))
  with pytest.raises(ValueError, match="Shard . of .* holds other rows"):
    memmaps.import_memmaps(tmp_path / "theirs", book, rows_per_shard=8)
  np.save(tmp_path / "theirs" / "_completed.npy", np.zeros(25, bool))
  with pytest.raises(ValueError, match="no training was completed"):
    memmaps.import_memmaps(tmp_path / "theirs", book)
  np.save(tmp_path / "theirs" / "margins.npy", margins[:3])
  with pytest.raises(ValueError, match="one row per training"):
    memmaps.import_memmaps(tmp_path / "theirs", book)
  with pytest.raises(FileNotFoundError):
    memmaps.import_memmaps(tmp_path / "theirs", book, values="logits")


def test_a_published_bank_has_no_file_of_completed_rows(tmp_path):
  theirs = tmp_path / "theirs"
  masks, _, _ = _memmaps(theirs)
  (theirs / "_completed.npy").unlink()
  (theirs / "masks.npy").rename(theirs / "train_masks_50pct.npy")
  book = ledger.Ledger(tmp_path / "ours", {"origin": "theirs"})
  count = memmaps.import_memmaps(theirs, book, masks="train_masks_50pct")
  assert count == len(masks)
  np.testing.assert_array_equal(book.read(0).masks(), masks)


def test_scores_of_trak_are_read(tmp_path):
  (tmp_path / "scores").mkdir()
  scores = np.random.default_rng(0).normal(size=(7, 3)).astype(np.float32)
  stored = np.lib.format.open_memmap(
    tmp_path / "scores" / "test.mmap", "w+", np.float32, (7, 3)
  )
  stored[:] = scores
  stored.flush()
  known = {
    "test": {"num_targets": 3, "scores_finalized": True},
    "half": {"num_targets": 3, "scores_finalized": 0},
  }
  (tmp_path / "experiments.json").write_text(json.dumps(known))
  np.testing.assert_array_equal(memmaps.trak_scores(tmp_path, "test"), scores)
  with pytest.raises(ValueError, match="no experiment 'x'; it has half, test"):
    memmaps.trak_scores(tmp_path, "x")
  with pytest.raises(ValueError, match="unfinished"):
    memmaps.trak_scores(tmp_path, "half")
