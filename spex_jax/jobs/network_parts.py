"""The subjects of `spex attribute components`: parts of a network.

Heads, neurons, filters or blocks of a language model on a prompt
(`lm_components`), of an image classifier on a picture (`image_components`), or
of a small vision transformer that is trained here on digits
(`digits_components`).

Shapes: n players, B examples, P positions.
"""

import dataclasses
import pathlib
from collections.abc import Callable, Mapping, Sequence

import jax
import numpy as np

from spex_jax import settings
from spex_jax.ablate import components, parts, readouts, stand_ins
from spex_jax.ablate import text as text_lib
from spex_jax.components import layer_energy
from spex_jax.datasets import images
from spex_jax.explanation import Explanation
from spex_jax.indices import interactions as interactions_lib
from spex_jax.influence import classifiers
from spex_jax.jobs import language, networks, pictures, subjects
from spex_jax.models import resnet, sites, tokens
from spex_jax.portfolio import select
from spex_jax.report import layers as layer_plots
from spex_jax.report import plots
from spex_jax.report import tables as report_tables

ABSENT = ("zero", "mean", "resample")
AUTO = "auto"
_SHUFFLES = 32  # Of a prompt's tokens, where no other texts are given.
COAR = "coar"
# Methods that decode masks of any share.
SHARED = ("auto", *select.PROXIES)
METHODS = (COAR, *subjects.MASKED)
LEAST = 20  # Masks that COAR is judged by.
_TRAINING = subjects.Training(
  num_epochs=30, batch_size=64, optimizer="adam", weight_decay=0.0
)
_EXAMPLES = 4096  # The most that a mean is taken of.


@dataclasses.dataclass(frozen=True)
class Parts(subjects.Ask):
  """Which parts of a network are asked about, and how they are absent."""

  players: str = settings.field(
    "heads", "or sites by name: see pattern", choices=tuple(components.KINDS)
  )
  pattern: str = settings.field(
    "", "sites by name, as in blocks.3.*neurons,*.2.attn.z"
  )
  whole: bool = settings.field(
    False, "each site of pattern is one part: whole layers"
  )
  absent: str = settings.field(
    "zero", "what a part gives when it is absent", choices=ABSENT
  )
  draws: int = settings.field(8, "of absent=resample", low=1)
  rescale: bool = settings.field(
    False, "scales what is left of a layer up, as ProxySPEX"
  )
  keep: float = settings.field(
    0.9, "of coar: the probability that each part is there", above=0, below=1
  )
  budget: int = settings.field(
    4000, "distinct masks, held-out ones included", low=1
  )
  method: str = settings.field(
    "auto",
    "sets of parts: auto, spex, proxyspex, gaussian, gram, lasso, exact; one "
    "value for each: coar (few absent at a time), occlusion, lime, kernelshap",
    choices=METHODS,
  )
  share: float | None = settings.field(
    None,
    "of the parts that a mask keeps, for auto and decoders of any masks; None "
    "is half, or more where a few masks show that half leaves nothing",
    above=0,
    below=1,
  )
  microbatch: int | None = settings.field(
    None, "masks computed at once; None measures what is fastest", low=1
  )

  def check(self) -> None:
    """Refuses what does not go together.

    Raises:
      ValueError: settings that do not go together, with the reason.
    """
    super().check()
    if self.rescale and self.absent not in ("zero", AUTO):
      raise ValueError(
        "rescale makes up for parts that are zero; it does not go with "
        f"absent={self.absent!r}."
      )
    if self.cache and self.method == COAR:
      raise ValueError("cache does not go with method=coar.")
    if self.share is not None and self.method not in SHARED:
      raise ValueError(
        f"share={self.share:g}: {self.method} has masks of its own; choose "
        f"one of {', '.join(SHARED)}."
      )
    if self.whole and not self.pattern:
      raise ValueError(
        "whole makes sites one part each: name them by --config.pattern, as in "
        "--config.pattern=*mlp.out"
      )
    if self.method == COAR and self.budget < 2 * LEAST:
      raise ValueError(
        f"budget={self.budget}: method=coar needs {2 * LEAST} masks."
      )


@dataclasses.dataclass(frozen=True)
class OfLanguageModel(Parts, language.Said):
  """Parts of a causal language model."""

  subject: str = settings.field("lm_components", choices=("lm_components",))
  prompt: str = settings.field(language.EXAMPLE, "what the model reads")
  absent: str = settings.field(
    AUTO,
    "what a part gives when it is absent; auto is its mean over shuffles of "
    "the prompt's tokens, or over background; zero beside rescale",
    choices=(AUTO, *ABSENT),
  )
  background: str = settings.field(
    "", "a file of texts, a line each, for absent=mean and resample"
  )


@dataclasses.dataclass(frozen=True)
class OfPicture(Parts, pictures.Seen):
  """Parts of an image classifier."""

  subject: str = settings.field(
    "image_components", choices=("image_components",)
  )
  players: str = settings.field(
    "",
    "filters of a ResNet, heads of a ViT where empty; or sites: see pattern",
    choices=("", *components.KINDS),
  )
  background: str = settings.field(
    "", "a folder of pictures, for absent=mean and resample"
  )


@dataclasses.dataclass(frozen=True)
class Transformer(settings.Settings):
  """A small vision transformer."""

  width: int = settings.field(32, "of its stream", low=1)
  num_blocks: int = settings.field(4, "of it", low=1)
  num_heads: int = settings.field(8, "of each block", low=1)
  patch_size: int = settings.field(2, "in pixels", low=1)


@dataclasses.dataclass(frozen=True)
class OfDigits(Parts):
  """Parts of a small network of digits, which is trained here."""

  subject: str = settings.field(
    "digits_components", choices=("digits_components",)
  )
  num_images: int = settings.field(
    64, "test images that are asked about", low=1
  )
  test_fraction: float = settings.field(
    0.25, "share of the examples that are tested", above=0, below=1
  )
  model: Transformer = Transformer()
  training: subjects.Training = _TRAINING


def of_language_model(
  config: OfLanguageModel, workdir: pathlib.Path
) -> subjects.Subject:
  """Parts of a causal language model, and what it says after a prompt.

  Raises:
    ValueError: a setting out of range, or a model, prompt or target that
      cannot be used, named.
  """
  del workdir  # Nothing is trained.
  net = networks.load(config, "causal language model")
  tokenizer, limit = net.tokenizer, net.config.max_positions
  if not config.prompt:
    raise ValueError(f"The prompt is empty: {config.prompt!r}.")
  prompt = text_lib.prompt(
    config.prompt, tokenizer, "tokens", bos=config.bos, max_length=limit
  )
  # What is asked about; of several tokens, the prompt has them at its end.
  whole = lambda mask: {"input_ids": prompt.encoding.ids[None]}
  found = language.asked(config, net, prompt, whole)
  if len(found.ids) > 1:
    prompt, _ = text_lib.continued(
      prompt, found.ids.tolist(), tokenizer, max_length=limit
    )
  asked = {"input_ids": prompt.encoding.ids[None]}

  # What absent parts are taken from, read where it is needed.
  def background() -> tuple[dict[str, np.ndarray], np.ndarray, str]:
    if not config.background and config.absent == AUTO:
      return _shuffled(asked["input_ids"][0], prompt, config.seed)
    if not config.background:
      raise ValueError(
        f"absent={config.absent!r} needs other texts: give a file of them, a "
        "line each, by --config.background=FILE."
      )
    path = pathlib.Path(config.background)
    lines = [line for line in path.read_text("utf-8-sig").splitlines() if line]
    if not lines:
      raise ValueError(f"background={config.background!r} holds no text.")
    rows = [
      tokenizer.encode(line, bos=config.bos).ids[:limit]
      for line in lines[:_EXAMPLES]
    ]
    if config.absent == "resample":
      # Position by position, so as long as the prompt.
      length = asked["input_ids"].shape[1]
      rows = [row[:length] for row in rows if len(row) >= length]
      if not rows:
        raise ValueError(
          f"No text of {config.background} has the prompt's {length} tokens."
        )
    given = tokens.padded(rows)
    name = f"{report_tables.count(len(rows), 'text')} of {path.name}"
    return given, given["attention_mask"], name

  return _subject(
    config,
    net,
    asked,
    found.read,
    background,
    axes=(0, 1),
    question=f"make the model say {found.said!r} next?",
    facts={
      "model": networks.described(net, config.model),
      "prompt": repr(config.prompt),
      "prediction": found.prediction,
      "value": found.value,
    },
    units=networks.UNITS[config.readout],
    title=f"{found.value} after {config.prompt!r}",
  )


def _shuffled(
  ids: np.ndarray, prompt: text_lib.Prompt, seed: int
) -> tuple[dict[str, np.ndarray], np.ndarray, str]:
  """The prompt's tokens in other orders, special ones left in their places.

  A model that reads them has the same words before it, and not what they say.
  """
  plain = np.flatnonzero(~prompt.encoding.special)
  keys = jax.random.split(subjects.key_of(seed, "shuffles"), _SHUFFLES)
  rows = np.tile(ids, (_SHUFFLES, 1))
  for row, key in zip(rows, keys):
    row[plain] = ids[np.asarray(jax.random.permutation(key, plain))]
  name = f"{_SHUFFLES} shuffles of the prompt's own tokens"
  return {"input_ids": rows}, np.ones(rows.shape), name


def of_picture(config: OfPicture, workdir: pathlib.Path) -> subjects.Subject:
  """Parts of an image classifier, and what it sees in a picture.

  Raises:
    ValueError: a setting out of range, or a model, picture or target that
      cannot be used, named.
  """
  del workdir  # Nothing is trained.
  found = pictures.given(config)
  net, inputs = found.net, {"pixel_values": found.image[None]}
  filtered = isinstance(net.module, resnet.ResNet)
  players = config.players or ("filters" if filtered else "heads")
  config = dataclasses.replace(config, players=players)
  logits = networks.scores(
    net, lambda mask: inputs, lambda output, given: output.logits, 1
  )
  target = networks.target(config, logits, found.names)

  def background():
    folder = pathlib.Path(config.background)
    if not config.background or not folder.is_dir():
      raise ValueError(
        f"absent={config.absent!r} needs other pictures: give a folder of "
        "nothing else by --config.background=FOLDER."
      )
    files = sorted(p for p in folder.iterdir() if p.is_file())[:_EXAMPLES]
    rows = [
      pictures.prepared(config.model, images.read(file), found.preparation)[0]
      for file in files
    ]
    if not rows or any(row.shape != found.image.shape for row in rows):
      raise ValueError(
        f"background={config.background!r} needs pictures that are, prepared, "
        f"of {config.image}'s shape {found.image.shape}."
      )
    name = f"{report_tables.count(len(rows), 'picture')} of {folder.name}"
    return {"pixel_values": np.stack(rows)}, np.ones(len(rows)), name

  return _subject(
    config,
    net,
    inputs,
    target.read,
    background,
    axes=(0, 2, 3) if filtered else (0, 1),
    question=f"make the model see {target.name} in {config.image}?",
    facts={
      "model": networks.described(net, config.model),
      "image": found.said,
      "prediction": f"{target.name}, with probability {target.probability:.1%}",
      "value": target.value,
    },
    units=target.units,
    title=f"{target.value}, {config.image}",
  )


def of_digits(config: OfDigits, workdir: pathlib.Path) -> subjects.Subject:
  """Parts of a small network of digits, trained here or restored.

  Raises:
    ValueError: a setting out of range, named.
  """
  import optax  # Slow to import.

  data = images.digits()
  train, test = data.split(
    subjects.key_of(config.seed, "split"), config.test_fraction
  )
  if config.num_images > test.num_examples:
    raise ValueError(
      f"num_images={config.num_images}: must lie in 1..{test.num_examples}."
    )
  # A small transformer, trained here or restored, which is asked about the
  # first test images.
  net, name = classifiers.transformer(
    data.pixels.shape[2:], len(data.classes), **settings.as_dict(config.model)
  )

  def losses(params, batch):
    return optax.softmax_cross_entropy_with_integer_labels(
      net.apply(params, pixel_values=batch["features"]).logits, batch["targets"]
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
  net = dataclasses.replace(net, params=params)
  logits = net.apply(params, pixel_values=test.pixels).logits
  right = (np.asarray(logits).argmax(axis=1) == test.labels).mean()
  shown = slice(config.num_images)
  each = readouts.margins(test.labels[shown])
  images_of = report_tables.count(config.num_images, "test image")

  def background():
    part = train.pixels[:_EXAMPLES]
    name = report_tables.count(len(part), "training image")
    return {"pixel_values": part}, np.ones(len(part)), name

  return _subject(
    config,
    net,
    {"pixel_values": test.pixels[shown]},
    lambda output, inputs: each(output, inputs).mean(keepdims=True),
    background,
    axes=(0, 1),
    question=f"make the network right about {images_of}?",
    facts={
      "model": f"{name}: {right:.1%} of {test.num_examples} test images right; "
      f"{origin}",
      "value": f"mean margin of the right digit over {images_of}",
    },
    units="logit",
    title=f"margin of the right digit, {images_of}",
  )


def _subject(
  config: Parts,
  net: sites.Network,
  inputs: Mapping[str, np.ndarray],
  read: readouts.Readout,
  background: Callable[[], tuple[dict[str, np.ndarray], np.ndarray, str]],
  *,
  axes: Sequence[int],
  question: str,
  facts: Mapping[str, str],
  units: str,
  title: str,
) -> subjects.Subject:
  """What both have in common: players, what stands in for them, a figure."""
  players = _players(config, net, inputs)
  absent, how = _absent(config, net, players, background, axes)
  evaluator = components.evaluator(
    net,
    players,
    inputs,
    read,
    absent=absent,
    rescale=config.rescale,
    batch_size=config.batch_size,
    microbatch=config.microbatch,
  )
  layer_of = layer_energy.of_names(players.names)
  kind = config.pattern or config.players.replace("_", " ")

  def draw(found: interactions_lib.Interactions, path: pathlib.Path) -> None:
    plots.save(layer_plots.grid(found, layer_of, title=title), path)

  def findings(explanation: Explanation) -> Mapping[str, str]:
    return {"layers": str(layer_energy.energy(explanation.fourier, layer_of))}

  number = report_tables.count(players.n, "part")
  of_layers = report_tables.count(len(set(layer_of)), "layer")
  return subjects.Subject(
    question=f"Which {kind} {question}",
    facts={**facts, "players": f"{number} in {of_layers}; {how}"},
    evaluator=evaluator,
    names=players.names,
    units=units,
    draw=draw,
    findings=findings,
  )


def _players(config, net, inputs) -> parts.Players:
  """The parts that the configuration names.

  Raises:
    ValueError: parts that this network does not have, or fewer than two.
  """
  at = components.shapes(net, net.params, **inputs)
  if config.pattern:
    patterns = [part.strip() for part in config.pattern.split(",")]
    players = components.chosen(at, patterns, whole=config.whole)
  else:
    players = components.KINDS[config.players](at)
  if players.n < 2:
    raise ValueError(
      f"There is one part only, {players.names[0]}; two or more are needed."
    )
  return players


def _absent(config, net, players, background, axes):
  """What stands in for an absent part, and that in words."""
  if config.absent == "zero" or config.rescale:
    if config.rescale:
      return None, (
        "an absent one gives zeros, and the others of its layer are scaled up"
      )
    return None, "an absent one gives zeros"
  given, weights, name = background()
  at = tuple(players.owner)
  if config.absent in ("mean", AUTO):
    found = stand_ins.mean_of(
      net, at, given, _spread(players, axes), weights=_fit(weights, players)
    )
    return found, f"an absent one gives its mean over {name}"
  draws = min(config.draws, len(weights))
  found = stand_ins.resampled_of(
    subjects.key_of(config.seed, "resample"), net, at, given, draws
  )
  return found, (
    f"an absent one gives what it does on {draws} others of {name}, averaged "
    "over"
  )


def _spread(players, axes) -> tuple[int, ...]:
  """Axes to average over: examples, and positions where there are any."""
  ranks = {owner.ndim for owner in players.owner.values()}
  return tuple(axes) if min(ranks) > 2 else (0,)


def _fit(weights, players):
  """Weights of the axes that are averaged over."""
  ranks = {owner.ndim for owner in players.owner.values()}
  if weights.ndim == 2 and min(ranks) <= 2:
    return weights[:, 0]
  return weights
