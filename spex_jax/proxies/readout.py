"""The largest coefficients of a Gaussian process, by branch and bound.

F(S) is w_S times a sum that is at most |alpha|_1, and w_S = a prod rho_i only
falls as S grows. So sets are grown from the players of largest rho, and a
branch ends where w_S |alpha|_1 cannot reach what is asked for. That bound is
loose by about sqrt(B); where it would visit more sets than `most`, those of
largest prior variance are visited, and what may be missed is known exactly, by
Parseval.

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
    complete: whether no set outside `fourier`, of any order, can have a
      larger coefficient than those in it.
  """

  fourier: sparse.SparseFourier
  missed: float
  complete: bool


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
  log_rho, level = spectrum.levels(posterior.params)
  order = np.argsort(-log_rho, kind="stable")
  depth = n if max_order is None else min(n, max_order)
  rows, cut = visit(log_rho[order], most, depth)
  padded = np.append(order, n)
  large = padded[rows]
  singles = np.full((n + 1, large.shape[1]), n)
  singles[:n, 0] = np.arange(n)
  sets = np.concatenate([singles, large])
  coefs = spectrum.coefs(posterior, sets)
  ranked = np.argsort(-np.abs(coefs[np.arange(len(sets)) != n]), kind="stable")
  ranked += ranked >= n  # The empty set is row n, and always kept.
  kept = ranked[: max(0, num_terms)]
  least = float(np.abs(coefs[kept[-1]])) if len(kept) else np.inf
  bound = np.exp(level + cut) * np.abs(posterior.weights).sum()
  seen_all = len(kept) == len(ranked) and cut == -np.inf
  total = spectrum.energy(posterior)
  held = float(((coefs[kept] / posterior.scale) ** 2).sum())
  return Readout(
    sparse.SparseFourier.from_players(
      n, sets[np.append(kept, n)], coefs[np.append(kept, n)]
    ),
    max(0.0, 1 - held / total) if total > 0 else 0.0,
    bool(seen_all or bound * posterior.scale <= least),
  )


def visit(
  log_rho: np.ndarray, most: int, max_order: int
) -> tuple[np.ndarray, float]:
  """The sets of two or more players with the largest products of rho.

  Args:
    log_rho: `[n]`, descending.
    most: the most sets to return.
    max_order: the largest sets.

  Returns:
    int `[K, D]` positions in `log_rho`, padded with n, and a number that no
    log product of a set left out exceeds, of any order; -inf if none is.
  """
  n = len(log_rho)
  cut = -np.inf  # Of the sets of more than `max_order` players.
  if max_order < n:
    cut = float(log_rho[: max(max_order, 1) + 1].sum())
  if n < 2 or max_order < 2:
    return np.full((0, 1), n), cut if n > 1 else -np.inf
  high = float(log_rho[:2].sum())
  if most < 1:
    return np.full((0, 1), n), high
  threshold = low = 2 * float(log_rho.sum()) - 1  # Below all of them.
  if _count(log_rho, low, max_order, most) > most:
    for _ in range(50):  # The threshold under which `most` sets lie.
      middle = (low + high) / 2
      if _count(log_rho, middle, max_order, most) > most:
        low = middle
      else:
        high = middle
    threshold = high
    cut = max(cut, threshold)
  levels = list(_levels(log_rho, threshold, max_order, most))
  width = max((rows.shape[1] for rows in levels), default=1)
  padded = [
    np.pad(rows, ((0, 0), (0, width - rows.shape[1])), constant_values=n)
    for rows in levels
    if rows.shape[1] > 1
  ]
  rows = np.concatenate(padded) if padded else np.full((0, width), n)
  return rows[:most], cut  # More only where the largest are all equal.


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
