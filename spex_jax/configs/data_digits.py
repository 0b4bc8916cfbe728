"""Which training digits help a network tell 3 from 8, alone and together?

All ten classes: `--config.classes=`. Other data: `data_cancer`, `data_file`.
"""

import ml_collections

from spex_jax import configs
from spex_jax.jobs import retraining


def get_config(size: str = "full") -> ml_collections.ConfigDict:
  """`full`: under two minutes on 2 cores; `quick`: seconds."""
  return configs.sized(
    size,
    retraining.Data,
    num_train=24,
    num_test=6,
    num_points=2,
    budget=200,
    fresh=32,
    num_seeds=2,
    checked=4,
    contexts=8,
    top=3,
    trak_models=2,
    trak_dim=8,
    model={"widths": (8,), "width": 8, "patch_size": 4},
    training={"num_epochs": 4, "batch_size": 8, "learning_rate": 1e-2},
  )
