"""Which tokens made each token, for every prompt of a file, by each method?

  spex sweep run --config=experiments/configs/sweep_attribute.py \
    --config.model=DIRECTORY_OR_HUB_NAME --config.data=prompts.jsonl \
    --config.rows=NUMBER_OF_PROMPTS --workdir=DIR

The file has a "prompt" a line, and a "response" where one is not to be made. An
item is a method, one run of Inseq's `attribute-dataset`; a row is a prompt,
whose values `spex_jax.jobs.context_dataset.unpacked` takes apart. `:quick` is
saliency alone.
"""

import ml_collections

from spex_jax import configs
from spex_jax.jobs import context_attribute

_METHODS = ("saliency", "input_x_gradient", "integrated_gradients", "attention")


def get_config(size: str = "full") -> ml_collections.ConfigDict:
  """Both: 8 prompts of `prompts.jsonl`, unless flags say otherwise."""
  configs.is_quick(size)
  config = configs.config(context_attribute.Scoring)
  config.build = "spex_jax.jobs.context_dataset:prompts"
  config.data = "prompts.jsonl"

  config.rows = 8
  config.rows_per_shard = 4
  config.nan = "error"
  config.retries = 1
  config.max_failed = 0.0
  return config


def sweep(size: str = "full"):
  """Methods."""
  for method in _METHODS[:1] if configs.is_quick(size) else _METHODS:
    yield {"method": method}
