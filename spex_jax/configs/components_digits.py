"""Which heads of a small vision transformer does it need to tell digits?

It is trained here. Other parts: `--config.players=neurons`, or blocks; one
effect for each, with few absent: `--config.method=coar`.
"""

import ml_collections

from spex_jax import configs
from spex_jax.jobs import network_parts, networks


def get_config(size: str = "full") -> ml_collections.ConfigDict:
  """`full`: two minutes on 2 cores; `quick`: seconds, and a rough answer."""
  return configs.sized(
    size,
    network_parts.OfDigits,
    num_images=8,
    model={"width": 8, "num_blocks": 2, "num_heads": 4, "patch_size": 4},
    training={"num_epochs": 2, "learning_rate": 1e-2},
    **networks.QUICK,
  )
