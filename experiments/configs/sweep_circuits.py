"""Which method finds circuits of which task best, at ten sizes?

  spex sweep run --config=experiments/configs/sweep_circuits.py \
    --config.model=DIRECTORY_OR_HUB_NAME --workdir=DIR

An item is a task and a method of scores; a row is a circuit of one of ten sizes
by these scores, or a random one as large, and holds the metric on 16 pairs that
gave no scores. `:quick` is two tasks by one method, on few pairs.
"""

import ml_collections

from spex_jax import configs
from spex_jax.circuits import tasks
from spex_jax.jobs import circuits_find

_METHODS = (
  {"method": "eap"},
  {"method": "eap-ig"},
  {"method": "eap", "backward": "relp"},
  {"method": "eap", "backward": "gim"},
)


def get_config(size: str = "full") -> ml_collections.ConfigDict:
  """`full`: 32 pairs of every task; `quick`: 4."""
  quick = configs.is_quick(size)
  config = configs.config(circuits_find.OfModel)
  config.build = "spex_jax.jobs.circuits_sweep:sizes"
  config.num_pairs = 4 if quick else 32
  config.compared = 0
  config.random = 1
  config.batch_size = 2 if quick else 8

  config.rows = 20
  config.rows_per_shard = 10
  config.nan = "error"
  config.retries = 1
  config.max_failed = 0.0
  return config


def sweep(size: str = "full"):
  """Tasks and methods."""
  quick = configs.is_quick(size)
  for task in ("ioi", "gender") if quick else tasks.TASKS:
    for method in _METHODS[:1] if quick else _METHODS:
      yield {"task": task, **method}
