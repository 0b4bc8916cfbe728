"""How fast paths are patched and masks are learned.

  python -m experiments.bench_paths --model=DIRECTORY

Rows, each with compile (`first_s`) and steady time (`best_s`) apart:

  paths   path patching of all heads of a language model of Llama's kind into
          the logits; and a loop of hooks in PyTorch on the same pairs, a
          forward for every head (`third_party/torch_adapter.py`), whose values
          are compared. Without its environment (`make peers-torch`, or
          SPEX_TORCH_PYTHON) one row says so
  dcm     masks of all heads from many beginnings under one `vmap`, and from one

Prompts are random tokens that differ in one place. Shapes: N pairs.
"""

import dataclasses
import os
from collections.abc import Iterator

import jax
import numpy as np
from absl import app, flags

from experiments import bench_circuits, command, rows
from spex_jax.circuits import dcm, desiderata, metrics, paths, swaps
from spex_jax.models import hub, sites
from third_party import process, torch_peer

_METRIC = metrics.logit_difference


@dataclasses.dataclass(frozen=True)
class Config:
  """Sizes.

  Attributes:
    pairs: N.
    length: positions.
    restarts: of masks, under one `vmap`.
    epochs: over the triples.
    repeats: of each, behind the first.
  """

  pairs: int = 32
  length: int = 24
  restarts: int = 50
  epochs: int = 4
  repeats: int = 3


CONFIGS = {
  "quick": Config(pairs=4, length=6, restarts=2, epochs=1, repeats=1),
  "full": Config(),
}


def run(config: Config, net: sites.Network, folder: str) -> Iterator[rows.Row]:
  """Yields the rows of a model with parameters."""
  pairs = bench_circuits.random_pairs(
    config.pairs, config.length, net.config.vocab_size
  )
  heads = swaps.heads_of(net)

  def patched():
    return paths.patch(
      net, net.params, pairs, [paths.LOGITS], _METRIC, senders=heads,
      size=len(pairs),
    ).values[:, 0]  # fmt: skip

  first, best = rows.seconds(patched, repeats=config.repeats)
  yield {
    "who": "paths, ours", "heads": len(heads), "pairs": len(pairs),
    "positions": config.length, "first_s": round(first, 4),
    "best_s": round(best, 5), "load": bench_circuits.load(),
  }  # fmt: skip
  try:
    with torch_peer.Torch() as peer:
      values, seconds = peer.paths(
        folder, pairs.clean, pairs.corrupted,
        np.concatenate([pairs.right, pairs.wrong], axis=1),
        threads=os.cpu_count() or 1, repeats=config.repeats,
      )  # fmt: skip
    off = np.abs(patched() - values.T).max() / np.abs(values).max()
    yield {
      "who": "paths, a loop of hooks", "best_s": round(min(seconds), 4),
      "off": float(off), "ours_over_this": round(min(seconds) / best, 1),
      "load": bench_circuits.load(),
    }  # fmt: skip
  except process.PeerError as error:
    yield {"who": "paths, a loop of hooks", "skipped": str(error)}
  yield from _dcm(config, net, pairs, [(head, -1) for head in heads])


def _dcm(config, net, pairs, members) -> Iterator[rows.Row]:
  told = dataclasses.replace(pairs, right=pairs.wrong, wrong=pairs.right)
  some = [desiderata.Desideratum("the other answer", told)]

  def learned(seeds):
    return dcm.learn(
      net, net.params, some, members, key=jax.random.key(0), seeds=seeds,
      epochs=config.epochs, size=8,
    )[0].loss  # fmt: skip

  best = {}
  for seeds in (1, config.restarts):
    first, best[seeds] = rows.seconds(learned, seeds, repeats=config.repeats)
    row = {
      "who": f"dcm, {seeds} at once", "heads": len(members),
      "epochs": config.epochs, "first_s": round(first, 4),
      "best_s": round(best[seeds], 4), "load": bench_circuits.load(),
    }  # fmt: skip
    if seeds > 1:
      row["in_the_time_of"] = round(best[seeds] / best[1], 2)
    yield row


def main(argv):
  """Prints the rows."""
  del argv
  folder, common = flags.FLAGS.model, rows.common("paths")
  if folder is None:
    raise app.UsageError("--model is missing: a model's folder.")
  found = run(CONFIGS[flags.FLAGS.config], hub.load(folder), folder)
  rows.write((common | row for row in found), flags.FLAGS.output)


if __name__ == "__main__":
  flags.DEFINE_string("model", None, "Folder of a model of Llama's kind.")
  command.run(main, CONFIGS)
