"""No decoder minds the offset or the units of a function's values.

Beside an offset of 1e11 float64 resolves 1.5e-5: that much of noise, and no
more, may an answer take up; a change of units costs rounding alone.
"""

import functools

import jax
import numpy as np
import pytest

import spex_jax as spex
from spex_jax.components import coar, component_pairs
from spex_jax.influence import datamodels, semivalues
from spex_jax.masks import sampling

_N, _BUDGET = 8, 200
_METHODS = (
  "auto", "gram", "lasso", "exact", "occlusion", "lime", "kernelshap",
  *(pytest.param(method, marks=pytest.mark.slow)
    for method in ("spex", "proxyspex", "gaussian")),
)  # fmt: skip
_CHANGES = ((1.0, 1e9), (1.0, -1e11), (1e-9, 0.0), (1e9, 0.0), (1e-9, -10.0))


def _function(masks):
  return (
    masks[:, 0]
    - 2.0 * masks[:, 1]
    + 3.0 * (masks[:, 2] & masks[:, 3])
    + 1.5 * (masks[:, 4] & masks[:, 5] & masks[:, 6])
  )


@functools.cache
def _explained(method, scale, offset):
  n = 6 if method == "exact" else _N
  value = _function
  if n < _N:
    value = lambda m: m[:, 0] - 2.0 * (m[:, 1] & m[:, 4])
  return spex.explain(
    lambda m: scale * value(m) + offset,
    n,
    budget=_BUDGET,
    key=jax.random.key(0),
    method=method,
    max_order=2 if method == "spex" else None,
  )


@pytest.mark.slow_where(
  "1e-09", "1.0--100000000000.0", "1000000000.0-kernelshap"
)
@pytest.mark.parametrize("method", _METHODS)
@pytest.mark.parametrize("scale, offset", _CHANGES)
def test_offset_and_units_change_nothing(method, scale, offset):
  plain = _explained(method, 1.0, 0.0)
  other = _explained(method, scale, offset)
  # What float64 leaves of the values, a few times; float32 within decoders.
  lost = np.spacing(abs(offset)) / scale
  near = 1e-3 + 20 * lost
  assert other.faithfulness == pytest.approx(plain.faithfulness, abs=near)
  if method in ("exact", "gram", "occlusion", "lime", "kernelshap"):
    sets = [{s for s, _ in one.fourier.terms() if s} for one in (plain, other)]
    assert sets[0] == sets[1]
  expected, found = (one.interactions("SV") for one in (plain, other))
  for player in range(plain.fourier.n):
    assert found[player] / scale == pytest.approx(expected[player], abs=near)
  np.testing.assert_allclose(
    (other.fourier(np.ones((1, plain.fourier.n), bool)) - offset) / scale,
    plain.fourier(np.ones((1, plain.fourier.n), bool)),
    atol=near,
  )
  assert other.noise_floor == 0
  assert not any("determin" in note for note in other.notes)


@pytest.mark.parametrize("offset", [3e9, -1e11])
def test_regressions_on_masks_do_not_mind_an_offset(offset):
  masks = np.random.default_rng(0).random((120, _N)) < 0.5
  values = _function(masks)
  for fit in (datamodels.ridge, datamodels.lasso, coar.fit):
    plain, other = fit(masks, values), fit(masks, values + offset)
    np.testing.assert_allclose(other.scores, plain.scores, atol=1e-3)


_SCALES = (1e-290, 1e-200, 1e-162, 1e39, 1e160, 1e290)


def _noisy(num_masks=40, n=6):
  """Two targets, one of them nothing but noise; and what they are of."""
  rng = np.random.default_rng(2)
  masks = rng.random((num_masks, n)) < 0.6
  values = rng.normal(size=(num_masks, 2))
  values[:, 0] += masks @ np.arange(n) + 3
  return masks, values


def _ridge(masks, values, penalty):
  """Weights `[n, T]` and the constant of the definition's normal equations."""
  x, mean = masks - masks.mean(axis=0), values.mean(axis=0)
  loading = penalty / 4 * len(x) * np.eye(x.shape[1])
  weights = np.linalg.solve(x.T @ x + loading, x.T @ (values - mean))
  return weights, mean - masks.mean(axis=0) @ weights


def _chosen_ridge(masks, values):
  """For each target the penalty whose left-out errors are the least."""
  num_masks, errors = len(masks), []
  for penalty in datamodels.PENALTIES:
    left = []
    for row in range(num_masks):
      rest = np.arange(num_masks) != row
      # The loading is of the whole sum.
      more = penalty * num_masks / (num_masks - 1)
      weights, constant = _ridge(masks[rest], values[rest], more)
      left.append(values[row] - constant - masks[row] @ weights)
    errors.append(np.square(left).mean(axis=0))
  best = np.argmin(errors, axis=0)
  assert best[0] != best[1]
  fits = [_ridge(masks, values, datamodels.PENALTIES[k]) for k in best]
  scores = np.array([fit[0][:, t] for t, fit in enumerate(fits)])
  return scores, np.array([fit[1][t] for t, fit in enumerate(fits)]), None


def _textbook(masks, values):
  x = np.column_stack([np.ones(len(masks)), masks])
  inverse = np.linalg.inv(x.T @ x)
  coefs = inverse @ x.T @ values
  left = ((values - x @ coefs) ** 2).sum(axis=0) / (len(x) - x.shape[1])
  std = np.sqrt(np.outer(left, np.diag(inverse)[1:]))
  return coefs[1:].T, coefs[0], std


def _differences(masks, values):
  means, variances = [], []
  for kept in (masks, ~masks):
    parts = [values[rows] for rows in kept.T]
    means.append([part.mean(axis=0) for part in parts])
    variances.append([part.var(axis=0, ddof=1) / len(part) for part in parts])
  scores = np.subtract(*means).T
  baseline = values.mean(axis=0) - scores @ masks.mean(axis=0)
  return scores, baseline, np.sqrt(np.sum(variances, axis=0)).T


def _least_norm(masks, values):
  twins = np.column_stack([masks, masks])
  weights = np.linalg.lstsq(twins - twins.mean(axis=0), values)[0]
  return weights.T, values.mean(axis=0) - twins.mean(axis=0) @ weights, None


@pytest.mark.parametrize("scale", _SCALES)
@pytest.mark.parametrize(
  "fit, oracle",
  [
    (datamodels.ridge, _chosen_ridge),
    (datamodels.least_squares, _textbook),
    (functools.partial(coar.fit, penalty=0), _textbook),
    (semivalues.banzhaf, _differences),
    (
      lambda m, v: datamodels.least_squares(np.column_stack([m, m]), v),
      _least_norm,
    ),
  ],
  ids=["ridge", "least squares", "coar", "banzhaf", "least norm"],
)
def test_regressions_on_masks_do_not_mind_units(fit, oracle, scale):
  masks, values = _noisy()
  scores, baseline, std = oracle(masks, values)
  # A target that is of other units, and one that says nothing of any.
  more = np.column_stack([scale * values, values[:, 0], np.full(len(masks), 7)])
  found = fit(masks, more)
  close = functools.partial(np.testing.assert_allclose, rtol=1e-9, atol=1e-12)
  close(found.scores[:2] / scale, scores)
  close(found.baseline[:2] / scale, baseline)
  close(found.scores[2], scores[0])
  close(found.scores[3], 0)
  close(found.baseline[2:], [baseline[0], 7])
  assert (found.std is None) == (std is None)
  if std is not None:
    close(found.std[:2] / scale, std)
    close(found.std[2], std[0])


@pytest.mark.parametrize("scale", _SCALES)
@pytest.mark.parametrize("tile", [None, 3])
def test_penalties_of_streams_do_not_mind_units(tile, scale):
  masks, values = _noisy(97)
  # The first batch holds nothing, or less than what follows.
  first = np.array([0, 1e-7])
  batches = [(masks[:5], first * values[:5]), (masks[5:], values[5:])]
  plain = coar.stream(batches)
  found = coar.stream([(m, scale * v) for m, v in batches], tile=tile)
  # With tiles 92 values of up to 20 are summed in float32, to 1e-4; the least
  # eigenvalue is some 10.
  close = functools.partial(np.testing.assert_allclose, rtol=1e-9, atol=1e-12)
  if tile:
    close = functools.partial(np.testing.assert_allclose, atol=5e-5)
  close(found.scores / scale, plain.scores)
  close(found.baseline / scale, plain.baseline)
  assert found.notes == plain.notes


@pytest.mark.parametrize("scale", _SCALES)
def test_pairs_do_not_mind_units(scale):
  masks, values = _noisy(120)
  values[:, 0] += 4.0 * masks[:, 1] * masks[:, 2]
  plain = component_pairs.fit(masks, values, most_pairs=4)
  constant = np.full(len(masks), 7)
  more = np.column_stack([scale * values, constant])
  found = component_pairs.fit(masks, more, most_pairs=4)
  np.testing.assert_array_equal(found.pairs, plain.pairs)
  assert plain.weights[0].any()
  for one, other in ((found.mean, plain.mean), (found.singles, plain.singles),
                     (found.weights, plain.weights)):  # fmt: skip
    np.testing.assert_allclose(one[:2] / scale, other, rtol=1e-9, atol=1e-12)
  assert found.mean[2] == 7 and not found.singles[2].any()
  alone = component_pairs.fit(masks, scale * values, most_pairs=4)
  assert alone.notes == plain.notes


@pytest.mark.parametrize("scale", _SCALES)
def test_leaving_one_out_and_orders_do_not_mind_units(scale):
  rng = np.random.default_rng(0)
  masks = np.tile(sampling.leave_one_out(3), (5, 1))
  values = masks @ [1.0, -2.0, 0.5] + 0.1 * rng.normal(size=len(masks))
  fits = [
    lambda by: datamodels.leave_one_out(masks, by * values),
    # The first players of an order add nothing.
    lambda by: (
      semivalues.by_permutations(
        lambda m: by * np.maximum(m @ np.arange(1.0, 6.0) - 4, 0) ** 2,
        5,
        key=jax.random.key(0),
        num_permutations=20,
        stride=1,
      ).attribution
    ),
  ]
  for fit in fits:
    plain, other = fit(1.0), fit(scale)
    assert (plain.std > 0).all()
    np.testing.assert_allclose(other.scores / scale, plain.scores, rtol=1e-9)
    np.testing.assert_allclose(other.std / scale, plain.std, rtol=1e-9)


def test_a_goal_is_not_met_by_an_offset():
  asked = [
    spex.explain(
      lambda m, by=by: _function(m) + by,
      _N,
      key=jax.random.key(0),
      budget=250,
      method="lasso",
      max_order=1,
      target_faithfulness=0.99,
    )
    for by in (0.0, 1e10)
  ]
  assert asked[0].num_evaluations == asked[1].num_evaluations == 250
  assert "NOT reached" in asked[1].notes[0]


def test_noise_is_not_hidden_by_an_offset():
  rng = np.random.default_rng(0)
  noisy = lambda m: _function(m) + 1e9 + rng.normal(size=len(m))
  answer = spex.explain(
    noisy, _N, key=jax.random.key(0), budget=150, method="lasso"
  )
  assert 0.1 < answer.noise_floor < 3
  assert any("not deterministic" in note for note in answer.notes)


def test_an_expansion_that_knows_nothing_has_no_r2():
  constant = spex.SparseFourier.from_terms(_N, [((), 1e10)])
  answer = spex.assess(
    lambda m: _function(m) + 1e10, constant, key=jax.random.key(0)
  )
  assert answer.faithfulness <= 0
