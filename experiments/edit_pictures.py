"""Pictures with a written word, and an image-text model trained on them.

Shapes and four-letter words are drawn by strokes of a few pixels, in NumPy. A
convolutional network and a bag of words are trained as CLIP is (Radford et al.
2021, arXiv:2103.00020): the symmetric cross-entropy of matching images and
captions within a batch, under a learnt temperature. Its pictures hold a shape,
a shape with its name, or a name alone, so that it learns to read, too: a wrong
name under a shape then misleads it.

Shapes: N pictures `[N, 1, 24, 24]`, L tokens of a caption, E of an embedding.
"""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np

from experiments import edit_study
from spex_jax import base
from spex_jax.models import convnet, sites
from spex_jax.training import loop

SIDE = 24
NAMES = ("disc", "ring", "plus", "tent", "cube", "bars")
# What captions say: of a shape, or of a name alone.
TEMPLATES = (
  "a picture of a {}",
  "a drawing of a {}",
  "a small {}",
  "this is a {}",
)
_SIGN = "a sign that says {}"
# Letters of 3 x 5 pixels, row by row.
_LETTERS = {
  "a": "010101111101101",
  "b": "110101110101110",
  "c": "011100100100011",
  "d": "110101101101110",
  "e": "111100110100111",
  "g": "011100101101011",
  "i": "111010010010111",
  "l": "100100100100111",
  "n": "101111111111101",
  "p": "110101110100100",
  "r": "110101110101101",
  "s": "011100010001110",
  "t": "111010010010010",
  "u": "101101101101111",
}
_WORDS = sorted(
  {word for text in (*TEMPLATES, _SIGN) for word in text.split()} - {"{}"}
)
VOCABULARY = ("", *_WORDS, *NAMES)
LENGTH = 6


def tokens(text: str) -> np.ndarray:
  """int32 `[L]`, padded with 0.

  Raises:
    ValueError: a word that is not in the vocabulary, or too many words.
  """
  numbers = [VOCABULARY.index(word) for word in text.split()]
  if len(numbers) > LENGTH:
    raise ValueError(f"A caption has at most {LENGTH} words; got {text!r}.")
  return np.pad(np.array(numbers, np.int32), (0, LENGTH - len(numbers)))


def written(name: str) -> np.ndarray:
  """A word as pixels, float32 `[5, 15]`."""
  letters = [
    np.array([*map(int, _LETTERS[letter])], np.float32).reshape(5, 3)
    for letter in name
  ]
  return np.concatenate([np.pad(x, ((0, 0), (0, 1))) for x in letters], 1)[
    :, :-1
  ]


def shape(rng: np.random.Generator, number: int) -> np.ndarray:
  """One of `NAMES` somewhere in a picture, float32 `[24, 24]`."""
  radius = rng.uniform(4.5, 6.5)
  x, y = rng.uniform(7, SIDE - 8, size=2)
  rows, columns = np.indices((SIDE, SIDE))
  dx, dy = columns - x, rows - y
  far = np.hypot(dx, dy)
  box = np.maximum(abs(dx), abs(dy)) < radius
  drawn = {
    "disc": far < radius,
    "ring": abs(far - radius + 1) < 1.1,
    "plus": box & (np.minimum(abs(dx), abs(dy)) < 1.4),
    "tent": (abs(dx) < (dy + radius) / 2) & (dy < radius),
    "cube": box & (np.maximum(abs(dx), abs(dy)) > radius - 1.8),
    "bars": box & (np.floor(dy + radius).astype(int) % 3 == 0),
  }[NAMES[number]]
  return drawn.astype(np.float32)


def picture(
  rng: np.random.Generator, number: int | None, word: int | None
) -> np.ndarray:
  """A shape, a word, or both, in noise: float32 `[1, 24, 24]`."""
  canvas = np.zeros((SIDE, SIDE), np.float32)
  if number is not None:
    canvas = shape(rng, number) * rng.uniform(0.6, 1.0)
  if word is not None:
    # A bright label with dark ink.
    label = 1 - np.pad(written(NAMES[word]), 1)
    height, width = label.shape
    top = rng.choice([0, SIDE - height]) + rng.integers(-1, 2)
    top = np.clip(top, 0, SIDE - height)
    left = rng.integers(0, SIDE - width)
    canvas[top : top + height, left : left + width] = label
  return (canvas + rng.normal(scale=0.05, size=canvas.shape))[None]


def corpus(
  rng: np.random.Generator, count: int
) -> tuple[np.ndarray, np.ndarray]:
  """Pictures and captions: a third each of shapes, both, and names alone."""
  pixels, captions = [], []
  for _ in range(count):
    number, kind = int(rng.integers(len(NAMES))), rng.integers(3)
    pixels.append(
      picture(rng, number if kind < 2 else None, number if kind > 0 else None)
    )
    # A name alone is called a sign, and with its shape either.
    sign = kind == 2 or (kind == 1 and rng.random() < 0.5)
    template = _SIGN if sign else TEMPLATES[rng.integers(len(TEMPLATES))]
    captions.append(tokens(template.format(NAMES[number])))
  return np.array(pixels, np.float32), np.stack(captions)


def attacks(
  rng: np.random.Generator, count: int
) -> dict[str, edit_study.Examples]:
  """Pictures of shapes: "clean", with their "own" name, with a "wrong" one."""
  labels = rng.integers(len(NAMES), size=count)
  wrong = (labels + rng.integers(1, len(NAMES), size=count)) % len(NAMES)
  made = {}
  for name, words in (("clean", None), ("own", labels), ("wrong", wrong)):
    pixels = [
      picture(rng, int(shape), None if words is None else int(words[i]))
      for i, shape in enumerate(labels)
    ]
    inputs = {"pixel_values": np.array(pixels, np.float32)}
    made[name] = edit_study.Examples(inputs, labels)
  return made


@dataclasses.dataclass(frozen=True)
class Pair:
  """A trained image-text model.

  Attributes:
    image: the image tower, whose logits are embeddings `[B, E]`.
    classes: `[K, E]`, the classes' texts times the temperature's factor.
  """

  image: sites.Network
  classes: np.ndarray


def train(
  key: base.Key,
  pixels: np.ndarray,
  captions: np.ndarray,
  *,
  num_epochs: int,
  width: int = 16,
  size: int = 32,
) -> Pair:
  """Both towers, trained together; `key` is consumed.

  Args:
    key: of the start and the order.
    pixels: `[N, 1, 24, 24]`.
    captions: int `[N, L]`.
    num_epochs: in batches of 64.
    width: of the first of three convolutions; the others have 2 and 6 times.
    size: E.
  """
  convs = (
    convnet.Conv(width, pool=2),
    convnet.Conv(2 * width, pool=2),
    convnet.Conv(6 * width, pool=0),
  )
  net = convnet.ConvNet(size, 1, convs)
  recipe = loop.Recipe(num_epochs, 64, 0.005, "adam", "cosine")
  keys = jax.random.split(key)

  def init(key):
    parts = jax.random.split(key, 3)
    words = len(VOCABULARY)
    return {
      "image": net.init(parts[0]),
      "words": jax.random.normal(parts[1], (words, size)) / size**0.5,
      "out": jax.random.normal(parts[2], (size, size)) / size**0.5,
      "log_factor": jnp.log(10.0),
    }

  def read(params, captions):
    seen = (captions > 0)[..., None].astype(jnp.float32)
    words = (params["words"][captions] * seen).sum(axis=1) / seen.sum(axis=1)
    return _unit(jnp.tanh(words) @ params["out"])

  def losses(params, batch, weights=None):
    image = _unit(net.logits(params["image"], batch["x"], weights))
    text = read(params, batch["captions"])
    factor = jnp.exp(jnp.minimum(params["log_factor"], jnp.log(100.0)))
    scores = factor * image @ text.T
    own = jnp.diagonal(scores)
    by_image = jax.nn.logsumexp(scores, axis=1) - own
    by_text = jax.nn.logsumexp(scores, axis=0) - own
    return (by_image + by_text) / 2

  @jax.jit
  def fit(rows):
    ones = jnp.ones(len(pixels))
    trained = loop.train(
      keys[0], keys[1], rows, ones, init=init, losses=losses, recipe=recipe
    )
    params = trained.params
    state = net.settle(params["image"], rows, ones)
    named = jnp.asarray(
      [[tokens(text.format(name)) for text in TEMPLATES] for name in NAMES]
    )
    # The mean over templates, as CLIP's prompts are combined.
    texts = _unit(jax.vmap(lambda rows: read(params, rows).mean(axis=0))(named))
    return state, texts * jnp.exp(params["log_factor"]), trained.losses

  rows = {"x": jnp.asarray(pixels), "captions": jnp.asarray(captions)}
  state, classes, history = fit(rows)
  if not np.isfinite(np.asarray(history)).all():
    raise ValueError("The towers' training diverged.")
  return Pair(convnet.network(net, SIDE, state), np.asarray(classes))


def _unit(x: jax.Array) -> jax.Array:
  return x / jnp.maximum(jnp.linalg.norm(x, axis=-1, keepdims=True), 1e-12)
