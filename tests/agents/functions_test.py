"""Functions to interpret: deterministic, keyed; their truth is their code."""

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from spex_jax.agents.find import (
  families,
  functions,
  generating,
  knowledge,
  naming,
  numeric,
  planted_sets,
  primitives,
  strings,
  word_tables,
)


@pytest.fixture(autouse=True)
def _short(monkeypatch):
  monkeypatch.setattr(numeric, "_EPOCHS", 3)


def _inputs(function):
  if function.category == "numeric":
    return np.random.default_rng(0).uniform(-128, 128, 40)
  if function.category == "setfn":
    return np.array(function.tests[:40], bool)
  if function.category == "strings":
    return strings.texts(functions.rng(0, "test"), 12)
  return list(knowledge.words()[::20])


@given(st.integers(0, 99), st.sampled_from([*generating.CATEGORIES]))
def test_the_same_question_has_the_same_answer(seed, category):
  few = generating.generate(seed, category, 1, first=2)[0]
  many = generating.generate(seed, category, 3)[2]
  assert few.truth == many.truth and few.tests == many.tests
  xs = _inputs(few)
  whole = few.values(xs)
  backwards = many.values(xs[::-1])[::-1]
  alone = [many.values([x])[0] for x in xs[:3]]
  np.testing.assert_array_equal(whole, backwards)
  np.testing.assert_array_equal(whole[:3], alone)
  json.dumps([few.truth, few.about], allow_nan=False)


@given(st.integers(0, 999))
def test_a_number_s_truth_is_its_code(index):
  own = numeric.make(7, index)
  space = {}
  exec(own.truth["code"], space)
  xs = np.random.default_rng(index).uniform(-128, 128, 20)
  with np.errstate(all="ignore"):
    made = np.array([float(space["f"](x)) for x in xs])
  clean = np.array(own.clean(xs))
  if odd := own.truth.get("corruption"):
    clean[(odd["low"] < xs) & (xs < odd["high"])] = odd["mean"]
  np.testing.assert_allclose(made, clean, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("category", ["strings", "entities", "relations"])
def test_a_text_s_truth_is_its_code(category):
  for own in generating.generate(1, category, 5):
    space = {}
    exec(own.truth["code"], space)
    xs = _inputs(own)
    np.testing.assert_array_equal([space["f"](x) for x in xs], own.values(xs))


def test_sets_truth_is_its_code_and_noise_is_at_20_db():
  own = planted_sets.make(0, 1)
  space = {}
  exec(own.truth["code"], space)
  masks = functions.rng(0, "masks").integers(0, 2, (2000, own.about["n"])) > 0
  clean = own.clean(masks)
  made = [space["f"](row.tolist()) for row in masks[:20]]
  np.testing.assert_allclose(made, clean[:20], atol=1e-9)
  gap = own.values(masks) - clean
  # 2,000 draws: deviations of the ratio are within 5 %, five sigma and more.
  decibel = 20 * np.log10(clean.std() / gap.std())
  assert decibel == pytest.approx(20, abs=1)


@pytest.mark.parametrize(
  ("kind", "mean", "deviation"),
  [("uniform", 0, 3**-0.5), ("normal", 0, 1), ("poisson", 1, 1)],
)
def test_noise_has_its_moments_and_its_key(kind, mean, deviation):
  xs = np.linspace(-128, 128, 4000)
  found = functions.noise(kind, "a", xs)
  # Five standard errors.
  assert found.mean() == pytest.approx(mean, abs=5 * deviation / 4000**0.5)
  assert found.std() == pytest.approx(deviation, rel=0.1)
  assert not np.array_equal(found, functions.noise(kind, "b", xs))
  one = np.array([0.0, -0.0])
  assert len(set(functions.noise(kind, "a", one))) == 1


def test_the_mixture_is_the_paper_s():
  specs = [numeric.make(3, index).truth for index in range(600)]
  variants = [spec["variant"] for spec in specs]
  # Five standard errors of a share of 600.
  for name, share in (("clean", 0.483), ("noised", 0.176)):
    assert variants.count(name) / 600 == pytest.approx(share, abs=0.1)
  named = {s["family"] for s in specs if "family" in s} - {"network"}
  assert named == {*families.FAMILIES} and len(named) == 16
  assert sum("op" in spec for spec in specs) > 20
  assert len(primitives.PRIMITIVES) == 60


@given(st.text(max_size=12), st.sampled_from([*primitives.PRIMITIVES]))
def test_primitives_are_total(text, name):
  found = primitives.apply((name,), text)
  assert isinstance(found, str)
  assert found == primitives.apply((name,), text)


def test_a_truth_is_written_alike_in_every_process():
  """Sets of texts have another order in each."""
  (near,) = (own for own in knowledge._NEAR if "country in Asia" in own)
  wanted = dict.fromkeys(
    word for one in near for word in word_tables.CONCEPTS[one]
  )
  assert [*knowledge.activations(("country in Asia",))] == [*wanted]


def test_rules_know_the_words_of_their_exceptions():
  rules = knowledge.rules()
  assert len(set(rules)) == len(rules) > 60
  for rule in rules:
    assert knowledge.mapping(rule)


def test_a_query_keeps_its_budget():
  own = strings.make(0, 0)
  query = functions.Query(own, 3)
  query(["abc", "de"])
  with pytest.raises(functions.Overspent, match="2 inputs, and 1 of 3"):
    query(["x", "y"])
  assert (query.spent, query.left) == (2, 1)
  with pytest.raises(functions.Failed, match="at most 1,000"):
    query(["x" * 2000])
  with pytest.raises(AttributeError):
    setattr(query, "spent", 0)  # noqa: B010
  with pytest.raises(functions.Overspent, match="1 inputs, and 0 of 3"):
    query._ask(["x"])


def test_what_raises_is_told():
  def broken(xs):
    raise ZeroDivisionError("by zero")

  own = functions.Function("a", "numeric", {}, {}, broken, broken)
  with pytest.raises(functions.Failed, match="ZeroDivisionError: by zero"):
    functions.Query(own, 3)([1.0])
  short = functions.Function("a", "numeric", {}, {}, lambda xs: [], broken)
  with pytest.raises(functions.Failed, match="0 outputs for 1"):
    functions.Query(short, 3)([1.0])


def test_unknown_categories_are_refused():
  with pytest.raises(ValueError, match="choose from numeric"):
    generating.generate(0, "pictures", 1)
  with pytest.raises(ValueError, match="none may be negative"):
    generating.generate(-1, "numeric", 1)


@pytest.mark.parametrize(
  ("one", "other"),
  [
    ({"family": "cosine",
      "parameters": {"amplitude": 2.0, "period": 3.0, "shift": 1.0}},
     {"family": "sine",
      "parameters": {"amplitude": 2.0, "period": 3.0, "shift": 0.25}}),
    ({"family": "root", "parameters": {"scale": 2.0, "bias": 1.0, "degree": 1}},
     {"family": "linear", "parameters": {"slope": 2.0, "offset": 1.0}}),
  ],
)  # fmt: skip
def test_one_function_has_one_name(one, other):
  xs = np.linspace(0, 9, 50)
  np.testing.assert_allclose(
    families.evaluate(one, xs), families.evaluate(other, xs), atol=1e-9
  )
  (name, own), (other_name, theirs) = map(naming.canonical, (one, other))
  assert name == other_name and naming.agree(own, theirs)


def test_parameters_agree_within_5_percent():
  own = {"scale": 10.0, "bias": 0.0}
  assert naming.agree(own, {"scale": 10.4, "bias": 0.005})
  assert not naming.agree(own, {"scale": 10.6, "bias": 0.0})
  assert not naming.agree(own, {"scale": 10.0})
  assert not naming.agree(own, None)
  wave = {"period": 4.0, "shift": 1.9}
  assert naming.agree(wave, {"period": 4.0, "shift": -2.0})


def test_overlaps():
  one = {"low": 0.0, "high": 10.0}
  assert naming.overlap(None, None) == 1
  assert naming.overlap(one, None) == 0
  assert naming.overlap(one, {"low": 5.0, "high": 15.0}) == pytest.approx(1 / 3)
  half = {"low": -1000.0, "high": 0.0}
  assert naming.overlap(half, {"low": -500.0, "high": 0.0}) == 1
