"""No mask is run twice: within a request, across requests, in bounded room."""

import collections

import numpy as np
import pytest

from spex_jax.ablate import evaluate, repeats

_N = 12


def _masks(rows):
  return (np.asarray(rows)[:, None] >> np.arange(_N) & 1).astype(bool)


def _number(masks):
  return masks @ (1.0 * 2 ** np.arange(_N))


def _counted(targets=None):
  """A host function and how often it was asked for each mask."""
  asked = collections.Counter()

  def fn(masks):
    values = _number(masks)
    asked.update(values.astype(int).tolist())
    return values if targets is None else np.stack([values] * targets, 1)

  return fn, asked


@pytest.mark.parametrize("targets", [None, 3])
def test_duplicates_in_a_request_are_run_once_and_put_back(targets):
  fn, asked = _counted(targets)
  seen = []
  value_fn = evaluate.host(
    fn, _N, batch_size=4, progress=lambda *done: seen.append(done)
  )
  rows = np.array([5, 7, 5, 5, 0, 9, 7, 30, 31, 9, 5])
  values = value_fn(_masks(rows))
  expected = rows if targets is None else np.stack([rows] * targets, 1)
  np.testing.assert_array_equal(values, expected)
  assert asked == dict.fromkeys([5, 7, 0, 9, 30, 31], 1)
  stats = value_fn.stats
  assert (stats.evaluations, stats.repeated, stats.batches) == (11, 5, 2)
  # The first four distinct masks stand at 9 places.
  assert seen == [(9, 11), (11, 11)]


def test_a_compiled_evaluator_runs_them_once_too():
  value_fn = evaluate.compiled(
    lambda mask: mask.sum(), _N, batch_size=8, remember_bytes=1 << 20
  )
  rows = np.tile(np.arange(8), 3)
  for _ in range(2):
    values = value_fn(_masks(rows))
    np.testing.assert_array_equal(values, _masks(rows).sum(axis=1))
  assert (value_fn.stats.batches, value_fn.stats.repeated) == (1, 16 + 24)


def test_a_bad_value_is_named_by_its_row_in_the_request():
  fn = lambda masks: np.where(masks[:, 0], np.nan, 1.0)
  value_fn = evaluate.host(fn, _N, batch_size=2, remember_bytes=1 << 20)
  value_fn(_masks([2, 4]))  # Remembered, so not run below.
  with pytest.raises(ValueError, match=r"first at row 6\)"):
    value_fn(_masks([2, 6, 6, 4, 8, 10, 3, 3, 5]))


def test_earlier_requests_are_remembered_where_there_is_room():
  fn, asked = _counted()
  value_fn = evaluate.host(fn, _N, batch_size=4, remember_bytes=1 << 20)
  seen = []
  value_fn.progress = lambda *done: seen.append(done)
  for rows in ([1, 2, 3], [3, 2, 1], [1, 4, 4, 3]):
    np.testing.assert_array_equal(value_fn(_masks(rows)), rows)
  assert asked == dict.fromkeys([1, 2, 3, 4], 1)
  assert seen == [(3, 3), (3, 3), (4, 4)]
  assert value_fn.stats.repeated == 3 + 3
  forgetful = evaluate.host(fn, _N, batch_size=4)
  for _ in range(2):
    forgetful(_masks([1]))
  assert asked[1] == 3


def test_batches_before_a_failure_are_remembered():
  fn, asked = _counted()

  def failing(masks):
    if (_number(masks) == 9).any() and asked[9] == 0:
      asked[9] += 1
      raise TimeoutError
    return fn(masks)

  value_fn = evaluate.host(failing, _N, batch_size=2, remember_bytes=1 << 20)
  with pytest.raises(TimeoutError):
    value_fn(_masks([1, 2, 9]))
  np.testing.assert_array_equal(value_fn(_masks([9, 2, 1])), [9, 2, 1])
  assert (asked[1], asked[2]) == (1, 1)


def test_memory_is_bounded_and_the_latest_stay():
  entry = repeats._ENTRY_BYTES + 8
  store = repeats.Recent(10 * entry)
  store.put(_masks(range(10)), np.arange(10.0))
  assert (len(store), store.num_bytes) == (10, 10 * entry)
  assert store.get(_masks([0])) == [0]  # Now used later than 1 and 2.
  store.put(_masks([10, 11]), np.float64([10, 11]))
  assert (len(store), store.num_bytes) == (10, 10 * entry)
  found = store.get(_masks([0, 1, 2, 3, 11]))
  assert found == [0, None, None, 3, 11]
  store.put(_masks([3]), np.ones((1, 200)))  # Wide values push more out.
  assert store.num_bytes <= 10 * entry
  assert len(store) == 4
  np.testing.assert_array_equal(store.get(_masks([3]))[0], np.ones(200))


def test_the_bound_is_on_real_memory():
  import tracemalloc

  room = 4 << 20
  tracemalloc.start()
  try:
    store = repeats.Recent(room)
    before = tracemalloc.get_traced_memory()[0]
    for start in range(0, 20_000, 1000):
      rows = np.arange(start, start + 1000)
      masks = (rows[:, None] >> np.arange(20) & 1).astype(bool)
      store.put(masks, rows.astype(float))
    grown = tracemalloc.get_traced_memory()[0] - before
  finally:
    tracemalloc.stop()
  assert len(store) == room // (repeats._ENTRY_BYTES + 8)
  assert 0.5 * room < grown <= room


def test_another_number_of_targets_than_remembered_is_refused():
  width = [1]
  fn = lambda masks: np.ones((len(masks), width[0]))
  value_fn = evaluate.host(fn, _N, remember_bytes=1 << 20)
  value_fn(_masks([1]))
  width[0] = 2
  with pytest.raises(ValueError, match=r"shapes \[\(1,\), \(2,\)\]"):
    value_fn(_masks([1, 2]))


def test_nothing_is_remembered_in_negative_room():
  with pytest.raises(ValueError, match="at least 0; got -1"):
    evaluate.host(_number, _N, remember_bytes=-1)
