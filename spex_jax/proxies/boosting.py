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
from spex_jax.fourier import score as score_lib
from spex_jax.proxies import growing
from spex_jax.proxies import trees as trees_lib

_MAX_DEPTH = 12
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
    score: R^2 of `predictions`, all folds pooled.
    predictions: float64 `[B]`, the prediction of each mask by the fit that
      never saw its fold.
    trees: the fit on all masks, `num_trees` of them.
    fold_trees: the fit without fold f, for each of the F folds in ascending
      order of their ids.
    configs: the C configurations, in the order they were tried.
    scores: float64 `[C, M + 1]` R^2 with 0..M trees; -inf where a fit had
      stopped before.
  """

  config: Config
  num_trees: int
  score: float
  predictions: np.ndarray
  trees: trees_lib.Trees
  fold_trees: tuple[trees_lib.Trees, ...]
  configs: tuple[Config, ...]
  scores: np.ndarray


def cross_validate(
  masks: base.Masks,
  values: base.Values,
  folds: np.ndarray,
  configs: Sequence[Config],
  *,
  num_trees: int = 1000,
  counts: Sequence[int] | None = None,
  patience: int | None = 100,
  key: base.Key | None = None,
) -> CrossValidation:
  """Finds the configuration and number of trees by cross-validation.

  Every configuration is fitted once without each fold and once on all masks.

  Args:
    masks: bool `[B, n]`.
    values: `[B]`, finite, of any scale and offset.
    folds: integers `[B]`, the fold of each mask; at least two differ.
    configs: C of them, to try.
    num_trees: the most trees.
    counts: the numbers of trees to choose among, without early stopping; None
      for all of 0..num_trees.
    patience: a configuration stops growing once its pooled error has not
      improved for so many trees, or falls too slowly to reach the best of the
      others; None to grow all trees.
    key: consumed; for shares below 1.

  Returns:
    The best. The least number of trees wins ties, and the configuration tried
    first: those of the highest rates, and the shallowest among them.

  Raises:
    ValueError: folds of another shape or all alike, no configuration or count,
      a count above num_trees, a setting out of range, a share below 1 without
      a key, values of several targets, or what `base.check_masks` and
      `base.check_values` refuse.
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
  if key is None:
    if any(min(c.row_share, c.column_share) < 1 for c in configs):
      raise ValueError(
        "A share below 1 draws at random: pass key=jax.random.key(...)."
      )
    key = jax.random.key(0)  # Draws nothing.
  ids = check_folds(folds, len(masks))
  # The numbers of trees that may be chosen.
  patience = patience if counts is None else None
  allowed = np.zeros(num_trees + 1, bool)
  counts = range(num_trees + 1) if counts is None else counts
  for count in counts:
    if not 0 <= base.check_integer(count, "A count of trees") <= num_trees:
      raise ValueError(f"counts must lie in 0..{num_trees}; got {count}.")
    allowed[count] = True
  if not allowed.any():
    raise ValueError("Need at least one count of trees.")
  if patience is not None and base.check_integer(patience, "patience") < 1:
    raise ValueError(f"patience must be at least 1; got {patience}.")
  # All fits of a configuration grow together.
  seen = np.arange(ids.max() + 2)[:, None] != ids  # The last sees all.
  problem, start = growing.pad(masks), growing.Start.of(values, seen)
  # Fast learners first: they tell the slow ones when to give up.
  configs = tuple(sorted(configs, key=lambda c: (-c.rate, c.depth)))
  best = _Best(configs, num_trees)
  for c, (depth, *settings) in enumerate(configs):
    grown = growing.grow_all(
      problem,
      start,
      depth=depth,
      num_trees=num_trees,
      settings=growing.Settings(*settings),
      key=jax.random.fold_in(key, c),
      patience=patience,
      goal=best.error,
    )
    best.offer(c, start.scores(grown[2]), allowed, grown)
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

  def __init__(self, configs, num_trees):
    self.configs = configs
    self.scores = np.full((len(configs), num_trees + 1), -np.inf)
    self.error, self.config, self.count = np.inf, 0, 0
    self.grown: tuple = ()

  def offer(self, config, scores, allowed, grown):
    self.scores[config, : len(scores)] = scores
    errors = np.where(allowed[: len(scores)], 1 - scores, np.inf)
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
    truth = start.values * start.size
    return CrossValidation(
      config=self.configs[self.config],
      num_trees=self.count,
      score=float(score_lib.r2(truth, predictions)),
      predictions=predictions,
      trees=fits[-1],
      fold_trees=tuple(fits[:-1]),
      configs=self.configs,
      scores=self.scores,
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
