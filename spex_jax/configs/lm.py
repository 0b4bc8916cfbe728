"""Which parts of a prompt make a language model say what it says next?

Any causal language model of Hugging Face of the families that are supported.
"""

import ml_collections
from ml_collections import config_dict


def get_config(size: str = "full") -> ml_collections.ConfigDict:
  """`full`: a minute or more; `quick`: seconds, and a rough answer."""
  if size not in ("full", "quick"):
    raise ValueError(f"size must be 'full' or 'quick'; got {size!r}.")
  quick = size == "quick"
  config = ml_collections.ConfigDict()
  config.subject = "lm"
  config.seed = 0

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

  config.budget = 100 if quick else 2000  # Distinct masks, held-out included.
  config.method = "lasso" if quick else "auto"
  config.kernel_width = 0.25  # Of LIME, in cosine distance.
  config.gradient_steps = 64  # Of integrated gradients.
  # R^2 on held-out masks at which no more are asked; None for all the budget.
  config.target_faithfulness = config_dict.placeholder(float)
  # Masks in a batch, and those computed at once; None measures what is fastest.
  config.batch_size = config_dict.placeholder(int)
  config.microbatch = config_dict.placeholder(int)
  if quick:
    config.batch_size, config.microbatch = 16, 8
  config.index = "FBII"
  config.order = 2
  config.top = 8  # Rows of single players, and of larger sets.
  return config
