"""Which heads of a small vision transformer does it need to tell digits?

It is trained here. Other parts: `--config.players=neurons`, or blocks; one
effect for each, with few absent: `--config.method=coar`.
"""

import ml_collections

from spex_jax import configs


def get_config(size: str = "full") -> ml_collections.ConfigDict:
  """`full`: two minutes on 2 cores; `quick`: seconds, and a rough answer."""
  quick = configs.is_quick(size)
  config = configs.subject("digits_components")
  config.num_images = 8 if quick else 64  # Test images that are asked about.
  config.test_fraction = 0.25
  config.model = ml_collections.ConfigDict()
  config.model.width = 8 if quick else 32
  config.model.num_blocks = 2 if quick else 4
  config.model.num_heads = 4 if quick else 8
  config.model.patch_size = 4 if quick else 2
  config.training = ml_collections.ConfigDict()
  config.training.num_epochs = 2 if quick else 30
  config.training.batch_size = 64
  config.training.learning_rate = 1e-2 if quick else 3e-3
  config.training.optimizer = "adam"
  config.training.schedule = "cosine"
  config.training.weight_decay = 0.0

  configs.ask_parts(config, quick)
  return config
