"""Gradient-boosted regression trees on masks: fits and cross-validation.

The settings have LightGBM's meaning (Ke et al. 2017): depth is its max_depth,
min_leaf is min_data_in_leaf, rate is learning_rate, row_share and column_share
are bagging_fraction and feature_fraction, drawn anew for each tree.

One long fit answers every smaller number of trees: the error on held-out
masks is kept after each tree. Folds are a batch that shares the masks;
configurations run in turn, since shallow trees cost less than deep ones with
levels switched off, and high rates stop early.

Residuals below 1e-6 of the values' deviation are left alone (float32).

Shapes: n players, B masks, M trees, F folds, C configurations.
"""

from collections.abc import Sequence
from typing import NamedTuple

import jax
import numpy as np

from spex_jax import base
from spex_jax.fourier import regress
from spex_jax.proxies import growing
from spex_jax.proxies import trees as trees_lib

_MAX_DEPTH = 12
_PATIENCE = 100  # Trees without a better pooled error, before growing stops.
_TIE = 1e-6  # Errors that differ by less, relatively, are equal.


class Config(NamedTuple):
  """How trees are grown.

  Attributes:
    depth: the most questions on a way, 1..12.
    rate: the shrinkage, in (0, 1].
    min_leaf: least masks on each side of a split. With fewer than twice as
      many masks nothing is split, and the mean is what is left.
    row_share: share of the masks that each tree sees, in (0, 1].
    column_share: share of the players that each tree may ask for, in (0, 1].
  """

  depth: int
  rate: float
  min_leaf: int = 20
  row_share: float = 1.0
  column_share: float = 1.0


class CrossValidation(NamedTuple):
  """The best configuration on held-out folds, and its fits.

  Attributes:
    config: the best configuration.
    num_trees: its number of trees; 0 for the mean alone.
    predictions: float64 `[B]`, the prediction of each mask by the fit that
      never saw its fold.
    trees: the fit on all masks, `num_trees` of them.
    fold_trees: the fit without fold f, for each of the F folds in ascending
      order of their ids.
  """

  config: Config
  num_trees: int
  predictions: np.ndarray
  trees: trees_lib.Trees
  fold_trees: tuple[trees_lib.Trees, ...]


def cross_validate(
  masks: base.Masks,
  values: base.Values,
  folds: np.ndarray,
  configs: Sequence[Config],
  *,
  num_trees: int,
  key: base.Key,
) -> CrossValidation:
  """Finds the configuration and number of trees by cross-validation.

  Every configuration is fitted once without each fold and once on all masks. It
  stops growing once its pooled error has not improved for 100 trees, or falls
  too slowly to reach the best of the others.

  Args:
    masks: bool `[B, n]`.
    values: `[B]`, finite, of any scale and offset.
    folds: integers `[B]`, the fold of each mask; at least two differ.
    configs: C of them, to try.
    num_trees: the most trees.
    key: consumed; for shares below 1.

  Returns:
    The best. The least number of trees wins ties, and the configuration tried
    first: those of the highest rates, and the shallowest among them.

  Raises:
    ValueError: folds of another shape or all alike, no configuration, a
      setting out of range, values of several targets, or what
      `base.check_masks` and `base.check_values` refuse.
    TypeError: folds, a depth or a number that are no integers.
  """
  masks = base.check_masks(masks)
  values = base.check_values(values, len(masks))
  if not masks.shape[1]:
    raise ValueError("Trees need at least one player; masks have none.")
  if values.ndim != 1:
    raise ValueError(f"Need one target, [B]; got {values.shape}.")
  _check_configs(configs)
  if base.check_integer(num_trees, "num_trees") < 1:
    raise ValueError(f"num_trees must be at least 1; got {num_trees}.")
  ids = check_folds(folds, len(masks))
  # All fits of a configuration grow together.
  seen = np.arange(ids.max() + 2)[:, None] != ids  # The last sees all.
  problem, start = growing.pad(masks), growing.Start.of(values, seen)
  # Fast learners first: they tell the slow ones when to give up.
  configs = sorted(configs, key=lambda c: (-c.rate, c.depth))
  best = _Best()
  for c, config in enumerate(configs):
    depth, *settings = config
    grown = growing.grow_all(
      problem,
      start,
      depth=depth,
      num_trees=num_trees,
      settings=growing.Settings(*settings),
      key=jax.random.fold_in(key, c),
      patience=_PATIENCE,
      goal=best.error,
    )
    best.offer(config, start.scores(grown[2]), grown)
  return best.result(problem, start, masks, ids)


def spread_folds(num_masks: int, num_folds: int = 5) -> np.ndarray:
  """Fixed fold ids int `[B]` of near-equal folds; at most one per mask."""
  num_folds = max(1, min(num_folds, num_masks))
  folds = np.empty(num_masks, np.int64)
  order = regress.spread_order(num_masks)
  folds[order] = np.arange(num_masks) * num_folds // max(1, num_masks)
  return folds


def check_folds(folds: np.ndarray, num_masks: int) -> np.ndarray:
  """Returns fold ids as int `[B]` in 0..F-1, in the order of the ids given.

  Raises:
    ValueError: another shape, or fewer than two folds.
    TypeError: no integers.
  """
  folds = np.asarray(folds)
  if folds.shape != (num_masks,):
    raise ValueError(
      f"folds must hold one id per mask, shape ({num_masks},); got "
      f"{folds.shape}."
    )
  if folds.dtype.kind not in "iu":
    raise TypeError(f"folds must be integers; got {folds.dtype}.")
  names, ids = np.unique(folds, return_inverse=True)
  if len(names) < 2:
    raise ValueError(
      f"Cross-validation needs at least two folds; {num_masks} masks have "
      f"{len(names)}. Use more masks."
    )
  return ids


class _Best:
  """The best configuration so far, and what it grew."""

  def __init__(self):
    self.error, self.config, self.count = np.inf, Config(1, 1.0), 0
    self.grown: tuple = ()

  def offer(self, config, scores, grown):
    errors = 1 - scores
    # float32 sums: what differs by rounding is a tie.
    tie = (1 + _TIE) * errors.min() + _TIE**2
    count = int((errors <= tie).argmax())
    if not self.grown or tie < self.error:
      self.error, self.config = float(errors[count]), config
      self.count, self.grown = count, grown

  def result(self, problem, start, masks, ids):
    feature, leaf, _ = self.grown
    fits = [
      trees_lib.truncate(
        start.trees(problem, feature[:, g], leaf[:, g], g), self.count
      )
      for g in range(len(start.seen))
    ]
    predictions = np.empty(len(masks))
    for f, trees in enumerate(fits[:-1]):
      predictions[ids == f] = trees_lib.predict(trees, masks[ids == f])
    return CrossValidation(
      config=self.config,
      num_trees=self.count,
      predictions=predictions,
      trees=fits[-1],
      fold_trees=tuple(fits[:-1]),
    )


def _check_configs(configs):
  if not len(configs):
    raise ValueError("Need at least one configuration.")
  for config in configs:
    if not 1 <= base.check_integer(config.depth, "depth") <= _MAX_DEPTH:
      raise ValueError(
        f"depth must lie in 1..{_MAX_DEPTH}; got {config.depth}."
      )
    if base.check_integer(config.min_leaf, "min_leaf") < 1:
      raise ValueError(f"min_leaf must be at least 1; got {config.min_leaf}.")
    for name in ("rate", "row_share", "column_share"):
      if not 0 < getattr(config, name) <= 1:
        raise ValueError(
          f"{name} must lie in (0, 1]; got {getattr(config, name)}."
        )
