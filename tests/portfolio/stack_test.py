"""One answer from several members, made by hand so that all is known."""

import itertools
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from spex_jax.fourier import sparse
from spex_jax.masks import sampling
from spex_jax.portfolio import folds, members, policy, stack


def _every_mask(n):
  return ((np.arange(1 << n)[:, None] >> np.arange(n)) & 1).astype(bool)


def _function(rng, n, num_terms):
  sets = [s for k in range(4) for s in itertools.combinations(range(n), k)]
  chosen = rng.permutation(len(sets) - 1)[:num_terms] + 1
  terms = {sets[i]: rng.normal() for i in chosen}
  return sparse.SparseFourier.from_terms(n, {(): rng.normal(), **terms})


def _members(masks, values, noises, rng, num_terms=12, errors=False):
  """Members whose out-of-fold predictions err by noise of given sizes."""
  return [
    members.Member(
      f"m{i}",
      _function(rng, masks.shape[1], num_terms),
      values + noise * rng.normal(size=len(values)),
      "By hand.",
      (lambda players, i=i: np.full(len(players), i + 1.0)) if errors else None,
    )
    for i, noise in enumerate(noises)
  ]


def _samples(seed=0, num_masks=120, n=8):
  rng = np.random.default_rng(seed)
  return rng.random((num_masks, n)) < 0.5, rng.normal(size=num_masks), rng


def _error(values, guess):
  return ((values - guess) ** 2).mean()


@given(st.integers(0, 10**6), st.integers(1, 5))
def test_weights_are_those_of_a_mean(seed, count):
  masks, values, rng = _samples(seed)
  found = _members(masks, values, rng.uniform(0.1, 2.0, count), rng)
  answer = stack.stack(masks, values, found)
  weights = np.array(list(answer.weights.values()))
  np.testing.assert_allclose(weights.sum(), 1.0, rtol=1e-12)
  assert (weights >= 0.02 - 1e-12).all()  # Those below do not speak.
  by_name = {m.name: m for m in found}
  expected = sum(w * by_name[k].out_of_fold for k, w in answer.weights.items())
  np.testing.assert_allclose(answer.out_of_fold, expected, rtol=0, atol=1e-12)
  best = min(_error(values, m.out_of_fold) for m in found)
  assert _error(values, answer.out_of_fold) <= best * (1 + 1e-12)


@given(st.integers(0, 10**6))
def test_weights_are_the_best_of_a_grid(seed):
  masks, values, rng = _samples(seed, 40)
  found = _members(masks, values, rng.uniform(0.5, 1.5, 2), rng)
  answer = stack.stack(masks, values, found)
  grid = np.linspace(0, 1, 1001)
  least = min(
    _error(values, w * found[0].out_of_fold + (1 - w) * found[1].out_of_fold)
    for w in grid
  )
  # A weight under 0.02 is waived.
  assert _error(values, answer.out_of_fold) <= least / 0.99 + 1e-12


def test_independent_errors_average_out():
  masks, values, rng = _samples(num_masks=2000)
  found = _members(masks, values, [1.0, 1.0], rng)
  answer = stack.stack(masks, values, found)
  # Errors of equal size and no correlation: half each. The share's standard
  # deviation is about 1 / (2 sqrt(2000)) = 0.011.
  np.testing.assert_allclose(
    list(answer.weights.values()), [0.5, 0.5], atol=0.06
  )
  assert "0.5" in answer.note and "less unexplained" in answer.note


def test_a_member_that_no_other_helps_answers_alone():
  masks, values, rng = _samples(num_masks=400)
  first, other = rng.normal(size=(2, 400))
  other -= first * (first @ other) / (first @ first)  # Uncorrelated.
  function = sparse.SparseFourier.from_terms(8, {(): 0.0, (1,): 1.0})
  # The second errs as the first, and by more: no share of it helps.
  found = [
    members.Member(f"m{i}", function, values + error, "")
    for i, error in enumerate((0.5 * first, 0.5 * first + 0.1 * other))
  ]
  answer = stack.stack(masks, values, found)
  assert answer.weights == {"m0": 1.0}
  assert "Answered by m0: it predicts" in answer.note
  np.testing.assert_allclose(
    answer.out_of_fold, found[0].out_of_fold, atol=1e-12
  )


def test_errors_are_grown_before_members_are_weighed():
  masks, values, rng = _samples(num_masks=2000)
  found = _members(masks, values, [1.0, 1.0], rng)
  grown = found[1]._replace(growth=folds.Growth(0.25, 0.2))
  answer = stack.stack(masks, values, [found[0], grown])
  # Independent errors of variances 1 and 1/4: weights of 1 to 4.
  np.testing.assert_allclose(answer.weights["m1"], 0.8, atol=0.04)
  np.testing.assert_allclose(
    answer.growth_std, 0.2 * answer.weights["m1"], rtol=1e-9
  )
  np.testing.assert_allclose(_error(values, answer.out_of_fold), 0.2, rtol=0.1)
  assert stack.best(values, [found[0], grown]) is grown


def test_the_best_is_the_one_of_least_error():
  masks, values, rng = _samples()
  found = _members(masks, values, [1.0, 0.2, 3.0], rng)
  assert stack.best(values, found) is found[1]
  scaled = [m._replace(out_of_fold=m.out_of_fold * 1e200) for m in found]
  assert stack.best(values * 1e200, scaled) is scaled[1]
  assert stack.best(np.zeros(120), found[:1]) is found[0]


@pytest.mark.parametrize("n", [1, 3, 8])
def test_the_expansion_is_the_mean_of_the_members(n):
  rng = np.random.default_rng(n)
  masks = _every_mask(n)
  values = rng.normal(size=len(masks))
  found = _members(masks, values, [1.0, 1.1, 1.2], rng, num_terms=40)
  weights = np.array([0.5, 0.3, 0.2])
  merged = sparse.weighted_sum([m.function for m in found], weights)
  expected = sum(w * m.function(masks) for w, m in zip(weights, found))
  np.testing.assert_allclose(merged(masks), expected, rtol=0, atol=1e-12)
  sets = [s for s, _ in merged.terms()]
  assert len(set(sets)) == len(sets) and sets[0] == ()


@pytest.mark.slow
@given(st.integers(0, 10**6), st.floats(0.05, 3.0))
def test_thinning_drops_no_more_than_it_says(seed, noise):
  rng = np.random.default_rng(seed)
  masks = _every_mask(6)
  values = rng.normal(size=64)
  found = _members(masks, values, [noise, noise, 1.5 * noise], rng, 30)
  answer = stack.stack(masks, values, found)
  by_name = {m.name: m for m in found}
  full = sparse.weighted_sum(
    [by_name[k].function for k in answer.weights], list(answer.weights.values())
  )
  every, kept = dict(full.terms()), dict(answer.function.terms())
  assert kept.items() <= every.items()
  dropped = {s: c for s, c in every.items() if s not in kept}
  assert () in kept
  lost = sum(c**2 for c in dropped.values())
  error = _error(values, answer.out_of_fold)
  energy = sum(c**2 for s, c in every.items() if s)
  limit = 0.002 * min(error, energy)
  assert lost <= limit * (1 + 1e-9)
  # The smallest, and as many of them as may be.
  sizes = sorted(abs(c) for s, c in kept.items() if s)
  assert max(map(abs, dropped.values()), default=0.0) <= sizes[0]
  assert lost + sizes[0] ** 2 > limit * (1 - 1e-9)
  # Over all masks, by Parseval, the two functions differ by what was dropped.
  moved = ((full(masks) - answer.function(masks)) ** 2).mean()
  np.testing.assert_allclose(moved, lost, atol=1e-12)


def test_an_answer_holds_at_most_so_many_sets(monkeypatch):
  monkeypatch.setattr(policy, "POLICY", policy.Policy(most_terms=5))
  masks, values, rng = _samples()
  found = _members(masks, values, [0.1], rng, num_terms=20)
  answer = stack.stack(masks, values, found)
  assert dict(answer.function.terms()).keys() == (
    dict(found[0].function.truncate(5).terms()).keys()
  )


def test_scores_of_fewer_sets_lose_the_energy_of_the_others():
  masks, values, rng = _samples(3, 200)
  function = _function(rng, 8, 60)
  values = function(masks) + 0.3 * values
  out_of_fold = values + 0.5 * rng.normal(size=200)
  found_scores = stack.sparse_scores(values, function, out_of_fold)
  scores = {name: value for name, (value, _) in found_scores.items()}
  coefs = sorted((c**2 for s, c in function.terms() if s), reverse=True)
  variance = values.var()
  whole = 1 - ((values - out_of_fold) ** 2).mean() / variance
  expected = {"all": whole}
  for k in (10, 30, 100):
    expected[str(k)] = whole - sum(coefs[k:]) / variance
  assert list(scores) == ["10", "30", "100", "all"]
  for name, value in expected.items():
    np.testing.assert_allclose(scores[name], value, rtol=1e-9)
  assert scores["10"] < scores["30"] < scores["all"] == scores["100"]
  # As of guesses whose errors are larger by what is left out, beside them.
  unit, apart = values.var(), (values - values.mean()) ** 2
  for name, (value, std) in found_scores.items():
    moves = (1 - value) * apart - (values - out_of_fold) ** 2
    # Half as much again: folds have samples in common.
    np.testing.assert_allclose(std, 1.5 * moves.std() / unit / np.sqrt(199))
    assert (std == found_scores["all"][1]) == (name in ("all", "100"))


def test_scores_of_all_masks_are_those_of_the_cut_answer():
  """On all 2^n masks nothing is estimated: Parseval is exact."""
  rng = np.random.default_rng(4)
  masks = sampling.enumerate_masks(8)
  function = _function(rng, 8, 40)
  values = function(masks)
  scores = stack.sparse_scores(values, function, values)
  for k in (10, 30):
    left = values - function.truncate(k)(masks)
    expected = 1 - (left**2).mean() / values.var()
    np.testing.assert_allclose(scores[str(k)][0], expected, rtol=1e-9)
  assert scores["all"] == (1, 0)


def test_no_sets_have_scores_too():
  masks, values, _ = _samples()
  found = [members.mean(masks, values)]
  answer = stack.stack(masks, values, found)
  assert answer.weights == {"mean": 1.0} and answer.std is not None
  # Of a mean: a deviation over the root of the masks, and those errors.
  np.testing.assert_allclose(
    answer.std, [values.std() * (120 / 119) / np.sqrt(120)]
  )
  # Each value by the mean of the others: errors larger by 120 / 119.
  expected = 1 - (120 / 119) ** 2
  scores = stack.sparse_scores(values, answer.function, answer.out_of_fold)
  found = [value for value, _ in scores.values()]
  np.testing.assert_allclose(found, [expected] * 4)


def test_errors_are_those_of_the_heaviest_that_knows_its_own():
  masks, values, rng = _samples(num_masks=2000)
  found = _members(masks, values, [1.0, 0.7, 0.8], rng, errors=True)
  answer = stack.stack(masks, values, found)
  assert len(answer.weights) == 3
  sizes = np.abs(np.asarray(answer.function.coefs))
  sizes *= math.sqrt(math.pi / 2)
  # Of a coefficient below the error the geometric mean of both.
  graded = lambda own: [own, *np.sqrt(own * np.minimum(own, sizes[1:]))]
  np.testing.assert_allclose(answer.std, graded(2.0), rtol=1e-12)
  mute = [found[0], found[1]._replace(errors=None), found[2]]
  answer = stack.stack(masks, values, mute)
  np.testing.assert_allclose(answer.std, graded(3.0), rtol=1e-12)
  mute = [m._replace(errors=None) for m in found]
  assert stack.stack(masks, values, mute).std is None


def test_errors_are_no_smaller_than_those_of_a_regression():
  masks, values, rng = _samples(num_masks=500)
  (sure,) = _members(masks, values, [0.7], rng)
  sure = sure._replace(errors=lambda players: np.full(len(players), 1e-6))
  answer = stack.stack(masks, values, [sure])
  flat = np.sqrt(_error(values, answer.out_of_fold) / 500)
  coefs = np.asarray(answer.function.coefs)
  large = np.abs(coefs) > flat
  assert large.sum() > 5
  np.testing.assert_allclose(answer.std[large], flat, rtol=1e-9)
  exact = sure._replace(errors=lambda players: np.zeros(len(players)))
  assert not stack.stack(masks, values, [exact]).std.any()


@pytest.mark.parametrize("unit", [1e-200, 1.0, 1e200])
def test_standard_errors_are_those_of_their_formula(unit):
  rng = np.random.default_rng(3)
  coefs, own = rng.normal(size=40) ** 3, rng.uniform(0.1, 0.9, 40)
  coefs[5], own[6:9] = 0.0, 0.0
  found = stack.standard_errors(coefs * unit, own * unit, 0.5 * unit)
  for k in range(40):
    error = max(own[k], 0.5) if own[k] else 0.0
    size = math.sqrt(math.pi / 2) * abs(coefs[k])
    if k and size < error:
      error = math.sqrt(error * size)
    np.testing.assert_allclose(found[k], error * unit, rtol=1e-12)


@pytest.mark.parametrize("deviation", [0.03, 0.1, 0.3, 1.0, 3.0, 30.0])
def test_standard_errors_are_of_the_size_of_errors_of_what_is_shrunk(deviation):
  """As of a process that believes the deviation of the true coefficients."""
  rng = np.random.default_rng(0)
  true = deviation * rng.normal(size=20_000)
  weight = deviation**2 / (deviation**2 + 1.0)
  shrunk = weight * (true + rng.normal(size=true.shape))
  std = stack.standard_errors(shrunk, np.full(true.shape, 0.1), 1.0)
  errors = shrunk - true
  # Right where all are small or all are large; between, up to a tenth large.
  ratio = np.sqrt((std[1:] ** 2).mean() / (errors[1:] ** 2).mean())
  assert 0.96 < ratio < 1.12


@pytest.mark.parametrize("scale", [1e200, 1e-200])
@pytest.mark.parametrize("offset", [0.0, 1e6])
def test_units_and_offset_change_nothing(scale, offset):
  masks, values, rng = _samples()
  found = _members(masks, values, [1.0, 0.8, 1.3], rng)
  plain = stack.stack(masks, values, found)

  def moved(member):
    shift = sparse.SparseFourier.from_terms(8, {(): offset})
    function = member.function + shift
    return member._replace(
      function=function.replace(coefs=function.coefs * scale),
      out_of_fold=(member.out_of_fold + offset) * scale,
    )

  other = stack.stack(masks, (values + offset) * scale, list(map(moved, found)))
  # An offset of 1e6 costs six digits of sixteen.
  tight = {"rtol": 1e-7, "atol": 1e-7}
  assert list(other.weights) == list(plain.weights)
  np.testing.assert_allclose(
    list(other.weights.values()), list(plain.weights.values()), **tight
  )
  first, second = dict(plain.function.terms()), dict(other.function.terms())
  assert first.keys() == second.keys()
  for players, coef in first.items():
    expected = coef + (offset if players == () else 0.0)
    np.testing.assert_allclose(second[players] / scale, expected, **tight)
  scores = stack.sparse_scores(
    (values + offset) * scale, other.function, other.out_of_fold
  )
  expected = stack.sparse_scores(values, plain.function, plain.out_of_fold)
  np.testing.assert_allclose(
    list(scores.values()), list(expected.values()), **tight
  )


def test_constant_values():
  masks, _, _ = _samples()
  values = np.full(120, 5.0)
  found = [members.mean(masks, values)] * 2
  answer = stack.stack(masks, values, found)
  assert answer.weights == {"mean": 1.0}
  assert answer.function.terms() == [((), 5.0)]
  np.testing.assert_array_equal(answer.out_of_fold, values)
  scores = stack.sparse_scores(values, answer.function, answer.out_of_fold)
  assert set(scores.values()) == {(1.0, 0.0)}


def test_equal_members_and_a_single_mask():
  masks, values, rng = _samples()
  twins = _members(masks, values, [0.5], rng) * 3
  answer = stack.stack(masks, values, twins)
  assert answer.weights == {"m0": 1.0}
  answer = stack.stack(
    masks[:1], values[:1], [members.mean(masks[:1], values[:1])]
  )
  assert answer.function.terms() == [((), values[0])]
  np.testing.assert_array_equal(answer.out_of_fold, values[:1])


def test_note_tells_every_member():
  masks, values, rng = _samples()
  found = _members(masks, values, [0.1, 2.0], rng)
  answer = stack.stack(masks, values, found)
  unexplained = _error(values, found[1].out_of_fold) / values.var()
  assert f"m1 {1 - unexplained:.3f} ± 0." in answer.note
  assert "R^2 on values not seen: m0 0.99" in answer.note
