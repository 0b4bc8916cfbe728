"""Value functions that several tests explain."""

import jax
import numpy as np

from spex_jax.fourier import sparse
from spex_jax.proxies import boosting, growing


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
  config = boosting.Config(**{"depth": 5, "rate": 0.1} | config)
  everyone = np.ones((1, len(masks)), bool)
  start, (feature, leaf, _) = staged(
    masks, values, everyone, config, num_trees, key=key
  )
  problem = growing.pad(masks)
  return start.trees(problem, feature[:, 0], leaf[:, 0], 0)


def staged(masks, values, seen, config, num_trees, patience=10**6, key=None):
  """A `growing.Start`, and what is grown of it: all, but for the patience."""
  start = growing.Start.of(values, seen)
  depth, *settings = config
  grown = growing.grow_all(
    growing.pad(masks),
    start,
    depth=depth,
    num_trees=num_trees,
    settings=growing.Settings(*settings),
    key=jax.random.key(0) if key is None else key,
    patience=patience,
    goal=np.inf,
  )
  return start, grown
