"""Does a model tell what code draws?

`spex checkup recognise --config.seed=N`
"""

import ml_collections

from spex_jax import configs
from spex_jax.jobs import checkup


def get_config(size: str = "full") -> ml_collections.ConfigDict:
  """`quick`: small, less trained, for tests."""
  return configs.sized(size, checkup.Recognise, count=2)
