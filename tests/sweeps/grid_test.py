"""Items, shards and their addresses; what a sweep's file may get wrong."""

import time

import numpy as np
import pytest

from spex_jax.sweeps import grid
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
  ("items", "changes", "error", "message"),
  [
    ([], {}, ValueError, "has no item"),
    (
      [{"scale": 2.0}, {"scale": 2.0}],
      {},
      ValueError,
      "0 and 1 .* equal",
    ),
    ([{}, {"scale": 1.0}], {}, ValueError, r"0 and 1 .* \{\} and .* the same"),
    ([{"scale": 3}, {"scale": 3.0}], {}, ValueError, "0 and 1 .* equal"),
    (
      [{"model": {"width": 5}}, {}, {"model.width": 5}],
      {},
      ValueError,
      "0 and 2 .* equal",
    ),
    ([{"retries": 3}], {}, ValueError, "item 0 .* sets retries, .* the whole"),
    ([{}, {"max_failed": 0.5}], {}, ValueError, "item 1 .* sets max_failed"),
    ([{"scael": 2.0}], {}, ValueError, "item 0.*'scael'.* Did you mean scale"),
    ([{"model.widht": 2}], {}, ValueError, "Did you mean model.width"),
    ([{"scale": "big"}], {}, TypeError, "item 0 of the sweep"),
    ([{"scale": 2.0}, {"scale": "big"}], {}, TypeError, "item 1 of the sweep"),
    ([{}], {"max_failed": "all"}, (ValueError, TypeError), "max_failed"),
    ([{}], {"rows": 0}, ValueError, "rows=0: an integer from 1 up"),
    ([{"rows": 0}], {}, ValueError, r"rows=0: .*\(item 0\)"),
    ([{}], {"nan": "skip"}, ValueError, "nan='skip': choose from error, drop"),
    ([{}], {"max_failed": 2.0}, ValueError, "max_failed=2.0: a share"),
    ([{}], {"build": "nothing"}, ValueError, "give module:function"),
  ],
)
def test_what_cannot_be_frozen(items, changes, error, message):
  with pytest.raises(error, match=message):
    small.sweep(items, **changes)


def test_files_of_sweeps(tmp_path):
  file = tmp_path / "sweep_x.py"
  file.write_text(
    "from tests.sweeps import small\n"
    "def get_config(size='full'):\n"
    "  return small.config(rows=4 if size == 'quick' else 20)\n"
    "def sweep(size='full'):\n"
    "  yield {'scale': 3.0}\n"
  )
  assert grid.load(str(file)).num_rows == 20
  assert grid.load(f"{file}:quick").num_rows == 4
  assert grid.load(str(file), {"rows": 7}).num_rows == 7
  with pytest.raises(ValueError, match="the command: .* Did you mean rows"):
    grid.load(str(file), {"rosw": 7})
  with pytest.raises(ValueError, match="no sweep 'none.py'"):
    grid.load("none.py")
  file.write_text("1 / 0\n")
  with pytest.raises(ValueError, match="ZeroDivisionError"):
    grid.load(str(file))
  file.write_text("def get_config():\n  return {}\n")
  with pytest.raises(TypeError, match="is a ConfigDict; got dict"):
    grid.load(str(file))
  with pytest.raises(ValueError, match="must lie in 0..1"):
    small.sweep().of_task(2, 2)
  for wrong in (-1, 6):
    with pytest.raises(ValueError, match=f"shard {wrong}: the sweep has 0..5"):
      small.sweep().shard(wrong)
    with pytest.raises(ValueError, match=f"shard {wrong}: the sweep has 0..5"):
      small.sweep().item_of(wrong)


def test_text_is_read_by_the_type_of_its_setting():
  config = small.config(broken="", flag=False, sides=(1, 2), free=None)
  overrides = {
    "broken": "3,5", "rows": "7", "scale": "2", "flag": "true",
    "sides": "3,4", "free": "[1]", "model.width": "4",
  }  # fmt: skip
  found = grid.freeze(config, [{}], overrides).config
  assert found["broken"] == "3,5" and found["rows"] == 7
  assert found["scale"] == 2.0 and isinstance(found["scale"], float)
  assert found["flag"] is True and found["sides"] == [3, 4]
  assert found["free"] == [1] and found["model"] == {"width": 4}
  assert grid.freeze(config, [{}], {"broken": "123"}).config["broken"] == "123"
  with pytest.raises(TypeError, match="the command of the sweep"):
    grid.freeze(config, [{}], {"rows": "many"})


def test_a_task_of_many_makes_its_own_shards_alone():
  sweep = small.sweep([{"scale": i + 2.0} for i in range(100_000)])
  begin = time.process_time()
  for index in range(1000):
    parts = sweep.of_task(index, 1000)
    assert len(parts) == 300 and parts[0].index == 300 * index
  seconds = time.process_time() - begin
  assert seconds < 20, seconds  # 0.4 s; by lists of all shards, 490 s.
