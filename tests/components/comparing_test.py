"""Several methods, compared on the same masks."""

import jax
import numpy as np
import pytest

from spex_jax.components import comparing
from spex_jax.indices import attribution, judging

_N, _T = 6, 4
_EFFECTS = np.random.default_rng(0).normal(size=(_T, _N))


def _value_fn(masks):
  """Mostly a sum, with a product in it."""
  masks = masks.astype(float)
  return masks @ _EFFECTS.T + (masks[:, 0] * masks[:, 1])[:, None]


def _method(scores):
  return attribution.Attribution(scores, np.zeros(len(scores)), "x")


def test_a_report_of_several_methods():
  asked = []

  def value_fn(masks):
    asked.append(masks)
    return _value_fn(masks)

  good, bad = _method(_EFFECTS), _method(-_EFFECTS)
  found = comparing.compare(
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


def test_no_method_is_refused():
  with pytest.raises(ValueError, match="at least one method"):
    comparing.compare({}, _value_fn, _N, key=jax.random.key(0), keep=(0.9,))
