"""Tests of the choice among decoders: the better one on unseen masks wins."""

import jax
import numpy as np
import pytest

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
  answer = select.by_proxies(_samples(5, 2, fn))
  assert "under 3" in answer.notes[0] and answer.method == "mean"
  answer = select.by_proxies(_samples(5, 7, fn))
  assert "too few to compare" in answer.notes[0]
  assert dict(answer.functions[0].terms())[(0,)] == pytest.approx(1)


class _Fixed:
  """Stands in for a decoder: answers with one function."""

  def __init__(self, method, functions):
    self.functions, self.method, self.seen = functions, method, []

  def __call__(self, *args):
    self.seen.append(args)
    out_of_fold = None
    if isinstance(args[0], samples_lib.Samples):
      guesses = [f(args[0].masks) for f in self.functions]
      out_of_fold = np.stack(guesses, axis=1)
    notes = [f"{self.method} spoke"]
    return select.Answer(self.functions, self.method, notes, out_of_fold)


@pytest.mark.parametrize("better", ["spex", "lasso"])
@pytest.mark.parametrize("whole_plan", [True, False])
def test_the_better_one_speaks_and_judges_are_unseen(
  monkeypatch, better, whole_plan
):
  """Decoders of known quality: only their R^2 on the judges may decide."""
  good = _function(12, {(0, 1): 1.0, (2,): 0.9})
  bad = _function(12, {(0, 1): 1.0})
  truth = _function(12, {(0, 1): 1.0, (2,): 1.0, (3,): 0.1})
  plan = spex.make_plan(jax.random.key(0), 12, b=2, t=2)
  values = truth(plan.masks())[:, None]
  by_spex = _Fixed("spex", [good if better == "spex" else bad])
  baseline = _Fixed("lasso", [good if better == "lasso" else bad])
  monkeypatch.setattr(select, "by_spex", by_spex)
  monkeypatch.setattr(select, "by_proxies", baseline)
  if whole_plan:
    answer = select.by_plan(plan, values)
    half, judged = by_spex.seen[1][0], baseline.seen[0][0]
    assert half.num_masks == len(judged.masks) == plan.num_masks // 2
  else:
    exclude = plan.masks()
    masks = sampling.distinct(jax.random.key(2), 60, 12, exclude=exclude)
    extra = samples_lib.Samples(masks, truth(masks)[:, None])
    answer = select.compare(plan, values, extra)
    assert len(by_spex.seen) == 1 and by_spex.seen[0][0] is plan
    assert len(baseline.seen[0][0].masks) == 60 + plan.num_masks
    if better == "spex":  # Refitted on the same sets, by all samples.
      found = dict(answer.functions[0].terms())
      assert set(found) == {(0, 1), (2,)}
      np.testing.assert_allclose(found[(2,)], 1, atol=0.05)
  assert answer.method == better
  assert ("SPEX was chosen" in answer.notes[0]) == (better == "spex")
  assert f"{better} spoke" in answer.notes


def test_exact_spex_is_not_compared(monkeypatch):
  truth = _function(12, {(0, 1): 1.0, (2,): 1.0})
  plan = spex.make_plan(jax.random.key(0), 12, b=2, t=2)
  monkeypatch.setattr(select, "by_spex", _Fixed("spex", [truth]))
  monkeypatch.setattr(select, "by_proxies", None)
  answer = select.by_plan(plan, truth(plan.masks())[:, None])
  assert answer.method == "spex" and "last digits" in answer.notes[-1]


@pytest.mark.parametrize(
  "stacked, baseline, speaks",
  [
    (0.9, 0.905, True),  # A tenth more unexplained, and far sparser.
    (0.9, 0.92, False),
    (-0.05, -0.01, False),  # Within a tenth, but worse than the mean.
    (-0.01, -0.01, True),
    (-0.01, -0.5, True),
  ],
)
def test_spex_speaks_unless_it_is_worse_than_the_mean(
  monkeypatch, stacked, baseline, speaks
):
  scores = iter([select.Score(stacked, 0.1), select.Score(baseline, 0.1)])
  monkeypatch.setattr(select, "mean_score", lambda *_: next(scores))
  plan = spex.make_plan(jax.random.key(0), 12, b=2, t=2)
  truth = _function(12, {(0, 1): 1.0, (2,): 1.0})
  monkeypatch.setattr(select, "by_spex", _Fixed("spex", [truth]))
  monkeypatch.setattr(select, "by_proxies", _Fixed("lasso", [truth]))
  monkeypatch.setattr(select, "is_explained", lambda *_: False)
  answer = select.by_plan(plan, truth(plan.masks())[:, None])
  assert answer.method == ("spex" if speaks else "lasso")
  assert f"is {stacked:.3f} ± 0.100 for SPEX" in answer.notes[0]


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
