"""The study of support runs on recorded games, and says what it found."""

import json

from experiments import context_support
from tests.context import games


def test_rows_of_the_quick_study(tmp_path):
  path = tmp_path / "given.jsonl"
  path.write_text("\n".join(json.dumps(row) for row in games.given()))
  prompts = list(context_support.given(path))
  config = context_support.CONFIGS["quick"]
  rows = list(context_support.run(config, prompts))
  whole = [row for row in rows if row["prompt"] == "all"]
  assert len(whole) == len(config.methods) * len(config.budgets)
  for row in whole:
    assert row["forwards"] <= row["budget"]
    if row["method"] == "lasso":
      assert row["average_precision"] == 1
      assert row["set_recall"] == row["set_precision"] == 1
