"""Which pixels of a handwritten digit does a small network use together?"""

import ml_collections

from spex_jax import configs


def get_config(size: str = "full") -> ml_collections.ConfigDict:
  """`full`: the demo, well under a minute on 2 cores; `quick`: seconds."""
  quick = configs.is_quick(size)
  config = configs.subject("digits")
  config.image = 5  # Row of the test set.
  config.patch = 4 if quick else 1  # Side of a player, in pixels.
  config.target = "log_odds"  # Or margin (over the runner-up), or logit.
  budget = 200 if quick else 4000
  configs.ask_trained(config, budget, "spex", batch_size=256)
  configs.train_mlp(
    config, (32,) if quick else (64, 64), 5 if quick else 40, 64
  )
  return config
