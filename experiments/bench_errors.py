"""Errors of coefficients beside those that `auto` states.

  python -m experiments.bench_errors --config=full --output=errors.jsonl

Games of up to 16 players, whose coefficients all 2^n masks give exactly. Of
each answer of `explain` the share of coefficients whose error is below 1.645 of
its standard error (.90 is right): `all`, the `largest` 30 of the answer, and
the 30 that are largest in `truth` and are in the answer, the empty set never
counted; and that of the players' Shapley values, `values`, whose errors are
summed as if those of coefficients had nothing in common. `ratio` is the root of
the mean square error of the largest over that stated.

  maxsum   the largest of three sums: kinks
  tanh     a network of 16 units
  vote     a weighted vote, 0 or 1
  planted  25 sets of up to 4 players, and noise at 10 dB

A seed draws the game and the masks. Errors within a game go together, so that
single rows scatter: the table is of means, with the least row in brackets.
Prints a JSON line per answer; `full` takes 15 minutes on 2 CPU cores.
"""

import dataclasses
from collections.abc import Callable, Iterator, Sequence

import jax
import numpy as np
from absl import flags

import spex_jax as spex
from experiments import command, games, rows, shapley_games
from spex_jax.fourier import transform
from spex_jax.masks import sampling

_LARGEST = 30
_WITHIN = 1.645
_SHARES = ("all", "largest", "truth", "values")


def maxsum(n: int, seed: int) -> games.Game:
  """The largest of three sums with normal weights."""
  weights = np.random.default_rng([seed, 16, n]).normal(size=(n, 3))
  value_fn = lambda masks: (np.asarray(masks) @ weights).max(axis=1)
  return games.Game(n, value_fn, value_fn)


def _planted(n: int, seed: int) -> games.Game:
  return games.planted(seed, n, 25)


GAMES: dict[str, Callable[[int, int], games.Game]] = {
  "maxsum": maxsum,
  "tanh": shapley_games.network,
  "vote": shapley_games.vote,
  "planted": _planted,
}


@dataclasses.dataclass(frozen=True)
class Config:
  """What to explain.

  Attributes:
    games: names of `GAMES`.
    cells: players and masks.
    seeds: of games and masks.
  """

  games: tuple[str, ...]
  cells: tuple[tuple[int, int], ...]
  seeds: tuple[int, ...]


_CELLS = ((8, 128), (10, 256), (12, 512), (14, 400), (14, 1024), (16, 512))
CONFIGS = {
  "quick": Config(("maxsum",), ((8, 128),), (1,)),
  "full": Config(tuple(GAMES), _CELLS, (201, 202, 203)),
}


def run(config: Config) -> Iterator[rows.Row]:
  """Yields a row per answer; see the module's header."""
  common = rows.common("errors")
  for name in config.games:
    for n, budget in config.cells:
      for seed in config.seeds:
        cell = {"game": name, "n": n, "budget": budget, "seed": seed}
        game = GAMES[name](n, seed)
        yield (
          common | cell | shares(_explained(game, budget, seed), coefs(game))
        )


def _explained(game, budget, seed):
  ask = lambda masks: game.value_fn(np.asarray(masks))
  return spex.explain(ask, game.n, budget=budget, key=jax.random.key(seed))


def coefs(game: games.Game) -> np.ndarray:
  """All Fourier coefficients `[2^n]`; bit j of the index is player j."""
  values = game.clean(sampling.enumerate_masks(game.n))
  with jax.enable_x64(True):
    return np.asarray(transform.fourier_from_values(values))


def shares(found: spex.Explanation, truth: np.ndarray) -> rows.Row:
  """What the row of an answer says of its errors; `truth` `[2^n]`."""
  row: rows.Row = {
    "spoke": found.method,
    "r2": round(float(found.faithfulness), 4),
    "terms": int(found.fourier.count) - 1,
  }
  if found.coef_std is None:
    return row
  count, n = int(found.fourier.count), found.fourier.n
  players = np.asarray(found.fourier.players)[1:count]
  bits = np.where(players < n, 1 << np.minimum(players, n - 1), 0)
  index = bits.sum(axis=1)  # The empty set is the first, and left out.
  stated = np.asarray(found.coef_std)[1:count]
  errors = np.asarray(found.fourier.coefs)[1:count] - truth[index]
  rounding = 1e-12 * np.abs(truth).max()
  inside = np.abs(errors) <= _WITHIN * stated + rounding
  largest = slice(0, _LARGEST)  # An answer is sorted by size.
  true = 1 + np.argsort(-np.abs(truth[1:]), kind="stable")[:_LARGEST]
  exact, held = shapley(truth), found.interactions("SV")
  off = np.array([value - exact[player] for (player,), value in held])
  each = np.asarray(held.std)
  row |= {
    "all": _share(inside),
    "largest": _share(inside[largest]),
    "truth": _share(inside[np.isin(index, true)]),
    "values": _share(np.abs(off) <= _WITHIN * each + rounding),
  }
  rms = lambda x: np.sqrt((x[largest] ** 2).mean()) if len(x) else 0.0
  if rms(stated) > 0:
    row["ratio"] = round(float(rms(errors) / rms(stated)), 3)
  return row


def shapley(truth: np.ndarray) -> np.ndarray:
  """Shapley values of all coefficients `[2^n]`: -2 F(S) / |S| of odd sets."""
  index = np.arange(len(truth))
  orders = np.bitwise_count(index)
  each = np.where(orders % 2, -2 * truth / np.maximum(orders, 1), 0.0)
  n = len(truth).bit_length() - 1
  return np.array(
    [each[(index >> player) & 1 > 0].sum() for player in range(n)]
  )


def _share(inside):
  return round(float(inside.mean()), 4) if len(inside) else None


def table(measured: Sequence[rows.Row]) -> str:
  """Means over cells and seeds by game, the least in brackets."""
  lines = []
  for name in dict.fromkeys(row["game"] for row in measured):
    cells = [name]
    for share in _SHARES:
      found = [row[share] for row in measured if row["game"] == name]
      found = [value for value in found if value is not None]
      cells.append(f"{np.mean(found):.2f} ({min(found):.2f})")
    lines.append(cells)
  return rows.table(("game", *_SHARES), lines)


def main(argv):
  """Prints a line per answer, then the table."""
  del argv
  given = flags.FLAGS
  print(table(rows.write(run(CONFIGS[given.config]), given.output)))


if __name__ == "__main__":
  command.run(main, CONFIGS)
