"""A sweep of sums that takes its time: 40 shards, a few hundredths each."""

import time

from tests.sweeps import small


def get_config(size=""):
  """Forty rows of one item; `:slow` leaves room for signals."""
  return small.config(
    build="tests.launch.sweep_sums:Sums",
    rows=40,
    rows_per_shard=1,
    pause=0.05 if size == "slow" else 0.0,
  )


class Sums(small.Sum):
  """`pause` is the seconds that a shard takes."""

  def values(self, masks):
    """`[B, 2]`."""
    time.sleep(self.config.pause)
    return super().values(masks)
