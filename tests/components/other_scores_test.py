"""Gradients of components against their weights, and integrals in NumPy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from spex_jax.ablate import components, readouts
from spex_jax.components import other_scores
from spex_jax.models import convnet, gpt2, mlp
from spex_jax.training import learners
from tests.models import checkpoints

_X = np.random.default_rng(0).normal(size=(4, 3)).astype(np.float32)
_LABELS = np.array([0, 1, 1, 2])


@pytest.fixture(scope="module")
def network():
  """A tanh network of one hidden layer, its parameters and neurons."""
  net = mlp.network(mlp.Config(3, 3, widths=(5,), activation="tanh"))
  params = jax.jit(net.init)(jax.random.key(0))
  players = components.neurons(components.shapes(net, params, features=_X))
  return net, params, players


def _margins(params, x):
  """Margins, hidden units and d margin / d hidden, in float64."""
  w = jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), params)
  hidden = np.tanh(x @ w["layers_0"]["kernel"] + w["layers_0"]["bias"])
  logits = hidden @ w["head"]["kernel"] + w["head"]["bias"]
  rows = np.arange(len(x))
  others = logits.copy()
  others[rows, _LABELS] = -np.inf
  rival = others.argmax(axis=1)
  kernel = w["head"]["kernel"]
  return (
    logits[rows, _LABELS] - logits[rows, rival],
    hidden,
    (kernel[:, _LABELS] - kernel[:, rival]).T,
  )


def test_gate_gradient_of_neurons_is_gradient_times_parameter(network):
  net, params, players = network
  found = other_scores.gradient_x_parameter(
    net, players, {"features": _X}, readouts.margins(_LABELS), params=params
  )

  def one(kernel, x, label):
    changed = {**params, "head": {**params["head"], "kernel": kernel}}
    logits = net.apply(changed, features=x[None]).logits
    return learners.outputs(logits, label[None])[0]

  kernel = params["head"]["kernel"]
  slopes = jax.vmap(jax.grad(one), (None, 0, 0))(kernel, _X, _LABELS)
  expected = (np.asarray(slopes) * np.asarray(kernel)[None]).sum(axis=-1)
  # Some ten roundings of numbers near 1.
  np.testing.assert_allclose(found.scores, expected, rtol=0, atol=2e-6)
  value, hidden, slope = _margins(params, _X)
  np.testing.assert_allclose(found.scores, hidden * slope, atol=2e-6)
  np.testing.assert_allclose(found(np.ones((1, 5), bool))[0], value, atol=2e-6)


@pytest.mark.slow
def test_gate_gradient_of_filters_is_gradient_times_kernel():
  small = convnet.small(3, width=2)
  pixels = np.random.default_rng(1).random((4, 1, 6, 6)).astype(np.float32)
  params = jax.jit(small.init)(jax.random.key(0))
  settle = jax.jit(small.settle)
  state = settle(params, {"x": jnp.asarray(pixels)}, jnp.ones(4))
  net = convnet.network(small, 6, state)
  players = components.filters(
    components.shapes(net, state, pixel_values=pixels)
  )
  assert players.n == 6
  found = other_scores.gradient_x_parameter(
    net, players, {"pixel_values": pixels}, readouts.margins(_LABELS)
  )

  @jax.jit
  @jax.jacrev
  def margins(kernels):
    layers = [
      {**layer, "kernel": kernel}
      for layer, kernel in zip(state["params"]["layers"], kernels)
    ]
    changed = {**state, "params": {**state["params"], "layers": layers}}
    return learners.outputs(small.logits(changed, pixels), _LABELS)

  kernels = [layer["kernel"] for layer in params["layers"]]
  expected = np.concatenate(
    [
      (np.asarray(slope) * np.asarray(kernel)[None]).sum(axis=(2, 3, 4))
      for slope, kernel in zip(margins(kernels), kernels)
    ],
    axis=1,
  )
  # Sums of up to 18 * 36 products; margins of size 1.
  np.testing.assert_allclose(found.scores, expected, rtol=0, atol=2e-5)
  assert np.abs(expected).max() > 0.1


@pytest.mark.parametrize("steps", [64])
def test_conductance_and_influence_are_their_integrals(network, steps):
  net, params, players = network
  given = (net, players, {"features": _X}, readouts.margins(_LABELS))
  conductance = other_scores.neuron_conductance(
    *given, params=params, steps=steps
  )
  influence = other_scores.internal_influence(
    *given, params=params, steps=steps
  )
  edges = np.linspace(0, 1, 2001)
  middle = (edges[1:] + edges[:-1]) / 2
  units = np.stack([_margins(params, a * _X)[1] for a in edges])
  slopes = np.stack([_margins(params, a * _X)[2] for a in middle])
  # The rival may change on the way, a jump that 64 steps see to 1/64 of it.
  atol = 2 * np.abs(slopes).max() / steps
  np.testing.assert_allclose(
    conductance.scores, (slopes * np.diff(units, axis=0)).sum(0), atol=atol
  )
  np.testing.assert_allclose(influence.scores, slopes.mean(0), atol=atol)
  alone = other_scores.internal_influence(
    net, players, {"features": _X[:1]}, readouts.margins(_LABELS[:1]),
    params=params, steps=steps,
  )  # fmt: skip
  np.testing.assert_allclose(alone.scores, influence.scores[:1], atol=1e-5)
  # One layer that everything passes: f(x) - f(0).
  total = _margins(params, _X)[0] - _margins(params, 0 * _X)[0]
  np.testing.assert_allclose(
    conductance.scores.sum(axis=1), total, atol=5 * atol
  )


@pytest.mark.slow
def test_a_site_is_the_line_of_a_language_model():
  net = gpt2.network(gpt2.config_from_hub(checkpoints.GPT2))
  params = checkpoints.random_params(net)
  inputs = {"input_ids": np.array([[3, 1, 4, 1], [5, 9, 2, 6]])}
  players = components.blocks(components.shapes(net, params, **inputs))
  read = readouts.logit([2, 7])
  found = other_scores.neuron_conductance(
    net, players, inputs, read, params=params, steps=2
  )
  assert found.scores.shape == (4, 2)
  gated = other_scores.gradient_x_parameter(
    net, players, inputs, read, params=params
  )
  value = components.evaluator(
    net, players, inputs, read, params=params, batch_size=4,
    devices=jax.devices()[:1],
  )  # fmt: skip
  full = value(np.ones((1, 2), bool))[0]
  step = 1e-2

  @jax.jit
  def at(amounts):
    out = net.apply(params, players.edits(amounts), **inputs)
    return out.logits[:, -1, jnp.array([2, 7])].reshape(-1)

  for method in (found, gated):
    np.testing.assert_allclose(
      method(np.ones((1, 2), bool))[0], full, atol=1e-4
    )
  for i in range(2):
    up = np.where(np.arange(2) == i, 1 + step, 1.0).astype(np.float32)
    slope = (np.asarray(at(up)) - np.asarray(at(2 - up))) / (2 * step)
    # Central differences: step^2, and float32 over the step.
    np.testing.assert_allclose(gated.scores[:, i], slope, atol=5e-3)


def test_leave_one_out_and_random():
  value_fn = lambda masks: np.stack(
    [masks @ [1.0, 2.0, 4.0], masks[:, 0] * masks[:, 1]], axis=1
  )
  found = other_scores.leave_one_out(value_fn, 3)
  np.testing.assert_array_equal(found.scores, [[1, 2, 4], [1, 1, 0]])
  np.testing.assert_array_equal(found.baseline, [0, -1])
  one, other = (
    other_scores.random(jax.random.key(k), 3, 2).scores for k in (0, 1)
  )
  assert one.shape == (2, 3) and not (one == other).any()


def test_bad_input_is_refused(network):
  net, params, players = network
  read = readouts.margins(_LABELS)
  given = (net, players, {"features": _X}, read)
  with pytest.raises(ValueError, match="no parameters"):
    other_scores.gradient_x_parameter(*given)
  with pytest.raises(ValueError, match="where='nose' is neither an input"):
    other_scores.neuron_conductance(*given, params=params, where="nose")
  with pytest.raises(ValueError, match="steps must be at least 1; got 0"):
    other_scores.internal_influence(*given, params=params, steps=0)
  broken = jax.tree.map(lambda leaf: leaf * jnp.nan, params)
  with pytest.raises(ValueError, match="gradient x parameter: .* NaN"):
    other_scores.gradient_x_parameter(*given, params=broken)
  with pytest.raises(ValueError, match="NaN or infinity"):
    other_scores.leave_one_out(lambda masks: masks[:, 0] * np.nan, 5)
