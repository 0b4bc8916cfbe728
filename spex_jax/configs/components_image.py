"""Which filters or heads of an image classifier make it see what it sees?

Any ViT or ResNet of Hugging Face: `--model=DIRECTORY_OR_HUB_NAME --image=FILE`.
A ResNet has thousands of filters, and does not work without half of them: name
a layer by `--config.pattern=stages.3.*conv1`, with `--config.method=coar`.
"""

import ml_collections

from spex_jax import configs


def get_config(size: str = "full") -> ml_collections.ConfigDict:
  """`full`: minutes on a CPU; `quick`: seconds, and a rough answer."""
  quick = configs.is_quick(size)
  config = configs.subject("image_components")
  config.model = ""  # Directory or hub name; needed.
  config.dtype = "float32"
  # A file (PNG, JPEG, ...; .npy of pixel values), or china, flower.
  config.image = "flower"
  config.target = ""  # Name or number of a class; the model's own where empty.
  config.readout = (
    "margin"  # Over the best other class; logit, log_probability.
  )
  config.background = ""  # A folder of pictures, for absent=mean and resample.

  configs.ask_parts(config, quick)
  config.players = ""  # By default filters of a ResNet, heads of a ViT.
  return config
