"""Sparse regression on all sets of order 1 and 2, from any masks.

Where there are more pairs than a regression should hold, the pairs that
correlate most with what order 1 leaves are kept ("screened"; sure
independence screening, Fan and Lv 2008). Screening sees the values, so a
cross-validated score of the result flatters it: compare on other masks.

Shapes: n players, B masks, T targets, K sets.
"""

from collections.abc import Sequence

import numpy as np

from spex_jax import base
from spex_jax.fourier import regress, sparse

_MOST_COLUMNS = 1500  # Sets at once: their Gram matrices take 100 MB.
_MOST_PLAYERS = 2000  # Players whose pairs are scored: 32 MB of scores.
_CELLS = 1 << 25  # Signs held at once: 128 MB.


def fit_targets(
  masks: base.Masks,
  values: base.Values,
  order: int,
  *,
  max_columns: int = _MOST_COLUMNS,
  penalty: regress.Penalty = "lasso",
  penalties: Sequence[float] | None = None,
  weights: np.ndarray | None = None,
) -> list[sparse.SparseFourier]:
  """Fits the sets of order 1, or 1 and 2, by cross-validated lasso.

  Targets share all that masks alone decide.

  Args:
    masks: bool `[B, n]`, B >= 3.
    values: `[B, T]`, finite.
    order: 1 or 2.
    max_columns: most sets in one target's regression, and at most 4 B.
    penalty: the kind of fit, as for `regress.refit`.
    penalties: the grid, as for `regress.refit`.
    weights: `[B]`, as for `regress.refit`; of screening, too.

  Returns:
    T expansions without zero coefficients, but always with the empty set; each
    the same as for that target alone.

  Raises:
    ValueError: another order, or what `regress.refit` refuses.
  """
  if order not in (1, 2):
    raise ValueError(f"The lasso takes order 1 or 2; got {order}.")
  masks = base.check_masks(masks)
  values = base.check_values(values, len(masks))
  num_masks, n = masks.shape
  settings = penalty, penalties, weights
  limit = max(2, min(max_columns, 4 * num_masks))
  everyone = _with_empty(np.arange(n)[:, None], n)
  if n < limit and (order == 1 or n < 2):
    return _fit_sets(masks, values, everyone, *settings)
  if 1 + n + n * (n - 1) // 2 <= limit:  # No choice, so nothing to screen.
    pairs = np.stack(np.triu_indices(n, 1), axis=1)
    return _fit_sets(masks, values, _join(everyone, pairs, n), *settings)
  unit = values / np.where(values.any(axis=0), np.abs(values).max(axis=0), 1.0)
  if weights is None:
    unit = unit - unit.mean(axis=0)
  else:
    unit = regress.standardise(unit, True, weights)[0] * weights[:, None]
  strength = np.abs(_correlate(masks, unit))
  chosen = [np.sort(_largest(one, limit - 1)) for one in strength.T]
  if n < limit:
    singles = [everyone] * len(chosen)
    alone = _fit_sets(masks, values, everyone, *settings)
  else:
    singles = [_with_empty(c[:, None], n) for c in chosen]
    alone = [
      _fit_sets(masks, values[:, t : t + 1], players, *settings)[0]
      for t, players in enumerate(singles)
    ]
  room = limit - len(singles[0])
  if order == 1 or room < 1:
    return alone
  out = []
  for t, (players, first) in enumerate(zip(singles, alone)):
    near = np.sort(_largest(strength[:, t], _MOST_PLAYERS))
    left = values[:, t] - evaluate(masks, first)
    left = left if weights is None else left * weights
    pairs = near[_strongest_pairs(masks, near, left, room)]
    sets = _join(players, pairs, n)
    out += _fit_sets(masks, values[:, t : t + 1], sets, *settings)
  return out


def refit_sets(
  masks: base.Masks, values: base.Values, function: sparse.SparseFourier
) -> sparse.SparseFourier:
  """The coefficients of the sets of `function`, by lasso on values `[B]`."""
  players = np.asarray(function.players)[: int(function.count)]
  values = base.check_values(values, len(masks))
  return _fit_sets(masks, values[:, None], players)[0]


def evaluate(masks: base.Masks, function: sparse.SparseFourier) -> np.ndarray:
  """`function(masks)`, float64 `[B]`, on the host: nothing is compiled.

  Cheaper than a call where every function has another number of sets.
  """
  masks = base.check_masks(masks, function.n)
  parts = [np.zeros(0)]
  # The constant last: beside a large one the other sums would lose digits.
  constant, coefs = sparse.split_constant(function)
  for rows in _chunks(masks, 2 * max(masks.shape[1], len(coefs))):
    x = regress.design(masks[rows], function.players, dtype=np.float64)
    parts.append(x @ coefs + constant)
  return np.concatenate(parts)


def _fit_sets(
  masks,
  values,
  players,
  penalty: regress.Penalty = "lasso",
  penalties: Sequence[float] | None = None,
  weights: np.ndarray | None = None,
):
  """Lasso on given sets, of which the fitted and the empty one are kept."""
  n = masks.shape[1]
  found = regress.refit(
    masks,
    values,
    players,
    penalty=penalty,
    penalties=penalties,
    weights=weights,
  )
  empty = (players == n).all(axis=1)
  out = []
  for coefs in found.coefs:
    kept = (coefs != 0) | empty
    out.append(sparse.SparseFourier.from_players(n, players[kept], coefs[kept]))
  return out


def _with_empty(players, n):
  return np.concatenate([np.full((1, players.shape[1]), n), players])


def _join(singles, pairs, n):
  wide = np.pad(singles, ((0, 0), (0, 1)), constant_values=n)
  return np.concatenate([wide, pairs])


def _chunks(masks, width):
  size = max(1024, _CELLS // max(1, width))
  return [slice(i, i + size) for i in range(0, len(masks), size)]


def _signs(masks):
  return 1 - 2 * masks.astype(np.float32)


def _correlate(masks, values):
  """`[n, T]` sums of the values times the sign of each player."""
  out = np.zeros((masks.shape[1], values.shape[1]))
  for rows in _chunks(masks, masks.shape[1]):
    out += _signs(masks[rows]).T @ values[rows].astype(np.float32)
  return out


def _strongest_pairs(masks, near, residual, count):
  """int `[<= count, 2]` pairs i < j in `near`, by |mean(r s_i s_j)|."""
  residual = (residual / (np.abs(residual).max() or 1.0)).astype(np.float32)
  scores = np.zeros((len(near), len(near)), np.float32)
  for rows in _chunks(masks, len(near)):
    signs = _signs(masks[rows][:, near])
    scores += signs.T @ (signs * residual[rows, None])
  i, j = np.triu_indices(len(near), 1)
  best = np.sort(_largest(np.abs(scores[i, j]), count))
  return np.stack([i[best], j[best]], axis=1)


def _largest(scores, count):
  """Indices of the largest scores; the first of equal ones, deterministic."""
  return np.argsort(-scores, kind="stable")[:count]
