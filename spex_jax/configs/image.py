"""Which parts of a picture does an image classifier use together?

Any ViT or ResNet of Hugging Face.
"""

import ml_collections

from spex_jax import configs
from spex_jax.jobs import networks, pictures


def get_config(size: str = "full") -> ml_collections.ConfigDict:
  """`full`: minutes on a CPU; `quick`: seconds, and a rough answer."""
  return configs.sized(size, pictures.Picture, rows=2, cols=2, **networks.QUICK)
