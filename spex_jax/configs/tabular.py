"""Which columns of your own table does a model use together?

A `.csv` or `.npz` file or a table of scikit-learn's; as a model any class of
scikit-learn by its import path, or a Flax network (`--config.model.kind=mlp`).
Arguments of the class are given together, as by
`--config.model.arguments="{'n_estimators': 50}"`; a `random_state` is the seed
unless given.
"""

import ml_collections

from spex_jax import configs
from spex_jax.jobs import table_rows


def get_config(size: str = "full") -> ml_collections.ConfigDict:
  """`full`: some seconds; `quick`: one or two."""
  quick = configs.is_quick(size)
  return configs.config(
    table_rows.Table,
    table="wine",
    model={"kind": "boosting"},
    **table_rows.QUICK if quick else {},
  )
