"""A Gaussian process whose largest coefficients get a variance of their own.

A product kernel ties the variance of F({i, j}) to rho_i rho_j; real functions
have pairs that matter among players whose other pairs do not. One step of
expectation maximisation on the variance of each of the K largest coefficients
(automatic relevance determination: Tipping 2001, equation 16) replaces the
kernel's w_S by E[F(S)^2] = mean^2 + variance; all other sets keep theirs.

Shapes: n players, B masks, K sets, D the largest order.
"""

from typing import NamedTuple

import chex
import jax
import numpy as np

from spex_jax import base
from spex_jax.fourier import programs, regress, sparse
from spex_jax.masks import padding
from spex_jax.proxies import gaussian, readout, spectrum

_SETS = 1024  # With a variance each.
_LEAST_CANDIDATES = 1 << 13


class Reweighted(NamedTuple):
  """A function, and predictions of each sample without it.

  Attributes:
    fourier: the largest coefficients of the function.
    left_out: `[B]` each value predicted from all others, in their units.
  """

  fourier: sparse.SparseFourier
  left_out: np.ndarray


def fit(
  posterior: gaussian.Posterior,
  masks: base.Masks,
  values: base.Values,
  num_terms: int = _SETS,
) -> Reweighted:
  """Conditions the reweighted process on samples.

  Args:
    posterior: the process whose coefficients give the variances. Where it has
      not seen a value, the `left_out` of that value does not flatter.
    masks: bool `[B, n]`, those of the posterior or more.
    values: `[B]`.
    num_terms: the number of sets of the result besides the empty one.
  """
  # Sets of low prior variance are not among the largest.
  most = max(4 * num_terms, _LEAST_CANDIDATES)
  out = readout.expand(posterior, num_terms, most=most).fourier
  players = np.asarray(out.players)
  own = spectrum.prior_variance(posterior.params, players)
  # The empty set comes first, the others by size.
  changed = np.flatnonzero((players < posterior.n).any(axis=1))[:_SETS]
  mean = np.asarray(out.coefs)[changed] / posterior.scale
  std = spectrum.standard_errors(posterior, players[changed]) / posterior.scale
  variance = own.copy()
  variance[changed] = mean**2 + std**2
  signs = 1.0 - 2.0 * masks
  unit = (values - posterior.mean) / posterior.scale
  x = regress.design(masks, players, dtype=np.float64)
  more = padding.to((variance - own)[changed], _SETS)
  wide, count = padding.signs(signs), len(signs)
  known = padding.to(x[:, changed], len(wide), _SETS)
  with jax.enable_x64(True), regress.one_blas_thread():
    weights, precision = (
      np.asarray(part)[:count]
      for part in _condition(
        gaussian.padded(posterior.params),
        wide,
        padding.to(unit, len(wide)),
        known,
        more,
      )
    )
    sums = weights @ x
  if not np.isfinite(weights).all():
    raise FloatingPointError("The reweighted kernel is not positive definite.")
  empty = (players == posterior.n).all(axis=1)
  coefs = sums * variance * posterior.scale
  coefs += np.where(empty, posterior.mean, 0.0)
  left = (unit - weights / precision) * posterior.scale + posterior.mean
  fourier = sparse.SparseFourier.from_players(posterior.n, players, coefs)
  return Reweighted(fourier, np.asarray(left))


def condition(
  params: gaussian.Params,
  signs: jax.Array,
  values: jax.Array,
  characters: jax.Array,
  more: jax.Array,
) -> tuple[jax.Array, jax.Array]:
  """Weights `[B]` and the diagonal of the inverse `[B]`.

  Args:
    params: the parameters of the kernel.
    signs: `[B, n]`.
    values: `[B]`, standardised.
    characters: `[B, K]` characters of the sets whose variance changes.
    more: `[K]` what is added to those variances; may be negative, as the sum
      stays positive. 0 for padding.
  """
  chex.assert_shape(characters, (len(signs), *more.shape))
  chex.assert_shape(values, signs.shape[:1])
  gram = gaussian.kernel(params, signs, signs)
  gram += (characters * more[None]) @ characters.T
  half = gaussian.inverse_factor(gram, gaussian.noise_of(params, signs))
  return half.T @ (half @ values), (half**2).sum(axis=0)


_condition = programs.Program(condition)
