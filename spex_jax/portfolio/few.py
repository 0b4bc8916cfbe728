"""Samples too few to be split into folds: each is predicted from the others.

Shapes: n players, B masks, T targets.
"""

import numpy as np

from spex_jax import base
from spex_jax.fourier import lasso, sparse
from spex_jax.portfolio import members, policy, stack
from spex_jax.portfolio.samples import Samples


def fitted(
  samples: Samples,
) -> tuple[list[sparse.SparseFourier], str, list[str]]:
  """A lasso of order 1 where it predicts each mask from the others, or a mean.

  Returns:
    T expansions, the method and a note.
  """
  masks, values = samples.masks, samples.values
  rows = np.arange(len(masks))
  rest = [samples.at(rows != i) for i in rows]
  guesses = np.array(
    [
      [one(masks[i : i + 1])[0] for one in _lassos(part)]
      for i, part in enumerate(rest)
    ]
  )
  means = np.stack([part.values.mean(axis=0) for part in rest])
  functions, is_told = _lassos(samples), []
  for t, column in enumerate(values.T):
    gain, error = 0.0, 0.0
    if not base.is_constant(column):
      gain, error = stack.gain(column, guesses[:, t], means[:, t])
    is_told.append(gain > policy.POLICY.gain_sure * error)
    if not is_told[t]:
      functions[t] = members.mean(masks, column).function
  what = "lasso, order 1" if any(is_told) else "their mean"
  if any(is_told) and not all(is_told):
    what += ", or the mean"
  note = (
    f"{len(rows)} masks are too few to compare decoders: {what}, by how each "
    "is predicted from the others."
  )
  return functions, "lasso" if any(is_told) else "mean", [note]


def _lassos(samples):
  return lasso.fit_targets(samples.masks, samples.values, 1)
