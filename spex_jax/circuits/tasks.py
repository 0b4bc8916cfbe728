"""Tasks for language models: templates that make pairs of prompts.

Clean and corrupted prompt differ in what decides the answer, and in nothing
else. Any tokenizer will do: pairs of unequal length and answers of several
tokens are rejected, and counted by reason.

  ioi          "When Ann and Tom went to the zoo, Tom gave a coin to" -> " Ann"
               (both orders of the names; corrupted: a third name gives)
  greater-than "The strike lasted from the year 1739 to the year 17" -> 4..9
               (two digits where the tokenizer has them; corrupted: 1701)
  agreement    "The dogs behind the fence" -> " are", " were", " have"
  gender       "The queen was tired because" -> " she"
  capital      "The capital of France is called" -> " Paris"
  antonym      one shot; "The opposite of big is" -> " small"
  docstring    the third argument of a Python function, in its docstring
  retrieval    "Ann put the coin in the box. ... looked in the" -> " box"
  induction    words in a random order, and again: which one is next

A template's parts in braces are spans of the pairs (`ablate.spans`), and so is
the last token, "end".
"""

import collections
import dataclasses
import string
import types
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import NamedTuple

import jax
import numpy as np

from spex_jax import base
from spex_jax.circuits import pairs as pairs_lib
from spex_jax.models import tokens

_TRIES = 30  # Prompts drawn for each pair that is asked for, at most.


def _words(text: str) -> tuple[str, ...]:
  return tuple(text.split())


_NAMES = _words(
  "Ann Tom Mary John Alice Bob James Emma Paul Anna Peter Lucy Mark Sarah "
  "David Kate George Laura Simon Helen"
)
_PLACES = _words("zoo park school garden market office station museum beach")
_GIFTS = _words("coin book drink ball letter flower ring key phone hat")
_NOUNS = (
  ("dog", "dogs"), ("boy", "boys"), ("girl", "girls"), ("car", "cars"),
  ("tree", "trees"), ("king", "kings"), ("teacher", "teachers"),
  ("friend", "friends"), ("horse", "horses"), ("picture", "pictures"),
  ("bird", "birds"), ("house", "houses"),
)  # fmt: skip
_NEAR = _words("fence river wall road hill table window bridge")
_PEOPLE = (
  ("king", "queen"), ("boy", "girl"), ("man", "woman"), ("father", "mother"),
  ("brother", "sister"), ("uncle", "aunt"), ("husband", "wife"),
  ("son", "daughter"), ("grandfather", "grandmother"), ("prince", "princess"),
)  # fmt: skip
_CAPITALS = (
  ("France", "Paris"), ("Italy", "Rome"), ("Germany", "Berlin"),
  ("Spain", "Madrid"), ("Japan", "Tokyo"), ("China", "Beijing"),
  ("Russia", "Moscow"), ("Egypt", "Cairo"), ("Greece", "Athens"),
  ("England", "London"), ("Austria", "Vienna"), ("Ireland", "Dublin"),
  ("Poland", "Warsaw"), ("Portugal", "Lisbon"), ("Norway", "Oslo"),
  ("Turkey", "Ankara"), ("Hungary", "Budapest"), ("Cuba", "Havana"),
)  # fmt: skip
_OPPOSITES = (
  ("hot", "cold"), ("big", "small"), ("up", "down"), ("black", "white"),
  ("old", "young"), ("rich", "poor"), ("day", "night"), ("open", "closed"),
  ("happy", "sad"), ("fast", "slow"), ("hard", "soft"), ("early", "late"),
  ("high", "low"), ("strong", "weak"),
)  # fmt: skip
_ARGUMENTS = _words(
  "file name size path text key date color index value model user data image"
)
_WORDS = _words(
  "river stone apple cloud tiger paper music winter bread glass silver "
  "doctor engine forest bridge candle market dragon button castle garden "
  "letter mirror ocean pepper rocket saddle temple"
)
_EVENTS = _words("strike war siege debate trial drought festival search")


class Row(NamedTuple):
  """One pair of prompts, as a template makes it.

  Attributes:
    template: of both, with parts in braces.
    clean: those parts of the clean prompt.
    corrupted: those that differ in the corrupted one.
    right: the right answers, each with its space.
    wrong: the wrong answers, each with its space.
  """

  template: str
  clean: Mapping[str, str]
  corrupted: Mapping[str, str]
  right: Sequence[str]
  wrong: Sequence[str]


# Draws one pair; the generator is advanced.
Maker = Callable[[np.random.Generator], Row]


@dataclasses.dataclass(frozen=True, eq=False)
class Made:
  """Pairs of a task.

  Attributes:
    task: the name of the task, of `TASKS`.
    pairs: as many as were asked for.
    rejected: reason to the number of prompts that were drawn and not taken.
  """

  task: str
  pairs: pairs_lib.Pairs
  rejected: Mapping[str, int]

  def __str__(self) -> str:
    reasons = [f"{count} {reason}" for reason, count in self.rejected.items()]
    return (
      f"{len(self.pairs)} pairs of {self.task}, rejected: "
      f"{', '.join(reasons) or 'none'}"
    )


def make(
  task: str,
  tokenizer: tokens.Tokenizer,
  num: int,
  key: base.Key,
  *,
  start: str = "",
  bos: str = "auto",
) -> Made:
  """Pairs of a task for a tokenizer; none of them twice.

  Args:
    task: the name of the task, one of `TASKS`.
    tokenizer: the tokenizer of the model.
    num: how many pairs are made.
    key: a random key, consumed.
    start: a text in front of every prompt, such as "<|endoftext|>".
    bos: as for `tokens.Tokenizer.encode`.

  Raises:
    ValueError: an unknown task, or fewer pairs than asked for that fit the
      tokenizer, with the reasons.
  """
  if task not in TASKS:
    raise ValueError(f"No task {task!r}; they are {', '.join(TASKS)}.")
  num = base.check_integer(num, "The number of pairs")
  if num < 1:
    raise ValueError(f"The number of pairs must be at least 1; got {num}.")
  words = np.asarray(jax.random.key_data(key)).ravel()
  rng = np.random.default_rng(words)
  rows: list[dict] = []
  seen: set[tuple[str, str]] = set()
  rejected: collections.Counter[str] = collections.Counter()
  for row in _drawn(TASKS[task], rng, _TRIES * num):
    clean, where = _filled(start + row.template, row.clean)
    other, _ = _filled(start + row.template, {**row.clean, **row.corrupted})
    if (clean, other) in seen:
      rejected["drawn twice"] += 1
      continue
    seen.add((clean, other))
    try:
      rows.append(_encoded(row, clean, other, where, tokenizer, bos))
    except _Unfit as reason:
      rejected[str(reason)] += 1
    if len(rows) == num:
      return Made(task, pairs_lib.from_ids(rows), dict(rejected))
  raise ValueError(
    f"{task} gave {len(rows)} of {num} pairs for this tokenizer; rejected: "
    f"{', '.join(f'{count} {reason}' for reason, count in rejected.items())}."
  )


class _Unfit(Exception):
  """Why a pair does not fit a tokenizer."""


def _drawn(
  makers: Sequence[Maker], rng: np.random.Generator, most: int
) -> Iterator[Row]:
  for _ in range(most):
    yield makers[int(rng.integers(len(makers)))](rng)


def _encoded(row, clean, other, where, tokenizer, bos) -> dict:
  """The pair as `pairs.from_ids` takes it."""
  ids = [pairs_lib.encoded(text, tokenizer, bos) for text in (clean, other)]
  if len(ids[0]) != len(ids[1]):
    raise _Unfit("of unequal length")
  if (ids[0] == ids[1]).all():
    raise _Unfit("with equal prompts")
  answers = []
  for given in (row.right, row.wrong):
    try:
      answers.append(
        [pairs_lib.answer(text, tokenizer, clean) for text in given]
      )
    except ValueError:
      raise _Unfit("with an answer that is not one token") from None
  if {*answers[0]} & {*answers[1]}:
    raise _Unfit("with an answer both right and wrong")
  return {
    "clean_ids": ids[0].tolist(),
    "corrupted_ids": ids[1].tolist(),
    "right_ids": answers[0],
    "wrong_ids": answers[1],
    "texts": (clean, other),
    "spans": _spans(clean, where, tokenizer, bos, len(ids[0])),
  }


def _spans(clean, where, tokenizer, bos, length) -> dict[str, list[int]]:
  """Part of a template to its positions; the last token is "end"."""
  offsets = tokenizer.encode(clean, bos=bos).offsets[:length]
  found: dict[str, list[int]] = {}
  taken = {length - 1}
  for name, begin, end in where:
    inside = [
      position
      for position, (a, b) in enumerate(offsets.tolist())
      if a < end and b > begin and position not in taken
    ]
    taken |= {*inside}
    if inside:
      found.setdefault(name, []).extend(inside)
  return found | {"end": [length - 1]}


def _filled(
  template: str, parts: Mapping[str, str]
) -> tuple[str, list[tuple[str, int, int]]]:
  """The text, and each part's name with its characters, begin and end."""
  text, where = "", []
  for fixed, name, _, _ in string.Formatter().parse(template):
    text += fixed
    if name is not None:
      where.append((name, len(text), len(text) + len(parts[name])))
      text += parts[name]
  return text, where


def _some(rng, among: Sequence, num: int) -> list:
  """That many different ones."""
  return [among[i] for i in rng.permutation(len(among))[:num]]


def _one(rng, among: Sequence):
  return among[rng.integers(len(among))]


def _ioi(rng) -> Row:
  a, b, c = _some(rng, _NAMES, 3)
  first, second = _some(rng, (a, b), 2)  # ABBA and BABA.
  template = _one(
    rng,
    (
      "When {first} and {second} went to the {place}, {giver} gave a {thing} "
      "to",
      "Yesterday {first} and {second} met at the {place}, and {giver} handed "
      "a {thing} to",
      "After {first} and {second} came back from the {place}, {giver} showed "
      "a {thing} to",
    ),
  )
  parts = {
    "first": first,
    "second": second,
    "giver": b,
    "place": _one(rng, _PLACES),
    "thing": _one(rng, _GIFTS),
  }
  return Row(template, parts, {"giver": c}, [f" {a}"], [f" {b}"])


def _year(rng) -> tuple[str, dict[str, str]]:
  parts = {"event": _one(rng, _EVENTS), "century": str(rng.integers(12, 19))}
  template = (
    "The {event} lasted from the year {century}{year} to the year {century}"
  )
  return template, parts


def _greater_digit(rng) -> Row:
  """Of a tokenizer with single digits; 9 stands last, so that tens decide."""
  template, parts = _year(rng)
  tens = int(rng.integers(2, 8))
  return Row(
    template,
    {**parts, "year": f"{tens}9"},
    {"year": "09"},
    [str(i) for i in range(tens + 1, 10)],
    [str(i) for i in range(tens + 1)],
  )


def _greater_pair(rng) -> Row:
  """Of a tokenizer with two digits in one token."""
  template, parts = _year(rng)
  year = int(rng.integers(12, 90))
  return Row(
    template,
    {**parts, "year": str(year)},
    {"year": "01"},
    [f"{i:02d}" for i in range(year + 1, 100)],
    [f"{i:02d}" for i in range(2, year + 1)],
  )


def _agreement(rng) -> Row:
  forms = _one(rng, _NOUNS)
  template = _one(
    rng,
    (
      "The {noun} behind the {near}",
      "I know that the {noun} near the {near}",
      "Everyone could see that the {noun} beside the {near}",
    ),
  )
  many = int(rng.integers(2))
  verbs = [" is", " was", " has"], [" are", " were", " have"]
  parts = {"noun": forms[many], "near": _one(rng, _NEAR)}
  change = {"noun": forms[1 - many]}
  return Row(template, parts, change, verbs[many], verbs[1 - many])


def _gender(rng) -> Row:
  forms = _one(rng, _PEOPLE)
  template = _one(
    rng,
    (
      "The {person} was tired because",
      "My {person} laughed when",
      "The {person} left early, so",
      "The young {person} sat down after",
    ),
  )
  own = int(rng.integers(2))
  said = " he", " she"
  parts, change = {"person": forms[own]}, {"person": forms[1 - own]}
  return Row(template, parts, change, [said[own]], [said[1 - own]])


def _capital(rng) -> Row:
  (a, right), (b, wrong) = _some(rng, _CAPITALS, 2)
  template = _one(
    rng,
    (
      "The capital of {country} is called",
      "The capital city of {country} is",
      "As everyone knows, the capital of {country} is",
    ),
  )
  return Row(template, {"country": a}, {"country": b}, [f" {right}"],
             [f" {wrong}"])  # fmt: skip


def _antonym(rng) -> Row:
  (a, right), (b, wrong), (shown, other) = _some(rng, _OPPOSITES, 3)
  template = "The opposite of {shown} is {answer}. The opposite of {word} is"
  parts = {"shown": shown, "answer": other, "word": a}
  return Row(template, parts, {"word": b}, [f" {right}"], [f" {wrong}"])


def _docstring(rng) -> Row:
  a, b, c, d, other = _some(rng, _ARGUMENTS, 5)
  template = (
    "def run(self, {first}, {second}, {third}, {fourth}):\n"
    '    """Runs it.\n\n'
    "    :param {first}: the first\n"
    "    :param {second}: the second\n"
    "    :param"
  )
  parts = {"first": a, "second": b, "third": c, "fourth": d}
  return Row(template, parts, {"third": other}, [f" {c}"], [f" {other}"])


def _retrieval(rng) -> Row:
  name = _one(rng, _NAMES)
  thing, new = _some(rng, _GIFTS, 2)
  places = _words("drawer kitchen garden box car office bag bedroom")
  a, b = _some(rng, places, 2)
  template = (
    "{name} put the {thing} in the {place}. The {other} is old. In the "
    "evening {name} needed the {thing}, so {name} looked for it in the"
  )
  parts = {"name": name, "thing": thing, "place": a, "other": new}
  return Row(template, parts, {"place": b}, [f" {a}"], [f" {b}"])


def _induction(rng) -> Row:
  length, again = int(rng.integers(6, 10)), int(rng.integers(2, 5))
  words = _some(rng, _WORDS, length + 1)
  words, other = words[:length], words[length]
  at = again  # The word behind the last one that is repeated.
  names = [f"w{i}" for i in range(length)]
  text = " ".join(f"{{{name}}}" for name in (*names, *names[:again]))
  parts = dict(zip(names, words))
  template = "The" + " " + text
  return Row(template, parts, {names[at]: other}, [f" {words[at]}"],
             [f" {other}"])  # fmt: skip


# Name to what draws its pairs: one of them for each.
TASKS: Mapping[str, tuple[Maker, ...]] = types.MappingProxyType(
  {
    "ioi": (_ioi,),
    "greater-than": (_greater_digit, _greater_pair),
    "agreement": (_agreement,),
    "gender": (_gender,),
    "capital": (_capital,),
    "antonym": (_antonym,),
    "docstring": (_docstring,),
    "retrieval": (_retrieval,),
    "induction": (_induction,),
  }
)
