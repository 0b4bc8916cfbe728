"""Component attribution against NumPy, closed forms and leave-one-out."""

import jax
import numpy as np
import pytest

from spex_jax.ablate import components, readouts
from spex_jax.components import coar, other_scores
from spex_jax.influence import datamodels
from spex_jax.masks import sampling
from spex_jax.models import mlp


def _planted(num_masks, n, num_targets=2, noise=0.2, keep=0.9, seed=0):
  rng = np.random.default_rng(seed)
  masks = rng.random((num_masks, n)) < keep
  effects = rng.normal(size=(num_targets, n))
  values = 3 + masks @ effects.T
  return masks, values + noise * rng.normal(size=values.shape), effects


def test_least_squares_is_the_textbooks_in_effects():
  masks, values, effects = _planted(400, 6)
  found = coar.fit(masks, values, penalty=0)
  full = np.column_stack([np.ones(400), masks])
  expected = np.linalg.lstsq(full, values)[0]
  np.testing.assert_allclose(found.scores, expected[1:].T, atol=1e-12)
  np.testing.assert_allclose(found.baseline, expected[0], atol=1e-12)
  assert found.std is not None
  assert np.abs((found.scores - effects) / found.std).max() < 5
  # f(kept) - f(dropped), not per deviation of a bit.
  assert np.abs(found.scores - effects).max() < 0.2
  assert found.method == "COAR"


@pytest.mark.parametrize("penalty", [None, 0.0, 0.5])
@pytest.mark.parametrize("tile", [None, 3])
def test_a_stream_is_the_whole(penalty, tile):
  masks, values, _ = _planted(97, 7)
  batches = [
    (masks[start : start + 13], values[start : start + 13])
    for start in range(0, 97, 13)
  ]
  found = coar.stream(batches, penalty=penalty, tile=tile)
  whole = coar.fit(masks, values, penalty=penalty)
  np.testing.assert_allclose(found.scores, whole.scores, atol=1e-5)
  np.testing.assert_allclose(found.baseline, whole.baseline, atol=1e-5)
  if penalty is not None:
    expected = datamodels.least_squares(masks, values)
    if penalty:
      expected = datamodels.ridge(masks, values, penalties=[penalty])
    np.testing.assert_allclose(whole.scores, expected.scores, atol=1e-10)


def test_the_penalty_is_chosen_for_each_target():
  masks, values, _ = _planted(120, 40, noise=0.0)
  values[:, 1] = np.random.default_rng(3).normal(size=120)
  found = coar.fit(masks, values)
  exact = coar.fit(masks, values, penalty=0)
  np.testing.assert_allclose(found.scores[0], exact.scores[0], atol=1e-3)
  assert np.abs(found.scores[1]).max() < 0.3 * np.abs(exact.scores[1]).max()


def test_fewer_masks_than_components_are_answered_by_ridge_and_a_note():
  masks, values, effects = _planted(60, 100, noise=0.0)
  found = coar.fit(masks, values)
  assert found.notes[0].startswith("ridge, because 60 masks are fewer than 100")
  assert "chosen on 12 masks" in found.notes[0]
  assert np.isfinite(found.scores).all() and found.std is None
  # Better than no answer, on fresh masks.
  fresh = np.random.default_rng(9).random((300, 100)) < 0.9
  truth = fresh @ effects.T
  left = (truth - found(fresh)).std(axis=0) / truth.std(axis=0)
  assert (left < 0.95).all()
  with pytest.raises(ValueError, match="penalty=0 asks.*60 masks, 100 compo"):
    coar.fit(masks, values, penalty=0)
  # As many masks as unknowns: one answer, no errors, and no ridge.
  exact = np.vstack([np.ones(4), np.eye(4)]) > 0
  found = coar.fit(exact, exact @ effects[0, :4], penalty=0)
  np.testing.assert_allclose(found.scores[0], effects[0, :4], atol=1e-12)
  assert found.std is None and found.notes == ("5 masks; penalties 0",)


def test_a_component_that_never_varies_has_score_0_and_is_named():
  masks, values, _ = _planted(80, 8)
  masks[:, 2], masks[:, 5] = True, False
  found = coar.fit(masks, values)
  assert not found.scores[:, [2, 5]].any()
  assert "2 of 8 components never vary" in found.notes[0]
  assert "(1 always kept, 1 always dropped)" in found.notes[0]
  assert found.notes[0].endswith("score 0: 2, 5")
  rest = np.delete(masks, [2, 5], axis=1)
  expected = coar.fit(rest, values).scores
  np.testing.assert_allclose(
    np.delete(found.scores, [2, 5], axis=1), expected, atol=1e-10
  )
  flat = coar.fit(np.ones((10, 3), bool), values[:10])
  np.testing.assert_allclose(flat.baseline, values[:10].mean(axis=0))
  assert not flat.scores.any()


def test_an_evaluator_is_asked_for_its_budget_and_no_more():
  asked = []
  effects = np.array([1.0, -2.0, 0.5, 0.0])

  def value_fn(masks):
    asked.append(masks)
    return masks @ effects

  found = coar.attribute(
    value_fn, 4, key=jax.random.key(0), budget=150, keep=0.8, batch_size=64
  )
  assert [len(masks) for masks in asked] == [64, 64, 22]
  np.testing.assert_allclose(found.scores, effects[None], atol=1e-5)
  share = np.concatenate(asked).mean()
  assert abs(share - 0.8) < 5 * np.sqrt(0.8 * 0.2 / 600)
  # A smaller budget is a part of a larger one.
  more = coar.ablations(
    value_fn, 4, key=jax.random.key(0), budget=300, keep=0.8, batch_size=64
  )
  for first, (masks, _) in zip(list(asked), more):
    np.testing.assert_array_equal(first, masks[: len(first)])


def test_in_a_linear_network_regression_recovers_leave_one_out():
  net = mlp.network(mlp.Config(4, 3, widths=(7,), activation="identity"))
  params = jax.jit(net.init)(jax.random.key(1))
  x = np.random.default_rng(0).normal(size=(5, 4)).astype(np.float32)
  players = components.neurons(components.shapes(net, params, features=x))
  value_fn = components.evaluator(
    net,
    players,
    {"features": x},
    readouts.margin(1, rivals=2),
    params=params,
    batch_size=64,
    devices=jax.devices()[:1],
  )
  left_out = other_scores.leave_one_out(value_fn, players.n)
  masks = sampling.biased(jax.random.key(2), 64, players.n, 0.6)
  found = coar.fit(masks, value_fn(masks), penalty=0)
  # Values of size 1 in float32; 64 of them in sums of condition some 10.
  np.testing.assert_allclose(found.scores, left_out.scores, rtol=0, atol=1e-5)
  np.testing.assert_allclose(found.baseline, left_out.baseline, atol=1e-5)
  assert np.abs(left_out.scores).max() > 0.1


def test_a_penalty_too_small_for_float32_says_so():
  masks = np.random.default_rng(0).random((50, 60)) < 0.9
  masks[:, 1] = masks[:, 0]
  values = np.random.default_rng(1).normal(size=(50, 2))
  assert np.isfinite(coar.fit(masks, values, penalty=4e-7).scores).all()
  with pytest.raises(ValueError, match="penalty=4e-07 is too small for a fact"):
    coar.stream([(masks, values)], penalty=4e-7, tile=16)


@pytest.mark.parametrize(
  ("call", "message"),
  [
    (lambda m, v: coar.fit(m, v * np.nan), "NaN or infinity"),
    (lambda m, v: coar.fit(m[:4], v[:4]), "at least 5 masks; got 4"),
    (lambda m, v: coar.stream([]), "at least 5 masks; got 0"),
    (lambda m, v: coar.fit(m, v, penalty=-1.0), "at least 0; got -1"),
    (lambda m, v: coar.fit(m, v[:-1]), "one value per mask"),
    (
      lambda m, v: coar.attribute(
        lambda x: x.sum(axis=1), 3, key=jax.random.key(0), budget=9, keep=1.0
      ),
      "keep=1.0: the share",
    ),
    (
      lambda m, v: coar.attribute(
        lambda x: x.sum(axis=1), 3, key=jax.random.key(0), budget=0
      ),
      "at least 1; got 0",
    ),
  ],
)
def test_bad_input_is_refused(call, message):
  masks, values, _ = _planted(20, 3)
  with pytest.raises(ValueError, match=message):
    call(masks, values)
