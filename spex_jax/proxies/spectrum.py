"""The Fourier coefficients of a Gaussian process: exact, with their errors.

The process is a linear model in all characters (`proxies.gaussian`), so the
coefficients are jointly normal given the values. Any set can be read; nothing
is enumerated here.

Shapes: n players, B masks, K sets, D the largest order.
"""

import chex
import numpy as np

from spex_jax import base
from spex_jax.fourier import regress
from spex_jax.proxies import gaussian


def coefs(posterior: gaussian.Posterior, players: base.Array) -> np.ndarray:
  """Fourier coefficients `[K]` of the posterior mean, exact.

  F(S) = w_S sum_x alpha_x chi_S(x), with the prior variances w_S and the
  weights alpha; the removed mean enters the empty set.

  Args:
    posterior: a process on n players.
    players: int `[K, D]`, padded with n.
  """
  chex.assert_rank(players, 2)
  sums = _project(posterior, players)
  unit = sums * prior_variance(posterior.params, players)
  empty = (np.asarray(players) == posterior.n).all(axis=1)
  return unit * posterior.scale + np.where(empty, posterior.mean, 0.0)


def _project(posterior: gaussian.Posterior, players: base.Array) -> np.ndarray:
  """`[K]` sums of weights times characters."""
  out = np.empty(len(players))
  masks = posterior.signs < 0
  size = max(1, gaussian.CELLS // len(masks))
  with regress.one_blas_thread():
    for first in range(0, len(out), size):
      part = players[first : first + size]
      x = regress.design(masks, part, dtype=np.float64)
      out[first : first + size] = posterior.weights @ x
  return out


def standard_errors(
  posterior: gaussian.Posterior, players: base.Array
) -> np.ndarray:
  """Posterior standard deviations of K coefficients, `[K]`, values' units."""
  chex.assert_rank(players, 2)
  players = np.asarray(players)
  weight = prior_variance(posterior.params, players)
  known = np.empty(len(players))
  masks = posterior.signs < 0
  size = max(1, gaussian.CELLS // (4 * len(masks)))
  for first in range(0, len(players), size):
    part = players[first : first + size]
    x = regress.design(masks, part, dtype=np.float64)
    known[first : first + size] = np.einsum(
      "bk,bk->k", x, posterior.inverse @ x
    )
  left = weight - weight**2 * known
  return np.sqrt(np.maximum(left, 0.0)) * posterior.scale


def levels(params: gaussian.Params) -> tuple[np.ndarray, float]:
  """log rho `[n]`, and log a - sum log(1 + rho): the w of the product part."""
  log_rho = -np.logaddexp(0.0, -params.relevance)
  return log_rho, float(params.amplitude - np.log1p(np.exp(log_rho)).sum())


def prior_variance(params: gaussian.Params, players: base.Array) -> np.ndarray:
  """w_S of K sets, `[K]`, the linear and constant parts included."""
  chex.assert_rank(players, 2)
  players = np.asarray(players)
  n = len(params.relevance)
  sizes = (players < n).sum(axis=1)
  log_rho, level = levels(params)
  out = np.exp(level + np.append(log_rho, 0.0)[players].sum(axis=1))
  if players.shape[1]:
    linear = np.append(np.exp(params.linear), 0.0)
    out += np.where(sizes == 1, linear[players].sum(axis=1), 0.0)
  return out + np.where(sizes == 0, np.exp(params.constant), 0.0)


def energy(posterior: gaussian.Posterior) -> float:
  """Sum of squared coefficients of the posterior mean, without the empty set.

  In units of `scale` squared, so that values of any size have one. Exact, by
  Parseval: the kernel with squared feature weights is a product kernel too.
  """
  params = posterior.params
  log_rho, log_empty = levels(params)
  rho = np.exp(log_rho)
  signs, weights = posterior.signs, posterior.weights
  log_level = 2 * log_empty
  slope = np.arctanh(rho**2)
  level = log_level + 0.5 * np.log1p(-(rho**4)).sum()
  total = 0.0
  size = max(1, gaussian.CELLS // len(weights))
  for first in range(0, len(weights), size):
    rows = signs[first : first + size]
    product = np.exp(level + (rows * slope) @ signs.T)
    total += float(weights[first : first + size] @ (product @ weights))
  singles = signs.T @ weights
  own = np.exp(log_empty) * rho
  linear = np.exp(params.linear)
  total += float(((linear**2 + 2 * own * linear) * singles**2).sum())
  total -= float(np.exp(log_level) * weights.sum() ** 2)
  return max(total, 0.0)
