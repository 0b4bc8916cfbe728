"""How context and question stand together: templates, tokens, and where.

A template has the places `{context}` and `{current}`; a chat template of a
tokenizer is rendered with these in its messages, by jinja2's sandbox, and then
is one like any other. The text is tokenized once. The context has the tokens
with most of their characters in it (`ablate.text`), and the run without it is
what is left of the tokens, never another text.

What goes with the context: tokens that are nothing but space directly behind
it; where nothing stands behind, those directly before it.

Shapes: N tokens of the prompt.
"""

import dataclasses
import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from spex_jax.ablate import text as text_lib
from spex_jax.models import tokens

DEFAULT = "{context} {current}"
MESSAGES = ({"role": "user", "content": "{context}\n\n{current}"},)

_PLACE = re.compile(r"\{(context|current)\}")
# In the place of a placeholder while jinja2 renders: no template trims these.
_STAND_INS = {"context": "\ue000", "current": "\ue001"}


@dataclasses.dataclass(frozen=True)
class Template:
  """Literal text with the places of context and current text in it.

  Attributes:
    pieces: literals and "{context}", "{current}", in order.
  """

  pieces: tuple[str, ...]

  @classmethod
  def of(cls, text: "str | Template") -> "Template":
    """Parses `{context}` and `{current}`; other braces are text."""
    if isinstance(text, Template):
      return text
    found = re.split(r"(\{(?:context|current)\})", text)
    return cls(tuple(piece for piece in found if piece))

  @classmethod
  def of_chat(
    cls,
    tokenizer: tokens.Tokenizer,
    messages: Sequence[Mapping[str, str]] = MESSAGES,
    **variables: Any,
  ) -> "Template":
    """The tokenizer's chat template around messages with places in them.

    Args:
      tokenizer: a tokenizer that has a `chat_template`.
      messages: of a `role` and a `content` each, which may hold the places.
      **variables: further ones of the template; `add_generation_prompt` is
        True by default.

    Raises:
      ImportError: no jinja2.
      ValueError: no chat template, one that raises, or one that drops a place.
    """
    marked = [
      {
        key: _PLACE.sub(lambda found: _STAND_INS[found[1]], value)
        for key, value in message.items()
      }
      for message in messages
    ]
    rendered = _rendered(tokenizer, marked, variables)
    pieces = re.split("([" + "".join(_STAND_INS.values()) + "])", rendered)
    names = {mark: f"{{{name}}}" for name, mark in _STAND_INS.items()}
    return cls(tuple(names.get(piece, piece) for piece in pieces if piece))

  def fill(
    self, context: str | None, current: str
  ) -> tuple[str, text_lib.Span | None]:
    """The text, and the characters where the context stands.

    Args:
      context: the context; None for a template without its place.
      current: the text of the other place, such as a question.

    Raises:
      ValueError: a place that is missing, there twice, or there without a
        context.
    """
    wanted = {"context": int(context is not None), "current": 1}
    for name, count in wanted.items():
      place = f"{{{name}}}"
      found = self.pieces.count(place)
      if found != count:
        raise ValueError(
          f"The template {''.join(self.pieces)!r} has the placeholder {place} "
          f"{found} times; it must have it {count} times."
        )
    text, span = "", None
    for piece in self.pieces:
      if piece == "{context}":
        assert context is not None
        span = (len(text), len(text) + len(context))
        text += context
      else:
        text += current if piece == "{current}" else piece
    return text, span


@dataclasses.dataclass(frozen=True)
class Encoded:
  """A prompt as tokens.

  Attributes:
    prompt: the text, and its tokens; the context is the one player.
    ids: int32 `[N]`, the ids of the prompt's tokens.
    context: half open, the tokens of the context; (0, 0) where there is none.
    stays: bool `[N]`, the tokens of the run without context.
    closed: whether the text is an encoder's, and nothing continues it.
  """

  prompt: text_lib.Prompt
  ids: np.ndarray
  context: tuple[int, int]
  stays: np.ndarray
  closed: bool

  def follow(
    self,
    tokenizer: tokens.Tokenizer,
    given: str | Sequence[int] | np.ndarray | None,
    what: str,
    before: np.ndarray | None = None,
  ) -> np.ndarray:
    """The tokens of a text behind the prompt, and behind `before`: int32.

    Args:
      tokenizer: the tokenizer that the prompt was encoded with.
      given: a text, ids, or None for none.
      what: what the text is called in messages.
      before: ids between the prompt and this text.

    Raises:
      ValueError: an empty text, tokens that would join those before, or a
        special token that the text spells.
    """
    if given is None:
      return np.zeros(0, np.int32)
    if not isinstance(given, str):
      return np.array([tokenizer.check_id(i) for i in given], np.int32)
    if not given:
      raise ValueError(f"The {what} is empty; it has no token.")
    refuse_special(tokenizer, what, given)
    before = np.zeros(0, np.int32) if before is None else before
    lead = tokenizer.decode(before) if len(before) else ""
    if not self.closed:
      whole, count = text_lib.continued(self.prompt, lead + given, tokenizer)
      found = whole.encoding.ids[-count:]
    else:
      found = tokenizer.encode(lead + given, add_special=False).ids
    if found[: len(before)].tolist() != before.tolist():
      raise ValueError(
        f"The tokens of the {what} {given!r} would join those before it. Begin "
        "it with a space, or give its token ids."
      )
    return found[len(before) :].astype(np.int32)


def encode(
  tokenizer: tokens.Tokenizer,
  template: str | Template,
  context: str | None,
  current: str,
  *,
  bos: str = "auto",
  closed: bool = False,
) -> Encoded:
  """A prompt with its context, or without.

  Args:
    tokenizer: the tokenizer of the model.
    template: how context and question stand together.
    context: None for a template of `{current}` alone.
    current: the text of the other place, such as a question.
    bos: whether a BOS token stands first, as for `tokens.Tokenizer.encode`.
    closed: whether it is an encoder's, which may end with a special token.

  Raises:
    TypeError: a text that is no string.
    ValueError: an empty context, one that covers no token, texts that spell
      special tokens, a template without its places, or one that a causal model
      cannot continue.
  """
  for what, text in (("context", context), ("current text", current)):
    if text is None:
      continue
    if not isinstance(text, str):
      raise TypeError(
        f"The {what} must be a string; got {type(text).__name__}."
      )
    if not text.strip() and what == "context":
      raise ValueError(f"The context is empty: {text!r}.")
    refuse_special(tokenizer, what, text)
  whole, span = Template.of(template).fill(context, current)
  by = {"context": [span or (0, len(whole))]}
  prompt = text_lib.prompt(whole, tokenizer, by, bos=bos)
  encoding = prompt.encoding
  if encoding.special[-1] and not closed:
    raise ValueError(
      f"The tokenizer closes a text with "
      f"{tokenizer.token(int(encoding.ids[-1]))!r}: nothing can continue it. "
      "A causal model's tokenizer must not add one."
    )
  stays = np.ones(len(encoding.ids), bool)
  if span is None:
    return Encoded(prompt, encoding.ids, (0, 0), stays, closed)
  blank = np.array([whole[a:b].isspace() for a, b in encoding.offsets])
  # Space before a player's first word is that player's; it is the template's.
  own = np.flatnonzero((prompt.players.owner == 0) & ~blank)
  if not len(own):
    raise ValueError(f"The context {context!r} covers no token of its own.")
  first, last = int(own[0]), int(own[-1]) + 1
  stays[first:last] = False
  end = last
  while end < len(blank) and blank[end]:
    end += 1
  stays[last:end] = False
  if (encoding.special[end:]).all():
    while first and blank[first - 1]:
      first -= 1
    stays[first:last] = False
  return Encoded(prompt, encoding.ids, (int(own[0]), last), stays, closed)


def refuse_special(tokenizer: tokens.Tokenizer, what: str, text: str) -> None:
  """Raises ValueError for a text that spells a special token.

  An unknown word becomes one that it does not spell, and may.
  """
  if not text:
    return
  unknown = tokenizer.special.get("unk")
  for token in tokenizer.encode(text, add_special=False).ids.tolist():
    spelt = tokenizer.token(token)
    if token in tokenizer.all_special and (token != unknown or spelt in text):
      raise ValueError(
        f"The {what} spells the special token {spelt!r}. Remove it, or give "
        "ids; templates may hold special tokens, and what stands before "
        "sources, texts may not."
      )


def _rendered(tokenizer, messages, variables) -> str:
  if tokenizer.chat_template is None:
    raise ValueError(
      "The tokenizer has no chat_template; give a template with {context} and "
      "{current}."
    )
  rendered = tokenizer.chat(messages, **variables)
  for name, mark in _STAND_INS.items():
    wanted = sum(v.count(mark) for m in messages for v in m.values())
    if rendered.count(mark) != wanted:
      raise ValueError(
        f"The chat template shows {{{name}}} {rendered.count(mark)} times, the "
        f"messages hold it {wanted} times. Put it in a role that is shown."
      )
  return rendered
