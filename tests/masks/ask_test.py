"""Tests of asking: budget, batches, repeats. `api_test` has the rest."""

import jax
import numpy as np
import pytest

from spex_jax.masks import ask as ask_lib


def test_budget_is_a_wall():
  calls = []

  def fn(masks):
    calls.append(len(masks))
    return np.ones(len(masks))

  ask = ask_lib.Asker(fn, 3, 5)
  ask(np.ones((4, 3), bool))
  with pytest.raises(RuntimeError, match="6 masks on a budget of 5"):
    ask(np.ones((2, 3), bool))
  assert calls == [4] and ask.asked == 4
  ask.repeat(np.ones((4, 3), bool), np.ones((4, 1)), strict=True)
  assert ask.asked == 4 and ask.num_repeats == 4  # Repeats are aside.


def test_jitted_values_ignore_the_padding():
  ask = ask_lib.Asker(jax.jit(lambda m: m.sum(axis=1)), 4, 100, batch_size=8)
  masks = np.random.default_rng(0).random((11, 4)) < 0.5
  np.testing.assert_array_equal(ask(masks)[:, 0], masks.sum(axis=1))


def test_no_masks():
  ask = ask_lib.Asker(lambda m: np.ones((len(m), 2)), 4, 100)
  ask(np.ones((1, 4), bool))
  assert ask(np.ones((0, 4), bool)).shape == (0, 2)


@pytest.mark.parametrize("scale", [1.0, 1e200, 1e-200])
def test_spread_of_pairs(scale):
  rng = np.random.default_rng(0)
  first, second = rng.normal(size=(2, 20000, 1)) * 3 * scale
  spread = ask_lib.spread_of_pairs(first, second) / scale
  # 5 standard errors of a deviation from 20,000 pairs.
  np.testing.assert_allclose(spread, 3, atol=5 * 3 / np.sqrt(2 * 20000))


def test_is_constant():
  assert ask_lib.is_constant(np.full((5, 2), [3.0, 0.0]))
  assert not ask_lib.is_constant(np.array([[3.0, 0.0], [3.0, 1e-300]]))
  assert ask_lib.is_constant(np.array([[0.1 + 0.2], [0.3]]))
