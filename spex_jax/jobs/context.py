"""`spex context`: which tokens of an answer used its context, and which of it.

Sensitive tokens and their cues (PECoRe), and the context's sentences that the
answer stands on, alone and together (`context_cite` for sources of one's own).
"""

import dataclasses
import pathlib
from typing import Any

from spex_jax import base, settings
from spex_jax.context import (
  asking,
  citing,
  cues,
  methods,
  reliance,
  selectors,
  sensitivity,
  templates,
)
from spex_jax.context import response_runs as runs_lib
from spex_jax.context import sources as sources_lib
from spex_jax.jobs import (
  circuits,
  context_again,
  context_asked,
  networks,
  subjects,
)
from spex_jax.models import seq2seq, sites
from spex_jax.report import clock as clock_lib

_FLAGS = ("model", "context", "query", "response", "ids", "output")
# Of texts, so not of --ids.
_OF_TEXTS = (
  "context",
  "query",
  "response",
  "output_context",
  "template",
  "contextless",
  "chat",
  "separator",
)
_MOST_NAMED = 5  # Cues of a token that are named.
# What the one number of a selector is called by `selectors`.
_NUMBERS = {
  "mean_std": "k",
  "top_k": "k",
  "top_p": "p",
  "quantile": "q",
  "calibrated": "threshold",
}


@dataclasses.dataclass(frozen=True)
class Context(context_asked.Asked):
  """What is asked of a context."""

  context: str = settings.field("", "a text, or a file of one")
  ids: str = settings.field("", "a .json file of token ids, not texts")
  output_context: str | None = settings.field(
    None, "what the model wrote before the response; a context, too"
  )
  template: str = settings.field(
    templates.DEFAULT, "how context and query stand together"
  )
  contextless: str | None = settings.field(
    None,
    "of the run without context, {current} alone; None takes the context's "
    "tokens out",
  )
  chat: bool = settings.field(
    False, "the tokenizer's chat template around the template"
  )
  separator: str = settings.field(
    "",
    "before the response, and before the output context, where neither side "
    "has it",
  )
  sensitivity: str = settings.field(
    "kl_divergence", "of tokens", choices=sensitivity.NAMES
  )
  selector: str = settings.field(
    "mean_std", "which tokens count", choices=tuple(selectors.SELECTORS)
  )
  at: float | None = settings.field(
    None, "the selector's number: deviations, tokens, share or threshold"
  )
  most: int | None = settings.field(
    None, "of those, the strongest alone", low=1
  )
  signed: bool = settings.field(False, "selects by scores, not their sizes")
  targets: str = settings.field(
    "selected", "tokens whose cues are found: selected, all, or numbers: 0,3"
  )
  attribution: str = settings.field(
    "saliency", "of cues", choices=(*methods.METHODS, *cues.SETS)
  )
  target: str = settings.field(
    "contrast_prob_diff", "what is attributed", choices=tuple(cues.TARGETS)
  )
  unknown: int | None = settings.field(
    None,
    "the id in place of an occluded token; None takes the tokenizer's unknown "
    "or padding one, else 0",
    low=0,
  )
  way: str = settings.field(
    "remove",
    "what becomes of absent tokens, of an attribution that gives sets: remove "
    "takes them out, mask puts the unknown token there",
    choices=cues.WAYS,
  )
  cue_selector: str = settings.field(
    "mean_std", "which cues are named", choices=tuple(selectors.SELECTORS)
  )
  cue_at: float | None = settings.field(None, "its number")
  cue_most: int | None = settings.field(None, "of those, so many", low=1)
  masks: int = settings.field(
    1000, "of a method of cues that draws some", low=8
  )
  method: str = settings.field(
    "auto",
    "of citations, of the context's sentences (one alone: its words, or "
    "tokens)",
    choices=(*citing.METHODS, "none"),
  )
  budget: int = settings.field(64, "forwards of citations at most", low=2)
  format: str = settings.field(
    "own", "of the output; inseq has no citations", choices=("own", "inseq")
  )
  output: str = settings.field("context.json", "a file, JSON")


@dataclasses.dataclass(frozen=True)
class Found:
  """What a run gives.

  Attributes:
    pecore: the sensitive tokens of the answer, and their cues.
    citations: of the context's sentences; None where none were asked for.
    shell: a command that gives the same.
    python: code that leaves the same in `found`, and citations in `cited`.
  """

  pecore: reliance.Pecore
  citations: citing.Citations | None
  shell: str
  python: str

  def to_dict(self) -> dict[str, Any]:
    """As JSON takes it."""
    cited = None if self.citations is None else self.citations.to_dict()
    again = {"shell": self.shell, "python": self.python}
    return self.pecore.to_dict() | {"citations": cited, "again": again}


def run(
  config: Context, show: context_asked.Show | None = None, before: float = 0.0
) -> Found:
  """Asks, prints, and writes `config.output`.

  Args:
    config: the settings of the command.
    show: takes a line or a rich renderable; prints by default.
    before: seconds of the command that have passed already.

  Raises:
    FileNotFoundError: no file of ids.
    ValueError: what is wrong with model, texts, ids or settings.
  """
  said = clock_lib.Session(show, before)
  output = circuits.writable(config.output)
  _check(config)
  with said.of("load"):
    net = context_asked.load(config)
  said.tell(
    "asked", "Which tokens of the answer used the context, and what of it?"
  )
  said.tell("model", networks.described(net, config.model))
  with said.of("answer"):
    runs = runs_of(config, net)
  # What is odd about the answer is said before it is explained.
  if not config.ids and not runs.is_encoder_decoder:
    size = len(runs.with_context)
    context_asked.note_cut(config, net, size, len(runs.response), said)
  if config.response and not config.ids:
    _note_joined(net, runs, said)
  sources = _cited_sources(config, net, said)
  if sources is not None:  # Before what takes long.
    asking.check(sources.n, config.budget, config.method)
  # Cues first; citations of sentences if they are asked for.
  asked = arguments_of(config)
  with said.of("cues"):
    key = subjects.key_of(config.seed, "cues")
    found = reliance.pecore(net, runs, key=key, **asked)
  cited = None
  if sources is not None:
    with said.of("cite"):
      try:
        cited = _cited(config, net, sources, runs, said)
      except ValueError as error:  # What was found before is kept.
        said.tell("note", f"no citations: {error}")
  _print(found, cited, said)
  # What gives the same again, and the file.
  shell = context_again.shell(config, ("spex", "context"), _FLAGS)
  python = context_again.of_context(
    config,
    runs,
    asked,
    None if cited is None else cited.sources,
    _citing_arguments(config),
  )
  all_of = Found(found, cited, shell, python)
  if config.format == "inseq":
    found.save(output, "inseq")
  else:
    base.write_json(output, all_of.to_dict())
  said.tell("again", shell)
  said.end(output)
  return all_of


def runs_of(config: Context, net: sites.Network) -> runs_lib.Runs:
  """The runs with and without context that settings name.

  Raises:
    FileNotFoundError: no file of ids.
    ValueError: as `Runs.of_dict` and `Runs.of_text`.
  """
  if config.ids:
    return runs_lib.Runs.of_dict(net, context_asked.ids_of(config.ids))
  context_asked.tokenizer_of(config, net)
  return runs_lib.Runs.of_text(
    net,
    context=_context(config),
    current=config.query,
    template=_template(config, net),
    contextless=config.contextless,
    **_outputs(config, net),
    max_new_tokens=config.max_new_tokens,
    bos=config.bos,
  )


def arguments_of(config: Context) -> dict[str, Any]:
  """What `reliance.pecore` takes besides network, runs and key."""
  targets: Any = config.targets
  if targets not in ("selected", "all"):
    targets = [int(number) for number in targets.split(",")]
  chosen = _selection(config.selector, config.at, config.most)
  if config.signed:
    chosen["signed"] = True
  own = {} if config.unknown is None else {"unknown": config.unknown}
  return own | {
    "metric": config.sensitivity,
    "method": config.attribution,
    "target": config.target,
    "targets": targets,
    "selector": config.selector,
    "selector_settings": chosen,
    "cue_selector": config.cue_selector,
    "cue_settings": _selection(
      config.cue_selector, config.cue_at, config.cue_most
    ),
    "budget": config.masks,
    "way": config.way,
  }


def _check(config: Context) -> None:
  """Raises ValueError where settings do not go together, before a load."""
  given = [
    f"--{'' if name in _FLAGS else 'config.'}{name}"
    for name in _OF_TEXTS
    if getattr(config, name) != getattr(Context, name)
  ]
  if config.ids and given:
    raise ValueError(
      f"--ids stands in place of texts: leave out {', '.join(given)}."
    )
  if not config.ids and not config.context:
    raise ValueError("--context is missing: a text or a file; or give --ids.")
  words = config.targets.split(",")
  if config.targets not in ("selected", "all") and not all(
    word.strip().isdecimal() for word in words
  ):
    raise ValueError(
      f"targets={config.targets!r}: choose selected, all, or numbers of the "
      "response's tokens, as in 0,3."
    )


def _selection(
  selector: str, at: float | None, most: int | None
) -> dict[str, Any]:
  found: dict[str, Any] = {}
  if at is not None:
    if selector == "top_k" and at != int(at):
      raise ValueError(f"top_k takes a whole number; got {at:g}.")
    found[_NUMBERS[selector]] = int(at) if selector == "top_k" else at
  if most is not None:
    found["most"] = most
  return found


def _context(config: Context) -> str:
  """The text itself, or that of the file it names."""
  path = pathlib.Path(config.context).expanduser()
  try:
    is_file = path.is_file()
  except OSError:  # A text too long for a name.
    is_file = False
  return context_asked.read(str(path), "context") if is_file else config.context


def _template(config: Context, net: sites.Network) -> templates.Template:
  if not config.chat:
    return templates.Template.of(config.template)
  tokenizer = context_asked.tokenizer_of(config, net)
  messages = ({"role": "user", "content": config.template},)
  return templates.Template.of_chat(tokenizer, messages)


def _outputs(config: Context, net: sites.Network) -> dict[str, str | None]:
  """Output context and response, behind the separator where it is missing."""
  before = None  # An encoder-decoder's first output stands behind no text.
  if not isinstance(net.module, seq2seq.EncoderDecoder):
    before, _ = _template(config, net).fill(_context(config), config.query)
  found: dict[str, str | None] = {}
  for name in ("output_context", "response"):
    text = getattr(config, name)
    if text and before is not None:
      has = before.endswith(config.separator)
      if not has and not text.startswith(config.separator):
        text = config.separator + text
    before, found[name] = text or before, text
  return found


def _note_joined(net, runs, said) -> None:
  """Says where a given response goes on within a word."""
  if runs.is_encoder_decoder:
    return
  pair = runs.with_context[-len(runs.response) - 1 :][:2]
  lead, first = net.tokenizer.pieces(pair.tolist())
  if first[:1].isalnum() and not lead[-1:].isspace():
    said.tell(
      "note",
      f"the response goes on with {first!r} directly behind {lead!r}: begin it "
      "with a space where a word begins",
    )


def sources_of(
  config: Context, net: sites.Network
) -> sources_lib.Sources | None:
  """The context's sentences, else its words or tokens; None of one token.

  Without all of them the prompt is that of the run without context.

  Raises:
    ValueError: as `templates.encode`.
  """
  tokenizer = context_asked.tokenizer_of(config, net)
  given = templates.encode(
    tokenizer,
    _template(config, net),
    _context(config),
    config.query,
    bos=config.bos,
    closed=isinstance(net.module, seq2seq.EncoderDecoder),
  )
  text = given.prompt.text
  (((start, end),),) = given.prompt.spans
  # Space in front of the context's first word stays.
  start += len(text[start:end]) - len(text[start:end].lstrip())
  for level in ("sentence", "word", "token"):
    sources = sources_lib.of_spans(
      text, [(start, end)], tokenizer, level=level, bos=config.bos
    )
    if sources.n > 1:
      return sources.also_without(given.stays)
  return None


def _cited_sources(config, net, said) -> sources_lib.Sources | None:
  """What citations are of; None, and a note, where there are none."""
  if config.method == "none":
    return None
  why, sources = "", None
  if config.ids:
    why = "--ids have no sentences"
  elif config.format == "inseq":
    why = "format=inseq has none"
  elif config.output_context is not None:
    why = "an output context stands before the response"
  else:
    sources = sources_of(config, net)
    why = "" if sources else "the context is one token"
  if why:
    said.tell("note", f"no citations: {why}")
  return sources


def _cited(config, net, sources, runs, said) -> citing.Citations:
  """What of the context's sentences the response stands on."""
  if config.contextless is not None:
    said.tell(
      "note", "citations take tokens of the context out, not `contextless`"
    )
  return citing.cite(
    net,
    sources,
    runs.response.tolist(),
    key=subjects.key_of(config.seed, "citations"),
    tell=lambda line: said.tell("plan", line),
    **_citing_arguments(config),
  )


def _citing_arguments(config) -> dict[str, Any]:
  return {
    "budget": config.budget,
    "method": config.method,
    "batch_size": config.batch_size,
  }


def _print(found, cited, said) -> None:
  """The answer and the cues in colour, then citations."""
  pieces, own = found.pieces["response"], found.pieces["context"]
  said.tell("metric", f"{found.metric}; the darker the more; [chosen]")
  said.show(
    context_asked.coloured(pieces, found.sensitivity, "green", found.selected)
  )
  if not found.selected:
    said.tell("selected", "nothing: no token passes the selector")
  for cue in found.cues:
    named = ", ".join(
      f"{own[i].strip()} ({cue.scores[i]:.3g})"
      for i in cue.chosen[:_MOST_NAMED]
    )
    said.tell(
      "cues",
      f"{pieces[cue.index].strip()!r} ({found.metric} {cue.score:.3g}, else "
      f"{cue.contrast_text.strip()!r}, P-CXMI "
      f"{cue.shift:+.3g} nats): {named or 'none stands out'}",
    )
    said.show(context_asked.coloured(own, cue.scores, "blue", cue.chosen))
  if cited is not None:
    said.show(context_asked.sources_table(cited))
    for name, text in context_asked.cited_lines(cited):
      said.tell(name, text)
