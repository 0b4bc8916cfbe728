"""Which edges of a language model carry a task?

`--model=DIRECTORY_OR_HUB_NAME --task=TASK_OR_FILE`
"""

import ml_collections

from spex_jax import configs
from spex_jax.jobs import circuits_find


def get_config(size: str = "full") -> ml_collections.ConfigDict:
  """`full`: 32 pairs score, 32 judge; `quick`: fewer pairs."""
  return configs.sized(
    size, circuits_find.OfModel, num_pairs=8, random=1, compared=8
  )
