"""Pairs of prompts that differ in what is asked about: clean and corrupted.

Both of a pair have one length in tokens, so that positions correspond. Pairs of
different lengths make one batch, padded on the right: causal models do not see
padding there, and what they say next is read at the last token of each.

`pair_files` reads and writes them.

Shapes: N pairs, P positions, A right and C wrong answers.
"""

import contextlib
import dataclasses
import operator
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from spex_jax import base
from spex_jax.ablate import spans as spans_lib
from spex_jax.models import tokens

TEXTS = ("clean", "corrupted", "right", "wrong")
IDS = tuple(f"{name}_ids" for name in TEXTS)
_SHOWN = 60  # Characters of a text that an error quotes.


@dataclasses.dataclass(frozen=True, eq=False)
class Pairs:
  """N pairs of prompts, with the answers that tell them apart.

  Attributes:
    clean: int32 `[N, P]`, padded on the right with 0.
    corrupted: int32 `[N, P]`, of the same lengths.
    lengths: int32 `[N]`, tokens of each; answers are read at `lengths - 1`.
    right: int32 `[N, A]`, ids of right answers to the clean prompt, padded
      with -1.
    wrong: int32 `[N, C]`, of wrong ones, padded with -1; C may be 0.
    texts: clean and corrupted, where they are known.
    spans: named positions of every pair, or None.
  """

  clean: np.ndarray
  corrupted: np.ndarray
  lengths: np.ndarray
  right: np.ndarray
  wrong: np.ndarray
  texts: tuple[tuple[str, str], ...] | None = None
  spans: spans_lib.Spans | None = None

  def __post_init__(self):
    for name in ("clean", "corrupted", "lengths", "right", "wrong"):
      array = np.array(getattr(self, name), np.int32)
      array.flags.writeable = False
      object.__setattr__(self, name, array)
    count = len(self.lengths)
    rows = [self.clean, self.corrupted, self.right, self.wrong]
    if not count:
      raise ValueError("There are no pairs: zero rows.")
    if self.clean.shape != self.corrupted.shape or any(
      row.ndim != 2 or len(row) != count for row in rows
    ):
      raise ValueError(
        "Pairs are [N, P], [N, P], [N], [N, A] and [N, C]; got "
        f"{[x.shape for x in (*rows[:2], self.lengths, *rows[2:])]}."
      )
    if not ((self.lengths >= 1) & (self.lengths <= self.clean.shape[1])).all():
      raise ValueError(
        f"Lengths must lie in 1..{self.clean.shape[1]}; got {self.lengths}."
      )
    for row, length in enumerate(self.lengths):
      pair = self.clean[row, :length], self.corrupted[row, :length]
      if (pair[0] == pair[1]).all():
        raise ValueError(
          f"{self._named(row)}: clean and corrupted prompt are equal, so "
          "nothing can be told apart."
        )
      if min(pair[0].min(), pair[1].min()) < 0:
        raise ValueError(f"{self._named(row)}: a token id is below 0.")
      if not (self.right[row] >= 0).any():
        raise ValueError(f"{self._named(row)} has no right answer.")
      both = np.intersect1d(self.right[row], self.wrong[row])
      if (both >= 0).any():
        raise ValueError(
          f"{self._named(row)}: token {both[both >= 0][0]} is a right and a "
          "wrong answer."
        )
    if self.spans is not None and len(self.spans.owner) not in (1, count):
      raise ValueError(
        f"Spans are of {len(self.spans.owner)} examples, there are {count}."
      )

  def __len__(self) -> int:
    return len(self.lengths)

  def __getitem__(self, rows: slice | Sequence[int] | np.ndarray) -> "Pairs":
    """Some of them, in that order; with as many positions as they need."""
    if not isinstance(rows, slice):
      rows = np.asarray(rows)
    at = np.arange(len(self))[rows].reshape(-1)
    length = int(self.lengths[at].max()) if len(at) else 1
    spans = self.spans
    if spans is not None:
      owner = spans.owner if len(spans.owner) == 1 else spans.owner[at]
      spans = spans_lib.Spans(spans.names, owner[:, :length])
    return Pairs(
      self.clean[at, :length],
      self.corrupted[at, :length],
      self.lengths[at],
      self.right[at],
      self.wrong[at],
      None if self.texts is None else tuple(self.texts[i] for i in at),
      spans,
    )

  @property
  def repeated(self) -> int:
    """How many of them stand there before, with the same answers."""
    rows = np.concatenate(
      [self.clean, self.corrupted, self.right, self.wrong], axis=1
    )
    return len(rows) - len(np.unique(rows, axis=0))

  def swapped(self) -> "Pairs":
    """Clean for corrupted; right and wrong answers are exchanged.

    Raises:
      ValueError: pairs without a wrong answer, which would be the right one.
    """
    return Pairs(
      self.corrupted,
      self.clean,
      self.lengths,
      self.wrong,
      self.right,
      None if self.texts is None else tuple((b, a) for a, b in self.texts),
      self.spans,
    )

  def padded(self, length: int) -> "Pairs":
    """The same with P = `length` positions.

    Raises:
      ValueError: too few for the longest.
    """
    more = length - self.clean.shape[1]
    if more < 0:
      kept = self[:]
      if kept.clean.shape[1] > length:
        raise ValueError(
          f"The longest prompt has {self.lengths.max()} tokens; got {length}."
        )
      return kept.padded(length)
    wide = ((0, 0), (0, more))
    spans = self.spans
    if spans is not None:
      none = len(spans.names)
      spans = spans_lib.Spans(
        spans.names, np.pad(spans.owner, wide, constant_values=none)
      )
    return dataclasses.replace(
      self,
      clean=np.pad(self.clean, wide),
      corrupted=np.pad(self.corrupted, wide),
      spans=spans,
    )

  def check(self, vocab_size: int, max_positions: int | None = None) -> None:
    """Refuses ids that a model lacks, and prompts that it cannot read.

    Args:
      vocab_size: how many tokens the model knows.
      max_positions: its longest input, or None.

    Raises:
      ValueError: naming the pair.
    """
    for name in ("clean", "corrupted", "right", "wrong"):
      ids = getattr(self, name)
      if (over := ids >= vocab_size).any():
        row, column = np.argwhere(over)[0]
        what = "answer" if name in ("right", "wrong") else "prompt"
        raise ValueError(
          f"{self._named(row)}: token {ids[row, column]} of its {name} {what} "
          f"lies outside the model's vocabulary of {vocab_size}."
        )
    longest = int(self.lengths.argmax())
    if max_positions is not None and self.lengths[longest] > max_positions:
      raise ValueError(
        f"{self._named(longest)} has {self.lengths[longest]} tokens; the model "
        f"takes {max_positions}."
      )

  def _named(self, row: int) -> str:
    if self.texts is None:
      return f"Pair {row}"
    return f"Pair {row} ({_quoted(self.texts[row][0])})"


def from_ids(rows: Iterable[Mapping[str, Any]]) -> Pairs:
  """Pairs from token ids.

  Args:
    rows: mappings with `clean_ids`, `corrupted_ids`, `right_ids` and perhaps
      `wrong_ids`, `texts` (clean and corrupted), `spans` (name to positions).

  Raises:
    ValueError: zero rows, a pair of unequal lengths or of equal prompts, one
      without a right answer, a name that is missing; the row is named.
    TypeError: an id that is no integer.
  """
  rows = list(rows)
  if not rows:
    raise ValueError("There are no pairs: zero rows.")
  sides: dict[str, list[list[int]]] = {name: [] for name in IDS}
  texts = []
  for number, row in enumerate(rows):
    for name, found in sides.items():
      if name not in row and name != "wrong_ids":
        raise ValueError(f"Pair {number} has no {name!r}; it has {list(row)}.")
      ids = row.get(name)
      if name == "wrong_ids" and ids in (None, ""):
        ids = []
        _refuse_lost(row, number)
      if name in IDS[2:] and isinstance(ids, int):
        ids = [ids]
      ids = _integers(ids, f"pair {number}: {name}")
      # Answers are sets: one that is given twice counts once.
      found.append([*dict.fromkeys(ids)] if name in IDS[2:] else ids)
    a, b = len(sides["clean_ids"][-1]), len(sides["corrupted_ids"][-1])
    texts.append(_texts(row.get("texts") or (), number))
    if a != b:
      said = f" ({_quoted(texts[-1][0])})" if texts[-1] else ""
      raise ValueError(
        f"Pair {number}{said}: the clean prompt has {a} tokens, the corrupted "
        f"one {b}; they must be equally long, so that positions correspond."
      )
    if not a:
      raise ValueError(f"Pair {number} is of empty prompts.")
    spans = row.get("spans") or {}
    if not isinstance(spans, Mapping) or not all(
      isinstance(at, list | tuple | np.ndarray) for at in spans.values()
    ):
      raise ValueError(
        f"Pair {number}: spans are names with positions; got {row['spans']!r}."
      )
  lengths = [len(ids) for ids in sides["clean_ids"]]
  schema = _schema([row.get("spans") or {} for row in rows], max(lengths))
  return Pairs(
    _block(sides["clean_ids"], 0),
    _block(sides["corrupted_ids"], 0),
    np.array(lengths),
    _block(sides["right_ids"], -1),
    _block(sides["wrong_ids"], -1),
    tuple((one, two) for one, two in texts) if all(texts) else None,
    schema,
  )


def from_texts(
  rows: Iterable[Mapping[str, Any]],
  tokenizer: tokens.Tokenizer,
  bos: str = "auto",
  start: str = "",
) -> Pairs:
  """Pairs from texts.

  Args:
    rows: mappings with `clean`, `corrupted`, `right`, perhaps `wrong` (each a
      text or several), and perhaps `spans` (name to positions). Answers have
      the space in front that they are said with; `right_ids` and `wrong_ids`
      stand in for them.
    tokenizer: the tokenizer of the model.
    bos: as for `tokens.Tokenizer.encode`.
    start: a text in front of every prompt, such as "<|endoftext|>".

  Raises:
    ValueError: as `from_ids`; an answer of several tokens, or one that the
      vocabulary lacks; the row is named.
  """
  found = []
  for number, row in enumerate(rows):
    given = {*row} | {"right"} if "right_ids" in row else {*row}
    if missing := [name for name in TEXTS[:3] if name not in given]:
      raise ValueError(f"Pair {number} has no {missing[0]!r}: {list(row)}.")
    for name in TEXTS[:2]:
      text = row[name]
      if not isinstance(text, str) or not text:
        raise ValueError(
          f"Pair {number}: {name!r} must be a text; got {text!r}."
        )
      if any("\ud800" <= c <= "\udfff" for c in text):
        raise ValueError(
          f"Pair {number}: {name!r} has half of a surrogate pair, which is no "
          f"character: {text!a}."
        )
    prompts = {name: start + row[name] for name in TEXTS[:2]}
    one = {
      f"{name}_ids": encoded(text, tokenizer, bos).tolist()
      for name, text in prompts.items()
    }
    if not row.get("wrong") and not row.get("wrong_ids"):
      _refuse_lost(row, number)
    for name in TEXTS[2:]:
      who = f"Pair {number}: {name} answer"
      if (ids := row.get(f"{name}_ids")) is None:
        ids = [
          _answer(text, tokenizer, prompts["clean"], who)
          for text in _several(row.get(name))
        ]
      one[f"{name}_ids"] = ids
    one["texts"] = tuple(prompts.values())
    one["spans"] = row.get("spans")
    found.append(one)
  return from_ids(found)


def _refuse_lost(row: Mapping[str, Any], number: int) -> None:
  """Wrong answers under another name would change the metric, unsaid."""
  for name, value in row.items():
    if name != "wrong_ids" and name.lower().startswith("wrong") and value:
      raise ValueError(
        f"Pair {number} has {name!r}; wrong answers are 'wrong' beside texts, "
        "'wrong_ids' beside ids."
      )


def encoded(text: str, tokenizer: tokens.Tokenizer, bos: str) -> np.ndarray:
  """The ids of a prompt, without what a tokenizer puts behind it."""
  found = tokenizer.encode(text, bos=bos)
  ids, special = found.ids, found.special
  while len(ids) > 1 and special[-1]:
    ids, special = ids[:-1], special[:-1]
  return ids


def answer(text: str, tokenizer: tokens.Tokenizer, after: str) -> int:
  """The id of the one token that continues a prompt.

  Args:
    text: with the space in front that it is said with.
    tokenizer: the tokenizer of the model.
    after: the prompt that stands before it.

  Raises:
    ValueError: several tokens, none that the vocabulary knows, or one that
      joins the last one of the prompt.
  """
  before = tokenizer.encode(after, add_special=False, bos="no").ids
  whole = tokenizer.encode(after + text, add_special=False, bos="no").ids
  if whole[: len(before)].tolist() != before.tolist():
    raise ValueError(f"Answer {text!r} joins the end of the prompt.")
  return _one(whole[len(before) :].tolist(), tokenizer, f"Answer {text!r}")


def _several(given: Any) -> list[Any]:
  """Answers: none, one, or a list."""
  if given is None or given == "":
    return []
  return list(given) if isinstance(given, list | tuple) else [given]


def _answer(
  text: Any, tokenizer: tokens.Tokenizer, after: str, who: str
) -> int:
  """Behind the prompt, or by itself where tokens would join its end."""
  if isinstance(text, int) and not isinstance(text, bool):
    return text  # A token's id, as in EAP-IG's tables.
  if not isinstance(text, str) or not text:
    raise ValueError(f"{who} must be a text; got {text!r}.")
  with contextlib.suppress(ValueError):
    return answer(text, tokenizer, after)
  ids = tokenizer.encode(text, add_special=False, bos="no").ids.tolist()
  return _one(ids, tokenizer, f"{who} {text!r}")


def _one(ids: Sequence[int], tokenizer: tokens.Tokenizer, who: str) -> int:
  if tokenizer.special.get("unk") in ids:
    raise ValueError(f"{who} is not known to the tokenizer.")
  if len(ids) != 1:
    pieces = [tokenizer.token(token) for token in ids]
    raise ValueError(f"{who} is {len(ids)} tokens, {pieces}; it must be one.")
  return ids[0]


def _integers(given: Any, what: str) -> list[int]:
  try:
    if isinstance(given, str) or any(isinstance(one, bool) for one in given):
      raise TypeError
    found = [operator.index(one) for one in given]
  except TypeError:
    raise TypeError(
      f"{what.capitalize()} must be a list of integers; got {given!r}."
    ) from None
  if outside := [one for one in found if not 0 <= one < 1 << 31]:
    raise ValueError(f"{what.capitalize()}: {outside[0]} is no id of a token.")
  return found


def _texts(given: Any, number: int) -> tuple[str, ...]:
  """Clean and corrupted text, or ()."""
  both = isinstance(given, list | tuple) and len(given) in (0, 2)
  if not both or not all(isinstance(one, str) for one in given):
    raise ValueError(
      f"Pair {number}: texts are the clean and the corrupted one; got "
      f"{given!r}."
    )
  return tuple(given)


def _block(rows: Sequence[Sequence[int]], fill: int) -> np.ndarray:
  """Rows of different lengths as one array."""
  block = np.full((len(rows), max(map(len, rows))), fill, np.int32)
  for row, ids in zip(block, rows):
    row[: len(ids)] = ids
  return block


def _schema(
  rows: Sequence[Mapping[str, Any]], num_positions: int
) -> spans_lib.Spans | None:
  names = list(dict.fromkeys(name for row in rows for name in row))
  if not names:
    return None
  return spans_lib.named(
    {name: [row.get(name, []) for row in rows] for name in names}, num_positions
  )


def _quoted(text: str) -> str:
  short = text if len(text) <= _SHOWN else text[: _SHOWN - 3] + "..."
  return base.printable(repr(short))
