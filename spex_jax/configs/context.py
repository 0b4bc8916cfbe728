"""Which tokens of an answer used its context, and which parts of it?

`--model=DIRECTORY_OR_HUB_NAME --context=TEXT_OR_FILE --query=TEXT`
"""

import ml_collections

from spex_jax import configs
from spex_jax.jobs import context


def get_config(size: str = "full") -> ml_collections.ConfigDict:
  """`full`: cues and citations; `quick`: cues alone."""
  if not configs.is_quick(size):
    return configs.config(context.Context)
  return configs.config(context.Context, method="none")
