"""Which heads of a language model make it say what it says next?

Any causal language model of Hugging Face of the families that are supported:
`--model=DIRECTORY_OR_HUB_NAME --prompt=TEXT [--target=TOKEN]`.
"""

import ml_collections
from ml_collections import config_dict

from spex_jax import configs


def get_config(size: str = "full") -> ml_collections.ConfigDict:
  """`full`: a minute or more; `quick`: seconds, and a rough answer."""
  quick = configs.is_quick(size)
  config = configs.subject("lm_components")
  config.model = ""  # Directory or hub name; needed.
  config.dtype = "float32"
  config.prompt = (
    "Once upon a time, there was a little girl named Lily. She loved to"
  )
  # What comes next: a text, usually with its space in front, or one token's
  # number; by default the model's own likeliest `num_tokens`.
  config.target = ""
  config.target_id = config_dict.placeholder(int)
  config.num_tokens = 1
  config.readout = "log_probability"  # Or probability, logit, margin.
  config.rival = ""  # For margin: the other token; all others where empty.
  config.reduce = "sum"  # Or mean, over the tokens of a continuation.
  config.background = ""  # A file of texts, for absent=mean and resample.

  configs.ask_parts(config, quick)
  return config
