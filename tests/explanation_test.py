"""Tests of what is kept of an answer: files, print, bounds, standard errors."""

import copy
import dataclasses
import pickle

import jax
import numpy as np
import pandas as pd
import pytest

from spex_jax import base
from spex_jax.api import Explanation, decode, explain
from spex_jax.fourier import score, sparse
from spex_jax.masks import sampling
from spex_jax.portfolio import select, trust
from spex_jax.portfolio.samples import Samples

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
    errors=both.errors[1],
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
  beside = [
    f"{value:.3f} ± {std:.3f}"
    for value, std in zip(both.faithfulness, both.faithfulness_std)
  ]
  assert lines[1] == (
    f"faithfulness (R^2): {beside[0]}, {beside[1]} on 136 masks, each "
    "predicted by fits without it"
  )
  assert lines[2].startswith("R^2 by size: ") and "(100 sets)" in lines[2]
  assert lines[2].endswith(f"{', '.join(beside)} (all sets)")
  assert lines[2].count(" ± ") == 8
  assert lines[3].startswith("note: Target 0: Answered by lasso")
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
  for field in ("coef_std", "errors"):
    np.testing.assert_array_equal(getattr(back, field), getattr(both, field))
  assert back.by_terms.keys() == both.by_terms.keys()
  for size, found in both.by_terms.items():
    np.testing.assert_array_equal(back.by_terms[size], found)
    std = both.by_terms_std[size]
    np.testing.assert_array_equal(back.by_terms_std[size], std)
  masks = np.ones((1, _N), bool)
  np.testing.assert_array_equal(back.interval(masks), both.interval(masks))


@pytest.mark.slow_where("2")
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
    ("by_terms_std", {"10": -0.5}),
    ("noise_floor", -1.0), ("coef_std", []), ("coef_std", [[1.0]]),
    ("num_evaluations", -1), ("num_evaluations", True), ("held_out", "x"),
    ("errors", [-1.0, 2.0]), ("notes", [1]), ("method", 3),
    ("units", 4), ("seconds", []), ("n", -1), ("n", "x"), ("targets", [[1]]),
    ("targets", None), ("extra", 1),
  ],
)  # fmt: skip
@pytest.mark.faults
def test_a_tampered_file_is_refused(tmp_path, record_property, field, value):
  """Its checksum is right; what it says, no decoder does."""
  path = tmp_path / "a.json"
  explain(
    _pairs, 5, budget=32, key=_KEY, names=list("abcde"), units="logit"
  ).save(path)
  base.write_json(path, base.read_json(path) | {field: value})
  with pytest.raises(ValueError, match=r"\w") as caught:
    Explanation.load(path)
  said = str(caught.value)
  assert said.isprintable() and len(said) < 400
  record_property("fault", f"explanation, {field}={value}: {said}")


def test_notes_cannot_steer_a_terminal():
  found = explain(_pairs, 5, budget=32, key=_KEY)
  bad = "a\x1b[2Jb"
  changed = dataclasses.replace(found, method=bad, notes=(bad,), units=bad)
  assert "\x1b" not in str(changed) and str(changed).count(r"a\x1b[2Jb") == 5


def test_seconds_add_up():
  seconds = explain(_pairs, 5, budget=32, key=_KEY).seconds
  np.testing.assert_allclose(
    seconds["evaluating"] + seconds["decoding"], seconds["total"]
  )


def _known_errors(errors):
  """An answer 0 whose errors on held-out masks are these."""
  return Explanation(
    fourier=sparse.SparseFourier.from_terms(3, [((), 0.0)]),
    faithfulness=0.5,
    noise_floor=None,
    num_evaluations=len(errors),
    num_repeats=0,
    held_out=len(errors),
    method="given",
    errors=np.sort(errors),
  )


@pytest.mark.parametrize("level", [0.5, 0.9, 0.95])
def test_an_interval_holds_at_least_its_level(level):
  # Errors uniform in (0, 1): a bound b holds a new one with probability b.
  rng = np.random.default_rng(0)
  mask = np.ones((1, 3), bool)
  bounds = [
    _known_errors(rng.random(64)).interval(mask, level)[1][0]
    for _ in range(400)
  ]
  rank = int(np.ceil(65 * level))
  # The mean of the rank-th of 64; 4 standard errors of 400 draws.
  spread = np.sqrt(rank * (65 - rank) / (65**2 * 66))
  assert np.mean(bounds) == pytest.approx(rank / 65, abs=4 * spread / 20)
  assert rank / 65 >= level


def test_too_few_errors_bound_nothing_and_say_so():
  mask = np.ones((1, 3), bool)
  few = _known_errors(np.arange(1.0, 65))
  with pytest.warns(UserWarning, match="64 held-out masks.*It takes 99"):
    low, high = few.interval(mask, 0.99)
  assert np.isinf(low).all() and np.isinf(high).all()
  # 9 are just enough for .9: the largest; whatever (m + 1) level rounds to.
  np.testing.assert_array_equal(
    _known_errors(np.arange(1.0, 10)).interval(mask, 0.9)[1], [9.0]
  )


def test_errors_that_were_thinned_bound_as_well(samples):
  masks = np.ones((1, 2), bool)
  whole = np.arange(1.0, 4501)
  answer = select.Answer(
    [sparse.SparseFourier.from_terms(13, [((), 0.0)])], "given", []
  )
  rows = sampling.distinct(_KEY, 4500, 13)
  judged = trust.judge(answer, None, Samples(rows, whole[:, None]))
  assert judged.errors.shape == (1, 1000) and judged.errors[0, -1] == 4500
  thin = dataclasses.replace(
    _known_errors(whole),
    errors=judged.errors[0],
    fourier=sparse.SparseFourier.from_terms(2, [((), 0.0)]),
  )
  for level in (0.1, 0.5, 0.9, 0.999):
    exact = np.ceil(4501 * level - 1e-9)
    assert 0 <= thin.interval(masks, level)[1][0] - exact < 4.5


@pytest.mark.slow_where("kernelshap")
@pytest.mark.parametrize("method", ["gram", "occlusion", "lime", "kernelshap"])
def test_the_ends_are_fs_own(method, tmp_path):
  # A jump at both ends that no uniform mask sees.
  def fn(m):
    jump = 5.0 * m.all(axis=1) + 7.0 * ~m.any(axis=1)
    return _pairs(m) + jump

  answer = explain(fn, _N, budget=300, method=method, key=_KEY)
  assert answer.ends == (7.0, 9.0)
  assert answer.num_evaluations <= 300
  ends = np.repeat([[False], [True]], _N, axis=1)
  np.testing.assert_allclose(answer.gaps, answer.fourier(ends) - [7.0, 9.0])
  assert "ends: f(none) 7 (expansion " in str(answer)
  answer.save(tmp_path / "a.json")
  assert Explanation.load(tmp_path / "a.json").ends == answer.ends


def test_ends_of_samples_are_those_among_them(samples):
  masks, values = samples
  assert decode(masks, values[:, 0], method="lasso").ends is None
  ends = np.repeat([[False], [True]], _N, axis=1)
  more = np.concatenate([masks, ends]), np.append(values[:, 0], [4.0, 6.0])
  assert decode(*more, method="lasso").ends == (4.0, 6.0)


@pytest.mark.parametrize(
  "method",
  [
    *(
      pytest.param(method, marks=pytest.mark.slow)
      for method in ("auto", "proxyspex", "gaussian", "gram")
    ),
    "lasso",
  ],
)
def test_players_that_no_mask_tells_apart_are_named(samples, method):
  masks, values = samples
  names = [f"p{i}" for i in range(_N)]
  masks = masks.copy()
  masks[:, 5], masks[:, 6], masks[:, 7] = True, False, ~masks[:, 0]
  (note,) = (
    note
    for note in decode(masks, values[:, 0], method=method, names=names).notes
    if "cannot say" in note
  )
  assert "every mask keeps p5," in note and "no mask keeps p6," in note
  assert "no mask tells apart {p0, p7}" in note
  whole = decode(*samples, method="lasso").notes
  assert not any("cannot say" in note for note in whole)


@pytest.mark.slow_where("proxyspex")
@pytest.mark.parametrize("method", ["lasso", "proxyspex", "kernelshap", "lime"])
def test_numpys_global_generator_stays_where_it_is(method):
  before = np.random.get_state()[1:3]  # noqa: NPY002
  explain(_pairs, _N, budget=150, method=method, key=_KEY)
  after = np.random.get_state()[1:3]  # noqa: NPY002
  np.testing.assert_equal(after, before)


def test_answers_compare_hash_and_copy_by_value(both):
  twin = copy.deepcopy(both)
  assert twin == both and hash(twin) == hash(both) and twin in [both]
  assert dataclasses.replace(twin, seconds={}) == both  # Not the answer's.
  for change in (
    {"units": "nat"},
    {"faithfulness": both.faithfulness + [0, 1e-9]},
    {"fourier": both.fourier.target(0)},
  ):
    assert dataclasses.replace(both, **change) != both
  functions_of = {both.fourier.target(t): t for t in range(2)}
  assert functions_of[twin.fourier.target(1)] == 1
  found = both.interactions("BII", target=0)
  for other in (
    pickle.loads(pickle.dumps(found)),
    copy.copy(found),
    copy.deepcopy(found),
  ):
    assert other == found and hash(other) == hash(found)
    assert not (other.values.flags.writeable or other.players.flags.writeable)
  assert found != both.interactions("BII", target=1) and found != "BII"


def test_an_index_has_its_own_order_by_default(both):
  for index, order in (("SV", 1), ("BV", 1), ("FBII", 2), ("SII", 2)):
    assert both.interactions(index, target=0).order == order
  with pytest.raises(ValueError, match="SV has order 1 only"):
    both.interactions("SV", 2, target=0)


@pytest.mark.parametrize(
  "names", [np.array(list("abcdefghijkl")), range(12), pd.Index(range(12))]
)
def test_names_of_any_sequence(both, names):
  found = both.interactions(names=names, target=0)
  assert found.names == tuple(map(str, names))
  with pytest.raises(ValueError, match="Need 12 names"):
    both.interactions(names=[], target=0)


def test_masks_that_chose_to_stop_do_not_judge():
  asked = []

  def fn(masks):
    asked.append(masks.copy())
    jitter = np.sin(masks @ np.arange(1.0, _N + 1) ** 3)
    return _pairs(masks) + jitter

  answer = explain(
    fn, _N, budget=700, method="lasso", key=_KEY, target_faithfulness=0.7
  )
  masks = np.concatenate(asked)
  assert answer.num_evaluations < 700 and answer.held_out == 70
  # The first 70 chose to stop; the last ones tell what it came to.
  for rows, place in ((masks[:70], "on 70 held-out masks"),
                      (masks[-70:], "on 70 that did not choose")):  # fmt: skip
    asked_of = fn(rows), answer.fourier(rows)
    found = score.r2(*asked_of)
    assert f"{score.r2_text(*asked_of)} {place}" in answer.notes[0]
  assert answer.faithfulness == pytest.approx(found)
  hashed = {row.tobytes() for row in masks[:-70]}
  assert not hashed & {row.tobytes() for row in masks[-70:]}


def test_few_held_out_masks_may_miss_what_the_samples_saw():
  """R^2 of 1 on 20 masks, where one of 50 others is far off."""
  zero = sparse.SparseFourier.from_terms(2, [((), 0.0), ((0,), 1.0)])
  masks = sampling.enumerate_masks(2)[np.arange(20) % 4]
  held = Samples(masks, np.asarray(zero(masks))[:, None])
  answer = select.Answer([zero], "given", [], moved=np.array([0.3]))
  judged = trust.judge(answer, None, held)
  assert judged.by_terms["all"] == 1
  np.testing.assert_allclose(judged.by_terms_std["all"], 0.3 / np.sqrt(19))
