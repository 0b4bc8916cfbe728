"""ProxySPEX: fit trees, expand them, keep the strongest sets, fit these again.

Butler et al. 2025, arXiv 2505.17495. Deviations: the trees are ours, which are
LightGBM's but for ties (`tree_fourier.expand` reads LightGBM's own), grown with
early stopping, by other configurations (`grid`), which are compared by R^2 of
all folds pooled, not by the mean of the folds' own. Instead of a ridge fit of
the fewest sets that hold 95 % of the energy, whose penalty makes it depend on
the values' offset, stands what held-out folds like best (`sparsify`), the uncut
trees included.

Shapes: n players, B masks, F folds.
"""

from typing import NamedTuple

import jax
import numpy as np

from spex_jax import base
from spex_jax.fourier import score, sparse
from spex_jax.proxies import boosting, sparsify, tree_fourier

# Early stopping finds how many. The paper's package tries 500, 1000 and 5000,
# shapiq 1.8 the first two.
_MOST_TREES = 1000
_DRAWS = 0  # Fixed, as the folds are: equal samples, equal answers.


class ProxySpex(NamedTuple):
  """A sparse expansion, and what tells how good it is.

  Attributes:
    fourier: the expansion of one target, float64.
    predictions: float64 `[B]`, the prediction of each mask by a fit that never
      saw its fold, cut and refitted in the same way. Slightly flattering, as
      the configuration was chosen on them.
    notes: what was chosen, in sentences, and what was unusual.
  """

  fourier: sparse.SparseFourier
  predictions: np.ndarray
  notes: list[str]


def grid(max_order: int) -> list[boosting.Config]:
  """The configurations that compete: fast learners, and slower small trees.

  Small trees of a share of the masks and players each are what predicts
  functions with kinks from few masks. They take the place of the paper's slow
  learners (rate .01), which won nowhere beside them.
  """
  depths = sorted({max(1, max_order - 2), max_order})
  fast = [boosting.Config(depth, 0.1) for depth in depths]
  return [*fast, boosting.Config(min(3, max_order), 0.03, 5, 0.7, 0.7)]


def fit(
  masks: base.Masks,
  values: base.Values,
  *,
  folds: np.ndarray,
  max_order: int,
) -> ProxySpex:
  """Fits a sparse expansion through boosted trees.

  Args:
    masks: bool `[B, n]`. Equal masks are separate samples.
    values: `[B]`, finite, of any scale and offset.
    folds: int `[B]`, the fold of each mask.
    max_order: the depth of the deepest trees.

  Returns:
    A `ProxySpex`. Constant values, a single mask, and so few masks that no
    split leaves enough on each side give the mean, and a note that says so.

  Raises:
    ValueError: values of several targets, or what `boosting.cross_validate`
      refuses.
  """
  masks = base.check_masks(masks)
  values = base.check_values(values, len(masks))
  if values.ndim != 1:
    raise ValueError(f"Need one target, [B]; got {values.shape}.")
  if base.check_integer(max_order, "max_order") < 1:
    raise ValueError(f"max_order must be at least 1; got {max_order}.")
  # Few or constant values need no trees.
  trivial = _trivial(masks, values)
  if trivial is not None:
    return trivial
  # Trees of the best configuration, and their exact expansions.
  ids = boosting.check_folds(folds, len(masks))
  configs = grid(max_order)
  grown = boosting.cross_validate(
    masks,
    values,
    ids,
    configs,
    num_trees=_MOST_TREES,
    key=jax.random.key(_DRAWS),
  )
  functions = [tree_fourier.expand(trees) for trees in grown.fold_trees]
  whole = tree_fourier.expand(grown.trees)
  config = grown.config
  notes = [
    f"Trees of depth {config.depth}, rate {config.rate:g}, "
    f"{grown.num_trees} of them"
    + ", each of a share of masks and players" * (config.row_share < 1)
    + f": R^2 {score.r2_text(values, grown.predictions)} on held-out folds."
  ]
  least = min(c.min_leaf for c in configs)
  if len(masks) - np.bincount(ids).max() < 2 * least:
    notes.append(
      f"{len(masks)} masks are too few to split with {least} on each side "
      "in every fold; ask for more masks."
    )
  # The strongest sets, refitted where held-out folds gain by it.
  found = sparsify.sparsify(
    masks, values, ids, functions, whole, grown.predictions
  )
  notes.append(
    f"Kept {found.candidate}: {int(found.fourier.count) - 1} sets, R^2 "
    f"{score.r2_text(values, found.predictions)} on held-out folds."
  )
  return ProxySpex(found.fourier, found.predictions, notes)


def _trivial(masks, values):
  """The mean, where there is nothing to fit; else None."""
  if len(masks) == 1:
    note = "One mask only: its value stands for all."
  elif not masks.shape[1]:
    note = "Masks have no players: the mean stands for all."
  elif base.is_constant(values):
    note = "All values are equal: the function is that constant."
  else:
    return None
  size = np.abs(values).max() or 1.0
  mean = float(values[0] + ((values - values[0]) / size).mean() * size)
  predictions = np.full(len(masks), mean)
  fourier = sparse.SparseFourier.from_terms(masks.shape[1], [((), mean)])
  return ProxySpex(fourier, predictions, [note])
