"""Value functions that several tests explain."""

import numpy as np

from spex_jax.fourier import sparse
from spex_jax.proxies import boosting


def planted(n, num_terms, order, seed=0):
  """A sparse function of drawn terms, of up to `order`."""
  rng = np.random.default_rng(seed)
  terms = {}
  while len(terms) < num_terms:
    size = rng.integers(1, order + 1)
    members = tuple(sorted(rng.choice(n, size, replace=False).tolist()))
    terms[members] = rng.uniform(0.5, 2) * rng.choice([-1, 1])
  return sparse.SparseFourier.from_terms(n, terms)


def pairs(masks):
  """Of order 2, of four players."""
  return 2.0 * masks[:, 0] - masks[:, 1] + 3.0 * masks[:, 2] * masks[:, 3]


def grown(masks, values, num_trees=500, key=None, **config):
  """Boosted trees of one setting, all of them, on all masks."""
  return boosting.cross_validate(
    masks,
    values,
    np.arange(len(masks)) % 2,
    [boosting.Config(**{"depth": 5, "rate": 0.1} | config)],
    num_trees=num_trees,
    counts=(num_trees,),
    key=key,
  ).trees
