"""What makes units of vision models fire? After MAIA, on a drawn world.

`spex maia --config.seed=N --config.agent=scripted --config.noise=0.1`
"""

import ml_collections

from spex_jax import configs
from spex_jax.jobs import maia


def get_config(size: str = "full") -> ml_collections.ConfigDict:
  """`full`: 5 synthetic units of each kind; `quick`: 1."""
  return configs.sized(size, maia.Maia, count=1, scenes=600)
