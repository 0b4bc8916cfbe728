"""Which tokens of an answer used its context, and which parts of it?

`--model=DIRECTORY_OR_HUB_NAME --context=TEXT_OR_FILE --query=TEXT`
"""

import ml_collections

from spex_jax import configs
from spex_jax.jobs import context


def get_config(size: str = "full") -> ml_collections.ConfigDict:
  """`full`: cues and citations; `quick`: cues alone."""
  return configs.sized(size, context.Context, method="none")
