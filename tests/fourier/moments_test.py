"""Tests of the engine of penalised least squares, by NumPy's own."""

import numpy as np
import pytest

from spex_jax.fourier import moments


def _rows(seed, num_rows, num_columns, num_targets=2):
  rng = np.random.default_rng(seed)
  x = rng.normal(size=(num_rows, num_columns))
  y = x[:, :1] - 2 * x[:, 1:2] + rng.normal(size=(num_rows, num_targets))
  return x, y, rng.uniform(0.1, 3, num_rows)


def test_weights_are_how_often_a_row_counts():
  x, y, _ = _rows(0, 30, 4)
  counts = np.random.default_rng(1).integers(0, 4, 30)
  found = moments.Moments.of(x, y, counts)
  plain = np.repeat(x, counts, axis=0), np.repeat(y, counts, axis=0)
  again = moments.Moments.of(*plain, np.ones(counts.sum()))
  for one, other in zip(found[:3], again[:3], strict=True):
    np.testing.assert_allclose(one, other, atol=1e-12)
  solution = np.linalg.lstsq(*plain, rcond=None)[0]
  np.testing.assert_allclose(found.ridge(), solution, atol=1e-10)
  one = moments.Moments.of(x, y[:, 0], counts)
  np.testing.assert_allclose(one.ridge(), solution[:, 0], atol=1e-10)


def test_a_ridge_is_that_of_more_rows():
  x, y, weights = _rows(2, 30, 4)
  found = moments.Moments.of(x, y, weights).ridge(0.7)
  root = np.sqrt(weights)[:, None]
  rows = np.concatenate([root * x, np.sqrt(0.7) * np.eye(4)])
  values = np.concatenate([root * y, np.zeros((4, 2))])
  expected = np.linalg.lstsq(rows, values, rcond=None)[0]
  np.testing.assert_allclose(found, expected, atol=1e-10)


@pytest.mark.parametrize("shape", [(30, 4), (7, 12), (5, 5), (1, 3)])
def test_one_matrix_is_loaded_for_any_right_sides(shape):
  x, _, _ = _rows(3, *shape) if min(shape) > 1 else (np.ones(shape), 0, 0)
  right = np.random.default_rng(4).normal(size=(shape[1], 3))
  gram = x.T @ x / len(x) + 0.01 * np.eye(shape[1])
  solve = moments.loaded(x, 0.01)
  np.testing.assert_allclose(gram @ solve(right), right, atol=1e-9)
  np.testing.assert_allclose(solve(right[:, 0]), solve(right)[:, 0], atol=1e-9)


def test_of_many_solutions_the_smallest():
  x, y, weights = _rows(5, 6, 9)
  x[:, 8] = x[:, 7]
  found, rank = moments.Moments.of(x, y, weights).least_norm(1e-10)
  root = np.sqrt(weights)[:, None]
  np.testing.assert_allclose(
    found, np.linalg.pinv(root * x) @ (root * y), atol=1e-7
  )
  assert rank == 6
