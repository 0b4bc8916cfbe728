"""Which parts of a picture does an image classifier use together?

Any ViT or ResNet of Hugging Face.
"""

import ml_collections
from ml_collections import config_dict


def get_config(size: str = "full") -> ml_collections.ConfigDict:
  """`full`: minutes on a CPU; `quick`: seconds, and a rough answer."""
  if size not in ("full", "quick"):
    raise ValueError(f"size must be 'full' or 'quick'; got {size!r}.")
  quick = size == "quick"
  config = ml_collections.ConfigDict()
  config.subject = "image"
  config.seed = 0

  config.model = ""  # Directory or hub name; needed.
  config.dtype = "float32"
  # A file (PNG, JPEG, ...; .npy of pixel values), or china, flower.
  config.image = "flower"

  config.players = "grid"  # Or patches, segments.
  config.rows = 2 if quick else 7  # Of the grid.
  config.cols = 2 if quick else 7
  config.patch = 32  # Side of a patch, in pixels.
  config.num_segments = 50
  config.baseline = "blur"  # Or mean, constant, inpainted.
  # Of the blur, in pixels; by default a fifth of a part's side.
  config.sigma = config_dict.placeholder(float)
  config.value = 0.5  # Of the constant, 0 black to 1 white.
  config.target = ""  # Name or number of a class; the model's own where empty.
  config.readout = (
    "margin"  # Over the best other class; logit, log_probability.
  )

  config.budget = 100 if quick else 1000  # Distinct masks, held-out included.
  config.method = "lasso" if quick else "auto"
  config.kernel_width = 0.25  # Of LIME, in cosine distance.
  config.gradient_steps = 64  # Of integrated gradients.
  # R^2 on held-out masks at which no more are asked; None for all the budget.
  config.target_faithfulness = config_dict.placeholder(float)
  # Masks in a batch, and those computed at once; None measures what is fastest.
  config.batch_size = config_dict.placeholder(int)
  config.microbatch = config_dict.placeholder(int)
  if quick:
    config.batch_size, config.microbatch = 16, 8
  config.index = "FBII"
  config.order = 2
  config.top = 8  # Rows of single players, and of larger sets.
  return config
