"""True Shapley values: by all masks, by planted sets, or by a long run.

Shapes: n players, B masks, P permutations.
"""

import dataclasses
import math
from collections.abc import Callable

import numpy as np

from experiments import games
from spex_jax.datasets import synthetic

_MOST_EXACT = 20  # Players; a million masks.
_PAIRS = 64  # Of permutations evaluated at once.


@dataclasses.dataclass(frozen=True)
class Truth:
  """Values to compare with.

  Attributes:
    values: float64 `[n]`.
    how: "exact" or "N permutations".
    mse: squared standard error of `values` over their mean square, on average
      over players: what a perfect estimator would seem to have. 0 if exact.
  """

  values: np.ndarray
  how: str
  mse: float = 0.0


def true_values(game: games.Game, seed: int, num_permutations: int) -> Truth:
  """The best that can be had; `seed` draws the permutations of a long run."""
  if game.planted is not None:
    return Truth(of_planted(game.planted), "exact")
  if game.n <= _MOST_EXACT:
    return Truth(by_all_masks(game.value_fn, game.n), "exact")
  values, deviations = by_permutations(
    game.value_fn, game.n, num_permutations, seed
  )
  relative = (deviations**2).mean() / (values**2).mean()
  return Truth(values, f"{num_permutations:,} permutations", float(relative))


def of_planted(planted: synthetic.Planted) -> np.ndarray:
  """A set S gives each of its players c ((-1)^|S| - 1) / |S|, by symmetry."""
  values = np.zeros(planted.n)
  for members, coef in planted.terms():
    if len(members) % 2:
      values[list(members)] -= 2 * coef / len(members)
  return values


def by_all_masks(
  value_fn: Callable[[np.ndarray], np.ndarray], n: int
) -> np.ndarray:
  """The definition, a weighted mean of gains over all 2^n masks."""
  codes = np.arange(1 << n)
  masks = (codes[:, None] >> np.arange(n)) & 1 == 1
  table = np.asarray(value_fn(masks), np.float64)
  sizes = masks.sum(axis=1)
  weights = np.array([1 / (n * math.comb(n - 1, size)) for size in range(n)])
  values = np.zeros(n)
  for player in range(n):
    without = codes[~masks[:, player]]
    gains = table[without | 1 << player] - table[without]
    values[player] = weights[sizes[without]] @ gains
  return values


def by_permutations(
  value_fn: Callable[[np.ndarray], np.ndarray],
  n: int,
  num_permutations: int,
  seed: int,
) -> tuple[np.ndarray, np.ndarray]:
  """Mean gains over random orders, in pairs of an order and its reverse.

  Args:
    value_fn: bool `[B, n]` to `[B]`.
    n: players.
    num_permutations: P, even; each takes n + 1 evaluations.
    seed: draws the orders.

  Returns:
    Values and their standard errors, float64 `[n]`, from the pairs' spread.
  """
  rng = np.random.default_rng([seed, 6])
  pairs: list[np.ndarray] = []
  for start in range(0, num_permutations // 2, _PAIRS):
    count = min(_PAIRS, num_permutations // 2 - start)
    orders = rng.permuted(np.tile(np.arange(n), (count, 1)), axis=1)
    both = np.stack([orders, orders[:, ::-1]], axis=1)  # [pairs, 2, n]
    ranks = np.argsort(both, axis=-1)
    # Step k keeps the first k players of the order.
    masks = ranks[:, :, None, :] < np.arange(n + 1)[:, None]
    table = np.asarray(value_fn(masks.reshape(-1, n)), np.float64)
    gains = np.diff(table.reshape(count, 2, n + 1), axis=-1)
    pairs.append(np.take_along_axis(gains, ranks, axis=-1).mean(axis=1))
  found = np.concatenate(pairs)
  deviations = found.std(axis=0, ddof=1) / np.sqrt(len(found))
  return found.mean(axis=0), deviations
