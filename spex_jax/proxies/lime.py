"""LIME: a weighted ridge regression on which players are kept.

Ribeiro, Singh and Guestrin 2016 (arXiv 1602.04938), algorithm 1, as their
package `lime` does it for text: a number of absent players is drawn uniformly
from 1..n, then which they are; a mask weighs `sqrt(exp(-d^2 / width^2))`, where
d is its cosine distance from the full mask; ridge regression with penalty 1 and
a free intercept gives a value for each player. The package's width is 25 for
distances times 100 in text, 0.25 in images: the same.

Deviations: no mask is asked twice; each size has, all its masks together, the
weight that the package's 5,000 draws would give it, however many masks stand
for them, so that the penalty is as weak beside them; no features are selected
first, every player has its value; players of tables and images are kept or
absent, as words are, and not drawn from a distribution of columns.

Shapes: n players, B masks, T targets.
"""

import numpy as np

from spex_jax import base
from spex_jax.fourier import moments
from spex_jax.masks import sampling

WIDTH = 0.25  # Of the kernel, in cosine distance; useful from 0.1 to 1.
_PENALTY = 1.0
_DRAWS = 5000  # The default of the package; the first is the full mask.


def least_budget(n: int) -> int:
  """As many masks as there are numbers to fit."""
  return min(n + 1, 1 << n)


def design(
  key: base.Key, num_masks: int, n: int, exclude: base.Masks
) -> np.ndarray:
  """Distinct masks `[B, n]` of sizes 1..n-1, each size as likely.

  Args:
    key: consumed.
    num_masks: B, at most the number of masks that are not excluded.
    n: players, at least 2.
    exclude: `[E, n]` masks that must not be drawn.
  """
  weights = np.ones(n + 1)
  weights[[0, n]] = 0
  return sampling.distinct(key, num_masks, n, weights=weights, exclude=exclude)


def weigh(masks: base.Masks, width: float = WIDTH) -> np.ndarray:
  """Weights `[B]` of distinct masks, the full one among them.

  The kernel, times how often the package would draw the mask: the full one
  once, the other sizes alike, and all masks of a size alike.
  """
  masks = base.check_masks(masks)
  n = masks.shape[1]
  sizes = masks.sum(axis=1)
  counts = np.bincount(sizes, minlength=n + 1)
  per_size = (_DRAWS - 1) / max(1, (counts[:n] > 0).sum())
  draws = np.where(counts > 0, per_size / np.maximum(counts, 1), 0)
  draws[n] = 1.0
  distance = 1 - np.sqrt(sizes / n)  # Cosine; of nothing kept it is 1.
  return np.sqrt(np.exp(-((distance / width) ** 2))) * draws[sizes]


def solve(
  masks: base.Masks, weights: base.Array, values: base.Values
) -> tuple[np.ndarray, np.ndarray]:
  """The intercepts `[T]` and the values `[n, T]` of the ridge regression.

  Args:
    masks: bool `[B, n]`.
    weights: `[B]`, positive.
    values: `[B, T]`.
  """
  x = base.check_masks(masks).astype(np.float64)
  share = np.asarray(weights, np.float64)[:, None]
  mean_x = (share * x).sum(axis=0) / share.sum()
  mean_y = (share * values).sum(axis=0) / share.sum()
  sums = moments.Moments.of(x - mean_x, values - mean_y, share[:, 0])
  found = sums.ridge(_PENALTY)
  return mean_y - mean_x @ found, found
