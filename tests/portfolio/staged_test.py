"""Tests of which masks are asked: none twice, and a plan where it may help."""

import jax
import numpy as np
import pytest

from spex_jax.fourier import sparse, spex
from spex_jax.masks import ask as ask_lib
from spex_jax.masks import packing, sampling
from spex_jax.portfolio import budget, staged

_N, _BUDGET = 40, 600
_KEY = jax.random.key(0)


class _Asked:
  """Runs one explanation, and remembers the masks that it asked."""

  def __init__(self, fn, method="auto", n=_N, budget=_BUDGET, key=_KEY, **more):
    self.batches = []

    def remember(masks):
      self.batches.append(np.array(masks))
      return fn(masks)

    self.ask = ask_lib.Asker(remember, n, budget)
    self.answer, self.test = staged.ask_and_decode(
      self.ask, key, method, **more
    )
    self.notes = " ".join(self.answer.notes)
    masks = np.concatenate(self.batches)
    distinct = len(packing.distinct_masks(masks).first)
    # Whatever is asked: none twice but the repeats, none beyond the budget.
    assert len(masks) - self.ask.num_repeats == self.ask.asked == distinct
    assert distinct <= budget
    assert len(packing.distinct_masks(self.test.masks).first) >= 1


def _planted(size, num_terms=8):
  rng = np.random.default_rng(0)
  terms = {}
  for _ in range(num_terms):
    members = rng.choice(_N, size, replace=False).tolist()
    terms[tuple(sorted(members))] = rng.uniform(0.5, 2) * rng.choice([-1, 1])
  return sparse.SparseFourier.from_terms(_N, terms)


@pytest.fixture(scope="module")
def high():
  """What `auto` does with planted sets of order 5."""
  return _Asked(_planted(5))


@pytest.mark.slow
def test_a_plan_finds_the_order_that_no_proxy_can(high):
  assert "under half of the values, so SPEX's plan was asked" in high.notes
  assert high.answer.method == "spex" and high.ask.asked == _BUDGET
  found = dict(high.answer.functions[0].terms())
  found.pop((), None)
  expected = dict(_planted(5).terms())
  assert found.keys() == expected.keys()
  for players, coef in expected.items():
    np.testing.assert_allclose(found[players], coef, atol=1e-12)
  # The held-out masks came first, and uniform ones beside the plan.
  first = np.concatenate(high.batches)[: len(high.test.masks)]
  np.testing.assert_array_equal(first, high.test.masks)


@pytest.mark.slow
def test_a_goal_that_only_a_plan_can_reach(high):
  told = _Asked(_planted(5), goal=0.99).notes
  assert "0.99 was reached (R^2 1.000 ± 0.000 on 64 held-out masks)" in told
  assert "target" not in high.notes


@pytest.mark.slow
@pytest.mark.parametrize("size", [pytest.param(1, marks=pytest.mark.slow), 2])
def test_no_plan_where_quick_proxies_explain(size):
  found = _Asked(_planted(size))
  assert "plan" not in found.notes and found.answer.method == "gram"
  assert found.ask.asked == _BUDGET
  # All masks keep about half of the players, as uniform ones do.
  masks = np.concatenate(found.batches)
  each = masks.mean(axis=0)
  # Five deviations of a mean of 604.
  np.testing.assert_allclose(each, 0.5, atol=5 * 0.5 / np.sqrt(len(masks)))


@pytest.mark.slow
def test_no_plan_for_a_method_that_was_named():
  found = _Asked(_planted(5), method="lasso")
  assert "plan" not in found.notes and found.ask.asked == _BUDGET


def _rare(held):
  """A parity that the held-out masks do not show, but the full mask does."""
  known = {row.tobytes() for row in np.packbits(held, axis=1)}

  def fn(masks):
    rows = np.packbits(masks, axis=1)
    seen = np.array([row.tobytes() in known for row in rows])
    return np.where(seen, 0, masks[:, :6].sum(axis=1) % 2) + masks.all(axis=1)

  return fn


@pytest.mark.slow
def test_probes_do_not_overspend_a_budget_that_a_plan_fills():
  """Held-out masks of one value cost two probes, and a plan has one size."""
  # Of order 4 here, no two masks of the smallest plan are equal.
  total = next(
    b for b in range(200, 400) if _room(b) == spex.least_budget(_N, 4)
  )
  first = _Asked(lambda m: np.zeros(len(m)), budget=total)
  found = _Asked(_rare(first.test.masks), budget=total, max_order=4)
  assert "too rare a change" in found.notes
  assert "SPEX's plan was asked" in found.notes
  assert found.ask.asked == total


def _room(total):
  rest = total - budget.num_held_out(total, _N)
  return rest - budget.num_scouts(rest)


def test_a_plan_with_the_empty_mask_does_not_ask_it_again():
  n, total = 12, 800
  keys = (jax.random.key(k) for k in range(40))
  plans = (
    (key, *budget.insisted_plan(jax.random.split(key, 3)[0], n, total, 3))
    for key in keys
  )
  key, plan, held = next(
    (key, plan, held)
    for key, plan, held in plans
    if (~plan.masks().any(axis=1)).any()
  )
  found = _Asked(
    lambda m: m.all(axis=1), method="spex", n=n, budget=total, key=key,
    max_order=3,
  )  # fmt: skip
  assert "too rare a change" in found.notes
  num_distinct = len(packing.distinct_masks(plan.masks()).first)
  full = plan.masks().all(axis=1).any()
  # Both probes are asked; those in the plan are not asked again.
  assert found.ask.asked == held + 2 + num_distinct - 1 - full


@pytest.mark.parametrize("n", [7, 30])
def test_a_scan_of_too_few_masks_is_refused_before_it_asks(n):
  f = sparse.SparseFourier.from_terms(n, {(0,): 1.0, (1, 2): -1.0})
  asked = lambda masks: pytest.fail("It asked.")
  with pytest.raises(ValueError, match="at least 98 masks"):
    _Asked(asked, method="gram", n=n, budget=97)
  found = _Asked(f, method="gram", n=n, budget=98)
  assert {s for s, _ in found.answer.functions[0].terms()} >= {(0,), (1, 2)}


@pytest.mark.slow
def test_what_a_plan_leaves_of_a_budget_goes_to_the_coefficients():
  n, total = 12, 800
  noise = np.random.default_rng(0).normal(size=1 << n)

  def fn(masks):
    pair = masks[:, 1] & masks[:, 2]
    return masks[:, 0] - 2.0 * pair + 0.3 * noise[masks @ (1 << np.arange(n))]

  found = _Asked(fn, method="spex", n=n, budget=total, max_order=3)
  assert found.ask.asked == total
  assert "fit no larger plan, were asked for the coefficients" in found.notes
  sets = {s for s, _ in found.answer.functions[0].terms()}
  assert {(0,), (1,), (2,), (1, 2)} <= sets


def test_constant_values_cost_the_held_out_masks_and_two_probes():
  found = _Asked(lambda m: np.full(len(m), 3.0), goal=0.9)
  assert found.answer.method == "constant" and found.ask.asked == 64 + 2
  assert "f is constant: 66 masks" in found.notes


@pytest.mark.slow
def test_a_small_game_is_asked_to_its_end():
  """A mask fewer than there are, of which the corners are two."""
  masks = sampling.enumerate_masks(6)
  found = _Asked(
    lambda m: m[:, 0] * 2.0 - m[:, 1],
    method="lasso",
    n=6,
    budget=len(masks) - 1,
  )
  assert found.ask.asked == len(masks) - 1


@pytest.mark.slow
def test_another_game_of_a_padded_size_compiles_nothing():
  compiled = []

  def listen(event, seconds, **about):
    if event == "/jax/core/compile/backend_compile_duration":
      compiled.append(about.get("fun_name"))

  def smooth(n):
    weights = np.sin(np.arange(n) + 1.0)
    return lambda masks: np.tanh((2.0 * masks - 1) @ weights) + masks[:, 0]

  jax.monitoring.register_event_duration_secs_listener(listen)
  try:
    for n, budget in ((24, 340), (19, 330)):
      compiled.clear()
      asked = _Asked(smooth(n), n=n, budget=budget)
      assert "gaussian" in asked.notes and "proxyspex" in asked.notes
      assert compiled if n == 24 else not compiled, compiled
  finally:
    jax.monitoring.unregister_event_duration_listener(listen)
