"""Does feedback in words better a drawing?

`spex checkup improve --config.seed=N`
"""

import ml_collections

from spex_jax import configs
from spex_jax.jobs import checkup


def get_config(size: str = "full") -> ml_collections.ConfigDict:
  """`quick`: small, less trained, for tests."""
  return configs.sized(
    size, checkup.Improve, count=2, scenes=32, epochs=1, width=4, rounds=2
  )
