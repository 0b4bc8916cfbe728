"""Welch's statistic and the choice of k, against plain formulas and scipy."""

import numpy as np
import pytest
from scipy import stats

from spex_jax.components import editing


def _scores():
  rng = np.random.default_rng(0)
  return rng.normal(size=(30, 6)) * (1 + rng.random(6)) + rng.normal(size=6)


def test_welch_is_the_papers_formula():
  scores, target, reference = _scores(), [3, 1, 7], np.arange(10, 30)
  found = editing.welch(scores, target, reference)
  for c in range(6):
    t, r = scores[target, c], scores[reference, c]
    spread = sum(
      sum((x - part.mean()) ** 2 for x in part) / len(part) ** 2
      for part in (t, r)
    )
    expected = (t.mean() - r.mean()) / np.sqrt(spread)
    assert abs(found[c] - expected) < 1e-12 * abs(expected)
  # As sets that are told apart by booleans; order does not matter.
  masks = [np.isin(np.arange(30), rows) for rows in (target, reference)]
  np.testing.assert_allclose(editing.welch(scores, *masks), found, rtol=1e-13)


def test_welch_beside_scipy():
  # scipy's variances are those of samples: n - 1 where ours have n. With sets
  # of one size that is one factor.
  scores = _scores()
  expected = stats.ttest_ind(
    scores[:15], scores[15:], equal_var=False
  ).statistic
  found = editing.welch(scores, np.arange(15), np.arange(15, 30))
  np.testing.assert_allclose(found, expected * np.sqrt(15 / 14), rtol=1e-12)


def test_welch_where_nothing_varies():
  scores = np.array([[1.0, 2.0, 5.0], [0.0, 2.0, 4.0], [0.0, 2.0, 8.0]])
  # A single target has no variance; the reference has one where it varies.
  found = editing.welch(scores, [0], [1, 2])
  assert found[0] == np.inf and found[1] == 0
  assert np.isclose(found[2], (5 - 6) / np.sqrt(4 / 2))
  assert editing.welch(-scores, [0], [1, 2])[0] == -np.inf
  # One each: the differences themselves still rank components.
  np.testing.assert_array_equal(
    editing.welch(scores, [0], [1]), scores[0] - scores[1]
  )


@pytest.mark.parametrize(
  "scores, target, reference, error, message",
  [
    (np.ones(3), [0], [1], ValueError, r"finite \[T, n\]"),
    (np.full((3, 2), np.nan), [0], [1], ValueError, "finite"),
    (np.ones((3, 2)), [], [1], ValueError, "target set is empty"),
    (np.ones((3, 2)), [0], [3], ValueError, "outside 0..2"),
    (np.ones((3, 2)), [0], [-1], ValueError, "reference names rows outside"),
    (np.ones((3, 2)), [0, 0], [1], ValueError, "names a row twice"),
    (np.ones((3, 2)), [0.5], [1], TypeError, "integers or booleans"),
    (np.ones((3, 2)), [True, False], [1], ValueError, r"bool \[3\]"),
  ],
)
def test_welch_refuses(scores, target, reference, error, message):
  with pytest.raises(error, match=message):
    editing.welch(scores, target, reference)


def _validate(effects, seen):
  """Objective and guard of an additive model; notes what it was asked."""

  def validate(masks):
    seen.append(masks)
    gone = ~masks
    return np.stack([gone @ effects[0], -(gone @ effects[1])], axis=1)

  return validate


def test_choice_of_k():
  statistic = np.array([0.5, -3.0, 2.0, -1.0, -1.0])
  effects = np.array([[-1.0, 2.0, -1.0, 1.0, 1.0], [0, 0.1, 0, 0.1, 0.5]])
  seen = []
  validate = _validate(effects, seen)
  choose = lambda **more: editing.choose(
    statistic, validate, direction="raise", grid=range(1, 6), **more
  )
  found = choose(allowed=10.0)
  # One call, with no edit first; lowest first, equal ones by number.
  assert len(seen) == 1 and seen[0].shape == (6, 5) and seen[0][0].all()
  assert found.order.tolist() == [1, 3, 4, 0, 2]
  assert found.k == 3 and found.removed.tolist() == [1, 3, 4]
  assert found.mask.tolist() == [True, False, True, False, False]
  np.testing.assert_allclose(found.objective, [0, 2, 3, 4, 3, 2])
  # The guard falls by .1, .2, .7 and stays.
  assert choose(allowed=0.25).k == 2
  assert choose(allowed=[0.15]).k == 1
  none = choose()
  assert none.k == 0 and none.mask.all() and "<- chosen" in str(none)
  assert "(not kept)" in str(none)
  # The other way round: the highest go first.
  other = editing.choose(
    statistic, lambda masks: masks[:, 2] * 1.0, direction="lower", grid=[1, 1]
  )
  assert other.order[0] == 2 and other.k == 0 and len(other.grid) == 2
  assert "-" in str(other)


def test_equal_objectives_take_the_smallest_edit():
  found = editing.choose(
    np.arange(4.0),
    lambda masks: (~masks).any(axis=1).astype(int),
    direction="raise",
    grid=[4, 2, 3],
  )
  assert found.k == 2


@pytest.mark.parametrize(
  "change, error, message",
  [
    ({"statistic": np.ones((2, 2))}, ValueError, r"must be \[n\]"),
    ({"statistic": [np.nan, 1.0]}, ValueError, "not NaN"),
    ({"direction": "up"}, ValueError, "raise or lower"),
    ({"grid": [3]}, ValueError, "0..2"),
    ({"grid": []}, ValueError, "0..2"),
    ({"grid": [0.5]}, TypeError, "A size of an edit must be an integer"),
    ({"allowed": -1.0}, ValueError, "not be negative"),
    ({"allowed": [1.0, 1.0]}, ValueError, "2 entries for 1 guards"),
    ({"validate": lambda m: m[:, :1] * np.nan}, ValueError, "NaN or infinity"),
  ],
)
def test_choose_refuses(change, error, message):
  settings = {
    "statistic": [0.0, 1.0],
    "validate": lambda masks: np.zeros((len(masks), 2)),
    "direction": "raise",
    "grid": [1, 2],
  } | change
  with pytest.raises(error, match=message):
    editing.choose(**settings)


def test_ladder():
  assert editing.ladder(1) == (0, 1)
  assert editing.ladder(20) == (0, 1, 2, 3, 4, 6, 8, 12, 16, 20)
  with pytest.raises(ValueError, match="at least 1"):
    editing.ladder(0)
