"""Host callables: retries, pace, and answers on disk that survive a kill."""

import os
import resource
import signal
import subprocess
import sys
import textwrap
import time
import warnings

import numpy as np
import pytest

from spex_jax.ablate import closed, evaluate
from tests import command

_N = 10


def _masks(rows):
  return (np.asarray(rows)[:, None] >> np.arange(_N) & 1).astype(bool)


def _number(masks):
  return masks @ (1.0 * 2 ** np.arange(_N))


class _Busy(Exception):
  def __init__(self, retry_after=None):
    super().__init__("busy")
    self.retry_after = retry_after


def _failing(failures):
  """A function that raises these first, and then answers; and its calls."""
  left, calls = list(failures), []

  def fn(masks):
    calls.append(masks.copy())
    masks[:] = False  # The next attempt must not see this.
    if left:
      raise left.pop(0)
    return _number(calls[-1])

  return fn, calls


def test_named_failures_are_tried_again_with_growing_waits():
  waits = []
  retry = closed.Retry(
    (_Busy, TimeoutError),
    6,
    first_seconds=1,
    most_seconds=5,
    sleep=waits.append,
  )
  failures = [
    _Busy(),
    TimeoutError(),
    _Busy(),
    _Busy(retry_after=30.0),
    _Busy(),
  ]
  fn, calls = _failing(failures)
  value_fn = evaluate.host(fn, _N, batch_size=4, retry=retry)
  np.testing.assert_array_equal(value_fn(_masks([3, 5, 6])), [3, 5, 6])
  assert waits == [1, 2, 4, 30, 5]
  assert len(calls) == 6
  for masks in calls:
    np.testing.assert_array_equal(masks, _masks([3, 5, 6]))
  assert value_fn.stats.retries == 5
  assert value_fn.stats.batches == 1


def test_the_last_failure_is_raised_and_says_how_often_was_tried():
  waits = []
  retry = closed.Retry((_Busy,), 3, sleep=waits.append)
  fn, calls = _failing([_Busy()] * 4)
  with pytest.raises(_Busy, match="busy") as caught:
    evaluate.host(fn, _N, retry=retry)(_masks([1]))
  assert caught.value.__notes__ == ["Gave up after 3 attempts."]
  assert (len(calls), len(waits)) == (3, 2)


def test_other_failures_are_raised_at_once():
  retry = closed.Retry((_Busy,), 3, sleep=lambda seconds: pytest.fail("slept"))
  fn, calls = _failing([KeyError("key")])
  with pytest.raises(KeyError):
    evaluate.host(fn, _N, retry=retry)(_masks([1]))
  assert len(calls) == 1


def test_unfit_settings_are_refused():
  with pytest.raises(ValueError, match="needs the exceptions"):
    closed.Retry(())
  with pytest.raises(ValueError, match="attempts >= 1.*got 0"):
    closed.Retry((_Busy,), attempts=0)
  with pytest.raises(ValueError, match="calls_per_second.* got 0"):
    evaluate.host(_number, _N, calls_per_second=0)


def test_calls_are_spaced_evenly():
  now, starts = [0.0], []

  def fn(masks):
    starts.append(now[0])
    now[0] += 0.1 if len(starts) != 3 else 1.0  # The third call is slow.
    return masks

  paced = closed.Paced(
    fn,
    2,
    clock=lambda: now[0],
    sleep=lambda seconds: now.__setitem__(0, now[0] + seconds),
  )
  for _ in range(5):
    paced(_masks([0]))
  # No burst makes up for the slow one.
  np.testing.assert_allclose(starts, [0, 0.5, 1.0, 2.0, 2.5], atol=1e-12)


def test_an_evaluator_is_paced_in_real_time():
  value_fn = evaluate.host(_number, _N, batch_size=1, calls_per_second=50)
  begin = time.perf_counter()
  value_fn(_masks([1, 2, 3, 4]))
  # Three gaps of 20 ms; the clocks differ by microseconds.
  assert time.perf_counter() - begin > 0.0599


@pytest.mark.parametrize("targets", [None, 1, 3])
def test_answers_on_disk_are_exact_and_serve_another_run(tmp_path, targets):
  shape = () if targets is None else (targets,)
  table = np.random.default_rng(0).normal(size=(2**_N, *shape)) * 1e-7
  table[3] = 1e300
  asked = []

  def fn(masks):
    asked.extend(_number(masks).astype(int))
    return table[_number(masks).astype(int)]

  path = tmp_path / "answers.jsonl"
  with closed.File(path, "model-1, temperature 0") as cache:
    value_fn = evaluate.host(fn, _N, batch_size=2, cache=cache)
    np.testing.assert_array_equal(value_fn(_masks([1, 2, 3])), table[1:4])
  with closed.File(path, "model-1, temperature 0") as cache:
    assert len(cache) == 3
    value_fn = evaluate.host(fn, _N, batch_size=2, cache=cache)
    values = value_fn(_masks([3, 2, 4, 1, 4]))
  np.testing.assert_array_equal(values, table[[3, 2, 4, 1, 4]])
  assert asked == [1, 2, 3, 4]
  assert value_fn.stats.repeated == 4


def test_a_file_serves_many_settings_apart(tmp_path):
  path = tmp_path / "answers.jsonl"
  for config, factor in (("a", 1.0), ("b", 2.0)) * 2:
    with closed.File(path, config) as cache:
      fn = lambda masks, factor=factor: factor * _number(masks)
      value_fn = evaluate.host(fn, _N, cache=cache)
      np.testing.assert_array_equal(value_fn(_masks([5])), [5 * factor])
  assert value_fn.stats.repeated == 1
  assert path.read_bytes().count(b"\n") == 2
  # Nor do masks of another n, with the same packed bytes, answer.
  with closed.File(path, "a") as cache:
    assert cache.get(np.ones((1, _N + 1), bool)) == [None]
    assert cache.get(np.append(_masks([5]), [[False]], axis=1)) == [None]
    assert cache.get(_masks([5])) == [5]


def _filled(path, rows):
  with closed.File(path, "m") as cache:
    cache.put(_masks(rows), np.float64(rows))
  return path.read_bytes()


def test_an_unfinished_line_is_cut_off(tmp_path):
  path = tmp_path / "answers.jsonl"
  whole = _filled(path, [1, 2, 3])
  two = len(whole) // 3 * 2
  for cut in (two + 1, two + 20, len(whole) - 1):
    path.write_bytes(whole[:cut])
    with closed.File(path, "m") as cache:
      assert cache.get(_masks([1, 2, 3])) == [1, 2, None]
      assert path.read_bytes() == whole[:two]
      cache.put(_masks([3]), np.float64([3]))
    assert path.read_bytes() == whole


def test_damage_is_refused_by_its_line(tmp_path):
  path = tmp_path / "answers.jsonl"
  whole = _filled(path, [1, 2, 3])
  place = whole.index(b"2.0}")
  path.write_bytes(whole[:place] + b"7" + whole[place + 1 :])
  with pytest.raises(ValueError, match=r"jsonl, line 2 is damaged"):
    closed.File(path, "m")
  assert whole.replace(b"2.0}", b"7.0}") == path.read_bytes()  # As it was.
  path.write_bytes(whole)  # The refused file is not held open.
  with closed.File(path, "m") as cache:
    assert len(cache) == 3


def test_a_file_is_not_shared(tmp_path):
  path = tmp_path / "answers.jsonl"
  with (
    closed.File(path, "m"),
    pytest.raises(ValueError, match="open in another evaluator"),
  ):
    closed.File(path, "m")


_KILLED = """
import sys, time
import numpy as np
from spex_jax.ablate import closed, evaluate
calls = []
def fn(masks):
  calls.append(1)
  if len(calls) == 4:
    print("half-way", flush=True)
    time.sleep(60)
  return masks @ (1.0 * 2 ** np.arange(10))
masks = (np.arange(12)[:, None] >> np.arange(10) & 1).astype(bool)
evaluate.host(fn, 10, batch_size=2, cache=closed.File(sys.argv[1], "m"))(masks)
"""


@pytest.mark.slow
def test_a_killed_run_loses_only_the_batch_it_was_in(tmp_path):
  path = tmp_path / "answers.jsonl"
  run = subprocess.Popen(
    [sys.executable, "-c", textwrap.dedent(_KILLED), str(path)],
    cwd=command.ROOT,
    env=os.environ | {"PYTHONPATH": ".", "JAX_PLATFORMS": "cpu"},
    stdout=subprocess.PIPE,
    text=True,
  )
  try:
    assert run.stdout.readline() == "half-way\n"
  finally:
    run.send_signal(signal.SIGKILL)
    run.wait()
    run.stdout.close()
  asked = []

  def fn(masks):
    asked.extend(_number(masks))
    return _number(masks)

  with closed.File(path, "m") as cache:
    values = evaluate.host(fn, _N, batch_size=2, cache=cache)(_masks(range(12)))
  np.testing.assert_array_equal(values, np.arange(12))
  assert asked == list(range(6, 12))


def test_a_full_disk_loses_no_answer(tmp_path):
  """A limit on the size of files stands in: it stops a write half-way too."""
  path = tmp_path / "answers.jsonl"
  line = len(_filled(path, [1]))
  before = resource.getrlimit(resource.RLIMIT_FSIZE)
  calls = []

  def fn(masks):
    calls.append(len(masks))
    return _number(masks)

  with (
    closed.File(path, "m") as cache,
    warnings.catch_warnings(record=True) as w,
  ):
    warnings.simplefilter("always")
    value_fn = evaluate.host(fn, _N, batch_size=2, cache=cache)
    # Room for the first batch, and for half of the second's first line.
    resource.setrlimit(resource.RLIMIT_FSIZE, (3 * line + line // 2, before[1]))
    try:
      values = value_fn(_masks(range(1, 8)))
    finally:
      resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert value_fn(_masks([7])) == [7]  # Known for the rest of this run.
  np.testing.assert_array_equal(values, range(1, 8))
  assert calls == [2, 2, 2]
  [warning] = [one for one in w if one.category is RuntimeWarning]
  assert f"keeps the {3 * line} bytes" in str(warning.message)
  assert path.stat().st_size == 3 * line
  with closed.File(path, "m") as cache:
    assert cache.get(_masks([1, 2, 3, 4])) == [1, 2, 3, None]


def test_no_such_folder(tmp_path):
  with pytest.raises(FileNotFoundError):
    closed.File(tmp_path / "none" / "answers.jsonl", "m")
