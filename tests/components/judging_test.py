"""Correlations of predictions, against NumPy's."""

import jax
import numpy as np
import pytest

from spex_jax.components import judging
from spex_jax.indices import attribution

_N, _T = 6, 4
_EFFECTS = np.random.default_rng(0).normal(size=(_T, _N))


def _value_fn(masks):
  """Mostly a sum, with a product in it."""
  masks = masks.astype(float)
  return masks @ _EFFECTS.T + (masks[:, 0] * masks[:, 1])[:, None]


def _method(scores):
  return attribution.Attribution(scores, np.zeros(len(scores)), "x")


def test_correlations_are_numpys():
  rng = np.random.default_rng(1)
  masks = rng.random((50, _N)) < 0.7
  values = _value_fn(masks)
  guess = _method(_EFFECTS + 0.3 * rng.normal(size=_EFFECTS.shape))
  found = judging.correlation(guess, masks, values)
  expected = [
    np.corrcoef(values[:, t], guess(masks)[:, t])[0, 1] for t in range(_T)
  ]
  np.testing.assert_allclose(found.per_target, expected, atol=1e-12)
  np.testing.assert_allclose(found.mean, np.mean(expected))
  np.testing.assert_allclose(found.error, np.std(expected, ddof=1) / 2)
  one = judging.correlation(lambda m: guess(m)[:, 0], masks, values[:, 0])
  assert one.error is None and str(one) == f"{expected[0]:.3f}"


def test_what_never_varies():
  rng = np.random.default_rng(1)
  masks = rng.random((50, _N)) < 0.7
  values = _value_fn(masks)
  values[:, 1] = 7.0
  scores = _EFFECTS.copy()
  scores[2] = 0  # Predicts the same for all: worth nothing.
  found = judging.correlation(_method(scores), masks, values)
  assert np.isnan(found.per_target[1]) and found.per_target[2] == 0
  assert found.undefined == 1
  np.testing.assert_allclose(found.mean, found.per_target[[0, 2, 3]].mean())


def test_a_report_of_several_methods():
  asked = []

  def value_fn(masks):
    asked.append(masks)
    return _value_fn(masks)

  good, bad = _method(_EFFECTS), _method(-_EFFECTS)
  found = judging.compare(
    {"good": good, "bad": bad},
    value_fn,
    _N,
    key=jax.random.key(0),
    keep=(0.5, 0.9),
    num_masks=400,
    fitted=0.9,
  )
  assert [len(masks) for masks in asked] == [400, 400]
  assert abs(asked[1].mean() - 0.9) < 0.05 and abs(asked[0].mean() - 0.5) < 0.1
  for keep, masks in zip((0.5, 0.9), asked):
    for name, method in (("good", good), ("bad", bad)):
      expected = judging.correlation(method, masks, _value_fn(masks))
      assert found.found[keep][name].mean == expected.mean
  mean, error = found.gap("good", "bad", 0.9)
  np.testing.assert_allclose(mean, 2 * found.found[0.9]["good"].mean)
  assert error is not None and 0 < error < mean
  share = (1 - found.found[0.9]["good"].mean) / (
    1 + found.found[0.9]["good"].mean
  )
  np.testing.assert_allclose(found.left("good", "bad", 0.9), share)
  lines = str(found).splitlines()
  assert lines[0].split() == ["method", "0.5", "kept", "0.9", "kept*"]
  assert lines[1].startswith("good") and lines[2].startswith("bad")
  assert str(found.found[0.9]["good"]) in lines[1]
  assert "400 fresh masks" in lines[3] and "* the share" in lines[3]


@pytest.mark.parametrize(
  ("call", "message"),
  [
    (
      lambda m, v: judging.correlation(_method(_EFFECTS), m[:2], v[:2]),
      "needs 3 masks; got 2",
    ),
    (
      lambda m, v: judging.correlation(_method(_EFFECTS[:1]), m, v),
      "of 1 targets, values of 4",
    ),
    (
      lambda m, v: judging.correlation(_method(_EFFECTS), m, v * 0),
      "never vary",
    ),
    (
      lambda m, v: judging.correlation(lambda x: x[:, :4] * np.nan, m, v),
      "NaN or infinity",
    ),
    (
      lambda m, v: judging.compare(
        {}, _value_fn, _N, key=jax.random.key(0), keep=(0.9,)
      ),
      "at least one method",
    ),
  ],
)
def test_bad_input_is_refused(call, message):
  masks = np.random.default_rng(1).random((20, _N)) < 0.7
  with pytest.raises(ValueError, match=message):
    call(masks, _value_fn(masks))
