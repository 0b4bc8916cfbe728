"""The largest coefficients of a Gaussian process with directions.

Given a sample x, the product part of the kernel is exp(level + u_x . s), whose
Fourier coefficient at S is exp(level) prod_i cosh(u_xi) prod_{i in S}
tanh(u_xi). So each coefficient of the posterior mean is a sum over samples,
exact; but no prior variance orders the sets. They are found by growing: all
singles, then each level's largest sets by one player more.

Shapes: n players, B masks, K sets, D the largest order.
"""

import numpy as np

from spex_jax.fourier import lasso, regress, sparse
from spex_jax.proxies import gaussian, readout

_GROWN = 2048  # Sets of one size that are grown.
_DEEPEST = 12
_PROBES = 2048  # Random masks that tell what is missed.


def expand(
  posterior: gaussian.Posterior, num_terms: int = 2048
) -> readout.Readout:
  """The largest coefficients of the posterior mean that growing finds.

  Args:
    posterior: a process on n players whose parameters have directions.
    num_terms: sets besides the empty one.

  Returns:
    Exact coefficients; `missed` is measured at 2,048 random masks.

  Raises:
    ValueError: a process without directions.
  """
  n, params = posterior.n, posterior.params
  weights, rows = _factors(posterior)
  deepest = min(n, _DEEPEST)
  linear = np.exp(params.linear) * (posterior.weights @ posterior.signs)
  constant = np.exp(params.constant) * posterior.weights.sum()
  levels = [np.full((1, 0), n)]
  found = [np.array([weights.sum() + constant])]
  grown = levels[0]
  with regress.one_blas_thread():
    for order in range(1, deepest + 1):
      sets, coefs = _grow(weights, rows, grown, max(num_terms, _GROWN))
      if order == 1:
        coefs = coefs + linear[sets[:, 0]]
      levels.append(sets)
      found.append(coefs)
      grown = sets[:_GROWN]
      rest = np.abs(np.concatenate(found)[1:])
      # A level below all that is kept: those above it hardly matter.
      if len(rest) > num_terms and np.abs(coefs).max() < _rank(rest, num_terms):
        break
  sets = np.concatenate(
    [
      np.pad(part, ((0, 0), (0, deepest - part.shape[1])), constant_values=n)
      for part in levels
    ]
  )
  coefs = np.concatenate(found) * posterior.scale
  coefs[0] += posterior.mean
  kept = np.argsort(-np.abs(coefs[1:]), kind="stable")[:num_terms] + 1
  kept = np.append(0, kept)
  function = sparse.SparseFourier.from_players(n, sets[kept], coefs[kept])
  return readout.Readout(function, _missed(posterior, function))


def _factors(posterior):
  """`[B]` weights of the samples, and tanh(u) `[B, n]`."""
  if not posterior.params.directions.size:
    raise ValueError("This process has no directions; see proxies.readout.")
  tilt, level = gaussian.tilts(posterior.params, posterior.signs)
  height = gaussian.log_cosh(tilt).sum(axis=1)
  return posterior.weights * np.exp(level + height), np.tanh(tilt)


def _grow(weights, rows, sets, most):
  """Sets of one player more, the largest first, and their coefficients."""
  product = np.repeat(weights[:, None], len(sets), axis=1)
  for column in sets.T:
    product *= rows[:, column]
  coefs = product.T @ rows
  new = np.ones(coefs.shape, bool)
  np.put_along_axis(new, sets, False, axis=1)
  parent, player = np.nonzero(new)
  coefs = coefs[parent, player]
  order = np.argsort(-np.abs(coefs), kind="stable")
  # Each set comes from up to as many parents as it has players.
  order = order[: most * (sets.shape[1] + 1)]
  larger = np.column_stack([sets[parent[order]], player[order]])
  larger.sort(axis=1)
  first = np.sort(np.unique(larger, axis=0, return_index=True)[1])[:most]
  return larger[first], coefs[order[first]]


def _rank(sizes, count):
  return np.partition(sizes, -count)[-count] if count else np.inf


def _missed(posterior, function):
  """Share of the mean's variance that the function lacks."""
  # Of their own: a user's masks may be those of a plain seed.
  rng = np.random.default_rng([_PROBES, posterior.n])
  masks = rng.random((_PROBES, posterior.n)) < 0.5
  mean = gaussian.predict_mean(posterior, masks) / posterior.scale
  left = mean - lasso.evaluate(masks, function) / posterior.scale
  total = mean.var()
  return float((left**2).mean() / total) if total > 0 else 0.0
