"""Batch sizes: the fastest that fits, by measuring, within a memory limit."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from spex_jax.ablate import batching, evaluate, program

_N = 5
_MIB = 1 << 20
_now = [0.0]


@pytest.fixture
def clock(monkeypatch):
  """Time passes as `_Device` says, however busy this machine is."""
  monkeypatch.setattr(batching.time, "perf_counter", lambda: _now[0])


class _Device:
  """Programs of known speed and size, which compute nothing.

  Calls last `rows * seconds(microbatch)`; sizes above `room` run out.
  """

  def __init__(self, seconds, *, room=1 << 30, shards=1, at="run"):
    self.seconds, self.room, self.shards, self.at = seconds, room, shards, at
    self.built = []

  def build(self, per_device, microbatch):
    self.built.append((per_device, microbatch))
    full = microbatch > self.room
    error = jax.errors.JaxRuntimeError(
      f"RESOURCE_EXHAUSTED: Out of memory allocating {microbatch} bytes."
    )
    if full and self.at == "build":
      raise error

    def start(masks):
      assert masks.shape == (per_device * self.shards, _N)
      if full:
        raise error
      _now[0] += len(masks) * self.seconds(microbatch)
      return lambda: np.zeros(len(masks))

    rows = per_device * self.shards
    return program.Program(start, rows, microbatch, microbatch * _MIB)


def _valley(microbatch):
  """Seconds a mask: best at 8."""
  return 0.0005 * (1 + abs(np.log2(microbatch / 8)))


@pytest.mark.usefixtures("clock")
@pytest.mark.parametrize("shrink", [False, True])
def test_the_fastest_size_is_taken(shrink):
  device = _Device(_valley)
  made, tried = batching.choose(
    device.build, _N, limit=None, shrink=shrink, sizes=[1, 2, 4, 8, 16, 32]
  )
  assert made.microbatch == 8
  best = max(tried, key=lambda one: one.masks_per_second)
  assert (best.rows, best.microbatch) == (made.rows, 8)
  assert best.memory_bytes == 8 * _MIB
  assert len(tried) == len(device.built)
  assert best.masks_per_second == pytest.approx(1 / 0.0005)
  # A call lasts 0.05 s at most by what the smallest took, 0.002 s a mask.
  assert made.rows in (8, 16)


@pytest.mark.usefixtures("clock")
def test_the_search_ends_after_two_slower_sizes():
  device = _Device(lambda microbatch: 0.001 * microbatch)
  _, tried = batching.choose(device.build, _N, limit=None, shrink=False)
  assert len(tried) <= 4  # Alone, in a lasting call, and two slower ones.
  assert tried[-1].microbatch in (2, 4)


@pytest.mark.usefixtures("clock")
def test_sizes_over_the_limit_are_not_run():
  device = _Device(lambda microbatch: 0.001 / microbatch, room=16)
  made, tried = batching.choose(device.build, _N, limit=16 * _MIB, shrink=False)
  assert made.microbatch == 16
  assert tried[-1] == batching.Candidate(
    tried[-1].rows, 32, None, 32 * _MIB, "over the memory limit"
  )


@pytest.mark.usefixtures("clock")
@pytest.mark.parametrize("at", ["build", "run"])
@pytest.mark.parametrize("shards", [1, 4])
def test_a_probe_halves_when_the_device_runs_out_of_memory(at, shards):
  """The larger the faster, as on an accelerator, until nothing is left."""
  device = _Device(
    lambda size: 0.004 / size / shards, room=64, shards=shards, at=at
  )
  made, tried = batching.choose(device.build, _N, limit=None, shrink=True)
  assert made.microbatch == 64
  assert made.rows % (64 * shards) == 0
  failed = [one for one in tried if one.note]
  assert [one.microbatch for one in failed] == [1024, 512, 256, 128]
  assert {one.note for one in failed} == {"out of memory"}
  assert all(one.masks_per_second is None for one in failed)


def test_other_errors_are_not_taken_for_a_lack_of_memory():
  def build(per_device, microbatch):
    raise jax.errors.JaxRuntimeError("INTERNAL: the compiler is broken")

  with pytest.raises(jax.errors.JaxRuntimeError, match="compiler is broken"):
    batching.choose(build, _N, limit=None, shrink=True)


def test_nothing_fits():
  device = _Device(lambda size: 0.0)
  with pytest.raises(MemoryError, match="over the memory limit, 1.0 MiB of 0"):
    batching.choose(device.build, _N, limit=1000, shrink=False)
  starved = _Device(lambda size: 0.0, room=0)
  with pytest.raises(MemoryError, match="batch of 1 masks .* out of memory"):
    batching.choose(starved.build, _N, limit=None, shrink=False)


def test_running_out_later_names_the_remedy():
  value_fn = evaluate.compiled(lambda mask: mask.sum(), _N, batch_size=16)
  masks = np.eye(_N, dtype=bool)
  np.testing.assert_array_equal(value_fn(masks), np.ones(_N))

  def start(masks):
    raise jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: 3 GiB")

  made = value_fn._run.__self__._programs[-1]
  object.__setattr__(made, "start", start)
  with pytest.raises(MemoryError, match="batch of 16 masks.*batch_size=None"):
    value_fn(masks)


def _wide(mask, w):
  """Scratch of [d, d] a mask, so that the analysis has something to count."""
  x = mask.astype(jnp.float32) @ w
  return jnp.sort(jnp.outer(x, x), axis=0)[0].sum()


@pytest.mark.slow
def test_an_evaluator_measures_once_and_records_it():
  w = np.random.default_rng(0).normal(size=(_N, 256)).astype(np.float32)
  value_fn = evaluate.compiled(
    _wide,
    _N,
    batch_size=None,
    shared=w,
    memory_limit=8 * _MIB,
    devices=jax.devices()[:2],
  )
  stats = value_fn.prepare()
  assert stats.evaluations == stats.batches == 0
  assert len(stats.candidates) >= 3
  ran = [one for one in stats.candidates if one.masks_per_second]
  best = max(ran, key=lambda one: one.masks_per_second)
  assert stats.batch_shape == (best.rows, _N)
  assert (stats.microbatch, stats.device_batch) == (
    best.microbatch,
    best.rows // 2,
  )
  assert stats.memory_bytes == best.memory_bytes <= 8 * _MIB
  assert 0 < stats.compile_seconds < stats.probe_seconds
  # A microbatch writes at least its outer products.
  assert best.memory_bytes > best.microbatch * 256 * 256 * 4
  measured = stats.candidates
  masks = (np.arange(32)[:, None] >> np.arange(_N) & 1).astype(bool)
  values = value_fn(masks)
  x = masks.astype(float) @ w.astype(float)
  expected = np.einsum("bi,bj->bij", x, x).min(axis=1).sum(axis=1)
  # Each x is a sum of 5, each value one of 256: roundings of max|value|.
  atol = 300 * np.finfo(np.float32).eps * np.abs(expected).max()
  np.testing.assert_allclose(values, expected, rtol=0, atol=atol)
  assert value_fn.stats.candidates is measured


def test_a_given_microbatch_is_kept_while_the_call_is_measured():
  value_fn = evaluate.compiled(
    lambda mask: mask.sum(), _N, batch_size=None, microbatch=4
  )
  stats = value_fn.prepare()
  assert stats.microbatch == 4
  assert {one.microbatch for one in stats.candidates} == {4}


def test_the_bound_covers_parameters_and_scratch():
  w = np.zeros((_N, 512), np.float32)
  source = program.Source(_wide, _N, shared=w, devices=jax.devices()[:1])
  small, large = source.build(4, 4), source.build(8, 8)
  assert small.memory_bytes >= w.nbytes + 4 * 512 * 512 * 4
  more = large.memory_bytes - small.memory_bytes
  # Two batches compute at once.
  assert 2 <= more / (4 * 512 * 512 * 4) <= 6
  # What f leaves unused lies in memory too.
  one = lambda mask, w: mask.sum()
  idle = program.Source(one, _N, shared=w, devices=jax.devices()[:1])
  assert idle.build(4, 4).memory_bytes >= w.nbytes
  # Microbatches reuse their scratch: only masks and values grow.
  mapped = source.build(64, 4)
  assert mapped.memory_bytes < small.memory_bytes + 64 * 1000


def test_the_memory_limit_is_what_is_free():
  class Device:
    platform = "gpu"

    def __init__(self, stats):
      self.memory_stats = lambda: stats

  limit = {"bytes_limit": 1000, "bytes_in_use": 500}
  less = {"bytes_limit": 1000, "bytes_in_use": 900}
  assert batching.memory_limit([Device(limit)]) == 400
  assert batching.memory_limit([Device(limit), Device(less)]) == 80
  assert batching.memory_limit([Device(None)]) is None
  cpu = jax.devices("cpu")
  one, all_eight = map(batching.memory_limit, (cpu[:1], cpu))
  assert one > all_eight > 0
