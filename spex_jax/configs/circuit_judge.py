"""What of a behaviour do circuits keep?

`--model=DIRECTORY_OR_HUB_NAME --pairs=FILE --circuit=FILE.json ...`
"""

import ml_collections

from spex_jax import configs
from spex_jax.jobs import circuits_files


def get_config(size: str = "full") -> ml_collections.ConfigDict:
  """`full`: all pairs; `quick`: fewer pairs."""
  return configs.sized(size, circuits_files.Judge, batch_size=4)
