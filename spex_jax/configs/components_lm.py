"""Which heads of a language model make it say what it says next?

Any causal language model of Hugging Face of the families that are supported:
`--model=DIRECTORY_OR_HUB_NAME --prompt=TEXT [--target=TOKEN]`.
"""

import ml_collections

from spex_jax import configs
from spex_jax.jobs import network_parts, networks


def get_config(size: str = "full") -> ml_collections.ConfigDict:
  """`full`: a minute or more; `quick`: seconds, and a rough answer."""
  return configs.sized(size, network_parts.OfLanguageModel, **networks.QUICK)
