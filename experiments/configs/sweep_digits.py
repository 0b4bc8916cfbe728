"""Which training digits move 200 test digits, under several seeds?

  spex sweep run --config=experiments/configs/sweep_digits.py --workdir=DIR

An MLP is retrained on random halves of 300 training digits, of all ten classes;
a row holds its margins at 200 test digits. An item is a seed of initialisation
and order. `:quick` is seconds.
"""

import ml_collections

from spex_jax.configs import data_digits


def get_config(size: str = "full") -> ml_collections.ConfigDict:
  """`full`: 8,000 retrainings, 3 minutes on 2 cores; `quick`: 96."""
  quick = size == "quick"
  config = data_digits.get_config(size)
  config.build = "spex_jax.jobs.sweeping:retrainings"
  config.classes = ""
  config.num_train = 40 if quick else 300
  config.num_test = 8 if quick else 200
  config.training.num_epochs = 1 if quick else 10
  config.microbatch = 8
  config.seed_index = 0
  config.keep = 0.5

  config.rows = 48 if quick else 2000
  config.rows_per_shard = 8 if quick else 250
  config.nan = "drop"
  config.retries = 2
  config.max_failed = 0.1
  return config


def sweep(size: str = "full"):
  """Seeds of initialisation and order."""
  for seed in range(2 if size == "quick" else 4):
    yield {"seed_index": seed}
