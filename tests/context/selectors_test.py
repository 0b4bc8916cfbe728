"""Selectors against hand-made choices, with ties, signs and nothing chosen."""

import numpy as np
import pytest

from spex_jax.context import selectors


def test_the_standard_deviation_has_ddof_1():
  scores = [0.0, 0.0, 0.0, 0.0, 1.0]  # mean .2, std .447 (ddof 1), .4 (0).
  assert selectors.mean_std(np.array(scores), 1) == pytest.approx(0.64721, 1e-4)
  # Of two, mean + std with ddof 1 is (a + b) / 2 + |a - b| / sqrt 2: beyond.
  assert selectors.select([1.0, 3.0], "mean_std", k=1) == ()
  assert selectors.select([1.0, 3.0], "mean_std", k=0) == (1,)
  assert selectors.select([1.0, 3.0], "mean_std", k=None) == (1, 0)
  assert selectors.select([2.0], "mean_std", k=1) == (0,)


def test_sizes_or_signed():
  scores = [-3.0, 1.0, 0.5, 2.0, 0.0]
  assert selectors.select(scores, "top_k", k=2) == (0, 3)
  assert selectors.select(scores, "top_k", k=2, signed=True) == (3, 1)
  assert selectors.select(scores, "calibrated", threshold=1.5) == (0, 3)
  assert selectors.select(scores, "calibrated", threshold=1.5, signed=True) == (
    3,
  )


def test_top_p_takes_no_more_than_it_needs():
  assert selectors.select([4.0, 3.0, 2.0, 1.0], "top_p", p=0.7) == (0, 1)
  assert selectors.select([1.0, 1.0, 1.0, 1.0], "top_p", p=0.5) == (0, 1)
  assert selectors.select([0.0, 0.0], "top_p", p=0.5) == ()


def test_ties_keep_the_order_of_tokens():
  assert selectors.select([1.0, 2.0, 2.0, 2.0], "top_k", k=2) == (1, 2)
  assert selectors.select([5.0, 1.0, 5.0], "quantile", q=0.5) == (0, 2)
  assert selectors.select([5.0, 1.0, 5.0], "quantile", q=0.0, most=1) == (0,)


@pytest.mark.parametrize(
  ("selector", "settings", "words"),
  [
    ("best", {}, "choose from mean_std"),
    ("top_k", {"k": 0}, "at least 1"),
    ("top_p", {"p": 1.5}, "in 0..1"),
    ("quantile", {"q": -1}, "in 0..1"),
  ],
)
def test_bad_settings(selector, settings, words):
  with pytest.raises(ValueError, match=words):
    selectors.select([1.0, 2.0], selector, **settings)


def test_scores_must_be_finite():
  with pytest.raises(ValueError, match="finite"):
    selectors.select([1.0, np.nan], "top_k")
  assert selectors.select([], "top_k") == ()
