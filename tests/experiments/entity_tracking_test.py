"""Boxes and what their variables do, by hand; and the study, small."""

import dataclasses
import math

import numpy as np
import pytest

from experiments import entity_tracking as study

_QUICK = study.CONFIGS["quick"]


def test_prompts_and_triples_are_what_they_say():
  one = study.Prompt((3, 5), (1, 0), 1)
  # Objects are 0..5, labels 6..9, then start and question.
  assert one.ids(_QUICK) == [10, 7, 3, 6, 5, 11, 6]
  assert one.answer == 5
  assert one.spans == {"objects": [2, 4], "end": [6]}
  rng = np.random.default_rng(0)
  larger = dataclasses.replace(_QUICK, objects=8)
  some = study.triples(rng, larger, 4, 4)
  assert tuple(x.name for x in some) == study.VARIABLES
  for position, thing, label, structure in zip(*(x.triples for x in some)):
    base, source = position.clean[0], position.corrupted[0]
    # Where an object stands behind the label that `asked` ends with.
    where = lambda ids, asked: 2 + 2 * [*ids[1:9:2]].index(asked[-1])
    assert position.right[0, 0] == base[where(source, source)]
    assert thing.right[0, 0] == source[where(source, source)]
    assert label.right[0, 0] == base[where(base, source)]
    assert structure.right[0, 0] == base[where(source, base)]
    targets = {int(x.right[0, 0]) for x in (position, thing, label, structure)}
    assert len(targets | {int(base[where(base, base)])}) == 5


@pytest.mark.slow
def test_the_study_small(tmp_path):
  found = study.run(_QUICK, str(tmp_path / "rows.jsonl"))
  kinds = [row["row"] for row in found]
  assert {*kinds} == {"model", "group", "circuit", "function", "gain"}
  for row in found:
    if row["row"] == "function":
      assert row["distance"] >= -1e-4
  gain = [row for row in found if row["row"] == "gain"]
  assert gain[0]["group"] == "base" and gain[-1]["group"] == "tuned"
  assert all(math.isfinite(row["metric"]) for row in gain)
