"""A Gaussian process in plain NumPy, as its definition has it: an oracle."""

import itertools

import numpy as np

from spex_jax.proxies import gaussian


def draw_masks(seed, num_masks, n):
  return np.random.default_rng(seed).random((num_masks, n)) < 0.5


def noise_variance(params):
  return np.exp(params.noise) + 1e-8


def kernel(params, left, right):
  """The kernel of signs, a factor for each player."""
  rho = 1 / (1 + np.exp(-params.relevance))
  product = np.full((len(left), len(right)), np.exp(params.amplitude))
  linear = np.zeros_like(product)
  for i, r in enumerate(rho):
    same = np.outer(left[:, i], right[:, i])
    product *= (1 + r * same) / (1 + r)
    linear += np.exp(params.linear[i]) * same
  if params.directions.size:
    size = (params.directions**2).sum()
    directions = params.directions / np.sqrt(10.0 * len(rho) + 3.0 * size)
    along = (left @ directions) @ (right @ directions).T
    product *= np.exp(along - (directions**2).sum())
  return product + linear + np.exp(params.constant)


def draw_params(rng, n, rank=0):
  """Parameters of ordinary size, different for every player."""
  return gaussian.Params(
    linear=rng.normal(-1.0, 1.0, n),
    relevance=rng.normal(-1.0, 1.0, n),
    amplitude=np.asarray(rng.normal()),
    constant=np.asarray(rng.normal(-2.0, 1.0)),
    noise=np.asarray(rng.normal(-2.0, 0.5)),
    directions=rng.normal(size=(n, rank)) if rank else np.zeros((0, 0)),
  )


def condition(params, masks, unit, mean=0.0, scale=1.0):
  """A process with given parameters, none of them tuned."""
  signs = 1.0 - 2.0 * masks
  gram = kernel(params, signs, signs) + noise_variance(params) * np.eye(
    len(unit)
  )
  inverse = np.linalg.inv(gram)
  return gaussian.Posterior(
    params,
    signs,
    inverse @ unit,
    inverse,
    unit,
    np.float64(mean),
    np.float64(scale),
    np.nan,
  )


def draw(seed, num_masks, n, mean=3.0, scale=2.0, rank=0):
  rng = np.random.default_rng(seed)
  masks = rng.random((num_masks, n)) < 0.5
  unit = rng.normal(size=num_masks)
  return condition(draw_params(rng, n, rank), masks, unit, mean, scale)


def subsets(n):
  return [s for k in range(n + 1) for s in itertools.combinations(range(n), k)]


def padded(n, sets):
  width = max((len(s) for s in sets), default=0)
  out = np.full((len(sets), width), n)
  for row, players in zip(out, sets):
    row[: len(players)] = players
  return out


def characters(signs, sets):
  """`[B, K]`: the product of the signs of each set."""
  return np.stack([signs[:, list(s)].prod(axis=1) for s in sets], axis=1)


def prior_variances(params, n):
  """w_S of all sets, in the order of `subsets`, as the header defines it."""
  rho = 1 / (1 + np.exp(-params.relevance))
  out = []
  for s in subsets(n):
    w = np.exp(params.amplitude) * np.prod(rho[list(s)]) / np.prod(1 + rho)
    if len(s) == 1:
      w += np.exp(params.linear[s[0]])
    out.append(w + np.exp(params.constant) * (len(s) == 0))
  return np.array(out)
