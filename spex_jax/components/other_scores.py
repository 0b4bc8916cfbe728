"""What component attributions are compared with.

  leave_one_out          f(all) - f(all but i), n + 1 masks in one request
  gradient_x_parameter   df/dg_i at g = 1 of the gate g_i on component i: equal
                         to the gradient of the component's weights times these
                         weights, summed (Shah et al. 2024, appendix)
  neuron_conductance     sum over a component's units y of the integral of
                         df/dy dy/da along the line x' + a (x - x') (Dhamdhere
                         et al. 2018, arXiv 1805.12233, equation 1, written as
                         in Shrikumar et al. 2018, arXiv 1807.09946)
  internal_influence     sum over units of the mean of df/dy along that line
                         (Leino et al. 2018, arXiv 1802.03788, definition 1,
                         with the uniform distribution on the line)
  random                 standard normal scores

The integrals are taken by the midpoint rule, dy/da by forward differentiation;
the papers have Riemann sums. `baseline` x' is zero by default, as in the
authors' code. Influence is in values per unit of activation, so only its ranks
and correlations mean something.

Gradients are taken for each example apart, all in one backward pass: no example
may be felt in another's output (batch norm must use recorded statistics).
Memory is that of one backward pass on all examples; give a part of them, and
join the scores, where that is too much.

Shapes: n components, B examples, T targets, S steps.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from spex_jax import base
from spex_jax.ablate import components, gradients, parts, readouts
from spex_jax.indices import attribution
from spex_jax.masks import sampling
from spex_jax.models import sites

STEPS = 32


def leave_one_out(value_fn: base.ValueFn, n: int) -> attribution.Attribution:
  """f(all) - f(all but i), in one request of n + 1 masks.

  Raises:
    ValueError: no component, NaN or infinite values.
  """
  masks = sampling.leave_one_out(n)
  _, values = attribution.samples(masks, base.ask(value_fn, masks))
  scores = (values[0] - values[1:]).T
  return _complete(scores, values[0], "leave-one-out")


def gradient_x_parameter(
  net: sites.Network,
  players: parts.Players,
  inputs: Mapping[str, base.Array],
  read: readouts.Readout,
  *,
  params: Any = None,
) -> attribution.Attribution:
  """The gradient of every component's gate, where all are kept.

  Args:
    net: any network whose parts the players are.
    players: players that are parts of the network.
    inputs: batched arrays, by their usual names, B examples.
    read: the output to `[B]` or `[B, T]`, as for `components.evaluator`.
    params: the parameters of the network; its own by default.

  Returns:
    Scores of B, or B * T, targets, those of the first example first. Exact at
    the full mask.

  Raises:
    ValueError: no parameters, gradients that are NaN or infinite.
  """
  count = _count(inputs)
  game = components.game(
    net, players.apart(count), inputs, read, params=net.given(params)
  )

  def total(gates, given):
    return game.value(gates, given).reshape(count, -1).sum(axis=0)

  apart = dataclasses.replace(game, value=total)
  ones = np.ones((1, game.n), np.float32)
  full = jax.jit(lambda shared: game.value(ones[0], game.given(shared)))
  scores = _scores(apart, ones, count, players.n)
  return _complete(scores, full(game.shared), "gradient x parameter")


def neuron_conductance(
  net: sites.Network,
  players: parts.Players,
  inputs: Mapping[str, base.Array],
  read: readouts.Readout,
  *,
  params: Any = None,
  baseline: base.Array | float = 0.0,
  where: str | None = None,
  steps: int = STEPS,
) -> attribution.Attribution:
  """What flows through each component from the baseline to the input.

  Args:
    net: any network.
    players: players that are parts of the network.
    inputs: as for `gradient_x_parameter`.
    read: the output to `[B]` or `[B, T]`, as for `components.evaluator`.
    params: the parameters of the network; its own by default.
    baseline: x', a number or an array that broadcasts to x.
    where: x: an input of floats, or a site, such as "embed.tokens"; by default
      the one input of floats, else the site of token embeddings.
    steps: S, at least 1.

  Returns:
    Scores as of `gradient_x_parameter`. Over all units of one layer that all
    paths pass they sum to f(x) - f(x'), up to the rule's error.

  Raises:
    ValueError: no such place, fewer than one step, NaN or infinite gradients.
  """
  found = _along(
    net, players, inputs, read, params, baseline, where, steps, moved=True
  )
  return _complete(*found, "neuron conductance")


def internal_influence(
  net: sites.Network,
  players: parts.Players,
  inputs: Mapping[str, base.Array],
  read: readouts.Readout,
  *,
  params: Any = None,
  baseline: base.Array | float = 0.0,
  where: str | None = None,
  steps: int = STEPS,
) -> attribution.Attribution:
  """The mean gradient at each component's units, along the line.

  Args, errors: as for `neuron_conductance`.
  """
  found = _along(
    net, players, inputs, read, params, baseline, where, steps, moved=False
  )
  return _complete(*found, "internal influence")


def random(key: base.Key, n: int, num_targets: int) -> attribution.Attribution:
  """Standard normal scores; `key` is consumed."""
  scores = np.asarray(jax.random.normal(key, (num_targets, n)))
  return attribution.Attribution(scores, np.zeros(num_targets), "random")


def _along(
  net, players, inputs, read, params, baseline, where, steps, *, moved
):
  """Scores `[B * T, n]` along the line from a baseline, and the values there.

  They are the mean gradient of a game with one player for each component of
  each example, and one more, the strength of the input. A component's strength
  s adds s - 1 to its units; or s - 1 times what moves them, dy/da.
  """
  if base.check_integer(steps, "steps") < 1:
    raise ValueError(f"steps must be at least 1; got {steps}.")
  inputs = {name: jnp.asarray(x) for name, x in inputs.items()}
  where = _place(net, inputs) if where is None else where
  if where not in inputs and where not in net.sites:
    raise ValueError(
      f"where={where!r} is neither an input, {sorted(inputs)}, nor a site, "
      f"{list(net.sites)}."
    )
  count = _count(inputs)
  apart = players.apart(count)
  capture = tuple(players.owner)

  # The network from x on, with `adds` at its components.
  def forward(x, adds, params, inputs):
    at: dict[str, Any] = {}
    if where in inputs:
      inputs = {**inputs, where: x}
    else:
      at[where] = (jnp.ones((1,) * x.ndim, bool), x)
    edits = sites.Edits(replace=at, add=adds)
    return net.apply(params, edits, capture=capture, **inputs), inputs

  def head(shared):
    if where in inputs:
      return shared["inputs"][where]
    out = net.apply(shared["params"], capture=(where,), **shared["inputs"])
    return out.activations[where]

  def value(strengths, given):
    x, shared = given
    fixed = shared["params"], shared["inputs"]
    line = x - jnp.broadcast_to(shared["baseline"].astype(x.dtype), x.shape)
    at = x - (1 - strengths[-1]) * line
    padded = jnp.append(strengths[:-1] - 1, 0.0)
    adds = {site: padded[owner] for site, owner in apart.owner.items()}
    if moved:
      units = lambda x: forward(x, {}, *fixed)[0].activations
      # Only the components' gradients are wanted of this.
      here, way = jax.lax.stop_gradient((at, line))
      change = jax.jvp(units, (here,), (way,))[1]
      adds = {site: adds[site] * change[site] for site in capture}
    values = read(*forward(at, adds, *fixed))
    return values.reshape(count, -1).sum(axis=0)

  # A game with one more player, the input: where the path has got to.
  shared = {
    "params": net.given(params),
    "inputs": inputs,
    "baseline": jnp.asarray(baseline),
  }
  names = (*apart.names, "the input")
  game = base.Game(value, names, shared=shared, head=head)
  # Midpoints of the path.
  points = np.ones((steps, game.n), np.float32)
  points[:, -1] = (np.arange(steps) + 0.5) / steps
  full = jax.jit(
    lambda shared: read(net.apply(shared["params"], **shared["inputs"]), inputs)
  )
  return _scores(game, points, count, players.n), full(shared)


def _scores(game, points, count, n) -> np.ndarray:
  """float64 `[B * T, n]`, those of the first example first."""
  run = jax.jit(lambda shared: gradients.mean_gradient(game, points, shared))
  slopes = np.asarray(run(game.shared), np.float64)
  slopes = slopes[:, : n * count].reshape(len(slopes), count, n)
  return np.moveaxis(slopes, 0, 1).reshape(-1, n)


def _place(net, inputs) -> str:
  floats = [
    name for name, x in inputs.items()
    if jnp.issubdtype(x.dtype, jnp.floating)
  ]  # fmt: skip
  if len(floats) == 1:
    return floats[0]
  found = [site for site in net.sites if site.endswith("embed.tokens")]
  if not found:
    raise ValueError(
      "Say where the line runs: where= one of the inputs "
      f"{sorted(inputs)}, or a site."
    )
  return found[0]


def _count(inputs) -> int:
  return len(next(iter(inputs.values())))


def _complete(scores, full, method):
  """Scores whose sum meets the value at the full mask."""
  full = np.ravel(np.asarray(full, np.float64))
  baseline = full - scores.sum(axis=1)
  return attribution.Attribution(scores, baseline, method)
