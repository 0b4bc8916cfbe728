"""Which edges of a small network do induction? It is trained here."""

import ml_collections

from spex_jax import configs
from spex_jax.jobs import circuits_find


def get_config(size: str = "full") -> ml_collections.ConfigDict:
  """`full`: a minute; `quick`: fewer pairs."""
  return configs.sized(
    size,
    circuits_find.OfInduction,
    num_pairs=8,
    random=1,
    compared=8,
    toy={"width": 16, "num_heads": 2, "num_sequences": 256},
    training={"num_epochs": 1},
    force=True,
  )
