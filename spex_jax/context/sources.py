"""Sources of an answer: the pieces of a context, at nested levels.

A prompt is what stands before the context, the documents, and the query. It is
cut at five levels, each within the one above: documents, passages (what an
empty line separates), sentences, words, tokens. Levels are spans of characters
of one text that is tokenized once, so that a source is a set of tokens at every
level and nothing is ever tokenized again.

The rule of separators: a source has the space behind it, up to the next source
of its level; a document has its separator. Removing a source so removes its
line break, and what is left is what the kept sources alone would look like.

Shapes: n sources, P tokens of the prompt.
"""

import dataclasses
import re
from collections.abc import Sequence

import numpy as np

from spex_jax import base
from spex_jax.ablate import features
from spex_jax.ablate import text as text_lib
from spex_jax.context import templates
from spex_jax.models import tokens

LEVELS = ("document", "passage", "sentence", "word", "token")
_PASSAGE = re.compile(r"\S.*?(?=\n[^\S\n]*\n|\Z)", re.DOTALL)
_CUTS = {"sentence": "sentences", "word": "words"}


@dataclasses.dataclass(frozen=True)
class Sources:
  """A prompt whose players are its sources at one level.

  Attributes:
    prompt: the text, its tokens, and the source of each.
    level: of `LEVELS`, or "given" where spans or ids were.
    documents: the span of characters of each document, separator included.
    tokenizer: the one that made the prompt.
    max_length: tokens that the model takes, or None.
  """

  prompt: text_lib.Prompt
  level: str
  documents: tuple[text_lib.Span, ...]
  tokenizer: tokens.Tokenizer = dataclasses.field(repr=False)
  max_length: int | None = None

  @property
  def n(self) -> int:
    return self.prompt.n

  @property
  def texts(self) -> tuple[str, ...]:
    """What each source says, without the space around it."""
    return tuple(
      " ".join(self.prompt.text[a:b].strip() for a, b in spans)
      for spans in self.prompt.spans
    )

  def at(self, level: str) -> "Sources":
    """The same prompt with the sources of another level.

    Raises:
      ValueError: an unknown level, prompts of given ids or spans, or a source
        that covers no token.
    """
    if self.level == "given":
      raise ValueError(
        "Sources that were given as spans or ids have no levels; use of_texts."
      )
    spans = _cut(self.prompt.text, self.documents, level, self.prompt.encoding)
    return dataclasses.replace(
      self, prompt=_owned(self.prompt, spans), level=level
    )

  def also_without(self, stays: np.ndarray) -> "Sources":
    """These, and more that is gone where all of them are.

    Tokens in front of the sources go with the first one, those behind with the
    last: the rule of `cues.explained`.

    Args:
      stays: bool `[P]`, as `templates.Encoded.stays`.
    """
    owner = self.prompt.players.owner.copy()
    first, *_, last = np.flatnonzero(owner < self.n).repeat(2)
    owner[:first][~stays[:first]] = owner[first]
    owner[last:][~stays[last:]] = owner[last]
    players = features.Players(self.prompt.players.names, owner)
    prompt = dataclasses.replace(self.prompt, players=players)
    return dataclasses.replace(self, prompt=prompt)

  def within(self, coarser: "Sources") -> np.ndarray:
    """Which source of a coarser level holds each of these: int32 `[n]`.

    Raises:
      ValueError: sources of another prompt, or that do not nest.
    """
    if (
      coarser.prompt.encoding.ids.tolist() != self.prompt.encoding.ids.tolist()
    ):
      raise ValueError("Both levels must be of one prompt.")
    mine, theirs = self.prompt.players.owner, coarser.prompt.players.owner
    found = np.full(self.n, coarser.n, np.int32)
    for source in range(self.n):
      holders = set(theirs[mine == source].tolist())
      if len(holders) > 1 or coarser.n in holders:
        raise ValueError(
          f"Source {source} ({self.prompt.names[source]!r}) lies within "
          f"{len(holders)} sources of the level {coarser.level}: levels nest "
          f"from coarse ({LEVELS[0]}) to fine ({LEVELS[-1]})."
        )
      found[source] = holders.pop()
    return found

  def kept_text(self, keep: Sequence[int] | np.ndarray) -> str:
    """The prompt's text with the sources of these numbers alone.

    Raises:
      ValueError: a number outside the sources.
    """
    keep = np.asarray(keep, int)
    if keep.size and (keep.min() < 0 or keep.max() >= self.n):
      raise ValueError(f"Sources are 0..{self.n - 1}; got {keep.tolist()}.")
    gone = set(range(self.n)) - set(keep.tolist())
    drop = sorted(span for i in gone for span in self.prompt.spans[i])
    text, end = "", 0
    for start, stop in drop:
      text += self.prompt.text[end:start]
      end = stop
    return text + self.prompt.text[end:]


def of_texts(
  texts: Sequence[str],
  query: str,
  tokenizer: tokens.Tokenizer,
  *,
  level: str = "document",
  separator: str = "\n",
  before: str = "",
  bos: str = "auto",
  max_length: int | None = None,
) -> Sources:
  """Documents in their order, each with the separator behind it, and a query.

  Args:
    texts: the texts of the documents, none empty.
    query: what stands behind them, and is always kept.
    tokenizer: the tokenizer of the model.
    level: what a source is, of `LEVELS`.
    separator: behind every document, the last one too.
    before: what stands before them, such as instructions; always kept.
    bos: whether a BOS token stands first, as for `tokens.Tokenizer.encode`.
    max_length: the most tokens of the model; the tokenizer's by default.

  Raises:
    TypeError: texts that are no strings, or one string.
    ValueError: no document, an empty one (named), an empty query, an unknown
      level, texts that spell special tokens, which `before` alone may, a
      prompt longer than the model takes, or a source that covers no token.
  """
  if isinstance(texts, str):
    raise TypeError("texts must be a list of documents, not one string.")
  if not texts:
    raise ValueError("The context is empty: give at least one document.")
  for number, text in enumerate(texts):
    if not isinstance(text, str):
      raise TypeError(
        f"Document {number} must be a string; got {type(text).__name__}."
      )
    if not text.strip():
      raise ValueError(f"Document {number} is empty: leave it out.")
  if not query.strip():
    raise ValueError(
      "The query is empty: nothing would be left without a context."
    )
  for number, text in enumerate(texts):
    templates.refuse_special(tokenizer, f"document {number}", text)
  templates.refuse_special(tokenizer, "query", query)
  whole, documents = before, []
  for text in texts:
    start = len(whole)
    whole += text + separator
    documents.append((start, len(whole)))
  return _made(whole + query, documents, tokenizer, level, bos, max_length)


def of_spans(
  text: str,
  spans: Sequence[text_lib.Span],
  tokenizer: tokens.Tokenizer,
  *,
  level: str = "given",
  bos: str = "auto",
  max_length: int | None = None,
) -> Sources:
  """Sources, or documents to be cut, as spans of characters of a prompt.

  Args:
    text: the whole prompt, such as a rendered chat template.
    spans: half open; what they leave out is always kept.
    tokenizer: the tokenizer of the model.
    level: "given" for the spans themselves as sources; else of `LEVELS`,
      within them as documents.
    bos: whether a BOS token stands first, as for `of_texts`.
    max_length: the most tokens of the model; the tokenizer's by default.

  Raises:
    ValueError: as `of_texts`; a span outside the text, or two that overlap.
  """
  if not spans:
    raise ValueError("The context is empty: give at least one span.")
  return _made(text, spans, tokenizer, level, bos, max_length)


def of_ids(
  sources: Sequence[Sequence[int]],
  query: Sequence[int],
  tokenizer: tokens.Tokenizer,
  *,
  before: Sequence[int] = (),
  max_length: int | None = None,
) -> Sources:
  """Sources as token ids; their texts are decoded for display alone.

  Args:
    sources: of each source its ids, at least one.
    query: ids behind them, always kept; at least one.
    tokenizer: the tokenizer of the model.
    before: ids in front, such as a first token; always kept.
    max_length: the most tokens of the model; the tokenizer's by default.

  Raises:
    TypeError: ids that are no integers.
    ValueError: no source, one without a token (named), no query, an id outside
      the vocabulary, or more tokens than the model takes.
  """
  if not len(sources):
    raise ValueError("The context is empty: give at least one source.")
  if not len(query):
    raise ValueError("The query has no tokens.")
  n = len(sources)
  parts = [before, *sources, query]
  owners = [n, *range(n), n]
  ids: list[int] = []
  owner: list[int] = []
  for whose, part in zip(owners, parts):
    if whose < n and not len(part):
      raise ValueError(f"Source {whose} covers no token: leave it out.")
    ids += [tokenizer.check(token) for token in part]
    owner += [whose] * len(part)
  _check_length(len(ids), tokenizer, max_length)
  pieces = [tokenizer.decode([token], skip_special=False) for token in ids]
  ends = np.cumsum([len(piece) for piece in pieces])
  offsets = np.stack([ends - [len(piece) for piece in pieces], ends], axis=1)
  special = np.isin(ids, list(tokenizer.special.values()))
  encoding = tokens.Encoding(
    np.array(ids, np.int32), offsets.astype(np.int32), special
  )
  owned = np.array(owner, np.int32)
  spans = [
    (int(offsets[owned == i, 0][0]), int(offsets[owned == i, 1][-1]))
    for i in range(n)
  ]
  text = "".join(pieces)
  names = text_lib.distinct(text[a:b] for a, b in spans)
  prompt = text_lib.Prompt(
    text,
    encoding,
    features.Players(names, owned),
    tuple((span,) for span in spans),
  )
  return Sources(prompt, "given", tuple(spans), tokenizer, max_length)


def _made(text, spans, tokenizer, level, bos, max_length):
  """Tokenizes once, and gives the tokens to the sources of a level."""
  whole = text_lib.prompt(
    text, tokenizer, list(spans), bos=bos, max_length=max_length
  )
  documents = tuple(span for (span,) in whole.spans)
  if level == "given":
    return Sources(_behind(whole), level, documents, tokenizer, max_length)
  cut = _cut(text, documents, level, whole.encoding)
  prompt = _owned(whole, cut)
  return Sources(prompt, level, documents, tokenizer, max_length)


def _cut(
  text: str,
  documents: Sequence[text_lib.Span],
  level: str,
  encoding: tokens.Encoding,
) -> list[text_lib.Span]:
  """The spans of a level, which tile what the documents have."""
  if level not in LEVELS:
    raise ValueError(f"level={level!r}: choose from {', '.join(LEVELS)}.")
  spans = list(documents)
  for each in LEVELS[1 : LEVELS.index(level) + 1]:
    spans = [
      piece for span in spans for piece in _pieces(text, span, each, encoding)
    ]
  return spans


def _pieces(text, span, level, encoding):
  """Of one span of the level above: its parts, with the space behind each."""
  start, end = span
  if level == "token":
    firsts = [
      # A first space may belong to the token; what it writes is behind it.
      min(int(b) - 1, int(a) + len(text[a:b]) - len(text[a:b].lstrip()))
      for a, b in encoding.offsets[~encoding.special]
      if b > a
    ]
    starts = sorted({at for at in firsts if start <= at < end})
  else:
    by = _CUTS.get(level, _PASSAGE)
    inside = text[start:end]
    starts = [start + at for at, _ in text_lib.cut(inside, by)]
  starts = [start, *starts[1:]]
  return list(zip(starts, [*starts[1:], end]))


def _owned(prompt, spans):
  """The prompt with these spans as its players, tokenized as it is."""
  names = text_lib.distinct(prompt.text[a:b] for a, b in spans)
  made = text_lib.owned(
    prompt.text, prompt.encoding, names, tuple((span,) for span in spans)
  )
  return _behind(made)


def _behind(prompt):
  """Space in front of a source is not its own: only that behind it is."""
  owner = prompt.players.owner.copy()
  for token, (start, end) in enumerate(prompt.encoding.offsets):
    whose = owner[token]
    if whose < prompt.n and not any(
      start < b and a < end for a, b in prompt.spans[whose]
    ):
      owner[token] = prompt.n
  players = features.Players(prompt.players.names, owner)
  return dataclasses.replace(prompt, players=players)


def _check_length(length, tokenizer, max_length):
  limit = tokenizer.max_length if max_length is None else max_length
  if limit is not None and base.check_integer(limit, "max_length") < length:
    raise ValueError(
      f"The context has {length} tokens, and the model takes {limit}. "
      "Leave sources out."
    )
