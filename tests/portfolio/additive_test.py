"""Occlusion, LIME and KernelSHAP as `explain` gives them."""

import jax
import numpy as np
import pytest

import spex_jax as spex
from spex_jax.masks import packing, sampling
from spex_jax.portfolio import additive
from spex_jax.proxies import kernel_shap, lime
from tests import functions

_KEY = jax.random.key(0)


class _Counting:
  """A value function that remembers its masks."""

  def __init__(self, fn):
    self.fn, self.masks = fn, []

  def __call__(self, masks):
    self.masks.append(np.array(masks))
    return self.fn(masks)

  def distinct(self):
    return len(packing.distinct_masks(np.concatenate(self.masks)).first)


def _values(answer, n, target=None):
  found = answer.interactions("SV", order=1, target=target)
  return np.array([found[i] for i in range(n)])


def _explain(fn, n, method, budget=300, **more):
  return spex.explain(fn, n, budget=budget, method=method, key=_KEY, **more)


def test_a_function_of_one_value_a_player():
  values = np.array([2.0, 0.0, -1.5])
  f = additive.function(0.5, values)
  masks = sampling.enumerate_masks(3)
  np.testing.assert_allclose(f(masks), 0.5 + masks @ values, atol=1e-12)
  with pytest.raises(ValueError, match=r"one value per player, \[n\]; got \(2"):
    additive.function(0.5, np.ones((2, 3)))
  with pytest.raises(ValueError, match="must be finite"):
    additive.function(0.5, np.array([1.0, np.nan]))


def test_occlusion_leaves_one_out():
  fn = _Counting(lambda m: functions.pairs(m) + 7)
  answer = _explain(fn, 20, "occlusion")
  full = np.ones((1, 20), bool)
  expected = [
    functions.pairs(full)[0] - functions.pairs(full & (np.arange(20) != i))[0]
    for i in range(20)
  ]
  np.testing.assert_allclose(_values(answer, 20), expected, atol=1e-12)
  np.testing.assert_allclose(answer.fourier(full), 11, atol=1e-12)
  assert answer.method == "occlusion" and answer.held_out == 64
  assert answer.num_evaluations == fn.distinct() == 22 + 64
  # Both of a pair lose all of it: far from what random masks show.
  assert answer.faithfulness < 0.5 and answer.noise_floor == 0
  assert list(answer.by_terms) == ["10", "30", "100", "all"]
  assert "from 21 masks" in answer.notes[0]


def test_kernelshap_of_all_masks_is_exact():
  answer = _explain(functions.pairs, 6, "kernelshap")
  exact = spex.explain(functions.pairs, 6, budget=64, key=_KEY)
  assert exact.method == "exact"
  np.testing.assert_allclose(
    _values(answer, 6), _values(exact, 6), rtol=0, atol=1e-12
  )
  masks = sampling.enumerate_masks(6)
  left = functions.pairs(masks) - answer.fourier(masks)
  expected = 1 - (left**2).mean() / functions.pairs(masks).var()
  assert answer.faithfulness == pytest.approx(expected)
  assert answer.held_out == 0 and answer.num_evaluations == 64
  assert "Exact Shapley values" in answer.notes[0]


@pytest.mark.parametrize("method", ["lime", "kernelshap"])
def test_within_the_budget(method):
  fn = _Counting(functions.pairs)
  answer = _explain(fn, 20, method, budget=301)
  assert answer.method == method and answer.held_out == 64
  assert answer.num_evaluations == fn.distinct() <= 301
  # An odd mask may be left; four are asked twice.
  assert fn.distinct() >= 300
  assert sum(map(len, fn.masks)) == fn.distinct() + 4
  # The pair is shared by its players; the rest is as it is.
  shared = 2.0 if method == "lime" else 1.5
  atol = 0.35 if method == "lime" else 0.2
  np.testing.assert_allclose(
    _values(answer, 20)[:5], [2, -1, shared, shared, 0], rtol=0, atol=atol
  )
  again = _explain(functions.pairs, 20, method, budget=301)
  assert again.fourier.terms() == answer.fourier.terms()


@pytest.mark.parametrize("method", additive.METHODS)
def test_targets(method):
  fn = lambda m: np.stack([functions.pairs(m), 2.0 * m[:, 4] + 1], axis=1)
  answer = _explain(fn, 12, method)
  assert answer.faithfulness.shape == (2,)
  # LIME's penalty shrinks by a share of 1 / (weights of some hundreds).
  np.testing.assert_allclose(
    _values(answer, 12, 1), 2.0 * (np.arange(12) == 4), rtol=0, atol=0.02
  )
  np.testing.assert_allclose(
    _values(answer, 12, 0)[:2],
    [2, -1],
    rtol=0,
    atol=0.3 if method == "lime" else 0.2,
  )


@pytest.mark.parametrize("method", additive.METHODS)
def test_one_player_and_none(method):
  answer = _explain(lambda m: 3.0 * m[:, 0] + 1, 1, method, budget=2)
  assert answer.num_evaluations == 2 and answer.method == method
  if method != "lime":  # One kept mask beside a penalty of 1.
    np.testing.assert_allclose(_values(answer, 1), [3], atol=1e-12)
  none = _explain(lambda m: np.full(len(m), 3.0), 0, method, budget=1)
  assert none.method == "exact" and none.fourier.terms() == [((), 3.0)]


@pytest.mark.parametrize(
  "method, least", [("occlusion", 31), ("lime", 31), ("kernelshap", 60)]
)
def test_the_least_budget(method, least):
  with pytest.raises(
    ValueError,
    match=f"{method} needs a budget of at least {least} masks for 30 players; "
    f"the budget is {least - 1}",
  ):
    _explain(functions.pairs, 30, method, budget=least - 1)
  fn = _Counting(functions.pairs)
  answer = _explain(fn, 30, method, budget=least)
  assert answer.num_evaluations == fn.distinct() == least
  assert answer.faithfulness is None and answer.held_out == 0
  assert answer.by_terms is None
  told = f"Only 0 masks are held out, of {least}: too few to tell R^2 by."
  assert told in answer.notes


@pytest.mark.parametrize("method", additive.METHODS)
@pytest.mark.parametrize("n, budget", [(30, 300), (5, 300)])
def test_a_constant_function(method, n, budget):
  fn = _Counting(lambda m: np.full(len(m), 7.5))
  answer = _explain(fn, n, method, budget=budget)
  assert answer.method == "constant" and answer.faithfulness == 1
  assert answer.fourier.terms() == [((), 7.5)]
  assert answer.num_evaluations == fn.distinct() <= 100
  assert f"f is constant: {fn.distinct()} masks" in answer.notes[-1]


@pytest.mark.parametrize("method", additive.METHODS)
def test_values_that_will_not_do(method):
  with pytest.raises(ValueError, match="NaN or infinity for"):
    _explain(lambda m: np.where(m.all(axis=1), np.nan, 0), 20, method)
  rng = np.random.default_rng(0)
  noisy = lambda m: functions.pairs(m) + rng.normal(size=len(m))
  answer = _explain(noisy, 20, method)
  assert answer.noise_floor > 0.1
  assert "not deterministic" in answer.notes[-1]
  with pytest.raises(ValueError, match=r"not deterministic.*strict=False"):
    _explain(noisy, 20, method, strict=True)


@pytest.mark.parametrize(
  "change, error, message",
  [
    (
      {"target_faithfulness": 0.9},
      ValueError,
      "lime has masks of one size; use target_faithfulness with method='auto'",
    ),
    ({"kernel_width": 0}, ValueError, "finite and above 0; got 0"),
    ({"kernel_width": float("inf")}, ValueError, "above 0; got inf"),
    ({"kernel_width": "wide"}, TypeError, "must be a number; got 'wide'"),
  ],
)
def test_bad_requests(change, error, message):
  with pytest.raises(error, match=message):
    _explain(functions.pairs, 20, "lime", **change)


def test_orders_and_samples_of_others():
  answer = _explain(functions.pairs, 20, "occlusion", max_order=3)
  assert "occlusion has no sets, as of max_order=3." in answer.notes
  masks = sampling.uniform(_KEY, 50, 20)
  with pytest.raises(ValueError, match="Unknown method 'lime'; known: auto"):
    spex.decode(masks, functions.pairs(masks), method="lime")


def test_a_wider_kernel_is_less_local():
  """At a narrow kernel only the full mask's neighbours speak: 3 each."""
  narrow = _explain(functions.pairs, 8, "lime", kernel_width=0.05)
  wide = _explain(functions.pairs, 8, "lime", kernel_width=5)
  assert _values(wide, 8)[2] < _values(narrow, 8)[2] < 3
  assert "kernel width 0.05" in narrow.notes[0]


def test_least_budgets_are_no_more_than_all_masks():
  assert [kernel_shap.least_budget(n) for n in (1, 2, 3, 9)] == [2, 4, 6, 18]
  assert [lime.least_budget(n) for n in (1, 2, 9)] == [2, 3, 10]


class TestAssess:
  def test_an_expansion_from_elsewhere(self):
    fn = _Counting(functions.pairs)
    given = additive.function(
      0.0, np.array([2.0, -1.0] + [1.5] * 2 + [0.0] * 8)
    )
    answer = spex.assess(
      fn, given, key=_KEY, num_masks=200, method="mine", notes=["By hand."]
    )
    assert answer.method == "mine" and answer.notes == ("By hand.",)
    # Both ends of f beside them.
    assert answer.num_evaluations == fn.distinct() == 202
    assert answer.held_out == 200 and answer.ends == (0.0, 4.0)
    masks = np.concatenate(fn.masks)[:200]
    left = functions.pairs(masks) - given(masks)
    expected = 1 - (left**2).mean() / functions.pairs(masks).var()
    assert answer.faithfulness == pytest.approx(expected)
    assert answer.fourier is given

  def test_all_masks_at_most(self):
    f = additive.function(0.0, np.array([2.0, -1.0]))
    answer = spex.assess(lambda m: m @ [2.0, -1.0], f, key=_KEY)
    assert answer.num_evaluations == 4 and answer.faithfulness == 1

  def test_what_cannot_be_assessed(self):
    f = additive.function(0.0, np.ones(3))
    two = lambda m: np.stack([m[:, 0], m[:, 1]], axis=1)
    with pytest.raises(ValueError, match="has no targets; the value fun.* 2"):
      spex.assess(two, f, key=_KEY)
    with pytest.raises(ValueError, match="num_masks must be at least 1; got 0"):
      spex.assess(lambda m: m[:, 0], f, key=_KEY, num_masks=0)
    with pytest.raises(TypeError, match="key must be one typed key"):
      spex.assess(lambda m: m[:, 0], f, key=0)
    with pytest.raises(ValueError, match="NaN or infinity"):
      spex.assess(lambda m: np.full(len(m), np.nan), f, key=_KEY)


def test_occlusion_does_not_need_the_empty_mask():
  """A mean of what is kept is NaN where nothing is."""
  fn = lambda m: m @ np.arange(12.0) / np.where(m.any(1), m.sum(1), np.nan)
  answer = _explain(fn, 12, "occlusion", budget=40)
  assert answer.ends is None and answer.num_evaluations == 26
  assert sum("no finite value for the empty" in x for x in answer.notes) == 1
  with pytest.raises(ValueError, match="NaN or infinity for 1 of"):
    _explain(fn, 12, "kernelshap", budget=40)
