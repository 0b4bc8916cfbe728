"""Sparse regression on all sets of order 1 and 2, from any masks.

Where there are more pairs than a regression should hold, the pairs that
correlate most with what order 1 leaves are kept ("screened"; sure
independence screening, Fan and Lv 2008). Screening sees the values, so a
cross-validated score of the result flatters it: compare on other masks.

Shapes: n players, B masks, K sets.
"""

import numpy as np

from spex_jax import base
from spex_jax.fourier import regress, sparse

_MOST_COLUMNS = 1500  # Sets at once: their Gram matrices take 100 MB.
_MOST_PLAYERS = 2000  # Players whose pairs are scored: 32 MB of scores.


def fit(
  masks: base.Masks,
  values: base.Values,
  order: int,
  *,
  max_columns: int = _MOST_COLUMNS,
) -> sparse.SparseFourier:
  """Fits the sets of order 1, or 1 and 2, by cross-validated lasso.

  Args:
    masks: bool `[B, n]`, B >= 3.
    values: `[B]`, finite.
    order: 1 or 2.
    max_columns: most sets in the regression, and at most 4 B.

  Returns:
    An expansion without zero coefficients, but always with the empty set.

  Raises:
    ValueError: another order, or what `regress.refit` refuses.
  """
  if order not in (1, 2):
    raise ValueError(f"The lasso takes order 1 or 2; got {order}.")
  masks = base.check_masks(masks)
  values = base.check_values(values, len(masks))
  num_masks, n = masks.shape
  limit = max(2, min(max_columns, 4 * num_masks))
  signs = 1 - 2 * masks.astype(np.float32)
  unit = values / (np.abs(values).max() or 1.0)
  unit = unit - unit.mean()
  singles = np.abs(signs.T @ unit.astype(np.float32))
  chosen = np.sort(_largest(singles, limit - 1))
  players = np.full((len(chosen) + 1, 1), n)
  players[1:, 0] = chosen
  found = regress.refit(masks, values, players)
  room = limit - len(players)
  if order == 2 and n > 1 and room > 0:
    left = values - regress.design(masks, players, dtype=np.float64) @ (
      found.coefs
    )
    near = np.sort(_largest(singles, _MOST_PLAYERS))
    pairs = _strongest_pairs(signs[:, near], left, room)
    players = np.concatenate(
      [np.pad(players, ((0, 0), (0, 1)), constant_values=n), near[pairs]]
    )
    found = regress.refit(masks, values, players)
  kept = found.coefs != 0
  kept[0] = True
  return sparse.SparseFourier.from_players(n, players[kept], found.coefs[kept])


def _strongest_pairs(signs, residual, count):
  """int `[<= count, 2]` pairs i < j of columns, by |mean(r s_i s_j)|."""
  residual = residual / (np.abs(residual).max() or 1.0)
  scores = np.abs(signs.T @ (signs * residual[:, None].astype(np.float32)))
  rows, columns = np.triu_indices(signs.shape[1], 1)
  best = np.sort(_largest(scores[rows, columns], count))
  return np.stack([rows[best], columns[best]], axis=1)


def _largest(scores, count):
  """Indices of the largest scores; the first of equal ones, deterministic."""
  return np.argsort(-scores, kind="stable")[:count]
