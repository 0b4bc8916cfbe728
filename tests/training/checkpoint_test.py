"""A checkpoint comes back whole, or is refused."""

import errno
import os
import pathlib
import shutil
import signal
import subprocess
import sys
import textwrap

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint
import pytest

from spex_jax.training import checkpoint

_CONFIG = {"width": 3, "rate": 0.1}


def _state():
  return {
    "layer": {"kernel": jnp.arange(6.0).reshape(2, 3)},
    "count": jnp.asarray(4, jnp.int32),
    "half": jnp.asarray([1.5, -2.0], jnp.bfloat16),
  }


@pytest.fixture
def saved(tmp_path):
  path = tmp_path / "model"
  checkpoint.save(path, _state(), _CONFIG)
  return path


def test_round_trip(saved):
  like = jax.eval_shape(_state)
  state = checkpoint.restore(saved, like, dict(_CONFIG))
  jax.tree.map(np.testing.assert_array_equal, state, _state())
  assert state["half"].dtype == jnp.bfloat16
  assert os.listdir(saved.parent) == ["model"]  # No temporary left.


def test_every_flipped_bit_is_noticed(saved):
  """One bit in the middle of each file; the manifest's included."""
  files = [p for p in saved.rglob("*") if p.is_file() and p.stat().st_size]
  assert len(files) > 3
  for file in files:
    whole = file.read_bytes()
    damaged = bytearray(whole)
    damaged[len(damaged) // 2] ^= 1
    file.write_bytes(damaged)
    with pytest.raises(ValueError, match=r"damaged.*Remove it, or choose"):
      checkpoint.restore(saved, _state(), _CONFIG)
    file.write_bytes(whole)
  checkpoint.restore(saved, _state(), _CONFIG)


def test_missing_and_foreign_files_are_noticed(saved):
  (saved / "state" / "extra").write_text("x")
  with pytest.raises(ValueError, match=r"unknown files .'state/extra'"):
    checkpoint.restore(saved, _state(), _CONFIG)
  (saved / "state" / "extra").unlink()
  next((saved / "state" / "d").iterdir()).unlink()
  with pytest.raises(ValueError, match=r"missing files .'state/d/"):
    checkpoint.restore(saved, _state(), _CONFIG)


def test_unfinished_directories_are_refused(saved):
  (saved / "manifest.json").unlink()
  with pytest.raises(ValueError, match="not a finished checkpoint"):
    checkpoint.restore(saved, _state(), _CONFIG)
  with pytest.raises(FileNotFoundError, match="No checkpoint at"):
    checkpoint.restore(saved.parent / "other", _state(), _CONFIG)


def test_another_configuration_is_refused_by_its_keys(saved):
  with pytest.raises(ValueError, match="configuration: depth, rate differ"):
    checkpoint.restore(saved, _state(), {"width": 3, "rate": 0.2, "depth": 1})


def test_one_key_differs_and_two_differ(saved):
  with pytest.raises(ValueError, match=r"rate differs\. Remove it, or choose"):
    checkpoint.restore(saved, _state(), _CONFIG | {"rate": 0.2})


def test_files_in_the_place_of_a_checkpoint_are_refused(saved):
  file = saved.parent / "file"
  file.write_text("")
  with pytest.raises(ValueError, match=r"is a file.*Remove it, or choose"):
    checkpoint.restore(file, _state(), _CONFIG)
  for text in ("{", "[]", "{}", '{"config": 1, "leaves": {}, "files": {}}'):
    (saved / "manifest.json").write_text(text)
    with pytest.raises(ValueError, match=r"damaged: manifest.*Remove it, or"):
      checkpoint.restore(saved, _state(), _CONFIG)


def test_another_structure_is_refused_by_its_leaves(saved):
  wider = _state() | {"layer": {"kernel": jnp.zeros((2, 4))}}
  with pytest.raises(ValueError, match=r"\['layer'\]\['kernel'\] differs in"):
    checkpoint.restore(saved, wider, _CONFIG)
  with pytest.raises(ValueError, match=r"\['count'\] differs in"):
    checkpoint.restore(
      saved, {k: v for k, v in _state().items() if k != "count"}, _CONFIG
    )


def test_nothing_is_overwritten(saved):
  with pytest.raises(FileExistsError, match="not overwritten"):
    checkpoint.save(saved, _state(), _CONFIG)


def test_of_two_writers_with_one_process_number_the_first_wins(
  tmp_path, monkeypatch
):
  """As two containers have it that share a disk."""
  path, rename = tmp_path / "model", pathlib.Path.rename
  quicker = {"a": jnp.arange(3.0)}

  def late(self, target):
    if target == path:
      monkeypatch.setattr(pathlib.Path, "rename", rename)
      checkpoint.save(path, quicker, _CONFIG)
    return rename(self, target)

  monkeypatch.setattr(pathlib.Path, "rename", late)
  with pytest.raises(FileExistsError, match="not overwritten"):
    checkpoint.save(path, {"a": jnp.ones(3)}, _CONFIG)
  found = checkpoint.restore(path, quicker, _CONFIG)
  np.testing.assert_array_equal(found["a"], quicker["a"])
  assert os.listdir(tmp_path) == ["model"]


def test_a_failed_save_leaves_nothing(tmp_path):
  with pytest.raises(OSError, match="model could not be saved: ValueError"):
    # NaN is no JSON: fails after Orbax wrote.
    checkpoint.save(tmp_path / "model", _state(), {"rate": float("nan")})
  assert os.listdir(tmp_path) == []


@pytest.mark.parametrize(
  "error",
  [
    OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)),
    RuntimeError("worker:\nwrite failed [No space left on device]\nat x.cc"),
  ],
)
def test_a_full_disk_is_one_error_that_names_the_path(
  tmp_path, monkeypatch, error
):
  def full(*args, **kwargs):
    raise error

  monkeypatch.setattr(orbax.checkpoint.StandardCheckpointer, "save", full)
  path = tmp_path / "model"
  with pytest.raises(OSError) as caught:
    checkpoint.save(path, _state(), _CONFIG)
  expected = f"{path} could not be saved: No space left on device."
  assert str(caught.value) == expected
  assert os.listdir(tmp_path) == []


@pytest.mark.slow
def test_killed_half_way_is_never_taken_as_whole(tmp_path):
  """SIGKILL just before the rename: all bytes written, nothing published."""
  path = tmp_path / "model"
  code = f"""
      import os, pathlib, signal
      import jax.numpy as jnp
      from spex_jax.training import checkpoint
      def die(self, target): os.kill(os.getpid(), signal.SIGKILL)
      rename = pathlib.Path.rename
      def hook(self, target):
        if str(target) == {str(path)!r}: die(self, target)
        return rename(self, target)
      pathlib.Path.rename = hook
      checkpoint.save({str(path)!r}, {{"a": jnp.ones(3)}}, {{}})
  """
  done = subprocess.run(
    [sys.executable, "-c", textwrap.dedent(code)], capture_output=True
  )
  assert done.returncode == -signal.SIGKILL, done.stderr
  left = os.listdir(tmp_path)
  assert len(left) == 1 and left[0].endswith(".tmp")
  with pytest.raises(FileNotFoundError):
    checkpoint.restore(path, {"a": jnp.ones(3)}, {})
  # What was left does not stand in the way of the next run.
  checkpoint.save(path, {"a": jnp.ones(3)}, {})
  checkpoint.restore(path, {"a": jnp.ones(3)}, {})
  shutil.rmtree(path)
