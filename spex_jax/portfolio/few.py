"""Samples too few to be split into folds: each is predicted from the others.

Shapes: n players, B masks, T targets.
"""

from collections.abc import Sequence

import numpy as np

from spex_jax import base
from spex_jax.fourier import lasso, sparse
from spex_jax.portfolio import members, policy, precision, stack
from spex_jax.portfolio.samples import Samples


def fitted(
  samples: Samples, stds: Sequence[np.ndarray | None]
) -> tuple[list[sparse.SparseFourier], str, list[str]]:
  """A lasso of order 1 where it predicts each mask from the others, or a mean.

  Args:
    samples: 4 masks or more.
    stds: T standard errors `[B]` of the values by their noise, or None each.

  Returns:
    T expansions, the method and a note.
  """
  functions, is_told = [], []
  for column, std in zip(samples.values.T, stds, strict=True):
    function, told = _of_target(samples.masks, column, std)
    functions.append(function)
    is_told.append(told)
  what = "lasso, order 1" if any(is_told) else "their mean"
  if any(is_told) and not all(is_told):
    what += ", or the mean"
  note = (
    f"{len(samples.masks)} masks are too few to compare decoders: {what}, by "
    "how each is predicted from the others."
  )
  return functions, "lasso" if any(is_told) else "mean", [note]


def _of_target(masks, values, std):
  """The expansion, and whether it is a lasso."""
  weights = None
  if std is not None and not base.is_constant(values):
    tau = precision.first_deviation(masks, values, std)
    weights = precision.weights(tau, std)
  mean = members.mean(masks, values, weights)
  if base.is_constant(values):
    return mean.function, False
  everyone = np.ones(len(masks), bool)

  def fit(rows):
    known = members.part(weights, rows)
    return lasso.fit_targets(masks[rows], values[rows, None], 1, weights=known)[
      0
    ]

  guess = np.empty(len(masks))
  for i in range(len(masks)):
    rows = everyone.copy()
    rows[i] = False
    guess[i] = fit(rows)(masks[~rows])[0]
  gain, error = stack.gain(values, guess, mean.out_of_fold, weights)
  told = gain > policy.POLICY.gain_sure * error
  if std is not None and not told:
    left = values - guess, values - mean.out_of_fold
    gain, error = precision.gain(*left, std)
    told = gain > policy.POLICY.gain_sure * error
  return (fit(everyone), True) if told else (mean.function, False)
