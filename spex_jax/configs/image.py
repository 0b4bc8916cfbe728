"""Which parts of a picture does an image classifier use together?

Any ViT or ResNet of Hugging Face.
"""

import ml_collections
from ml_collections import config_dict

from spex_jax import configs


def get_config(size: str = "full") -> ml_collections.ConfigDict:
  """`full`: minutes on a CPU; `quick`: seconds, and a rough answer."""
  quick = configs.is_quick(size)
  config = configs.subject("image")
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

  configs.ask_checkpoint(config, quick, 1000)
  return config
