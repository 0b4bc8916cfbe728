"""Your own value function: `--config.function=module:function --config.n=N`.

The function takes masks, bool `[B, n]` NumPy, True = kept, and returns `[B]`
values; with `--config.compiled` it takes one mask, bool `[n]`, is traced by
JAX, and returns one number.
"""

import ml_collections

from spex_jax import configs
from spex_jax.jobs import callables


def get_config(size: str = "full") -> ml_collections.ConfigDict:
  """`quick` differs in its budget alone."""
  return configs.sized(size, callables.Function, budget=200)
