"""Failure modes: rows and their table, of a network that has hardly learned."""

import dataclasses

import pytest

from experiments import failure_modes as experiment


@pytest.mark.slow
def test_rows_and_their_table():
  config = dataclasses.replace(experiment.CONFIGS["quick"], asked=30, checks=8)
  measured = list(experiment.run(config))
  assert [row["class"] for row in measured] == list(experiment.CLASSES)
  for row in measured:
    assert 0 <= row["missed"] <= 1
    for mode in row["modes"]:
      assert 1 <= len(mode["values"]) <= 3
      assert mode["missed"] - mode["otherwise"] >= 0.3
      assert mode["taken_for"] in experiment.CLASSES
      assert mode["taken_for"] != row["class"]
  text = experiment.table(measured)
  assert "| 0 | circle |" in text and text.count("\n") == 5
