"""Weights of masks that were asked unequally often.

The mean of c values of one mask has the variance sigma^2 / c of their noise.
What a fit leaves of it besides, of variance tau^2, no repeat makes smaller. So
a mask weighs 1 / (tau^2 + sigma^2 / c), as a study does in a meta-analysis of
random effects; tau^2 is that of which squares, so weighted, have the sum that
their degrees of freedom are (Paule and Mandel 1982). Repeats of a mask stay one
row: apart, one would be predicted out of fold by a fit that has seen the
other's noise.

A lasso of order 1 tells the first tau; an answer of all members a smaller one,
where it leaves less out of fold, and is fitted again (`one_target`).

Shapes: n players, B masks.
"""

import numpy as np

from spex_jax import base
from spex_jax.fourier import lasso, regress, score
from spex_jax.portfolio import policy


def deviation(left: np.ndarray, std: np.ndarray, free: int = 0) -> float:
  """Tau: the deviation of what is left beside the noise, at least 0.

  Args:
    left: `[B]` what a fit leaves of the values.
    std: `[B]` standard errors of the values, above 0.
    free: coefficients that were fitted to the same values; 0 out of fold.
  """
  import scipy.optimize

  scale = max(np.abs(left).max(), std.max())
  squares, known = (left / scale) ** 2, (std / scale) ** 2
  freedom = max(1, len(left) - free)
  excess = lambda more: (squares / (more + known)).sum() - freedom
  if excess(0.0) <= 0:
    return 0.0
  most = squares.sum() / freedom  # At which nothing is in excess.
  return float(np.sqrt(scipy.optimize.brentq(excess, 0.0, most)) * scale)


def weights(tau: float, std: np.ndarray) -> np.ndarray | None:
  """`[B]` weights of mean 1; None where equal ones lose next to nothing."""
  scale = max(tau, std.max())
  variance = (tau / scale) ** 2 + (std / scale) ** 2
  # The variance of a mean of equal weights over that of the best one.
  if variance.mean() * (1 / variance).mean() < policy.POLICY.weights_gain:
    return None
  return 1 / variance / (1 / variance).mean()


def first_deviation(
  masks: base.Masks, values: np.ndarray, std: np.ndarray
) -> float:
  """Tau of a lasso of order 1, which is weighted itself.

  Args:
    masks: bool `[B, n]`, B at least 3.
    values: `[B]`.
    std: `[B]` standard errors of the values, above 0.
  """
  tau = 0.0
  for _ in range(2):
    found = lasso.fit_targets(
      masks,
      values[:, None],
      1,
      penalty="shrunk",
      penalties=policy.POLICY.lasso_penalties,
      weights=weights(tau, std),
    )[0]
    left = values - lasso.evaluate(masks, found)
    # As many as are not 0: Zou, Hastie and Tibshirani 2007.
    tau = deviation(left, std, int(found.count))
  return tau


def gain(
  left: np.ndarray, other: np.ndarray, std: np.ndarray
) -> tuple[float, float]:
  """Nats by which a value is likelier than by others, and their error.

  Each set of predictions has its own tau, so that no mask counts for many; by
  weighted squares one that was asked very often decides nearly alone.

  Args:
    left: `[B]` what predictions out of fold leave of the values.
    other: `[B]` what others leave.
    std: `[B]` standard errors of the values, above 0.
  """
  scale = max(np.abs(left).max(), np.abs(other).max(), std.max())
  nats = []
  for each in (other, left):
    variance = (deviation(each, std) / scale) ** 2 + (std / scale) ** 2
    nats.append((np.log(variance) + (each / scale) ** 2 / variance) / 2)
  gains = nats[0] - nats[1]
  return float(gains.mean()), float(gains.std() / np.sqrt(len(gains)))


def alike(one: np.ndarray | None, other: np.ndarray | None) -> bool:
  """Whether no weight differs enough for another fit to be worth it."""
  if one is None or other is None:
    return one is other
  most = policy.POLICY.weights_alike
  return bool(np.abs(np.log(one / other)).max() < np.log(most))


def r2(
  values: np.ndarray,
  guess: np.ndarray,
  weights: np.ndarray | None,
  lost: float = 0.0,
) -> tuple[float, float]:
  """R^2 and its standard error: `score.r2` and `score.r2_std`, weighted.

  Args:
    values: `[B]`.
    guess: `[B]`.
    weights: `[B]` of the values' squares, of mean 1; None for equal ones.
    lost: as for `score.r2_std`.
  """
  value, std = score.r2(values, guess), score.r2_std(values, guess, lost)
  if weights is None or base.is_constant(values):
    return float(value), float(std)
  unit, middle, scale = (
    part[..., 0] for part in regress.standardise(values[:, None], True, weights)
  )
  errors = (unit - (guess - middle) / scale) ** 2
  share = float((weights * errors).mean())
  moves = weights * ((share + lost) * unit**2 - errors) - lost
  std = np.sqrt((moves**2).mean() / max(1, len(values) - 1))
  return 1 - share, float(std)
