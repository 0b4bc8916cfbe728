"""What do heads do to an answer, and through which others?

`--model=DIRECTORY_OR_HUB_NAME --task=TASK_OR_FILE`
"""

import ml_collections

from spex_jax import configs
from spex_jax.jobs import circuits_paths


def get_config(size: str = "full") -> ml_collections.ConfigDict:
  """`full`: 16 pairs; `quick`: fewer."""
  return configs.sized(size, circuits_paths.Paths, num_pairs=4)
