"""A Gaussian process on values known unequally well, against plain NumPy."""

import numpy as np

from spex_jax.fourier import score
from spex_jax.proxies import gaussian, out_of_fold
from tests.proxies import process


def test_weights_divide_the_noise():
  expected = process.draw(4, 25, 5)
  params, signs = expected.params, expected.signs
  weights = np.random.default_rng(0).random(25) + 0.1
  noise = process.noise_variance(params) / weights
  inverse = np.linalg.inv(process.kernel(params, signs, signs) + np.diag(noise))
  found = gaussian.conditioned(
    params, signs, expected.unit, 0.0, 1.0, np.nan, weights
  )
  np.testing.assert_allclose(found.inverse, inverse, atol=1e-9)
  np.testing.assert_allclose(found.weights, inverse @ expected.unit, rtol=1e-8)


def test_values_of_small_weight_hide_no_effect():
  rng = np.random.default_rng(1)
  masks = process.draw_masks(1, 40, 6)
  truth = 2.0 * masks[:, 0] - masks[:, 3]
  std = np.where(np.arange(40) % 2, 0.1, 20.0)
  values, weights = truth + std * rng.normal(size=40), 1 / std**2
  weights /= weights.mean()
  good = std < 1

  def scores(weights):
    found = gaussian.fit(masks, values, weights=weights)
    groups = out_of_fold.predict(masks, values, weights=weights)
    guesses = gaussian.predict_mean(found, masks), groups.mean
    return [score.r2(truth[good], guess[good]) for guess in guesses]

  found, groups = scores(weights)
  assert found > 0.98 and groups > 0.75  # A group is tuned on 10 of them.
  assert max(scores(None)) < 0.5
