"""Which measurements of a tumour does a classifier use together?

Any table of `datasets.tabular`, any scikit-learn model by its import path, or
a Flax network (`--config.model.kind=mlp`). Arguments of the class are given
together: `--config.model.arguments="{'n_estimators': 50}"`; a `random_state` is
the seed unless given.
"""

import ml_collections

from spex_jax import configs


def get_config(size: str = "full") -> ml_collections.ConfigDict:
  """`full`: some seconds; `quick`: one or two."""
  quick = configs.is_quick(size)
  config = configs.subject("table")
  config.table = "breast_cancer"  # Or diabetes, iris, wine.
  config.row = 0  # Of the test set.
  configs.ask_trained(config, 200 if quick else 2000, batch_size=1024)

  configs.train_mlp(config, (32,), 5 if quick else 60, 32)  # If it is one.
  # `mlp`, or `module:Class` with `fit` and `predict`.
  # The default waits for no threads of OpenMP, unlike the histogram kind.
  config.model.kind = "sklearn.ensemble:GradientBoostingClassifier"
  config.model.arguments = ml_collections.ConfigDict()  # Of that class.
  return config
