"""A small convolutional network trained on scikit-learn's digits.

Two convolutions with batch norm, of 16 and 32 filters at the usual width; some
96 % of the digits that it has not seen are right. Trained in seconds, the same
for the same settings.
"""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from spex_jax.datasets import images
from spex_jax.models import convnet, sites
from spex_jax.training import learners, loop


class Trained(NamedTuple):
  """A network with its data.

  Attributes:
    net: with sites `layers.N.conv`; its `params` are the trained ones.
    layers: the same as a `ConvNet`.
    train: digits that it has seen.
    test: the others.
    accuracy: on them.
  """

  net: sites.Network
  layers: convnet.ConvNet
  train: images.Images
  test: images.Images
  accuracy: float


@functools.cache
def trained(width: int = 16, epochs: int = 15, seed: int = 0) -> Trained:
  """Trains on 1,000 digits, in an order drawn from `seed`."""
  key = jax.random.key(seed)
  split, init, order = (jax.random.fold_in(key, k) for k in range(3))
  train, test = images.digits().split(split, 797 / 1797)
  layers = convnet.small(10, width=width)
  recipe = loop.Recipe(epochs, 50, 3e-3, schedule="cosine")
  learner = learners.classifier(
    "small", layers.init, layers.logits, 10, recipe,
    finish=layers.settle, settings=layers.settings,
  )  # fmt: skip
  data = {"x": jnp.asarray(train.pixels), "y": jnp.asarray(train.labels)}
  weights = jnp.ones(train.num_examples)
  state, finite = jax.jit(learner.fit)(init, order, data, weights)
  if not finite:
    raise RuntimeError("Training did not stay finite.")
  net = convnet.network(layers, 8, jax.tree.map(np.asarray, state))
  logits = jax.jit(net.apply)(net.params, pixel_values=test.pixels).logits
  right = np.asarray(logits).argmax(axis=1) == test.labels
  return Trained(net, layers, train, test, float(right.mean()))
