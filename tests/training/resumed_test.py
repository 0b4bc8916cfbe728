"""A long training, killed between and within its parts."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from spex_jax.training import checkpoint, loop, resumed

_RECIPE = loop.Recipe(7, 5, 0.05, "sgd", "cosine", 0.01)
_CONFIG = {"data": "planted"}


def _data():
  rng = np.random.default_rng(0)
  x = rng.normal(size=(12, 3)).astype(np.float32)
  return {"x": x, "y": (x @ np.array([1.0, -2.0, 0.5])).astype(np.float32)}


def _init(key):
  return {"w": jax.random.normal(key, (3,)), "b": jnp.zeros(())}


def _losses(params, batch):
  return (batch["x"] @ params["w"] + params["b"] - batch["y"]) ** 2


def _train(path, *, recipe=_RECIPE, config=_CONFIG, every=2, **more):
  return resumed.train(
    path, jax.random.key(0), jax.random.key(1), _data(), np.ones(12),
    init=_init, losses=_losses, recipe=recipe, config=config, every=every,
    **more,
  )  # fmt: skip


def _same(one, other):
  assert jax.tree.all(jax.tree.map(np.array_equal, one, other))


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
  return _train(tmp_path_factory.mktemp("whole") / "run")


def test_it_is_the_training_of_one_go(whole):
  once = loop.train(
    jax.random.key(0), jax.random.key(1), _data(), np.ones(12),
    init=_init, losses=_losses, recipe=_RECIPE,
  )  # fmt: skip
  assert whole.losses.shape == (14,)
  # Two programs of the same 14 steps, in float32.
  np.testing.assert_allclose(whole.losses, once.losses, rtol=2e-5, atol=1e-6)
  np.testing.assert_allclose(
    whole.params["w"], once.params["w"], rtol=2e-5, atol=1e-6
  )


class _KilledError(BaseException):
  pass


@pytest.mark.parametrize("kill_at", [2, 4, 6])
def test_a_kill_changes_no_bit(tmp_path, whole, kill_at):
  seen = []

  def kill(done, asked):
    seen.append((done, asked))
    if done == kill_at and len(seen) == kill_at // 2:
      raise _KilledError

  with pytest.raises(_KilledError):
    _train(tmp_path / "run", progress=kill)
  _same(_train(tmp_path / "run", progress=kill), whole)
  assert seen == [(2, 7), (4, 7), (6, 7), (7, 7)]
  names = sorted(p.name for p in (tmp_path / "run").iterdir())
  assert names == ["00000006", "00000007"]
  _same(_train(tmp_path / "run"), whole)  # All is there.


@pytest.mark.parametrize("which", ["last", "both"])
def test_damaged_checkpoints_are_left_out(tmp_path, whole, which):
  _train(tmp_path / "run")
  places = sorted((tmp_path / "run").iterdir())
  for place in places[1:] if which == "last" else places:
    file = max((p for p in place.rglob("*") if p.is_file()
                and p.name != "manifest.json"),
               key=lambda p: p.stat().st_size)  # fmt: skip
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 4
    file.write_bytes(data)
  seen = []
  _same(
    _train(tmp_path / "run", progress=lambda done, asked: seen.append(done)),
    whole,
  )
  assert seen == ([7] if which == "last" else [2, 4, 6, 7])


def test_a_full_disk_keeps_what_was_saved(tmp_path, whole, monkeypatch):
  save, room = checkpoint.save, iter([True, True, False])

  def full(*args):
    if not next(room):
      raise OSError(28, "No space left on device")
    save(*args)

  with monkeypatch.context() as patch:
    patch.setattr(checkpoint, "save", full)
    with pytest.raises(OSError, match="No space left"):
      _train(tmp_path / "run")
  _same(_train(tmp_path / "run"), whole)


def test_another_training_is_refused(tmp_path):
  _train(tmp_path / "run")
  with pytest.raises(ValueError, match="another configuration: data differs"):
    _train(tmp_path / "run", config={"data": "other"})
  with pytest.raises(ValueError, match="every differs"):
    _train(tmp_path / "run", every=3)
  with pytest.raises(ValueError, match="recipe differs"):
    _train(tmp_path / "run", recipe=loop.Recipe(8, 5, 0.05))
  with pytest.raises(ValueError, match="every must be at least 1; got 0"):
    _train(tmp_path / "new", every=0)
