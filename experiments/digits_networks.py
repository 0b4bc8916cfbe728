"""Small networks trained on scikit-learn's digits.

Two convolutions with batch norm, of 16 and 32 filters at the usual width, and a
vision transformer of two blocks; some 96 and 93 % of the digits that they have
not seen are right. Trained in seconds, the same for the same settings.
"""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from spex_jax.datasets import images
from spex_jax.influence import classifiers
from spex_jax.models import convnet, sites
from spex_jax.training import learners, loop


class Trained(NamedTuple):
  """A network with its data.

  Attributes:
    net: of a CNN with sites `layers.N.conv`; its `params` are the trained ones.
    layers: a CNN as a `ConvNet`.
    train: digits that it has seen.
    test: the others.
    accuracy: on them.
  """

  net: sites.Network
  layers: Any
  train: images.Images
  test: images.Images
  accuracy: float


@functools.cache
def cnn(width: int = 16, epochs: int = 15, seed: int = 0) -> Trained:
  """A CNN trained on 1,000 digits, in an order drawn from `seed`."""
  layers = convnet.small(10, width=width)
  return _fitted(
    layers.init, layers.logits, epochs, seed,
    lambda state: convnet.network(layers, 8, state), layers,
    finish=layers.settle, settings=layers.settings,
  )  # fmt: skip


@functools.cache
def transformer(width: int = 32, epochs: int = 40, seed: int = 0) -> Trained:
  """A vision transformer of two blocks, of pixels two by two, likewise."""
  net, name = classifiers.transformer(
    (8, 8), 10, width=width, num_blocks=2, num_heads=4, patch_size=2
  )
  return _fitted(
    net.init, lambda state, x: net.apply(state, pixel_values=x).logits,
    epochs, seed, lambda state: dataclasses.replace(net, params=state), None,
    settings={"name": name},
  )  # fmt: skip


def _fitted(
  init: Callable[..., Any],
  logits: Callable[..., jax.Array],
  epochs: int,
  seed: int,
  network: Callable[[Any], sites.Network],
  layers: Any,
  **more: Any,
) -> Trained:
  key = jax.random.key(seed)
  split, begin, order = (jax.random.fold_in(key, k) for k in range(3))
  train, test = images.digits().split(split, 797 / 1797)
  recipe = loop.Recipe(epochs, 50, 3e-3, schedule="cosine")
  learner = learners.classifier("small", init, logits, 10, recipe, **more)
  data = {"x": jnp.asarray(train.pixels), "y": jnp.asarray(train.labels)}
  weights = jnp.ones(train.num_examples)
  state, finite = jax.jit(learner.fit)(begin, order, data, weights)
  if not finite:
    raise RuntimeError("Training did not stay finite.")
  net = network(jax.tree.map(np.asarray, state))
  found = jax.jit(net.apply)(net.params, pixel_values=test.pixels).logits
  right = np.asarray(found).argmax(axis=1) == test.labels
  return Trained(net, layers, train, test, float(right.mean()))
