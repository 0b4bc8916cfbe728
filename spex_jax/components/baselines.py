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

import functools
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from spex_jax import base
from spex_jax.ablate import components, readouts
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
  _, values = attribution.samples(masks, value_fn(masks))
  scores = (values[0] - values[1:]).T
  return _complete(scores, values[0], "leave-one-out")


def gradient_x_parameter(
  net: sites.Network,
  players: components.Players,
  inputs: Mapping[str, base.Array],
  read: readouts.Readout,
  *,
  params: Any = None,
) -> attribution.Attribution:
  """The gradient of every component's gate, where all are kept.

  Args:
    net: any network.
    players: of its parts.
    inputs: batched arrays, by their usual names, B examples.
    read: `[B]` or `[B, T]`, as for `components.evaluator`.
    params: of the network; its own by default.

  Returns:
    Scores of B, or B * T, targets, those of the first example first. Exact at
    the full mask.

  Raises:
    ValueError: no parameters, gradients that are NaN or infinite.
  """
  params, inputs = _given(net, inputs, params)

  def outputs(gates, params, inputs):
    run = functools.partial(net.apply, params, players.strengths(gates))
    out = readouts.forward(net, read, inputs, run)
    return out.reshape(len(out), -1)

  @jax.jit
  def slopes(params, inputs):
    ones = jnp.ones((_count(inputs), players.n))
    total = lambda gates: outputs(gates, params, inputs).sum(axis=0)
    return jax.jacrev(total)(ones), outputs(ones, params, inputs)

  found, full = slopes(params, inputs)
  name = "gradient x parameter"
  return _complete(_by_example(found), np.ravel(full), name)


def neuron_conductance(
  net: sites.Network,
  players: components.Players,
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
    players: of its parts.
    inputs: as for `gradient_x_parameter`.
    read: of the output.
    params: of the network; its own by default.
    baseline: x', which broadcasts to x.
    where: x: an input of floats, or a site, such as "embed.tokens"; by default
      the one input of floats, else the site of token embeddings.
    steps: S, at least 1.

  Returns:
    Scores as of `gradient_x_parameter`. Over all units of one layer that all
    paths pass they sum to f(x) - f(x'), up to the rule's error.

  Raises:
    ValueError: no such place, fewer than one step, NaN or infinite gradients.
  """
  path = _Path(net, inputs, read, params, where)
  scores = path.integrate(players, baseline, steps, times_change=True)
  return _complete(scores, path.full(), "neuron conductance")


def internal_influence(
  net: sites.Network,
  players: components.Players,
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
  path = _Path(net, inputs, read, params, where)
  scores = path.integrate(players, baseline, steps, times_change=False)
  return _complete(scores, path.full(), "internal influence")


def random(key: base.Key, n: int, num_targets: int) -> attribution.Attribution:
  """Standard normal scores; `key` is consumed."""
  scores = np.asarray(jax.random.normal(key, (num_targets, n)))
  return attribution.Attribution(scores, np.zeros(num_targets), "random")


class _Path:
  """A network on the line from a baseline to its input."""

  def __init__(self, net, inputs, read, params, where):
    self._net, self._read = net, read
    self._params, self._inputs = _given(net, inputs, params)
    self._where = _place(net, self._inputs) if where is None else where
    self._is_input = self._where in self._inputs
    if not self._is_input and self._where not in net.sites:
      raise ValueError(
        f"where={where!r} is neither an input, {sorted(self._inputs)}, nor a "
        f"site, {list(net.sites)}."
      )

  def _forward(self, x, adds, params, inputs):
    """Outputs `[B, T]` and activations where `adds` are added, at input x."""
    at: dict[str, Any] = {}
    if self._is_input:
      inputs = {**inputs, self._where: x}
    else:
      at[self._where] = (jnp.ones((1,) * x.ndim, bool), x)
    edits = sites.Edits(replace=at, add=adds)
    out = self._net.apply(params, edits, capture=tuple(adds), **inputs)
    values = self._read(out, inputs)
    return values.reshape(len(values), -1), out.activations

  def full(self) -> np.ndarray:
    """f(x), `[B * T]`."""
    run = jax.jit(
      lambda params, inputs: self._read(
        self._net.apply(params, **inputs), inputs
      )
    )
    return np.ravel(run(self._params, self._inputs))

  def integrate(self, players, baseline, steps, times_change) -> np.ndarray:
    """Scores `[B * T, n]`."""
    if base.check_integer(steps, "steps") < 1:
      raise ValueError(f"steps must be at least 1; got {steps}.")

    def run(params, inputs):
      if self._is_input:
        x = inputs[self._where]
      else:
        x = self._net.apply(
          params, capture=(self._where,), **inputs
        ).activations[self._where]
      line = x - jnp.broadcast_to(jnp.asarray(baseline, x.dtype), x.shape)
      capture = tuple(players.owner)
      shapes = jax.eval_shape(
        lambda: self._net.apply(params, capture=capture, **inputs).activations
      )
      zeros = {s: jnp.zeros(shapes[s].shape, shapes[s].dtype) for s in capture}

      def step(total, amount):
        at = x - (1 - amount) * line
        outputs = lambda adds: self._forward(at, adds, params, inputs)[0].sum(0)
        slopes = jax.jacrev(outputs)(zeros)
        if times_change:
          units = lambda x: self._forward(x, zeros, params, inputs)[1]
          change = jax.jvp(units, (at,), (line,))[1]
          slopes = {s: slopes[s] * change[s][None] for s in capture}
        return total + _summed(slopes, players), None

      one = jax.eval_shape(
        lambda: self._forward(x, zeros, params, inputs)[0]
      ).shape
      total = jnp.zeros((one[1], one[0], players.n))
      amounts = (jnp.arange(steps) + 0.5) / steps
      return jax.lax.scan(step, total, amounts)[0] / steps

    return _by_example(jax.jit(run)(self._params, self._inputs))


def _summed(slopes, players):
  """Sums `[T, B, ...]` at every site over each player's units: `[T, B, n]`."""
  total: Any = 0.0
  for site, owner in players.owner.items():
    part = slopes[site]
    # Axes of the activation along which all units are one player's.
    axes = tuple(i + 1 for i in range(1, owner.ndim) if owner.shape[i] == 1)
    part = part.sum(axis=axes).reshape(*part.shape[:2], -1)
    everyone = jnp.zeros((*part.shape[:2], players.n + 1), part.dtype)
    total += everyone.at[:, :, owner.reshape(-1)].add(part)
  return total[..., : players.n]


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


def _given(net, inputs, params):
  params = net.params if params is None else params
  if params is None:
    raise ValueError("This network has no parameters: give `params`.")
  return params, {name: jnp.asarray(x) for name, x in inputs.items()}


def _count(inputs) -> int:
  return len(next(iter(inputs.values())))


def _by_example(slopes) -> np.ndarray:
  """`[T, B, n]` to float64 `[B * T, n]`."""
  slopes = np.asarray(slopes, np.float64)
  return np.moveaxis(slopes, 0, 1).reshape(-1, slopes.shape[-1])


def _complete(scores, full, method):
  """Scores whose sum meets the value at the full mask."""
  baseline = np.asarray(full, np.float64) - scores.sum(axis=1)
  return attribution.Attribution(scores, baseline, method)
