"""A model as the referee of descriptions: which of three do they allow?

The paper's test of texts and words. Of three pairs of an input and its output,
or of three words for a concept, one is the function's own; who reads the
description alone picks it. Chance is a third. Deviations: prompts are our own,
and a reply counts by the first digit in it, where the paper's counts by the
right digit anywhere.
"""

import re
from collections.abc import Callable

import numpy as np

from spex_jax.agents import llm
from spex_jax.agents.find import functions, primitives, word_tables

CATEGORIES = ("strings", "entities", "relations")
_TASK = """\
A function of {inputs} is described like this:
{description}

{question}
1. {choices[0]}
2. {choices[1]}
3. {choices[2]}
Answer with one digit, 1, 2 or 3, and nothing else."""
_PAIRS = "Which of these is what it makes of an input?"
_WORDS = "Which of these lights up most?"
TESTS = 10
_LONG = 4_000  # Letters of a description that are read.
Test = tuple[list[str], int]  # What is shown of each, and which is right.


def tests(function: functions.Function) -> list[Test]:
  """Ten tests of a function of `CATEGORIES`; the paper's own where it has any.

  What is wrong comes from other functions: of a text another's output, of words
  another relation's pair.
  """
  given, own = function.truth.get("triples"), function.tests
  if function.category == "entities":
    return list(zip(own, function.truth["correct"]))
  if given is not None:
    return [(list(map(_pair, *pairs)), right) for pairs, right in given]
  rng = functions.rng(0, function.name, "triples")
  other = _other_text if function.category == "strings" else _other_word
  found = []
  for x, y in zip(own, function.values(own)):
    choices = [_pair(x, y)]
    while len(choices) < 3:
      x, y = other(rng, x)
      if function.values([x])[0] != y:
        choices.append(_pair(x, y))
    order = rng.permutation(3)
    found.append(([choices[i] for i in order], int(np.argmin(order))))
  return found


def _pair(x: str, y: str) -> str:
  return f"{x!r} -> {y!r}"


def _other_text(rng: np.random.Generator, x: str) -> tuple[str, str]:
  names = map(str, rng.choice([*primitives.PRIMITIVES], 2))
  return x, primitives.apply(tuple(names), x)


def _other_word(rng: np.random.Generator, x: str) -> tuple[str, str]:
  del x
  own = word_tables.RELATIONS[str(rng.choice([*word_tables.RELATIONS]))]
  word = str(rng.choice([*own]))
  return word, own[word]


def referee(
  reader: Callable[[], llm.Chat],
) -> Callable[[functions.Function, str], float]:
  """Who judges a description of a function: the share of tests that are right.

  Args:
    reader: gives who reads one description, in `TESTS` requests; what it raises
      passes.
  """

  def judge(function: functions.Function, description: str) -> float:
    chat = reader()
    question = _WORDS if function.category == "entities" else _PAIRS
    hits = []
    for choices, right in tests(function):
      text = _TASK.format(
        inputs=function.about["inputs"], description=description[:_LONG],
        question=question, choices=choices,
      )  # fmt: skip
      reply = chat.chat([{"role": "user", "content": text}])
      digit = re.search(r"\d", reply.text)
      hits.append(digit is not None and digit[0] == str(right + 1))
    return float(np.mean(hits))

  return judge
