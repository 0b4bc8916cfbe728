"""Tests of decoding samples that one already has: every method, bad samples."""

import jax
import numpy as np
import pytest

from spex_jax.api import decode
from spex_jax.fourier import spex
from spex_jax.masks import sampling
from spex_jax.portfolio import policy
from tests import functions

_KEY = jax.random.key(0)
_N, _NUM_MASKS = 12, 136  # One shape for all fits: they compile once.


def _triple(masks):
  return functions.pairs(masks) + 1.5 * masks[:, 4] * masks[:, 5] * masks[:, 6]


@pytest.fixture(scope="module")
def noisy():
  """Masks with the values of a function of order 3, and some noise."""
  masks = sampling.distinct(jax.random.key(5), _NUM_MASKS, _N)
  noise = np.random.default_rng(0).normal(size=len(masks))
  return masks, _triple(masks) + 0.5 * noise


@pytest.fixture(scope="module")
def usual(noisy):
  """What `auto` answers to them."""
  return decode(*noisy)


class TestMethods:
  @pytest.mark.slow
  @pytest.mark.parametrize(
    "method", ["auto", "proxyspex", "gaussian", "gram", "lasso"]
  )
  def test_faithfulness_is_that_of_masks_not_seen(self, noisy, method):
    masks, values = noisy
    answer = decode(masks, values, method=method)
    others = sampling.distinct(jax.random.key(6), 2000, _N, exclude=masks)
    noise = 0.5 * np.random.default_rng(1).normal(size=len(others))
    truth = _triple(others) + noise
    error = truth - np.asarray(answer.fourier(others))
    expected = 1 - error.var() / truth.var()
    # R^2 of 136 values: a deviation of (1 - R^2) sqrt(2 / 136) = .12 (1 - R^2),
    # and their fits see 4/5 of the masks: half as much error again.
    assert expected > 0.75
    assert abs(answer.faithfulness - expected) < 0.8 * (1 - expected)
    assert method in (answer.method, "auto")
    assert answer.held_out == answer.num_evaluations == _NUM_MASKS
    assert list(answer.by_terms) == ["10", "30", "100", "all"]
    scores = list(answer.by_terms.values())
    assert scores == sorted(scores) and scores[-1] == answer.faithfulness
    assert answer.coef_std.shape == answer.fourier.coefs.shape
    assert (answer.coef_std > 0).all() and answer.errors[0] >= 0

  @pytest.mark.slow
  @pytest.mark.parametrize("method", ["proxyspex", "gaussian", "gram", "lasso"])
  def test_no_larger_sets_than_asked_for(self, noisy, method):
    answer = decode(*noisy, method=method, max_order=1)
    assert answer.fourier.orders.max() == 1
    # No function of order 1 explains more than this of the noiseless one.
    masks = sampling.enumerate_masks(_N)
    x = np.concatenate([np.ones((len(masks), 1)), 1.0 - 2 * masks], axis=1)
    truth = _triple(masks)
    left = truth - x @ np.linalg.lstsq(x, truth)[0]
    best = 1 - left.var() / truth.var()
    # Twice the deviation above.
    assert answer.faithfulness < best + 0.24 * (1 - best)

  @pytest.mark.slow
  def test_stack_is_at_least_its_best_member(self, noisy, usual):
    for method in ("proxyspex", "gaussian", "gram", "lasso"):
      alone = decode(*noisy, method=method).faithfulness
      assert usual.faithfulness >= alone - 1e-9


class TestBadSamples:
  @pytest.mark.parametrize("value", [0, 7.5, 0.1, -1e30, 1e-30])
  def test_constant(self, noisy, value):
    answer = decode(noisy[0], np.full(_NUM_MASKS, value))
    (players, mean), *rest = answer.fourier.terms()
    assert (players, rest, answer.method) == ((), [], "mean")
    np.testing.assert_allclose(mean, value, rtol=1e-12)
    assert answer.faithfulness == 1
    told = "All 136 values are equal to rounding: only their mean."
    assert told in answer.notes

  @pytest.mark.slow_where("int", "float")
  @pytest.mark.parametrize("kind", [bool, int, float])
  def test_two_values_of_any_kind(self, noisy, kind):
    masks, values = noisy
    high = values > np.median(values)
    answer = decode(masks, high.astype(kind))
    assert 0.3 < answer.faithfulness < 1
    assert np.isfinite(answer.fourier.coefs).all()
    again = decode(masks, high.astype(float))
    assert answer.fourier.terms() == again.fourier.terms()

  def test_two_values_one_of_them_once(self, noisy):
    """Nothing can be said of a value that was seen once."""
    answer = decode(noisy[0], np.arange(_NUM_MASKS) == 3)
    assert answer.method == "mean" and "Answered by mean" in answer.notes[0]
    np.testing.assert_allclose(answer.fourier.coefs, [1 / _NUM_MASKS])

  @pytest.mark.slow_where("1e-30", "1e+30", "1--")
  @pytest.mark.parametrize(
    "scale, offset", [(1e30, 0), (1e-30, 0), (-1e-300, 0), (1, 1e6), (1, -1e6)]
  )
  def test_any_scale_and_offset(self, noisy, usual, scale, offset):
    masks, values = noisy
    answer = decode(masks, scale * values + offset)
    assert answer.method == usual.method
    # Values of 1e6 are rounded to 1e-10.
    close = {"rtol": 1e-6, "atol": 1e-8}
    np.testing.assert_allclose(answer.faithfulness, usual.faithfulness, **close)
    found, expected = dict(answer.fourier.terms()), dict(usual.fourier.terms())
    assert found.keys() == expected.keys()
    expected[()] += offset
    for players, coef in found.items():
      np.testing.assert_allclose(coef / scale, expected[players], **close)
    np.testing.assert_allclose(
      np.sort(answer.coef_std) / abs(scale), np.sort(usual.coef_std), **close
    )

  @pytest.mark.parametrize(
    "num_masks, method, note",
    [
      (1, "mean", "1 masks, under 4: only their mean."),
      (3, "mean", "3 masks, under 4: only their mean."),
      (4, "mean", "4 masks are too few to compare decoders: their mean"),
      (7, "mean", "7 masks are too few to compare decoders: their mean"),
    ],
  )
  def test_fewer_samples_than_can_be_split(
    self, noisy, num_masks, method, note
  ):
    masks, values = noisy
    answer = decode(masks[:num_masks], values[:num_masks])
    assert answer.method == method and answer.notes[0].startswith(note)
    assert answer.faithfulness is answer.by_terms is answer.coef_std is None
    guess = np.asarray(answer.fourier(masks))
    assert np.isfinite(guess).all()
    assert np.abs(guess).max() < 3 * np.abs(values).max()

  @pytest.mark.slow
  def test_hardly_enough_samples(self, noisy):
    masks, values = noisy
    answer = decode(masks[:9], values[:9])
    assert np.isfinite(answer.fourier.coefs).all()
    # The mean of the 8 others leaves 9/8 of each deviation.
    assert answer.faithfulness >= 1 - (9 / 8) ** 2 - 1e-12
    with pytest.raises(ValueError, match="at least 64 masks, .* got 9 masks"):
      decode(masks[:9], values[:9], method="gram")

  @pytest.mark.parametrize("seed", range(3))
  def test_noise_is_answered_by_nothing_worse_than_its_mean(self, noisy, seed):
    values = np.random.default_rng(seed).normal(size=_NUM_MASKS)
    answer = decode(noisy[0], values)
    assert -0.05 < answer.faithfulness < 0.05
    # New values have nothing to do with what was found: all of it is loss.
    assert (np.asarray(answer.fourier.coefs)[1:] ** 2).sum() < 0.05

  def test_equal_masks_that_disagree(self, noisy, usual):
    masks, values = noisy
    gap = np.random.default_rng(0).normal(size=_NUM_MASKS)
    both = np.concatenate([values + gap, values - gap])
    answer = decode(np.concatenate([masks, masks]), both)
    assert answer.num_repeats == _NUM_MASKS
    np.testing.assert_allclose(answer.noise_floor, np.sqrt(2 * (gap**2).mean()))
    np.testing.assert_allclose(answer.faithfulness, usual.faithfulness)
    alone = decode(np.ones((50, _N), bool), np.arange(50.0))
    assert alone.fourier.terms() == [((), pytest.approx(24.5))]
    assert alone.method == "mean" and alone.faithfulness is None

  def test_one_player(self):
    answer = decode(np.array([[0], [1], [1]], bool), [3.0, 4.0, 6.0])
    assert dict(answer.fourier.terms()) == pytest.approx({(): 4, (0,): -1})
    assert answer.method == "exact"
    answer = decode(np.ones((9, 1), bool), np.arange(9))
    assert answer.fourier.terms() == [((), 4.0)]

  @pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
  @pytest.mark.parametrize(
    "method", ["auto", "proxyspex", "gaussian", "gram", "lasso"]
  )
  def test_not_finite(self, noisy, bad, method):
    masks, values = noisy
    with pytest.raises(ValueError, match="NaN or infinity"):
      decode(
        masks,
        np.where(np.arange(len(masks)) == 7, bad, values),
        method=method,
      )


class TestSamples:
  def _samples(self, n=20, num_masks=200):
    masks = sampling.distinct(jax.random.key(5), num_masks, n)
    return masks, functions.pairs(masks)

  @pytest.mark.parametrize("method", ["auto", "lasso"])
  def test_masks(self, method):
    masks, values = self._samples()
    answer = decode(masks, values, method=method)
    assert answer.method == ("gram" if method == "auto" else "lasso")
    assert answer.faithfulness > 1 - 1e-9
    # Each sample is predicted by a fit that has not seen it.
    assert answer.num_evaluations == answer.held_out == 200
    assert answer.noise_floor is None

  def test_all_masks_are_exact_in_any_order(self):
    masks = sampling.enumerate_masks(5)[::-1]
    for method in ("auto", "exact"):
      answer = decode(masks, functions.pairs(masks), method=method)
      assert answer.method == "exact"
      np.testing.assert_allclose(
        answer.fourier(masks), functions.pairs(masks), atol=1e-13
      )

  def test_all_masks_leave_none_to_test_on(self):
    masks = sampling.enumerate_masks(6)
    values = functions.pairs(masks)
    found = decode(masks, values, held_out=(masks[:9], values[:9]))
    assert found.method == "exact" and found.held_out == 0

  def test_duplicates_are_merged(self):
    masks, values = self._samples()
    masks = np.concatenate([masks, masks[:2]])
    agree = np.concatenate([values, values[:2]])
    answer = decode(masks, agree)
    assert answer.num_repeats == 2 and answer.noise_floor == 0
    assert answer.num_evaluations == 200
    differ = np.concatenate([values, values[:2] + [2.0, -2.0]])
    answer = decode(masks, differ, method="lasso")
    # Both pairs lie 1 from their mean: 4 squares over 2 repeats.
    np.testing.assert_allclose(answer.noise_floor, np.sqrt(2))
    with pytest.raises(ValueError, match="2 repeats of equal masks"):
      decode(masks, differ, strict=True)

  @pytest.mark.slow
  @pytest.mark.parametrize("method", ["auto", "spex", "lasso"])
  def test_plan(self, method):
    f = functions.planted(30, 3, 2)
    plan = spex.make_plan(_KEY, 30, b=2)
    held = sampling.uniform(jax.random.key(9), 50, 30)
    values = f(plan.masks())
    answer = decode(plan, values, method=method, held_out=(held, f(held)))
    assert answer.method == ("lasso" if method == "lasso" else "spex")
    assert answer.faithfulness > 1 - 1e-9 and answer.held_out == 50
    if method == "spex":
      alone = decode(plan, values, method=method)
      assert alone.faithfulness is None and alone.held_out == 0
      assert "not measured" in str(alone)

  def test_held_out_masks_among_the_samples_are_left_out(self):
    masks, values = self._samples()
    other = sampling.distinct(jax.random.key(6), 5, 20, exclude=masks)
    both = np.concatenate([masks[:3], other, other])
    answer = decode(masks, values, held_out=(both, functions.pairs(both)))
    assert answer.held_out == 5 and answer.num_evaluations == 205
    twins = functions.pairs(both) + np.repeat([0.0, 1.0, -1.0], [3, 5, 5])
    again = decode(masks, values, held_out=(both, twins))
    assert again.faithfulness == pytest.approx(answer.faithfulness, abs=1e-9)
    assert any("Held out: 5 repeated" in note for note in again.notes)
    with pytest.raises(ValueError, match="Every held-out mask is among"):
      decode(masks, values, held_out=(masks[:3], values[:3]))
    with pytest.raises(ValueError, match="or none came"):
      decode(masks, values, held_out=(masks[:0], values[:0]))

  @pytest.mark.slow
  def test_a_large_plan_is_read_by_range(self, monkeypatch):
    f = functions.planted(30, 3, 2)
    plan = spex.make_plan(_KEY, 30, b=2)
    values = f(plan.masks())
    monkeypatch.setattr(spex.QueryPlan, "masks", None)
    monkeypatch.setattr(policy, "POLICY", policy.Policy(unpacked_bytes=1000))
    for method in ("spex", "auto"):
      answer = decode(plan, values, method=method)
      assert dict(answer.fourier.terms()).keys() >= dict(f.terms()).keys()

  def test_a_single_mask(self):
    answer = decode(np.ones((1, 5), bool), [2.0])
    assert answer.fourier.terms() == [((), 2.0)]
    assert answer.faithfulness is None

  @pytest.mark.parametrize(
    "change, message",
    [
      ({"method": "spex"}, "needs the QueryPlan"),
      ({"method": "exact"}, r"all 2\*\*20 masks; got 200"),
      ({"values": np.ones(199)}, "one value per mask"),
      ({"values": np.full(200, np.inf)}, "NaN or infinity"),
      ({"masks_or_plan": np.zeros((0, 20)), "values": []}, "at least one mask"),
      ({"masks_or_plan": np.full((200, 20), 2)}, "only 0 and 1"),
      ({"masks_or_plan": np.ones(20, bool)}, "one row per mask"),
      ({"held_out": (np.ones((1, 3)), [1])}, "expected n=20"),
      ({"held_out": (np.ones((1, 20)), [[1, 2]])}, "have 2 targets"),
    ],
  )
  def test_bad_input(self, change, message):
    masks, values = self._samples()
    with pytest.raises(ValueError, match=message):
      decode(**{"masks_or_plan": masks, "values": values} | change)
