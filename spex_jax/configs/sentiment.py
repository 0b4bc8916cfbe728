"""Which words of a text does a classifier use together?

Any Hugging Face text classifier (BERT, DistilBERT, RoBERTa), or an embedding
model such as MiniLM with a linear head that is fitted on texts with labels.
"""

import ml_collections
from ml_collections import config_dict

from spex_jax import configs


def get_config(size: str = "full") -> ml_collections.ConfigDict:
  """`full`: a minute or more; `quick`: seconds, and a rough answer."""
  quick = configs.is_quick(size)
  config = configs.subject("sentiment")
  # Directory or hub name; MiniLM, if it is installed from PyPI, where empty.
  config.model = ""
  config.dtype = "float32"
  config.text = "This film is never boring, and the acting is a joy to watch."
  # A CSV file with texts and labels: to take the text from a row of it, and to
  # fit the head of a model that gives embeddings.
  config.data = ""
  config.row = config_dict.placeholder(int)
  config.text_column = ""  # text, review, sentence or content, where empty.
  config.label_column = ""  # label, sentiment, class or target.
  config.head_c = 10.0  # Inverse strength of the head's ridge penalty.

  config.players = "words"  # Or sentences, tokens.
  config.pattern = ""  # A regular expression: every match is a player instead.
  config.absent = "one"  # An absent player: one mask token; mask, hide, remove.
  config.token = ""  # In the place of the mask token.
  config.target = ""  # Name or number of a class; the model's own where empty.
  config.readout = (
    "margin"  # Over the best other class; logit, log_probability.
  )

  configs.ask_checkpoint(config, quick, 2000)
  return config
