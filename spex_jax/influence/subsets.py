"""Who the players among training examples are, and which subsets are asked.

Shapes: N examples, n players, B subsets.
"""

from collections.abc import Sequence

import numpy as np

from spex_jax import base
from spex_jax.ablate import features


def players_of(
  groups: base.Array, names: Sequence[str] | None = None
) -> features.Players:
  """Players that own the examples of one group each.

  Args:
    groups: `[N]`: the group of each example (classes, sources, clusters);
      players are the distinct ones in ascending order. Negative numbers: no
      player, always kept.
    names: the names of the groups, in that order; by default what they are.

  Raises:
    ValueError: another rank, no group, another number of names, or groups that
      are masked or NaN.
  """
  base.check_unmasked(groups, "Groups")
  array = np.asarray(groups)
  if array.ndim != 1:
    raise ValueError(f"Groups must be [N]; got shape {array.shape}.")
  if array.dtype.kind == "f" and np.isnan(array).any():
    row = int(np.flatnonzero(np.isnan(array))[0])
    raise ValueError(
      f"Example {row} has the group NaN; write -1 for none, or drop it."
    )
  free = array < 0 if array.dtype.kind in "if" else np.zeros(len(array), bool)
  distinct = np.unique(array[~free])
  if not len(distinct):
    raise ValueError("No example belongs to a player.")
  owner = np.searchsorted(distinct, array).astype(np.int32)
  owner[free] = len(distinct)
  if names is None:
    names = [str(group) for group in distinct]
  if len(names) != len(distinct):
    raise ValueError(f"Got {len(names)} names for {len(distinct)} groups.")
  return features.Players(tuple(names), owner)


def clusters(x: base.Array, num_clusters: int, seed: int) -> np.ndarray:
  """Groups of similar examples by k-means: int `[N]`, for `players_of`."""
  from sklearn import cluster  # Slow to import.

  flat = np.asarray(x, np.float64).reshape(len(x), -1)
  means = cluster.KMeans(num_clusters, n_init=4, random_state=seed)
  return means.fit_predict(flat)
