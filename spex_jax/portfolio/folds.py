"""Folds of the samples: predictions out of fold, and what all samples leave.

A fold is predicted by a fit to the others. Such a fit lacks a fifth of the
samples, or a tenth where they are few, and errs more than one to all of them.

Shapes: n players, B masks.
"""

import math
from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from spex_jax import base
from spex_jax.fourier import lasso, sparse
from spex_jax.portfolio import policy
from spex_jax.proxies import boosting

_NOTHING = 1e-24  # Of squares of size 1.
_ROUNDING = 1e-12  # Share of max|f|.

Fit = Callable[[np.ndarray], sparse.SparseFourier]  # bool [B], rows to see.


class Growth(NamedTuple):
  """What a fit to all samples leaves, of what fits out of fold leave.

  Errors fall with the samples as a power of their number (Cortes et al. 1994),
  and where few samples just suffice to find the sets, steeply: two numbers of
  folds tell how.

  Attributes:
    share: the mean square error of the first over that of the others, at most
      1; 1 where nothing is known.
    std: standard error of its logarithm, half of it for the curve's own bend.
  """

  share: float = 1.0
  std: float = 0.0


def spread(num_masks: int) -> np.ndarray:
  """Folds int `[B]`: 10 of few masks, else 5."""
  few = num_masks <= policy.POLICY.few_masks
  return boosting.spread_folds(
    num_masks, policy.POLICY.few_folds if few else policy.POLICY.folds
  )


def first_fold(masks: base.Masks, folds: np.ndarray, fit: Fit) -> np.ndarray:
  """`[B]` predictions of the first fold by a fit to the others; else NaN."""
  held = folds == folds[0]
  out = np.full(len(folds), np.nan)
  out[held] = lasso.evaluate(masks[held], fit(~held))
  return out


def predict(
  masks: base.Masks,
  values: np.ndarray,
  folds: np.ndarray,
  fit: Fit,
  baseline: np.ndarray | None = None,
  weights: np.ndarray | None = None,
) -> np.ndarray | None:
  """Each fold by a fit to the others, `[B]`.

  Args:
    masks: bool `[B, n]`.
    values: `[B]`.
    folds: int `[B]`.
    fit: bool rows `[B]` to the function fitted to them alone.
    baseline: `[B]` predictions to compare with.
    weights: `[B]` by which they are compared; the fit has its own.

  Returns:
    None where the first fold leaves far more than the baseline does there.
  """
  out = np.empty(len(values))
  for fold in dict.fromkeys(folds.tolist()):
    held = folds == fold
    out[held] = lasso.evaluate(masks[held], fit(~held))
    if baseline is not None:
      left, least = (
        error(values, guess, held, weights) for guess in (out, baseline)
      )
      if left > policy.POLICY.hopeless * least:
        return None
      baseline = None  # Compared once.
  return out


def growth(
  masks: base.Masks,
  values: np.ndarray,
  folds: np.ndarray,
  fit: Fit,
  out_of_fold: np.ndarray,
  weights: np.ndarray | None = None,
) -> Growth:
  """By folds of twice the width, where samples are few and it is beyond doubt.

  Args:
    masks: bool `[B, n]`.
    values: `[B]`.
    folds: int `[B]`, the fold of each mask; neighbours are joined.
    fit: bool rows `[B]` to the function fitted to them alone.
    out_of_fold: `[B]` predictions that `predict` made.
    weights: `[B]` of the values' squares, of mean 1; None for equal ones.
  """
  if len(np.unique(folds)) <= policy.POLICY.folds:
    return Growth()
  parts = (out_of_fold[folds == fold] for fold in np.unique(folds))
  if all(base.is_constant(part[:, None]).all() for part in parts):
    return Growth()  # Nothing but means: what more masks bring is not told.
  both = out_of_fold, predict(masks, values, folds // 2, fit)
  size = np.abs(values).max() or 1.0
  narrow, wide = (((guess - values) / size) ** 2 for guess in both)
  if weights is not None:
    narrow, wide = narrow * weights, wide * weights
  if not min(narrow.mean(), wide.mean()) > _NOTHING:
    return Growth()
  apart = narrow / narrow.mean() - wide / wide.mean()
  std = float(apart.std() / np.sqrt(len(apart)))
  step = float(np.log(narrow.mean() / wide.mean()))
  if step > -policy.POLICY.growth_sure * std:
    return Growth()
  # From 9 to 10 tenths of the masks, as from 8 to 9.
  k, doubt = policy.POLICY.few_folds, policy.POLICY.growth_doubt
  power = math.log(k / (k - 1)) / math.log((k - 1) / (k - 2))
  return Growth(math.exp(power * step), power * math.hypot(std, step * doubt))


def error(
  values: np.ndarray,
  guess: np.ndarray,
  rows: slice | np.ndarray = slice(None),
  weights: np.ndarray | None = None,
) -> float:
  """Mean square over rows, free of units, so that no square overflows.

  With `weights` `[B]`, which are of mean 1 over all rows, a weighted one.
  """
  scale = np.abs(values).max() or 1.0
  # Of these rows alone: the others of a guess may not be filled yet.
  squares = ((guess[rows] - values[rows]) / scale) ** 2
  return float((squares if weights is None else squares * weights[rows]).mean())


def character_error(
  out_of_fold: np.ndarray,
  values: np.ndarray,
  weights: np.ndarray | None = None,
) -> float:
  """What a regression on characters errs by that leaves as much out of fold.

  Random masks leave characters orthogonal, so that all err alike; errors of
  rounding size are none. Of weighted values it is the error of weighted means,
  by what each of them leaves itself.
  """
  scale = np.abs(values).max() or 1.0
  squared = None if weights is None else weights**2
  spread = np.sqrt(error(values, out_of_fold, weights=squared))
  return scale * (spread > _ROUNDING) * spread / np.sqrt(len(values))
