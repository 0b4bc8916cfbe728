"""A Gaussian process on odd functions, and the semivalues of its mean.

Half the difference of a mask and its complement, g(m) = (f(m) - f(not m)) / 2,
holds the odd orders of f alone, and so do Shapley and Banzhaf values:

  phi_i = -2 sum_{S with i} F(S) E q^(|S| - 1),

q uniform on [-1, 1] for Shapley, 0 for Banzhaf (`indices.cardinal`). So the
process has the odd part, as a function of s = 1 - 2 m, of the product kernel of
`proxies.gaussian` times one of a sum over players z = sum_i b_i s_i,

  k(s, s') = a odd[prod_i (1 + rho_i s_i s'_i) / (1 + rho_i) K(z - z')]
             + sum_i l_i s_i s'_i,   K(d) = 1 - t + t exp(-d^2 / 2).

What b and t add are functions with a step or a bend along one direction of the
players, as a vote has, whose products of all orders go together. With
u_i = atanh(rho_i) s'_i the product is exp(u s) but for a constant, and K is a
sum of cosines of w (z - z'), to rounding. So k is a sum of exp(v s) with
v = u + i w b, each the product of cosh v_j + s_j sinh v_j, whose semivalues are
integrals of a polynomial in q: those of the posterior mean are known in closed
form (Gauss-Legendre; exact up to 127 players, beyond which 64 nodes stand for
more).

A step is met by many b, so that a value left out by parameters which have seen
it tells no error: they are tuned without each of a few groups of pairs in turn,
a process answers for its own group, and values are means over processes. Of few
pairs, which may not tell b, others without it are heard as far as they leave
less, out of fold.

Shapes: n players, B pairs.
"""

from typing import NamedTuple

import chex
import jax
import jax.numpy as jnp
import numpy as np

from spex_jax import base
from spex_jax.fourier import moments, programs, regress
from spex_jax.masks import padding
from spex_jax.proxies import annealing, gaussian

MOST_PAIRS = 2048  # That a process sees; an inverse takes about 0.3 s.
_ROUNDS = ((256, 60, 0.15), (512, 8, 0.06))  # Pairs, steps, rate.
_FEW_PAIRS = 128  # Up to so many, processes without b are heard, too.
_GROUPS = ((_FEW_PAIRS, 8), (512, 4))  # Up to so many pairs, groups.
_FEWEST_GROUPS = 2  # Of more pairs.
_SPREAD = 1.25  # Of log l_i and logit rho_i about their means.
_MOST_NODES = 64
_MOST_TURNED = 32  # Players of which b is learnt: frequencies cost.
_TURNED_EACH = 3  # Pairs for each player, of which it is learnt.
_TOP_FREQUENCY = 7.0  # exp(-w^2 / 2) is 2e-11.
_APART = 8.0  # exp(-d^2 / 2) is 1e-14.

Law = tuple[np.ndarray, np.ndarray]  # Nodes and weights of q.


class Params(NamedTuple):
  """Parameters of the prior; any number is allowed.

  Attributes:
    product: those of the product kernel, without directions; `constant` is
      not used.
    index: `[n]` b, but for its size; all 0 leaves the product kernel.
    size: log of the size of b.
    share: logit of t.
  """

  product: gaussian.Params
  index: base.Array
  size: base.Array
  share: base.Array


class Surrogate(NamedTuple):
  """What processes say of g and of the semivalues of f, in the mean.

  Attributes:
    fitted: float64 `[B]` the posterior mean at the pairs.
    left_out: `[B]` the same by a process that has not seen the pair's value,
      neither in its parameters nor in what it is conditioned on; of few pairs
      all tell how much processes without b are heard.
    values: `[n]` semivalues of the posterior mean.
    noise_std: standard deviation of the noise of g.
  """

  fitted: np.ndarray
  left_out: np.ndarray
  values: np.ndarray
  noise_std: float


def kernel(params: Params, left: jax.Array, right: jax.Array) -> jax.Array:
  """k of signs `[B, n]` and `[B', n]`: `[B, B']`; 0 for rows of zeros."""
  chex.assert_shape([left, right], (None, len(params.index)))
  chex.assert_type([left, right], float)
  tilt, level = gaussian.exponent(params.product, left)
  along = tilt @ right.T
  index = jnp.exp(params.size) * params.index
  z, other = (left @ index)[:, None], (right @ index)[None]
  share = jax.nn.sigmoid(params.share)
  near = 1 - share + share * jnp.exp(-0.5 * (z - other) ** 2)
  far = 1 - share + share * jnp.exp(-0.5 * (z + other) ** 2)
  odd = jnp.exp(level + along) * near - jnp.exp(level - along) * far
  linear = (left * jnp.exp(params.product.linear)[None]) @ right.T
  return odd / 2 + linear


def _noise(params, noisy):
  """1 of padding, whose `noisy` is -1."""
  chex.assert_rank(noisy, 1)
  noise = jnp.where(noisy > 0, jnp.exp(params.product.noise), 0.0)
  return jnp.where(noisy < 0, 1.0, noise + gaussian.LEAST_NOISE)


def objective(
  params: Params,
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
  nats += gaussian.prior(params.product, signs, _SPREAD, noise=-6.0)
  # A standard normal b, of a size that gives z one of 1 or so.
  size = params.size + jnp.log(gaussian.real_players(signs).sum()) / 2
  nats += (params.index @ params.index + size**2) / 2
  return nats + ((params.share + 1) / 2) ** 2 / 2


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


def _start(signs, values, width, turned):
  """Where a fit begins: b along the regression of players, or 0 for good."""
  n, product = signs.shape[1], gaussian.start(signs.shape[1])
  index = np.zeros(n)
  if turned:
    right = signs.T @ values / len(values)
    index = moments.loaded(signs, 0.01)(right)
    index /= np.sqrt((index**2).mean()) or 1.0
  return Params(
    product._replace(
      linear=padding.to(product.linear, width),
      relevance=padding.to(product.relevance, width),
      noise=np.full((), np.log(0.01)),
    ),
    padding.to(index, width),
    np.full((), -np.log(n) / 2),
    np.full((), -1.0),
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
    exact: bool `[B]`, pairs that the mean must meet, whatever the noise; all
      groups have them.
    law: nodes and weights of q, of `shapley_law` or `banzhaf_law`.

  Raises:
    ValueError: shapes that differ, or values that are not finite.
    FloatingPointError: a kernel matrix that float64 cannot factorise.
  """
  masks = base.check_masks(masks)
  halves = base.check_values(halves, len(masks))
  signs = 1.0 - 2.0 * masks
  top = np.abs(halves).max()
  scale = top * np.sqrt(np.mean((halves / top) ** 2))
  unit, noisy = halves / scale, np.where(exact, 0.0, 1.0)
  count, n = masks.shape
  turned = [n <= _MOST_TURNED and count >= _TURNED_EACH * n]
  if turned[0] and count <= _FEW_PAIRS:
    turned = [False, True]
  with jax.enable_x64(True), regress.one_blas_thread():
    found = [_by_groups(signs, unit, noisy, law, each) for each in turned]
  first, last = found[0], found[-1]
  # What leaves least, out of fold, between the two.
  apart = last.left_out - first.left_out
  share = apart @ (unit - first.left_out) / ((apart @ apart) or 1.0)
  share = np.clip(share, 0, 1)
  mixed = [a + share * (b - a) for a, b in zip(first, last)]
  return Surrogate(*(scale * part for part in mixed))


def _by_groups(signs, unit, noisy, law, turned):
  """A `Surrogate` of unit values by processes tuned without each group."""
  count = next((g for most, g in _GROUPS if len(unit) <= most), _FEWEST_GROUPS)
  exact = noisy == 0
  groups = np.where(exact, -1, np.arange(len(unit)) % count)
  parts, left_out = [], np.zeros(len(unit))
  for group in range(count):
    own = groups == group
    part, alone = _process(signs, unit, noisy, ~own, law, turned)
    left_out[own | exact] = alone[own | exact]
    parts.append(part)
  fitted, values, noise = (np.mean(part, axis=0) for part in zip(*parts))
  return Surrogate(fitted, left_out, values, float(noise))


def _process(signs, unit, noisy, tuned, law, turned):
  """Of one process: fitted, semivalues and noise; and left-out values.

  Args:
    signs: `[B, n]`.
    unit: `[B]` g, of mean square 1.
    noisy: `[B]` as for `objective`.
    tuned: bool `[B]`, the pairs that its parameters are tuned on.
    law: nodes and weights of q.
    turned: whether b is learnt.
  """
  n, rows = signs.shape[1], np.flatnonzero(tuned)
  params = _start(signs[rows], unit[rows], padding.columns(n), turned)
  for count, steps, rate in _ROUNDS:
    some = rows[:count]
    part = _padded(signs[some], unit[some], noisy[some])
    params = _tune(params, *part, steps, rate)
  seen = slice(0, MOST_PAIRS)
  part = _padded(signs[seen], unit[seen], noisy[seen])
  weights, precision, mean = map(np.asarray, _condition(params, *part))
  if not np.isfinite(weights).all():
    raise FloatingPointError(
      "The kernel matrix is not positive definite to float64's precision."
    )
  count = len(unit[seen])
  fitted, alone = np.empty((2, len(unit)))
  fitted[seen] = mean[:count]
  alone[seen] = unit[seen] - (weights / precision)[:count]
  for first in range(count, len(unit), MOST_PAIRS):
    rest = slice(first, first + MOST_PAIRS)
    left = padding.signs(signs[rest])
    guess = np.asarray(_kernel(params, left, part[0])) @ weights
    fitted[rest] = alone[rest] = guess[: len(unit[rest])]
  params = jax.tree.map(np.asarray, params)
  product = params.product._replace(
    linear=params.product.linear[:n], relevance=params.product.relevance[:n]
  )
  params = params._replace(product=product, index=params.index[:n])
  values = semivalues(params, signs[seen], weights[:count], law)
  return (fitted, values, np.sqrt(np.exp(product.noise))), alone


def _cosines(share, reach):
  """Frequencies and weights `[K]` of K(d), for |d| up to `reach`.

  The trapezoidal rule of the normal density, whose error is what K has at the
  period's distance.
  """
  if not reach:
    return np.zeros(1), np.ones(1)
  step = 2 * np.pi / (reach + _APART)
  frequencies = step * np.arange(int(_TOP_FREQUENCY / step) + 1)
  weights = step * np.sqrt(2 / np.pi) * np.exp(-(frequencies**2) / 2) * share
  weights[0] = weights[0] / 2 + 1 - share
  return frequencies, weights


def semivalues(
  params: Params, signs: np.ndarray, weights: np.ndarray, law: Law
) -> np.ndarray:
  """Semivalues float64 `[n]` of the function sum_b weights_b k(., signs_b).

  Args:
    params: the parameters of the kernel.
    signs: `[B, n]`.
    weights: `[B]`.
    law: nodes and weights of q.
  """
  chex.assert_shape(signs, (len(weights), None))
  tilt, level = gaussian.exponent(params.product, signs, np)
  index = np.exp(params.size) * params.index
  share = 1 / (1 + np.exp(-params.share))
  # exp(level) in equal parts, and factors of size exp(|tilt|) at most.
  damp = np.exp(-np.abs(tilt))
  left = np.exp(level + np.abs(tilt).sum(axis=1))
  total = np.zeros(signs.shape[1])
  reach = 2 * np.abs(index).sum()
  for frequency, weight in zip(*_cosines(share, reach)):
    v = tilt + 1j * frequency * index
    even, odd = damp * np.cosh(v), damp * np.sinh(v)
    mean = np.zeros_like(v)
    for q, chance in zip(*law):
      factors = even + q * odd
      mean += chance * factors.prod(axis=1)[:, None] / factors
    phase = np.exp(-1j * frequency * (signs @ index))
    total += weight * ((weights * left * phase) @ (odd * mean)).real
  linear = np.exp(params.product.linear) * signs
  return -2 * (total + weights @ linear)


def shapley_law(n: int) -> Law:
  """Nodes and weights of q uniform on [-1, 1]."""
  nodes, weights = np.polynomial.legendre.leggauss(min(n // 2 + 1, _MOST_NODES))
  return nodes, weights / 2


def banzhaf_law(n: int) -> Law:
  """q is 0: masks are uniform."""
  del n
  return np.zeros(1), np.ones(1)
