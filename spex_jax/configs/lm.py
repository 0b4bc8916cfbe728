"""Which parts of a prompt make a language model say what it says next?

Any causal language model of Hugging Face of the families that are supported.
"""

import ml_collections
from ml_collections import config_dict

from spex_jax import configs


def get_config(size: str = "full") -> ml_collections.ConfigDict:
  """`full`: a minute or more; `quick`: seconds, and a rough answer."""
  quick = configs.is_quick(size)
  config = configs.subject("lm")
  config.model = ""  # Directory or hub name; needed.
  config.dtype = "float32"
  config.prefix = ""  # In front of the text, and always there.
  config.text = (
    "Once upon a time, there was a little girl named Lily. She loved to"
  )
  config.suffix = ""  # Behind the text, and always there.
  # What comes next: a text, usually with its space in front, or one token's
  # number; by default the model's own likeliest `num_tokens`.
  config.target = ""
  config.target_id = config_dict.placeholder(int)
  config.num_tokens = 1

  config.players = "words"  # Or sentences, tokens.
  config.pattern = ""  # A regular expression: every match is a player instead.
  config.absent = "remove"  # Or hide, mask, one.
  config.token = ""  # What absent tokens become; for mask and one.
  config.readout = "log_probability"  # Or probability, logit, margin.
  config.rival = ""  # For margin: the other token; all others where empty.
  config.reduce = "sum"  # Or mean, over the tokens of a continuation.

  configs.ask_checkpoint(config, quick, 2000)
  return config
