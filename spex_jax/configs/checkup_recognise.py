"""Does a model tell what code draws?

`spex checkup recognise --config.seed=N`
"""

import ml_collections

from spex_jax import configs
from spex_jax.jobs import checkup


def get_config(size: str = "full") -> ml_collections.ConfigDict:
  """`quick`: small, less trained, for tests."""
  if not configs.is_quick(size):
    return configs.config(checkup.Recognise)
  return configs.config(checkup.Recognise, count=2)
