"""The cache of compiled programs: where it is, how large, and cleared."""

import jax
import pytest

from spex_jax.jobs import compiled
from tests import command


@pytest.fixture
def folder(tmp_path, monkeypatch):
  """A user's cache, which JAX was not told of."""
  before = {
    name: jax.config.values[name]
    for name in (
      "jax_compilation_cache_dir",
      "jax_persistent_cache_min_compile_time_secs",
    )
  }
  jax.config.update("jax_compilation_cache_dir", None)
  monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
  yield tmp_path / "spex_jax"
  for name, value in before.items():
    jax.config.update(name, value)


def test_it_is_the_users_unless_another_is_told(folder, monkeypatch):
  name = "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"
  monkeypatch.delenv(name, raising=False)
  compiled.keep()
  assert jax.config.values["jax_compilation_cache_dir"] == str(folder)
  assert not jax.config.values[name.lower()]
  jax.config.update("jax_compilation_cache_dir", str(folder / "other"))
  compiled.keep()
  assert jax.config.values["jax_compilation_cache_dir"].endswith("other")


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
