"""Corners of interactions whose size is known."""

import jax
import numpy as np
import pytest

import spex_jax as spex
from spex_jax.datasets import synthetic
from spex_jax.indices import table
from spex_jax.influence import corners
from spex_jax.masks import sampling
from tests import functions

_N = 7


@pytest.fixture(scope="module")
def function():
  return functions.planted(_N, 14, 3, seed=2)


def test_all_contexts_measure_the_banzhaf_interaction(function):
  contexts = sampling.enumerate_masks(_N)
  found = table.interactions(function, "BII", 3)
  claims = corners.reported(found, 6)
  assert all(len(claim.players) >= 2 for claim in claims)
  report = corners.four_corners(claims, [function], contexts)
  for row in report.rows:
    np.testing.assert_allclose(row.measured, row.reported.estimate, atol=1e-9)
    assert row.covered
  assert report.num_masks == 2**_N


def test_the_empty_context_measures_moebius(function):
  mobius = table.interactions(function, "Moebius", 3)
  claims = corners.reported(mobius, 5, target=1)
  two = lambda masks: np.column_stack([np.zeros(len(masks)), function(masks)])
  report = corners.four_corners(claims, [two, two], np.zeros((1, _N), bool))
  for row in report.rows:
    np.testing.assert_allclose(row.measured, row.reported.estimate, atol=1e-9)
    assert row.verdict == "survives"  # Both seeds say the same: no doubt.
    empty = np.zeros((1, _N), bool)
    np.testing.assert_allclose(row.neither, function(empty)[0], atol=1e-9)


def _synergy(masks):
  """Both 0 and 1 are needed; 2 or 3 will do; 4 counts alone."""
  m = masks.astype(np.float64)
  return 2 * m[:, 0] * m[:, 1] + (1 - (1 - m[:, 2]) * (1 - m[:, 3])) + m[:, 4]


def _seeds(count, std):
  """Independent retrainings: another noise for every seed and mask."""
  return [synthetic.noisy(_synergy, seed, std) for seed in range(count)]


_CLAIMS = [
  corners.Reported((1, 0), 2.1),
  corners.Reported((2, 3), -0.9),
  corners.Reported((0, 4), 0.4),  # There is none.
  corners.Reported((2, 3), 1.0),  # The wrong sign.
]


def test_the_table_says_which_survive():
  contexts = sampling.uniform(jax.random.key(0), 20, _N)
  report = corners.four_corners(_CLAIMS, _seeds(4, 0.3), contexts)
  verdicts = [row.verdict for row in report.rows]
  assert verdicts == ["survives", "survives", "unproved", "contradicted"]
  assert report.count("survives") == 2 and report.count("unproved") == 1
  first = report.rows[0]
  assert first.low < 2 < first.high and first.reported.players == (0, 1)
  # Four corners of .3, over 80 retrainings each: .6 / sqrt(80) = .067.
  for row, truth in zip(report.rows, [2, -1, 0, -1]):
    assert abs(row.measured - truth) < 4 * 0.067
  np.testing.assert_allclose(
    first.measured, first.both - first.either.sum() + first.neither, atol=1e-12
  )
  lines = str(report).splitlines()
  assert lines[0].startswith("2 of 4 interactions survive, 1 contradicted")
  assert lines[2].split()[:3] == ["0", "+", "1"]
  assert lines[4].endswith("unproved")


def test_intervals_hold_and_false_claims_rarely_survive():
  hits = survived = 0
  for trial in range(60):
    contexts = sampling.uniform(jax.random.key(trial), 8, _N)
    seeds = [
      synthetic.noisy(_synergy, 100 * trial + seed, 0.5) for seed in range(3)
    ]
    claims = [corners.Reported((0, 1), 2.0), corners.Reported((5, 6), 1.0)]
    rows = corners.four_corners(claims, seeds, contexts).rows
    hits += rows[0].covered
    survived += rows[1].verdict == "survives"
  # Conservative by design: at least 95 %, less two deviations of 60 draws.
  assert hits >= 54
  assert survived <= 4


def test_names_and_ones_own_numbers(function):
  names = [f"image {i}" for i in range(_N)]
  claims = [((0, 1, 2), 0.5, 0)]
  report = corners.four_corners(
    claims, [function, function], np.ones((1, _N), bool), names=names
  )
  assert "image 0 + image 1 + image 2" in str(report)
  assert report.num_masks == 8 and len(report.rows[0].either) == 3


@pytest.mark.slow
def test_a_decoder_is_checked_from_end_to_end():
  found = spex.explain(_synergy, _N, budget=100, key=jax.random.key(0))
  claims = corners.reported(found.interactions("BII", 2), 2)
  contexts = sampling.uniform(jax.random.key(1), 12, _N)
  report = corners.four_corners(claims, _seeds(3, 0.1), contexts)
  assert report.count("survives") == 2 and all(r.covered for r in report.rows)


@pytest.mark.parametrize(
  ("claims", "change", "message"),
  [
    ([], {}, "no interaction to check"),
    ([((0,), 1.0)], {}, "2 to 8 players"),
    ([((0, 0), 1.0)], {}, "names a player twice"),
    ([((0, 9), 1.0)], {}, "must lie in 0..6"),
    ([((0, 7), 1.0)], {}, "must lie in 0..6"),
    ([((0, 1), 1.0, 5)], {}, "have 1 targets"),
    ([((0, 1), np.inf)], {}, "not finite"),
    ([((0, 1), 1.0)], {"value_fns": []}, "two contexts or two seeds"),
    ([((0, 1), 1.0)], {"level": 1.0}, "level must lie"),
    ([((0, 1), 1.0)], {"names": ["a"]}, "Need 7 names"),
    (
      [((0, 1), 1.0)],
      {"value_fns": [lambda m: m[:, 0] * np.nan]},
      "NaN or infinity",
    ),
    (
      [((0, 1), 1.0)],
      {"value_fns": [_synergy, lambda m: m[:, :2] * 1.0]},
      "Seed 0 answers 1 targets, seed 1 2",
    ),
  ],
)
def test_bad_input_is_refused(claims, change, message):
  arguments = {
    "value_fns": [_synergy],
    "contexts": np.ones((2, _N), bool),
  } | change
  with pytest.raises(ValueError, match=message):
    corners.four_corners(claims, **arguments)
