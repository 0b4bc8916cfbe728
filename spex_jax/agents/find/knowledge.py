"""Functions of words: concepts that light up, and relations with exceptions.

Of the paper's 200 entities 140 have one concept and 60 two, of its 75 relations
50 have a domain where they do something else. The oracle there is a language
model; here it is a table, so that nothing but a word's spelling decides.
"""

import functools
from collections.abc import Sequence
from typing import Any

import numpy as np

from spex_jax.agents.find import functions, word_tables

UNDEFINED = "undefined"
_WEAK = 0.2  # Of words near a concept: those of its kind.
NUM_TESTS = 10
ENTITIES = {
  "inputs": "a word or name",
  "outputs": "a number from 0 to 1: how far it lights up",
}
RELATIONS = {
  "inputs": "a word or name",
  "outputs": f"a word, or {UNDEFINED!r}",
  "notes": "It may do something else for some of its words.",
}
# Concepts that are near one another.
_NEAR = (
  ("fruit", "vegetable"), ("string instrument", "wind instrument"),
  ("ball sport", "water sport"), ("mammal", "bird", "insect"),
  ("metal", "gas"),
  tuple(x for x in word_tables.CONCEPTS if x.startswith("country in ")),
)  # fmt: skip


@functools.cache
def words() -> tuple[str, ...]:
  """All words of the tables, in order."""
  found = {word for group in word_tables.CONCEPTS.values() for word in group}
  found |= {word for own in word_tables.RELATIONS.values() for word in own}
  return tuple(sorted(found))


@functools.cache
def activations(concepts: tuple[str, ...]) -> dict[str, float]:
  """Word to how far it lights up: 1 in a concept, .2 near one; 0 left out."""
  near = dict.fromkeys(  # In order: a truth is the same in every process.
    other for group in _NEAR if set(group) & set(concepts) for other in group
  )
  found = {word: _WEAK for one in near for word in word_tables.CONCEPTS[one]}
  return found | {w: 1.0 for one in concepts for w in word_tables.CONCEPTS[one]}


Rule = tuple[str, str, str]  # A relation, a domain, what it does there.


@functools.cache
def rules() -> tuple[Rule, ...]:
  """All rules: a relation, its exceptional domain or "", and what it does.

  An exception is "undefined", or another relation that knows the same words.
  """
  found: list[Rule] = []
  for name, own in word_tables.RELATIONS.items():
    found.append((name, "", ""))
    for concept, group in word_tables.CONCEPTS.items():
      if not 2 < len(set(group) & set(own)) < len(own):
        continue
      found.append((name, concept, UNDEFINED))
      found += [
        (name, concept, other)
        for other, theirs in word_tables.RELATIONS.items()
        if other != name and set(group) & set(own) <= set(theirs)
      ]
  return tuple(found)


@functools.cache
def mapping(rule: Rule) -> dict[str, str]:
  """Word to what a rule makes of it; all others are undefined."""
  name, domain, instead = rule
  found = dict(word_tables.RELATIONS[name])
  for word in set(word_tables.CONCEPTS.get(domain, ())) & set(found):
    if instead == UNDEFINED:
      del found[word]
    else:
      found[word] = word_tables.RELATIONS[instead][word]
  return found


def said(rule: Rule) -> str:
  """A rule in words."""
  name, domain, instead = rule
  return f"the {name}" + (f"; of a {domain} it is {instead}" if domain else "")


def code(table: dict, default: object) -> str:
  """A program of its own, `f(word)`."""
  return (
    f"TABLE = {table!r}\n\ndef f(word):\n  return TABLE.get(word, {default!r})"
  )


def entities(seed: int, index: int) -> functions.Function:
  """The function of a number: how far a word is of one or two concepts."""
  name = f"entities-{index:05d}"
  rng = functions.rng(seed, name)
  count = 2 if rng.random() < 0.3 else 1
  concepts = tuple(
    sorted(map(str, rng.choice([*word_tables.CONCEPTS], count, replace=False)))
  )
  table = activations(concepts)

  def values(xs: Any) -> np.ndarray:
    return np.array([table.get(_word(x), 0.0) for x in xs])

  members = [word for word in words() if table.get(word) == 1.0]
  others = [word for word in words() if table.get(word) != 1.0]
  draw = functions.rng(seed, name, "tests")
  tests, correct = [], []
  for _ in range(NUM_TESTS):
    one = [str(draw.choice(members)), *map(str, draw.choice(others, 2))]
    order = draw.permutation(3)
    tests.append([one[i] for i in order])
    correct.append(int(order.argmin()))
  about = ENTITIES | {"category": "entities", "hints": _hints(seed, name)}
  truth = {
    "concepts": list(concepts), "correct": correct, "code": code(table, 0.0)
  }  # fmt: skip
  return functions.Function(
    name, "entities", about, truth, values, values, tests
  )


def relations(seed: int, index: int) -> functions.Function:
  """The function of a number: a relation, with or without an exception."""
  name = f"relations-{index:05d}"
  rng = functions.rng(seed, name)
  odd = rng.random() < 2 / 3
  choice = [rule for rule in rules() if bool(rule[1]) == odd]
  names = sorted({rule[0] for rule in choice})
  first = str(rng.choice(names))  # Or those with many exceptions come often.
  choice = [rule for rule in choice if rule[0] == first]
  rule = choice[int(rng.integers(len(choice)))]
  table = mapping(rule)

  def values(xs: Sequence[str]) -> list[str]:
    return [table.get(_word(x), UNDEFINED) for x in xs]

  draw = functions.rng(seed, name, "tests")
  known = sorted(word_tables.RELATIONS[rule[0]])
  tests = [str(word) for word in draw.choice(known, NUM_TESTS)]
  if rule[1]:  # Half of them where it is odd.
    inside = sorted(set(known) & set(word_tables.CONCEPTS[rule[1]]))
    half = NUM_TESTS // 2
    tests[:half] = [str(word) for word in draw.choice(inside, half)]
  about = RELATIONS | {"category": "relations", "hints": _hints(seed, name)}
  truth = {
    "rule": list(rule), "said": said(rule), "code": code(table, UNDEFINED)
  }  # fmt: skip
  return functions.Function(
    name, "relations", about, truth, values, values, tests
  )


def _word(x: str) -> str:
  if not isinstance(x, str) or len(x) > 100:
    raise ValueError("Inputs are words of at most 100 letters.")
  return x.strip()


def _hints(seed: int, name: str) -> list[str]:
  """Ten words to begin with; they say nothing of the function."""
  draw = functions.rng(seed, name, "hints")
  return [str(word) for word in draw.choice(words(), 10, replace=False)]
