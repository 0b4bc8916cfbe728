"""The subject `image`: parts of a picture, as an image classifier uses them.

Shapes: an image is `[C, H, W]`.
"""

import dataclasses
import pathlib
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from spex_jax import settings
from spex_jax.ablate import features, gradients
from spex_jax.ablate import segments as image_ways
from spex_jax.datasets import images
from spex_jax.jobs import networks, subjects
from spex_jax.models import hub, pixels, sites
from spex_jax.report import page, plots


@dataclasses.dataclass(frozen=True)
class Seen(networks.OfClass):
  """An image classifier, and a picture for it."""

  image: str = settings.field(
    "flower", "a file (PNG, JPEG, ...; .npy of pixel values), or china, flower"
  )


@dataclasses.dataclass(frozen=True)
class Picture(Seen):
  """Which parts of a picture are asked about."""

  subject: str = settings.field("image", choices=("image",))
  budget: int = settings.field(
    1000, "distinct masks, held-out ones included", low=1
  )
  players: str = settings.field("grid", choices=("grid", "patches", "segments"))
  rows: int = settings.field(7, "of the grid", low=1)
  cols: int = settings.field(7, "of the grid", low=1)
  patch: int = settings.field(32, "side of a patch, in pixels", low=1)
  num_segments: int = settings.field(50, "about so many", low=1)
  baseline: str = settings.field(
    "blur", "what an absent part takes", choices=image_ways.WAYS
  )
  sigma: float | None = settings.field(
    None, "of the blur, in pixels; None: a fifth of a part's side", above=0
  )
  value: float = settings.field(0.5, "of the constant, 0 black to 1 white")


class Given(NamedTuple):
  """A classifier and a picture for it.

  Attributes:
    net: the classifier, with its parameters.
    names: the names of its classes, by number.
    preparation: how pictures become pixel values; None where nothing says so.
    image: float `[C, H, W]`, pixel values as the network takes them.
    shown: the picture as it is drawn, `[H, W, 3]`.
    said: the size of the picture, in words.
    is_file: whether the picture is one, and not pixel values.
  """

  net: sites.Network
  names: Sequence[str]
  preparation: pixels.Preparation | None
  image: np.ndarray
  shown: np.ndarray
  said: str
  is_file: bool


def given(config: Seen) -> Given:
  """The classifier and the picture that settings name.

  Raises:
    ValueError: a model or picture that cannot be used, named.
  """
  picture, noted = images.picture(config.image)
  net = networks.load(config, "image classifier")
  if not net.config.num_labels:
    raise ValueError(f"model={config.model!r} has no classes.")
  names = hub.class_names(config.model, net.config.num_labels)
  preparation = pixels.load(hub.local(config.model))
  image, shown, said = prepared(config.model, picture, preparation)
  _check_channels(net, image)
  said = ", ".join(filter(None, (noted, said)))
  is_file = picture.dtype == np.uint8
  return Given(net, names, preparation, image, shown, said, is_file)


def subject(config: Picture, workdir: pathlib.Path) -> subjects.Subject:
  """Loads the classifier, prepares the picture, and masks parts of it.

  Raises:
    ValueError: a setting out of range, or a model or picture that cannot be
      used, named.
  """
  del workdir  # Nothing is trained.
  found = given(config)
  net, image = found.net, found.image
  players = _players(config, image)
  level = config.value
  if found.preparation is not None and found.is_file:
    level = found.preparation.level(level)
  see = image_ways.inputs(
    image, players, config.baseline, sigma=config.sigma, value=level
  )
  logits = networks.scores(
    net, see, lambda output, inputs: output.logits, players.n
  )
  target = networks.target(config, logits, found.names)
  absent = {
    "mean": "the mean colour of the image",
    "blur": "the blurred image",
    "constant": f"the constant {config.value:g}",
    "inpainted": "what is kept around it",
  }[config.baseline]

  def draw(answer: subjects.Interactions, path: pathlib.Path) -> None:
    title = f"{config.image}: {target.value}, {target.probability:.1%}"
    owner = players.owner[0]
    plots.save(plots.image(found.shown, owner, answer, title=title), path)

  return subjects.Subject(
    question=f"Which parts of {config.image} make the model see {target.name}?",
    facts={
      "model": networks.described(net, config.model),
      "image": found.said,
      "prediction": f"{target.name}, with probability {target.probability:.1%}",
      "value": f"{target.value}; an absent part takes {absent}",
    },
    evaluator=networks.evaluator(config, net, see, target.read, players.n),
    names=players.names,
    units=target.units,
    draw=draw,
    scene=page.picture(found.shown, players.owner[0]),
    game=_game(config, net, image, players, see, target),
  )


def _game(config, net, image, players, see, target):
  """The value as a function of pixels, if the method asks for gradients."""
  if config.method not in gradients.METHODS:
    return None
  if config.baseline == "inpainted":  # Depends on the mask: no line to it.
    return None

  def read(images, params):
    inputs = {"pixel_values": images}
    return target.read(net.apply(params, **inputs), inputs)

  nothing = see(np.zeros(players.n, bool))["pixel_values"][0]
  return features.game(
    read,
    players,
    np.asarray(image, np.float32),
    nothing,
    net.params,
    absent=f"the image with every part absent ({config.baseline})",
    units=target.units,
  )


def prepared(
  model: str, picture: np.ndarray, preparation: pixels.Preparation | None
) -> tuple[np.ndarray, np.ndarray, str]:
  """Pixel values, the image as it is drawn `[H, W, 3]`, and a fact.

  Raises:
    ValueError: a picture file, and a model that does not say how to scale it.
  """
  if picture.dtype != np.uint8:
    low, span = picture.min(), np.ptp(picture) or 1.0
    grey = (picture - low) / span
    if len(grey) != 3:
      grey = np.repeat(grey.mean(axis=0, keepdims=True), 3, axis=0)
    size = " x ".join(map(str, picture.shape))
    return picture, grey.transpose(1, 2, 0), f"pixel values as given, {size}"
  if preparation is None:
    raise ValueError(
      f"{model} has no preprocessor_config.json, so nothing says how "
      "its pixels are scaled. Give the values that it takes as an .npy file, "
      "floats [C, H, W]."
    )
  values = preparation(picture)
  before = f"{picture.shape[1]} x {picture.shape[0]} pixels"
  after = f"{values.shape[2]} x {values.shape[1]}"
  return values, preparation.shown(values), f"{before}, prepared to {after}"


def _check_channels(net: sites.Network, image: np.ndarray) -> None:
  if len(image) != net.config.num_channels:
    raise ValueError(
      f"The model takes images of {net.config.num_channels} channels; this "
      f"one is [C, H, W] = {image.shape}."
    )


def _players(config: Picture, image: np.ndarray) -> features.Players:
  shape = (image.shape[0], image.shape[1], image.shape[2])
  if config.players == "grid":
    return features.grid(shape, config.rows, config.cols)
  if config.players == "patches":
    return features.patches(shape, config.patch)
  return image_ways.segments(image, config.num_segments)
