"""Which tokens made each token of a generation?

`--model=DIRECTORY_OR_HUB_NAME --prompt=TEXT`
"""

import ml_collections

from spex_jax import configs
from spex_jax.jobs import context_attribute


def get_config(size: str = "full") -> ml_collections.ConfigDict:
  """`full`: 1,000 masks, where a method draws some; `quick`: 64."""
  return configs.sized(size, context_attribute.Attribute, masks=64)
