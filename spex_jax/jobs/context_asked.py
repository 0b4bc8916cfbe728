"""What both commands of contexts share: a model, texts, how they are shown."""

import dataclasses
import json
import pathlib
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from spex_jax import base, settings
from spex_jax.context import citing, sets
from spex_jax.jobs import networks
from spex_jax.models import seq2seq, sites, tokens, transformer
from spex_jax.report import clock as clock_lib
from spex_jax.report import tables as report_tables

Show = Callable[..., None]
_MOST_TOLD = 12  # Tokens whose P-CXMI is printed.
_SHADES = 4  # Of a colour, from weak to strong.


@dataclasses.dataclass(frozen=True)
class OfModel(networks.OfModel):
  """A model, and how it answers."""

  response: str | None = settings.field(
    None, "an answer, the model's own or another's; made where not given"
  )
  max_new_tokens: int = settings.field(32, "of an answer that is made", low=1)
  bos: str = settings.field(
    "auto",
    "whether a text begins with a BOS token: as its tokenizer has it, yes, no",
    choices=tokens.BOS,
  )
  seed: int = settings.seed("of all draws")
  batch_size: int | None = settings.field(
    None, "masks at a time; None takes what fits", low=1
  )


@dataclasses.dataclass(frozen=True)
class Asked(OfModel):
  """A model, and what it is asked and answers."""

  query: str = settings.field("", "what stands behind the context")


def load(config: OfModel) -> sites.Network:
  """The language model of `config.model`; it may lack a tokenizer.

  Raises:
    ValueError: no name, another kind of network, or what `hub.load` refuses.
  """
  net = networks.named(config, "a language model")
  kinds = (transformer.Decoder, seq2seq.EncoderDecoder)
  if not isinstance(net.module, kinds):
    raise ValueError(
      f"model={config.model!r} ({type(net.module).__name__}) is no causal "
      "language model and no encoder-decoder: no answer of its follows a "
      "context."
    )
  return net


def tokenizer_of(config: OfModel, net: sites.Network) -> tokens.Tokenizer:
  """The tokenizer that texts need.

  Raises:
    ValueError: the model has none.
  """
  if net.tokenizer is None:
    raise ValueError(
      f"model={config.model!r} has no tokenizer.json, which texts need: give "
      "--ids, a file of token ids."
    )
  return net.tokenizer


def read(path: str, what: str) -> str:
  """The text of a file.

  Raises:
    FileNotFoundError: there is none.
    ValueError: it cannot be read as UTF-8.
  """
  place = pathlib.Path(path).expanduser()
  if not place.is_file():
    raise FileNotFoundError(f"{what}={path!r}: there is no such file.")
  try:
    return place.read_text(encoding="utf-8")
  except UnicodeDecodeError as error:
    raise ValueError(f"{what}={path!r} is no text in UTF-8: {error}.") from None


def ids_of(path: str) -> dict[str, Any]:
  """The object of a JSON file that `ids` names.

  Raises:
    FileNotFoundError: there is none.
    ValueError: it holds no object.
  """
  try:
    given = json.loads(read(path, "ids"))
  except json.JSONDecodeError as error:
    raise ValueError(f"ids={path!r} is no JSON: {error}.") from None
  if not isinstance(given, dict):
    raise ValueError(f"ids={path!r} must hold an object, {{...}}.")
  return given


def note_cut(
  config: OfModel,
  net: sites.Network,
  size: int,
  count: int,
  said: clock_lib.Session,
) -> None:
  """Says where an answer was cut as the model takes no more tokens.

  Args:
    config: the settings that say how long the answer may be.
    net: the model that wrote the answer.
    size: how many tokens prompt and answer have together.
    count: how many tokens the answer has.
    said: is told of the cut.
  """
  limit = net.config.max_positions
  is_made = config.response is None and count < config.max_new_tokens
  if is_made and size == limit:
    said.tell(
      "note",
      f"the answer ends after {count} of --config.max_new_tokens="
      f"{config.max_new_tokens}: with its context the model takes no more than "
      f"{limit} tokens",
    )


def pruning(given: str) -> dict[str, Any]:
  """What `citing.prune` takes: `keep`, of a whole number, else `share`.

  Raises:
    ValueError: neither a whole number nor one in (0, 1].
  """
  if given.strip().isdecimal():
    return {"keep": int(given)}
  try:
    share = float(given)
  except ValueError:
    share = 0.0
  if not 0 < share <= 1:
    raise ValueError(
      f"prune={given!r}: give how many sources to keep, as in 3, or the share "
      "of the effect that they leave, as in 0.9."
    )
  return {"share": share}


def coloured(
  pieces: Sequence[str], scores: Any, colour: str, marked: Sequence[int] = ()
) -> Any:
  """A rich text of tokens, the darker the larger their scores.

  Args:
    pieces: the text of each token.
    scores: `[len(pieces)]`; their sizes count.
    colour: the colour behind the text, "green" or "blue".
    marked: numbers of tokens that stand in brackets, too, which files show.
  """
  from rich import style, text  # Slow to import.

  sizes = np.abs(np.asarray(scores, np.float64))
  shares = sizes / max(sizes.max(initial=0.0), np.finfo(np.float64).tiny)
  line = text.Text()
  for number, (piece, share) in enumerate(zip(pieces, shares)):
    piece = base.printable(piece)
    shade = round(float(share) * _SHADES)
    lead = piece[: len(piece) - len(piece.lstrip())]
    shown = f"[{piece.lstrip()}]" if number in marked else piece.lstrip()
    strength = 40 + 215 * shade // _SHADES
    red, blue = (0, 0) if colour == "green" else (0, strength)
    green = strength if colour == "green" else strength // 2
    own = style.Style(
      color="white", bgcolor=f"rgb({red},{green // 2},{blue})"
    ) if shade else style.Style.null()  # fmt: skip
    line.append(lead)
    line.append(shown, own)
  return line


def sources_table(found: citing.Citations) -> Any:
  """A rich table of the sources and what each is worth, strongest first.

  Where the answer loses more without a source than its share, that is shown.
  """
  apart = not np.array_equal(found.strengths, found.values)
  columns = (found.values, found.strengths) if apart else (found.values,)
  rows = []
  for number in sets.ranked(found.strengths):
    name = base.printable(found.sources.texts[number])
    cells = (f"{column[number]:+.3g}" for column in columns)
    rows.append((*cells, f"[{number}] {name}"))
  names = ("value", "strength", "source") if apart else ("value", "source")
  return report_tables.grid(names, rows, names[-1:])


def cited_lines(found: citing.Citations) -> list[tuple[str, str]]:
  """Sets, citations of each sentence, cost and fit, as facts."""
  lines = [("set", shown(each)) for each in found.sets]
  if found.whole.needed:
    each = ", ".join(f"[{i}]" for i in found.whole.needed)
    lines.append(("needed", f"{each}: without any one the answer falls"))
  for span, cited in found.sentences():
    said = "".join(found.pieces[span.start : span.stop]).strip()
    numbers = ", ".join(f"[{i}]" for i in cited) or "none"
    lines.append(("cited", f"{said!r}: {numbers}"))
  fit = "not tested" if found.r2 is None else f"R2 {found.r2:.3f}"
  if found.whole.r2_interval is not None:
    low, high = found.whole.r2_interval
    fit += f" ({low:.3f}..{high:.3f})"
  if found.r2 is not None:
    fit += f" by {found.whole.r2_by}"
  cost = report_tables.count(found.forwards, "forward")
  lines.append(("cost", f"{cost} by {found.whole.method}; {fit}"))
  if found.total is not None:
    told = f"v(all) - v(none) = {found.total:+.4g}"
    if found.whole.fit is not None:
      told += f"; the sources sum to {found.values.sum():+.4g}"
    lines.append(("total", told))
  if found.knows_ends:
    accounts = found.totals()
    told = ", ".join(
      f"'{base.printable(each.piece.strip() or each.piece)}' {each.pcxmi:+.3g}"
      for each in accounts[:_MOST_TOLD]
    )
    more = ", ..." if len(accounts) > _MOST_TOLD else ""
    right = sum(each.holds for each in accounts)
    how = "which all subsets show"
    if not accounts[0].known:
      how = "by construction: they are fitted to"
    lines.append(
      ("P-CXMI", f"{told}{more} nats; of {right} of {len(accounts)} tokens "
       f"the sets sum to it, {how}")
    )  # fmt: skip
  return lines + [("note", note) for note in found.notes]


def shown(each: sets.CueSet) -> str:
  """A set in words."""
  interval = ""
  if each.interval is not None:
    low, high = each.interval
    interval = f"; {low:+.3g}..{high:+.3g} on average over the masks asked"
  return f"{each.words()}: {each.value:+.3g} beside all others{interval}"
