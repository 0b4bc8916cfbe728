"""What does code of a model draw?

`spex checkup draw --config.seed=N`
"""

import ml_collections

from spex_jax import configs
from spex_jax.jobs import checkup


def get_config(size: str = "full") -> ml_collections.ConfigDict:
  """`quick`: small, less trained, for tests."""
  return configs.sized(
    size, checkup.Draw, count=2, scenes=32, epochs=1, width=4
  )
