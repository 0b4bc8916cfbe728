"""The benchmark of circuits runs, and says what it could not."""

import sys

import numpy as np
import pytest

from experiments import bench_circuits

_QUICK = bench_circuits.CONFIGS["quick"]


@pytest.mark.slow
def test_quick_rows_are_whole():
  found = {
    row["who"]: row for row in bench_circuits.run(_QUICK, {"bench": "x"})
  }
  assert list(found) == [
    "eap-ig, ours", "eap-ig, memory", "circuits, ours", "circuits, loop",
    "exact, ours", "patching, ours", "patching, loop", "interactions",
    "interactions, circuits", "peer",
  ]  # fmt: skip
  assert all(row["bench"] == "x" for row in found.values())
  for row in found.values():
    assert row.get("best_s", 1) > 0
  assert found["eap-ig, memory"]["temporaries_mib"] > 0
  assert "no --peer" in found["peer"]["skipped"]


def test_a_peer_that_fails_is_a_row():
  ((name, row),) = bench_circuits._peer(
    _QUICK, sys.executable, "nowhere", "exact"
  )
  assert name == "exact"
  assert row["who"] == "exact, peer" and row["skipped"]


def test_pairs_differ_in_one_token():
  pairs = bench_circuits.random_pairs(3, 5, 11)
  assert ((pairs.clean != pairs.corrupted).sum(axis=1) == 1).all()
  assert (pairs.right != pairs.wrong).all() and np.ptp(pairs.lengths) == 0
