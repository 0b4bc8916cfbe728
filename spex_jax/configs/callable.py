"""Your own value function: `--config.function=module:function --config.n=N`.

The function takes masks, bool `[B, n]` NumPy, True = kept, and returns `[B]`
values; with `--config.compiled` it takes one mask, bool `[n]`, is traced by
JAX, and returns one number.
"""

import ml_collections
from ml_collections import config_dict


def get_config(size: str = "full") -> ml_collections.ConfigDict:
  """`quick` differs in its budget alone."""
  if size not in ("full", "quick"):
    raise ValueError(f"size must be 'full' or 'quick'; got {size!r}.")
  config = ml_collections.ConfigDict()
  config.subject = "callable"
  config.seed = 0

  config.function = ""  # module:function; the current directory is searched.
  config.n = 0  # Number of players.
  config.names = ""  # n names, comma-separated; x0, x1, ... if empty.
  config.units = "value"
  config.compiled = False
  # Which of T targets, if the function returns [B, T] (compiled: [T]).
  config.target = config_dict.placeholder(int)

  config.budget = 200 if size == "quick" else 2000
  config.method = "auto"
  # R^2 on held-out masks at which no more are asked; None for all the budget.
  config.target_faithfulness = config_dict.placeholder(float)
  config.kernel_width = 0.25  # Of LIME, in cosine distance.
  config.batch_size = 1024
  config.index = "FBII"
  config.order = 2
  config.top = 8  # Rows of single players, and of larger sets.
  return config
