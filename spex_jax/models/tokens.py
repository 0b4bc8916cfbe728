"""Tokenizers, with the characters that every token stands for.

Reads the `tokenizer.json` of a Hugging Face directory through `tokenizers`;
what the special tokens are called is in `tokenizer_config.json`,
`special_tokens_map.json` and `config.json` beside it.

Shapes: P tokens of one text.
"""

import functools
import os
import pathlib
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from spex_jax import base
from spex_jax.models import reading

# Roles of special tokens, and their names in Hugging Face's files.
ROLES = ("bos", "eos", "unk", "sep", "pad", "cls", "mask")

# Whether a text begins with a `bos` token: as its tokenizer has it, or said.
BOS = ("auto", "yes", "no")

# A `model_max_length` beyond this means that nobody set one.
_NO_LIMIT = 10**9
# Their first positions are taken by the padding.
_OFFSET_POSITIONS = ("roberta", "xlm-roberta", "camembert", "mpnet")
_LONGEST = 4  # Tokens, one for each byte of a character.
# What other libraries read where there is no `tokenizer.json`.
_OTHER_FILES = (
  "vocab.txt",
  "vocab.json",
  "merges.txt",
  "spiece.model",
  "source.spm",
  "tokenizer.model",
  "sentencepiece.bpe.model",
)


class Encoding(NamedTuple):
  """One text as tokens.

  Attributes:
    ids: int32 `[P]`, the ids of the tokens.
    offsets: int32 `[P, 2]`, the characters `text[start:end]` of each token;
      empty for a token that stands for none. A space before a word may belong
      to its first token, or to none.
    special: bool `[P]`, tokens that the tokenizer added.
  """

  ids: np.ndarray
  offsets: np.ndarray
  special: np.ndarray


class Tokenizer:
  """A `tokenizers.Tokenizer` and what is known about its special tokens.

  Attributes:
    special: role (`mask`, `pad`, ...) to token id, those that there are.
    max_length: the most tokens that the model takes, or None where nothing
      says it.
    vocab_size: the number of tokens, added ones included.
    chat_template: how messages become a text, in jinja2's language, or None.
  """

  def __init__(
    self,
    backend: Any,
    special: Mapping[str, int],
    max_length: int | None = None,
    chat_template: str | None = None,
  ):
    # A saved padding or truncation is the habit of whoever saved it. Padding
    # would add tokens that nobody asked for, truncation lose some unsaid.
    backend.no_padding()
    backend.no_truncation()
    self._backend = backend
    self.special = dict(special)
    self.max_length = max_length
    self.chat_template = chat_template
    self.vocab_size = int(backend.get_vocab_size())

  @functools.cached_property
  def all_special(self) -> frozenset[int]:
    """Ids of roles, and of all that the vocabulary marks as special."""
    added = self._backend.get_added_tokens_decoder()
    marked = {token for token, entry in added.items() if entry.special}
    return frozenset(marked | set(self.special.values()))

  def encode(
    self, text: str, *, add_special: bool = True, bos: str = "auto"
  ) -> Encoding:
    """The tokens of a text.

    Args:
      text: a text that is not empty, of any length.
      add_special: with the tokens that the tokenizer puts around a text.
      bos: whether a `bos` token stands in front: "auto" where the tokenizer
        puts it there, "yes", "no". A text that begins with one, as a rendered
        chat template does, gets no second one.

    Raises:
      TypeError: no string.
      ValueError: an empty text, no `bos` token to add, or another `bos`.
    """
    if bos not in BOS:
      raise ValueError(f"bos={bos!r}: choose one of {', '.join(BOS)}.")
    if not isinstance(text, str):
      raise TypeError(f"A text must be a string; got {type(text).__name__}.")
    if not text:
      raise ValueError(f"The text is empty: {text!r}.")
    found = self._backend.encode(text, add_special_tokens=add_special)
    ids = list(found.ids)
    offsets = [tuple(pair) for pair in found.offsets]
    special = list(found.special_tokens_mask)
    first = self.special.get("bos")
    # Added by the tokenizer though the text has one, or though none is wanted.
    twice = bos != "no" and ids[1:2] == [first]
    if ids and ids[0] == first and special[0] and (twice or bos == "no"):
      ids, offsets, special = ids[1:], offsets[1:], special[1:]
    elif bos == "yes" and (not ids or ids[0] != self.id_of("bos")):
      ids, offsets = [self.id_of("bos"), *ids], [(0, 0), *offsets]
      special = [1, *special]
    if not ids:
      raise ValueError(f"The text has no tokens: {text!r}.")
    return Encoding(
      np.array(ids, np.int32),
      np.array(offsets, np.int32).reshape(len(ids), 2),
      np.array(special, bool),
    )

  def chat(
    self, messages: Sequence[Mapping[str, Any]], **variables: Any
  ) -> str:
    """Messages as one text, up to where the model is to go on.

    As Hugging Face's `apply_chat_template`, in jinja2's sandbox.

    Args:
      messages: each with a `role` and a `content`.
      **variables: further variables of the template, by name.

    Raises:
      ImportError: jinja2 is not installed.
      ValueError: there is no template, or it fails.
    """
    if self.chat_template is None:
      raise ValueError("The tokenizer has no chat_template.")
    try:
      import jinja2
      import jinja2.sandbox
    except ImportError:
      text = "Chat templates need jinja2 (pip install jinja2)."
      raise ImportError(text) from None

    def fail(message):
      raise jinja2.TemplateError(message)

    environment = jinja2.sandbox.ImmutableSandboxedEnvironment(
      trim_blocks=True,
      lstrip_blocks=True,
      extensions=["jinja2.ext.loopcontrols"],
    )
    given: dict[str, Any] = {
      "add_generation_prompt": True,
      "raise_exception": fail,
      **{f"{role}_token": self.token(t) for role, t in self.special.items()},
      **variables,
    }
    try:
      template = environment.from_string(self.chat_template)
      return template.render(messages=messages, **given)
    except jinja2.TemplateError as error:
      raise ValueError(f"The chat template fails: {error}") from error

  def decode(self, ids: Iterable[int], *, skip_special: bool = True) -> str:
    """The text of token ids; `<562>` for one without text.

    Raises:
      TypeError: an id that is no integer.
      ValueError: one below 0.
    """
    text, run = "", []
    for token in [*map(self.check_id, ids), None]:
      if token is not None and self._backend.id_to_token(token) is not None:
        run.append(token)
        continue
      text += self._backend.decode(run, skip_special_tokens=skip_special)
      text += "" if token is None else self.token(token)
      run = []
    return text

  def pieces(self, ids: Iterable[int]) -> tuple[str, ...]:
    """The text of each token where it stands; joined, they are that of all.

    Decoded behind the token before, so that spaces stay; a character of several
    tokens is the last one's, and the others have none.

    Raises:
      TypeError, ValueError: as `decode`.
    """
    ids = [self.check_id(token) for token in ids]
    found, before, given = [], 0, 0
    for stop in range(1, len(ids) + 1):
      lead = self.decode(ids[before:given], skip_special=False)
      text = self.decode(ids[before:stop], skip_special=False)
      open_ended = text.endswith("\N{REPLACEMENT CHARACTER}")
      if open_ended and stop < len(ids) and stop - given < _LONGEST:
        found.append("")
        continue
      found.append(text[len(lead) :])
      before, given = given, stop
    return tuple(found)

  def token(self, token_id: int) -> str:
    """The vocabulary's own spelling of a token.

    `<562>` for one without text: a model's table may have more rows than its
    tokenizer has tokens.

    Raises:
      TypeError: an id that is no integer.
      ValueError: one below 0.
    """
    found = self._backend.id_to_token(self.check_id(token_id))
    return f"<{token_id}>" if found is None else found

  def check_id(self, token_id: int) -> int:
    """`token_id` as an int, of the vocabulary or of a padded table.

    Raises:
      TypeError: no integer.
      ValueError: below 0.
    """
    token_id = base.check_integer(token_id, "A token id")
    if token_id < 0:
      raise ValueError(f"A token id must not be below 0; got {token_id}.")
    return token_id

  def check(self, token_id: int) -> int:
    """`token_id` as an int, of the vocabulary.

    Raises:
      TypeError: no integer.
      ValueError: outside the vocabulary.
    """
    token_id = self.check_id(token_id)
    if self._backend.id_to_token(token_id) is None:
      raise ValueError(
        f"Token {token_id} lies outside the vocabulary of {self.vocab_size}."
      )
    return token_id

  def id_of(self, role: str) -> int:
    """The id of the special token of a role.

    Raises:
      ValueError: there is none, with those that there are.
    """
    if role not in self.special:
      known = ", ".join(self.special) or "none at all"
      raise ValueError(f"This tokenizer has no {role} token; it has {known}.")
    return self.special[role]

  def find(self, text: str) -> int:
    """The id of the one token that `text` is.

    An entry of the vocabulary as it is spelt there, or a text that becomes
    one token: " mat" and "mat" may be two.

    Raises:
      ValueError: neither; the message names the tokens that it becomes.
    """
    exact = self._backend.token_to_id(text)
    if exact is not None:
      return exact
    ids = self._backend.encode(text, add_special_tokens=False).ids
    if len(ids) != 1 or ids[0] == self.special.get("unk"):
      pieces = [self._backend.id_to_token(token) for token in ids]
      raise ValueError(
        f"{text!r} is not one token of the vocabulary; it becomes {pieces}."
      )
    return ids[0]


def padded(
  texts: Sequence[base.Array], length: int | None = None
) -> dict[str, np.ndarray]:
  """Texts of different lengths as one batch; padding stands behind, unseen.

  Args:
    texts: ids `[P]` of each of B texts, at least one.
    length: the length of the batch; the longest text's by default.

  Returns:
    `input_ids` and `attention_mask`, int32 `[B, length]`.
  """
  ids = np.zeros((len(texts), length or max(map(len, texts))), np.int32)
  seen = np.zeros_like(ids)
  for row, text in enumerate(texts):
    ids[row, : len(text)], seen[row, : len(text)] = text, 1
  return {"input_ids": ids, "attention_mask": seen}


def load(directory: str | os.PathLike) -> Tokenizer | None:
  """The tokenizer of a checkpoint directory; None where there is no text.

  Raises:
    ImportError: a tokenizer, without the library for it.
    ValueError: a tokenizer in another form than `tokenizer.json`, or a damaged
      one.
  """
  directory = pathlib.Path(directory)
  path = directory / "tokenizer.json"
  if not path.exists():
    others = [name for name in _OTHER_FILES if (directory / name).exists()]
    if others:
      raise ValueError(
        f"{directory} holds {', '.join(others)} and no tokenizer.json, the "
        "only form that is read. Save it once with a fast tokenizer."
      )
    return None
  try:
    import tokenizers  # Compiled, and only needed for text.
  except ImportError:
    raise ImportError(
      f"{path} needs the library tokenizers (pip install tokenizers)."
    ) from None
  try:
    backend = tokenizers.Tokenizer.from_file(str(path))
  except Exception as error:  # `tokenizers` raises nothing narrower.
    raise ValueError(f"{path} is no tokenizer: {error}") from error
  read = lambda name: reading.json_object(directory / name, optional=True)
  model = read("config.json")
  named = read("special_tokens_map.json") | read("tokenizer_config.json")
  special = {}
  for role in ROLES:
    token = named.get(f"{role}_token")
    content = token.get("content") if isinstance(token, dict) else token
    found = None if content is None else backend.token_to_id(content)
    if found is None:
      found = model.get(f"{role}_token_id")
    if isinstance(found, list):  # Several ends of a text: the first is usual.
      found = found[0] if found else None
    if found is not None and 0 <= found < backend.get_vocab_size():
      special[role] = found
  chat = _chat_template(directory, named.get("chat_template"))
  return Tokenizer(backend, special, _max_length(model, named), chat)


def _chat_template(directory: pathlib.Path, named: Any) -> str | None:
  """A file of its own, or the tokenizer's settings; of several the default."""
  path = directory / "chat_template.jinja"
  if path.exists():
    return path.read_text(encoding="utf-8")
  if isinstance(named, list):
    named = {each.get("name"): each.get("template") for each in named}
    named = named.get("default")
  return named


def _max_length(
  model: Mapping[str, Any], named: Mapping[str, Any]
) -> int | None:
  """The most tokens that both the positions and the tokenizer's files allow."""
  limits = []
  positions = model.get("max_position_embeddings", model.get("n_positions"))
  if positions is not None:
    if model.get("model_type") in _OFFSET_POSITIONS:
      positions -= model.get("pad_token_id", 1) + 1
    limits.append(int(positions))
  stated = named.get("model_max_length")
  if stated is not None and stated < _NO_LIMIT:
    limits.append(int(stated))
  return min(limits, default=None)
