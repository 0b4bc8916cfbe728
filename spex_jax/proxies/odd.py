"""A Gaussian process on odd functions, and the semivalues of its mean.

Half the difference of a mask and its complement, g(m) = (f(m) - f(not m)) / 2,
holds the odd orders of f alone, and so do Shapley and Banzhaf values:

  phi_i = -2 sum_{S with i} F(S) E q^(|S| - 1),

q uniform on [-1, 1] for Shapley, 0 for Banzhaf (`indices.cardinal`). So the
process has the odd part of the product kernel of `proxies.gaussian`: with
s = 1 - 2 m and relevances 0 <= rho_i < 1,

  k(s, s') = a sinh(sum_i atanh(rho_i) s_i s'_i) prod_i c_i
             + sum_i l_i s_i s'_i,   c_i = sqrt(1 - rho_i^2) / (1 + rho_i).

As a function of s, exp(u s) is the product of cosh(u_j) (1 + tanh(u_j) s_j),
whose semivalues are integrals of a polynomial in q: those of the posterior mean
are known in closed form (Gauss-Legendre; exact up to 127 players, beyond which
64 nodes stand for more). Parameters are those of `gaussian` but b and the
directions, and are tuned as there.

Shapes: n players, B pairs.
"""

from typing import NamedTuple

import chex
import jax
import jax.numpy as jnp
import numpy as np

from spex_jax import base
from spex_jax.fourier import programs, regress
from spex_jax.masks import padding
from spex_jax.proxies import annealing, gaussian

MOST_PAIRS = 2048  # That a process sees; an inverse takes about 0.3 s.
_ROUNDS = ((256, 60, 0.15), (512, 25, 0.06))  # Pairs, steps, rate.
_SPREAD = 1.25  # Of log l_i and logit rho_i about their means.
_MOST_NODES = 64

Law = tuple[np.ndarray, np.ndarray]  # Nodes and weights of q.


class Surrogate(NamedTuple):
  """What a process says of g and of the semivalues of f.

  Attributes:
    fitted: float64 `[B]` the posterior mean at the pairs.
    left_out: `[B]` the same without the pair's own value.
    values: `[n]` semivalues of the posterior mean.
    noise_std: standard deviation of the noise of g.
  """

  fitted: np.ndarray
  left_out: np.ndarray
  values: np.ndarray
  noise_std: float


def kernel(
  params: gaussian.Params, left: jax.Array, right: jax.Array
) -> jax.Array:
  """k of signs `[B, n]` and `[B', n]`: `[B, B']`; 0 for rows of zeros."""
  chex.assert_shape([left, right], (None, len(params.relevance)))
  chex.assert_type([left, right], float)
  tilt, level = gaussian.exponent(params, left)
  linear = (left * jnp.exp(params.linear)[None]) @ right.T
  return jnp.exp(level) * jnp.sinh(tilt @ right.T) + linear


def _noise(params, noisy):
  """1 of padding, whose `noisy` is -1."""
  chex.assert_rank(noisy, 1)
  noise = jnp.where(noisy > 0, jnp.exp(params.noise), 0.0)
  return jnp.where(noisy < 0, 1.0, noise + gaussian.LEAST_NOISE)


def objective(
  params: gaussian.Params,
  signs: jax.Array,
  values: jax.Array,
  noisy: jax.Array,
) -> jax.Array:
  """Negative log posterior of the parameters, in nats, up to a constant.

  Args:
    params: the parameters of the prior.
    signs: `[B, n]`; rows and columns of zeros are padding (`masks.padding`).
    values: `[B]` g, scaled to mean square 1; 0 for padding.
    noisy: `[B]`, 1 for values with noise, 0 for those that are exact, -1 for
      padding.
  """
  chex.assert_shape([values, noisy], signs.shape[:1])
  chex.assert_type([signs, values, noisy], float)
  gram = kernel(params, signs, signs)
  nats = gaussian.evidence(gram, _noise(params, noisy), values)
  return nats + gaussian.prior(params, signs, _SPREAD, noise=-6.0)


@programs.Program
def _tune(params, signs, values, noisy, steps, rate):
  """The last parameters that were finite."""
  chex.assert_rank([signs, values, noisy], [2, 1, 1])
  return annealing.descend(
    lambda params: objective(params, signs, values, noisy), params, steps, rate
  )[0]


@programs.Program
def _condition(params, signs, values, noisy):
  """Weights, diagonal of (K + noise)^-1, and posterior mean, each `[B]`."""
  chex.assert_rank([signs, values, noisy], [2, 1, 1])
  gram = kernel(params, signs, signs)
  half = gaussian.inverse_factor(gram, _noise(params, noisy))
  weights = half.T @ (half @ values)
  return weights, jnp.sum(half**2, axis=0), gram @ weights


_kernel = jax.jit(kernel)


def _padded(signs, values, noisy):
  """With rows and columns of zeros: fewer programs to compile."""
  size = padding.rows(len(values))
  more = size - len(values)
  return (
    padding.signs(signs),
    padding.to(values, size),
    np.pad(noisy, (0, more), constant_values=-1.0),
  )


def fit(
  masks: base.Masks,
  halves: base.Values,
  exact: base.Array,
  law: Law,
) -> Surrogate:
  """Tunes the parameters, conditions on g, and reads semivalues.

  Args:
    masks: bool `[B, n]`, one of each pair, B >= 1, n >= 1, in an order that
      the values do not know.
    halves: `[B]` g, finite, not all 0.
    exact: bool `[B]`, pairs that the mean must meet, whatever the noise.
    law: nodes and weights of q, of `shapley_law` or `banzhaf_law`.

  Raises:
    ValueError: shapes that differ, or values that are not finite.
    FloatingPointError: a kernel matrix that float64 cannot factorise.
  """
  masks = base.check_masks(masks)
  halves = base.check_values(halves, len(masks))
  n, signs = masks.shape[1], 1.0 - 2.0 * masks
  top = np.abs(halves).max()
  scale = top * np.sqrt(np.mean((halves / top) ** 2))
  unit, noisy = halves / scale, np.where(exact, 0.0, 1.0)
  width = padding.columns(n)
  params = gaussian.start(n)
  params = params._replace(
    linear=padding.to(params.linear, width),
    relevance=padding.to(params.relevance, width),
    noise=np.full((), np.log(0.01)),
  )
  seen = slice(0, MOST_PAIRS)
  with jax.enable_x64(True), regress.one_blas_thread():
    for count, steps, rate in _ROUNDS:
      rows = slice(0, count)
      part = _padded(signs[rows], unit[rows], noisy[rows])
      params = _tune(params, *part, steps, rate)
    part = _padded(signs[seen], unit[seen], noisy[seen])
    weights, precision, mean = map(np.asarray, _condition(params, *part))
    if not np.isfinite(weights).all():
      raise FloatingPointError(
        "The kernel matrix is not positive definite to float64's precision."
      )
    params = jax.tree.map(np.asarray, params)
    count = len(unit[seen])
    fitted, left_out = np.empty((2, len(unit)))
    fitted[seen] = mean[:count]
    left_out[seen] = unit[seen] - (weights / precision)[:count]
    for first in range(count, len(unit), MOST_PAIRS):
      rows = slice(first, first + MOST_PAIRS)
      left = padding.signs(signs[rows])
      guess = np.asarray(_kernel(params, left, part[0])) @ weights
      fitted[rows] = left_out[rows] = guess[: len(unit[rows])]
    params = params._replace(
      linear=params.linear[:n], relevance=params.relevance[:n]
    )
    values = semivalues(params, signs[seen], weights[:count], law)
  noise = float(np.sqrt(np.exp(params.noise))) * scale
  return Surrogate(fitted * scale, left_out * scale, values * scale, noise)


def semivalues(
  params: gaussian.Params, signs: np.ndarray, weights: np.ndarray, law: Law
) -> np.ndarray:
  """Semivalues float64 `[n]` of the function sum_b weights_b k(., signs_b).

  Args:
    params: the parameters of the kernel.
    signs: `[B, n]`.
    weights: `[B]`.
    law: nodes and weights of q.
  """
  chex.assert_shape(signs, (len(weights), None))
  parts = gaussian.exponent(params, jnp.asarray(signs))
  tilt, level = map(np.asarray, parts)
  slope = np.tanh(tilt)
  size = gaussian.log_cosh(tilt).sum(axis=1)
  mean = np.zeros_like(slope)
  for q, weight in zip(*law):
    others = 1 + q * slope
    log_product = np.log(others).sum(axis=1)
    mean += weight * np.exp(level + size + log_product)[:, None] / others
  linear = np.exp(params.linear) * signs
  return -2 * weights @ (slope * mean + linear)


def shapley_law(n: int) -> Law:
  """Nodes and weights of q uniform on [-1, 1]."""
  nodes, weights = np.polynomial.legendre.leggauss(min(n // 2 + 1, _MOST_NODES))
  return nodes, weights / 2


def banzhaf_law(n: int) -> Law:
  """q is 0: masks are uniform."""
  del n
  return np.zeros(1), np.ones(1)
