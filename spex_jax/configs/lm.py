"""Which parts of a prompt make a language model say what it says next?

Any causal language model of Hugging Face of the families that are supported.
"""

import ml_collections

from spex_jax import configs
from spex_jax.jobs import language, networks


def get_config(size: str = "full") -> ml_collections.ConfigDict:
  """`full`: a minute or more; `quick`: seconds, and a rough answer."""
  return configs.sized(size, language.Language, **networks.QUICK)
