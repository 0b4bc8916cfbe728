"""Convolutional networks: patches, weighted statistics, and what may leak."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from spex_jax.models import convnet
from spex_jax.training import learners, loop

_SMALL = convnet.small(3, width=2)


def _images(count=6, side=6, channels=1, seed=0):
  rng = np.random.default_rng(seed)
  shape = (count, channels, side, side)
  return jnp.asarray(rng.normal(size=shape), jnp.float32)


def _by_numpy(net, params, x, weights):
  """One image, channel and pixel after another, in float64."""
  x, weights = np.asarray(x, np.float64), np.asarray(weights, np.float64)
  seen = []
  for spec, layer in zip(net.convs, params["layers"]):
    layer = {name: np.asarray(leaf, np.float64) for name, leaf in layer.items()}
    p, k = spec.padding, spec.kernel
    padded = np.pad(x, ((0, 0), (0, 0), (p, p), (p, p)))
    side = (padded.shape[2] - k) // spec.stride + 1
    y = np.zeros((len(x), spec.width, side, side))
    for i in range(side):
      for j in range(side):
        a, b = i * spec.stride, j * spec.stride
        window = padded[:, :, a : a + k, b : b + k]
        y[:, :, i, j] = np.einsum("bcij,ocij->bo", window, layer["kernel"])
    share = weights[:, None, None, None] / (weights.sum() * side**2)
    mean = (share * y).sum(axis=(0, 2, 3), keepdims=True)
    variance = (share * (y - mean) ** 2).sum(axis=(0, 2, 3), keepdims=True)
    y = (y - mean) / np.sqrt(variance + 1e-5) * layer["scale"][:, None, None]
    y = np.maximum(y + layer["bias"][:, None, None], 0)
    if spec.residual:
      y = y + seen[-spec.residual]
    size = side if spec.pool == 0 else spec.pool
    side = side // size
    x = y[:, :, : side * size, : side * size]
    x = x.reshape(*x.shape[:2], side, size, side, size).max(axis=(3, 5))
    seen.append(x)
  return net.head_scale * x.max(axis=(2, 3)) @ np.asarray(params["head"])


@pytest.mark.parametrize(
  "conv", [pytest.param("grouped", marks=pytest.mark.slow), "patches"]
)
def test_resnet_is_the_one_described(conv):
  net = convnet.resnet9(4, channels=2, width=2, conv=conv)
  params = net.init(jax.random.key(0))
  x = _images(3, 11, 2)
  weights = jnp.array([1.0, 0.5, 0.0])
  found = jax.jit(net.logits)(params, x, weights)
  expected = _by_numpy(net, params, x, weights)
  # Eight layers of sums of up to 72 products, normalised between.
  np.testing.assert_allclose(found[:2], expected[:2], rtol=0, atol=1e-4)


def test_resnet_has_the_size_of_the_original():
  shapes = jax.eval_shape(convnet.resnet9(10).init, jax.random.key(0))
  count = sum(leaf.size for leaf in jax.tree.leaves(shapes))
  assert count == 2_272_192 + 2 * 1344


@pytest.mark.slow
def test_mapped_kernels_agree_in_both_ways():
  ways = [convnet.small(3, width=2, conv=c) for c in ("grouped", "patches")]
  keys = jax.random.split(jax.random.key(1), 3)
  params = jax.vmap(_SMALL.init)(keys)
  one, other = (
    jax.jit(jax.vmap(net.logits, (0, None)))(params, _images()) for net in ways
  )
  np.testing.assert_allclose(one, other, rtol=0, atol=1e-5)


@pytest.mark.slow
def test_dropped_examples_do_not_leak_through_statistics():
  weights = jnp.array([1.0, 1, 0, 1, 0, 1])
  x = _images()
  changed = x.at[jnp.array([2, 4])].set(1e3)
  params = _SMALL.init(jax.random.key(0))
  kept = np.asarray(weights) > 0
  one = _SMALL.logits(params, x, weights)[kept]
  np.testing.assert_array_equal(
    one, _SMALL.logits(params, changed, weights)[kept]
  )
  np.testing.assert_allclose(
    one, _SMALL.logits(params, x[kept]), rtol=0, atol=1e-5
  )
  # Unweighted, they would.
  plain = _SMALL.logits(params, changed)[kept]
  assert np.abs(np.asarray(plain) - np.asarray(one)).max() > 0.01
  settled = [
    _SMALL.settle(params, {"x": images}, weights) for images in (x, changed)
  ]
  for name in range(2):
    np.testing.assert_array_equal(
      settled[0]["moments"][name][0], settled[1]["moments"][name][0]
    )


@pytest.mark.slow
def test_settled_statistics_are_those_of_all_examples():
  params = _SMALL.init(jax.random.key(0))
  x, weights = _images(), jnp.array([1.0, 1, 0, 1, 0, 1])
  # In one batch they are exact: the answers to this very batch.
  state = _SMALL.settle(params, {"x": x}, weights)
  np.testing.assert_allclose(
    _SMALL.logits(state, x), _SMALL.logits(params, x, weights), atol=1e-5
  )
  # An answer does not depend on its company.
  np.testing.assert_allclose(
    _SMALL.logits(state, x[:1]), _SMALL.logits(state, x)[:1], atol=1e-5
  )


@pytest.mark.slow
def test_a_learner_of_it_learns_bright_from_dark():
  net = convnet.small(2, width=2)
  x = _images(24)
  y = np.arange(24) % 2
  x = x + jnp.asarray(2.0 * y, jnp.float32)[:, None, None, None]
  learner = learners.classifier(
    "small", net.init, net.logits, 2, loop.Recipe(20, 8, 0.05),
    finish=net.settle, settings=net.settings,
  )  # fmt: skip
  data = {"x": x, "y": y}
  key = jax.random.key(0)
  fit = jax.jit(lambda w: learner.fit(key, key, learner.prepare(data), w))
  state, finite = fit(jnp.ones(24))
  margins = learner.read(state, data)
  assert bool(finite) and (np.asarray(margins) > 0).mean() > 0.9


@pytest.mark.parametrize(
  "settings, message",
  [
    ({"norm": "batch"}, "choose weighted or none"),
    ({"conv": "fft"}, "choose grouped or patches"),
    ({"channels": 0}, "a channel"),
  ],
)
def test_bad_settings_are_refused(settings, message):
  with pytest.raises(ValueError, match=message):
    convnet.small(2, **settings)
