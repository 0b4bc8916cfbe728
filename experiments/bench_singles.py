"""Shapley values from our sparse expansion, beside shapiq's five estimators.

  python -m experiments.bench_singles --config=full --output=rows.jsonl

Everyone may evaluate the same number of masks of the same game. Ours spends
them as `explain(method="auto")` does, for all interactions at once, and reads
Shapley values from the expansion; the peers' estimators draw masks for Shapley
values alone. With `--config=aimed
--recorded=mlp16.npz`, ours are those of `explain(index="SV")`,
whose masks are drawn for them, on the games of `shapley_games`; `within` is
then the share of players whose error is below 1.645 of its standard error. The
truth is exact for n <= 20, by all masks, and for planted functions, by their
sets; else it is a long run of permutation sampling.

`mse` is the mean squared error over the mean square of the true values, and
`truth_mse` that of the long run itself (its squared standard error); `top5` is
the share of the five largest values that are found. A seed draws the game and
the estimators' masks. An estimator that fails is a row too.

Prints a JSON line per estimate and a markdown table of medians over seeds;
`--figure` draws error against budget. Expect `quick` in 1 minute and `full` in
30 on 2 CPU cores; `aimed` takes 40, most of them the peers', whose rows of an
earlier run may be given by `--peer_rows`.

Shapes: n players, B masks, P permutations.
"""

import dataclasses
import functools
import itertools
import pathlib
import time
from collections.abc import Callable, Iterator
from typing import Any

import jax
import numpy as np
from absl import app, flags

import spex_jax as spex
from experiments import (
  command,
  games,
  rows,
  shapley,
  shapley_games,
  singles_report,
)
from spex_jax.fourier import score
from third_party import process, shapiq_peer

_TOP = 5


def _wine(seed: int) -> games.Game:
  from sklearn import datasets  # Slow to import.

  bunch: Any = datasets.load_wine()
  return games.forest(bunch.data, bunch.target, seed)


def _cancer(most: int, seed: int) -> games.Game:
  from sklearn import datasets  # Slow to import.

  bunch: Any = datasets.load_breast_cancer()
  return games.forest(bunch.data, bunch.target, seed, most)


def _planted(n: int, num_terms: int, seed: int) -> games.Game:
  return games.planted(seed, n, num_terms, decibels=None)


GAMES: dict[str, Callable[[int], games.Game]] = {
  "wine13": _wine,
  "cancer12": functools.partial(_cancer, 12),
  "cancer16": functools.partial(_cancer, 16),
  "planted14": functools.partial(_planted, 14, 20),
  "cancer30": games.FAMILIES["cancer30"],
  "pixels64": games.FAMILIES["pixels64"],
  "planted100": functools.partial(_planted, 100, 30),
  **shapley_games.CLAIMED,
  **shapley_games.TUNED_ON,
}
_RECORDED = "mlp16"  # From a file: `--recorded`.


@dataclasses.dataclass(frozen=True)
class Config:
  """What to compare.

  Attributes:
    names: of `GAMES`.
    budgets: masks that may be evaluated.
    num_seeds: games of each name.
    num_permutations: of the long runs, in antithetic pairs.
    index: what ours draws masks for, or None.
  """

  names: tuple[str, ...]
  budgets: tuple[int, ...]
  num_seeds: int
  num_permutations: int
  index: str | None = None


CONFIGS = {
  "quick": Config(("planted14",), (256,), num_seeds=1, num_permutations=64),
  "full": Config(
    (
      "wine13",
      "cancer12",
      "cancer16",
      "planted14",
      "cancer30",
      "pixels64",
      "planted100",
    ),
    (256, 512, 1024, 2048),
    num_seeds=3,
    num_permutations=8192,
  ),
  "aimed": Config(
    (_RECORDED, *shapley_games.CLAIMED),
    (200, 512, 1000, 2000),
    num_seeds=8,
    num_permutations=8192,
    index="SV",
  ),
  "tuned": Config(
    ("wine13", *shapley_games.TUNED_ON),
    (200, 1000),
    num_seeds=4,
    num_permutations=8192,
    index="SV",
  ),
}


def run(
  config: Config,
  *,
  peer: Callable[[], shapiq_peer.Shapiq] | None = shapiq_peer.Shapiq,
  recorded: str | None = None,
) -> Iterator[rows.Row]:
  """Yields a row per game, seed, budget and method, as soon as measured."""
  common = rows.common("singles")
  with process.Kept(peer or shapiq_peer.Shapiq) as running:
    if peer:
      running()  # One that is not installed is told before the first row.
    for name, seed in itertools.product(config.names, range(config.num_seeds)):
      if name == _RECORDED and recorded is not None:
        game = shapley_games.recorded(recorded)
      else:
        game = GAMES[name](seed)
      truth = shapley.true_values(game, seed, config.num_permutations)
      for budget in config.budgets:
        head = common | {
          "game": name,
          "n": game.n,
          "seed": seed,
          "budget": budget,
          "truth": truth.how,
          "truth_mse": float(f"{truth.mse:.2g}"),
        }
        mine = functools.partial(
          _ours, game, budget, seed, config.index, truth.values
        )
        yield head | _row("ours", singles_report.OURS, truth.values, mine)
        for method in shapiq_peer.ESTIMATORS if peer else ():
          theirs = functools.partial(
            _theirs, running(), game, budget, method, seed
          )
          yield head | _row("peer", method, truth.values, theirs)


def _ours(game, budget, seed, aim, truth):
  asked = 0

  def value_fn(masks):
    nonlocal asked
    asked += len(masks)
    return game.value_fn(masks)

  explanation = spex.explain(
    value_fn,
    game.n,
    budget=budget,
    method=singles_report.OURS,
    index=aim,
    key=jax.random.key(seed),
  )
  start = time.perf_counter()
  index = explanation.interactions("SV", order=1)
  values = np.array([index[i] for i in range(game.n)])
  seconds = explanation.seconds["decoding"] + time.perf_counter() - start
  stated, error = explanation.faithfulness, explanation.faithfulness_std
  more = {
    "spoke": explanation.method,
    "stated": None if stated is None else round(float(stated), 4),
    "stated_std": None if stated is None else round(float(error), 4),
  }
  if aim is not None and index.std is not None:
    std = np.zeros(game.n)
    for (player,), error in zip((members for members, _ in index), index.std):
      std[player] = error
    # What is exact but for rounding is within.
    within = np.abs(values - truth) <= 1.645 * std + 1e-12 * np.abs(truth).max()
    more["within"] = round(float(within.mean()), 4)
  return values, seconds, explanation.num_evaluations, more


def _theirs(peer, game, budget, method, seed):
  found = peer.shapley(game.value_fn, game.n, budget, method=method, seed=seed)
  return found.values, found.seconds, found.asked, {}


def _row(side, method, truth, estimate) -> rows.Row:
  row = {"side": side, "method": method}
  try:
    values, seconds, asked, more = estimate()
    if not np.isfinite(values).all():
      raise ValueError("Shapley values are not finite.")
  except (process.PeerError, ValueError) as error:
    return row | {"error": f"{type(error).__name__}: {error}"[-500:]}
  error = ((values - truth) ** 2).mean() / (truth**2).mean()
  top = score.top_k_agreement(truth, values, min(_TOP, len(truth)))
  return (
    row
    | {
      "mse": float(f"{error:.4g}"),
      "top5": round(top, 4),
      "seconds": round(seconds, 4),
      "asked": asked,
    }
    | more
  )


def main(argv):
  """Prints rows, table and verdict; writes where the flags say."""
  del argv
  args = flags.FLAGS
  config = CONFIGS[args.config]
  if args.games:
    config = dataclasses.replace(config, names=tuple(args.games))
  if _RECORDED in config.names and args.recorded is None:
    raise app.UsageError(f"{_RECORDED} needs --recorded, its file.")
  if args.budgets:
    config = dataclasses.replace(config, budgets=tuple(map(int, args.budgets)))
  # More threads would only wait for each other on so few samples.
  one = functools.partial(shapiq_peer.Shapiq, threads=1)
  peer = one if args.peer else None
  if args.seeds:
    config = dataclasses.replace(config, num_seeds=args.seeds)
  measured = rows.write(
    run(config, peer=peer, recorded=args.recorded), args.output
  )
  if args.peer_rows:
    cells = {(row["game"], row["budget"], row["seed"]) for row in measured}
    measured += [
      row
      for row in rows.read(args.peer_rows)
      if row["side"] == "peer"
      and (row["game"], row["budget"], row["seed"]) in cells
    ]
  if args.figure:
    singles_report.draw(measured, pathlib.Path(args.figure))
  print(singles_report.table(measured))
  print()
  print(singles_report.verdict(measured))


if __name__ == "__main__":
  command.some_of("games", [], [*GAMES, _RECORDED], "Instead")
  flags.DEFINE_list("budgets", [], "Instead of the configuration's.")
  flags.DEFINE_bool("peer", True, "Run shapiq too (`make peers-shapiq`).")
  flags.DEFINE_integer("seeds", 0, "Instead of the configuration's.")
  flags.DEFINE_string("peer_rows", None, "Rows of the peers' earlier run.")
  flags.DEFINE_string("recorded", None, f"The file of {_RECORDED}.")
  flags.DEFINE_string("figure", None, "File for the figure.")
  command.run(main, CONFIGS)
