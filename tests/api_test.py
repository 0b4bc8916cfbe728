"""Tests of the public face: budgets, choices, and every kind of bad input."""

import pathlib
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import spex_jax
from spex_jax.api import DECODERS, explain
from spex_jax.fourier import spex
from spex_jax.masks import packing, sampling
from tests import functions

_KEY = jax.random.key(0)


class _Counting:
  """A value function that remembers what it was asked."""

  def __init__(self, fn):
    self.fn, self.batches = fn, []

  def __call__(self, masks):
    self.batches.append(np.array(masks))
    return self.fn(masks)

  def distinct(self):
    return len(packing.distinct_masks(np.concatenate(self.batches)).first)


def test_every_room_is_an_attribute():
  folder = pathlib.Path(spex_jax.__file__).parent
  rooms = {path.stem for path in folder.iterdir() if path.stem[0] != "_"}
  assert {"api", "ablate", "store", "sweeps"} < rooms < {*dir(spex_jax)}
  for name in rooms:
    # No name of the face, such as `explain`, hides a room.
    assert getattr(spex_jax, name).__name__ == f"spex_jax.{name}"
  with pytest.raises(AttributeError, match="no attribute 'rooms'"):
    _ = spex_jax.rooms


def test_the_face_is_whole_and_typed():
  assert {*spex_jax._FROM} == {*spex_jax.__all__}
  for name in spex_jax.__all__:
    assert getattr(spex_jax, name) is getattr(spex_jax, name)
  source = pathlib.Path(spex_jax.__file__).read_text()
  for name, room in spex_jax._FROM.items():  # Checkers read the imports.
    line = rf"from spex_jax\.{room} import .*\b{name}\b"
    assert re.search(line, source), name


class TestSpex:
  @pytest.mark.slow
  @pytest.mark.parametrize("method", ["spex", "auto"])
  def test_planted_terms_are_exact_within_the_budget(self, method):
    f = functions.planted(100, 30, 4)
    fn = _Counting(lambda m: f(m) + 5)
    answer = explain(fn, 100, budget=1000, method=method, key=_KEY)
    found = dict(answer.fourier.terms())
    assert set(found) == {(), *dict(f.terms())}
    np.testing.assert_allclose(found.pop(()), 5, atol=1e-12)
    for members, coef in f.terms():
      np.testing.assert_allclose(found[members], coef, atol=1e-12)
    assert answer.method == "spex" and answer.held_out == 100
    assert answer.faithfulness > 1 - 1e-12 and answer.noise_floor == 0
    assert answer.num_evaluations == fn.distinct() <= 1000

  @pytest.mark.slow
  @pytest.mark.parametrize("budget", [1, 8, 100])
  def test_least_budget_is_named(self, budget):
    need = spex.least_budget(30) + 8
    with pytest.raises(
      ValueError, match=f"budget of at least {need} .*the budget is {budget}"
    ) as error:
      explain(functions.pairs, 30, budget=budget, method="spex", key=_KEY)
    choice = f"max_order=2 (needs {spex.least_budget(30, 2) + 8})"
    assert (choice in str(error.value)) == (budget == 100)
    assert "t=" not in str(error.value)
    answer = explain(functions.pairs, 30, budget=need, method="spex", key=_KEY)
    assert answer.num_evaluations == need and answer.held_out == 8

  @pytest.mark.slow
  def test_orders_beyond_the_method(self):
    with pytest.raises(ValueError, match="up to 8; got max_order=9"):
      explain(
        functions.pairs, 30, budget=5000, method="spex", key=_KEY, max_order=9
      )
    answer = explain(
      functions.pairs, 20, budget=190, method="lasso", key=_KEY, max_order=4
    )
    assert any("not max_order=4" in note for note in answer.notes)

  @pytest.mark.slow
  def test_held_out_shrinks_to_fit_the_plan_and_says_so(self):
    budget = spex.least_budget(30) + 30
    f = functions.planted(30, 3, 2)
    answer = explain(f, 30, budget=budget, method="spex", key=_KEY)
    assert answer.held_out == 30 and answer.num_evaluations == budget
    assert any("Only 30 masks are held out" in note for note in answer.notes)
    assert answer.faithfulness > 1 - 1e-9

  @pytest.mark.slow
  def test_plan_and_held_out_masks_never_meet(self):
    """n so small that a plan meets many of all masks."""
    f = functions.planted(10, 4, 2)
    fn = _Counting(f)
    answer = explain(fn, 10, budget=800, method="spex", key=_KEY, max_order=2)
    # But for those that are asked twice to see noise, all masks differ.
    asked = np.concatenate(fn.batches)
    assert answer.held_out == 80
    assert len(asked) - answer.num_repeats == fn.distinct() <= 800
    assert answer.num_evaluations == fn.distinct()


class TestLasso:
  @pytest.mark.slow
  @pytest.mark.parametrize("method", ["lasso", "auto"])
  def test_pairs(self, method):
    fn = _Counting(functions.pairs)
    answer = explain(fn, 20, budget=190, method=method, key=_KEY)
    assert answer.method == ("gram" if method == "auto" else "lasso")
    assert answer.faithfulness > 1 - 1e-9
    assert answer.num_evaluations == fn.distinct() <= 190
    assert answer.held_out == 63  # A third, as 64 would be more.
    expected = {(): 1.25, (0,): -1, (1,): 0.5, (2,): -0.75, (3,): -0.75}
    expected[(2, 3)] = 0.75
    found = dict(answer.fourier.terms())
    assert set(found) == set(expected)
    for members, coef in expected.items():
      np.testing.assert_allclose(found[members], coef, atol=1e-9)
    moebius = answer.interactions("Moebius", names=list("abcdefghijklmnopqrst"))
    assert "c" in str(moebius)

  @pytest.mark.slow
  def test_max_order_one(self):
    answer = explain(
      functions.pairs, 20, budget=190, method="lasso", key=_KEY, max_order=1
    )
    assert answer.fourier.orders.max() == 1 and answer.faithfulness < 0.95

  @pytest.mark.slow
  def test_deterministic_in_the_key(self):
    first, again, other = (
      explain(
        functions.pairs, 20, budget=100, method="lasso", key=jax.random.key(k)
      )
      for k in (0, 0, 1)
    )
    assert first.fourier.terms() == again.fourier.terms()
    assert first.faithfulness == again.faithfulness
    assert first.fourier.terms() != other.fourier.terms()


class TestProxies:
  @pytest.mark.slow
  @pytest.mark.parametrize("method", ["proxyspex", "gaussian", "gram"])
  def test_every_method_by_name(self, method):
    fn = _Counting(functions.pairs)
    answer = explain(fn, 12, budget=200, method=method, key=_KEY)
    assert answer.method == method and answer.faithfulness > 0.95
    assert answer.num_evaluations == fn.distinct() == 200
    assert sum(map(len, fn.batches)) == 204  # Four are asked twice.
    assert answer.held_out == 64
    assert list(answer.by_terms) == ["10", "30", "100", "all"]
    assert answer.by_terms["all"] == answer.faithfulness
    assert answer.by_terms_std["all"] == answer.faithfulness_std
    assert answer.coef_std.shape == answer.fourier.coefs.shape


class TestTarget:
  @pytest.mark.slow_where("auto")
  @pytest.mark.parametrize("method", ["auto", "lasso"])
  def test_no_more_is_asked_once_it_is_reached(self, method):
    fn = _Counting(functions.pairs)
    answer = explain(
      fn, 12, budget=600, method=method, key=_KEY, target_faithfulness=0.9
    )
    assert answer.faithfulness >= 0.9
    assert answer.num_evaluations == fn.distinct() < 600
    assert sum(map(len, fn.batches)) == fn.distinct() + 4
    told = "The target faithfulness 0.9 was reached (R^2 {} ± "
    assert told.format(f"{answer.faithfulness:.3f}") in answer.notes[0]
    assert f"with {fn.distinct()} of 600 masks" in answer.notes[0]

  @pytest.mark.slow
  def test_what_is_out_of_reach_is_told_and_the_budget_spent(self):
    fn = _Counting(
      lambda m: functions.pairs(m) + 2.0 * m[:, 4] * m[:, 5] * m[:, 6]
    )
    answer = explain(
      fn, 12, budget=330, method="lasso", key=_KEY, target_faithfulness=1
    )
    assert answer.faithfulness < 1
    assert answer.num_evaluations == fn.distinct() == 330
    assert "The target faithfulness 1.0 was NOT reached" in answer.notes[0]
    assert "after 330 masks. Raise the budget" in answer.notes[0]

  def test_exact_meets_any(self):
    answer = explain(
      functions.pairs, 5, budget=32, key=_KEY, target_faithfulness=1
    )
    assert answer.method == "exact" and answer.faithfulness == 1

  @pytest.mark.parametrize(
    "goal, error, message",
    [
      (0, ValueError, r"an R\^2 in \(0, 1\]; got 0"),
      (-0.5, ValueError, r"in \(0, 1\]; got -0.5"),
      (1.01, ValueError, r"in \(0, 1\]; got 1.01"),
      (95, ValueError, r"in \(0, 1\]; got 95"),
      (float("nan"), ValueError, "got nan"),
      (True, TypeError, "must be a number; got True"),
      ("0.9", TypeError, "must be a number; got '0.9'"),
      ([0.9], TypeError, r"must be a number; got \[0.9\]"),
    ],
  )
  def test_no_such_target(self, goal, error, message):
    with pytest.raises(error, match=f"target_faithfulness .*{message}"):
      explain(functions.pairs, 12, key=_KEY, target_faithfulness=goal)

  def test_a_plan_has_one_size(self):
    with pytest.raises(ValueError, match="SPEX asks for a plan of one size"):
      explain(
        functions.pairs, 30, key=_KEY, method="spex", target_faithfulness=0.9
      )


class TestExact:
  @pytest.mark.parametrize("method", DECODERS)
  @pytest.mark.parametrize("budget", [16, 17, 10**6])
  def test_all_masks_when_they_fit(self, method, budget):
    values = np.random.default_rng(0).normal(size=16)
    fn = _Counting(lambda m: values[m @ (1 << np.arange(4))])
    answer = explain(fn, 4, budget=budget, method=method, key=_KEY)
    assert answer.method == "exact" and answer.num_evaluations == 16
    assert fn.distinct() == 16 and sum(map(len, fn.batches)) == 20
    assert answer.faithfulness == 1 and answer.num_repeats == 4
    masks = sampling.enumerate_masks(4)
    np.testing.assert_allclose(answer.fourier(masks), values, atol=1e-13)

  def test_max_order_is_the_best_approximation(self):
    values = np.random.default_rng(0).normal(size=16)
    fn = lambda m: values[m @ (1 << np.arange(4))]
    answer = explain(fn, 4, budget=16, key=_KEY, max_order=1)
    masks = sampling.enumerate_masks(4)
    x = np.concatenate([np.ones((16, 1)), 1.0 - 2 * masks], axis=1)
    error = values - x @ np.linalg.lstsq(x, values)[0]
    np.testing.assert_allclose(
      answer.faithfulness, 1 - error.var() / values.var(), atol=1e-12
    )

  def test_zero_and_one_player(self):
    answer = explain(lambda m: np.full(len(m), 3), 0, budget=1, key=_KEY)
    assert answer.fourier.terms() == [((), 3.0)]
    answer = explain(lambda m: m[:, 0], 1, budget=2, key=_KEY)
    assert dict(answer.fourier.terms()) == {(): 0.5, (0,): -0.5}
    with pytest.raises(ValueError, match="need at least 2 masks"):
      explain(lambda m: m[:, 0], 1, budget=1, key=_KEY)

  def test_too_many_masks_for_exact(self):
    with pytest.raises(ValueError, match=r"all 2\*\*20 masks"):
      explain(functions.pairs, 20, budget=1000, method="exact", key=_KEY)


class TestConstant:
  @pytest.mark.parametrize("value", [0, 7.5, True])
  def test_answers_at_once(self, value):
    fn = _Counting(lambda m: np.full(len(m), value))
    answer = explain(fn, 50, budget=1000, key=_KEY)
    assert answer.fourier.terms() == [((), float(value))]
    assert answer.method == "constant" and answer.faithfulness == 1
    assert answer.num_evaluations == fn.distinct() == 102

  def test_a_change_at_the_full_mask_is_seen_and_told(self):
    fn = _Counting(lambda m: m.all(axis=1))
    answer = explain(fn, 50, budget=200, method="lasso", key=_KEY)
    assert answer.method == "lasso" and fn.distinct() <= 200
    assert any("too rare a change" in note for note in answer.notes)


class TestValues:
  def test_jitted_function_compiles_once_and_is_padded(self):
    shapes = []

    @jax.jit
    def fn(masks):
      shapes.append(masks.shape)
      return masks[:, 0] * 2.0 + masks[:, 1]

    answer = explain(
      fn, 12, budget=100, method="lasso", key=_KEY, batch_size=64
    )
    assert shapes == [(64, 12)] and answer.faithfulness > 1 - 1e-6

  def test_batches_and_progress(self):
    fn, calls = _Counting(functions.pairs), []
    explain(
      fn,
      15,
      budget=100,
      method="lasso",
      key=_KEY,
      batch_size=30,
      progress=lambda done, budget: calls.append((done, budget)),
    )
    assert max(map(len, fn.batches)) == 30
    assert calls == [
      (30, 100),
      (33, 100),
      (35, 100),
      (65, 100),
      (95, 100),
      (100, 100),
    ]

  @pytest.mark.slow
  @pytest.mark.parametrize("method", ["auto", "lasso"])
  def test_integers_and_booleans(self, method):
    for cast in (np.int32, np.bool_):
      fn = lambda m, cast=cast: m[:, 2].astype(cast)
      answer = explain(fn, 12, budget=200, method=method, key=_KEY)
      np.testing.assert_allclose(dict(answer.fourier.terms())[(2,)], -0.5)

  @pytest.mark.slow_where("1e-30", "1e+30")
  @pytest.mark.parametrize("method", ["auto", "lasso"])
  @pytest.mark.parametrize("scale, offset", [(1, 1e6), (1e30, 0), (1e-30, 0)])
  def test_any_scale_and_offset(self, scale, offset, method):
    fn = lambda m: scale * (functions.pairs(m) + offset)
    answer = explain(fn, 20, budget=190, method=method, key=_KEY)
    assert answer.faithfulness > 1 - 1e-7
    coef = dict(answer.fourier.terms())[(2, 3)]
    np.testing.assert_allclose(coef / scale, 0.75, rtol=1e-6)

  @pytest.mark.slow_where("15")
  @pytest.mark.parametrize("n", [5, 15])
  def test_targets(self, n):
    fn = lambda m: np.stack(
      [functions.pairs(m), 0 * m[:, 0] + 4, m[:, 4]], axis=1
    )
    answer = explain(fn, n, budget=150, method="lasso", key=_KEY)
    assert answer.fourier.num_targets == 3
    assert answer.faithfulness.shape == answer.noise_floor.shape == (3,)
    np.testing.assert_allclose(answer.faithfulness, 1, atol=1e-9)
    assert dict(answer.fourier.target(1).terms()) == {(): 4.0}
    np.testing.assert_allclose(
      dict(answer.fourier.target(2).terms())[(4,)], -0.5
    )
    assert answer.interactions("BII", target=2) is not None
    with pytest.raises(ValueError, match=r"target must lie in 0\.\.2; got 7"):
      answer.interactions(target=7)
    with pytest.raises(ValueError, match="3 targets; choose one"):
      answer.interactions()

  @pytest.mark.slow
  def test_noise_floor(self):
    rng = np.random.default_rng(0)
    fn = lambda m: functions.pairs(m) + rng.normal(size=len(m))
    answer = explain(fn, 20, budget=300, method="lasso", key=_KEY)
    assert 0.1 < answer.noise_floor < 3  # Four pairs of unit deviation.
    assert any("not deterministic" in note for note in answer.notes)
    assert answer.num_repeats == 4
    with pytest.raises(ValueError, match="not deterministic.*strict=False"):
      explain(fn, 20, budget=300, method="lasso", key=_KEY, strict=True)

  @pytest.mark.parametrize(
    "fn, error, message",
    [
      (lambda m: np.full(len(m), np.nan), ValueError, "NaN or infinity"),
      (lambda m: np.where(m[:, 0], np.inf, 0), ValueError, "NaN or infinity"),
      (lambda m: 3.0, ValueError, "one value per mask"),
      (lambda m: np.ones(len(m) + 1), ValueError, "one value per mask"),
      (lambda m: np.ones((len(m), 0)), ValueError, "one value per mask"),
      (lambda m: np.ones((len(m), 1, 1)), ValueError, "one value per mask"),
      (lambda m: ["a"] * len(m), TypeError, "real numbers"),
      (lambda m: m[:, 0] * 1j, TypeError, "real numbers"),
      (lambda m: np.ones((len(m), len(m))), ValueError, "for one batch"),
    ],
  )
  @pytest.mark.parametrize("n", [3, 20])
  def test_bad_values(self, fn, error, message, n):
    with pytest.raises(error, match=message):
      explain(fn, n, budget=90, key=_KEY, batch_size=50)

  @pytest.mark.parametrize(
    "change, message",
    [
      ({"budget": 0}, "budget must be at least 1; got 0"),
      ({"budget": -5}, "budget must be at least 1"),
      ({"budget": 7}, "budget of 7 is too small for n=20: need at least 8"),
      ({"n": -1}, "n must be at least 0; got -1"),
      ({"method": "shap"}, "Unknown method 'shap'; known: auto, spex"),
      ({"max_order": 21}, r"max_order must lie in 1\.\.20; got 21"),
      ({"max_order": 0}, "max_order must lie in"),
      ({"names": ["a"]}, "Need 20 names, one per player; got 1"),
      ({"batch_size": 0}, "batch_size must be at least 1"),
    ],
  )
  def test_bad_requests(self, change, message):
    with pytest.raises(ValueError, match=message):
      explain(**{"value_fn": functions.pairs, "n": 20, "key": _KEY} | change)

  @pytest.mark.parametrize(
    "change, message",
    [
      ({"budget": "x"}, "budget must be a whole number; got 'x'"),
      ({"n": 30.0}, "n must be a whole number; got 30.0"),
      ({"max_order": 2.5}, "max_order must be a whole number"),
      ({"max_order": True}, "max_order must be a whole number; got True"),
      ({"batch_size": 1.5}, "batch_size must be a whole number"),
      ({"key": None}, r"such as jax.random.key\(0\); got None"),
      ({"key": 0}, "key must be one typed key"),
      ({"key": jax.random.PRNGKey(0)}, r"got uint32\[2\]"),
      ({"key": jax.random.split(_KEY)}, "must be one typed key"),
      ({"names": "a" * 20}, "names must be a list of 20 strings"),
      ({"names": 3}, "names must be a list"),
    ],
  )
  def test_arguments_of_another_kind(self, change, message):
    with pytest.raises(TypeError, match=message):
      explain(**{"value_fn": functions.pairs, "n": 20, "key": _KEY} | change)

  def test_masks_may_be_written_to(self):
    def careless(masks):
      values = functions.pairs(masks)
      masks[:] = True
      return values

    for n, budget in ((5, 32), (20, 190)):
      found, expected = (
        explain(fn, n, budget=budget, key=_KEY).fourier.terms()
        for fn in (careless, functions.pairs)
      )
      assert found == expected

  @pytest.mark.parametrize("kind", ["read-only", "device", "bfloat16"])
  def test_arrays_of_other_kinds(self, kind):
    def fn(masks):
      values = (2.0 * masks[:, 0] - masks[:, 1]).astype(np.float32)
      if kind == "read-only":
        values.flags.writeable = False
        return values
      return jnp.asarray(values, "bfloat16" if kind == "bfloat16" else None)

    answer = explain(fn, 5, budget=32, key=_KEY)
    assert dict(answer.fourier.terms())[(0,)] == pytest.approx(-1, abs=1e-12)

  def test_errors_of_the_function_come_through(self):
    calls = []

    def fn(masks):
      calls.append(len(masks))
      if len(calls) == 3:
        raise KeyError("the model went away")
      return functions.pairs(masks)

    with pytest.raises(KeyError, match="the model went away"):
      explain(fn, 20, budget=190, key=_KEY)
    assert len(calls) == 3

  def test_nan_names_the_mask(self):
    fn = lambda m: np.where(m[:, :3].any(axis=1), 1.0, np.nan)
    with pytest.raises(
      ValueError,
      match=r"NaN or infinity for 4 of the 32 .* 0 of 5 players: \[\]",
    ):
      explain(fn, 5, budget=32, key=_KEY, batch_size=32)

  @pytest.mark.slow
  def test_a_function_without_low_orders_is_its_mean(self):
    fn = lambda m: 1.0 - 2.0 * (m.sum(axis=1) % 2)
    answer = explain(fn, 12, budget=200, key=_KEY)
    assert -0.1 < answer.faithfulness <= 0.05

  def test_nearly_all_masks(self):
    answer = explain(
      functions.pairs, 12, budget=2**12 - 1, method="lasso", key=_KEY
    )
    assert answer.faithfulness > 1 - 1e-9
    assert 2**12 - 2 <= answer.num_evaluations < 2**12
