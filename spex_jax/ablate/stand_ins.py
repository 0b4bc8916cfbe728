"""What stands in for absent parts of a network: means, or other inputs' own.

Each is site to an array of the full rank of its activation, for `absent` of
`parts.Players.edits`.

Shapes: B examples, R draws; an activation is `[B, ...]`.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from spex_jax import base
from spex_jax.models import sites


def mean(
  activations: Mapping[str, base.Array],
  axes: Sequence[int],
  weights: base.Array | None = None,
) -> dict[str, jax.Array]:
  """The mean activation at each site, to stand in for absent players.

  Args:
    activations: captured ones, `[B, ...]`, such as those of a background.
    axes: to average over, and to leave 1 long: (0,) keeps positions apart,
      (0, 1) does not; (0, 2, 3) for filters.
    weights: `[B]`, or `[B, P]` such as an attention mask, so that padding does
      not count; of the leading axes. Where nothing has weight, a mean is 0.

  Raises:
    ValueError: weights that are negative or all zero, or of another shape; axes
      that an activation lacks; NaN and infinity.
  """
  axes = tuple(axes)
  out = {}
  for site, captured in activations.items():
    x = np.asarray(captured, np.float64)  # Summed so: there may be many.
    _check_axes(axes, x, site)
    if weights is None:
      found = x.mean(axis=axes, keepdims=True)
    else:
      w = _weights(weights, x, site)
      if not w.any():
        raise ValueError("Weights must not be all zero.")
      total = (w * x).sum(axis=axes, keepdims=True)
      share = np.broadcast_to(w, x.shape).sum(axis=axes, keepdims=True)
      found = total / np.where(share > 0, share, 1)
    out[site] = _finite(site, jnp.asarray(found, jnp.float32))
  return out


def resampled(
  key: base.Key, activations: Mapping[str, base.Array], num_draws: int
) -> dict[str, jax.Array]:
  """Activations of other inputs, drawn once: site to `[R, 1, ...]`.

  A draw takes the same input at every site, and every mask sees the same draws.
  `components.evaluator` averages the value over them.

  Args:
    key: a random key, consumed by the draw.
    activations: captured ones, `[B, ...]` each.
    num_draws: R, distinct inputs, at most B.

  Raises:
    ValueError: R outside 1..B, or sites of unequal B.
  """
  rows = _draw(key, {len(x) for x in activations.values()}, num_draws)
  return {s: jnp.asarray(x)[rows][:, None] for s, x in activations.items()}


def resampled_of(
  key: base.Key,
  net: sites.Network,
  at: Sequence[str],
  inputs: Mapping[str, base.Array],
  num_draws: int,
  *,
  params: Any = None,
) -> dict[str, jax.Array]:
  """`resampled` of a data set, of which only the draws are run.

  Args:
    key: a random key, consumed by the draw.
    net: the network that is run on the draws.
    at: names of sites, such as those of `Players.owner`.
    inputs: the data set, by the network's names for it; B examples.
    num_draws: R, distinct inputs, at most B.
    params: the parameters of the network; its own by default.

  Raises:
    ValueError: no parameters, R outside 1..B, NaN and infinity.
  """
  params = net.given(params)
  rows = _draw(key, {len(x) for x in inputs.values()}, num_draws)
  given = {name: jnp.asarray(x)[rows] for name, x in inputs.items()}
  found = _capture(net, at)(params, given)
  return {site: _finite(site, found[site])[:, None] for site in at}


def mean_of(
  net: sites.Network,
  at: Sequence[str],
  inputs: Mapping[str, base.Array],
  axes: Sequence[int],
  *,
  params: Any = None,
  weights: base.Array | None = None,
  batch_size: int = 256,
) -> dict[str, jax.Array]:
  """The mean activation over a data set, a batch at a time.

  Args:
    net: the network that is run on the data set.
    at: names of sites, such as those of `Players.owner`.
    inputs: the data set, by the network's names for it; B examples.
    axes: as for `mean`; 0, the examples, among them.
    params: the parameters of the network; its own by default.
    weights: float `[B]` or `[B, P]`, as for `mean`; None for all alike.
    batch_size: how many examples a forward has.

  Raises:
    ValueError: no parameters, no example, axes without 0; see `mean`.
  """
  params = net.given(params)
  count = len(next(iter(inputs.values())))
  if 0 not in axes or not count:
    raise ValueError(
      f"A mean over {count} examples needs one, and axis 0; got axes={axes}."
    )
  if weights is None:
    weights = np.ones(count)
  weights = np.asarray(weights, np.float64)
  if not weights.any():
    raise ValueError("Weights must not be all zero.")
  size = min(batch_size, count)
  run = _capture(net, at)
  totals = dict.fromkeys(at, 0.0)
  shares = dict.fromkeys(at, 0.0)
  for start in range(0, count, size):
    # The last batch reaches back: one shape; what it repeats weighs nothing.
    first = min(start, count - size)
    rows = {name: x[first : first + size] for name, x in inputs.items()}
    part = weights[first : first + size].copy()
    part[: start - first] = 0
    found = run(params, rows)
    for site in at:
      x = np.asarray(found[site], np.float64)
      _check_axes(axes, x, site)
      w = np.broadcast_to(_weights(part, x, site), x.shape)
      totals[site] += (w * x).sum(axis=tuple(axes), keepdims=True)
      shares[site] += w.sum(axis=tuple(axes), keepdims=True)
  each = lambda site: np.where(shares[site] > 0, shares[site], 1)
  means = {site: totals[site] / each(site) for site in at}
  return {
    site: _finite(site, jnp.asarray(x, jnp.result_type(float)))
    for site, x in means.items()
  }


def _finite(site: str, x: jax.Array) -> jax.Array:
  if not np.isfinite(x).all():
    raise ValueError(
      f"What {site} gives on these inputs holds NaN or infinity, so nothing of "
      "it can stand in. Look for inputs that break the network."
    )
  return x


def _capture(net, at):
  """Parameters and inputs to activations alone: no logits of all tokens."""
  return jax.jit(
    lambda params, rows: (
      net.apply(params, capture=tuple(at), **rows).activations
    )
  )


def _draw(key, sizes, num_draws) -> jax.Array:
  if len(sizes) != 1 or not 1 <= num_draws <= min(sizes):
    raise ValueError(
      f"Need 1 <= num_draws <= B and one B for all sites; got {num_draws} of "
      f"B in {sorted(sizes)}."
    )
  return jax.random.choice(key, min(sizes), (num_draws,), replace=False)


def _check_axes(axes, x, site) -> None:
  if not set(axes) <= set(range(x.ndim)):
    raise ValueError(f"{site} has axes 0..{x.ndim - 1}; got axes={axes}.")


def _weights(weights, x, site) -> np.ndarray:
  w = np.asarray(weights, np.float64)
  if w.shape != x.shape[: w.ndim]:
    raise ValueError(
      f"Weights {w.shape} must be of the leading axes of {site}, {x.shape}."
    )
  if (w < 0).any():
    raise ValueError("Weights must not be negative.")
  return w.reshape(w.shape + (1,) * (x.ndim - w.ndim))
