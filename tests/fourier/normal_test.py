"""Streams of rows against NumPy's least squares on all of them."""

import numpy as np
import pytest

from spex_jax.fourier import normal


def _rows(num_masks=120, n=11, num_targets=3, seed=0, offset=0.0):
  rng = np.random.default_rng(seed)
  x = rng.random((num_masks, n)) < 0.8
  y = x @ rng.normal(size=(n, num_targets))
  return x, y + 0.3 * rng.normal(size=(num_masks, num_targets)) + offset


def _least(x, y, loading=0.0):
  """Weights and constant of ridge, in float64, with all rows at hand."""
  mean_x, mean_y = x.mean(axis=0), y.mean(axis=0)
  loads = np.sqrt(np.broadcast_to(loading, x.shape[1]) * len(x))
  a = np.concatenate([x - mean_x, np.diag(loads)])
  b = np.concatenate([y - mean_y, np.zeros((x.shape[1], y.shape[1]))])
  weights = np.linalg.lstsq(a, b)[0]
  return weights, mean_y - mean_x @ weights


@pytest.mark.parametrize("loading", [0.0, 0.3, np.arange(1, 12) / 10])
def test_chunks_and_merged_parts_give_the_fit_of_all_rows(loading):
  x, y = _rows()
  sums = normal.Normal(11, 3)
  for start in range(0, 120, 50):
    sums.add(x[start : start + 50], y[start : start + 50])
  parts = normal.Normal(11, 3).add(x[70:], y[70:])
  merged = normal.Normal(11, 3).add(x[:70], y[:70]).merge(parts)
  weights, constant = _least(x, y, loading)
  for found in (sums, merged, normal.Normal(11, 3).merge(sums)):
    got = found.solve(loading)
    # Sums of 120 products in float64, and a condition of some 100.
    np.testing.assert_allclose(got, weights, rtol=0, atol=1e-12)
    np.testing.assert_allclose(found.intercept(got), constant, atol=1e-12)
    assert found.count == 120


def test_errors_are_the_textbooks():
  x, y = _rows()
  sums = normal.Normal(11, 3).add(x, y)
  everyone = np.ones(11, bool)
  weights = sums.solve()
  full = np.column_stack([np.ones(120), x])
  inverse = np.linalg.inv(full.T @ full)
  left = ((y - full @ (inverse @ full.T @ y)) ** 2).sum(axis=0) / (120 - 12)
  np.testing.assert_allclose(
    sums.errors(weights, everyone),
    np.sqrt(np.outer(np.diag(inverse)[1:], left)),
    rtol=1e-10,
  )
  few = normal.Normal(11, 3).add(x[:12], y[:12])
  assert few.errors(weights, everyone) is None


@pytest.mark.parametrize("scale", [1e-300, 1e-200, 1e39, 1e160, 1e300])
@pytest.mark.parametrize("first", [0.0, 1e-30, 1.0])
def test_units_do_not_matter(scale, first):
  """Wherever the values were of others in the rows before."""
  x, y = _rows()
  y[:40] *= first
  y[:, 2] /= scale  # This target stays as it is.
  everyone = np.ones(11, bool)
  weights, constant = _least(x, y * [1, 1, scale])
  left = y * [1, 1, scale] - constant - x @ weights
  units = np.array([scale, scale, 1.0])
  inverse = np.linalg.inv((x - x.mean(axis=0)).T @ (x - x.mean(axis=0)))
  std = np.sqrt(np.outer(np.diag(inverse), (left**2).sum(axis=0) / (120 - 12)))
  parts = [
    normal.Normal(11, 3).add(x[rows], y[rows] * scale)
    for rows in (slice(0, 40), slice(40, 120))
  ]
  merge = lambda a, b: normal.Normal(11, 3).merge(a).merge(b)
  in_order = normal.Normal(11, 3)
  for row in range(120):
    in_order.add(x[row : row + 1], y[row : row + 1] * scale)
  for sums in (in_order, merge(*parts), merge(*parts[::-1])):
    found = sums.solve()
    np.testing.assert_allclose(found / units, weights, rtol=0, atol=1e-12)
    np.testing.assert_allclose(
      sums.intercept(found) / units, constant, rtol=0, atol=1e-12
    )
    np.testing.assert_allclose(
      sums.errors(found, everyone) / units, std, rtol=1e-9
    )


@pytest.mark.parametrize("scale", [1e-300, 1e-162, 1e160, 1e300])
def test_the_best_loading_does_not_mind_units(scale):
  x, y = _rows(60, 20, 2)
  y[:, 0] = np.random.default_rng(5).normal(size=60)
  y = np.column_stack([y, np.where(np.arange(60) < 45, 0.0, y[:, 1])])
  grid = [100.0, 1.0, 0.01]
  held = x[45:], y[45:] * scale
  errors = []
  for loading in grid:
    weights, constant = _least(x[:45], y[:45], loading)
    left = y[45:] - constant - x[45:] @ weights
    errors.append(np.sqrt((left**2).mean(axis=0)))
  sums = normal.Normal(20, 3).add(x[:45], y[:45] * scale)
  chosen, least = normal.choose(sums, held, grid)
  assert chosen.tolist() == np.argmin(errors, axis=0).tolist() == [0, 2, 0]
  np.testing.assert_allclose(least / scale, np.min(errors, axis=0), rtol=1e-9)


def test_offsets_cost_no_digits_in_float32():
  x, y = _rows(offset=3e4)
  y = y.astype(np.float32)
  found = normal.Normal(11, 3).add(x[:60], y[:60]).add(x[60:], y[60:])
  got = found.solve()
  expected, constant = _least(x, y.astype(np.float64))
  # Chunks of 60 sums of float32 numbers near 2: 60 roundings of 1e-7, over a
  # smallest eigenvalue of some 10.
  np.testing.assert_allclose(got, expected, rtol=0, atol=1e-5)
  np.testing.assert_allclose(found.intercept(got), constant, rtol=1e-7)


def test_columns_left_out_have_no_weight():
  x, y = _rows()
  x[:, 4] = True
  sums = normal.Normal(11, 3).add(x, y)
  assert sums.varies.tolist() == [i != 4 for i in range(11)]
  assert sums.solve() is None
  got = sums.solve(0.0, sums.varies)
  np.testing.assert_allclose(got[sums.varies], _least(x[:, sums.varies], y)[0])
  assert not got[4].any()
  assert not sums.errors(got, sums.varies)[4].any()


def test_too_few_rows_and_twins_have_no_single_answer():
  x, y = _rows()
  assert normal.Normal(11, 3).add(x[:11], y[:11]).solve() is None
  x[:, 3] = x[:, 2]
  sums = normal.Normal(11, 3).add(x, y)
  assert sums.solve() is None
  np.testing.assert_allclose(sums.solve(0.1), _least(x, y, 0.1)[0], atol=1e-12)


@pytest.mark.parametrize("tile", [4, 20])
def test_tiles_are_the_host(tile):
  x, y = _rows()
  x[:, 7] = False
  host = normal.Normal(11, 3).add(x, y)
  tiles = normal.Normal(11, 3, tile=tile).add(x[:70], y[:70])
  tiles.merge(normal.Normal(11, 3, tile=tile).add(x[70:], y[70:]))
  for loading, among in ((0.2, None), (0.0, host.varies)):
    expected = host.solve(loading, among)
    # Values in float32, and refined until 1e-12.
    np.testing.assert_allclose(
      tiles.solve(loading, among), expected, rtol=0, atol=1e-5
    )
  assert tiles.solve() is None
  assert tiles.errors(expected, host.varies) is None


def test_real_columns():
  rng = np.random.default_rng(1)
  x, y = rng.normal(size=(40, 3)) + 5, rng.normal(size=(40, 2))
  sums = normal.Normal(3, 2).add(x, y)
  np.testing.assert_allclose(sums.solve(), _least(x, y)[0], atol=1e-10)


def test_the_best_loading_for_each_target():
  x, y = _rows(60, 20, 2)
  y[:, 0] = x[:, 0] * 2.0  # Exact.
  y[:, 1] = np.random.default_rng(5).normal(size=60)  # Nothing but noise.
  sums = normal.Normal(20, 2).add(x[:45], y[:45])
  held = x[45:], y[45:]
  grid = [100.0, 1.0, 0.0]
  chosen, errors = normal.choose(sums, held, grid)
  assert chosen.tolist() == [2, 0]
  for target, loading in ((0, 0.0), (1, 100.0)):
    weights, constant = _least(x[:45], y[:45], loading)
    guess = constant + held[0] @ weights
    expected = np.sqrt(((held[1] - guess) ** 2).mean(axis=0)[target])
    np.testing.assert_allclose(errors[target], expected, atol=1e-12)
  few = normal.Normal(20, 2).add(x[:9], y[:9])
  with pytest.raises(ValueError, match="No loading gave a unique fit"):
    normal.choose(few, held, [0.0])


@pytest.mark.parametrize(
  ("call", "error", "message"),
  [
    (lambda x, y: normal.Normal(0, 1), ValueError, "n >= 1 and T >= 1"),
    (
      lambda x, y: normal.Normal(11, 3).add(x[:, 1:], y),
      ValueError,
      r"x \[b, 11\]",
    ),
    (
      lambda x, y: normal.Normal(11, 3).add(x, y * np.nan),
      ValueError,
      "NaN or infinity",
    ),
    (lambda x, y: normal.Normal(11, 3).solve(), ValueError, "No rows"),
    (
      lambda x, y: normal.Normal(11, 3).add(x, y).solve(-1.0),
      ValueError,
      "at least 0",
    ),
    (
      lambda x, y: normal.Normal(11, 3).merge(normal.Normal(11, 2)),
      ValueError,
      "3 targets cannot take in",
    ),
    (
      lambda x, y: normal.Normal(11, 3).merge(normal.Normal(11, 3, tile=4)),
      ValueError,
      "do not merge",
    ),
    (
      lambda x, y: normal.Normal(11, 3, tile=4).merge(
        normal.Normal(11, 3, tile=5)
      ),
      ValueError,
      "another side",
    ),
    (
      lambda x, y: normal.Normal(11, 3, tile=0),
      ValueError,
      "side of at least 1",
    ),
    (
      lambda x, y: normal.Normal(11, 3, tile=4).add(x * 0.5, y),
      TypeError,
      "sums of masks; got float64",
    ),
  ],
)
def test_bad_input_is_refused(call, error, message):
  with pytest.raises(error, match=message):
    call(*_rows())
