"""Your own value function: `--config.function=module:function --config.n=N`.

The function takes masks, bool `[B, n]` NumPy, True = kept, and returns `[B]`
values; with `--config.compiled` it takes one mask, bool `[n]`, is traced by
JAX, and returns one number.
"""

import ml_collections
from ml_collections import config_dict

from spex_jax import configs


def get_config(size: str = "full") -> ml_collections.ConfigDict:
  """`quick` differs in its budget alone."""
  quick = configs.is_quick(size)
  config = configs.subject("callable")
  config.function = ""  # module:function; the current directory is searched.
  config.n = 0  # Number of players.
  config.names = ""  # n names, comma-separated; x0, x1, ... if empty.
  config.units = "value"
  config.compiled = False
  # Which of T targets, if the function returns [B, T] (compiled: [T]).
  config.target = config_dict.placeholder(int)
  config.batch_size = 1024
  configs.ask(config, 200 if quick else 2000)
  return config
