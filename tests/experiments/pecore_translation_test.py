"""The toy translation: its truth, and that all of it runs."""

import numpy as np
import pytest

from experiments import pecore_translation as study


def test_the_pronoun_is_told_by_the_noun_alone():
  rng = np.random.default_rng(0)
  for _ in range(50):
    pair = study.made(rng)
    context = pair.given["encoder_with"][slice(*pair.given["context_span"])]
    genders = [
      gender
      for word in context
      for gender, nouns in enumerate(study._NOUNS)
      if word in nouns
    ]
    (at,), (step,) = pair.cues, pair.sensitive
    assert len(genders) == 1
    assert context[at] in study._NOUNS[genders[0]]
    assert pair.given["decoder"][step] == study._PRONOUNS[genders[0]]
    rest = pair.given["encoder_with"][len(context) + 1 :]
    assert rest == pair.given["encoder_without"]


def test_f1_by_hand():
  # In: 2 of 2 + 1; not in: 2 of 1 + 2.
  assert study.f1((0, 1), (0,), 3) == pytest.approx((2 / 3 + 2 / 3) / 2)
  assert study.f1((), (0,), 2) == pytest.approx((0 + 2 / 3) / 2)


@pytest.mark.slow
def test_every_metric_and_method_has_a_row():
  found = list(study.run(study.CONFIGS["quick"], {}))
  names = [(row["step"], row.get("name")) for row in found]
  assert names[0] == ("model", None)
  assert {name for step, name in names if step == "cti"} == {*study.METRICS}
  assert {name for step, name in names if step == "cci"} == {*study.METHODS}
  assert all(0 <= row["average_precision"] <= 1 for row in found[1:])
