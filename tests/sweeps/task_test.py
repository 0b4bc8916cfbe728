"""What fails, for a while or for good; and others at the same shards."""

import json
import os
import types
import urllib.error

import numpy as np
import pytest

from spex_jax import base
from spex_jax.store import folders
from spex_jax.sweeps import (
  anchors,
  evaluating,
  grid,
  process_metrics,
  run,
  state,
  task,
)
from tests.sweeps import small


def _run(path, sweep=None, *of_task, **more):
  return run.Run(path, sweep or small.sweep(), small.Sum).run(*of_task, **more)


def _files(path):
  return {p.name: p.read_bytes() for p in (path / "shards").iterdir()}


@pytest.fixture
def moods():
  small.Sum.moods = []
  yield small.Sum.moods
  small.Sum.moods = []


def test_what_fails_for_a_while_leaves_no_mark(tmp_path, moods):
  """A mask alone is asked again, with what the network says, too."""
  _run(tmp_path / "calm", small.sweep(broken="once"))
  # The halves of 8 masks down to one, and the first time for that.
  moods += [urllib.error.URLError("away")] * 4
  report = _run(tmp_path / "rough", small.sweep(broken="once"))
  assert not report.given_up and state.status(tmp_path / "rough").marked == 0
  assert _files(tmp_path / "rough") == _files(tmp_path / "calm")


def test_rows_that_fail_are_told_with_their_causes(tmp_path):
  sweep = small.sweep(broken="raise")
  _run(tmp_path, sweep)
  found = state.status(tmp_path)
  (cause,) = found.causes
  assert cause.startswith("ValueError: too large a sum (small.py:")
  assert found.causes[cause] == found.marked > 0


def test_rows_that_fail_are_made_again_when_that_is_asked(tmp_path, moods):
  sweep = small.sweep(broken="once", retries=0)
  _run(tmp_path / "calm", sweep)
  moods += [TimeoutError("away")] * 4
  _run(tmp_path / "rough", sweep)
  assert state.status(tmp_path / "rough").marked == 1
  assert _run(tmp_path / "rough", sweep).shards == 0
  assert _run(tmp_path / "rough", sweep, retry_failed=True).shards == 1
  found = state.status(tmp_path / "rough")
  assert found.marked == 0 and found.complete
  assert _files(tmp_path / "rough") == _files(tmp_path / "calm")


def test_too_many_rows_that_fail_end_the_sweep(tmp_path):
  for _ in range(2):  # The second time, too.
    with pytest.raises(
      run.TooManyFailedError, match="rows of this task failed.*too large a sum"
    ):
      _run(tmp_path, small.sweep(broken="raise", max_failed=0.05))
  assert _run(
    tmp_path / "nan", small.sweep(broken="nan", max_failed=0.0)
  ).shards


def test_what_always_fails_is_not_asked_for_every_mask(tmp_path):
  sweep = small.sweep(
    [{}], broken="always", rows=4096, rows_per_shard=4096, retries=2
  )
  asked = len(small.Sum.asked)
  report = _run(tmp_path, sweep)
  assert (
    "all of the first 32 masks that were asked alone failed"
    in (report.given_up[0])
  )
  # Three attempts: 12 halvings, and 32 masks with their siblings, 3 times each.
  assert len(small.Sum.asked) - asked < 3 * (12 + 32 * 5)


@pytest.mark.parametrize(
  "error",
  [PermissionError("my model"), base.NotFiniteError("my check"),
   OSError(5, "my disk")],
)  # fmt: skip
def test_a_builder_may_raise_anything(tmp_path, error):
  def build(config):
    if config.scale == 1.0:
      raise error
    return small.Sum(config)

  sweep = small.sweep()
  report = run.Run(tmp_path, sweep, build).run()
  assert sorted(report.given_up) == [0, 1, 2] and report.shards == 3


def test_an_item_is_not_built_again_for_every_shard(tmp_path):
  built = small.Sum.built
  _run(tmp_path, small.sweep([{"scale": 2.0}], broken="build", rows=80))
  assert small.Sum.built == built + 2
  assert len(state.status(tmp_path).given_up) == 10


def test_too_much_that_failed_stays_too_much(tmp_path):
  sweep = small.sweep(broken="build", max_failed=0.2)
  for _ in range(3):
    with pytest.raises(run.TooManyFailedError, match="--retry_failed tries"):
      _run(tmp_path, sweep)


def test_two_at_the_same_shards_meet_in_the_middle(tmp_path):
  """None but the one in flight is made twice."""
  sweep = small.sweep([{}], rows=160)
  other = run.Run(tmp_path, sweep, small.Sum)
  made = iter(range(20))

  def at_work(done, total, what):
    """Beside each shard of the one, one of the other."""
    if done % 8 == 0 and (index := next(made, None)) is not None:
      shard = sweep.shards()[index]
      work = small.Sum(sweep.item_config(0))
      masks = work.masks(shard.start, shard.stop)
      rows = run.evaluating.shards.rows_of(masks, work.values(masks))
      other.ledger.write(index, rows)

  _run(tmp_path, sweep, progress=at_work)
  found = state.status(tmp_path)
  events = [
    e["event"] for e in process_metrics.read(folders.opened(tmp_path)).entries
  ]
  assert found.complete and state.verify(tmp_path).sound == 20
  assert events.count("twice") <= 2


def test_a_sink_that_raises_is_given_up(tmp_path, caplog):
  steps = []

  def broken(step, numbers):
    steps.append(step)
    raise ConnectionError("502")

  assert _run(tmp_path, sinks=(broken,)).shards == 6
  assert steps == [0] and "A sink is given up: ConnectionError: 502" in (
    caplog.text
  )


def test_a_log_that_cannot_be_written_ends_nothing(tmp_path, monkeypatch):
  def write(log, data):
    raise OSError(28, "No space left on device")

  monkeypatch.setattr(folders._Growing, "write", write)
  assert _run(tmp_path).shards == 6 and state.status(tmp_path).complete


class _Anchored(small.Sum):
  anchors = 2


def test_another_model_is_noticed(tmp_path):
  """By the values of an item's first masks, whatever the settings say."""
  sweep, weights = small.sweep(), small.Sum.values
  assert run.Run(tmp_path, sweep, _Anchored).run(0, 2).shards == 3

  class Trained(_Anchored):
    def values(self, masks):
      return weights(self, masks) * 1.02

  assert run.Run(tmp_path, sweep, Trained).run(1, 2).shards == 3  # Item 1.
  (tmp_path / "shards/00000001.json").unlink()
  with pytest.raises(
    anchors.OtherValuesError, match=r"Item 0 .scale=1.0.: the values .* away"
  ):
    run.Run(tmp_path, sweep, Trained).run()
  assert not state.status(tmp_path).given_up
  assert run.Run(tmp_path, sweep, _Anchored).run(0, 2).shards == 1
  place = tmp_path / "anchors/00000000.json"
  place.write_text(place.read_text().replace("[", "{"))
  (tmp_path / "shards/00000001.json").unlink()
  assert run.Run(tmp_path, sweep, _Anchored).run(0, 2).shards == 1
  assert json.loads(place.read_text())["values"]


class _Writes(small.Sum):
  """Writes into its masks, and keeps them to write into them again."""

  anchors = 2

  def values(self, masks):
    found = super().values(masks)
    masks[:] = False
    return found


def test_a_function_may_write_into_its_masks(tmp_path):
  run.Run(tmp_path / "writes", small.sweep(), _Writes).run()
  _run(tmp_path / "reads")
  assert _files(tmp_path / "writes") == _files(tmp_path / "reads")


class _Without(small.Sum):
  """NaN for the first masks of every shard of eight, as many as `scale`."""

  def values(self, masks):
    found = super().values(masks)
    found[: int(self.config.scale)] = np.nan
    return found


def test_rows_without_a_value_are_counted_and_too_many_end_a_sweep(tmp_path):
  """4, 4 and 4 of 20 are more than half."""
  few = small.sweep([{"scale": 2.0}])
  report = run.Run(tmp_path / "few", few, _Without).run()
  assert (report.rows, report.marked) == (20, 6)
  many = small.sweep([{"scale": 4.0}])
  with pytest.raises(task.TooManyFailedError, match=r"12 rows .* max_nan=0.5"):
    run.Run(tmp_path / "many", many, _Without).run()
  more = small.sweep([{"scale": 4.0}], max_nan=0.7)
  assert run.Run(tmp_path / "more", more, _Without).run().marked == 12
  with pytest.raises(ValueError, match="max_nan"):
    small.sweep(max_nan=2.0)
  # A mended function is asked again for all of them.
  book, _ = run.opened(tmp_path / "many")
  assert len(book.indices()) == 2
  many.config["max_nan"] = 0.1
  with pytest.raises(task.TooManyFailedError, match="8 rows"):
    _many(tmp_path / "many", many).run()
  report = _many(tmp_path / "many", many).run(retry_failed=True)
  assert (report.rows, report.marked) == (20, 0)


def _many(path, sweep):
  """A run of another limit than the directory was begun with."""
  found = run.Run(path, small.sweep([{"scale": 4.0}]), small.Sum)
  found.sweep = sweep
  return found


class _Leaves(small.Sum):
  def values(self, masks):
    os._exit(0)


def test_a_function_that_would_end_the_process_fails(tmp_path):
  leave = os._exit
  sweep = small.sweep(retries=0, max_failed=0.0)
  with pytest.raises(task.TooManyFailedError, match=r"called os._exit\(0\)"):
    run.Run(tmp_path, sweep, _Leaves).run()
  assert os._exit is leave


def test_causes_cannot_steer_a_terminal(tmp_path):
  class Coloured(small.Sum):
    def values(self, masks):
      raise ValueError("boom\nred \x1b[31m")

  run.Run(tmp_path, small.sweep(retries=0), Coloured).run()
  for cause in state.status(tmp_path).given_up.values():
    assert r"boom red \x1b[31m" in cause and cause.isprintable()


def test_settings_of_jax_are_frozen(tmp_path, monkeypatch):
  _run(tmp_path)
  monkeypatch.setenv("XLA_FLAGS", "--xla_cpu_max_isa=AVX")
  with pytest.raises(ValueError, match="flags.xla differs.*--accept=flags"):
    _run(tmp_path)
  monkeypatch.setenv("XLA_FLAGS", "--xla_force_host_platform_device_count=3")
  assert _run(tmp_path).shards == 0


def test_files_of_others_are_left_alone(tmp_path):
  _run(tmp_path)
  for name in ("shards/notes.parquet", "failures/notes.json",
               "shards/00000099.json"):  # fmt: skip
    (tmp_path / name).parent.mkdir(exist_ok=True)
    (tmp_path / name).write_text("mine")
  assert state.status(tmp_path).complete
  assert state.collect_garbage(tmp_path, older_than=-1) == []
  assert state.verify(tmp_path).sound == 6


def test_garbage_is_listed_before_it_goes(tmp_path):
  _run(tmp_path)
  (tmp_path / "shards/00000003.json").unlink()
  gone = ["shards/00000003.parquet"]
  listed = state.collect_garbage(tmp_path, older_than=-1, dry_run=True)
  assert listed == gone and (tmp_path / gone[0]).exists()
  assert state.collect_garbage(tmp_path, older_than=-1) == gone
  assert not (tmp_path / gone[0]).exists() and _run(tmp_path).shards == 1


def test_pauses_grow_and_end_with_a_signal(tmp_path, monkeypatch):
  slept = []
  monkeypatch.setattr(task, "BACKOFF", 1.0)
  monkeypatch.setattr(
    task.Task, "_pause", lambda self, seconds: slept.append(seconds)
  )
  _run(tmp_path, small.sweep([{"scale": 2.0}], broken="build", retries=3))
  assert slept == [1.0, 2.0, 4.0]


def test_items_are_rebuilt_from_what_was_frozen():
  sweep = small.sweep()
  again = grid.Sweep(sweep.config, sweep.items)
  assert again.shards() == sweep.shards()
  np.testing.assert_array_equal(again.shards_per_item, [3, 3])


def test_what_is_tried_again_is_not_given_up_yet(tmp_path):
  """An outage is over, but one shard still fails."""
  names = [{"scale": float(i)} for i in range(10)]

  class Away(small.Sum):
    def __init__(self, config):
      super().__init__(config)
      raise RuntimeError("away")

  class Mended(small.Sum):
    def __init__(self, config):
      super().__init__(config)
      if config.scale == 0.0:
        raise RuntimeError("still broken")

  sweep = small.sweep(names, rows=8, max_failed=0.15, retries=0)
  with pytest.raises(run.TooManyFailedError):
    run.Run(tmp_path, sweep, Away).run()
  again = run.Run(tmp_path, sweep, Mended)
  assert again.run(retry_failed=True).shards == 9
  assert list(state.status(tmp_path).given_up) == [0]
  # What was published has no failures any more, if it is made once more.
  (tmp_path / "shards/00000004.json").unlink()
  assert again.run().shards == 1


def test_rows_that_failed_before_a_kill_count_too(tmp_path):
  sweep = small.sweep([{}], broken="raise", rows=40, max_failed=0.2)
  whole = small.sweep([{}], broken="raise", rows=40)
  _run(tmp_path / "whole", whole)
  failed = state.status(tmp_path / "whole").marked
  assert failed > 0.2 * 40
  for _ in range(6):
    try:
      _run(tmp_path / "killed", sweep)
    except run.TooManyFailedError:
      continue
    pytest.fail("more rows failed than are allowed")


def test_shards_of_other_sizes_are_put_aside(tmp_path):
  _run(tmp_path)
  book, _ = run.opened(tmp_path)
  rows = book.read(1).take(slice(0, 2))
  for kind in ("json", "parquet"):
    (tmp_path / f"shards/00000001.{kind}").unlink()
  book.write(1, rows)
  assert state.verify(tmp_path).damaged == {1: "2 rows"}
  assert _run(tmp_path).shards == 1 and state.verify(tmp_path).sound == 6


def test_masked_values_of_a_function_are_refused():
  values = lambda m: np.ma.masked_array(m[:, 0] * 1.0, mask=m[:, 0])
  work = types.SimpleNamespace(values=values)
  with pytest.raises(ValueError, match="masked array with 3 of 3 entries"):
    evaluating.asked(work, np.ones((3, 2), bool))
