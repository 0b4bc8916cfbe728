"""Tests of when a scan goes one order deeper, and of what it then finds."""

import math

import numpy as np
import pytest

from spex_jax.datasets import synthetic
from spex_jax.fourier import lasso, score
from spex_jax.portfolio import deeper, members, select
from spex_jax.portfolio.samples import Samples
from spex_jax.proxies import boosting


def _uniform(n, num_masks, seed=0):
  return np.random.default_rng(seed).random((num_masks, n)) < 0.5


def _deepened(masks, values, max_order=None):
  folds = boosting.spread_folds(len(values), 5)
  fit = members.gram_fit(masks, values, max_order)
  assert fit is not None
  return fit, *deeper.deepened(masks, values, folds, fit, max_order)


def _planted(num_masks=700, n=30):
  f = synthetic.planted(5, n, 12, 5, min_order=2)
  masks = _uniform(n, num_masks, 5)
  noise = np.random.default_rng(5).normal(size=num_masks)
  return f, masks, f(masks) + noise * math.sqrt(f.variance / 10)


def test_sets_of_order_5_are_found_and_foreseen():
  f, masks, values = _planted()
  answer = select.by_proxies(Samples(masks, values[:, None]), "gram")
  found = {s for s, _ in answer.functions[0].terms() if s}
  planted = {s for s, _ in f.terms()}
  # Of noise .5 sets of all orders are expected: more than 3 are below 2e-3.
  assert planted <= found and len(found - planted) <= 3
  note = "up to 4 were scanned, then those of 5 on what these left; larger"
  assert note in answer.notes[0]  # By all masks.
  test = _uniform(30, 2000, 6)
  reached = score.r2(f(test), lasso.evaluate(test, answer.functions[0]))
  assert reached > 0.98  # 12 coefficients of 700 values at 10 dB: about .998.
  # What is foreseen is the noisy values: at most 1 / 1.1 of their variance,
  # give or take 3 standard errors of sqrt(2 / 700) of what is left.
  foreseen = score.r2(values, answer.out_of_fold[:, 0])
  assert foreseen == pytest.approx(1 / 1.1, abs=0.02)


@pytest.mark.parametrize("max_order", [None, 4])
def test_smooth_values_are_not_scanned_again(max_order):
  masks = _uniform(30, 400)
  weights = np.random.default_rng(0).normal(size=30)
  values = np.tanh(masks @ weights / 3)
  fit, after, told = _deepened(masks, values, max_order)
  assert after is fit
  assert ("none of them asks for larger ones" in told) == (max_order is None)


def test_few_masks_and_many_players_are_not_scanned_again():
  f, masks, _ = _planted(70)
  fit, after, _ = _deepened(masks, f(masks))
  assert after is fit
  masks = _uniform(400, 600)
  fit, after, told = _deepened(masks, masks[:, 3] * 1.0)
  assert after is fit and "beyond the cost" in told
