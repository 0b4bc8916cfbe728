"""Which heads of a small vision transformer does it need to tell digits?

It is trained here. Other parts: `--config.players=neurons`, or blocks; one
effect for each, with few absent: `--config.method=coar`.
"""

import ml_collections
from ml_collections import config_dict


def get_config(size: str = "full") -> ml_collections.ConfigDict:
  """`full`: two minutes on 2 cores; `quick`: seconds, and a rough answer."""
  if size not in ("full", "quick"):
    raise ValueError(f"size must be 'full' or 'quick'; got {size!r}.")
  quick = size == "quick"
  config = ml_collections.ConfigDict()
  config.subject = "digits_components"
  config.seed = 0

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

  parts(config, quick)
  return config


def parts(config: ml_collections.ConfigDict, quick: bool) -> None:
  """Adds what all subjects of components have."""
  config.players = "heads"  # Or kv_groups, neurons, filters, blocks.
  config.pattern = ""  # Or sites by name, as in blocks.3.*neurons,*.2.attn.z
  config.absent = "zero"  # Or mean, resample.
  config.draws = 8  # Of resample.
  config.rescale = False  # Scales what is left of a layer up, as ProxySPEX.

  config.budget = 100 if quick else 4000  # Distinct masks, held-out included.
  config.method = "lasso" if quick else "auto"  # Or coar, with few absent:
  config.keep = 0.9  # the probability that each part is there.
  config.kernel_width = 0.25  # Of LIME, in cosine distance.
  # R^2 on held-out masks at which no more are asked; None for all the budget.
  config.target_faithfulness = config_dict.placeholder(float)
  # Masks in a batch, and those computed at once; None measures what is fastest.
  config.batch_size = config_dict.placeholder(int)
  config.microbatch = config_dict.placeholder(int)
  if quick:
    config.batch_size, config.microbatch = 16, 8
  config.index = "FBII"
  config.order = 2
  config.top = 8  # Rows of single parts, and of larger sets.
