"""Metrics of one example, by their definitions in NumPy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from spex_jax.circuits import metrics

_RNG = np.random.default_rng(0)
_LOGITS, _CLEAN = _RNG.normal(size=(2, 7))
_RIGHT = np.array([1, 4, -1])
_WRONG = np.array([2, -1])
_NONE = np.array([-1])


def _shares(logits):
  return np.exp(logits) / np.exp(logits).sum()


_EXPECTED = {
  "logit_difference": _LOGITS[[1, 4]].mean() - _LOGITS[2],
  "probability_difference": _shares(_LOGITS)[[1, 4]].sum()
  - _shares(_LOGITS)[2],
  "kl": -(_shares(_CLEAN) * np.log(_shares(_CLEAN) / _shares(_LOGITS))).sum(),
}


@pytest.mark.parametrize("name", metrics.METRICS)
def test_values(name):
  metric = metrics.METRICS[name]
  metrics.check(metric, 7)
  got = metric(_LOGITS, _CLEAN, _RIGHT, _WRONG)
  assert got.shape == ()
  # Float32 or float64, over 7 terms of size 1.
  np.testing.assert_allclose(got, _EXPECTED[name], rtol=1e-5, atol=1e-6)
  each = jax.vmap(metric)(
    np.stack([_LOGITS, _CLEAN]), np.stack([_CLEAN] * 2),
    np.stack([_RIGHT] * 2), np.stack([_WRONG] * 2),
  )  # fmt: skip
  np.testing.assert_allclose(each[0], got, rtol=1e-5, atol=1e-6)


def test_no_wrong_answer():
  got = metrics.logit_difference(_LOGITS, _CLEAN, _RIGHT, _NONE)
  want = _LOGITS[[1, 4]].mean() - _LOGITS.mean()
  np.testing.assert_allclose(got, want, rtol=1e-5)
  for none in (_NONE, np.zeros(0, np.int32)):
    got = metrics.probability_difference(_LOGITS, _CLEAN, _RIGHT, none)
    np.testing.assert_allclose(got, _shares(_LOGITS)[[1, 4]].sum(), rtol=1e-5)


def test_kl_is_flat_at_the_clean_run():
  slope = jax.grad(metrics.kl)(jnp.asarray(_CLEAN), _CLEAN, _RIGHT, _WRONG)
  np.testing.assert_allclose(slope, np.zeros(7), atol=1e-6)


def test_an_answer_beyond_the_vocabulary_is_nan():
  got = metrics.logit_difference(_LOGITS, _CLEAN, np.array([7]), _WRONG)
  assert np.isnan(got)


def _batch_mean(logits, clean, right, wrong):
  del clean, wrong
  return logits[:, right[0]].mean()


@pytest.mark.parametrize(
  ("metric", "error", "complaint"),
  [
    (lambda x, c, r, w: x[r] - x[w], ValueError, "leave out means"),
    (lambda x, c, r, w: r[0], ValueError, "one floating number"),
    (_batch_mean, ValueError, "_batch_mean does not take one example"),
    ("logit_difference", TypeError, "must be a function"),
  ],
)
def test_what_is_no_metric(metric, error, complaint):
  with pytest.raises(error, match=complaint):
    metrics.check(metric, 7)
