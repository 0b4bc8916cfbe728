"""Spurious features: rows and their table, at the quick size."""

import pytest

from experiments import spurious_features as experiment


@pytest.mark.slow
def test_units_are_chosen_and_judged():
  config = experiment.CONFIGS["quick"]
  measured = list(experiment.run(config))
  assert [row["units"] for row in measured] == [
    "backbone", "all", "effects", "l1", "random",
  ]  # fmt: skip
  assert [row["count"] for row in measured] == [32, 32, 8, 8, 8]
  by_name = {row["units"]: row for row in measured}
  # Of eight backgrounds, by 24 steps; shapes are hardly told yet.
  assert by_name["backbone"]["background"] > 0.2
  share = {name: row.get("thing_share") for name, row in by_name.items()}
  assert share["effects"] > max(share["all"], share["l1"], share["random"])
  assert len(by_name["all"]["background_share"]) == 4
  assert "| effects | 8 |" in experiment.table(measured)
