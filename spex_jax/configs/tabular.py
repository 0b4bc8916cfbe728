"""Which columns of your own table does a model use together?

A `.csv` or `.npz` file or a table of scikit-learn's; as a model any class of
scikit-learn by its import path, or a Flax network (`--config.model.kind=mlp`).
Arguments of the class are given together, as by
`--config.model.arguments="{'n_estimators': 50}"`; a `random_state` is the seed
unless given.
"""

import ml_collections
from ml_collections import config_dict


def get_config(size: str = "full") -> ml_collections.ConfigDict:
  """`full`: some seconds; `quick`: one or two."""
  if size not in ("full", "quick"):
    raise ValueError(f"size must be 'full' or 'quick'; got {size!r}.")
  quick = size == "quick"
  config = ml_collections.ConfigDict()
  config.subject = "table"
  config.seed = 0

  # A CSV with a header, an .npz with x and y, or breast_cancer, diabetes, iris.
  config.table = "wine"
  config.target_column = ""  # Of a CSV; the last where empty.
  config.row = 0  # Of the test set.
  config.baseline = "mean"  # Or zero, median, constant, resample.
  config.baseline_value = 0.0  # For constant.
  config.baseline_draws = 16  # For resample.

  config.budget = 200 if quick else 2000  # Distinct masks, held-out included.
  config.method = "auto"
  config.kernel_width = 0.25  # Of LIME, in cosine distance.
  config.gradient_steps = 64  # Of integrated gradients.
  # R^2 on held-out masks at which no more are asked; None for all the budget.
  config.target_faithfulness = config_dict.placeholder(float)
  config.batch_size = 1024
  config.index = "FBII"
  config.order = 2
  config.top = 8  # Rows of single players, and of larger sets.

  config.model = ml_collections.ConfigDict()
  # `boosting` (scikit-learn's, of the kind that the target asks for), `mlp`, or
  # `module:Class` with `fit` and `predict`.
  config.model.kind = "boosting"
  config.model.arguments = ml_collections.ConfigDict()  # Of that class.
  config.model.widths = (32,)  # Of the MLP, as all below.
  config.model.activation = "relu"
  config.training = ml_collections.ConfigDict()
  config.training.num_epochs = 5 if quick else 60
  config.training.batch_size = 32
  config.training.learning_rate = 3e-3
  config.training.optimizer = "adamw"
  config.training.schedule = "cosine"
  config.training.weight_decay = 1e-2
  config.test_fraction = 0.25
  return config
