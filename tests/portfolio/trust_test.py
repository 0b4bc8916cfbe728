"""How far an answer is trusted, by masks that are few or many."""

import jax
import numpy as np
import pytest

import spex_jax as spex
from spex_jax.fourier import score, sparse
from spex_jax.portfolio import samples, select, trust

_TERMS = [((), 1.0), ((0,), 2.0), ((1, 2), 1.0), ((3,), -0.5)]


def _answer(**fields):
  function = sparse.SparseFourier.from_terms(8, _TERMS)
  return select.Answer([function], "given", [], **fields)


def _held(num_masks):
  rng = np.random.default_rng(0)
  masks = rng.random((num_masks, 8)) < 0.5
  values = _answer().functions[0](masks) + 0.1 * rng.normal(size=num_masks)
  return samples.Samples(masks, values[:, None])


def test_fewer_masks_than_eight_tell_no_r2():
  assert trust.judge(_answer(), None, _held(7)) is None
  assert trust.judge(_answer(), None, _held(8)).num_masks == 8
  # Of masks that a user chose, two tell what they tell.
  assert trust.judge(_answer(), None, _held(2), least=2).num_masks == 2
  assert trust.judge(_answer(), None, _held(1), least=2) is None


def test_a_budget_of_few_masks_states_no_r2():
  f = lambda masks: masks @ np.arange(1.0, 66.0)
  found = spex.explain(f, 65, budget=8, key=jax.random.key(0))
  assert found.faithfulness is None and found.held_out == 0
  assert (
    "Only 2 masks are held out, of 8: too few to tell R^2 by." in found.notes
  )
  held = np.random.default_rng(0).random((3, 65)) < 0.5
  masks = np.random.default_rng(1).random((200, 65)) < 0.5
  found = spex.decode(masks, f(masks), method="lasso", held_out=(held, f(held)))
  assert found.held_out == 3
  assert "3 held-out masks are too few to trust R^2 by." in found.notes


def test_sizes_beyond_the_answer_are_the_answer():
  test = _held(400)
  judged = trust.judge(_answer(moved=np.array([3.0])), None, test)
  for k in ("10", "30", "100"):
    assert judged.by_terms[k] == judged.by_terms["all"]
    assert judged.by_terms_std[k] == judged.by_terms_std["all"]
  assert judged.by_terms_std["all"] == pytest.approx(3 / np.sqrt(399))
  truth = score.r2(test.values[:, 0], _answer().functions[0](test.masks))
  assert judged.by_terms["all"] == pytest.approx(truth)
