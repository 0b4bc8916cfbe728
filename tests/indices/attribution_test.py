"""Scores of players: their checks and their ranks."""

import numpy as np
import pytest

from spex_jax.indices import attribution


def test_an_attribution_checks_itself():
  with pytest.raises(ValueError, match="scores \\[T, n\\]"):
    attribution.Attribution(np.zeros(3), np.zeros(1), "x")
  with pytest.raises(ValueError, match="x: scores hold NaN"):
    attribution.Attribution(np.full((1, 3), np.nan), np.zeros(1), "x")
  with pytest.raises(ValueError, match="std of shape"):
    attribution.Attribution(np.ones((1, 3)), np.zeros(1), "x", np.ones(3))
  found = attribution.Attribution(np.ones((1, 3)), np.zeros(1), "x")
  with pytest.raises(IndexError, match="No target 1"):
    found.helpful(1, 1)
  with pytest.raises(ValueError, match="0..3; got 4"):
    found.harmful(0, 4)
  with pytest.raises(ValueError, match="expected n=3"):
    found(np.ones((2, 4), bool))
