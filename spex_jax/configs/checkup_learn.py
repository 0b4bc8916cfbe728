"""What do vision models learn from drawings?

`spex checkup learn --config.seed=N`
"""

import ml_collections

from spex_jax import configs
from spex_jax.jobs import checkup_learn


def get_config(size: str = "full") -> ml_collections.ConfigDict:
  """`quick`: small, less trained, for tests."""
  return configs.sized(
    size,
    checkup_learn.Learn,
    seeds=1,
    steps=4,
    batch_size=32,
    queue=64,
    pictures=128,
    neighbours=200,
    width=4,
  )
