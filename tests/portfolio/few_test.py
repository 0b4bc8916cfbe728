"""Samples too few for folds: the mean, unless order 1 predicts better."""

import numpy as np
import pytest

from spex_jax.portfolio import few, samples


@pytest.mark.parametrize("num_masks", [4, 5, 7])
def test_noise_is_answered_by_its_mean(num_masks):
  rng = np.random.default_rng(0)
  told = []
  for _ in range(20):
    masks = rng.random((num_masks, 30)) < 0.5
    values = rng.normal(size=(num_masks, 1))
    (function,), method, (note,) = few.fitted(
      samples.Samples(masks, values), [None] * values.shape[1]
    )
    told.append(method)
    if method == "mean":
      np.testing.assert_allclose(function(masks), values.mean())
      assert f"{num_masks} masks are too few" in note and "their mean" in note
  assert told.count("mean") >= 17


def test_what_one_player_says_is_found_beside_noise():
  masks = np.array(
    [
      [1, 0, 0],
      [0, 1, 0],
      [1, 1, 0],
      [0, 0, 1],
      [1, 0, 1],
      [0, 1, 1],
      [1, 1, 1],
    ],
    bool,
  )
  noise = np.random.default_rng(1).normal(size=7)
  values = np.stack([5.0 * masks[:, 0], noise, np.full(7, 2.0)], axis=1)
  functions, method, (note,) = few.fitted(
    samples.Samples(masks, values), [None] * values.shape[1]
  )
  assert method == "lasso" and "order 1, or the mean" in note
  np.testing.assert_allclose(functions[0](masks), values[:, 0], atol=0.3)
  for t in (1, 2):
    np.testing.assert_allclose(functions[t](masks), values[:, t].mean())
