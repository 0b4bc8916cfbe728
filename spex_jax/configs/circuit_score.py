"""How much does every edge of a language model matter?

`--model=DIRECTORY_OR_HUB_NAME --pairs=FILE`, of clean and corrupted prompts.
"""

import ml_collections

from spex_jax import configs
from spex_jax.jobs import circuits_files


def get_config(size: str = "full") -> ml_collections.ConfigDict:
  """`full`: five gradients of every pair; `quick`: fewer pairs."""
  return configs.sized(size, circuits_files.Score, compared=0)
