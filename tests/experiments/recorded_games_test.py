"""Recorded games of real models come out as they were recorded."""

import json
import types

import numpy as np
import pytest

from experiments import games as games_lib
from experiments import recorded_games
from tests.models import checkpoints


def _shared():
  """The folder of the recorded games; skips where it is absent."""
  folder = checkpoints.shared("stories260k").parent.parent / "games"
  if not folder.is_dir():
    pytest.skip("no shared/games beside the repository")
  return folder


@pytest.mark.slow
@pytest.mark.parametrize("name", ["heads40", "neurons860"])
def test_recorded_games_of_a_trained_model(name):
  games = _shared()
  card = json.loads((games / "cards.json").read_text())[name]
  folder = recorded_games.folder_of(card, games)
  value_fn = recorded_games.evaluator(name, card, folder, batch_size=32)
  row = recorded_games.compare(value_fn, games / f"{name}.npz", 32)
  assert row["masks"] == 64 and row["range"] > 1
  assert row["over_range"] < recorded_games.TOLERANCE


def test_rows_say_what_differs_and_what_is_missing(tmp_path, monkeypatch):
  monkeypatch.delenv("SPEX_MINILM", raising=False)
  masks = np.array([[0, 1], [1, 0], [1, 1]], bool)
  games_lib.save(
    games_lib.Recording(
      "heads40", masks, np.array([0.0, 1, 2]), masks[:1], [5]
    ),
    tmp_path / "heads40.npz",
  )
  row = recorded_games.compare(
    lambda masks: masks.sum(axis=1) - 0.5, tmp_path / "heads40.npz"
  )
  assert (row["masks"], row["difference"], row["over_range"]) == (4, 4.5, 2.25)
  cards = {
    "heads40": {"model": "../models/none"},
    "sentiment55": {"model": "all-MiniLM-L6-v2"},
  }
  (tmp_path / "cards.json").write_text(json.dumps(cards))
  found = list(recorded_games.run(tmp_path))
  assert [row["skipped"] for row in found] == [
    "no ../models/none at hand", "no all-MiniLM-L6-v2 at hand",
  ]  # fmt: skip
  with pytest.raises(ValueError, match="'chess': choose from heads40, neurons"):
    recorded_games.evaluator("chess", {}, tmp_path)


def test_main_fails_for_a_game_that_is_off(monkeypatch, tmp_path):
  flags = types.SimpleNamespace(games=str(tmp_path), minilm=None, masks=None)
  monkeypatch.setattr(recorded_games.flags, "FLAGS", flags)
  off = lambda *args: iter([{"game": "heads40", "over_range": 2e-4}])
  monkeypatch.setattr(recorded_games, "run", off)
  with pytest.raises(SystemExit, match="heads40"):
    recorded_games.main([])
