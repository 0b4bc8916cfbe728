"""A Gaussian process on the hypercube with a Walsh product kernel.

With s = 1 - 2 m in {-1, +1} and relevances 0 <= rho_i < 1,

  k(s, s') = a prod_i (1 + rho_i s_i s'_i) / (1 + rho_i)
             + sum_i l_i s_i s'_i + b.

Its features are all characters: F(S) has the prior variance
w_S = a prod_{i in S} rho_i / prod_i (1 + rho_i), and l_i more for one player,
b more for the empty set. So order decays geometrically, players that do not
matter switch themselves off, and every coefficient of the posterior mean is
known in closed form, with its variance (`proxies.spectrum`).

The parameters maximise the log marginal likelihood plus a prior: log l_i and
logit rho_i are normal about their own means with standard deviation `spread`.
Near 0 all players share one relevance, which is what can be learnt where they
outnumber the masks; a wide spread lets each have its own.

Where many masks tell of each player, directions in the space of players can be
learnt too, as a network's first layer has them: the product is multiplied by
exp(s V V^T s' - |V|^2), and `proxies.mixed` reads the coefficients. V `[n, r]`
is D / sqrt(10 n + 3 |D|^2), with a standard normal prior on the entries of D,
so that |V|^2 < 1/3: from 1/2 on, k(s, s) has no mean over s that is bounded in
n, a few masks hold all of the prior variance, and the likelihood runs away.

Values are centred and scaled first, so parameters have no units.

Values may be known unequally well: the variance of the noise of one is that of
all over its weight. Equal weights are None, and compile no program of weights.

Compiled programs see signs padded with rows and columns of zeros
(`masks.padding`): players and masks that are not there. They enter neither
the kernel nor the prior, and what is said of them stays at 0.

Shapes: n players, B masks.
"""

from typing import Any, NamedTuple

import chex
import flax.struct
import jax
import jax.numpy as jnp
import numpy as np

from spex_jax import base
from spex_jax.fourier import programs, regress
from spex_jax.masks import padding
from spex_jax.proxies import annealing, triangular

SPREADS = (0.5, 1.25)
MOST_MASKS = 16384  # An inverse of 2 GiB; 4,096 on a CPU take about a minute.
FIRST = 512  # Masks of the first, cheap steps.
_FIRST_STEPS, _FIRST_RATE = 60, 0.15
_LAST_STEPS, _LAST_RATE = 25, 0.06
_RANK = 4  # Directions: 2 do less, 8 need more masks.
_TURN_STEPS, _TURN_RATE = 18, 0.2  # Where there are directions.
LEAST_NOISE = 1e-8  # Share of the variance; keeps the Cholesky factor alive.
CELLS = 1 << 26  # Kernel values, or characters, held at once: 512 MB.


class Params(NamedTuple):
  """Logarithms of the parameters, so that any number is allowed.

  Attributes:
    linear: `[n]` log l.
    relevance: `[n]` logit rho.
    amplitude: log a.
    constant: log b.
    noise: log of the variance of the noise.
    directions: `[n, r]` D, no logarithm; empty for a product kernel.
  """

  linear: base.Array
  relevance: base.Array
  amplitude: base.Array
  constant: base.Array
  noise: base.Array
  directions: base.Array = np.zeros((0, 0))


@flax.struct.dataclass
class Posterior:
  """A fitted process; float64.

  Attributes:
    params: the parameters of the prior.
    signs: `[B, n]`, 1 - 2 m.
    weights: `[B]`, (K + noise)^-1 y of the standardised values y.
    inverse: `[B, B]`, (K + noise)^-1.
    unit: `[B]` y, the standardised values.
    mean: the mean of the values, which was removed; in their units.
    scale: the standard deviation of the values, in their units.
    rising: nats by which the last ten steps raised the log posterior of the
      parameters, per step; NaN where it was not finite.
  """

  params: Params
  signs: base.Array
  weights: base.Array
  inverse: base.Array
  unit: base.Array
  mean: base.Array
  scale: base.Array
  rising: base.Array

  @property
  def n(self) -> int:
    """Number of players."""
    return self.signs.shape[1]

  @property
  def noise_std(self) -> float:
    """That of the noise of weight 1, in the units of the values."""
    noise = np.exp(np.asarray(self.params.noise)) + LEAST_NOISE
    return float(np.sqrt(noise) * np.asarray(self.scale))


def start(n: int) -> Params:
  """Where every fit begins: half the variance linear, the rest in products."""
  return Params(
    linear=np.full(n, np.log(0.5 / n)),
    relevance=np.full(n, -np.log(max(n, 2.0))),
    amplitude=np.zeros(()),
    constant=np.full((), np.log(1e-2)),
    noise=np.full((), np.log(0.05)),
  )


def kernel(
  params: Params, left: base.Array, right: base.Array, xp: Any = jnp
) -> Any:
  """k of signs `[B, n]` and `[B', n]`: `[B, B']`. Two matrix products.

  Batched over masks: log(1 + rho s s') = c + d s s' turns the product over
  players into a matrix product. 0 where either mask is padding.
  """
  chex.assert_shape([left, right], (None, len(params.relevance)))
  chex.assert_type([left, right], float)
  tilt, level = exponent(params, left, xp)
  product = xp.exp(level + tilt @ right.T) + xp.exp(params.constant)
  linear = (left * xp.exp(params.linear)[None]) @ right.T
  return _seen(left)[:, None] * _seen(right)[None] * product + linear


def _seen(signs):
  """`[B]` 1 for each mask, 0 for padding: its first player is there."""
  chex.assert_rank(signs, 2)
  return abs(signs[:, 0])


def with_directions(params: Params) -> Params:
  """The same with directions to start from: a draw of their prior."""
  shape = len(params.relevance), _RANK
  return params._replace(directions=np.random.default_rng(0).normal(size=shape))


def exponent(
  params: Params, signs: base.Array, xp: Any = jnp
) -> tuple[Any, Any]:
  """u `[B, n]` and level: the product part of k(s, s') is exp(level + u s')."""
  chex.assert_shape(signs, (None, len(params.relevance)))
  chex.assert_type(signs, float)
  rho, real = 1 / (1 + xp.exp(-params.relevance)), real_players(signs)
  tilt = signs * xp.arctanh(rho)[None]
  level = (real * (0.5 * xp.log1p(-(rho**2)) - xp.log1p(rho))).sum()
  level = level + params.amplitude
  if params.directions.size:
    size = (params.directions**2).sum()
    directions = params.directions / xp.sqrt(10.0 * real.sum() + 3.0 * size)
    tilt = tilt + (signs @ directions) @ directions.T
    level = level - (directions**2).sum()
  return tilt, level


def real_players(signs: base.Array) -> Any:
  """`[n]` 1 for each player, 0 for padding."""
  chex.assert_rank(signs, 2)
  return abs(signs).max(axis=0)


def noise_of(
  params: Params, signs: jax.Array, weights: jax.Array | None = None
) -> jax.Array:
  """`[B]` the variance of each mask's noise; 1 of padding."""
  chex.assert_rank(signs, 2)
  noise = jnp.exp(params.noise) + LEAST_NOISE
  if weights is not None:
    noise = noise / jnp.where(weights > 0, weights, 1.0)
  return jnp.where(_seen(signs) > 0, noise, 1.0)


def inverse_factor(gram: jax.Array, noise: jax.Array) -> jax.Array:
  """Lower H of H^T H = (gram + noise)^-1, `[B, B]`; NaN if there is none.

  Args:
    gram: `[B, B]` the kernel matrix; rows of padding are 0.
    noise: `[B]` the noise variances; 1 for padding, so that its rows are those
      of the identity.
  """
  chex.assert_shape(gram, (len(noise), len(noise)))
  return triangular.invert(jnp.linalg.cholesky(gram + jnp.diag(noise)))


def evidence(gram: jax.Array, noise: jax.Array, values: jax.Array) -> jax.Array:
  """Negative log likelihood of values `[B]`, in nats, up to a constant.

  Its gradient is written out: d nats / d K = (K^-1 - w w^T) / 2 is cheaper
  than the way back through the factor. There is no second derivative.

  Args:
    gram: as for `inverse_factor`.
    noise: as for `inverse_factor`.
    values: `[B]`, standardised; 0 for padding.
  """
  chex.assert_equal_shape([noise, values])
  half = jax.lax.stop_gradient(inverse_factor(gram, noise))
  weights = half.T @ (half @ values)
  nats = 0.5 * values @ weights - jnp.log(jnp.diagonal(half)).sum()
  slope = 0.5 * (triangular.square(half) - jnp.outer(weights, weights))
  slope = jax.lax.stop_gradient(slope)
  path = jnp.sum(slope * gram) + noise @ jnp.diagonal(slope)
  return jax.lax.stop_gradient(nats - path) + path


def objective(
  params: Params,
  signs: jax.Array,
  values: jax.Array,
  spread: float | jax.Array,
  weights: jax.Array | None = None,
) -> jax.Array:
  """Negative log posterior of the parameters, in nats, up to a constant.

  Args:
    params: the parameters of the prior.
    signs: `[B, n]`.
    values: `[B]`, standardised.
    spread: how far players may differ; see the module header.
    weights: `[B]` of the values, 0 of padding; None for equal ones.
  """
  chex.assert_shape(values, signs.shape[:1])
  chex.assert_type([signs, values], float)
  gram = kernel(params, signs, signs)
  nats = evidence(gram, noise_of(params, signs, weights), values)
  return nats + prior(params, signs, spread)


def tune(
  params: Params,
  signs: jax.Array,
  values: jax.Array,
  spread: float | jax.Array,
  steps: int | jax.Array,
  rate: float | jax.Array,
  weights: jax.Array | None = None,
) -> tuple[Params, jax.Array]:
  """Adam on `objective`, rate annealed.

  Args:
    params: the parameters to start from.
    signs: `[B, n]`.
    values: `[B]`, standardised.
    spread: how far players may differ; see the module header.
    steps: the number of steps, at most 64.
    rate: the first step size; it falls to a tenth along a cosine.
    weights: as for `objective`.

  Returns:
    The last parameters whose objective and gradient were finite (those given
    if none were), and `[64]` the objective in nats before each step, NaN
    where there was none.
  """
  chex.assert_shape(signs, (None, len(params.relevance)))
  chex.assert_shape(values, signs.shape[:1])
  return annealing.descend(
    lambda params: objective(params, signs, values, spread, weights),
    params,
    steps,
    rate,
  )


def prior(
  params: Params,
  signs: jax.Array,
  spread: float | jax.Array,
  noise: float = -3.0,
) -> jax.Array:
  """Negative log density, of players about their mean, in nats: `[]`.

  Args:
    params: the parameters of the prior.
    signs: `[B, n]`, of which columns of zeros are padding.
    spread: how far players may differ; see the module header.
    noise: the mean of the logarithm of the noise variance, held weakly.
  """
  chex.assert_shape(signs, (None, len(params.relevance)))
  real = real_players(signs)
  nats = jnp.sum(params.directions**2) / 2
  nats += 0.5 * ((params.noise - noise) / 3) ** 2
  for each in (params.linear, params.relevance):
    apart = real * (each - (real @ each) / real.sum())
    nats += jnp.sum(apart**2) / (2 * spread**2)
  return nats


def condition(
  params: Params,
  signs: jax.Array,
  values: jax.Array,
  weights: jax.Array | None = None,
) -> tuple[jax.Array, jax.Array]:
  """`(weights [B], inverse [B, B])` of `Posterior`."""
  chex.assert_shape(values, signs.shape[:1])
  chex.assert_type([signs, values], float)
  noise = noise_of(params, signs, weights)
  half = inverse_factor(kernel(params, signs, signs), noise)
  inverse = triangular.square(half)
  return inverse @ values, inverse


_tune = programs.Program(tune)
_condition = programs.Program(condition)


def fit(
  masks: base.Masks,
  values: base.Values,
  *,
  spread: float = SPREADS[-1],
  params: Params | None = None,
  most_tuned: int = 1024,
  weights: np.ndarray | None = None,
) -> Posterior:
  """Tunes the parameters and conditions on the values.

  Args:
    masks: bool `[B, n]`, B >= 1, n >= 1.
    values: `[B]`, finite.
    spread: how far players may differ; see the module header.
    params: the parameters to start from; then only the last, short round of
      steps is run, or that of directions where there are some.
    most_tuned: masks that the parameters are tuned on; all condition. A step
      costs about B^3 multiply-adds.
    weights: `[B]` of the values, above 0 and of mean 1; None for equal ones.

  Raises:
    ValueError: more than 16,384 masks, no mask or no player, values that are
      not `[B]` or not finite, or a spread that is not positive.
    FloatingPointError: a kernel matrix that float64 cannot factorise.
  """
  masks = base.check_masks(masks)
  values = base.check_values(values, len(masks))
  signs, unit, mean, scale = standard(masks, values, weights)
  found, rising = tuned(
    signs, unit, spread, params, most_tuned, weights=weights
  )
  return conditioned(found, signs, unit, mean, scale, rising, weights)


def tuned(
  signs,
  unit,
  spread,
  params=None,
  most_tuned=1024,
  last=_LAST_STEPS,
  weights=None,
):
  """Parameters for standardised values, and nats per step still rising."""
  if not 0 < spread < np.inf:
    raise ValueError(f"The spread must be positive and finite; got {spread}.")
  rows = regress.spread_order(len(unit))[:most_tuned]
  steps = []
  if params is None:
    params = start(signs.shape[1])
    steps = [(rows[:FIRST], _FIRST_STEPS, _FIRST_RATE)]
  if params.directions.size:
    steps = [(rows, _TURN_STEPS, _TURN_RATE)]
  elif steps == [] or len(rows) > FIRST:
    steps.append((rows, last, _LAST_RATE))
  rising, given = np.nan, padded(params)
  with jax.enable_x64(True), regress.one_blas_thread():
    for chosen, count, rate in steps:
      wide = padding.signs(signs[chosen])
      y = padding.to(unit[chosen], len(wide))
      known = (
        None if weights is None else padding.to(weights[chosen], len(wide))
      )
      given, path = _tune(given, wide, y, spread, count, rate, known)
      before, *_, after = np.asarray(path)[count - 11 : count]
      rising = float(before - after) / 10
  real = [tuple(map(slice, np.shape(part))) for part in params]
  return Params(*(np.asarray(x)[at] for x, at in zip(given, real))), rising


def padded(params: Params) -> Params:
  """For padded signs; where there are no directions, with those of size 0."""
  size = padding.columns(len(params.relevance))
  rank = max(_RANK, np.shape(params.directions)[1])
  wide = params._replace(
    linear=padding.to(params.linear, size),
    relevance=padding.to(params.relevance, size),
    directions=padding.to(params.directions, size, rank),
  )
  return Params(*(np.asarray(part, np.float64) for part in wide))


def standard(masks, values, weights=None):
  """Signs, and values of mean 0 and variance 1 with what undoes it: `[]`s."""
  if values.ndim != 1:
    raise ValueError(f"A process has one target, [B]; got {values.shape}.")
  if not masks.size:
    raise ValueError(
      f"A process needs a mask and a player; got shape {masks.shape}."
    )
  if len(masks) > MOST_MASKS:
    raise ValueError(
      f"A Gaussian process takes up to {MOST_MASKS} masks; got {len(masks)}. "
      "Give it fewer, or use method='proxyspex'."
    )
  unit, mean, scale = regress.standardise(values[:, None], True, weights)
  return 1.0 - 2.0 * masks, unit[:, 0], mean[0], scale[0]


def condition_on(
  params: Params, masks: base.Masks, values: base.Values
) -> Posterior:
  """The posterior of known parameters, given values `[B]` at masks `[B, n]`."""
  return conditioned(params, *standard(masks, values), np.nan)


def conditioned(params, signs, unit, mean, scale, rising, weights=None):
  """The `Posterior` of these parts, which must not be beyond float64."""
  wide, count = padding.signs(signs), len(signs)
  known = None if weights is None else padding.to(weights, len(wide))
  with jax.enable_x64(True), regress.one_blas_thread():
    alpha, inverse = map(
      np.asarray,
      _condition(padded(params), wide, padding.to(unit, len(wide)), known),
    )
  alpha, inverse = alpha[:count], inverse[:count, :count]
  if not np.isfinite(alpha).all():
    raise FloatingPointError(
      "The kernel matrix is not positive definite to float64's precision."
    )
  return Posterior(params, signs, alpha, inverse, unit, mean, scale, rising)


def predict_mean(posterior: Posterior, masks: base.Masks) -> np.ndarray:
  """Mean of f at masks, `[B']`.

  On the host: beside what fitting costs they are few, and compile nothing.
  """
  masks = base.check_masks(masks, posterior.n)
  size = max(1, CELLS // len(posterior.weights))
  means = [np.zeros(0)]
  for first in range(0, len(masks), size):
    signs = 1.0 - 2.0 * masks[first : first + size]
    cross = kernel(posterior.params, signs, posterior.signs, np)
    means.append(cross @ posterior.weights)
  return np.concatenate(means) * posterior.scale + posterior.mean


def tilts(params: Params, signs: np.ndarray) -> tuple[np.ndarray, float]:
  """`exponent` in float64, on the host."""
  return exponent(params, signs, np)


def log_cosh(tilt: np.ndarray) -> np.ndarray:
  """Elementwise, where cosh itself may overflow."""
  size = np.abs(tilt)
  return size + np.log1p(np.exp(-2 * size)) - np.log(2)


def leave_one_out(posterior: Posterior) -> tuple[np.ndarray, np.ndarray]:
  """Mean and standard deviation of each value given all others, `[B]`.

  Noise included; Rasmussen and Williams 2006, equation 5.12. The parameters
  have seen the value, which flatters where players outnumber masks:
  `out_of_fold.predict` does not.
  """
  precision = np.diagonal(posterior.inverse)
  unit = np.asarray(posterior.unit) - np.asarray(posterior.weights) / precision
  mean = unit * posterior.scale + posterior.mean
  return np.asarray(mean), np.asarray(np.sqrt(1 / precision) * posterior.scale)
