"""Items, shards and their addresses; what a sweep's file may get wrong."""

import time

import numpy as np
import pytest

from tests.sweeps import small


def test_shards_cover_every_row_once_and_tasks_every_shard():
  sweep = small.sweep([{"scale": 3.0}, {"scale": 2.0, "rows": 3}, {}])
  every = sweep.shards()
  assert [sweep.shard(index) for index in range(7)] == every
  assert [shard.index for shard in every] == list(range(7))
  assert sweep.num_shards == 7 and sweep.num_rows == 43
  for item, rows in enumerate((20, 3, 20)):
    covered = [
      row
      for shard in every
      if shard.item == item
      for row in range(shard.start, shard.stop)
    ]
    assert covered == list(range(rows))
    assert {sweep.item_of(s.index) for s in every if s.item == item} == {item}
  for count in (1, 2, 3, 7, 9):
    parts = [sweep.of_task(index, count) for index in range(count)]
    assert [s.index for part in parts for s in part] == list(range(7))
    assert max(map(len, parts)) - min(map(len, parts)) <= 1


def test_an_item_is_the_configuration_with_its_overrides():
  sweep = small.sweep([{"model.width": 5, "scale": np.float64(0.5)}])
  config = sweep.item_config(0)
  assert config.model.width == 5 and config.scale == 0.5
  assert sweep.config["model"] == {"width": 3}
  assert sweep.item_name(0) == "model.width=5, scale=0.5"
  assert small.sweep([{}]).item_name(0) == "all settings"


@pytest.mark.parametrize(
  ("items", "changes", "message"),
  [
    ([], {}, "has no item"),
    (
      [{"scale": 2.0}, {"scale": 2.0}],
      {},
      "0 and 1 .* equal",
    ),
    ([{}, {"scale": 1.0}], {}, r"0 and 1 .* \{\} and .* the same"),
    ([{"scale": 3}, {"scale": 3.0}], {}, "0 and 1 .* equal"),
    (
      [{"model": {"width": 5}}, {}, {"model.width": 5}],
      {},
      "0 and 2 .* equal",
    ),
    ([{"retries": 3}], {}, "item 0 .* sets retries, .* the whole"),
    ([{}, {"max_failed": 0.5}], {}, "item 1 .* sets max_failed"),
    ([{"scael": 2.0}], {}, "item 0 .*'scael'.* Did you mean scale"),
    ([{"model.widht": 2}], {}, "Did you mean model.width"),
    ([{"scale": "big"}], {}, "item 0 of the sweep: scale='big': must be a num"),
    ([{"scale": 2.0}, {"scale": "big"}], {}, "item 1 of the sweep: scale="),
    ([{"rows": 0}], {}, "item 0 of the sweep: rows=0: must be at least 1"),
    ([{}], {"nan": "skip"}, "nan='skip': choose from error, drop"),
    ([{}], {"build": "nothing"}, "give module:function"),
  ],
)
def test_what_cannot_be_frozen(items, changes, message):
  with pytest.raises(ValueError, match=message):
    small.sweep(items, **changes)


def test_addresses_that_are_none():
  with pytest.raises(ValueError, match="must lie in 0..1"):
    small.sweep().of_task(2, 2)
  for wrong in (-1, 6):
    with pytest.raises(ValueError, match=f"shard {wrong}: the sweep has 0..5"):
      small.sweep().shard(wrong)
    with pytest.raises(ValueError, match=f"shard {wrong}: the sweep has 0..5"):
      small.sweep().item_of(wrong)


@pytest.mark.slow
def test_a_task_of_many_makes_its_own_shards_alone():
  sweep = small.sweep([{"scale": i + 2.0} for i in range(100_000)])
  begin = time.process_time()
  for index in range(1000):
    parts = sweep.of_task(index, 1000)
    assert len(parts) == 300 and parts[0].index == 300 * index
  seconds = time.process_time() - begin
  assert seconds < 20, seconds  # 0.4 s; by lists of all shards, 490 s.
