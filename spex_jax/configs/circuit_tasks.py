"""Which tasks can a language model do?

`--model=DIRECTORY_OR_HUB_NAME`
"""

import ml_collections

from spex_jax import configs
from spex_jax.jobs import circuits_tasks


def get_config(size: str = "full") -> ml_collections.ConfigDict:
  """`full`: 32 pairs of each; `quick`: fewer pairs."""
  return configs.sized(size, circuits_tasks.Tasks, num_pairs=4)
