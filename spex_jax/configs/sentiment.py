"""Which words of a text does a classifier use together?

Any Hugging Face text classifier (BERT, DistilBERT, RoBERTa, ModernBERT), or an
embedding model such as MiniLM with a linear head that is fitted on texts with
labels.
"""

import ml_collections

from spex_jax import configs
from spex_jax.jobs import networks, sentiment


def get_config(size: str = "full") -> ml_collections.ConfigDict:
  """`full`: a minute or more; `quick`: seconds, and a rough answer."""
  return configs.sized(size, sentiment.Sentiment, **networks.QUICK)
