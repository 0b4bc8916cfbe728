"""A sweep of 40 shards; `PAUSE`, a variable, is the seconds that one takes."""

import os
import time

from tests.sweeps import small


def get_config(size=""):
  """Forty rows of one item, twice as many if `:double`."""
  return small.config(
    build="tests.launch.sweep_sums:Sums",
    rows=80 if size == "double" else 40,
    rows_per_shard=1,
  )


class Sums(small.Sum):
  """Slower than it must be."""

  def values(self, masks):
    """`[B, 2]`."""
    time.sleep(float(os.environ.get("PAUSE", "0")))
    return super().values(masks)
