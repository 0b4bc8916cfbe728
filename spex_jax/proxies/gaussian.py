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

Shapes: n players, B masks.
"""

from typing import NamedTuple

import chex
import flax.struct
import jax
import jax.numpy as jnp
import numpy as np

from spex_jax import base
from spex_jax.fourier import regress
from spex_jax.proxies import triangular

SPREADS = (0.5, 1.25)
MOST_MASKS = 16384  # An inverse of 2 GiB; 4,096 on a CPU take about a minute.
_FIRST = 512  # Masks of the first, cheap steps.
_FIRST_STEPS, _FIRST_RATE = 60, 0.15
_LAST_STEPS, _LAST_RATE = 25, 0.06
_CROSS_STEPS = 15  # Of a group, in place of `_LAST_STEPS`.
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
    scale: their standard deviation.
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
    """Standard deviation of the noise, in the units of the values."""
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


def kernel(params: Params, left: jax.Array, right: jax.Array) -> jax.Array:
  """k of signs `[B, n]` and `[B', n]`: `[B, B']`. Two matrix products.

  Batched over masks: log(1 + rho s s') = c + d s s' turns the product over
  players into a matrix product.
  """
  chex.assert_shape([left, right], (None, len(params.relevance)))
  chex.assert_type([left, right], float)
  tilt, level = exponent(params, left)
  product = jnp.exp(level + tilt @ right.T)
  linear = (left * jnp.exp(params.linear)[None]) @ right.T
  return product + linear + jnp.exp(params.constant)


def with_directions(params: Params) -> Params:
  """The same with directions to start from: a draw of their prior."""
  shape = len(params.relevance), _RANK
  return params._replace(directions=np.random.default_rng(0).normal(size=shape))


def exponent(params: Params, signs: jax.Array) -> tuple[jax.Array, jax.Array]:
  """u `[B, n]` and level: the product part of k(s, s') is exp(level + u s')."""
  chex.assert_shape(signs, (None, len(params.relevance)))
  chex.assert_type(signs, float)
  rho = jax.nn.sigmoid(params.relevance)
  tilt = signs * jnp.arctanh(rho)[None]
  level = jnp.sum(0.5 * jnp.log1p(-(rho**2)) - jnp.log1p(rho))
  level += params.amplitude
  if params.directions.size:
    size = jnp.sum(params.directions**2)
    directions = params.directions / jnp.sqrt(10.0 * len(rho) + 3.0 * size)
    tilt += (signs @ directions) @ directions.T
    level -= jnp.sum(directions**2)
  return tilt, level


def inverse_factor(params: Params, gram: jax.Array) -> jax.Array:
  """Lower H of H^T H = (gram + noise)^-1, `[B, B]`; NaN if there is none."""
  chex.assert_shape(gram, (len(gram), len(gram)))
  identity = jnp.eye(len(gram), dtype=gram.dtype)
  noise = jnp.exp(params.noise) + LEAST_NOISE
  factor = jnp.linalg.cholesky(gram + noise * identity)
  return triangular.invert(factor)


def objective(
  params: Params,
  signs: jax.Array,
  values: jax.Array,
  spread: float | jax.Array,
) -> jax.Array:
  """Negative log posterior of the parameters, in nats, up to a constant.

  Its gradient is written out: d nats / d K = (K^-1 - w w^T) / 2 is cheaper
  than the way back through the factor. There is no second derivative.

  Args:
    params: the parameters of the prior.
    signs: `[B, n]`.
    values: `[B]`, standardised.
    spread: see the module header.
  """
  chex.assert_shape(values, signs.shape[:1])
  chex.assert_type([signs, values], float)
  gram = kernel(params, signs, signs)
  noise = jnp.exp(params.noise) + LEAST_NOISE
  half = jax.lax.stop_gradient(inverse_factor(params, gram))
  weights = half.T @ (half @ values)
  nats = 0.5 * values @ weights - jnp.log(jnp.diagonal(half)).sum()
  slope = 0.5 * (triangular.square(half) - jnp.outer(weights, weights))
  slope = jax.lax.stop_gradient(slope)
  path = jnp.sum(slope * gram) + noise * jnp.trace(slope)
  nats = jax.lax.stop_gradient(nats - path) + path
  return nats + _prior(params, spread)


def tune(
  params: Params,
  signs: jax.Array,
  values: jax.Array,
  spread: float | jax.Array,
  steps: int,
  rate: float,
) -> tuple[Params, jax.Array]:
  """Adam on `objective`, rate annealed.

  Args:
    params: the parameters to start from.
    signs: `[B, n]`.
    values: `[B]`, standardised.
    spread: how far players may differ; see the module header.
    steps: static.
    rate: the first step size; it falls to a tenth along a cosine.

  Returns:
    The last parameters whose objective and gradient were finite (those given
    if none were), and `[steps]` the objective in nats before each step.
  """
  chex.assert_shape(signs, (None, len(params.relevance)))
  chex.assert_shape(values, signs.shape[:1])
  import optax

  optimiser = optax.adam(optax.cosine_decay_schedule(rate, max(1, steps), 0.1))

  def step(carry, _):
    params, good, state = carry
    nats, slope = jax.value_and_grad(objective)(params, signs, values, spread)
    moves, new_state = optimiser.update(slope, state)
    fine = jnp.isfinite(nats)
    for leaf in jax.tree.leaves(slope):
      fine &= jnp.isfinite(leaf).all()

    def keep(new, old):
      return jax.tree.map(lambda a, b: jnp.where(fine, a, b), new, old)

    good = keep(params, good)
    params = keep(optax.apply_updates(params, moves), good)
    return (params, good, keep(new_state, state)), nats

  carry = params, params, optimiser.init(params)
  (_, good, _), path = jax.lax.scan(step, carry, length=steps)
  return good, path


def _prior(params, spread):
  """Negative log density, of players about their mean; weak on the noise."""
  nats = 0.5 * ((params.noise + 3) / 3) ** 2
  for each in (params.linear, params.relevance):
    nats += jnp.sum((each - each.mean()) ** 2) / (2 * spread**2)
  if params.directions.size:
    nats += jnp.sum(params.directions**2) / 2
  return nats


def condition(
  params: Params, signs: jax.Array, values: jax.Array
) -> tuple[jax.Array, jax.Array]:
  """`(weights [B], inverse [B, B])` of `Posterior`."""
  chex.assert_shape(values, signs.shape[:1])
  chex.assert_type([signs, values], float)
  half = inverse_factor(params, kernel(params, signs, signs))
  inverse = triangular.square(half)
  return inverse @ values, inverse


_tune = jax.jit(tune, static_argnums=4)
_condition = jax.jit(condition)
_kernel = jax.jit(kernel)
_exponent = jax.jit(exponent)


def fit(
  masks: base.Masks,
  values: base.Values,
  *,
  spread: float = SPREADS[-1],
  params: Params | None = None,
  most_tuned: int = 1024,
) -> Posterior:
  """Tunes the parameters and conditions on the values.

  Args:
    masks: bool `[B, n]`, B >= 1, n >= 1.
    values: `[B]`, finite.
    spread: see the module header.
    params: where to start; then only the last, short round of steps is run,
      or that of directions where it has some.
    most_tuned: masks that the parameters are tuned on; all condition. A step
      costs about B^3 multiply-adds.

  Raises:
    ValueError: more than 16,384 masks, no mask or no player, values that are
      not `[B]` or not finite, or a spread that is not positive.
    FloatingPointError: a kernel matrix that float64 cannot factorise.
  """
  masks = base.check_masks(masks)
  values = base.check_values(values, len(masks))
  signs, unit, mean, scale = _standard(masks, values)
  found, rising = tuned(signs, unit, spread, params, most_tuned)
  return _posterior(found, signs, unit, mean, scale, rising)


def tuned(signs, unit, spread, params=None, most_tuned=1024, last=_LAST_STEPS):
  """Parameters for standardised values, and nats per step still rising."""
  if not 0 < spread < np.inf:
    raise ValueError(f"The spread must be positive and finite; got {spread}.")
  rows = regress.spread_order(len(unit))[:most_tuned]
  steps = []
  if params is None:
    params = start(signs.shape[1])
    steps = [(rows[:_FIRST], _FIRST_STEPS, _FIRST_RATE)]
  if params.directions.size:
    steps = [(rows, _TURN_STEPS, _TURN_RATE)]
  elif steps == [] or len(rows) > _FIRST:
    steps.append((rows, last, _LAST_RATE))
  rising = np.nan
  with jax.enable_x64(True), regress.one_blas_thread():
    params = jax.tree.map(lambda x: jnp.asarray(x, jnp.float64), params)
    for chosen, count, rate in steps:
      params, path = _tune(
        params, signs[chosen], unit[chosen], spread, count, rate
      )
      rising = float(path[-11] - path[-1]) / 10
    return jax.tree.map(np.asarray, params), rising


def _standard(masks, values):
  """Signs, and values of mean 0 and variance 1 with what undoes it."""
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
  unit, mean, scale = regress.standardise(values[:, None])
  return 1.0 - 2.0 * masks, unit[:, 0], mean[0], scale[0]


def condition_on(
  params: Params, masks: base.Masks, values: base.Values
) -> Posterior:
  """The posterior of known parameters, given values `[B]` at masks `[B, n]`."""
  return _posterior(params, *_standard(masks, values), np.nan)


def _posterior(params, signs, unit, mean, scale, rising):
  with jax.enable_x64(True), regress.one_blas_thread():
    weights, inverse = map(np.asarray, _condition(params, signs, unit))
  if not np.isfinite(weights).all():
    raise FloatingPointError(
      "The kernel matrix is not positive definite to float64's precision."
    )
  return Posterior(params, signs, weights, inverse, unit, mean, scale, rising)


def predict(
  posterior: Posterior, masks: base.Masks
) -> tuple[np.ndarray, np.ndarray]:
  """Mean and standard deviation of f at masks, `[B']`; without the noise."""
  means, stds = [np.zeros(0)], [np.zeros(0)]
  params = posterior.params
  flat = np.exp(params.linear).sum() + np.exp(params.constant)
  for signs, cross in _crossings(posterior, masks):
    tilt, level = tilts(params, signs)
    prior = np.exp(level + (tilt * signs).sum(axis=1)) + flat
    known = np.einsum("ij,ij->i", cross @ posterior.inverse, cross)
    means.append(cross @ posterior.weights)
    stds.append(np.sqrt(np.maximum(prior - known, 0.0)))
  mean = np.concatenate(means) * posterior.scale + posterior.mean
  return mean, np.concatenate(stds) * posterior.scale


def predict_mean(posterior: Posterior, masks: base.Masks) -> np.ndarray:
  """As `predict`, without the standard deviation: far cheaper, `[B']`."""
  means = [np.zeros(0)]
  for _, cross in _crossings(posterior, masks):
    means.append(cross @ posterior.weights)
  return np.concatenate(means) * posterior.scale + posterior.mean


def tilts(params: Params, signs: np.ndarray) -> tuple[np.ndarray, float]:
  """`exponent` in float64, on the host."""
  with jax.enable_x64(True):
    tilt, level = _exponent(params, signs)
  return np.asarray(tilt), float(level)


def _crossings(posterior, masks):
  """Signs of a chunk of masks, and their kernel with the samples."""
  masks = base.check_masks(masks, posterior.n)
  size = max(1, CELLS // len(posterior.weights))
  for first in range(0, len(masks), size):
    signs = 1.0 - 2.0 * masks[first : first + size]
    with jax.enable_x64(True):
      cross = np.asarray(_kernel(posterior.params, signs, posterior.signs))
    yield signs, cross


def leave_one_out(posterior: Posterior) -> tuple[np.ndarray, np.ndarray]:
  """Mean and standard deviation of each value given all others, `[B]`.

  Noise included; Rasmussen and Williams 2006, equation 5.12. The parameters
  have seen the value, which flatters where players outnumber masks:
  `cross_predict` does not.
  """
  precision = np.diagonal(posterior.inverse)
  unit = np.asarray(posterior.unit) - np.asarray(posterior.weights) / precision
  mean = unit * posterior.scale + posterior.mean
  return np.asarray(mean), np.asarray(np.sqrt(1 / precision) * posterior.scale)


class OutOfFold(NamedTuple):
  """Predictions of values that neither parameters nor weights have seen.

  Attributes:
    mean: `[B]`, in the units of the values.
    std: `[B]`, noise included.
    rising: the worst of the groups' `Posterior.rising`, NaN before all.
    groups: each group's rows, and parameters tuned on all others.
  """

  mean: np.ndarray
  std: np.ndarray
  rising: float
  groups: list[tuple[np.ndarray, Params]]


def cross_predict(
  masks: base.Masks,
  values: base.Values,
  *,
  spread: float = SPREADS[-1],
  groups: int = 2,
  most_tuned: int = 1024,
  warm_start: OutOfFold | None = None,
) -> OutOfFold:
  """Each group's values, by parameters tuned on the other groups.

  The weights are those of all values but one (`leave_one_out`): far cheaper
  than a fit for each fold, and as little flattered, as long as few parameters
  are tuned on many masks; what it costs is that they see fewer masks.

  Args:
    masks: bool `[B, n]`, B >= 2.
    values: `[B]`, finite.
    spread: how far players may differ, as for `fit`.
    groups: their number, from 2; fewer masks than groups are a group each.
    most_tuned: how many masks are tuned on, as for `fit`.
    warm_start: that of a product kernel on the same samples; its groups, and
      their parameters with directions added.

  Raises:
    ValueError: a single mask, or what `fit` refuses.
  """
  masks = base.check_masks(masks)
  values = base.check_values(values, len(masks))
  if len(masks) < 2:
    raise ValueError("Cross-prediction needs at least 2 masks; got 1.")
  signs, unit, mean, scale = _standard(masks, values)
  order = regress.spread_order(len(unit))
  parts = np.array_split(order, max(2, min(groups, len(unit))))

  def tuned_on(rows, params):
    own, shift, size = regress.standardise(unit[rows, None])
    found, rising = tuned(
      signs[rows], own[:, 0], spread, params, most_tuned, _CROSS_STEPS
    )
    return found, rising, shift[0], size[0]

  begin: list[Params | None] = [None] * len(parts)
  if warm_start is not None:
    parts = [part for part, _ in warm_start.groups]
    begin = [with_directions(params) for _, params in warm_start.groups]
  elif len(parts) == 4 and len(unit) >= 2 * _FIRST:
    # The long first round, once for two groups: on the half with neither.
    first, last = (
      np.sort(np.concatenate(two)) for two in (parts[:2], parts[2:])
    )
    begin = [tuned_on(last, None)[0]] * 2 + [tuned_on(first, None)[0]] * 2
  found, worst = [], -np.inf
  middle, width = np.zeros(len(unit)), np.ones(len(unit))
  for part, params in zip(parts, begin):
    rest = np.delete(np.arange(len(unit)), part)
    # The group must not shift the mean that its values are predicted from.
    own, rising, shift, size = tuned_on(rest, params)
    worst = float(np.maximum(worst, rising))  # NaN stays.
    seen = (unit - shift) / size
    posterior = _posterior(own, signs, seen, shift, size, rising)
    left = leave_one_out(posterior)
    middle[part] = left[0][part] * scale + mean
    width[part] = left[1][part] * scale
    found.append((part, own))
  return OutOfFold(middle, width, worst, found)
