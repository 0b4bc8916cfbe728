"""Games of 14 to 20 players whose Shapley values all masks give exactly.

  mlp16      a network on 16 features of diabetes, absent ones drawn from 24
             rows, recorded at all masks (`--recorded`)
  forest14   a random forest on 14 features of breast cancer, mean replacement
  sparse18   30 products of up to 5 players, normal coefficients
  vote17     a weighted vote, 0 or 1
  groups15   the largest of five overlapping sums
  airport20  the dearest of the players kept (Littlechild and Owen 1973)

Ours was tuned on others: `TUNED_ON` and wine13 of `bench_singles`. A seed draws
the game, but for the recorded one.

Shapes: n players, B masks.
"""

import functools
import pathlib
from collections.abc import Callable
from typing import Any

import numpy as np

from experiments import games


def recorded(path: str | pathlib.Path) -> games.Game:
  """A game whose file holds `all_values`; bit j of the index is player j."""
  with np.load(path) as file:
    n, table = int(file["n"]), file["all_values"].astype(np.float64)
  value_fn = lambda masks: table[np.asarray(masks, bool) @ (1 << np.arange(n))]
  return games.Game(n, value_fn, value_fn)


def _game(n: int, value_fn: games.ValueFn) -> games.Game:
  return games.Game(n, value_fn, value_fn)


def sparse(n: int, num_terms: int, seed: int) -> games.Game:
  """Products of 1 to 5 players with normal coefficients."""
  rng = np.random.default_rng([seed, 10, n])
  sets = [
    rng.choice(n, rng.integers(1, 6), replace=False) for _ in range(num_terms)
  ]
  coefs = rng.normal(size=num_terms)
  return _game(
    n,
    lambda masks: np.sum(
      [
        c * np.asarray(masks, bool)[:, s].all(axis=1)
        for s, c in zip(sets, coefs)
      ],
      axis=0,
    ),
  )


def vote(n: int, seed: int) -> games.Game:
  """1 where the kept weights, of 1 to 9, are more than half of all."""
  weights = np.random.default_rng([seed, 11, n]).integers(1, 10, n)
  return _game(
    n, lambda masks: 1.0 * (2 * (np.asarray(masks) @ weights) > weights.sum())
  )


def groups(n: int, num_groups: int, seed: int) -> games.Game:
  """The largest of sums over groups of a third of the players."""
  rng = np.random.default_rng([seed, 12, n])
  weights = rng.normal(1.0, 0.5, (n, num_groups))
  for column in weights.T:
    column[rng.permutation(n)[n // 3 :]] = 0
  return _game(n, lambda masks: (np.asarray(masks) @ weights).max(axis=1))


def airport(n: int, seed: int) -> games.Game:
  """The dearest runway among those that the kept players need."""
  costs = np.exp(np.random.default_rng([seed, 13, n]).normal(size=n))
  return _game(n, lambda masks: (np.asarray(masks) * costs).max(axis=1))


def network(n: int, seed: int) -> games.Game:
  """A network n-16-1 with random weights and tanh."""
  rng = np.random.default_rng([seed, 14, n])
  first = rng.normal(size=(n, 16)) * 2 / np.sqrt(n)
  bias, last = rng.normal(size=16), rng.normal(size=16)
  return _game(
    n, lambda masks: np.tanh(np.asarray(masks) @ first + bias) @ last
  )


def cover(n: int, seed: int) -> games.Game:
  """The weight of the 40 things of which a kept player has any."""
  rng = np.random.default_rng([seed, 15, n])
  has, worth = rng.random((n, 40)) < 0.15, rng.exponential(size=40)
  return _game(n, lambda masks: (np.asarray(masks, int) @ has > 0) @ worth)


def forest(table: str, most: int, seed: int) -> games.Game:
  """A random forest on a table of scikit-learn's."""
  from sklearn import datasets  # Slow to import.

  bunch: Any = getattr(datasets, f"load_{table}")()
  return games.forest(bunch.data, bunch.target, seed, most)


CLAIMED: dict[str, Callable[[int], games.Game]] = {
  "forest14": functools.partial(forest, "breast_cancer", 14),
  "sparse18": functools.partial(sparse, 18, 30),
  "vote17": functools.partial(vote, 17),
  "groups15": functools.partial(groups, 15, 5),
  "airport20": functools.partial(airport, 20),
}
TUNED_ON: dict[str, Callable[[int], games.Game]] = {
  "network14": functools.partial(network, 14),
  "cover16": functools.partial(cover, 16),
  "sparse14": functools.partial(sparse, 14, 20),
  "vote13": functools.partial(vote, 13),
  "groups14": lambda seed: groups(14, 4, seed + 100),
  "airport18": lambda seed: airport(18, seed + 100),
}
