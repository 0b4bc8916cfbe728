"""What the subjects of checkpoints share: loading, targets, players of texts.

Shapes: n players, K classes.
"""

import dataclasses
import pathlib
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, cast

import jax
import numpy as np

from spex_jax import base, settings
from spex_jax.ablate import absent, embeddings, evaluate, gradients, readouts
from spex_jax.ablate import text as text_lib
from spex_jax.jobs import subjects
from spex_jax.models import encoder, hub, resnet, sites, transformer, vit
from spex_jax.report import page, plots, tables, texts

READOUTS = ("margin", "logit", "log_probability")
UNITS = {"margin": "logit", "logit": "logit", "log_probability": "nat",
         "probability": "probability"}  # fmt: skip
# Modules of the families of `hub.FAMILIES`, and the networks they make.
_KINDS = {
  "text encoder": (("bert", "modernbert"), (encoder.Encoder,)),
  "causal language model": (
    ("gpt2", "llama", "gpt_neo", "gpt_neox"),
    (transformer.Decoder,),
  ),
  "image classifier": (("vit", "dinov2", "resnet"), (vit.Vit, resnet.ResNet)),
}
_SAMPLE = 200  # Masks on which removal is compared with tokenizing again.


@dataclasses.dataclass(frozen=True)
class OfModel(settings.Settings):
  """A model of Hugging Face."""

  model: str = settings.field("", "directory or hub name; needed")
  dtype: str = settings.field("float32", "of its weights")
  ignore: tuple[str, ...] = settings.field(
    (), "settings of config.json that are not known here and change nothing"
  )


@dataclasses.dataclass(frozen=True)
class Checkpoint(OfModel, subjects.Ask):
  """A model whose parts are asked about."""

  microbatch: int | None = settings.field(
    None, "masks computed at once; None measures what is fastest", low=1
  )


# How the quick size of a checkpoint is asked.
QUICK = {"budget": 100, "method": "lasso", "batch_size": 16, "microbatch": 8}


@dataclasses.dataclass(frozen=True)
class OfText(Checkpoint):
  """A model that reads a text, of which parts are the players."""

  text: str = settings.field("", "that is read")
  players: str = settings.field(
    "words", choices=("words", "sentences", "tokens")
  )
  pattern: str = settings.field(
    "", "a regular expression: every match is a player instead"
  )
  absent: str = settings.field(
    "one",
    "an absent player: one mask token (one), a mask token for each of its own "
    "(mask), not seen by attention (hide), taken out (remove)",
    choices=absent.WAYS,
  )
  token: str = settings.field("", "in the place of the mask token")


@dataclasses.dataclass(frozen=True)
class OfClass(Checkpoint):
  """A classifier, of whose classes one is asked about."""

  target: str = settings.field(
    "", "name or number of a class; the model's own where empty"
  )
  readout: str = settings.field(
    "margin", "margin is over the best other class", choices=READOUTS
  )


def load(config: Checkpoint, kind: str) -> sites.Network:
  """The network that `config.model` names, if it is of a kind of `_KINDS`.

  Raises:
    ValueError: no name, a network of another kind, no tokenizer where it
      reads text, or what `models.load` refuses.
  """
  if not config.model:
    what = f"an {kind}" if kind.startswith("image") else f"a {kind}"
    raise ValueError(
      f"model='': give {what} by --config.model=DIRECTORY_OR_HUB_NAME "
      "(config.json, model.safetensors and what belongs to them)."
    )
  net = hub.load(config.model, config.dtype, ignore=config.ignore)
  modules, classes = _KINDS[kind]
  if not isinstance(net.module, classes):
    families = [
      name for name, (module, _) in hub.FAMILIES.items() if module in modules
    ]
    raise ValueError(
      f"model={config.model!r} ({type(net.module).__name__}) is no {kind}; "
      f"such are {', '.join(families)}."
    )
  if getattr(net.config, "token_head", ""):
    raise ValueError(
      f"model={config.model!r} is a masked language model, which is no {kind} "
      "here; run it from Python (`models.load`)."
    )
  if net.tokenizer is None and "image" not in kind:
    raise ValueError(f"model={config.model!r} has no tokenizer.json.")
  return net


def named(config: OfModel, what: str) -> sites.Network:
  """Whatever network `config.model` names; it may lack a tokenizer.

  Args:
    config: the settings, whose `model` names it.
    what: is asked for, such as "a language model".

  Raises:
    ValueError: no name, or what `hub.load` refuses.
  """
  if not config.model:
    raise ValueError(f"--model is missing: a directory or hub name of {what}.")
  return hub.load(config.model, config.dtype, ignore=config.ignore)


def described(net: sites.Network, name: str) -> str:
  """A network in a line."""
  leaves = jax.tree.leaves(net.params)
  count = sum(leaf.size for leaf in leaves)
  return f"{name}: {count / 1e6:,.3g} M parameters, {leaves[0].dtype}"


def evaluator(
  config: Checkpoint,
  net: sites.Network,
  see: Callable,
  read: readouts.Readout,
  n: int,
) -> evaluate.Evaluator:
  """The compiled value function of a network."""
  return evaluate.compiled(
    readouts.value(net, see, read),
    n,
    batch_size=config.batch_size,
    microbatch=config.microbatch,
    shared=net.params,
  )


def scores(
  net: sites.Network, see: Callable, read: readouts.Readout, n: int
) -> np.ndarray:
  """What `read` gives for the whole input, in float64.

  Raises:
    ValueError: NaN or infinity.
  """
  value = jax.jit(readouts.value(net, see, read))
  found = np.asarray(value(np.ones(n, bool), net.params), np.float64)
  if not np.isfinite(found).all():
    raise ValueError(
      "The model's logits for the whole input hold NaN or infinity. Its "
      "weights or its dtype may be at fault."
    )
  return found


@dataclasses.dataclass(frozen=True)
class Target:
  """Which class is explained, and how it is read.

  Attributes:
    name: the name of the class.
    probability: that the model gives it for the whole input.
    value: what is read off the logits, in words.
    units: the units of that value.
    read: a readout of logits `[B, K]`.
  """

  name: str
  probability: float
  value: str
  units: str
  read: readouts.Readout


def target(config: OfClass, logits: np.ndarray, names: Sequence[str]) -> Target:
  """The class of `config.target`, or the model's own choice if it is empty.

  Args:
    config: the settings `target` and `readout`.
    logits: `[K]`, for the whole input.
    names: the K names of the classes, by number.

  Raises:
    ValueError: an unknown class, or a margin of one class.
  """
  given, number = config.target, int(logits.argmax())
  if given in names:
    number = names.index(given)
  elif given.isdecimal() and int(given) < len(names):
    number = int(given)
  elif given:
    raise ValueError(
      f"target={given!r} is no class of the model; it has "
      f"{tables.some(names)}, numbered from 0."
    )
  readout = config.readout
  if readout == "margin" and len(names) < 2:
    raise ValueError(
      "readout='margin' needs a second class; this model has one output. "
      "Choose --config.readout=logit."
    )
  name = names[number]
  value = {
    "margin": f"logit({name}) above the largest other",
    "logit": f"logit({name})",
    "log_probability": f"log-probability of {name}",
  }[readout]
  if readout == "margin" and len(names) == 2:
    value = f"logit({name}) - logit({names[1 - number]})"
  shares = np.exp(logits - logits.max())
  return Target(
    name=name,
    probability=float(shares[number] / shares.sum()),
    value=value,
    units=UNITS[readout],
    read=getattr(readouts, readout)(number),
  )


def players(config: OfText) -> text_lib.By:
  """How the configuration cuts its text.

  Raises:
    ValueError: a pattern that is no regular expression.
  """
  if not config.pattern:
    return cast(text_lib.By, config.players)
  try:
    return re.compile(config.pattern)
  except re.error as error:
    raise ValueError(
      f"pattern={config.pattern!r} is no regular expression: {error}."
    ) from error


def absence(
  config: OfText, net: sites.Network, prompt: text_lib.Prompt
) -> tuple[absent.Inputs, dict[str, str]]:
  """How the network sees the text under a mask, and that as facts.

  Raises:
    ValueError: what `absent.inputs` refuses, with the settings that help.
  """
  token, way = config.token or None, config.absent
  if (
    way in ("mask", "one")
    and not token
    and "mask" not in (net.tokenizer.special)
  ):
    raise ValueError(
      f"absent={way!r} needs a mask token, and this tokenizer has none. Give "
      "another by --config.token=TOKEN, or choose --config.absent=remove."
    )
  if way in ("hide", "remove") and (prompt.players.owner < prompt.n).all():
    raise ValueError(
      f"absent={way!r} would leave nothing once every player is absent, for "
      "this tokenizer puts nothing in front. Give --config.prefix=TEXT, which "
      "always stays, or --config.bos=yes, or --config.absent=mask with "
      "--config.token=TOKEN."
    )
  lengths = absent.lengths(prompt, way, config.budget)
  see = absent.inputs(prompt, net.tokenizer, way, token=token, lengths=lengths)
  shown = token or net.tokenizer.special.get("mask")
  if isinstance(shown, int):
    shown = net.tokenizer.token(shown)
  facts = {
    "absent": {
      "mask": f"every token of an absent player becomes {shown}",
      "one": f"an absent player becomes one {shown}",
      "hide": "attention does not see the tokens of an absent player",
      "remove": "the tokens of an absent player are taken out",
    }[way]
  }
  if way == "remove":
    key = subjects.key_of(config.seed, "retokenizes")
    masks = jax.random.bernoulli(key, 0.5, (_SAMPLE, prompt.n))
    differ = absent.retokenizes(prompt, net.tokenizer, np.asarray(masks)).sum()
    facts["removal"] = (
      f"tokenizing the text that is left gives other tokens for {differ} of "
      f"{_SAMPLE} random masks"
    )
  return see, facts


def game(
  config: OfText,
  net: sites.Network,
  prompt: text_lib.Prompt,
  read: readouts.Readout,
) -> base.Game | None:
  """The value as a function of embeddings, if the method asks for gradients.

  Absent tokens stay in their places there, as they do not under absent="one";
  tokens that are hidden or taken out have no line to them: None.
  """
  if config.method not in gradients.METHODS:
    return None
  if config.absent not in ("mask", "one"):
    return None
  return embeddings.game(
    net, prompt, net.tokenizer, read, token=config.token or None
  )


def reader(prompt: text_lib.Prompt, title: str) -> Mapping[str, Any]:
  """The fields of a `Subject` that show its text."""
  text, spans = prompt.text, prompt.spans

  def draw(found: subjects.Interactions, path: pathlib.Path) -> None:
    plots.save(texts.sentence(text, spans, found, title=title), path)

  return {
    "draw": draw,
    "picture": lambda found: texts.Marked(
      text, spans, found, tables.fact("text", "")
    ),
    "together": lambda members, labels: texts.spread(
      text, spans, members, labels
    ),
    "scene": page.prose(text, spans),
  }
