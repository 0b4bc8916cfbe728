"""Which pixels of a handwritten digit does a small network use together?"""

import ml_collections
from ml_collections import config_dict


def get_config(size: str = "full") -> ml_collections.ConfigDict:
  """`full`: the demo, well under a minute on 2 cores; `quick`: seconds."""
  if size not in ("full", "quick"):
    raise ValueError(f"size must be 'full' or 'quick'; got {size!r}.")
  quick = size == "quick"
  config = ml_collections.ConfigDict()
  config.subject = "digits"
  config.seed = 0  # Of the split, the network, the masks: of everything.

  config.image = 5  # Row of the test set.
  config.patch = 4 if quick else 1  # Side of a player, in pixels.
  config.baseline = "mean"  # Or zero, median, constant, resample.
  config.baseline_value = 0.0  # For constant.
  config.baseline_draws = 16  # For resample.
  config.target = "log_odds"  # Or margin (over the runner-up), or logit.

  config.budget = 200 if quick else 4000  # Distinct masks, held-out included.
  config.method = "spex"
  # R^2 on held-out masks at which no more are asked; None for all the budget.
  config.target_faithfulness = config_dict.placeholder(float)
  config.kernel_width = 0.25  # Of LIME, in cosine distance.
  config.gradient_steps = 64  # Of integrated gradients.
  config.batch_size = 256
  config.index = "FBII"
  config.order = 2
  config.top = 8  # Rows of single players, and of larger sets.

  config.model = ml_collections.ConfigDict()
  config.model.widths = (32,) if quick else (64, 64)
  config.model.activation = "relu"
  config.training = ml_collections.ConfigDict()
  config.training.num_epochs = 5 if quick else 40
  config.training.batch_size = 64
  config.training.learning_rate = 3e-3
  config.training.optimizer = "adamw"
  config.training.schedule = "cosine"
  config.training.weight_decay = 1e-2
  config.test_fraction = 0.25
  return config
