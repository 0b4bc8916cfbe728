"""NumPy's masked arrays: wherever values come in, what is masked has none."""

import jax
import numpy as np
import pytest

import spex_jax as spex
from spex_jax.ablate import columns, evaluate
from spex_jax.components import coar
from spex_jax.components import component_pairs as pairs
from spex_jax.fourier import score
from spex_jax.indices import attribution, judging
from spex_jax.influence import datamodels, semivalues
from spex_jax.masks import sampling
from spex_jax.models import inputs

_MASKS = sampling.enumerate_masks(5)
_SUMS = _MASKS @ np.arange(1.0, 6)
_BAD = np.ma.masked_greater(_SUMS, 9.0)
_KEY = jax.random.key(0)
_EVEN = attribution.Attribution(np.ones((1, 5)), np.zeros(1), "x")


def _hides(masks):
  """What a reader of files with missing values may give."""
  return np.ma.masked_greater(np.asarray(masks) @ np.arange(1.0, 6), 9.0)


_DOORS = {
  "explain": lambda: spex.explain(_hides, 5, key=_KEY, budget=32),
  "explain a host's": lambda: spex.explain(
    evaluate.host(_hides, 5), 5, key=_KEY, budget=32
  ),
  "a fitted model's": lambda: columns.masked(
    _hides, np.ones(5), np.zeros((1, 5))
  )(_MASKS),
  "decode": lambda: spex.decode(_MASKS, _BAD, method="lasso"),
  "decode masks": lambda: spex.decode(
    np.ma.masked_array(_MASKS, mask=_MASKS), _SUMS, method="lasso"
  ),
  "assess": lambda: spex.assess(
    _hides, spex.SparseFourier.from_terms(5, [((), 1.0)]), key=_KEY
  ),
  "an expansion": lambda: spex.SparseFourier.from_supports(_MASKS, _BAD),
  "COAR": lambda: coar.fit(_MASKS, _BAD),
  "COAR's calls": lambda: coar.attribute(_hides, 5, key=_KEY, budget=30),
  "pairs": lambda: pairs.fit(_MASKS, _BAD, keep=0.5),
  "least squares": lambda: datamodels.least_squares(_MASKS, _BAD),
  "Banzhaf": lambda: semivalues.banzhaf(_MASKS, _BAD),
  "R^2": lambda: score.r2(_SUMS, _BAD),
  "R^2 of": lambda: score.r2(_BAD, _SUMS),
  "ranks": lambda: score.spearman(_BAD, _SUMS),
  "LDS": lambda: judging.lds(_EVEN, _MASKS, _BAD),
  "ids": lambda: inputs.check_ids(np.ma.masked_array([[1]], mask=True), 9, 9),
  "an attention mask": lambda: inputs.check_mask(
    np.ma.masked_array([[1]], mask=True), (1, 1)
  ),
  "LDS of": lambda: judging.lds(_hides, _MASKS, _SUMS),
}


@pytest.mark.parametrize("door", _DOORS)
def test_what_is_masked_is_refused(door):
  with pytest.raises(ValueError, match=r"masked array with \d+ of \d+ entries"):
    _DOORS[door]()
