"""Which measurements of a tumour does a classifier use together?

Any table of `datasets.tabular`, any scikit-learn model by its import path, or
a Flax network (`--config.model.kind=mlp`). Arguments of the class are given
together: `--config.model.arguments="{'n_estimators': 50}"`; a `random_state` is
the seed unless given.
"""

import ml_collections

from spex_jax import configs
from spex_jax.jobs import table_rows


def get_config(size: str = "full") -> ml_collections.ConfigDict:
  """`full`: some seconds; `quick`: one or two."""
  return configs.sized(size, table_rows.Table, **table_rows.QUICK)
