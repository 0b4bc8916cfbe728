"""
An image
========

Which parts of a picture make a network see what it sees, and which parts only
together?
"""

# %%
# A small network in Flax, trained on scikit-learn's digits.

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax

import spex_jax as spex
from spex_jax import report
from spex_jax.ablate import evaluate, features
from spex_jax.datasets import images

train, test = images.digits().split(jax.random.key(0), 0.25)


class Classifier(nn.Module):
  """Two convolutions and a layer."""

  @nn.compact
  def __call__(self, pixels):
    x = jnp.moveaxis(pixels, 1, -1)
    x = nn.relu(nn.Conv(8, (3, 3))(x))
    x = nn.relu(nn.Conv(16, (3, 3), strides=2)(x))
    return nn.Dense(10)(x.reshape(len(x), -1))


net = Classifier()
pixels, labels = jnp.asarray(train.pixels), jnp.asarray(train.labels)
optimizer = optax.adam(3e-3)


def loss(params, pixels, labels):
  logits = net.apply(params, pixels)
  return optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean()


def step(carry, rows):
  params, state = carry
  slopes = jax.grad(loss)(params, pixels[rows], labels[rows])
  updates, state = optimizer.update(slopes, state)
  return (optax.apply_updates(params, updates), state), None


params = net.init(jax.random.key(1), train.pixels[:1])
rows = jax.random.randint(jax.random.key(2), (400, 64), 0, train.num_examples)
(params, _), _ = jax.jit(lambda c: jax.lax.scan(step, c, rows))(
  (params, optimizer.init(params))
)
right = net.apply(params, test.pixels).argmax(axis=1) == test.labels
print(f"{right.mean():.1%} of {test.num_examples} other digits right")

# %%
# Players are patches of two by two pixels. An absent one shows the mean of all
# training images there. What is read is the log odds of the right class; masks
# run in compiled batches.

number = int(np.flatnonzero(np.asarray(right) & (test.labels == 3))[0])
image, label = test.pixels[number], int(test.labels[number])
players = features.patches(image.shape, 2)


def read(pixels, params):
  log = jax.nn.log_softmax(net.apply(params, pixels))[:, label]
  return log - jnp.log1p(-jnp.exp(log) + 1e-7)


game = features.game(
  read,
  players,
  image,
  train.pixels.mean(axis=0),
  params,
  absent="the mean of the training images",
  units="nat",
)
value_fn = evaluate.compiled(game)
explanation = spex.explain(
  value_fn,
  budget=2000,
  method="gram",
  key=jax.random.key(3),
  names=players.names,
  units=game.units,
)
print(explanation)

# %%
# Left the digit, in the middle what each patch is worth by itself, right the
# sets that are worth more or less than the sum of their members.

interactions = explanation.interactions("FBII", order=2)
figure = report.image(
  image[0], players.owner[0], interactions, title=f"log odds of {label}"
)
