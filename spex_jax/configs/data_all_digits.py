"""Which training digits move a network that tells all ten classes apart?

Its players are clusters of examples; `--config.players=examples` for each.
"""

import ml_collections

from spex_jax.configs import data_digits


def get_config(size: str = "full") -> ml_collections.ConfigDict:
  """`full`: a minute or two on 2 cores; `quick`: seconds."""
  config = data_digits.get_config(size)
  config.classes = ""
  config.players = "clusters"
  config.num_clusters = 10 if size == "quick" else 40
  config.num_train = 40 if size == "quick" else 300
  if size != "quick":
    config.training.num_epochs = 8
    config.checked = 6
  return config
