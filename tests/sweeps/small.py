"""Small sweeps for tests: plain functions, and what can go wrong in them."""

import ml_collections
import numpy as np

from spex_jax.sweeps import grid

N = 9


def config(**changes):
  """A configuration with everything that a sweep needs."""
  found = ml_collections.ConfigDict(
    {
      "build": "tests.sweeps.small:Sum", "rows": 20, "rows_per_shard": 8,
      "nan": "drop", "retries": 1, "max_failed": 1.0, "scale": 1.0,
      "model": {"width": 3}, "broken": "",
    }
  )  # fmt: skip
  found.update(changes)
  return found


def sweep(items=({"scale": 1.0}, {"scale": 2.0}), **changes):
  """Two items of three shards each."""
  return grid.freeze(config(**changes), items)


class Sum:
  """Weighted sums of masks; `broken` says how it fails."""

  n, num_targets = N, 2
  built = 0  # How often, of all.
  asked: list = []
  moods: list = []

  def __init__(self, config):
    Sum.built += 1
    self.config = config
    if config.broken == "build" and config.scale == 2.0:
      raise RuntimeError("no such model")

  def masks(self, start, stop):
    """A row's mask is drawn by its own number."""
    rows = [np.random.default_rng([7, i]).random(N) < 0.5 for i in
            range(start, stop)]  # fmt: skip
    return np.array(rows)

  def values(self, masks):
    """`[B, 2]`."""
    Sum.asked.append(len(masks))
    broken = self.config.broken
    if broken == "once" and Sum.moods:  # A server that is away for a while.
      raise Sum.moods.pop()
    total = masks @ np.arange(1.0, N + 1) * self.config.scale
    if broken == "nan":
      total = np.where(total > 30 * self.config.scale, np.nan, total)
    if broken == "raise" and (total > 30 * self.config.scale).any():
      raise ValueError("too large a sum")
    if broken == "always":
      raise MemoryError("out of memory")
    if broken == "shape":
      return total[:, None] * np.ones(5)
    return np.stack([total, -total], axis=1)
