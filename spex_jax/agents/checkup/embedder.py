"""Pictures and captions as vectors that agree: a small model of our own.

Trained on the world as CLIP is (Radford et al., arXiv:2103.00020): the picture
of a caption is to be nearer to it than to the others of a batch, and the
caption to the picture. Pictures go through a small ResNet; a caption's phrases
("a small red circle at the top") are bags of words, each through two layers,
and summed: what belongs together stays together. Any other embedder with these
two functions takes its place.

Shapes: N pictures uint8 `[N, S, S, 3]`, D numbers of length 1.
"""

import dataclasses
import functools
import re
import zlib
from collections.abc import Callable, Sequence
from typing import Any

import chex
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from spex_jax import base
from spex_jax.agents.checkup import encoders, moco, picture_sets
from spex_jax.agents.world import prompts, rendering
from spex_jax.training import loop

_WORDS = 256  # Columns of words, by a hash.
_PHRASES = 8  # Of a caption, at most.
_SCALE = 10.0  # Of cosines, in the loss: an inverse temperature.
SIDE = 48  # Pixels that the model sees.
_FIXED_SIDE = 32  # Likewise, the network of `fixed`.
_BREAK = re.compile(r"\band\b|\bon\b|,")


@dataclasses.dataclass(frozen=True)
class Embedder:
  """What fidelity is measured by.

  Attributes:
    pictures: uint8 `[N, S, S, 3]` to float `[N, D]`.
    texts: N captions to float `[N, D]`.
    name: of the model, and its version.
  """

  pictures: Callable[[np.ndarray], np.ndarray]
  texts: Callable[[Sequence[str]], np.ndarray]
  name: str


@dataclasses.dataclass(frozen=True)
class Recipe:
  """Of the training; hashable.

  Attributes:
    scenes: pictures and captions to learn from.
    epochs: how many times training goes over the scenes.
    batch_size: pairs of picture and caption that are told apart in one step.
    width: filters of the first stage; D is four times as many.
    learning_rate: the peak of adam's step size.
  """

  scenes: int = 6144
  epochs: int = 12
  batch_size: int = 128
  width: int = 16
  learning_rate: float = 2e-3

  def __post_init__(self):
    if self.scenes < self.batch_size:
      raise ValueError(
        f"scenes={self.scenes} must be at least batch_size={self.batch_size}."
      )


class _Texts(nn.Module):
  """Phrases `[..., P, W]` to `[..., D]`; empty ones count nothing."""

  width: int

  @nn.compact
  def __call__(self, phrases: jax.Array) -> jax.Array:
    hidden = nn.relu(nn.Dense(2 * self.width)(phrases))
    there = phrases.sum(axis=-1, keepdims=True) > 0
    summed = (nn.Dense(self.width)(hidden) * there).sum(axis=-2)
    return moco.unit(nn.Dense(self.width)(nn.relu(summed)))


def phrases(captions: Sequence[str]) -> np.ndarray:
  """Counts of words, uint8 `[N, P, W]`; what is beyond P phrases is left."""
  found = np.zeros((len(captions), _PHRASES, _WORDS), np.uint8)
  for row, caption in enumerate(captions):
    for place, phrase in enumerate(_BREAK.split(caption.lower())[:_PHRASES]):
      for word in re.findall(r"[a-z0-9]+", phrase):
        found[row, place, zlib.crc32(word.encode()) % _WORDS] += 1
  return found


def train(key: base.Key, seed: int, recipe: Recipe) -> dict[str, Any]:
  """Parameters of the model; the same for the same key, seed and recipe.

  Args:
    key: a random key, consumed by the initialisation and the order.
    seed: an integer, the seed of the drawn scenes.
    recipe: how many scenes and steps, how wide a model; hashable.
  """
  rng = np.random.default_rng([seed, 22])
  drawn = picture_sets.some_scenes(rng, recipe.scenes)
  seen = [rendering.render(own, SIDE) for own in drawn]
  data = {
    "pictures": np.stack(seen).transpose(0, 3, 1, 2),
    "phrases": phrases(list(map(prompts.write, drawn))),
  }
  begin, order = jax.random.split(key)
  fit = jax.jit(_fit, static_argnames="recipe")
  return jax.tree.map(np.asarray, fit(begin, order, data, recipe))


def _fit(begin, order, data, recipe) -> dict[str, Any]:
  """Trains, then settles the pictures' statistics."""
  encoder = encoders.small(recipe.width)
  texts = _Texts(encoder.width)

  def init(key):
    one, two = jax.random.split(key)
    words = jnp.zeros((_PHRASES, _WORDS))
    return {
      "encoder": encoder.init(one), "texts": texts.init(two, words)["params"]
    }  # fmt: skip

  def losses(params, batch):
    seen = moco.unit(encoder.features(params["encoder"], batch["pictures"]))
    words = batch["phrases"].astype(jnp.float32)
    said: Any = texts.apply({"params": params["texts"]}, words)
    scores = _SCALE * seen @ said.T
    chex.assert_shape(scores, (recipe.batch_size, recipe.batch_size))
    right = jnp.diagonal(scores)
    rows, columns = (jax.nn.logsumexp(scores, axis=a) for a in (1, 0))
    return (rows + columns) / 2 - right

  rule = loop.Recipe(
    recipe.epochs, recipe.batch_size, recipe.learning_rate, "adam", "cosine"
  )
  params = loop.train(
    begin, order, data, jnp.ones(len(data["phrases"])), init=init,
    losses=losses, recipe=rule,
  ).params  # fmt: skip
  settled = encoder.settle(params["encoder"], data["pictures"][:1024])
  return {"encoder": settled, "texts": params["texts"]}


def of_params(params: dict[str, Any], recipe: Recipe) -> Embedder:
  """The embedder of what `train` gave."""
  encoder = encoders.small(recipe.width)
  texts = _Texts(encoder.width)
  see = jax.jit(lambda p, x: moco.unit(encoder.read(p["encoder"], x)))
  say = jax.jit(lambda p, x: texts.apply({"params": p["texts"]}, x))

  def seen(given):
    small = np.stack([resized(own, SIDE) for own in given])
    return _padded(see, params, small.transpose(0, 3, 1, 2))

  def said(captions):
    return _padded(say, params, phrases(captions).astype(np.float32))

  return Embedder(seen, said, f"world_clip_small{recipe.width}_v1")


def _padded(function, params, x, size: int = 16) -> np.ndarray:
  """In batches of one shape, so that one program does for all."""
  found = []
  for start in range(0, len(x), size):
    part = x[start : start + size]
    filled = np.concatenate([part, np.zeros_like(x[:1]).repeat(
      size - len(part), axis=0)])  # fmt: skip
    found.append(np.asarray(function(params, filled))[: len(part)])
  return np.concatenate(found)


def resized(picture: np.ndarray, size: int) -> np.ndarray:
  """A picture `[S, S, 3]` of another size, by areas."""
  from PIL import Image  # Slow to import.

  if picture.shape[0] == size:
    return picture
  small = Image.fromarray(picture).resize((size,) * 2, Image.Resampling.BOX)
  return np.asarray(small)


@functools.cache
def _fixed() -> tuple[encoders.Encoder, Any]:
  """The untrained network of `FRECHET`, settled on the world."""
  encoder = encoders.small(8)
  drawn = picture_sets.drawings(np.random.default_rng(0), 64, _FIXED_SIDE)
  settled = jax.jit(encoder.settle)(encoder.init(jax.random.key(0)), drawn)
  return encoder, settled


FIXED = "untrained_small8_v1"


def fixed(given: np.ndarray) -> np.ndarray:
  """Features `[N, 32]` of one network for all time, named `FIXED`.

  Of random weights, key 0: nothing is trained, so that they are the same
  everywhere up to rounding. No Inception network: its numbers are others.
  """
  encoder, settled = _fixed()
  small = np.stack([resized(own, _FIXED_SIDE) for own in given])
  read = jax.jit(encoder.read)
  return _padded(read, settled, small.transpose(0, 3, 1, 2))
