"""Which filters or heads of an image classifier make it see what it sees?

Any ViT or ResNet of Hugging Face: `--model=DIRECTORY_OR_HUB_NAME --image=FILE`.
A ResNet has thousands of filters, and does not work without half of them: name
a layer by `--config.pattern=stages.3.*conv1`, with `--config.method=coar`.
"""

import ml_collections

from spex_jax import configs
from spex_jax.jobs import network_parts, networks


def get_config(size: str = "full") -> ml_collections.ConfigDict:
  """`full`: minutes on a CPU; `quick`: seconds, and a rough answer."""
  return configs.sized(size, network_parts.OfPicture, **networks.QUICK)
