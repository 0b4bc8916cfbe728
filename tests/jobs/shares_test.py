"""Masks that keep so much that the value is alive."""

import numpy as np
import pytest

from spex_jax.jobs import shares, subjects

_N = 80
_KEY = subjects.key_of(0, "test")


def _fragile(least):
  """Parts 0 to 3 matter, while at least a share of all parts is there."""

  def value(masks):
    alive = masks.mean(axis=1) >= least
    return alive * (9.0 + masks[:, :4].sum(axis=1))

  return value


@pytest.mark.parametrize(
  ("least", "share"), [(0.0, 0.5), (0.63, 0.7), (0.78, 0.85), (0.99, 0.95)]
)
def test_the_least_share_that_leaves_the_value_alive(least, share):
  pilot = shares.pilot(_fragile(least), _N, _KEY)
  assert pilot.share == share and pilot.asked == 34
  assert f"kept with probability {share:g}" in pilot.note
  assert "(0)" in pilot.note or least == 0
  if least == 0.99:
    assert "no share keeps 50%" in pilot.note


def test_a_value_that_nothing_moves():
  pilot = shares.pilot(lambda masks: np.ones(len(masks)), _N, _KEY)
  assert pilot.share == shares.SHARES[-1]
  assert "NaN" not in pilot.note and "nan" not in pilot.note


def test_parts_are_found_where_half_would_leave_nothing():
  value, told, n = _fragile(0.3), [], 24
  pilot = shares.Pilot(0.85, "why", 34)
  found = shares.explain(
    value,
    n,
    pilot,
    key=_KEY,
    budget=300,
    method="lasso",
    progress=lambda done, total: told.append((done, total)),
    names=[f"p{i}" for i in range(n)],
    units="logit",
  )
  assert found.faithfulness > 0.9 and found.notes[0] == "why"
  strongest = {p for p, _ in list(found.interactions("FBII", 1).top(4))}
  assert strongest == {(0,), (1,), (2,), (3,)}
  assert found.num_evaluations == 334 and told[-1] == (334, 334)
  assert found.seconds["total"] >= found.seconds["decoding"]


def test_a_pilot_is_not_worth_a_small_budget():
  assert not shares.worth(_N, 100) and shares.worth(_N, 300)
  assert not shares.worth(8, 300)  # All masks are asked.
