"""Questions for small language models of stories, made from templates.

A question is a beginning and several continuations, the right one first.

  pronoun  he or she, after a boy's or a girl's name
  recall   which of four things a child of the story had
  word     the word that such a story is sure to go on with, among three of
           other sentences

For larger ones there are the tasks of `circuits.tasks`, whose answers are one
token: their clean prompts, read at the last token (`of_pairs`).
"""

import itertools
from typing import Any, NamedTuple

import jax
import numpy as np

from spex_jax.ablate import likelihoods, readouts, text
from spex_jax.circuits import metrics
from spex_jax.circuits import pairs as pairs_lib
from spex_jax.models import tokens

_GIRLS = ("Lily", "Sue", "Anna", "Mia", "Lucy", "Jane", "Amy", "Sara")
_BOYS = ("Tim", "Tom", "Ben", "Max", "Sam", "Jack", "Bob", "Joe")
_THINGS = ("ball", "hat", "book", "car", "cake", "doll", "box", "toy")
_PRONOUN = (
  "Once upon a time, there was a little {kind} named {name}. One day,",
  "{name} was a little {kind}. {name} was sad because",
  "There was a {kind} called {name}. {name} went to the park and",
)
_RECALL = (
  "{name} had a {thing}. {name} loved to play with the",
  "One day, {name} got a big {thing}. {name} was happy and liked the",
  'Mom gave {name} a red {thing}. {name} said, "Thank you, Mom! I love my',
)
_WORD = (
  ("Once upon a", " time"),
  ("{name} and mom went to the park to", " play"),
  ("{name} gave mom a big", " hug"),
  ("{name} was very happy and said, \"Thank", " you"),
  ("Mom said, \"Do not be sad, {name}. I will help", " you"),
  ("{name} went home and told mom what had", " happened"),
  ("{name} was tired and went to", " bed"),
  ("{name} and the dog became best", " friends"),
  ("From that day on, they lived happily ever", " after"),
  ("{name} looked up at the sky and saw a big", " bird"),
)  # fmt: skip


class Question(NamedTuple):
  """One of them.

  Attributes:
    prompt: the beginning.
    answers: continuations, the right one first.
  """

  prompt: str
  answers: tuple[str, ...]


def pronoun() -> list[Question]:
  """48 questions of two answers."""
  out = []
  for template in _PRONOUN:
    for girl, boy in zip(_GIRLS, _BOYS):
      for name, kind in ((girl, "girl"), (boy, "boy")):
        answers = (" she", " he") if kind == "girl" else (" he", " she")
        out.append(Question(template.format(name=name, kind=kind), answers))
  return out


def recall() -> list[Question]:
  """48 questions of four answers."""
  out = []
  names = itertools.cycle((*_GIRLS, *_BOYS))
  for template in _RECALL:
    for shift in (0, 1):
      for number, thing in enumerate(_THINGS):
        others = [
          _THINGS[(number + step + shift) % len(_THINGS)] for step in (1, 3, 5)
        ]
        prompt = template.format(name=next(names), thing=thing)
        answers = tuple(f" {word}" for word in (thing, *others))
        out.append(Question(prompt, answers))
  return out


def word() -> list[Question]:
  """40 questions of four answers."""
  out = []
  rights = [right for _, right in _WORD]
  for turn, name in enumerate(("Lily", "Tom", "Mia", "Ben")):
    for number, (template, right) in enumerate(_WORD):
      others = [one for one in dict.fromkeys(rights) if one != right]
      first = number + 2 * turn
      chosen = [others[(first + step) % len(others)] for step in (0, 3, 5)]
      out.append(Question(template.format(name=name), (right, *chosen)))
  return out


TASKS = {"pronoun": pronoun, "recall": recall, "word": word}


class Rows(NamedTuple):
  """Questions as a network reads them.

  Attributes:
    inputs: `input_ids` and `attention_mask` int32 `[Q K, P]`: every question
      with each of its answers.
    num_tokens: int `[Q K]`, of each answer.
    num_choices: K.
  """

  inputs: dict[str, np.ndarray]
  num_tokens: np.ndarray
  num_choices: int


def rows(questions: list[Question], tokenizer: tokens.Tokenizer) -> Rows:
  """Tokenizes; padding stands behind, unseen.

  Raises:
    ValueError: no question, or numbers of answers that differ.
  """
  choices = {len(question.answers) for question in questions}
  if len(choices) != 1:
    raise ValueError(f"Questions need one number of answers; got {choices}.")
  encoded: list[tuple[Any, int]] = []
  for question in questions:
    prompt = text.prompt(question.prompt, tokenizer, "tokens")
    for answer in question.answers:
      whole, count = text.continued(prompt, answer, tokenizer)
      encoded.append((whole.encoding.ids, count))
  counts = np.array([count for _, count in encoded])
  return Rows(tokens.padded([ids for ids, _ in encoded]), counts, choices.pop())


class Prompts(NamedTuple):
  """Prompts as a network reads them, and what is read behind each.

  Attributes:
    inputs: `input_ids` and `attention_mask` int32 `[N, P]`.
    read: `[N]`.
  """

  inputs: dict[str, np.ndarray]
  read: readouts.Prediction


def of_pairs(
  pairs: pairs_lib.Pairs, value: likelihoods.Value = "margin"
) -> Prompts:
  """The clean prompts of N pairs.

  Args:
    pairs: with wrong answers.
    value: the mean logit of the right answers above that of the wrong ones; or
      1 where it is above it ("accuracy"), else 0.
  """
  at = np.arange(pairs.clean.shape[1])
  seen = (at < pairs.lengths[:, None]).astype(np.int32)

  def above(logits):
    margin = jax.vmap(metrics.logit_difference)(
      logits, logits, pairs.right, pairs.wrong
    )
    return margin if value == "margin" else (margin > 0).astype(margin.dtype)

  inputs = {"input_ids": pairs.clean, "attention_mask": seen}
  return Prompts(inputs, readouts.prediction(above, None))
