"""Which examples of your own file move a network, alone and together?

`--config.data=mine.npz`, with x `[N, ...]`, integers y `[N]`, and perhaps
x_test, y_test and classes; or a .csv file.
"""

import ml_collections

from spex_jax.configs import data_digits


def get_config(size: str = "full") -> ml_collections.ConfigDict:
  """`full`: minutes for a few hundred examples; `quick`: seconds."""
  config = data_digits.get_config(size)
  config.data = ""
  config.classes = ""
  config.num_train = 0  # All that are not tested.
  config.num_test = 2 if size == "quick" else 16
  return config
