"""The parity table fails when it should, and holds where the peer runs."""

import dataclasses

import numpy as np
import pytest

from experiments import parity_spectralexplain as parity
from spex_jax.fourier import spex
from spex_jax.masks import bch
from third_party import peers


def _peer_plan(n=20, b=2, t=2):
  """A plan as the peer draws it, in its order: the highest bit first."""
  rng = np.random.default_rng(0)
  delays = np.concatenate(
    [np.zeros((1, n), bool), bch.make_code(n, t, "systematic").parity_rows()]
  )
  maps = rng.integers(0, 2, (3, n, b)).astype(bool)
  points = (np.arange(2**b) >> np.arange(b)[::-1, None]) & 1
  moved = (maps.astype(int) @ points)[:, None] + delays[None, :, :, None]
  masks = (moved % 2).transpose(0, 1, 3, 2).reshape(-1, n).astype(bool)
  return peers.PeerPlan(
    masks, maps, delays, points.astype(bool), b=b, t=t, seed=0, seconds=0.0
  )


def test_our_plan_has_the_peers_masks_in_its_order():
  plan = _peer_plan()
  ours = parity.plan_of(plan)
  assert isinstance(ours, spex.QueryPlan)
  np.testing.assert_array_equal(ours.masks(), plan.masks)


@pytest.mark.parametrize(
  ("field", "message"), [("delays", "parity rows"), ("masks", "masks are not")]
)
def test_another_code_or_other_masks_are_refused(field, message):
  plan = _peer_plan()
  flipped = getattr(plan, field).copy()
  flipped[-1, -1] ^= True
  with pytest.raises(ValueError, match=message):
    parity.plan_of(dataclasses.replace(plan, **{field: flipped}))


@pytest.mark.parametrize(
  ("change", "expected"),
  [
    ({}, False),
    ({"same_support": False}, True),
    ({"coef_difference": 1e-3}, True),
    ({"same_support": False, "decibels": 10.0}, False),
  ],
)
def test_only_a_noiseless_difference_breaks_parity(change, expected):
  row = {"decibels": None, "same_support": True, "coef_difference": 0.0}
  assert parity.differs(row | change) == expected


@pytest.mark.peers
def test_quick_cases_agree():
  with peers.SpectralExplain() as peer:
    rows = list(parity.run("quick", peer))
  assert [row["decoding"] for row in rows] == ["hard", "soft"]
  for row in rows:
    assert not parity.differs(row), row
    assert row["ours"]["recall"] == 1
