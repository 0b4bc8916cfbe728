"""Where in a language model does what a task needs pass through?

`--model=DIRECTORY_OR_HUB_NAME --task=TASK_OR_FILE --sweep=NAME`
"""

import ml_collections

from spex_jax import configs
from spex_jax.jobs import circuits_patch


def get_config(size: str = "full") -> ml_collections.ConfigDict:
  """`full`: 16 pairs; `quick`: fewer pairs."""
  return configs.sized(size, circuits_patch.Patch, num_pairs=4)
