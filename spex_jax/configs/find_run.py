"""How well do interpreters describe black-box functions, made after FIND?

`spex find run --config.seed=N --config.categories=... --config.count=50`
"""

import ml_collections

from spex_jax import configs
from spex_jax.jobs import find


def get_config(size: str = "full") -> ml_collections.ConfigDict:
  """`full`: 50 functions of each category; `quick`: 3."""
  return configs.sized(size, find.Find, count=3, budget_setfn=1500)
