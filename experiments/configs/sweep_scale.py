"""Ten million masks of a thousand players, through a function that is cheap.

spex sweep run --config=experiments/configs/sweep_scale.py --workdir=DIR
"""

import ml_collections
import numpy as np

_WEIGHTS = np.random.default_rng(0).normal(size=1000).astype(np.float32)


def get_config(size: str = "full") -> ml_collections.ConfigDict:
  """`full`: 10^7 masks in 100 shards; `quick`: 10^5 in 10."""
  config = ml_collections.ConfigDict()
  config.build = "spex_jax.jobs.sweeping:calls"
  config.function = "experiments.configs.sweep_scale:value"
  config.n = 1000
  config.keep = 0.5
  config.seed = 0
  config.rows = 100_000 if size == "quick" else 10_000_000
  config.rows_per_shard = 10_000 if size == "quick" else 100_000
  config.nan = "error"
  config.retries = 0
  config.max_failed = 0.0
  return config


def value(masks: np.ndarray) -> np.ndarray:
  """A weighted sum, `[B]`."""
  return masks.astype(np.float32) @ _WEIGHTS
