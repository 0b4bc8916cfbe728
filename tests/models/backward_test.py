"""Rules of the backward pass: values stay, derivatives are by hand."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from spex_jax.models import backward, mlp, sites
from tests.circuits import networks


@pytest.fixture(autouse=True)
def _wide():
  with jax.enable_x64(True):
    yield


def _softmax(x):
  return np.exp(x) / np.exp(x).sum()


def test_a_softmax_at_another_temperature():
  rng = np.random.default_rng(0)
  x, slope = rng.normal(size=(2, 5))
  out, back = jax.vjp(
    lambda x: backward.softmax(x, backward.BY_NAME["gim"]), jnp.asarray(x)
  )
  np.testing.assert_array_equal(out, jax.nn.softmax(jnp.asarray(x)))
  soft = _softmax(x / 2)
  want = soft * (slope - (slope * soft).sum())
  np.testing.assert_allclose(back(jnp.asarray(slope))[0], want, atol=1e-15)


def test_activations_are_multiples_of_their_input():
  rules = backward.BY_NAME["relp"]
  x = jnp.asarray([-2.0, -0.5, 0.0, 0.7, 3.0])
  out, back = jax.vjp(lambda x: backward.activated(jax.nn.silu, x, rules), x)
  np.testing.assert_array_equal(out, jax.nn.silu(x))
  want = 1 / (1 + np.exp(-np.asarray(x)))  # silu(x) / x, 1/2 at 0.
  np.testing.assert_allclose(back(jnp.ones(5))[0], want, atol=1e-15)


def test_factors_and_constants():
  x = jnp.asarray([1.5, -2.0])
  out, back = jax.vjp(lambda x: backward.scaled(x, 0.25), x)
  np.testing.assert_array_equal(out, x)
  np.testing.assert_array_equal(back(x)[0], x / 4)
  slope = jax.grad(lambda x: (x * backward.constant(x, True)).sum())(x)
  np.testing.assert_array_equal(slope, x)


@pytest.mark.parametrize(
  "name", ["relp", pytest.param("gim", marks=pytest.mark.slow)]
)
def test_rules_change_no_value(name):
  net, params = networks.load("llama")
  ids = networks.pairs().clean
  run = lambda net: jax.jit(net.apply)(params, input_ids=ids).logits
  other = backward.under(net, backward.BY_NAME[name])
  np.testing.assert_allclose(run(net), run(other), rtol=0, atol=1e-13)


def test_relevance_is_conserved():
  """Without biases all of a logit is passed back to the embeddings."""
  net, params = networks.load("llama")
  params = jax.tree_util.tree_map_with_path(
    lambda path, x: x * (path[-1].key != "bias"), params
  )
  ids = jnp.asarray(networks.pairs().clean[:1])

  def logit(net, x):
    edits = sites.Edits(replace={"embed": (jnp.ones((1, 1, 1), bool), x)})
    return net.apply(params, edits, input_ids=ids).logits[0, -1, 3]

  x = jax.jit(lambda p: net.enter(p, 0, input_ids=ids))(params)

  def passed(rules):
    value, slope = jax.jit(
      jax.value_and_grad(lambda x: logit(backward.under(net, rules), x))
    )(x)
    return value, (slope * x).sum()

  value, back = passed(backward.BY_NAME["relp"])
  np.testing.assert_allclose(back, value, rtol=1e-12)
  value, back = passed(backward.PLAIN)
  assert abs(back - value) > 1e-2


def test_networks_without_rules_are_named():
  net = mlp.network(mlp.Config(3, 2))
  with pytest.raises(TypeError, match="has no rules of a backward pass"):
    backward.under(net, backward.PLAIN)
