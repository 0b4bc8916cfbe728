"""Tests of the choice among decoders: the better one on unseen masks wins."""

import jax
import numpy as np
import pytest

from spex_jax import api
from spex_jax.datasets import synthetic
from spex_jax.fourier import exact, score, sparse, spex
from spex_jax.masks import sampling
from spex_jax.portfolio import samples as samples_lib
from spex_jax.portfolio import select, stack


def _samples(n, num_masks, fn):
  masks = sampling.distinct(jax.random.key(1), num_masks, n)
  return samples_lib.Samples(masks, fn(masks)[:, None])


def _function(n, terms):
  return sparse.SparseFourier.from_terms(n, terms)


def test_r2_by_definition_at_any_scale():
  samples = _samples(6, 30, lambda m: m.sum(axis=1).astype(float))
  guess = _function(6, {(): 3.0, (0,): -0.5})
  truth = samples.values[:, 0]
  error = ((truth - guess(samples.masks)) ** 2).sum()
  expected = 1 - error / ((truth - truth.mean()) ** 2).sum()
  for scale in (1.0, 1e200, 1e-200):
    scaled = samples_lib.Samples(samples.masks, samples.values * scale)
    found = guess.replace(coefs=guess.coefs * scale)
    answer = select.Answer([found], "given", [])
    value, std = select.mean_score(scaled, answer)
    np.testing.assert_allclose(value, expected)
    np.testing.assert_allclose(
      std, score.r2_std(truth, guess(samples.masks)), rtol=1e-9
    )


@pytest.mark.parametrize("value, expected", [(2.0, 1), (2.1, 0)])
def test_r2_of_a_constant(value, expected):
  samples = _samples(6, 30, lambda m: np.full(len(m), 2.0))
  answer = select.Answer([_function(6, {(): value})], "given", [])
  assert select.mean_score(samples, answer) == (expected, 0)


@pytest.mark.parametrize(
  "terms, order",
  [
    ({(0,): 1.0, (3,): -2.0}, 1),
    ({(0,): 0.3, (3, 4): -2.0}, 2),
  ],
)
def test_the_order_is_chosen(terms, order):
  noise = np.random.default_rng(0).normal(size=200)
  samples = _samples(15, 200, lambda m: _function(15, terms)(m) + noise)
  answer = select.by_proxies(samples, "lasso")
  assert "Answered by lasso" in answer.notes[0]
  energy = dict(enumerate(answer.functions[0].energy_by_order()))
  # Of 200 values of noise 1 each coefficient errs by .07, its square by .005;
  # .09 of the second is of order 1.
  assert energy.get(order, 0.0) > 3
  assert energy.get(3 - order, 0.0) < 0.3


def test_noise_is_answered_by_its_mean():
  noise = np.random.default_rng(0).normal(size=300)
  samples = _samples(15, 300, lambda m: 7 + noise)
  answer = select.by_proxies(samples, "lasso")
  (players, mean), *rest = answer.functions[0].terms()
  assert players == () and abs(mean - 7) < 0.3
  assert not rest


def test_few_masks():
  fn = _function(5, {(0,): 1.0, (): 2.0})
  answer = select.by_proxies(_samples(5, 3, fn))
  assert "under 4" in answer.notes[0] and answer.method == "mean"
  answer = select.by_proxies(_samples(5, 7, fn))
  assert "too few to compare" in answer.notes[0]
  assert dict(answer.functions[0].terms())[(0,)] == pytest.approx(1)


_HIGH = {(0, 1, 2, 3): 1.0, (4, 5, 6): -1.0, (7,): 0.5, (2, 9, 10, 11): 0.8}
_LOW = {(0, 1): 1.0, (2,): 1.0}
_MANY = {(i,): 0.3 for i in range(12)} | {(i, i + 1): 0.2 for i in range(11)}


def _planned(terms, b, t):
  """A plan, and a function of 12 players with noise of .3 at each mask."""
  noise = 0.3 * np.random.default_rng(0).normal(size=1 << 12)
  code = 1 << np.arange(12)
  plan = spex.make_plan(jax.random.key(0), 12, b=b, t=t)
  return plan, lambda m: (_function(12, terms)(m) + noise[m @ code])[:, None]


@pytest.mark.parametrize(
  "terms, b, method",
  [
    pytest.param(_HIGH, 4, "spex", marks=pytest.mark.slow),
    (_LOW, 3, "spex"),
    (_MANY, 2, "lasso"),
  ],
)
def test_half_a_plan_tells_who_speaks(terms, b, method):
  """A lasso of pairs sees nothing of sets of 4, SPEX little of many sets."""
  plan, f = _planned(terms, b, 4)
  values = f(plan.masks())
  answer = select.by_plan(plan, values)
  assert answer.method == method
  # What the note says is recomputed: nobody saw the masks that judged.
  half, index = plan.shrink(b - 1)
  seen = {row.tobytes() for row in half.masks()}
  whole = select.planned(plan, values)
  test = whole.at([row.tobytes() not in seen for row in whole.masks])
  reached = select.mean_score(test, select.by_spex(half, values[index]))
  assert f"masks) is {reached} for SPEX" in answer.notes[0]
  if terms is not _MANY:
    # And what a function that is known leaves of noise of .3 is .09.
    share = 1 - 0.09 / values.var()
    assert reached.value == pytest.approx(share, abs=4 * reached.std)
  sets = {s for s, _ in answer.functions[0].terms()}
  assert sets >= set(terms)


@pytest.mark.slow
@pytest.mark.parametrize("t, speaks", [(4, True), (3, False)])
def test_masks_outside_a_plan_tell_who_speaks(t, speaks):
  """A code of 3 errors cannot read sets of 4; a Gram scan can."""
  plan, f = _planned(_HIGH, 7 - t, t)
  masks = sampling.distinct(jax.random.key(4), 60, 12, exclude=plan.masks())
  outside = samples_lib.Samples(masks, f(masks))
  values = f(plan.masks())
  answer = select.compare(plan, values, outside)
  assert (answer.method == "spex") == speaks
  reached = select.mean_score(outside, select.by_spex(plan, values))
  assert f"had seen is {reached} for SPEX" in answer.notes[0]
  found = dict(answer.functions[0].terms())
  for players, coef in _HIGH.items():  # Errors of .3 / 21, refitted to all.
    assert found[players] == pytest.approx(coef, abs=0.06)


def test_masks_of_a_plan_stand_once():
  plan = spex.make_plan(jax.random.key(0), 9, b=4, t=3)
  masks = plan.masks()
  table = np.random.default_rng(0).normal(size=(1 << 9, 2))
  values = table[masks @ (1 << np.arange(9))]
  own = select.planned(plan, values)
  assert len(np.unique(masks, axis=0)) == len(own.masks) < len(masks)
  assert len(np.unique(own.masks, axis=0)) == len(own.masks)
  expected = table[own.masks @ (1 << np.arange(9))]
  np.testing.assert_array_equal(own.values, expected)


def test_errors_of_a_refit_count_each_mask_once():
  """Of few players a plan repeats; 1.645 errors hold nine in ten."""
  within = []
  for seed in range(12):
    plan = spex.make_plan(jax.random.key(seed), 9, b=4, t=3)
    rng = np.random.default_rng(seed)
    noise = 0.5 * rng.normal(size=1 << 9)
    f = _function(9, {(0,): 1.0, (1, 2): 0.8, (3,): -0.6})
    value = lambda m, f=f, e=noise: f(m) + e[m @ (1 << np.arange(9))]
    own = select.planned(plan, value(plan.masks())[:, None])
    answer = select.Answer([f], "spex", [], std=[np.ones(4)])
    found = select.refitted(answer, own)
    truth = dict(f.terms())
    for (players, coef), std in zip(found.functions[0].terms(), found.std[0]):
      within.append(abs(coef - truth.get(players, 0.0)) < 1.645 * std)
  # 36 draws: nine in ten, within three of their errors, .05 each.
  assert len(within) == 36 and np.mean(within) > 0.75


def test_targets_that_say_nothing_hide_nothing():
  rng = np.random.default_rng(0)
  samples = _samples(20, 200, lambda m: rng.normal(size=len(m)))
  assert select.suspects_planted(samples)
  flat = np.repeat([[3.0, 1e9]], 200, axis=0)
  beside = np.concatenate([samples.values, flat], axis=1)
  both = samples_lib.Samples(samples.masks, beside)
  assert select.suspects_planted(both)
  assert not select.suspects_planted(samples_lib.Samples(samples.masks, flat))
  constants = [_function(20, {(): 3.0}), _function(20, {(): 1e9})]
  guess = [_function(20, {(): 0.1}), *constants]
  alone = select.mean_score(samples, select.Answer(guess[:1], "any", []))
  found = select.mean_score(both, select.Answer(guess, "any", []))
  np.testing.assert_allclose(found, alone, rtol=1e-9)
  # One that is not met counts.
  wrong = select.Answer([*guess[:2], _function(20, {(): 0.0})], "any", [])
  assert select.mean_score(both, wrong).value < alone.value / 2 + 0.1


def test_errors_of_what_is_exact_are_none():
  masks = sampling.distinct(jax.random.key(0), 60, 8)
  line, flat = _function(8, {(0,): -1e-6}), _function(8, {(): 5e-6})
  values = np.stack([line(masks), flat(masks)], axis=1)
  given = [np.ones(f.coefs.shape) for f in (line, flat)]
  answer = select.Answer([line, flat], "spex", [], std=given)
  found = select.refitted(answer, samples_lib.Samples(masks, values))
  assert not any(std.any() for std in found.std)


@pytest.mark.parametrize("scale", [1e-200, 1e200])
def test_errors_of_spex_in_any_unit(scale):
  plan, f = _planned(_LOW, 3, 3)
  values = f(plan.masks())
  (usual,) = select.by_spex(plan, values).std
  (std,) = select.by_spex(plan, scale * values).std
  np.testing.assert_allclose(std, scale * usual, rtol=1e-6)
  assert usual.all()


@pytest.mark.slow
def test_noise_of_few_players_has_no_sets():
  table = np.random.default_rng(0).normal(size=1 << 10)
  found = api.explain(
    lambda masks: table[masks @ (1 << np.arange(10))],
    10,
    budget=900,
    key=jax.random.key(0),
  )
  # Its plan has half of its masks twice; an answer would know them by heart.
  assert any("SPEX's plan was asked" in note for note in found.notes)
  assert found.fourier.count <= 2 and abs(found.faithfulness) < 0.1


def test_exact_spex_is_not_compared():
  plan = spex.make_plan(jax.random.key(0), 12, b=3, t=3)
  truth = _function(12, {(0, 1): 1.0, (2,): 1.0})
  answer = select.by_plan(plan, truth(plan.masks())[:, None])
  assert answer.method == "spex" and "last digits" in answer.notes[-1]


@pytest.mark.parametrize(
  "by_spex, baseline, speaks",
  [
    (0.9, 0.905, True),  # A tenth more unexplained, and far sparser.
    (0.9, 0.92, False),
    (-0.05, -0.01, False),  # Within a tenth, but worse than the mean.
    (-0.01, -0.01, True),
    (-0.01, -0.5, True),
  ],
)
def test_spex_speaks_unless_it_is_worse_than_the_mean(
  by_spex, baseline, speaks
):
  scores = select.Score(by_spex, 0.1), select.Score(baseline, 0.1)
  assert select.prefers_spex(scores) == speaks


@pytest.mark.slow
def test_an_order_limits_every_member():
  terms = {(0,): 1.0, (1,): -1.0, (2, 3, 4): 2.0, (5, 6): 0.5}
  noise = np.random.default_rng(0).normal(size=136)
  samples = _samples(12, 136, lambda m: _function(12, terms)(m) + 0.3 * noise)
  answer = select.by_proxies(samples, max_order=1)
  assert answer.functions[0].orders.max() == 1
  # Of the energy, 2 in 6.25 is of order 1; .09 is noise.
  guess = answer.out_of_fold[:, 0]
  left = ((guess - samples.values[:, 0]) ** 2).mean()
  assert left > 0.5 * samples.values.var()


def test_a_gain_is_told_with_its_error():
  rng = np.random.default_rng(0)
  values = rng.normal(size=4000) * 1e200
  better = values * 0.5
  gain, error = stack.gain(values, better, np.zeros(4000))
  # Errors are halved: R^2 rises by 3/4; squares have a deviation of
  # sqrt(2), and so the mean of 3/4 of them has one of .75 sqrt(2 / 4000).
  unit = values / 1e200
  np.testing.assert_allclose(gain, 0.75 * (unit**2).mean() / unit.var())
  np.testing.assert_allclose(error, 0.75 * np.sqrt(2 / 4000), rtol=0.1)
  assert stack.gain(values, better, better) == (0, 0)


@pytest.mark.slow_where("60")
@pytest.mark.parametrize(
  ("n", "order", "budget"), [(12, 4, 900), (60, 4, 4000)]
)
def test_standard_errors_of_a_plan(n, order, budget):
  # 12 players: a third of the plan's masks are there twice.
  far = []
  for seed in range(6):
    f = synthetic.planted(seed, n, 15, order, min_order=1)
    plan = spex.make_plan(jax.random.key(seed), n, budget)
    masks = plan.masks()
    rng, spread = np.random.default_rng(seed), np.sqrt(f.variance / 10)
    noise = {row.tobytes(): rng.normal() * spread for row in masks}
    values = f(masks) + np.array([noise[row.tobytes()] for row in masks])
    answer = select.by_spex(plan, values[:, None])
    (found,), (std,) = answer.functions, answer.std
    assert std.shape == found.coefs.shape
    coefs = dict(found.terms())
    size = float(std[0])
    far += [abs(coefs[s] - c) / size for s, c in f.terms() if s in coefs]
  # Binomial: .90 of 80 and more, within three of its deviations.
  assert len(far) >= 80
  assert abs(np.mean(np.array(far) < 1.645) - 0.9) < 3 * np.sqrt(0.09 / 80)


def test_an_exact_plan_has_no_errors():
  f = synthetic.planted(0, 12, 10, 3)
  plan = spex.make_plan(jax.random.key(0), 12, 900)
  answer = select.by_spex(plan, f(plan.masks())[:, None])
  assert answer.std[0].shape == answer.functions[0].coefs.shape
  assert (answer.std[0] == 0).all()


def test_errors_of_refitted_sets_are_theirs():
  """Noise: sets that the lasso drops take their errors with them."""
  rng = np.random.default_rng(0)
  samples = _samples(10, 200, lambda m: rng.normal(size=len(m)) + m[:, 0])
  sets = {(i, i + 1): 0.1 for i in range(9)} | {(0,): -0.5}
  given = _function(10, sets)
  answer = select.Answer([given], "spex", [], std=[np.ones(given.count)])
  found = select.refitted(answer, samples)
  assert found.functions[0].count < given.count
  assert found.std[0].shape == found.functions[0].coefs.shape
  # One regression on characters: noise of 1 over the root of the masks.
  np.testing.assert_allclose(found.std[0], 1 / np.sqrt(200), rtol=0.2)


def test_errors_of_a_largest_of_sums_hold_and_are_not_too_large():
  """A kink, which a process follows worse than it believes."""
  rng, n = np.random.default_rng(3), 10
  weights = rng.normal(size=(n, 3))
  masks = sampling.enumerate_masks(n)
  values = (masks @ weights).max(axis=1)
  rows = rng.permutation(len(masks))[:280]
  samples = samples_lib.Samples(masks[rows], values[rows, None])
  answer = select.by_proxies(samples, "gaussian")
  (found,), (std,) = answer.functions, answer.std
  truth = dict(exact.expand(values)[0].terms())
  far = [abs(c - truth.get(s, 0.0)) for s, c in found.terms() if s]
  inside = np.array(far) < 1.645 * std[1:]
  # Errors go together, so that .90 is met by and large; with one size for all
  # sets .99 of them lie within.
  assert len(inside) > 200
  assert 0.84 < inside.mean() < 0.975
  assert inside[:30].mean() > 0.8


@pytest.mark.parametrize("kept", [0.1, 0.9])
def test_masks_that_are_not_uniform_are_told_of(kept):
  rng = np.random.default_rng(0)
  masks = rng.random((200, 12)) < kept
  values = 1.0 * masks[:, 0] + masks[:, 1]
  found = api.decode(masks, values, method="lasso")
  (note,) = [note for note in found.notes if "uniform" in note]
  assert "R^2 is on masks like these" in note
  assert found.coef_std is None
  even = rng.random((200, 12)) < 0.5
  found = api.decode(even, 1.0 * even[:, 0] + even[:, 1], method="lasso")
  assert not any("uniform" in note for note in found.notes)
  assert found.coef_std is not None


@pytest.mark.parametrize("num_masks", [16, 200, 5000])
def test_uniform_masks_are_not(num_masks):
  rng = np.random.default_rng(1)
  told = [
    samples_lib.uneven(rng.random((num_masks, 300)) < 0.5) for _ in range(10)
  ]
  assert told == [""] * 10
  fixed = rng.random((num_masks, 5)) < 0.5
  fixed[:, 0], fixed[:, 1] = True, False
  assert samples_lib.uneven(fixed) == ""  # `confounded` tells of those.
  # Hardly off, however sure it is.
  assert samples_lib.uneven(rng.random((100_000, 4)) < 0.45) == ""
