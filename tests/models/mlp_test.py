"""The MLP against NumPy in float64, and every edit against its meaning."""

import dataclasses

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from spex_jax.models import mlp, sites

_CONFIG = mlp.Config(num_features=5, num_outputs=3, widths=(6, 4))


def _setup(config=_CONFIG):
  net = mlp.network(config)
  params = net.init(jax.random.key(0))
  features = np.random.default_rng(1).normal(size=(7, config.num_features))
  return net, params, features.astype(np.float32)


def _reference(params, features, edit=lambda site, x: x):
  """The forward pass, written out, in float64."""
  p = jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), params)
  x = edit("input", np.asarray(features, np.float64))
  for number in range(len(p) - 1):
    layer = p[f"layers_{number}"]
    x = edit(f"layers.{number}.pre", x @ layer["kernel"] + layer["bias"])
    x = edit(f"layers.{number}.neurons", np.maximum(x, 0))
  return edit("logits", x @ p["head"]["kernel"] + p["head"]["bias"])


# Sums of at most 6 products of size about 1, three layers deep.
_ATOL = 30 * np.finfo(np.float32).eps


@pytest.mark.parametrize("widths", [(), (6,), (6, 4)])
def test_matches_numpy(widths):
  net, params, features = _setup(dataclasses.replace(_CONFIG, widths=widths))
  out = net.apply(params, features=features)
  np.testing.assert_allclose(
    out.logits, _reference(params, features), rtol=0, atol=_ATOL
  )
  assert [h.shape for h in out.hidden] == [(7, w) for w in widths]
  assert out.activations == {}


@pytest.mark.parametrize("site", mlp.network(_CONFIG).sites)
def test_edits_replace_then_scale_then_add(site):
  net, params, features = _setup()
  captured = net.apply(params, features=features, capture=("*",)).activations
  rng = np.random.default_rng(2)
  shape = captured[site].shape
  where, value = rng.random(shape) < 0.5, rng.normal(size=shape)
  scale, add = rng.normal(size=(1, shape[1])), rng.normal(size=(shape[0], 1))
  edits = sites.Edits(
    replace={site: (where, value)}, scale={site: scale}, add={site: add}
  )

  def edit(name, x):
    return np.where(where, value, x) * scale + add if name == site else x

  out = jax.jit(net.apply)(params, edits, features=features)
  expected = _reference(params, features, edit)
  np.testing.assert_allclose(out.logits, expected, rtol=0, atol=10 * _ATOL)


def test_captures_hold_the_edited_activation():
  net, params, features = _setup()
  edits = sites.Edits(scale={"layers.0.neurons": np.zeros((1, 1))})
  out = net.apply(
    params, edits, features=features, capture=("layers.?.neurons",)
  )
  assert set(out.activations) == {"layers.0.neurons", "layers.1.neurons"}
  assert not np.asarray(out.activations["layers.0.neurons"]).any()
  np.testing.assert_array_equal(
    out.activations["layers.1.neurons"], out.hidden[1]
  )


def test_patching_in_a_captured_run_reproduces_it():
  net, params, features = _setup()
  source = net.apply(params, features=features[::-1], capture=("*",))
  site = "layers.0.neurons"
  edits = sites.Edits(
    replace={site: (np.ones((1, 1), bool), source.activations[site])}
  )
  out = net.apply(params, edits, features=features)
  np.testing.assert_array_equal(out.logits, source.logits)


def test_one_compilation_serves_every_mask_and_vmap_equals_a_loop():
  net, params, features = _setup()
  masks = np.random.default_rng(3).random((9, 6)) < 0.5

  def ablated(mask):
    edits = sites.Edits(scale={"layers.0.neurons": mask[None]})
    return net.apply(params, edits, features=features).logits

  chex.clear_trace_counter()
  one = jax.jit(chex.assert_max_traces(ablated, n=1))
  looped = np.stack([one(mask) for mask in masks])
  batched = jax.vmap(ablated)(jnp.asarray(masks))
  np.testing.assert_allclose(batched, looped, rtol=0, atol=_ATOL)


def test_gradient_by_an_add_edit_is_the_derivative():
  net, params, features = _setup()
  site = "layers.1.neurons"

  def total(shift):
    edits = sites.Edits(add={site: shift})
    return net.apply(params, edits, features=features).logits[:, 0].sum()

  grad = jax.grad(total)(jnp.zeros((7, 4)))
  # The head is linear behind this site: the derivative is its first column.
  expected = np.tile(np.asarray(params["head"]["kernel"])[:, 0], (7, 1))
  np.testing.assert_allclose(grad, expected, rtol=0, atol=_ATOL)


@pytest.mark.parametrize(
  "kwargs, error, message",
  [
    (
      {"edits": sites.Edits(cut={"logits": np.ones((1, 1, 1, 1))})},
      ValueError,
      "MLP has no residual stream",
    ),
    ({"capture": ("heads.*",)}, ValueError, r"'heads\.\*' names no site"),
    ({"capture": "logits"}, ValueError, r"write \('logits',\)"),
    (
      {"edits": sites.Edits(scale={"layers.9.pre": np.ones((1, 1))})},
      ValueError,
      "No such site: .'layers.9.pre'",
    ),
    (
      {"edits": sites.Edits(add={"logits": np.ones(3)})},
      ValueError,
      r"`add` at site 'logits' has shape \(3,\)",
    ),
    (
      {"edits": sites.Edits(scale={"logits": np.ones((1, 2))})},
      ValueError,
      r"shape \(1, 2\); the activation has \(7, 3\)",
    ),
    ({"pixel_values": 1}, TypeError, "Inputs must be .'features'"),
  ],
)
def test_bad_calls_are_refused(kwargs, error, message):
  net, params, features = _setup()
  with pytest.raises(error, match=message):
    net.apply(params, **{"features": features} | kwargs)


def test_bad_shapes_and_settings_are_refused():
  net, params, features = _setup()
  with pytest.raises(ValueError, match=r"must be \[B, 5\]; got \(7, 4\)"):
    net.apply(params, features=features[:, :4])
  with pytest.raises(ValueError, match="Unknown activation 'swish'"):
    dataclasses.replace(_CONFIG, activation="swish")
  with pytest.raises(ValueError, match="at least 1"):
    dataclasses.replace(_CONFIG, widths=(3, 0))
