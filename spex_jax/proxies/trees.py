"""Ensembles of complete binary trees on masks, and their predictions.

Shapes: n players, B masks, M trees, D depth.
"""

import dataclasses

import chex
import flax.struct
import numpy as np

from spex_jax import base

_LEAVES = 1 << 22  # Leaf indices held at once: 32 MB.
_SUMMED = 64  # Trees whose values are summed at once.


@flax.struct.dataclass
class Trees:
  """A sum of M trees of depth D and a constant, on the host.

  Nodes are breadth first: the children of node k are 2k + 1, where the mask's
  bit is 0, and 2k + 2.

  Attributes:
    feature: int32 `[M, 2^D - 1]` the player that a node asks for; n where it
      asks for none, and everything goes to the first child.
    leaf: float64 `[M, 2^D]` values of the leaves, in the units of the values.
    bias: float64 `[]` the constant.
    n: number of players; static.
  """

  feature: np.ndarray
  leaf: np.ndarray
  bias: np.ndarray
  n: int = flax.struct.field(pytree_node=False)

  @property
  def num_trees(self) -> int:
    return len(self.feature)

  @property
  def depth(self) -> int:
    return self.leaf.shape[-1].bit_length() - 1


def predict(trees: Trees, masks: base.Masks) -> np.ndarray:
  """Values of an ensemble, float64 `[B]`, on the host.

  Args:
    trees: the ensemble.
    masks: bool `[B, n]`.

  Raises:
    ValueError: masks of another number of players.
  """
  masks = base.check_masks(masks, trees.n)
  out = np.full(len(masks), float(trees.bias))
  size = max(8, _LEAVES // max(1, trees.num_trees) // 8 * 8)
  for start in range(0, len(masks), size):
    chunk = masks[start : start + size]
    leaf = leaf_index(trees, chunk)
    for row in range(0, trees.num_trees, _SUMMED):
      part = slice(row, row + _SUMMED)
      picked = np.take_along_axis(trees.leaf[part], leaf[part], axis=1)
      out[start : start + size] += picked.sum(axis=0)
  return out


def truncate(trees: Trees, num_trees: int) -> Trees:
  """The first trees of an ensemble: what a shorter fit would have grown.

  Raises:
    ValueError: more than there are, or fewer than none.
    TypeError: no integer.
  """
  num_trees = base.check_integer(num_trees, "num_trees")
  if not 0 <= num_trees <= trees.num_trees:
    raise ValueError(
      f"num_trees must lie in 0..{trees.num_trees}; got {num_trees}."
    )
  return dataclasses.replace(
    trees,
    feature=trees.feature[:num_trees],
    leaf=trees.leaf[:num_trees],
  )


def leaf_index(trees: Trees, masks: np.ndarray) -> np.ndarray:
  """The leaf that each mask ends in, int `[M, B]`, by bits of many masks."""
  chex.assert_shape(masks, (None, trees.n))
  num_masks = len(masks)
  columns = np.pad(np.packbits(masks.T, axis=1), ((0, 1), (0, 0)))
  num_trees = trees.num_trees
  where = np.full((num_trees, 1, columns.shape[1]), 255, np.uint8)
  leaf = np.zeros((num_trees, num_masks), np.int64)
  for level in range(trees.depth):
    first = (1 << level) - 1
    feature = trees.feature[:, first : 2 * first + 1]
    right = where & columns[feature]
    asked = np.bitwise_or.reduce(right, axis=1)
    leaf = 2 * leaf + np.unpackbits(asked, axis=1, count=num_masks)
    where = np.stack([where ^ right, right], axis=2)
    where = where.reshape(num_trees, 2 << level, columns.shape[1])
  return leaf
