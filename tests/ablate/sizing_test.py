"""Batches no larger than the job, measured only where that pays."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import spex_jax as spex
from spex_jax.ablate import batching, choices, evaluate

_N = 12


def _one(mask, shared):
  return jnp.where(mask, shared, 0.0).sum()


def _made(**settings):
  return evaluate.compiled(
    _one, _N, shared=np.arange(_N, dtype=np.float32), **settings
  )


def _masks(count):
  return np.arange(count)[:, None] >> np.arange(_N) & 1 > 0


@pytest.mark.parametrize("given", [None, 256])
@pytest.mark.parametrize("budget", [1, 5, 300])
def test_no_batch_is_larger_than_the_job(given, budget):
  evaluator = _made(batch_size=given)
  evaluator.expect(budget)
  masks = _masks(budget)
  np.testing.assert_allclose(evaluator(masks), masks @ np.arange(_N))
  stats = evaluator.stats
  shards = len(jax.local_devices())
  assert stats.batch_shape[0] < budget + shards
  assert not stats.candidates
  if given is None:
    assert stats.padded < stats.batch_shape[0] and "small" in stats.chosen


def test_explain_declares_its_budget():
  evaluator = _made(batch_size=None)
  answer = spex.explain(
    evaluator, _N, key=jax.random.key(0), budget=100, method="lasso"
  )
  assert answer.num_evaluations <= 100
  assert not evaluator.stats.candidates
  assert evaluator.stats.batch_shape[0] <= 100 + len(jax.local_devices())


def test_a_measurement_is_kept_and_found_again(tmp_path, monkeypatch):
  monkeypatch.setattr(batching, "SMALL", 2)
  monkeypatch.setattr(batching, "LARGEST", 4)
  path = tmp_path / "folder" / choices.NAME
  first, second, other = _made(batch_size=None), _made(batch_size=None), None
  for evaluator in (first, second):
    evaluator.expect(8, path)
    evaluator(_masks(8))
  assert first.stats.candidates and "measured" in first.stats.chosen
  assert not second.stats.candidates and str(path) in second.stats.chosen
  assert second.stats.batch_shape == first.stats.batch_shape
  ((name, entry),) = json.loads(path.read_text()).items()
  assert entry["players"] == _N and entry["masks_per_second"] > 0
  # Another program is measured for itself.
  other = evaluate.compiled(lambda mask: mask.sum(), _N, batch_size=None)
  other.expect(8, path)
  other(_masks(8))
  assert other.stats.candidates
  assert len(json.loads(path.read_text())) == 2
  for damage in ("", "[]", "{", json.dumps({name: {"rows_a_device": "x"}})):
    path.write_text(damage)
    assert choices.read(path, name) is None


def test_what_does_not_fit_is_halved_until_it_does():
  class Made:
    def __init__(self, rows, microbatch):
      self.rows, self.microbatch = rows, microbatch
      self.memory_bytes = 10 * microbatch

  made = batching.modest(Made, 300, limit=50, cpu=True)
  assert made.microbatch == 4 and made.rows % 4 == 0
  with pytest.raises(MemoryError, match="Not even one mask"):
    batching.modest(Made, 300, limit=5, cpu=True)
