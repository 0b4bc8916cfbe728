"""Folders, on a disk and in memory that stands for an object store."""

import errno
import os
import uuid

import fsspec
import pytest

from spex_jax.store import folders


@pytest.fixture(params=["disk", "memory"])
def folder(request, tmp_path):
  path = tmp_path / "run"
  if request.param == "memory":
    path = f"memory://{uuid.uuid4().hex}/run"
  return folders.opened(path)


def test_the_first_writer_wins(folder):
  assert not folder.exists() and folder.sizes() == {}
  assert folder.create("shards/1.json", b"one")
  assert not folder.create("shards/1.json", b"two")
  assert folder.read("shards/1.json") == b"one" and folder.exists()
  folder.replace("shards/1.json", b"three")
  assert folder.read("shards/1.json") == b"three"
  with pytest.raises(FileNotFoundError):
    folder.read("shards/2.json")


def test_names_and_sizes(folder):
  for name in ("a.json", "shards/1.json", "shards/in/2.json"):
    folder.create(name, name.encode())
  assert folder.sizes() == {"a.json": 6}
  assert folder.sizes("shards") == {"1.json": 13}
  assert folder.sizes("shards", deep=True) == {"1.json": 13, "in/2.json": 16}
  assert len(folder.sizes(deep=True)) == 3 and folder.sizes("none") == {}
  found = folder.read_all(["a.json", "none", "shards/1.json"])
  assert found == {"a.json": b"a.json", "shards/1.json": b"shards/1.json"}
  assert folder.read_all([]) == {}


def test_moved_and_removed(folder):
  folder.create("a", b"1")
  folder.move("a", "aside/a")
  folder.move("none", "aside/none")
  assert folder.sizes(deep=True) == {"aside/a": 1}
  assert folder.modified("aside/a") > 1e9
  folder.remove("aside/a")
  folder.remove("aside/a")
  assert folder.sizes("aside") == {}


@pytest.mark.parametrize("name", ["../a", "in/../../a", "/etc/a", "a\0b"])
def test_names_stay_inside(folder, name):
  folder.create("in/b", b"1")
  for act in (folder.read, folder.remove, folder.modified):
    with pytest.raises(ValueError, match="no name of a file inside"):
      act(name)
  with pytest.raises(ValueError, match="no name of a file inside"):
    folder.move("in/b", name)
  with pytest.raises(ValueError, match="no name of a file inside"):
    folder.create(name, b"2")
  assert folder.names(deep=True) == {"in/b"}


def test_links_lead_nowhere(tmp_path):
  """Neither listed behind, nor moved, nor removed; a link itself is."""
  away = tmp_path / "away"
  away.mkdir()
  (away / "precious").write_bytes(b"x")
  (away / ".precious.tmp").write_bytes(b"x")
  folder = folders.opened(tmp_path / "run")
  folder.create("a", b"1")
  (tmp_path / "run/quarantine").symlink_to(away)
  (tmp_path / "run/one").symlink_to(away / "precious")
  (tmp_path / "run/.notes.tmp").write_bytes(b"x")  # Of somebody else.
  assert folder.names(deep=True) == {"a", "one", "quarantine"}
  assert folder.rest() == []
  for act in (folder.remove, lambda name: folder.move("a", name)):
    with pytest.raises(ValueError, match="lies outside .* by a link"):
      act("quarantine/precious")
  folder.remove("one")
  assert sorted(p.name for p in away.iterdir()) == [".precious.tmp", "precious"]


def test_what_is_no_file_reads_as_empty(tmp_path):
  folder = folders.opened(tmp_path)
  (tmp_path / "folder").mkdir()
  os.mkfifo(tmp_path / "pipe")
  (tmp_path / "circle").symlink_to("circle")
  (tmp_path / "zero").symlink_to("/dev/zero")
  for name in ("folder", "pipe", "circle", "zero"):
    assert folder.read(name) == b"" == folder.read_all([name])[name]
  assert folder.sizes()["circle"] == 0
  with pytest.raises(FileNotFoundError):
    folder.read("pipe/in")
  with pytest.raises(ValueError, match="a folder where a file belongs"):
    folder.replace("folder", b"1")


def test_a_log_grows(folder, monkeypatch):
  monkeypatch.setattr(folders, "_SEGMENT", 20)
  monkeypatch.setattr(folders, "_PAUSE", 0.0)
  log = folder.log("log/me/metrics.jsonl")
  lines = [b"line %d\n" % number for number in range(9)]
  for line in lines:
    log.write(line)
  log.close()
  parts = sorted(folder.sizes("log/me"))
  names = {f"log/me/{part}" for part in parts}
  # The first has no number, and so comes last by name.
  data = b"".join(sorted(folder.read_all(names).values()))
  assert data == b"".join(lines)
  assert len(parts) == (1 if isinstance(folder, folders.Directory) else 3)


def test_urls_that_do_not_work(tmp_path, monkeypatch):
  assert isinstance(folders.opened(f"file://{tmp_path}"), folders.Directory)
  with pytest.raises(ValueError, match="Protocol not known"):
    folders.opened("floppy://a/b")
  with pytest.raises(ValueError, match="has no conditional create"):

    class Old(fsspec.AbstractFileSystem):
      def pipe_file(self, path, value):
        """Overwrites."""

    folders.ObjectStore(Old(), "a", "old://a")


def test_a_file_system_without_links_is_told(tmp_path, monkeypatch):
  def link(source, target):
    raise OSError(errno.EOPNOTSUPP, os.strerror(errno.EOPNOTSUPP))

  monkeypatch.setattr(os, "link", link)
  with pytest.raises(OSError, match="no hard links"):
    folders.opened(tmp_path).create("a", b"1")
  assert list(tmp_path.iterdir()) == []
