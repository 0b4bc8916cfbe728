"""Builders of sweeps: masks that depend on a seed alone, and values."""

import jax
import numpy as np
import pytest

from spex_jax import cli, settings
from spex_jax.jobs import sweeping
from spex_jax.training import checkpoint

_PLAN = {
  "build": "tests.sweeps.small:Sum", "rows": 20, "rows_per_shard": 8,
  "nan": "drop", "retries": 1, "max_failed": 1.0, "keep": 0.5,
}  # fmt: skip


@pytest.mark.parametrize("keep", [0.5, 0.9])
def test_any_range_of_masks_is_the_same_rows(keep):
  config = _PLAN | {"function": "tests.sweeps.small:config", "n": 11}
  config |= {"keep": keep, "seed": 3}
  work = sweeping.calls(config)
  whole = work.masks(0, 10_000)
  assert whole.shape == (10_000, 11)
  np.testing.assert_allclose(whole.mean(), keep, atol=0.01)
  for start, stop in ((0, 1), (4090, 4100), (4096, 8192), (9999, 10_000)):
    np.testing.assert_array_equal(work.masks(start, stop), whole[start:stop])


@pytest.mark.slow
def test_builders_give_what_the_commands_ask_for(tmp_path):
  config = settings.as_dict(cli.load_config("digits:quick"))
  config |= _PLAN | {"model_dir": str(tmp_path)}
  work = sweeping.explanations(config)
  masks = work.masks(0, 5)
  values = work.values(masks)
  assert values.shape == (5,) and np.isfinite(values).all()
  np.testing.assert_array_equal(work.values(masks[3:4]), values[3:4])
  data = settings.as_dict(
    cli.load_config("data_digits:quick", "attribute", {"model.kind": "ridge"})
  )
  data |= _PLAN | {"seed_index": 1, "microbatch": 4}
  work = sweeping.retrainings(data)
  assert (work.n, work.num_targets) == (24, 6)
  assert work.values(work.masks(0, 3)).shape == (3, 6)
  data["microbatch"] = 0
  with pytest.raises(ValueError, match="needs a batch size of its own, not 0"):
    sweeping.retrainings(data)


@pytest.mark.parametrize("keep", [0.5, 0.9])
def test_masks_depend_on_no_setting_of_jax(keep):
  config = _PLAN | {"function": "tests.sweeps.small:config", "n": 11}
  config |= {"keep": keep, "seed": 3}

  def drawn():
    return sweeping.calls(config).masks(4000, 4200)  # Of two blocks.

  expected = drawn()
  for partitionable in (True, False):
    with jax.threefry_partitionable(partitionable):
      np.testing.assert_array_equal(drawn(), expected)
      with jax.default_prng_impl("rbg"):
        np.testing.assert_array_equal(drawn(), expected)


def test_of_two_tasks_that_train_a_model_the_quicker_one_s_holds(
  tmp_path, monkeypatch
):
  """Both found no model, as all tasks do that start at once."""
  config = settings.as_dict(cli.load_config("digits:quick"))
  config |= _PLAN | {"model_dir": str(tmp_path)}
  save, tried = checkpoint.save, []

  def late(path, state, origin):
    tried.append(path)
    save(path, jax.tree.map(lambda leaf: 2 * leaf, state), origin)
    save(path, state, origin)

  monkeypatch.setattr(checkpoint, "save", late)
  work = sweeping.explanations(config)
  masks = work.masks(0, 5)
  again = sweeping.explanations(config)
  assert len(tried) == 1
  np.testing.assert_array_equal(work.values(masks), again.values(masks))
