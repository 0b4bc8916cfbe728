"""The cache of compiled programs: where it is, how large, and cleared."""

import os

import jax
import pytest

from spex_jax.jobs import compiled
from tests import command


@pytest.fixture
def folder(tmp_path, monkeypatch):
  """A user's cache, which JAX was not told of."""
  before = jax.config.values["jax_compilation_cache_dir"]
  jax.config.update("jax_compilation_cache_dir", None)
  monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
  yield tmp_path / "spex_jax"
  jax.config.update("jax_compilation_cache_dir", before)


def test_it_is_the_users_unless_another_is_told(folder, monkeypatch):
  name, least = compiled._FOLDER, compiled._LEAST
  monkeypatch.setenv(least, "7")  # Stays; and is restored after the test.
  monkeypatch.setenv(name, "other")
  compiled.keep()
  assert (os.environ[name], os.environ[least]) == ("other", "7")
  monkeypatch.delenv(name)
  compiled.keep()
  assert (os.environ[name], os.environ[least]) == (str(folder), "7")
  monkeypatch.delenv(name)
  monkeypatch.delenv(least)
  compiled.keep()
  assert os.environ[least] == "0"


def test_it_is_shown_and_cleared_and_nothing_else_goes(folder, capsys):
  code, out, err = command.run(capsys, "cache")
  assert (code, err) == (0, "") and str(folder) in out.replace("\n", "")
  assert "0 compiled, 0.0 MB" in out
  folder.mkdir()
  for name in ("jit_f-1-cache", "jit_f-1-atime", "spex_batches.json"):
    (folder / name).write_bytes(bytes(1_500_000))
  _, out, _ = command.run(capsys, "cache")
  assert "1 compiled, 3.0 MB" in out and "spex_batches.json" in out
  code, out, _ = command.run(capsys, "cache", "--clear")
  assert code == 0 and "1 programs" in out
  assert [path.name for path in folder.iterdir()] == ["spex_batches.json"]
  assert "unexpected argument 'x'" in command.refused(capsys, "cache", "x")


@pytest.mark.parametrize(
  ("name", "value"),
  [("JAX_ENABLE_COMPILATION_CACHE", "0"), ("JAX_COMPILATION_CACHE_DIR", "")],
)
def test_it_says_that_nothing_is_kept(folder, capsys, monkeypatch, name, value):
  assert "nothing more" not in command.run(capsys, "cache")[1]
  monkeypatch.setenv(name, value)
  assert "nothing more" in command.run(capsys, "cache")[1]


def test_a_file_in_its_place_is_refused(folder, capsys):
  folder.write_text("mine")
  assert "is a file" in command.refused(capsys, "cache")
