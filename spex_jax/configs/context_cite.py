"""Which sources does an answer stand on, and which of them together?

`--model=DIRECTORY_OR_HUB_NAME --sources=FILE.jsonl --query=TEXT`
"""

import ml_collections

from spex_jax import configs
from spex_jax.jobs import context_cite


def get_config(size: str = "full") -> ml_collections.ConfigDict:
  """`full`: 64 forwards; `quick`: 32."""
  return configs.sized(size, context_cite.Cite, budget=32)
