"""Which statements of code make a bicycle?

`spex checkup explain --config.seed=N`
"""

import ml_collections

from spex_jax import configs
from spex_jax.jobs import checkup


def get_config(size: str = "full") -> ml_collections.ConfigDict:
  """`quick`: small, less trained, for tests."""
  return configs.sized(
    size, checkup.Explain, scenes=32, epochs=1, width=4, budget=64
  )
