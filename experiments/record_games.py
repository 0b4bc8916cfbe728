"""Records games of the public families: fresh samples to compare decoders on.

  python -m experiments.record_games --output=games --seed=1

Writes `FAMILY-SEED.npz` for each family of `experiments.games`. Another seed
draws another row, network, test image or planted function, and other masks.
Expect half a minute a seed on 2 CPU cores.
"""

import json
import pathlib
import time

from absl import flags

from experiments import command, games


def run(
  output: pathlib.Path,
  families: list[str],
  seed: int,
  num_masks: int = 4096,
  num_test: int = 2000,
) -> list[pathlib.Path]:
  """Records each family into `output`, made if need be; returns the files."""
  output.mkdir(parents=True, exist_ok=True)
  paths = []
  for family in families:
    start = time.perf_counter()
    name = f"{family}-{seed}"
    game = games.make(family, seed)
    recording = games.record(game, name, seed, num_masks, num_test)
    paths.append(output / f"{name}.npz")
    games.save(recording, paths[-1])
    row = {
      "game": name,
      "n": game.n,
      "mean": round(float(recording.test_values.mean()), 4),
      "std": round(float(recording.test_values.std()), 4),
      "seconds": round(time.perf_counter() - start, 1),
    }
    print(json.dumps(row), flush=True)
  return paths


def main(argv):
  """Records what the flags name."""
  del argv
  args = flags.FLAGS
  run(
    pathlib.Path(args.output),
    args.families,
    args.seed,
    args.num_masks,
    args.num_test,
  )


if __name__ == "__main__":
  # Defined here, so that a test may import several experiments.
  flags.DEFINE_string("output", None, "Folder for the games.", required=True)
  command.some_of("families", games.FAMILIES, games.FAMILIES, "Which")
  flags.DEFINE_integer("seed", 1, "Draws the functions and the masks.")
  flags.DEFINE_integer("num_masks", 4096, "Masks to fit on.")
  flags.DEFINE_integer("num_test", 2000, "Masks to test on.")
  command.start(main)
