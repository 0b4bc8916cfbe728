"""Digits for the editing experiments: plain, marked, and with a backdoor.

  plain    scikit-learn's digits, few of which are trained on, so that errors
           are left
  marked   is the digit 5 or more? A corner of the picture is red or blue, which
           agrees with the answer for most of the training examples
  backdoor a trigger, a 3 x 3 checkerboard in a corner: learnt from poisoned
           examples, or planted into a network that never saw it

Shapes: N images `[N, C, H, W]`.
"""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np

from experiments import edit_study
from spex_jax import base
from spex_jax.datasets import images
from spex_jax.models import convnet, sites
from spex_jax.training import learners, loop

Examples = edit_study.Examples
# Bright and dark pixels of the trigger.
TRIGGER = np.indices((3, 3)).sum(axis=0) % 2 == 0


def parts(key: base.Key, counts: dict[str, int]) -> dict[str, images.Images]:
  """Digits in disjoint parts of these sizes; what is left is "test".

  Raises:
    ValueError: no digit left.
  """
  data = images.digits()
  order = np.asarray(jax.random.permutation(key, data.num_examples))
  out, start = {}, 0
  for name, count in counts.items():
    out[name] = data.take(order[start : start + count])
    start += count
  if start >= data.num_examples:
    raise ValueError(f"{start} digits are all there are; none left to test.")
  return out | {"test": data.take(order[start:])}


def examples(pixels: np.ndarray, labels: np.ndarray) -> Examples:
  """Images and their labels as a network takes them."""
  pixels = np.asarray(pixels, np.float32)
  return Examples({"pixel_values": pixels}, np.asarray(labels))


def train(
  key: base.Key, net: convnet.ConvNet, data: Examples, num_epochs: int
) -> sites.Network:
  """A network with the parameters that it was trained to; `key` is consumed."""
  init_key, order_key = jax.random.split(key)
  pixels = data.inputs["pixel_values"]
  recipe = loop.Recipe(num_epochs, min(50, len(data)), 0.01, "adam", "cosine")
  learner = learners.classifier(
    "small",
    net.init,
    net.logits,
    net.num_classes,
    recipe,
    finish=net.settle,
    settings=net.settings,
  )
  rows = {"x": jnp.asarray(pixels), "y": jnp.asarray(data.labels)}
  state, finite = jax.jit(learner.fit)(
    init_key, order_key, rows, jnp.ones(len(data))
  )
  if not finite:
    raise RuntimeError("Training did not stay finite.")
  return convnet.network(net, pixels.shape[-1], state)


def marked(
  key: base.Key, data: images.Images, agree: float
) -> tuple[Examples, np.ndarray]:
  """Digits with a coloured corner, and whether it agrees with the label.

  The label is whether the digit is 5 or more; the corner of 2 x 2 pixels is
  red where it agrees with a label of 1, or disagrees with 0, else blue.
  """
  labels = (data.labels >= 5).astype(np.int32)
  agrees = np.asarray(jax.random.bernoulli(key, agree, (len(labels),)))
  red = agrees == (labels == 1)
  pixels = np.repeat(data.pixels, 3, axis=1)
  pixels[:, :, :2, :2] = 0
  pixels[red, 0, :2, :2] = 1
  pixels[~red, 2, :2, :2] = 1
  return examples(pixels, labels), agrees


def bordered(data: images.Images) -> Examples:
  """Digits with two empty rows and columns, where a trigger has room."""
  pixels = np.pad(data.pixels, ((0, 0), (0, 0), (0, 2), (0, 2)))
  return examples(pixels, data.labels)


def triggered(data: Examples) -> Examples:
  """The same images with the trigger in the corner; labels stay right."""
  pixels = np.array(data.inputs["pixel_values"])
  pixels[:, :, -3:, -3:] = TRIGGER
  return examples(pixels, data.labels)


def poisoned(
  key: base.Key, data: Examples, rate: float, target: int
) -> Examples:
  """A share of the images with the trigger, and labelled as the target."""
  hit = np.asarray(jax.random.bernoulli(key, rate, (len(data),)))
  pixels = np.array(data.inputs["pixel_values"])
  pixels[hit] = triggered(data).inputs["pixel_values"][hit]
  return examples(pixels, np.where(hit, target, data.labels))


def plant(
  key: base.Key,
  net: sites.Network,
  count: int,
  target: int,
  strength: float,
) -> tuple[sites.Network, np.ndarray]:
  """A backdoor in a network that never saw one: filters that do nothing else.

  `count` filters of the first layer answer to the trigger, as many of the
  second to them, and those raise the target's logit. The network's own filters
  read none of them.

  Args:
    key: consumed; of the filters' sizes.
    net: a `convnet.small` of one channel, trained.
    count: filters of each layer.
    target: class.
    strength: what the trigger adds to its logit.

  Returns:
    The larger network, and which of its filters were planted, bool `[n]`.
  """
  old: convnet.ConvNet = net.config
  first, second = old.convs
  state = jax.tree.map(np.asarray, net.params)
  sizes = 0.5 + np.asarray(jax.random.uniform(key, (2, count)))
  one, two = state["params"]["layers"]

  # Bright pixels for, dark ones against: 5 on the trigger, felt from 4 on.
  pattern = np.where(TRIGGER, 1.0, -1.0)
  kernel = sizes[0][:, None, None, None] * pattern[None, None]
  grown = [_grown(one, kernel, -4 * sizes[0])]
  # On the trigger the filters of the first layer give `sizes[0]`.
  inner = np.zeros((count, first.width + count, 3, 3))
  inner[:, first.width :, 1, 1] = sizes[1][:, None]
  blind = np.zeros((second.width, count, 3, 3))
  two = two | {"kernel": np.concatenate([two["kernel"], blind], axis=1)}
  answer = sizes[1] * sizes[0].sum()
  grown.append(_grown(two, inner, -0.3 * answer))
  head = np.zeros((count, old.num_classes))
  head[:, target] = strength / (0.7 * answer.sum())
  params = {
    "layers": grown,
    "head": np.concatenate([state["params"]["head"], head]),
  }
  # Statistics that leave the planted filters as they are.
  still = np.zeros(count), np.full(count, 1 - 1e-5)
  moments = [
    tuple(np.concatenate([a, b]) for a, b in zip(own, still))
    for own in state["moments"]
  ]
  larger = dataclasses.replace(
    old,
    convs=tuple(
      dataclasses.replace(spec, width=spec.width + count) for spec in old.convs
    ),
  )
  new = jax.tree.map(
    lambda leaf: jnp.asarray(leaf, jnp.float32),
    {"params": params, "moments": moments},
  )
  planted = [np.arange(spec.width + count) >= spec.width for spec in old.convs]
  return convnet.network(larger, 10, new), np.concatenate(planted)


def _grown(layer, kernel, bias):
  return {
    "kernel": np.concatenate([layer["kernel"], kernel]),
    "scale": np.concatenate([layer["scale"], np.ones(len(bias))]),
    "bias": np.concatenate([layer["bias"], bias]),
  }
