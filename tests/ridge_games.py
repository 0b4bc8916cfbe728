"""Games whose every value is known: ridge regression on the kept examples."""

import numpy as np

PENALTY = 0.5


def data(num_examples, width=4, num_tests=3, seed=0):
  """Training `x`, `y`, and test points `[T, width]`; float64."""
  rng = np.random.default_rng(seed)
  x = rng.normal(size=(num_examples, width))
  y = x @ rng.normal(size=width) + 0.5 * rng.normal(size=num_examples)
  return x, y, rng.normal(size=(num_tests, width))


def refit(masks, x, y, tests):
  """Predictions float64 `[B, T]` of `sum w (y - x theta)^2 + c |theta|^2`.

  Masks may be weights, any numbers.
  """
  weights = np.asarray(masks, np.float64)
  pairs = (x[:, :, None] * x[:, None]).reshape(len(x), -1)
  grams = (weights @ pairs).reshape(len(weights), *2 * x.shape[1:])
  grams += PENALTY * np.eye(x.shape[1])
  right = weights @ (x * y[:, None])
  return np.linalg.solve(grams, right[:, :, None])[:, :, 0] @ tests.T


def without(subset, x, y, tests):
  """The same without `subset`, by the closed form on the full solution.

  theta - A^-1 X_S' (I - H_SS)^-1 e_S, with the hat matrix H.
  """
  gram = x.T @ x + PENALTY * np.eye(x.shape[1])
  theta = np.linalg.solve(gram, x.T @ y)
  rows = x[subset]
  hat = rows @ np.linalg.solve(gram, rows.T)
  error = y[subset] - rows @ theta
  step = np.linalg.solve(np.eye(len(subset)) - hat, error)
  return (theta - np.linalg.solve(gram, rows.T @ step)) @ tests.T


def banzhaf(masks, values):
  """`[T, n]` means of f with a player less those without, over all masks."""
  return np.stack(
    [values[kept].mean(axis=0) - values[~kept].mean(axis=0) for kept in masks.T]
  ).T


def shapley(masks, values, size_weights=None):
  """`[T, n]` Shapley values by definition, from the table of all masks.

  Args:
    masks: all `[2^n, n]`, row r holding the bits of r.
    values: `[2^n, T]`.
    size_weights: `[n]` weight of a marginal that joins s others, for each s,
      as a multiple of Shapley's 1 / (n C(n - 1, s)).
  """
  n = masks.shape[1]
  weights = np.ones(n) if size_weights is None else np.asarray(size_weights)
  factorial = np.cumprod([1.0, *range(1, n + 1)])
  sizes = np.arange(n)
  weights = weights * factorial[sizes] * factorial[n - 1 - sizes]
  weights /= factorial[n]
  out = np.zeros((values.shape[1], n))
  for player in range(n):
    rows = np.flatnonzero(~masks[:, player])
    gain = values[rows | 1 << player] - values[rows]
    out[:, player] = weights[masks[rows].sum(axis=1)] @ gain
  return out
