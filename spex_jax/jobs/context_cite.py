"""`spex context cite`: what an answer stands on, of sources in a file."""

import dataclasses
import json

from spex_jax import base, settings
from spex_jax.context import citing, scoring
from spex_jax.context import sources as sources_lib
from spex_jax.jobs import circuits, context_asked, networks, subjects
from spex_jax.models import sites
from spex_jax.report import clock as clock_lib
from spex_jax.report import tables as report_tables


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
  output: str = settings.field("citations.json", "a file, JSON")


def run(
  config: Cite,
  show: context_asked.Show | None = None,
  before: float = 0.0,
) -> citing.Citations:
  """Cites, prints, and writes `config.output`.

  Args:
    config: its settings.
    show: takes a line or a rich renderable; prints by default.
    before: seconds of the command that have passed already.

  Raises:
    FileNotFoundError: no file of sources.
    ValueError: what is wrong with model, sources, query, response or settings.
  """
  show = show or report_tables.printer()
  clock = clock_lib.Clock(before)
  output = circuits.writable(config.output)
  texts = texts_of(config.sources)
  nulls = nulls_of(config.nulls) if config.nulls else []
  with clock.of("load"):
    net = context_asked.load(config)
  if nulls:  # Before any forward.
    tokens = context_asked.tokenizer_of(config, net)
    spans = [
      citing.sentence_spans(
        tokens.pieces(tokens.encode(response, add_special=False).ids.tolist())
      )
      for _, response in nulls
    ]
    citing.calibrating_rank(sum(map(len, spans)), config.confidence)
  tell = lambda name, text: show(report_tables.fact(name, text))
  tell("asked", f"Which of {len(texts)} texts does the answer stand on?")
  tell("model", networks.described(net, config.model))
  with clock.of("cite"):
    found = cited(config, net, texts, lambda text: tell("plan", text))
  if nulls:
    with clock.of("calibrate"):
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
    tell(
      "threshold",
      f"{found.threshold:.3g}, of {asked} without support, at "
      f"{config.confidence:.0%}",
    )
  tell("response", "".join(found.pieces))
  show(context_asked.sources_table(found))
  for name, text in context_asked.cited_lines(found):
    tell(name, text)
  found.save(output)
  tell("time", str(clock))
  tell("wrote", str(output))
  return found


def cited(config, net: sites.Network, texts, tell=None) -> citing.Citations:
  """The citations of settings, as `citing.cite` gives them.

  Raises:
    ValueError: as `sources.of_texts` and `citing.cite`.
  """
  tokenizer = context_asked.tokenizer_of(config, net)
  separator = config.separator.replace("\\n", "\n").replace("\\t", "\t")
  sources = sources_lib.of_texts(
    texts,
    config.query,
    tokenizer,
    level=config.level,
    separator=separator,
    before=config.before,
    bos=config.bos,
  )
  return citing.cite(
    net,
    sources,
    config.response,
    key=subjects.key_of(config.seed, "citations"),
    budget=config.budget,
    method=config.method,
    value=config.value,
    max_new_tokens=config.max_new_tokens,
    tell=tell,
    batch_size=config.batch_size,
    memory_limit=config.memory_limit,
  )


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
