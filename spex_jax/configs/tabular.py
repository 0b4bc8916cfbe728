"""Which columns of your own table does a model use together?

A `.csv` or `.npz` file or a table of scikit-learn's; as a model any class of
scikit-learn by its import path, or a Flax network (`--config.model.kind=mlp`).
Arguments of the class are given together, as by
`--config.model.arguments="{'n_estimators': 50}"`; a `random_state` is the seed
unless given.
"""

import ml_collections

from spex_jax.configs import cancer


def get_config(size: str = "full") -> ml_collections.ConfigDict:
  """`full`: some seconds; `quick`: one or two."""
  config = cancer.get_config(size)
  # A CSV with a header, an .npz with x and y, or breast_cancer, diabetes, iris.
  config.table = "wine"
  config.target_column = ""  # Of a CSV; the last where empty.
  # `boosting` (scikit-learn's, of the kind that the target asks for), `mlp`, or
  # `module:Class` with `fit` and `predict`.
  config.model.kind = "boosting"
  return config
