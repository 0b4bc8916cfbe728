"""The bank: nothing is lost, redone, mixed up, or dependent on its history."""

import os
import signal
import subprocess
import sys

import jax
import numpy as np
import pytest

from spex_jax.influence import bank, examples
from spex_jax.store import folders, ledger
from spex_jax.training import learners, loop

_N, _T = 14, 3
_KEY = jax.random.key(3)


def _make(recipe=None, large=1.0, **more):
  """A network of 3 weights: quick to compile, and random all the same."""
  rng = np.random.default_rng(0)
  x, test = rng.normal(size=(_N, 3)), rng.normal(size=(_T, 3))
  y = x @ [1.0, -1.0, 0.5]
  x[0] *= large
  learner = learners.gradient(
    "line",
    lambda key: jax.random.normal(key, (3,)),
    lambda w, batch: (batch["x"] @ w - batch["y"]) ** 2,
    lambda w, test: test["x"] @ w,
    recipe or loop.Recipe(2, 4, 0.05),
  )
  settings = {
    "key": _KEY, "seeds": "independent", "num_seeds": 2, "microbatch": 4,
    "batch_size": 8, "devices": jax.devices()[:1],
  }  # fmt: skip
  return examples.Retrainer(
    learner, {"x": x, "y": y}, {"x": test}, **settings | more
  )


def _masks(count, seed=1):
  """Distinct ones, the same first ones for any count."""
  drawn = np.random.default_rng(seed).random((2000, _N)) < 0.6
  _, first = np.unique(drawn, axis=0, return_index=True)
  return drawn[np.sort(first)[:count]]


def _files(path):
  return {
    str(place.relative_to(path)): place.read_bytes()
    for place in sorted(path.rglob("*"))
    if place.is_file() and "quarantine" not in place.parts
  }


class _Killed(BaseException):
  pass


@pytest.fixture(scope="module")
def retrainer():
  return _make()


@pytest.fixture(scope="module")
def whole(tmp_path_factory, retrainer):
  """An uninterrupted bank of 25 masks and two seeds: 50 rows, 4 shards."""
  path = tmp_path_factory.mktemp("bank") / "whole"
  made = bank.Bank(path, retrainer, rows_per_shard=15)
  return path, made.ask(_masks(25))


def _count(retrainer, monkeypatch):
  """Counts the trainings, by their mask and seed."""
  done = []
  run = retrainer.run

  def counted(masks, seed):
    done.extend((mask.tobytes(), seed) for mask in masks)
    return run(masks, seed)

  monkeypatch.setattr(retrainer, "run", counted)
  return done


def test_values_are_those_of_the_retrainer(whole, retrainer, monkeypatch):
  path, values = whole
  for seed in range(2):
    np.testing.assert_array_equal(
      values[:, seed], retrainer.run(_masks(25), seed).values
    )
  done = _count(retrainer, monkeypatch)
  again = bank.Bank(path, retrainer)
  np.testing.assert_array_equal(again(_masks(25)), values.mean(axis=1))
  assert not done and len(again) == 50
  samples = again.samples()
  assert samples.masks.shape == (50, _N)
  np.testing.assert_array_equal(samples.values[:25], values[:, 0])
  assert samples.seeds.tolist() == [0] * 25 + [1] * 25
  noise = again.noise(2)
  expected = np.sqrt(values.var(axis=1, ddof=1).mean(axis=0))
  np.testing.assert_allclose(noise.std, expected)


def test_extending_redoes_nothing(tmp_path, retrainer, monkeypatch):
  done = _count(retrainer, monkeypatch)
  made = bank.Bank(tmp_path, retrainer, rows_per_shard=10)
  first = made.ask(_masks(8), 1)
  before = _files(tmp_path)
  # Five known, four new of which one stands there twice, one known.
  new = _masks(12)[8:]
  more = np.concatenate([_masks(8)[3:], new, new[:1], _masks(8)[:1]])
  values = made.ask(more, [0, 4])
  assert len(done) == len(set(done)) == 8 + 4 + (6 + 4)
  np.testing.assert_array_equal(values[:5, 0], first[3:, 0])
  np.testing.assert_array_equal(values[-1, 0], first[0, 0])
  after = _files(tmp_path)
  assert {name: after[name] for name in before} == before


@pytest.mark.parametrize("kill_at", [0, 1, 3])
def test_a_kill_changes_no_byte(
  tmp_path, whole, retrainer, monkeypatch, kill_at
):
  """Killed in training, and between a shard and its manifest."""
  made = bank.Bank(tmp_path, retrainer, rows_per_shard=15)
  shards = 0
  create = folders.Directory.create

  def killing(folder, name, data):
    nonlocal shards
    if name.startswith("shards/") and name.endswith(".json"):
      shards += 1
      if shards > kill_at:
        raise _Killed
    return create(folder, name, data)

  with monkeypatch.context() as patch:
    patch.setattr(folders.Directory, "create", killing)
    with pytest.raises(_Killed):
      made.ask(_masks(25))
  assert len(made.ledger.indices()) == kill_at
  done = _count(retrainer, monkeypatch)
  resumed = bank.Bank(tmp_path, retrainer)
  np.testing.assert_array_equal(resumed.ask(_masks(25)), whole[1])
  assert len(done) == 50 - 15 * kill_at
  assert _files(tmp_path) == _files(whole[0])


@pytest.mark.slow
def test_chunks_and_devices_change_no_byte(tmp_path, whole):
  other = _make(batch_size=64, devices=jax.devices()[:4])
  bank.Bank(tmp_path, other, rows_per_shard=15).ask(_masks(25))
  assert _files(tmp_path) == _files(whole[0])


@pytest.mark.parametrize(("damaged", "lost"), [(1, 15), (3, 5)])
def test_a_damaged_shard_is_made_again_alone(
  tmp_path, whole, retrainer, monkeypatch, damaged, lost
):
  bank.Bank(tmp_path, retrainer, rows_per_shard=15).ask(_masks(25))
  place = tmp_path / "shards" / f"{damaged:08d}.parquet"
  data = bytearray(place.read_bytes())
  data[len(data) // 2] ^= 4
  place.write_bytes(data)
  done = _count(retrainer, monkeypatch)
  opened = bank.Bank(tmp_path, retrainer)
  assert [one.index for one in opened.ledger.quarantined] == [damaged]
  assert len(opened) == 50 - lost
  np.testing.assert_array_equal(opened.ask(_masks(25)), whole[1])
  assert len(done) == lost
  assert _files(tmp_path) == _files(whole[0])
  # What is asked for afterwards is cut as ever.
  opened.ask(_masks(40)[25:], 2)
  assert opened.ledger.manifest(4)["rows"] == 15


_RUN = """
import sys
sys.path.insert(0, sys.argv[2])
import jax
jax.config.update("jax_num_cpu_devices", 1)
import bank_test
from spex_jax.influence import bank
made = bank.Bank(
  sys.argv[1], bank_test._make(), rows_per_shard=5,
  progress=lambda done, asked: print(done, flush=True),
)
made.ask(bank_test._masks(400))
"""


@pytest.mark.slow
def test_a_killed_process_is_continued(tmp_path):
  """SIGKILL in the middle; what it told of is there, and bytes are as ever."""
  here = os.path.dirname(__file__)
  process = subprocess.Popen(
    [sys.executable, "-c", _RUN, str(tmp_path / "cut"), here],
    stdout=subprocess.PIPE, text=True,
  )  # fmt: skip
  assert process.stdout is not None
  told = [int(process.stdout.readline()) for _ in range(3)]
  process.send_signal(signal.SIGKILL)
  process.wait()
  process.stdout.close()
  made = bank.Bank(tmp_path / "cut", _make())
  assert told == [5, 10, 15] and 15 <= len(made) < 800
  # So far as it came; what one run of the same request gives.
  rows = made.samples()
  masks = _masks(400)[: min(len(rows.masks), 60)]
  other = bank.Bank(tmp_path / "whole", _make(), rows_per_shard=5)
  other.ask(masks, 1)
  cut, whole = _files(tmp_path / "cut"), _files(tmp_path / "whole")
  assert {n: b for n, b in whole.items() if cut.get(n) == b} == whole


def test_diverged_rows_are_kept_apart(tmp_path):
  """One example overflows float32 where it takes part, and only there."""
  recipe = loop.Recipe(2, 4, 0.05, "sgd")  # Adam would bound its steps.
  made = bank.Bank(
    tmp_path, _make(recipe, large=1e15, seeds="common", num_seeds=1)
  )
  masks = _masks(6)
  values = made.ask(masks)
  assert 0 < masks[:, 0].sum() < 6
  np.testing.assert_array_equal(np.isnan(values[:, 0, 0]), masks[:, 0])
  assert made.num_diverged == masks[:, 0].sum()
  samples = made.samples()
  np.testing.assert_array_equal(samples.masks, masks[~masks[:, 0]])
  assert samples.num_left_out == masks[:, 0].sum()
  with pytest.raises(ValueError, match="All 1 trainings diverged"):
    made(masks)


@pytest.mark.slow
def test_another_configuration_is_refused(whole, retrainer):
  path, _ = whole
  with pytest.raises(
    ledger.OtherConfigError,
    match=r"learner\.learning_rate, seeds differ",
  ):
    bank.Bank(path, _make(loop.Recipe(2, 4, 0.1), seeds="common"))
  with pytest.raises(ledger.OtherConfigError, match=r"key differs"):
    bank.Bank(path, _make(key=jax.random.key(4)))
  with pytest.raises(ValueError, match="made 4 at a time"):
    bank.Bank(path, _make(microbatch=2))
  with pytest.raises(ledger.OtherConfigError, match="rows_per_shard differs"):
    bank.Bank(path, retrainer, rows_per_shard=16)
  # Without one of its own, the bank's microbatch is taken, unmeasured.
  fixed = _make(microbatch=None)
  bank.Bank(path, fixed)
  assert fixed.microbatch == 4


def test_bad_requests_are_refused(tmp_path, retrainer):
  with pytest.raises(ValueError, match="rows_per_shard must be positive"):
    bank.Bank(tmp_path / "a", retrainer, rows_per_shard=0)
  made = bank.Bank(tmp_path / "b", retrainer)
  with pytest.raises(ValueError, match="at least one mask"):
    made.ask(np.zeros((0, _N), bool))
  with pytest.raises(ValueError, match="at least one seed"):
    made.ask(_masks(1), np.int64(0))
  with pytest.raises(ValueError, match="keep no example"):
    made.ask(np.zeros((1, _N), bool))
  with pytest.raises(ValueError, match="holds no row yet"):
    made.samples()
