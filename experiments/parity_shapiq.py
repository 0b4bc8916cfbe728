"""Same expansion, same index values: ours beside shapiq's, to 1e-8.

  python -m experiments.parity_shapiq --config=full

Needs shapiq 1.4.1 (Python 3.11). Its two ways are both asked: `ExactComputer`
sums over all values of f, and `MoebiusConverter` starts from Moebius
coefficients (ours, which the first one checks). Every set that either side
lists is compared. What is not:
  - FSII by `ExactComputer`, which meets both ends by a weight of 1e8 only.
  - The empty set of SII by the converter, which has none, and of order 1,
    where shapiq renames SII to SV; of BV by the converter, which gives the
    intercept of FBII. For SV and BV its `baseline_value` is compared, since
    one way lists no empty set and the other lists the mean.
Orders above 3 are left out at n = 200: there its k-SII lists all sets.

Prints one line per index, order and way; exit code 1 beyond 1e-8. Expect
`quick` in 5 s and `full` in 15 s on 2 CPU cores.
"""

import dataclasses
import importlib.metadata
import json
import platform
import sys
from collections.abc import Iterator
from typing import Any

import numpy as np
from absl import flags

from experiments import command
from spex_jax.fourier import sparse
from spex_jax.indices import table

TOLERANCE = 1e-8  # Of values of size 1 to 100.
_CONVERTER = ("BV", "SV", "SII", "k-SII", "STII", "FSII", "FBII")


@dataclasses.dataclass(frozen=True)
class Game:
  """A random expansion; `exact`: small enough for all 2^n values."""

  n: int
  num_terms: int
  max_order: int
  orders: tuple[int, ...]
  exact: bool
  seed: int = 0


CONFIGS = {
  "quick": (Game(4, 16, 4, (1, 2, 4), exact=True),),
  "full": (
    Game(4, 16, 4, (1, 2, 3, 4), exact=True),
    Game(7, 60, 7, (1, 2, 3, 5, 7), exact=True),
    Game(9, 40, 6, (1, 2, 3), exact=True),
    Game(30, 100, 6, (1, 2, 3, 4, 6), exact=False),
    Game(200, 500, 5, (1, 2, 3), exact=False),
  ),
}


def expansion(game: Game) -> sparse.SparseFourier:
  """Random sets of any order up to `max_order`, normal coefficients."""
  rng = np.random.default_rng([game.seed, game.n, game.num_terms])
  rows = np.full((game.num_terms, game.max_order), game.n)
  for row in rows:
    size = rng.integers(0, game.max_order + 1)
    row[:size] = rng.choice(game.n, size, replace=False)
  coefs = rng.normal(size=game.num_terms)
  return sparse.SparseFourier.from_players(game.n, rows, coefs)


def run(config: tuple[Game, ...]) -> Iterator[dict[str, Any]]:
  """Yields one row per game, index, order and way of shapiq.

  Raises:
    ImportError: no shapiq here.
  """
  from shapiq.game_theory import exact, moebius_converter  # Optional.

  common = {
    "parity": "shapiq",
    "version": importlib.metadata.version("shapiq"),
    "python": platform.python_version(),
    "numpy": np.__version__,
  }
  for game in config:
    fourier = expansion(game)
    moebius = table.interactions(fourier, "Moebius").to_shapiq()
    ways: dict[str, Any] = {
      "MoebiusConverter": moebius_converter.MoebiusConverter(moebius)
    }
    if game.exact:
      ways["ExactComputer"] = exact.ExactComputer(
        lambda masks, fourier=fourier: np.asarray(fourier(masks)), game.n
      )
    for way, compute in ways.items():
      for index, entry in table.INDICES.items():
        if index == "Fourier" or (index, way) == ("FSII", "ExactComputer"):
          continue
        if way == "MoebiusConverter" and index not in _CONVERTER:
          continue
        fixed = entry.fixed_order
        for order in (fixed,) if fixed else game.orders:
          if index == "Moebius" and order < game.n:
            continue  # ExactComputer has the whole transform only.
          ours = table.interactions(fourier, index, order)
          theirs = compute(index, order)
          difference, sets = _compare(
            {(): ours.baseline} | dict(ours),
            _with_empty(theirs, index, order, way),
          )
          yield common | {
            "n": game.n,
            "terms": game.num_terms,
            "index": index,
            "order": order,
            "way": way,
            "sets": sets,
            "difference": difference,
            "same": difference <= TOLERANCE,
          }


def _with_empty(
  theirs: Any, index: str, order: int, way: str
) -> dict[tuple[int, ...], float]:
  """shapiq's values; the empty set as the header says, or not at all."""
  values = dict(theirs.interactions)
  converted = way == "MoebiusConverter"
  if (index == "SII" and (converted or order == 1)) or (
    index == "BV" and converted
  ):
    values.pop((), None)
  elif index in ("SV", "BV"):
    values[()] = theirs.baseline_value
  elif () not in values:
    raise ValueError(f"shapiq's {way} lists no empty set for {index}.")
  return values


def _compare(
  ours: dict[tuple[int, ...], float], theirs: dict[tuple[int, ...], float]
) -> tuple[float, int]:
  """The largest difference over the sets of either, and their number.

  The empty set counts if it is among `theirs`.
  """
  sets = (ours.keys() - {()}) | theirs.keys()
  gaps = [abs(ours.get(s, 0.0) - float(theirs.get(s, 0.0))) for s in sets]
  return max(gaps, default=0.0), len(gaps)


def main(argv):
  """Prints the rows; exit code 1 if one differs."""
  del argv
  rows = []
  for row in run(CONFIGS[flags.FLAGS.config]):
    rows.append(row)
    print(json.dumps(row), flush=True)
  worst = max(row["difference"] for row in rows)
  wrong = sum(not row["same"] for row in rows)
  print(
    f"{len(rows)} comparisons, worst difference {worst:.1e}, {wrong} beyond "
    f"{TOLERANCE:g}."
  )
  if wrong:
    sys.exit(1)


if __name__ == "__main__":
  # Defined here, so that a test may import several experiments.
  flags.DEFINE_enum("config", "full", sorted(CONFIGS), "Which games.")
  command.start(main)
