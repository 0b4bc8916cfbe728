"""Times conversion from Fourier to interaction indices, beside the peers'.

  python -m experiments.bench_indices --config=full --output=rows.jsonl

Random sets of exactly `order` players, so that every set brings 2^order
subsets. Ours is host NumPy in float64: there is nothing to compile, and the
first call shows it. Expect `quick` in 10 s and `full` in 1 minute on 2 CPU
cores, most of them the peers'.

Peers, on the same expansion and in the same run:
  shapiq            `MoebiusConverter`, given ready Moebius coefficients; its
                    time leaves out Fourier to Moebius and its own data type.
  spectralexplain   Fourier to index, end to end (`make peers`). Its tables of
                    dense tuples grow with n times the number of subsets, so it
                    is given fewer terms, and `full_size_s` states the linear
                    extrapolation from the largest of them.
`ratio` is the peer's best time over ours on the same terms, both measured.
"""

import dataclasses
import importlib.metadata
from collections.abc import Iterator
from typing import Any

import numpy as np
from absl import flags

from experiments import command, rows
from spex_jax.fourier import sparse
from spex_jax.indices import table
from third_party import peers, process

_SAME = 1e-8


@dataclasses.dataclass(frozen=True)
class Config:
  """One size.

  Attributes:
    n: players.
    num_terms: for ours and shapiq.
    order: of every set, and of the indices.
    peer_terms: for spectralexplain, ascending.
    repeats: calls after the first.
    seed: of the expansion.
  """

  n: int
  num_terms: int
  order: int
  peer_terms: tuple[int, ...]
  repeats: int = 5
  seed: int = 0


CONFIGS = {
  "quick": Config(n=50, num_terms=100, order=3, peer_terms=(20,), repeats=2),
  "full": Config(
    n=1000, num_terms=10_000, order=5, peer_terms=(100, 300, 1000)
  ),
}
INDICES = ("FBII", "STII")


def expansion(config: Config, num_terms: int) -> sparse.SparseFourier:
  """Random sets of exactly `order` players, normal coefficients."""
  rng = np.random.default_rng([config.seed, num_terms])
  rows = np.argsort(rng.random((num_terms, config.n)), axis=1)
  coefs = rng.normal(size=num_terms)
  return sparse.SparseFourier.from_players(
    config.n, rows[:, : config.order], coefs
  )


def run(
  config: Config, peer: peers.SpectralExplain | None = None
) -> Iterator[dict[str, Any]]:
  """Yields one row per index, who and size, as soon as it is measured."""
  common = rows.common("indices") | {
    "device": "cpu",
    "n": config.n,
    "order": config.order,
  }
  fourier = expansion(config, config.num_terms)
  for index in INDICES:
    first, best = rows.seconds(
      table.interactions,
      fourier,
      index,
      config.order,
      repeats=config.repeats,
    )
    ours = table.interactions(fourier, index, config.order)
    yield common | {
      "who": "spex_jax",
      "index": index,
      "terms": config.num_terms,
      "sets": len(ours),
      "first_s": round(first, 6),
      "best_s": round(best, 6),
    }
    yield from _shapiq_rows(config, fourier, ours, index, best, common)
    if peer is not None:
      yield from _peer_rows(config, peer, index, common)


def _shapiq_rows(config, fourier, ours, index, best, common):
  """shapiq's converter on ready Moebius coefficients, where it is installed."""
  try:
    from shapiq.game_theory import moebius_converter  # Optional.
  except ImportError:
    return
  moebius = table.interactions(fourier, "Moebius").to_shapiq()
  convert = lambda: moebius_converter.MoebiusConverter(moebius)(
    index, config.order
  )
  first, peer_best = rows.seconds(convert, repeats=1)
  theirs = convert().interactions
  yield common | {
    "who": "shapiq",
    "version": importlib.metadata.version("shapiq"),
    "index": index,
    "terms": config.num_terms,
    "first_s": round(first, 6),
    "best_s": round(peer_best, 6),
    "ratio": round(peer_best / best, 1),
    "same": all(abs(theirs.get(s, 0.0) - v) < _SAME for s, v in ours),
  }


def _peer_rows(config, peer, index, common):
  """spectralexplain, Fourier to index, at sizes that it can take."""
  for num_terms in config.peer_terms:
    fourier = expansion(config, num_terms)
    _, best = rows.seconds(
      table.interactions,
      fourier,
      index,
      config.order,
      repeats=config.repeats,
    )
    ours = table.interactions(fourier, index, config.order)
    theirs = peer.interactions(
      fourier.supports,
      np.asarray(fourier.coefs),
      index.lower(),
      config.order,
      repeats=2,
    )
    found = dict(
      zip(
        (tuple(np.flatnonzero(row).tolist()) for row in theirs.supports),
        theirs.coefs.tolist(),
      )
    )
    peer_best = min(theirs.seconds)
    yield common | {
      "who": "spectralexplain",
      "version": peer.versions["spectralexplain"],
      "index": index,
      "terms": num_terms,
      "first_s": round(theirs.seconds[0], 6),
      "best_s": round(peer_best, 6),
      "ratio": round(peer_best / best, 1),
      "full_size_s": round(peer_best * config.num_terms / num_terms, 1),
      "same": all(abs(found.get(s, 0.0) - v) < _SAME for s, v in ours),
    }


def main(argv):
  """Prints the rows, and writes them where `--output` says."""
  del argv
  with process.optional(peers.SpectralExplain, flags.FLAGS.peer) as peer:
    rows.write(run(CONFIGS[flags.FLAGS.config], peer), flags.FLAGS.output)


if __name__ == "__main__":
  flags.DEFINE_bool("peer", True, "Run spectralexplain too (`make peers`).")
  command.run(main, CONFIGS)
