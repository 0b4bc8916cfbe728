"""Text as players: words, sentences, tokens, matches or spans of characters.

A player is a set of token positions. Which tokens it has follows from the
characters that the tokenizer says each token stands for: a token belongs to
the player with most of its characters, and one that is only space to whoever
has the token behind it. What no player has, special tokens among it, is always
kept.

Shapes: n players, P tokens.
"""

import dataclasses
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import TypeAlias

import numpy as np

from spex_jax import base
from spex_jax.ablate import features
from spex_jax.models import tokens

Span: TypeAlias = tuple[int, int]  # The characters text[start:end].
# How a text is cut into players: "words", "sentences" or "tokens", a compiled
# regular expression (every match is a player), spans of characters, or named
# players with one or more spans each.
By: TypeAlias = (
  str | re.Pattern[str] | Sequence[Span] | Mapping[str, Sequence[Span]]
)

_SPACES = ("▁", "Ġ")  # Space, as vocabularies write it.
_WORD = re.compile(r"\S+")
# A sentence ends at a stop that ends no abbreviation, before a space that no
# small letter follows; at a full-width stop; at an empty line; or before a line
# that begins with a bullet or a number. What cannot be told is a break:
# "J. Smith" is two.
_ABBREVIATIONS = (
  "Dr", "Mr", "Mrs", "Ms", "Prof", "St", "Fig", "Eq", "vs", "i.e", "e.g", "cf",
)  # fmt: skip
_SENTENCE = re.compile(
  r"(?:\d{1,3}[.)][^\S\n]+)?\S.*?(?:(?=[.!?…])"
  + "".join(rf"(?<!\b{re.escape(word)})" for word in _ABBREVIATIONS)
  + r"""[.!?…]+["'”’)\]]*(?=\s+[^\sa-z]|\s*\Z)"""
  r"""|[。！？]+["'”’」』）]*"""
  r"|(?=\n\s*(?:\n|(?:[-*•]|\d{1,3}[.)])\s))|\Z)",
  re.DOTALL,
)


@dataclasses.dataclass(frozen=True)
class Prompt:
  """A text, its tokens, and who owns them.

  Attributes:
    text: the text, as it was given.
    encoding: the P tokens of the text.
    players: names, and the owner of each token: `[P]`, n for nobody's.
    spans: for each player, the characters that it was given as.
  """

  text: str
  encoding: tokens.Encoding
  players: features.Players
  spans: tuple[tuple[Span, ...], ...]

  @property
  def n(self) -> int:
    return self.players.n

  @property
  def names(self) -> tuple[str, ...]:
    return self.players.names

  @property
  def num_tokens(self) -> int:
    return len(self.encoding.ids)


def prompt(
  text: str,
  tokenizer: tokens.Tokenizer,
  by: By = "words",
  *,
  within: Span | None = None,
  bos: str = "auto",
  max_length: int | None = None,
) -> Prompt:
  """Cuts a text into players.

  Args:
    text: a text that is not empty.
    tokenizer: the tokenizer of the model.
    by: "words" (what spaces separate), "sentences", "tokens", a compiled
      regular expression, spans of characters, or names with spans.
    within: the part of the text that "words", "sentences", "tokens" or an
      expression cuts; what is around it nobody owns. All by default.
    bos: whether a `bos` token stands in front, as for `tokens.encode`.
    max_length: the most tokens that the model takes; the tokenizer's by
      default.

  Raises:
    TypeError: a text that is no string.
    ValueError: an empty text, one longer than the model takes, a way of
      cutting that is not known or finds no player, `within` beside spans that
      are given, a span outside the text, an empty one, one that overlaps
      another, or a player that covers no token.
  """
  encoding = tokenizer.encode(text, bos=bos)
  limit = tokenizer.max_length if max_length is None else max_length
  _check_length(len(encoding.ids), limit)
  if within is not None:
    if not isinstance(by, str | re.Pattern):
      raise ValueError("within: spans that are given say themselves where.")
    within = _check_span("within", within, text)
  first, last = within or (0, len(text))
  if isinstance(by, str) and by == "tokens":
    return _by_tokens(text, encoding, tokenizer, within)
  if isinstance(by, Mapping):
    labels, given = list(by), list(by.values())
  else:
    found = cut(text[first:last], by)
    if isinstance(by, str | re.Pattern):
      found = [(start + first, end + first) for start, end in found]
    given = [[span] for span in found]
    labels = list(range(len(given)))
  spans = tuple(
    tuple(_check_span(label, span, text) for span in player)
    for label, player in zip(labels, given)
  )
  if not spans:
    raise ValueError("No spans of characters were given, so no players.")
  if isinstance(by, Mapping):
    names = tuple(by)
  else:
    names = distinct(text[start:end] for ((start, end),) in spans)
  return owned(text, encoding, names, spans)


def owned(
  text: str,
  encoding: tokens.Encoding,
  names: tuple[str, ...],
  spans: tuple[tuple[Span, ...], ...],
) -> Prompt:
  """A tokenized text whose tokens go to the players of these spans.

  Raises:
    ValueError: spans that overlap, or a player that covers no token.
  """
  owner = _owner(text, encoding, names, spans)
  for player, name in enumerate(names):
    if not (owner == player).any():
      pieces = [text[a:b] for a, b in spans[player]]
      raise ValueError(
        f"Player {player} ({name!r}) covers no token: every token of "
        f"{pieces} belongs to another player, or there is none."
      )
  return Prompt(text, encoding, features.Players(names, owner), spans)


def continued(
  prompt: Prompt,
  continuation: str | Sequence[int],
  tokenizer: tokens.Tokenizer,
  *,
  max_length: int | None = None,
) -> tuple[Prompt, int]:
  """The prompt with a continuation behind it that nobody owns.

  Args:
    prompt: the prompt, whose players stand in front.
    continuation: a text, usually with its leading space, or token ids.
    tokenizer: the one that made the prompt.
    max_length: the most tokens that the model takes; the tokenizer's by
      default.

  Returns:
    The longer prompt, and how many tokens the continuation has.

  Raises:
    ValueError: a prompt that the tokenizer closes with a special token, an
      empty continuation, one whose tokens depend on where it begins, an id
      outside the vocabulary, or a text longer than the model takes.
  """
  ids = prompt.encoding.ids
  if prompt.encoding.special[-1]:
    raise ValueError(
      f"The tokenizer closes a text with {tokenizer.token(int(ids[-1]))!r}: "
      "nothing can continue it. This is for causal language models."
    )
  if isinstance(continuation, str):
    body = prompt.text + continuation
    whole = tokenizer.encode(body, add_special=False)
    start = len(ids) - int(prompt.encoding.special.sum())
    plain = ids[~prompt.encoding.special]
    if whole.ids[:start].tolist() != plain.tolist():
      raise ValueError(
        f"Tokens would join over the border of prompt and {continuation!r}. "
        "Begin it with a space, or give its token ids."
      )
    more, offsets = whole.ids[start:], whole.offsets[start:]
  else:
    more = np.array([tokenizer.check_id(i) for i in continuation], np.int32)
    body = prompt.text
    offsets = np.full((len(more), 2), len(body), np.int32)
  if not len(more):
    raise ValueError("The continuation is empty.")
  limit = tokenizer.max_length if max_length is None else max_length
  _check_length(len(ids) + len(more), limit)
  encoding = tokens.Encoding(
    np.concatenate([ids, more]),
    np.concatenate([prompt.encoding.offsets, offsets]),
    np.concatenate([prompt.encoding.special, np.zeros(len(more), bool)]),
  )
  owner = np.concatenate(
    [prompt.players.owner, np.full(len(more), prompt.n, np.int32)]
  )
  players = features.Players(prompt.names, owner)
  return Prompt(body, encoding, players, prompt.spans), len(more)


def _check_length(length: int, limit: int | None) -> None:
  if limit is not None and length > limit:
    raise ValueError(
      f"The text has {length} tokens, and the model takes {limit}. "
      "Shorten the text."
    )


def cut(text: str, by: str | re.Pattern[str] | Sequence[Span]) -> list[Span]:
  """The spans of what `by` finds in a text; spans that are given as they are.

  Raises:
    ValueError: an unknown way of cutting, or nothing found.
  """
  if isinstance(by, str):
    patterns = {"words": _WORD, "sentences": _SENTENCE}
    if by not in patterns:
      raise ValueError(
        f"by={by!r}: choose words, sentences or tokens, or give a compiled "
        "regular expression (re.compile) or spans of characters."
      )
    by = patterns[by]
  if not isinstance(by, re.Pattern):
    return list(by)
  matches = [match.span() for match in by.finditer(text)]
  # A pattern such as "x*" matches nothing everywhere as well.
  spans = [(start, end) for start, end in matches if end > start]
  if not spans:
    if not text.strip():
      raise ValueError(f"The text is empty: {text!r}.")
    raise ValueError(f"{by.pattern!r} matches nothing in {text!r}.")
  return spans


def _check_span(player: str | int, span: Span, text: str) -> Span:
  if len(span) != 2:
    raise ValueError(
      f"A span is (start, end), in characters; player {player!r} has {span!r}."
    )
  start, end = (base.check_integer(x, "An end of a span") for x in span)
  if not 0 <= start < end <= len(text):
    raise ValueError(
      f"Player {player!r} has the span {(start, end)}, which is empty or "
      f"outside the text of {len(text)} characters."
    )
  return start, end


def _owner(
  text: str,
  encoding: tokens.Encoding,
  names: tuple[str, ...],
  spans: Sequence[Sequence[Span]],
) -> np.ndarray:
  """The player of each token: int32 `[P]`, n for nobody."""
  n = len(names)
  of_character = np.full(len(text), n)
  for player, its_spans in enumerate(spans):
    for start, end in its_spans:
      taken = of_character[start:end]
      if (taken < n).any():
        other = names[taken[taken < n][0]]
        raise ValueError(
          f"The spans of {other!r} and {names[player]!r} overlap in "
          f"{text[start:end]!r}."
        )
      of_character[start:end] = player
  visible = np.array([not character.isspace() for character in text], bool)
  owner = np.full(len(encoding.ids), n, np.int32)
  behind = (n, -1)  # Owner and first character of the token behind this one.
  for position in range(len(owner) - 1, -1, -1):
    if encoding.special[position]:
      behind = (n, -1)
      continue
    start, end = (int(x) for x in encoding.offsets[position])
    players = of_character[start:end]
    seen = players[visible[start:end]]
    # Space alone may be a player's too, where spans say so.
    for candidates in (seen, players):
      candidates = candidates[candidates < n]
      if len(candidates) and owner[position] == n:
        owner[position] = np.bincount(candidates).argmax()
    if owner[position] == n and not len(seen) and behind[1] in (start, end):
      owner[position] = behind[0]
    behind = (int(owner[position]), start)
  return owner


def _by_tokens(
  text: str,
  encoding: tokens.Encoding,
  tokenizer: tokens.Tokenizer,
  within: Span | None,
) -> Prompt:
  """Every token inside that the tokenizer did not add is a player."""
  plain = ~encoding.special
  if within is not None:
    starts, ends = encoding.offsets.T
    plain &= (ends > within[0]) & (starts < within[1])
  spans = [(int(a), int(b)) for a, b in encoding.offsets[plain]]
  owner = np.full(len(plain), len(spans), np.int32)
  owner[plain] = np.arange(len(spans))
  # A token of space may be placed at the character behind it: it has its own
  # name, not that of what it does not write.
  own = [tokenizer.token(int(token)) for token in encoding.ids[plain]]
  names = distinct(
    name if name in _SPACES and text[a:b].strip() else text[a:b]
    for name, (a, b) in zip(own, spans)
  )
  players = features.Players(names, owner)
  return Prompt(text, encoding, players, tuple((span,) for span in spans))


def distinct(pieces: Iterable[str]) -> tuple[str, ...]:
  """Names in one line each, numbered from their second occurrence on."""
  names: list[str] = []
  taken: set[str] = set()
  for piece in pieces:
    plain = " ".join(piece.split())
    name, count = plain, 1
    while name in taken:
      count += 1
      name = f"{plain} ({count})"
    taken.add(name)
    names.append(name)
  return tuple(names)
