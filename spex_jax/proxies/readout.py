"""The largest coefficients of a Gaussian process, by branch and bound.

F(S) is w_S times a sum that is at most |alpha|_1, and w_S = a prod rho_i only
falls as S grows. So candidates are grown from the players of largest rho, and
a branch ends where w_S is below that of `most` others. What the rest hold is
known exactly, by Parseval.

Shapes: n players, B masks, K sets, D the largest order.
"""

from typing import NamedTuple

import numpy as np

from spex_jax.fourier import sparse
from spex_jax.proxies import gaussian, spectrum

MOST_SETS = 1 << 15


class Readout(NamedTuple):
  """A sparse copy of the mean of a process.

  Attributes:
    fourier: the largest coefficients of the mean, exact.
    missed: share of the mean's energy (without the empty set) that they lack.
  """

  fourier: sparse.SparseFourier
  missed: float


def expand(
  posterior: gaussian.Posterior,
  num_terms: int = 2048,
  *,
  max_order: int | None = None,
  most: int = MOST_SETS,
) -> Readout:
  """The `num_terms` largest coefficients of the posterior mean.

  Args:
    posterior: a process on n players.
    num_terms: sets besides the empty one.
    max_order: the largest sets; None for no limit.
    most: sets of two or more players that are looked at, at most; every
      player is looked at.
  """
  n = posterior.n
  log_rho, _ = spectrum.levels(posterior.params)
  order = np.argsort(-log_rho, kind="stable")
  depth = n if max_order is None else min(n, max_order)
  rows = candidates(log_rho[order], most, depth)
  padded = np.append(order, n)
  large = padded[rows]
  singles = np.full((n + 1, large.shape[1]), n)
  singles[:n, 0] = np.arange(n)
  sets = np.concatenate([singles, large])
  coefs = spectrum.coefs(posterior, sets)
  ranked = np.argsort(-np.abs(coefs[np.arange(len(sets)) != n]), kind="stable")
  ranked += ranked >= n  # The empty set is row n, and always kept.
  kept = ranked[: max(0, num_terms)]
  total = spectrum.energy(posterior)
  held = float(((coefs[kept] / posterior.scale) ** 2).sum())
  return Readout(
    sparse.SparseFourier.from_players(
      n, sets[np.append(kept, n)], coefs[np.append(kept, n)]
    ),
    max(0.0, 1 - held / total) if total > 0 else 0.0,
  )


def candidates(log_rho: np.ndarray, most: int, max_order: int) -> np.ndarray:
  """The sets of two or more players with the largest products of rho.

  Args:
    log_rho: `[n]`, descending.
    most: the most sets to return.
    max_order: the largest sets.

  Returns:
    int `[K, D]` positions in `log_rho`, padded with n.
  """
  n = len(log_rho)
  if n < 2 or max_order < 2 or most < 1:
    return np.full((0, 1), n)
  high = float(log_rho[:2].sum())
  threshold = low = 2 * float(log_rho.sum()) - 1  # Below all of them.
  if _count(log_rho, low, max_order, most) > most:
    for _ in range(50):  # The threshold under which `most` sets lie.
      middle = (low + high) / 2
      if _count(log_rho, middle, max_order, most) > most:
        low = middle
      else:
        high = middle
    threshold = high
  levels = list(_levels(log_rho, threshold, max_order, most))
  width = max((rows.shape[1] for rows in levels), default=1)
  padded = [
    np.pad(rows, ((0, 0), (0, width - rows.shape[1])), constant_values=n)
    for rows in levels
    if rows.shape[1] > 1
  ]
  rows = np.concatenate(padded) if padded else np.full((0, width), n)
  return rows[:most]  # More only where the largest are all equal.


def _count(log_rho, threshold, max_order, most):
  total = 0
  for rows in _levels(log_rho, threshold, max_order, most):
    total += len(rows) if rows.shape[1] > 1 else 0
    if total > most:
      break
  return total


def _levels(log_rho, threshold, max_order, most):
  """Sets of 1, 2, ... players whose log products reach the threshold."""
  rows = np.flatnonzero(log_rho >= threshold)[:, None]
  logs = log_rho[rows[:, 0]]
  negative = -log_rho
  while len(rows):
    yield rows
    if rows.shape[1] == max_order:
      return
    # Players after the last one, while the product still reaches.
    last = np.searchsorted(negative, logs - threshold, side="right")
    count = np.maximum(last - rows[:, -1] - 1, 0)
    before = np.cumsum(count) - count
    count = np.clip(2 * most - before, 0, count)  # Enough to be too many.
    parent = np.repeat(np.arange(len(rows)), count)
    step = np.arange(len(parent)) - np.repeat(np.cumsum(count) - count, count)
    player = rows[parent, -1] + 1 + step
    rows = np.concatenate([rows[parent], player[:, None]], axis=1)
    logs = logs[parent] + log_rho[player]
