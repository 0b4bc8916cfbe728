"""The subject `digits`: pixels of one image, as a small network sees them."""

import dataclasses
import pathlib

import jax
import jax.numpy as jnp
import numpy as np

from spex_jax import settings
from spex_jax.ablate import evaluate, features
from spex_jax.datasets import images
from spex_jax.jobs import subjects
from spex_jax.models import mlp
from spex_jax.report import page, plots

_MODEL = subjects.Mlp(widths=(64, 64))
_TRAINING = subjects.Training(num_epochs=40, batch_size=64)


@dataclasses.dataclass(frozen=True)
class Digits(subjects.Trained):
  """Which pixels of a digit are asked about."""

  subject: str = settings.field("digits", choices=("digits",))
  budget: int = settings.field(
    4000, "distinct masks, held-out ones included", low=1
  )
  method: str = settings.field(
    "spex", subjects.SPEAKERS, choices=subjects.METHODS
  )
  batch_size: int | None = settings.field(
    256, "masks in a batch; None measures what is fastest", low=1
  )
  model: subjects.Mlp = _MODEL
  training: subjects.Training = _TRAINING
  image: int = settings.field(
    13, "its number among scikit-learn's 1,797 digits, from 0", low=0
  )
  patch: int = settings.field(1, "side of a player, in pixels", low=1)
  target: str = settings.field(
    "log_odds",
    "of its class: log_odds against all others, margin over the runner-up, or "
    "logit",
    choices=("log_odds", "margin", "logit"),
  )


def subject(config: Digits, workdir: pathlib.Path) -> subjects.Subject:
  """Trains or restores the network, and masks one test image.

  Raises:
    ValueError: a setting out of range, named.
  """
  import optax  # Slow to import.

  # The image, its players, and what stands in for an absent one.
  data = images.digits()
  train, test = data.split(
    subjects.key_of(config.seed, "split"), config.test_fraction
  )
  part, place = subjects.pick(
    "image",
    config.image,
    "scikit-learn's table of digits",
    train.rows,
    test.rows,
  )
  row, held = config.image, {"train": train, "test": test}[part]
  image, truth = held.pixels[place], data.classes[int(held.labels[place])]
  players = features.patches(image.shape, config.patch)
  baseline, absent = subjects.baseline_of(config, image, train.pixels)
  # The network, trained here or kept from before.
  net = mlp.network(
    mlp.Config(
      num_features=image.size,
      num_outputs=len(data.classes),
      widths=config.model.widths,
      activation=config.model.activation,
    )
  )

  def logits(params, pixels):
    flat = pixels.reshape(-1, image.size)
    return net.apply(params, features=flat).logits

  def losses(params, batch):
    return optax.softmax_cross_entropy_with_integer_labels(
      logits(params, batch["features"]), batch["targets"]
    )

  params, origin = subjects.trained(
    net.init,
    train.pixels,
    train.labels,
    losses,
    workdir,
    seed=config.seed,
    training=config.training,
    depends=subjects.depends_on(config),
  )
  # What is read of it.
  right = (logits(params, test.pixels).argmax(axis=1) == test.labels).mean()
  ranking = np.asarray(logits(params, image)[0]).argsort()[::-1]
  first, second = int(ranking[0]), int(ranking[1])
  name, rival = data.classes[first], data.classes[second]

  def read(pixels: jax.Array, params) -> jax.Array:
    answers = logits(params, pixels)
    values = answers[:, first]
    if config.target == "margin":
      values -= answers[:, second]
    elif config.target == "log_odds":
      others = jnp.delete(answers, first, axis=1)
      values -= jax.nn.logsumexp(others, axis=1)
    return values

  # How it is told and drawn.
  what = {
    "log_odds": f"log odds of {name} against all other digits",
    "margin": f"logit({name}) - logit({rival})",
    "logit": f"logit({name})",
  }[config.target]
  pieces = "pixels" if len(players.names) == image.size else "patches"
  question = f"see a {name}"
  if config.target == "margin":
    question += f" rather than a {rival}"

  def draw(interactions: subjects.Interactions, path: pathlib.Path) -> None:
    title = f"digit {row}: a {truth}, seen as {name}"
    plots.save(
      plots.image(image[0], players.owner[0], interactions, title=title), path
    )

  units = "nat" if config.target == "log_odds" else "logit"
  game = features.game(
    read, players, image, baseline, params, absent=absent, units=units
  )
  return subjects.Subject(
    question=f"Which {pieces} of digit {row} make the network {question}?",
    facts={
      "model": f"MLP {'-'.join(map(str, (image.size, *config.model.widths)))}"
      f"-{len(data.classes)}, {right:.1%} of {test.num_examples} test images "
      f"right; {origin}",
      "value": f"{what}; an absent player takes {absent}",
    },
    evaluator=evaluate.compiled(game, batch_size=config.batch_size),
    names=players.names,
    units=units,
    draw=draw,
    scene=page.picture(image[0], players.owner[0]),
    notes=(
      f"Asked about image {row} of scikit-learn's digits, a {truth}, "
      f"{subjects.SEEN[part]}.",
    ),
    game=game,
  )
