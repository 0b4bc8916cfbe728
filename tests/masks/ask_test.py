"""Tests of asking: budget, batches, repeats. `api_test` has the rest."""

import jax
import numpy as np
import pytest

from spex_jax import base
from spex_jax.masks import ask as ask_lib


def test_budget_is_a_wall():
  calls = []

  def fn(masks):
    calls.append(len(masks))
    return np.ones(len(masks))

  ask = ask_lib.Asker(fn, 3, 5, batch_size=4)
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
  for values, expected in (
    (np.full((5, 2), [3.0, 0.0]), [True, True]),
    ([[3.0, 0.0], [3.0, 1e-300]], [True, False]),
    ([[0.1 + 0.2], [0.3]], [True]),
    ([[1e17], [1e17 + 1024]], [False]),  # float64 has 63 numbers between.
    ([[1.7e308], [-1.7e308]], [False]),
  ):
    assert base.is_constant(np.asarray(values)).tolist() == expected


def test_masked_values_of_a_function_are_refused():
  fn = lambda m: np.ma.masked_array(m[:, 0] * 1.0, mask=m[:, 0])
  ask = ask_lib.Asker(fn, 3, 10)
  with pytest.raises(ValueError, match="masked array with 1 of 1 entries"):
    ask(np.array([[True, False, True], [False, True, True]]))


def test_ends_are_asked_once_and_within_the_budget():
  corners = np.array([[False] * 3, [True] * 3])
  for budget, first, expected, asked in (
    (5, corners[:0], (0.0, 3.0), 2),
    (5, corners[:1], (0.0, 3.0), 2),
    (2, corners, (0.0, 3.0), 2),
    (1, corners[1:], None, 1),
  ):
    ask = ask_lib.Asker(lambda m: m.sum(axis=1), 3, budget)
    ask(first)
    assert ask.ends() == expected and ask.asked == asked


@pytest.mark.parametrize(
  "values, expected",
  [
    # float32 values: some steps of it; float64 ones: a share of the spread.
    (np.array([1e9, 1e9 + 64]), 16 * 2.0**-23 * (1e9 + 64)),
    (np.array([1e9 + 0.5, 1e9 + 64.5]), 64e-6),
    (np.array([0.1, 3.1]), 3e-6),
  ],
)
def test_repeatable(values, expected):
  found = ask_lib.repeatable(values[:, None])
  np.testing.assert_allclose(found, [expected], rtol=1e-6)


def _sizes(cost, most=1024, calls=12):
  """Sizes of calls that take `cost(size)` seconds."""
  growing, sizes = ask_lib.Growing(most), []
  for _ in range(calls):
    sizes.append(growing.size)
    growing.took(growing.size, cost(growing.size))
  return sizes


def test_calls_begin_small_and_fill_about_a_second():
  assert _sizes(lambda b: 0.05 * b)[:4] == [1, 8, 20, 20]
  assert _sizes(lambda b: 1e-6)[:5] == [1, 8, 64, 512, 1024]
  # Minutes for each mask: never two at once for long.
  assert _sizes(lambda b: 60.0 * b, calls=5)[2:] == [1, 1, 1]
  # Two seconds whatever the size: as many as there may be.
  assert _sizes(lambda b: 2.0 + 1e-4 * b)[-1] == 1024
  # A first call that loads a model, and quick ones after it.
  costs = iter([30.0] + [0.001] * 20)
  assert _sizes(lambda b: next(costs))[-1] == 1024


def test_a_host_function_is_asked_a_little_at_first():
  sizes = []

  def fn(masks):
    sizes.append(len(masks))
    return masks.sum(axis=1)

  masks = np.arange(64)[:, None] >> np.arange(6) & 1 > 0
  values = ask_lib.Asker(fn, 6, 64)(masks)
  assert sizes[0] == 1 and sum(sizes) == 64
  np.testing.assert_array_equal(values[:, 0], masks.sum(axis=1))


def test_a_jitted_function_is_not_padded_beyond_the_budget():
  traces = []

  @jax.jit
  def fn(masks):
    traces.append(masks.shape)
    return masks.sum(axis=1)

  masks = np.arange(8)[:, None] >> np.arange(3) & 1 > 0
  ask = ask_lib.Asker(fn, 3, 8)
  ask(masks[:5])
  ask(masks[5:])
  assert traces == [(8, 3)]
