"""Which units of a classifier go by the thing, and which by the background.

Mini-Spawrious: the shape is the class, and in training nearly all pictures of a
class have its background; in the test another one. Colour, texture and place
tell nothing. After the experiment of MAIA on Spawrious (Lynch et al.,
arXiv 2303.05470): units that are kept are those whose object effects are large
and whose background effects are small; here by a crossed design, so that
effects are exact on its pictures.

Shapes: N pictures, K classes, R repeats, F units.
"""

import dataclasses
import itertools
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from spex_jax.agents.find import functions
from spex_jax.agents.world import rendering, scenes

CLASSES = ("circle", "cross", "triangle", "moon")
GROUNDS = ("grass", "sky", "sand", "brick")  # Of the classes, in order.
SIDE = 32  # Pixels.
# Of this few pixels, smaller things have some shapes in common.
_WORDS = {"size": ("large",)}


class Pictures(NamedTuple):
  """A data set.

  Attributes:
    x: float32 `[N, 3, 32, 32]`, in [0, 1].
    y: int32 `[N]`, the class of each, from 0 to K - 1.
    grounds: int32 `[N]`, the class whose background it is.
  """

  x: np.ndarray
  y: np.ndarray
  grounds: np.ndarray


def drawn(seed: int, name: str, count: int, share: float) -> Pictures:
  """A data set.

  Args:
    seed: an integer; the same seed and name give the same pictures.
    name: of the data set, a part of the seed: "train", "test".
    count: N, how many pictures.
    share: of pictures that have the background of their class; the others have
      that of another class, all alike. 0 is the shifted test.

  Raises:
    ValueError: a share that is none.
  """
  if not 0 <= share <= 1:
    raise ValueError(f"share={share}: from 0 to 1.")
  rng = functions.rng(seed, "spurious", name)
  y = rng.integers(len(CLASSES), size=count)
  other = (y + rng.integers(1, len(CLASSES), size=count)) % len(CLASSES)
  grounds = np.where(rng.random(count) < share, y, other)
  found = [
    _scene(_nuisance(rng), CLASSES[own], GROUNDS[ground])
    for own, ground in zip(y, grounds)
  ]
  return Pictures(_pixels(found), y.astype(np.int32), grounds.astype(np.int32))


def general(
  seed: int, name: str, count: int
) -> tuple[np.ndarray, dict[str, np.ndarray]]:
  """Pictures of one large thing, of all other words: nothing goes with another.

  What a backbone may learn from, of things and of backgrounds.

  Args:
    seed: an integer; the same seed and name give the same pictures.
    name: of the data set, a part of the seed.
    count: N, how many pictures.

  Returns:
    float32 `[N, 3, 32, 32]`, and the number of the word of each of "shape" and
    "background", int32 `[N]`, in the order of `scenes`.
  """
  rng = functions.rng(seed, "spurious general", name)
  found = [scenes.draw(rng, 1, 1, _WORDS) for _ in range(count)]
  words = {
    "shape": [
      scenes.ATTRIBUTES["shape"].index(own.things[0].shape) for own in found
    ],
    "background": [scenes.BACKGROUNDS.index(own.background) for own in found],
  }
  return _pixels(found), {k: np.array(v, np.int32) for k, v in words.items()}


def crossed(seed: int, repeats: int) -> np.ndarray:
  """Pictures of every class on every background: all else is the same.

  Returns:
    float32 `[R K K, 3, 32, 32]`: repeats, then classes, then backgrounds.
  """
  rng = functions.rng(seed, "spurious", "crossed")
  found = [
    _scene(own, shape, ground)
    for own in [_nuisance(rng) for _ in range(repeats)]
    for shape, ground in itertools.product(CLASSES, GROUNDS)
  ]
  return _pixels(found)


class Effects(NamedTuple):
  """How a unit's activations spread over the crossed design; variances `[F]`.

  Attributes:
    thing: of the classes' means, over which thing there is.
    ground: of the backgrounds' means, over which background there is.
    both: of what the two do together, beyond that: their interaction.
  """

  thing: np.ndarray
  ground: np.ndarray
  both: np.ndarray

  @property
  def share(self) -> np.ndarray:
    """What the thing has of all three, `[F]`; 0 of a unit that never moves."""
    total = self.thing + self.ground + self.both
    return np.where(total > 0, self.thing / np.maximum(total, 1e-30), 0.0)


def effects(activations: np.ndarray) -> Effects:
  """Main effects and interaction.

  Args:
    activations: `[R K K, F]`, on what `crossed` gave.

  Raises:
    ValueError: another number of rows.
  """
  count = len(CLASSES)
  if len(activations) % count**2 or not len(activations):
    raise ValueError(
      f"{len(activations)} rows: a crossed design has {count**2} a repeat."
    )
  cells = np.asarray(activations, float)
  cells = cells.reshape(-1, count, count, cells.shape[1]).mean(0)
  mean = cells.mean((0, 1))
  thing, ground = cells.mean(1) - mean, cells.mean(0) - mean
  both = cells - mean - thing[:, None] - ground[None]
  return Effects(
    (thing**2).mean(0), (ground**2).mean(0), (both**2).mean((0, 1))
  )


def kept(found: Effects, count: int, least: float = 0.05) -> np.ndarray:
  """The units that go by the thing: int `[count]`, the purest first.

  Args:
    found: the units' variances by thing and background.
    count: how many units to keep.
    least: of the largest object effect, what a unit's must be: those that
      hardly move are pure by chance.
  """
  loud = found.thing >= least * found.thing.max()
  order = np.argsort(-np.where(loud, found.share, -1.0), kind="stable")
  return order[:count]


def _nuisance(rng: np.random.Generator) -> scenes.Thing:
  (thing,) = scenes.draw(rng, 1, 1, _WORDS).things
  return thing


def _scene(thing: scenes.Thing, shape: str, ground: str) -> scenes.Scene:
  return scenes.Scene((dataclasses.replace(thing, shape=shape),), ground)


def _pixels(given: Sequence[scenes.Scene]) -> np.ndarray:
  pictures = np.stack([rendering.render(scene, SIDE) for scene in given])
  return pictures.transpose(0, 3, 1, 2).astype(np.float32) / 255
