"""Which patients move a tumour's diagnosis, alone and together?

Logistic regressions, solved outright. Other tables: `--config.data=wine`.
"""

import ml_collections

from spex_jax.configs import data_digits


def get_config(size: str = "full") -> ml_collections.ConfigDict:
  """`full`: under two minutes on 2 cores; `quick`: seconds."""
  config = data_digits.get_config(size)
  config.data = "breast_cancer"
  config.classes = ""
  config.model.kind = "logistic"
  config.num_seeds = 1  # Nothing about it is random.
  return config
