"""Where does the gain of fine-tuning sit?

`--model=BASE --tuned=FINE_TUNED --task=TASK_OR_FILE`
"""

import ml_collections

from spex_jax import configs
from spex_jax.jobs import circuits_cmap


def get_config(size: str = "full") -> ml_collections.ConfigDict:
  """`full`: 64 pairs; `quick`: fewer."""
  return configs.sized(size, circuits_cmap.Cmap, num_pairs=4)
