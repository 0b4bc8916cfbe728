"""`spex context cite`: what an answer stands on, of sources in a file."""

import dataclasses
import json
import os
from typing import Any

from spex_jax import base, settings
from spex_jax.ablate import services
from spex_jax.context import citing, remote, scoring
from spex_jax.context import sources as sources_lib
from spex_jax.jobs import (
  circuits,
  context_again,
  context_asked,
  networks,
  subjects,
)
from spex_jax.models import hub, sites, tokens
from spex_jax.report import clock as clock_lib
from spex_jax.report import tables as report_tables

_FLAGS = ("model", "sources", "query", "response", "output")
# What an endpoint decides by itself.
_OF_MODELS = ("batch_size", "memory_limit", "max_new_tokens", "dtype")
_LIMITS = (
  "it scores an answer that is given: none is made, there are no whole "
  "distributions (no jsd), and where it names no other token, sets are told by "
  "the probability alone (midpoint), not by what greedy decoding gives"
)


@dataclasses.dataclass(frozen=True)
class Cite(context_asked.Asked):
  """What is cited, and how."""

  sources: str = settings.field("", 'a .jsonl file with a "text" a line')
  separator: str = settings.field(
    "\\n", "behind each source in the prompt; \\n and \\t are read as such"
  )
  before: str = settings.field("", "what stands before the sources")
  level: str = settings.field(
    "document", "what a source is, within a line", choices=sources_lib.LEVELS
  )
  method: str = settings.field("auto", "of values", choices=citing.METHODS)
  value: str | None = settings.field(
    None,
    "what is shared out; None takes log_odds for contextcite, else "
    "log_probability",
    choices=scoring.VALUES,
  )
  budget: int = settings.field(64, "forwards at most", low=2)
  memory_limit: int | None = settings.field(
    None,
    "bytes that keys and values which sources share may take, or batches "
    "whose size is measured; None takes what is free, of keys and values half "
    "of it on an accelerator and 1 GiB on a CPU",
    low=1,
  )
  nulls: str = settings.field(
    "",
    'a .jsonl file with a "query" and a "response" a line that no source '
    "supports: they say how strong a source must be to be cited, and take "
    "the budget each",
  )
  confidence: float = settings.field(
    0.9, "that such an answer has no citation", above=0, below=1
  )
  coarse: str | None = settings.field(
    None,
    "of leave_one_out: a coarser level; only what lies within the strongest of "
    "its sources is left out one by one",
    choices=sources_lib.LEVELS,
  )
  proxy: str = settings.field(
    "",
    "of leave_one_out: a smaller model, a directory or hub name; only its "
    "strongest sources are asked of the model",
  )
  keep: int = settings.field(3, "the strongest of coarse or proxy", low=1)
  prune: str | None = settings.field(
    None,
    "prints the prompt with so many sources (3), or with those that leave this "
    "share of the effect (0.9)",
  )
  endpoint: str = settings.field(
    "",
    "https://HOST/v1 that scores prompts in the model's place; --model is then "
    "a directory of its tokenizer",
  )
  endpoint_model: str = settings.field("", "its name there; by default --model")
  key_variable: str = settings.field(
    "OPENAI_API_KEY", "of the environment, which holds the endpoint's key"
  )
  output: str = settings.field("citations.json", "a file, JSON")

  def check(self) -> None:
    """Settings that go together.

    Raises:
      ValueError: settings that do not go together, with the reason.
    """
    if self.prune is not None:
      context_asked.pruning(self.prune)
    if self.method != "leave_one_out" and (self.coarse or self.proxy):
      raise ValueError(
        "--config.coarse and --config.proxy are of "
        "--config.method=leave_one_out."
      )
    if self.endpoint and self.response is None:
      raise ValueError("An endpoint scores an answer: give --response.")
    if self.endpoint and self.method == "jsd":
      raise ValueError(f"method='jsd' is not of an endpoint: {_LIMITS}.")
    if self.proxy and self.response is None:
      raise ValueError("A proxy scores the same answer: give --response.")


def run(
  config: Cite, show: context_asked.Show | None = None, before: float = 0.0
) -> citing.Citations:
  """Cites, prints, and writes `config.output`.

  Beside `Citations.to_dict` the file has `again`, a command and code that give
  the same, and where asked for `pruned`, the sources kept and the prompt.

  Args:
    config: the settings of the command.
    show: takes a line or a rich renderable; prints by default.
    before: seconds of the command that have passed already.

  Raises:
    FileNotFoundError: no file of sources.
    ValueError: what is wrong with model, sources, query, response or settings.
  """
  said = clock_lib.Session(show, before)
  output = circuits.writable(config.output)
  # What is asked, of whom.
  texts = texts_of(config.sources)
  nulls = nulls_of(config.nulls) if config.nulls else []
  with said.of("load"):
    net = subject_of(config)
  if nulls:  # Before any forward.
    known = _tokenizer(config, net)
    spans = [
      citing.sentence_spans(
        known.pieces(known.encode(response, add_special=False).ids.tolist())
      )
      for _, response in nulls
    ]
    citing.calibrating_rank(sum(map(len, spans)), config.confidence)
  said.tell("asked", f"Which of {len(texts)} texts does the answer stand on?")
  if isinstance(net, sites.Network):
    said.tell("model", networks.described(net, config.model))
  else:
    said.tell("model", f"{_name(config)} at {config.endpoint}: {_LIMITS}")
    idle = [
      f"--config.{name}"
      for name in _OF_MODELS
      if getattr(config, name) != getattr(Cite, name)
    ]
    if config.proxy and "--config.dtype" in idle:
      idle.remove("--config.dtype")  # That of the proxy.
    if idle:
      said.tell("note", f"an endpoint has no use for {', '.join(idle)}")
  # Citations, and how strong they must be.
  with said.of("cite"):
    found = cited(config, net, texts, lambda text: said.tell("plan", text))
  if nulls:
    with said.of("calibrate"):
      strongest = [
        value
        for query, response in nulls
        for value in cited(
          dataclasses.replace(config, query=query, response=response),
          net,
          texts,
        ).strongest()
      ]
      found.threshold = citing.calibrate(strongest, config.confidence)
    asked = report_tables.count(len(strongest), "sentence")
    said.tell(
      "threshold",
      f"{found.threshold:.3g}, of {asked} without support, at "
      f"{config.confidence:.0%}",
    )
  said.tell("response", "".join(found.pieces))
  if isinstance(net, sites.Network):
    count = len(found.response)
    size = found.sources.prompt.num_tokens + count
    context_asked.note_cut(config, net, size, count, said)
  said.show(context_asked.sources_table(found))
  for name, text in context_asked.cited_lines(found):
    said.tell(name, text)
  # The file, with what makes it again.
  body = found.to_dict()
  if config.prune is not None:
    text, kept = citing.prune(found, **context_asked.pruning(config.prune))
    numbers = ", ".join(f"[{i}]" for i in kept) or "no source"
    said.tell("pruned", f"to {numbers}:\n{text}")
    body["pruned"] = {"sources": list(kept), "text": text}
  body["again"] = {
    "shell": context_again.shell(config, ("spex", "context", "cite"), _FLAGS),
    "python": context_again.of_citations(
      config,
      texts,
      _prompt(config),
      found.response.tolist(),
      _asked(config),
      found.threshold if nulls else None,
    ),
  }
  base.write_json(output, body)
  said.tell("again", body["again"]["shell"])
  said.end(output)
  return found


def subject_of(config: Cite) -> sites.Network | tokens.Tokenizer:
  """The model; of an endpoint its tokenizer alone.

  Raises:
    ValueError: as `context_asked.load`; no directory of a tokenizer.
  """
  if not config.endpoint:
    return context_asked.load(config)
  if not config.model:
    raise ValueError("--model is missing: a directory of its tokenizer.")
  found = tokens.load(hub.local(config.model))
  if found is None:
    raise ValueError(f"model={config.model!r} has no tokenizer.json.")
  return found


def cited(
  config: Cite,
  net: sites.Network | tokens.Tokenizer,
  texts: list[str],
  tell=None,
) -> citing.Citations:
  """The citations of settings, as `citing.cite` gives them.

  Raises:
    ValueError: as `sources.of_texts` and `citing.cite`; an endpoint that does
      not answer, or not with log-probabilities.
  """

  def prompt(tokenizer, **changes):
    return sources_lib.of_texts(
      texts, config.query, tokenizer, **{**_prompt(config), **changes}
    )

  tokenizer = _tokenizer(config, net)
  sources = prompt(tokenizer)
  asked = _asked(config) | {
    "key": subjects.key_of(config.seed, "citations"), "tell": tell
  }  # fmt: skip
  if config.coarse is not None:
    asked["coarse"] = prompt(tokenizer, level=config.coarse)
  if config.proxy:
    assert config.response is not None  # As `check` has it, here and below.
    small = hub.load(config.proxy, config.dtype)
    beside = prompt(context_asked.tokenizer_of(config, small))
    asked["proxy"] = scoring.scorer(
      small, beside, config.response, budget=config.budget
    )
  if isinstance(net, sites.Network):
    return citing.cite(net, sources, config.response, **asked)
  assert config.response is not None
  key = os.environ.get(config.key_variable, "")
  try:
    scorer = remote.scorer(
      services.Service(config.endpoint, key), _name(config), sources,
      config.response,
    )  # fmt: skip
    return citing.cite(scorer, **asked)
  except (services.Overloaded, services.Refused) as error:
    raise ValueError(f"The endpoint does not answer: {error}") from error


def _name(config) -> str:
  return config.endpoint_model or config.model


def _tokenizer(config, net) -> tokens.Tokenizer:
  if isinstance(net, sites.Network):
    return context_asked.tokenizer_of(config, net)
  return net


def _prompt(config) -> dict[str, Any]:
  """What `sources.of_texts` takes besides texts, query and tokenizer."""
  separator = config.separator.replace("\\n", "\n").replace("\\t", "\t")
  return {
    "level": config.level,
    "separator": separator,
    "before": config.before,
    "bos": config.bos,
  }


def _asked(config) -> dict[str, Any]:
  """What `citing.cite` takes besides a subject, key, coarse and proxy."""
  asked = {
    "budget": config.budget,
    "method": config.method,
    "value": config.value,
    "keep": config.keep,
  }
  if config.endpoint:
    return asked
  return asked | {
    "max_new_tokens": config.max_new_tokens,
    "batch_size": config.batch_size,
    "memory_limit": config.memory_limit,
  }


def texts_of(path: str) -> list[str]:
  """The texts of a file of sources, a JSON object a line; empty lines are not.

  Raises:
    FileNotFoundError: there is no file.
    ValueError: none is named, or a line that is no object with a "text".
  """
  if not path:
    raise ValueError('--sources is missing: a .jsonl file, a "text" a line.')
  return [text for (text,) in _lines(path, "sources", ("text",))]


def nulls_of(path: str) -> list[tuple[str, str]]:
  """The queries and answers of a file, which no source supports.

  Raises:
    FileNotFoundError, ValueError: as `texts_of`.
  """
  return _lines(path, "nulls", ("query", "response"))


def _lines(path, what, names) -> list:
  """Some texts of each line of a file, in a tuple."""
  found = []
  for number, given in base.json_lines(context_asked.read(path, what), path):
    if isinstance(given, str) and len(names) == 1:
      given = {names[0]: given}
    texts = [given.get(name) if isinstance(given, dict) else None
             for name in names]  # fmt: skip
    if not all(isinstance(text, str) for text in texts):
      needed = " and a ".join(f'"{name}"' for name in names)
      raise ValueError(
        f"{path}, line {number}: an object with a {needed} is needed; got "
        f"{json.dumps(given, ensure_ascii=False)[:60]}."
      )
    found.append(tuple(texts))
  return found
