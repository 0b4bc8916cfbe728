"""Recorded games, evaluated anew: the largest difference over their range.

  python -m experiments.recorded_games --games=GAMES

The folder holds `cards.json` (model, tokens or words, target, players) and a
recording `NAME.npz` of each game: what PyTorch with transformers gave. Games
whose model is not at hand are left out, and said so: `heads40` and
`neurons860` need the folder that their card names, `sentiment55` the weights of
all-MiniLM-L6-v2, by `--minilm` or SPEX_MINILM.

One JSON line each. Expect differences below 1e-5 of the range in float32 (1e-4
is asked for), in 30 s for both games of stories260k and 5 minutes for
sentiment55 on 2 cores.

Shapes: n players, B masks.
"""

import json
import os
import pathlib
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np
from absl import flags

from experiments import command, rows
from experiments import games as games_lib
from spex_jax.ablate import absent, components, evaluate, readouts, text
from spex_jax.models import hub

TOLERANCE = 1e-4  # Of a game's range.
_MODELS = {"all-MiniLM-L6-v2": "SPEX_MINILM"}

Card = Mapping[str, Any]


def _parts(card: Card, folder: pathlib.Path, players: Callable, **settings):
  """Parts of a language model on a text, read at its end."""
  net = hub.load(folder)
  inputs = {"input_ids": np.array([card["tokens"]], np.int32)}
  found = players(components.shapes(net, net.params, **inputs))
  read = readouts.log_probability(card["target"])
  return components.evaluator(net, found, inputs, read, **settings)


def _sentiment(card: Card, folder: pathlib.Path, **settings):
  """Words of a review, each one [MASK] where absent; a linear head."""
  net = hub.load(folder)
  review = card["joined_by"].join(card["words"])
  prompt = text.prompt(
    review, net.tokenizer, "words", max_length=card["max_tokens"]
  )
  see = absent.inputs(prompt, net.tokenizer, "one", token=card["replaced_by"])
  coef = np.asarray(card["coef"], np.float32).reshape(-1)
  head = lambda out, inputs: out.logits @ coef + float(card["intercept"])
  f = readouts.value(net, see, head)
  return evaluate.compiled(f, prompt.n, shared=net.params, **settings)


# Name to how it is evaluated; a game beside these needs a line here.
GAMES: dict[str, Callable[..., evaluate.Evaluator]] = {
  "heads40": lambda card, folder, **settings: _parts(
    card, folder, components.heads, **settings
  ),
  "neurons860": lambda card, folder, **settings: _parts(
    card, folder, components.neurons, **settings
  ),
  "sentiment55": _sentiment,
}


def folder_of(
  card: Card | None, games: pathlib.Path | None, minilm: str | None = None
) -> pathlib.Path | None:
  """Where a card's model is; None if it is not at hand, or there is no card."""
  if card is None or games is None:
    return None
  name = card["model"]
  if name in _MODELS:
    given = minilm or os.environ.get(_MODELS[name])
    return pathlib.Path(given) if given else None
  folder = games / name
  return folder if folder.is_dir() else None


def cards_of(games: pathlib.Path | None) -> Mapping[str, Card]:
  """The cards of a folder, by game; none where there is no such folder."""
  path = games and games / "cards.json"
  return json.loads(path.read_text()) if path and path.exists() else {}


def evaluator(
  name: str, card: Card, folder: pathlib.Path, **settings: Any
) -> evaluate.Evaluator:
  """The value function of a game, compiled.

  Args:
    name: of the game.
    card: its entry of `cards.json`.
    folder: of the model's checkpoint.
    **settings: of `evaluate.compiled`.

  Raises:
    ValueError: a game that is not known here.
  """
  if name not in GAMES:
    raise ValueError(f"Game {name!r}: choose from {', '.join(GAMES)}.")
  settings = {"batch_size": 64, "microbatch": 8} | settings
  return GAMES[name](card, folder, **settings)


def compare(
  value_fn: evaluate.Evaluator, path: pathlib.Path, most: int | None = None
) -> dict[str, Any]:
  """Values of a recording's masks beside those recorded.

  Args:
    value_fn: of the game.
    path: of the recording.
    most: masks of either kind, fitted and test, or None for all.
  """
  recording = games_lib.load(path)
  masks = np.concatenate([recording.masks[:most], recording.test_masks[:most]])
  recorded = np.concatenate(
    [recording.values[:most], recording.test_values[:most]]
  )
  begin = time.perf_counter()
  difference = np.abs(value_fn(masks) - recorded).max()
  scope = float(np.ptp(recording.values))
  return {
    "masks": len(masks),
    "difference": float(difference),
    "range": scope,
    "over_range": float(difference / scope),
    "seconds": round(time.perf_counter() - begin, 1),
  }


def run(
  games: pathlib.Path, minilm: str | None = None, most: int | None = None
) -> Iterator[dict[str, Any]]:
  """Yields a row for every game whose card and recording are in the folder."""
  cards = json.loads((games / "cards.json").read_text())
  for name in GAMES:
    if name not in cards:
      continue
    row = rows.common("recorded_games") | {"game": name}
    folder = folder_of(cards[name], games, minilm)
    if folder is None:
      yield row | {"skipped": f"no {cards[name]['model']} at hand"}
      continue
    value_fn = evaluator(name, cards[name], folder)
    yield row | compare(value_fn, games / f"{name}.npz", most)


def main(argv):
  """Prints the rows; fails if one is further off than 1e-4 of its range."""
  del argv
  folder = pathlib.Path(flags.FLAGS.games)
  found = rows.write(run(folder, flags.FLAGS.minilm, flags.FLAGS.masks))
  far = [r["game"] for r in found if r.get("over_range", 0) > TOLERANCE]
  if far:
    raise SystemExit(f"Further off than {TOLERANCE} of the range: {far}.")


if __name__ == "__main__":
  # Defined here, so that a test may import several experiments.
  flags.DEFINE_string("games", None, "Folder of recordings.", required=True)
  flags.DEFINE_string("minilm", None, "Folder of all-MiniLM-L6-v2.")
  flags.DEFINE_integer("masks", None, "At most so many of either kind.")
  command.start(main)
