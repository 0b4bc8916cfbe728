"""Which heads of a language model carry a variable?

`--model=DIRECTORY_OR_HUB_NAME --triples=FILE`
"""

import ml_collections

from spex_jax import configs
from spex_jax.jobs import circuits_dcm


def get_config(size: str = "full") -> ml_collections.ConfigDict:
  """`full`: four penalties, three beginnings; `quick`: fewer."""
  return configs.sized(
    size, circuits_dcm.Dcm, penalties=(0.01,), seeds=1, epochs=2
  )
