"""Tests of what is kept of an answer: files, print, bounds, standard errors."""

import dataclasses

import jax
import numpy as np
import pytest

from spex_jax import base
from spex_jax.api import Explanation, decode, explain
from spex_jax.masks import sampling

_KEY = jax.random.key(0)
_N, _NUM_MASKS = 12, 136


def _pairs(masks):
  return 2.0 * masks[:, 0] - masks[:, 1] + 3.0 * masks[:, 2] * masks[:, 3]


@pytest.fixture(scope="module")
def samples():
  """Masks and two targets: pairs with noise, and another with much more."""
  masks = sampling.distinct(jax.random.key(5), _NUM_MASKS, _N)
  noise = np.random.default_rng(0).normal(size=(2, len(masks)))
  values = np.stack([_pairs(masks) + noise[0], masks[:, 5] + noise[1]], axis=1)
  return masks, values


@pytest.fixture(scope="module")
def both(samples):
  """The explanation of the two targets."""
  return decode(*samples, method="lasso", units="logit")


def test_standard_errors_are_aligned_with_the_sets_of_each_target(
  both, samples
):
  masks, values = samples
  assert both.coef_std.shape == both.fourier.coefs.shape
  for t in range(2):
    # On random masks characters are orthogonal: the error of a coefficient
    # is the root mean square of what is left, over the root of the masks.
    left = (1 - both.faithfulness[t]) * values[:, t].var()
    count = int(both.fourier.count[t])
    np.testing.assert_allclose(
      both.coef_std[t][:count], np.sqrt(left / len(masks)), rtol=1e-9
    )
    alone = decode(masks, values[:, t], method="lasso")
    assert alone.coef_std.shape == alone.fourier.coefs.shape
    np.testing.assert_allclose(
      alone.coef_std, both.coef_std[t][:count], rtol=1e-9
    )
    found = both.interactions("FBII", order=2, target=t)
    assert len(found.std) == len(found.values) and (found.std > 0).all()
  assert both.fourier.count[0] != both.fourier.count[1]


def test_a_constant_target_takes_no_errors_from_the_others(samples):
  masks, values = samples
  changed = np.stack([values[:, 0], np.full(len(masks), 0.1)], axis=1)
  answer = decode(masks, changed, method="lasso")
  assert answer.coef_std.shape == answer.fourier.coefs.shape
  assert (answer.coef_std[0] > 0).all()
  # The sum of equal numbers may round away from their multiple.
  assert (np.abs(answer.coef_std[1]) < 1e-15).all()


@pytest.mark.parametrize("level", [0.5, 0.9])
def test_intervals_hold_new_values_at_their_level(both, level):
  masks = sampling.uniform(jax.random.key(8), 2000, _N)
  noise = np.random.default_rng(1).normal(size=(2, len(masks)))
  truth = np.stack([_pairs(masks), masks[:, 5]], axis=1) + noise.T
  low, high = both.interval(masks, level)
  assert low.shape == high.shape == truth.shape
  inside = ((low <= truth) & (truth <= high)).mean(axis=0)
  # A quantile of 136 errors: its level has a deviation of at most
  # sqrt(.25 / 136) = .043; three of them.
  np.testing.assert_allclose(inside, level, atol=0.13)
  single = dataclasses.replace(
    both,
    fourier=both.fourier.target(1),
    error_quantiles=both.error_quantiles[1],
  )
  np.testing.assert_allclose(single.interval(masks, level)[1], high[:, 1])


def test_intervals_that_nobody_can_give(both):
  masks = np.ones((2, _N), bool)
  for level in (0, 1, 1.5, -0.1, float("nan")):
    with pytest.raises(ValueError, match=r"level must lie in \(0, 1\); got"):
      both.interval(masks, level)
  with pytest.raises(ValueError, match="No mask was left to measure errors"):
    decode(masks[:1], [2.0]).interval(masks)
  with pytest.raises(ValueError, match="12"):
    both.interval(np.ones((2, 5), bool))


def test_what_is_printed(both, samples):
  lines = str(both).splitlines()
  sizes = both.fourier.count.tolist()
  assert lines[0] == f"lasso: {sizes} sets of 12 players from 136 masks"
  first, second = (f"{score:.4g}" for score in both.faithfulness)
  assert lines[1] == (
    f"faithfulness (R^2): {first}, {second} on 136 held-out masks"
  )
  assert lines[2].startswith("R^2 by size: ") and "(100 sets)" in lines[2]
  assert lines[2].endswith(f"{first}, {second} (all sets)")
  assert lines[3].startswith("note: Target 0: Spoken by lasso")
  masks, values = samples
  twice = decode(
    np.concatenate([masks, masks[:1]]),
    np.append(values[:, 0], values[0, 0]),
    method="lasso",
    units="logit",
  )
  assert "noise floor: 0 logit" in str(twice).splitlines()
  assert "not measured" in str(decode(masks[:1], values[:1, 0]))


def test_everything_survives_a_file(both, tmp_path):
  both.save(tmp_path / "a.json")
  back = Explanation.load(tmp_path / "a.json")
  assert str(back) == str(both)
  for field in ("coef_std", "error_quantiles"):
    np.testing.assert_array_equal(getattr(back, field), getattr(both, field))
  assert back.by_terms.keys() == both.by_terms.keys()
  for size, score in both.by_terms.items():
    np.testing.assert_array_equal(back.by_terms[size], score)
  masks = np.ones((1, _N), bool)
  np.testing.assert_array_equal(back.interval(masks), both.interval(masks))


@pytest.mark.parametrize("num_targets", [None, 2])
def test_save_and_load(tmp_path, num_targets):
  fn = _pairs
  if num_targets:
    fn = lambda m: np.stack([_pairs(m), m[:, 5]], axis=1)
  names = [f"p{i}" for i in range(12)]
  answer = explain(
    fn, 12, budget=200, method="lasso", key=_KEY, names=names, units="logit"
  )
  answer.save(tmp_path / "a.json")
  back = Explanation.load(tmp_path / "a.json")
  assert str(back) == str(answer) and "logit" in str(back)
  for field in ("method", "notes", "names", "units", "seconds", "held_out"):
    assert getattr(back, field) == getattr(answer, field)
  np.testing.assert_array_equal(back.faithfulness, answer.faithfulness)
  np.testing.assert_array_equal(back.fourier.coefs, answer.fourier.coefs)
  np.testing.assert_array_equal(back.fourier.players, answer.fourier.players)


def test_other_and_damaged_files(tmp_path):
  path = tmp_path / "a.json"
  base.write_json(path, {"n": 3, "terms": []})
  with pytest.raises(ValueError, match="is no saved explanation"):
    Explanation.load(path)
  decode(np.ones((1, 5), bool), [2.0]).save(path)
  path.write_text(path.read_text().replace("2.0", "3.0", 1))
  with pytest.raises(ValueError, match="damaged"):
    Explanation.load(path)


@pytest.mark.parametrize(
  ("field", "value"),
  [
    ("names", ["a"]), ("names", "abcde"), ("faithfulness", 7.0),
    ("faithfulness", "high"), ("by_terms", {"10": 1.5}), ("by_terms", [1]),
    ("noise_floor", -1.0), ("coef_std", []), ("coef_std", [[1.0]]),
    ("num_evaluations", -1), ("num_evaluations", True), ("held_out", "x"),
    ("error_quantiles", [-1.0, 2.0]), ("notes", [1]), ("method", 3),
    ("units", 4), ("seconds", []), ("n", -1), ("n", "x"), ("targets", [[1]]),
    ("targets", None), ("extra", 1),
  ],
)  # fmt: skip
def test_a_tampered_file_is_refused(tmp_path, field, value):
  """Its checksum is right; what it says, no decoder does."""
  path = tmp_path / "a.json"
  explain(
    _pairs, 5, budget=32, key=_KEY, names=list("abcde"), units="logit"
  ).save(path)
  base.write_json(path, base.read_json(path) | {field: value})
  with pytest.raises(ValueError, match=r"\w"):
    Explanation.load(path)


def test_notes_cannot_steer_a_terminal():
  found = explain(_pairs, 5, budget=32, key=_KEY)
  bad = "a\x1b[2Jb"
  changed = dataclasses.replace(found, method=bad, notes=(bad,), units=bad)
  assert "\x1b" not in str(changed) and str(changed).count(r"a\x1b[2Jb") == 3


def test_seconds_add_up():
  seconds = explain(_pairs, 5, budget=32, key=_KEY).seconds
  np.testing.assert_allclose(
    seconds["evaluating"] + seconds["decoding"], seconds["total"]
  )
