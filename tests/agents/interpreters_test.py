"""Interpreters: what they find, within how many queries, and no truth."""

import dataclasses

import numpy as np
import pytest

from spex_jax.agents import running
from spex_jax.agents.find import (
  families,
  functions,
  generating,
  naming,
  numeric,
  planted_sets,
  referees,
)
from spex_jax.agents.interpreters import (
  halves,
  naive,
  piecewise,
  spectral,
  splitting,
)


def _function(spec, corruption=None, noise=None):
  """A numeric function of a given spec."""

  def clean(xs):
    return families.evaluate(spec, np.asarray(xs, float))

  def values(xs):
    xs = np.asarray(xs, float)
    ys = clean(xs)
    if noise:
      ys = ys + functions.noise(noise, "test", xs)
    if corruption:
      odd = (corruption["low"] < xs) & (xs < corruption["high"])
      drawn = corruption["mean"] + 0.1 * functions.noise("normal", "t", xs)
      ys = np.where(odd, drawn, ys)
    return ys

  truth = dict(spec, variant="clean", code=families.code(spec, corruption))
  if corruption:
    truth["corruption"] = corruption
  about = {"category": "numeric", "is_network": False}
  return functions.Function("n", "numeric", about, truth, values, clean)


@pytest.mark.parametrize("name", families.FAMILIES)
def test_every_family_is_named_and_measured(box, name):
  rng = functions.rng(5, name)
  own = _function(families.draw(rng, name))
  query = functions.Query(own, 500)
  found = referees.judge(own, piecewise.run(query, 500), box)
  assert found["family"] == 1 and found["paper"] == 1
  assert found["ours"] == 1, found


@pytest.mark.parametrize("op", ["sum", "product"])
@pytest.mark.parametrize(
  "names",
  [("linear", "step"), ("polynomial", "relu"), ("polynomial", "polynomial"),
   ("linear", "ceiling"), ("step", "rectangle"), ("linear", "square"),
   ("relu", "step"), ("rectangle", "ceiling"), ("floor", "floor")],
)  # fmt: skip
def test_compositions_are_taken_apart(box, op, names):
  rng = functions.rng(1, op, *names)
  spec = {"op": op, "parts": [families.draw(rng, name) for name in names]}
  own = _function(spec)
  query = functions.Query(own, 500)
  found = referees.judge(own, piecewise.run(query, 500), box)
  assert (found["family"], found["paper"]) == (1, 1)


def test_a_wave_is_found_within_a_rectangle(box):
  own = _function({"op": "product", "parts": [
    {"family": "square", "parameters": {"period": 1.5, "shift": 3.22}},
    {"family": "rectangle", "parameters": {"width": 6.5}},
  ]})  # fmt: skip
  query = functions.Query(own, 500)
  found = referees.judge(own, piecewise.run(query, 500), box)
  assert (found["family"], found["paper"], found["ours"]) == (1, 1, 1)


@pytest.mark.parametrize(
  ("low", "high"), [(-20.0, -8.3), (31.4, 40.0), (-1000.0, -60.0)]
)
def test_the_odd_interval_is_found(box, low, high):
  spec = {"family": "polynomial", "parameters": {"coefficients": [1.5, 0, 2]}}
  odd = {"low": low, "high": high, "mean": 8000.0}
  own = _function(spec, corruption=odd)
  answer = piecewise.run(functions.Query(own, 500), 500)
  # Ends are bisected to 4.9 / 2^9 on either side.
  assert naming.overlap(odd, answer.domain) > 0.99
  assert referees.judge(own, answer, box)["ours"] == 1


@pytest.mark.parametrize("kind", functions.NOISES)
def test_noise_is_seen_through(box, kind):
  spec = {"family": "linear", "parameters": {"slope": 3.0, "offset": 2.0}}
  own = _function(spec, noise=kind)
  query = functions.Query(own, 500)
  found = referees.judge(own, piecewise.run(query, 500), box)
  assert found["paper"] == 1 and found["family"] == 1


def test_a_polynomial_has_the_lowest_degree_that_fits():
  x = np.random.default_rng(0).uniform(-128, 128, 60)
  coefs = np.array([2.0, -0.5, 0, 7.25])
  np.testing.assert_array_equal(
    halves.polynomial(x, np.polyval(coefs, x)), coefs
  )
  assert halves.polynomial(x, np.abs(x)) is None
  assert halves.polynomial(x[:2], x[:2]) is None


@pytest.mark.parametrize("budget", [1, 5, 40, 200])
def test_no_interpreter_overspends_or_fails(box, budget):
  """Whatever the budget, also too small for anything."""
  for category in generating.CATEGORIES:
    own = generating.generate(2, category, 1)[0]
    for runs in running.INTERPRETERS.values():
      if category not in runs:
        continue
      query = functions.Query(own, budget)
      answer = runs[category](query, budget)
      assert query.spent <= budget
      assert 0 <= referees.judge(own, answer, box)["paper"] <= 1


def test_no_interpreter_sees_the_truth():
  """A function without truth and tests has the same interpretation."""
  for category in ("numeric", "strings", "entities", "relations"):
    own = generating.generate(4, category, 1)[0]
    bare = dataclasses.replace(own, truth={}, tests=(), clean=lambda xs: 1 / 0)
    for runs in running.INTERPRETERS.values():
      if (run := runs.get(category)) is None:
        continue
      one, other = (run(functions.Query(f, 90), 90) for f in (own, bare))
      assert one == other


@pytest.mark.parametrize(
  ("category", "run"),
  [("strings", splitting.texts), ("entities", splitting.concepts),
   ("relations", splitting.relations)],
)  # fmt: skip
def test_words_are_told_within_60_queries(box, category, run):
  for own in generating.generate(6, category, 6):
    query = functions.Query(own, 60)
    found = referees.judge(own, run(query, 60), box)
    assert found["paper"] == 1 and found["ours"] == 1, own.truth


def test_what_is_none_of_the_hypotheses_is_said():
  about = {"category": "strings"}
  values = lambda xs: [f"<{x}>" for x in xs]
  own = functions.Function("a", "strings", about, {}, values, values)
  answer = splitting.texts(functions.Query(own, 60), 60)
  assert "none" in answer.description and not answer.family


def test_interpolation_is_the_loophole(box):
  own = _function({"family": "tanh", "parameters": {
    "amplitude": 3.0, "width": 2.0, "shift": 1.0}})  # fmt: skip
  answer = naive.interpolation(functions.Query(own, 500), 500)
  found = referees.judge(own, answer, box)
  assert (found["paper"], found["ours"]) == (1, 0)


def test_the_truth_is_the_ceiling(box):
  for category in generating.CATEGORIES:
    for own in generating.generate(8, category, 3):
      found = referees.judge(own, referees.truth(own), box)
      assert found["ours"] in (1, None), own.truth
      noisy = own.truth.get("variant") in ("noised", "corrupted")
      assert noisy or found["paper"] == 1


def test_errors_by_definition():
  values = np.array([1.0, 2.0, np.nan])
  assert referees.error_of([1.0, 1.0, 5.0], values) == pytest.approx(1 / 5)
  assert referees.error_of([None, 2.0, 0.0], values) == pytest.approx(1 / 5)
  assert referees.error_of([0.0], np.zeros(1)) == 0
  assert referees.error_of([1e-9], np.zeros(1)) == 1
  assert referees.error_of([float("inf")], np.ones(1)) == 1
  # A sine of period .2 is 0 wherever it is scored, but for rounding.
  wave = families.sine(numeric.GRID, 8.5, 0.2, 4.5)
  other = families.sine(numeric.GRID, 8.5, 0.2, 4.7)
  assert referees.error_of(other.tolist(), wave) == 0


def test_a_table_of_pairs_is_no_understanding(box):
  own = generating.generate(0, "strings", 1)[0]
  pairs = dict(zip(own.tests, own.values(own.tests)))
  code = f"KNOWN = {pairs!r}\ndef f(s):\n  return KNOWN.get(s, s)"
  answer = dataclasses.replace(referees.truth(own), code=code)
  found = referees.judge(own, answer, box)
  assert (found["paper"], found["ours"]) == (1, 0)


@pytest.mark.slow
# Of the last two a set was found that is not there.
@pytest.mark.parametrize("seed, index", [(0, 0), (0, 1), (7, 1), (101, 16)])
def test_spex_finds_every_planted_set(box, seed, index):
  own = planted_sets.make(seed, index)
  answer = spectral.planted(functions.Query(own, 5000), 5000)
  found = referees.judge(own, answer, box)
  assert (found["recall"], found["ours"], found["paper"]) == (1, 1, 1)


def test_sets_are_pursued_in_either_basis():
  """All of a table of 64 values, to rounding, and nothing more."""
  masks = (np.arange(64)[:, None] >> np.arange(6) & 1).astype(bool)
  terms = {(0,): 2.0, (1, 4): -1.5, (2, 3, 5): 1.0, (): 0.25}
  for kind in ("parity", "all"):
    each = [
      planted_sets.evaluate(kind, [s], [c], masks) for s, c in terms.items()
    ]
    values = np.sum(each, axis=0)
    tried = spectral._subsets(range(6), 3)
    found, rest = spectral._pursued(kind, tried, masks, values)
    assert found.keys() == terms.keys()
    # Least squares of 4 columns, float64, of a condition below 100.
    assert found == pytest.approx(terms, abs=1e-12)
    assert np.abs(rest).max() < 1e-12


def test_bits_are_all_there_is_of_a_table(box):
  own = _function({"family": "step", "parameters": {
    "scale": 2.0, "bias": 3.0, "middle": 0.0}})  # fmt: skip
  query = functions.Query(own, 200)
  answer = spectral.bits(query, 200)
  # A step at 0 is the highest of 8 bits.
  assert answer.description.startswith("2 parities") and query.spent == 200
  assert referees.judge(own, answer, box)["paper"] == 1


def test_wilson_holds_the_score():
  for score, count in ((0.0, 5), (1.0, 50), (0.3, 10)):
    low, high = referees.wilson(score, count)
    assert 0 <= low <= score <= high <= 1
  # R, prop.test(3, 10, correct = FALSE).
  assert referees.wilson(0.3, 10) == pytest.approx((0.1078, 0.6032), abs=1e-4)


def test_networks_need_no_name(monkeypatch, box):
  monkeypatch.setattr(numeric, "_EPOCHS", 200)
  own = next(
    f
    for f in generating.generate(0, "numeric", 40)
    if f.truth["variant"] == "network"
  )
  answer = piecewise.run(functions.Query(own, 500), 500)
  found = referees.judge(own, answer, box)
  assert found["ours"] is None and found["paper"] == 1
