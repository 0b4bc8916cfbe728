"""Texts and words: all hypotheses at once, and the query that splits them best.

A hypothesis is what a function would answer to every input of a pool. The next
input is the one whose answers have the most entropy among hypotheses that are
left; hypotheses that no input tells apart are one (observational equivalence),
and the shortest speaks for them. A few inputs at the end ask whether what is
left is right, as the function may be none of them.

These interpreters know the primitives and the tables that functions are made
of: what they show is how few queries are enough, not that a stranger's
vocabulary could be learnt.
"""

import functools
import itertools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

from spex_jax.agents.find import (
  functions,
  interpretations,
  knowledge,
  primitives,
  strings,
  word_tables,
)

_POOL = 150
_CHECKS = 5
_TRIED = 64


class Space(NamedTuple):
  """Hypotheses and what they answer.

  Attributes:
    inputs: the X texts or words that may be asked.
    answers: int `[H, X]`, which of `values` each answers to each.
    values: a value to its number, an entry of `answers`.
    names: the H hypotheses, the shortest first.
  """

  inputs: Sequence[str]
  answers: np.ndarray
  values: dict[Any, int]
  names: Sequence[Any]


def space(
  inputs: Sequence[str], names: Sequence[Any], rows: Sequence[Sequence[Any]]
) -> Space:
  """A space of hypotheses, of those that no input tells apart the first."""
  values: dict[Any, int] = {}
  kept: dict[tuple[int, ...], Any] = {}
  for name, row in zip(names, rows):
    numbers = tuple(values.setdefault(value, len(values)) for value in row)
    kept.setdefault(numbers, name)
  return Space(inputs, np.array([*kept], np.int32), values, [*kept.values()])


def narrowed(
  query: functions.Query, own: Space, budget: int
) -> tuple[list[Any], dict[str, Any]]:
  """Hypotheses that are left, and what was asked."""
  alive = np.arange(len(own.names))
  asked: dict[str, Any] = {}
  open_inputs = np.ones(len(own.inputs), bool)
  rng = functions.rng(0, "splitting")
  while len(alive) > 1 and min(query.left, budget - len(asked)) > _CHECKS:
    left = own.answers[alive]
    some = np.flatnonzero(open_inputs & (left != left[0]).any(axis=0))
    if not len(some):
      break
    # Some of them are enough to find a good one among.
    scores = _entropy(left, rng.permutation(some)[:_TRIED])
    best = int(scores.argmax())
    alive = alive[_agrees(query, own, best, alive, asked)]
    open_inputs[best] = False
  spare = rng.permutation(np.flatnonzero(open_inputs))
  for index in spare[: min(_CHECKS, query.left, budget - len(asked))]:
    alive = alive[_agrees(query, own, int(index), alive, asked)]
  return [own.names[int(index)] for index in alive], asked


def _agrees(query, own, index, alive, asked) -> np.ndarray:
  value = query([own.inputs[index]])[0]
  value = value.item() if hasattr(value, "item") else value
  asked[own.inputs[index]] = value
  return own.answers[alive, index] == own.values.get(value, -1)


def _entropy(table: np.ndarray, among: np.ndarray) -> np.ndarray:
  """Of the values of each of some columns, in nats; -1 for all others."""
  out = np.full(table.shape[1], -1.0)
  for i in among:
    _, sizes = np.unique(table[:, i], return_counts=True)
    shares = sizes / len(table)
    out[i] = -(shares * np.log(shares)).sum()
  return out


@functools.cache
def _compositions() -> Space:
  """Primitives, and all of two: what they make of a pool of texts."""
  draw = functions.rng(0, "pool")
  pool = strings.texts(draw, _POOL)
  pool += ["", "a", "B", "7", "level", "two words", "A1b2C3", "aeiou", "xyz"]
  names: list[tuple[str, ...]] = [(one,) for one in primitives.PRIMITIVES]
  inner = [[primitives.apply(name, text) for text in pool] for name in names]
  rows = list(inner)
  for outer in primitives.PRIMITIVES:
    own = functools.cache(primitives.PRIMITIVES[outer][1])
    for name, row in zip(names[: len(inner)], inner):
      names.append((outer, *name))
      rows.append([own(text) for text in row])
  return space(pool, names, rows)


def _answered(
  query: functions.Query, own: Space, budget: int,
  said: Callable[[Any], str], code: Callable[[Any], str], sign: str,
) -> interpretations.Answer:  # fmt: skip
  """The shortest hypothesis that is left; what was asked, where none is."""
  left, asked = narrowed(query, own, budget)
  if left:
    name = left[0]
    return interpretations.Answer(
      said(name), code(name), family=sign.join(name)
    )
  known = f"KNOWN = {asked!r}\n\ndef f(x):\n  return KNOWN.get(x, x)"
  return interpretations.Answer("none that is known", known)


def texts(query: functions.Query, budget: int) -> interpretations.Answer:
  """A function of texts: a primitive, or one of another."""
  return _answered(
    query, _compositions(), budget, primitives.said, primitives.code, "*"
  )


@functools.cache
def _concepts() -> Space:
  """One concept or two, over all words."""
  names: list[tuple[str, ...]] = [(one,) for one in word_tables.CONCEPTS]
  names += itertools.combinations(sorted(word_tables.CONCEPTS), 2)
  own = [knowledge.activations(name) for name in names]
  words = knowledge.words()
  rows = [[table.get(word, 0.0) for word in words] for table in own]
  return space(words, names, rows)


def concepts(query: functions.Query, budget: int) -> interpretations.Answer:
  """A function of words that lights up for one concept or for two."""
  code = lambda names: knowledge.code(knowledge.activations(names), 0.0)
  return _answered(query, _concepts(), budget, " or ".join, code, "+")


@functools.cache
def _rules() -> Space:
  names = sorted(knowledge.rules(), key=lambda rule: bool(rule[1]))
  words = knowledge.words()
  rows = [
    [knowledge.mapping(name).get(word, knowledge.UNDEFINED) for word in words]
    for name in names
  ]
  return space(words, names, rows)


def relations(query: functions.Query, budget: int) -> interpretations.Answer:
  """A relation between words, with a domain where it is another, perhaps."""
  code = lambda r: knowledge.code(knowledge.mapping(r), knowledge.UNDEFINED)
  return _answered(query, _rules(), budget, knowledge.said, code, "|")
