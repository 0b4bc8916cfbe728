"""
Attention heads
===============

Which heads does a vision transformer need, and which can stand in for each
other? Heads are removed at inference; nothing is trained again.
"""

# %%
# A transformer of three blocks with four heads each, trained on digits.

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np

import spex_jax as spex
from spex_jax.ablate import components, readouts
from spex_jax.components import layer_energy
from spex_jax.datasets import images
from spex_jax.influence import classifiers
from spex_jax.report import layers as plots
from spex_jax.training import learners, loop

train, test = images.digits().split(jax.random.key(0), 0.25)
net, name = classifiers.transformer(
  (8, 8), 10, width=32, num_blocks=3, num_heads=4, patch_size=2
)
learner = learners.classifier(
  name,
  net.init,
  lambda params, x: net.apply(params, pixel_values=x).logits,
  10,
  loop.Recipe(20, 64, 3e-3, schedule="cosine"),
)
data = {"x": jnp.asarray(train.pixels), "y": jnp.asarray(train.labels)}
params, finite = jax.jit(learner.fit)(
  jax.random.key(1), jax.random.key(2), data, jnp.ones(train.num_examples)
)
net = dataclasses.replace(net, params=params)
logits = net.apply(params, pixel_values=test.pixels).logits
right = np.asarray(logits).argmax(axis=1) == test.labels
print(f"{name}: {right.mean():.1%} of {test.num_examples} other digits right")

# %%
# What is read: the margin of the right digit, averaged over 16 test images. An
# absent head gives zeros. Of 4,096 masks of twelve heads 1,000 are asked.

inputs = {"pixel_values": test.pixels[:16]}
each = readouts.margins(test.labels[:16])
players = components.heads(components.shapes(net, params, **inputs))
value_fn = components.evaluator(
  net,
  players,
  inputs,
  lambda output, inputs: each(output, inputs).mean(keepdims=True),
  batch_size=128,
)
explanation = spex.explain(
  value_fn,
  budget=1000,
  method="gram",
  key=jax.random.key(3),
  names=players.names,
  units="logit",
)
print(explanation)

# %%
# Where interactions lie: within layers, or between them?

layer_of = layer_energy.of_names(players.names)
print(layer_energy.energy(explanation.fourier, layer_of))

# %%
# Rows are layers, colours what a head is worth, arcs pairs of heads: negative
# ones back each other up.

found = explanation.interactions("FBII", order=2)
figure = plots.grid(found, layer_of, title="mean margin of the right digit")
