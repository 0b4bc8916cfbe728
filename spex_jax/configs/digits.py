"""Which pixels of a handwritten digit does a small network use together?"""

import ml_collections

from spex_jax import configs
from spex_jax.jobs import digits


def get_config(size: str = "full") -> ml_collections.ConfigDict:
  """`full`: the demo, well under a minute on 2 cores; `quick`: seconds."""
  return configs.sized(
    size,
    digits.Digits,
    budget=200,
    patch=4,
    model={"widths": (32,)},
    training={"num_epochs": 5},
  )
