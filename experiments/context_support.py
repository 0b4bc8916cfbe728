"""Which sentences support an answer: every method at equal forwards.

  python -m experiments.context_support --given=../shared/context/given.jsonl
  python -m experiments.context_support --model=DIR --own=8 --given=own.jsonl

The prompts of `--given` are recorded games: what a model answered under every
mask of the sentences, so that no model is needed; prompts of which not all
masks are there are left out. With `--model` that many prompts are written by
templates first (one fact among 9 sentences, twice the same fact, another
person's fact, two facts that are needed together), kept where the model answers
rightly with the support and not without, and recorded behind those of the file;
a command that was killed goes on where it was.

Shown, by method and forwards: average precision of the supporting sentences
(mean over prompts; equal values get no gift, `judging.average_precision`),
and precision and recall of sets ("either of" two equal facts, "both of" two
that are needed together). Leaving one out takes n + 1 forwards, whatever the
budget.

On 21 recorded prompts of SmolLM2-135M-Instruct, 6 or 7 sentences each, ours,
ContextCite and Shapley have average precision 1 from 32 forwards on, leaving
one out .939; ours has all 8 sets and no other at each budget, ContextCite and
leaving one out name none. Two minutes on two busy CPU cores.

Shapes: n sentences, B masks.
"""

import dataclasses
import itertools
import json
import pathlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
import numpy as np
from absl import app, flags

from experiments import rows
from spex_jax import context
from spex_jax.context import judging, scoring
from spex_jax.context import sources as sources_lib
from spex_jax.masks import sampling

METHODS = ("auto", "contextcite", "shapley", "leave_one_out")
_KINDS = {"joint": "both", "duplicated": "either"}
_NAMES = ("Tom", "Anna", "Lucy", "Mark", "Jane", "Paul", "Emma", "Luke")
_JOBS = ("doctor", "baker", "pilot", "farmer", "teacher", "painter")
_ANIMALS = ("dog", "cat", "duck", "horse", "rabbit", "tiger", "elephant")
_OWN = 9  # Sentences of an own prompt: 512 masks.
_TRIES = 40  # Prompts written for one that is kept.
FILLERS = (
  "The weather was nice all week.",
  "The river was cold and clear.",
  "Some birds sang near the road.",
  "The wind was strong on Monday.",
  "A train passed in the evening.",
  "The shop closed at noon.",
  "The old bridge was painted green.",
  "Two dogs slept in the yard.",
  "The market was full of people.",
  "It rained for an hour at night.",
  "The library got new chairs.",
)


@dataclasses.dataclass(frozen=True)
class Config:
  """What to compare: budgets in forwards, methods, prompts at most."""

  budgets: tuple[int, ...]
  methods: tuple[str, ...]
  prompts: int


CONFIGS = {
  "quick": Config((32, 64), ("lasso", *METHODS[1:]), 4),
  "full": Config((32, 64, 128, 256), METHODS, 1000),
}


@dataclasses.dataclass(frozen=True)
class Prompt:
  """A prompt whose support is known, and who scores it.

  Attributes:
    name: of the prompt.
    kind: "joint", "duplicated", or another.
    support: minimal sets of sentences, each sufficient.
    scorer: masks to `scoring.Scores`.
  """

  name: str
  kind: str
  support: tuple[tuple[int, ...], ...]
  scorer: Any

  @property
  def supporting(self) -> list[int]:
    return sorted({i for each in self.support for i in each})

  @property
  def sets(self) -> list[tuple[str, tuple[int, ...]]]:
    kind = _KINDS.get(self.kind)
    return [] if kind is None else [(kind, tuple(self.supporting))]


@dataclasses.dataclass(frozen=True)
class _Sentences:
  texts: tuple[str, ...]

  @property
  def n(self) -> int:
    return len(self.texts)


class Recorded:
  """A game whose every mask was recorded, as a scorer."""

  def __init__(self, row: dict[str, Any]):
    order = np.argsort(row["masks"])
    self.sources = _Sentences(tuple(row["sentences"]))
    self.response = np.array([row["answer_id"]], np.int32)
    self.pieces = (row["answer"],)
    self._odds = np.array(row["logit"], float)[order, None]
    greedy = np.array(row["greedy"])[order] == row["answer_id"]
    self._margins = np.where(greedy, 1.0, -1.0)[:, None]

  def __call__(self, masks: np.ndarray) -> scoring.Scores:
    index = masks @ (1 << np.arange(self.sources.n))
    return scoring.Scores(self._odds[index], self._margins[index])


def given(path: str | pathlib.Path) -> Iterator[Prompt]:
  """The recorded prompts of a file that have all their masks."""
  for line in pathlib.Path(path).read_text().splitlines():
    row = json.loads(line)
    if len(row["masks"]) == 1 << row["n"]:
      support = tuple(tuple(each) for each in row["support"])
      yield Prompt(row["id"], row["kind"], support, Recorded(row))


def record(net: Any, path: pathlib.Path, count: int) -> None:
  """Writes own prompts behind those of a file, until it has so many of them.

  Each is a game of all its masks, in the form of the prompts that are given.

  Raises:
    RuntimeError: a kind of prompt that the model never answers by its support.
  """
  lines = path.read_text().splitlines() if path.exists() else []
  there = {json.loads(line)["id"] for line in lines}
  for number in range(count):
    kind = list(_TEMPLATES)[number % len(_TEMPLATES)]
    name = f"own-{kind}-{number:02}"
    if name in there:
      continue
    rng = np.random.default_rng(number)
    rows_of = (_recorded(net, name, kind, rng) for _ in range(_TRIES))
    row = next((row for row in rows_of if row is not None), None)
    if row is None:
      raise RuntimeError(f"No {kind} prompt of {_TRIES} was answered rightly.")
    with path.open("a") as file:
      file.write(json.dumps(row) + "\n")


def _single(a, b, c, job, other):
  return [f"{a} works as a {job}."], [(0,)]


def _duplicated(a, b, c, job, other):
  facts = [f"{a} works as a {job}.", f"The job of {a} is {job}."]
  return facts, [(0,), (1,)]


def _distractor(a, b, c, job, other):
  return [f"{a} works as a {job}.", f"{b} works as a {other}."], [(0,)]


def _joint(a, b, c, animal, other):
  facts = [
    f"{a} and {b} have the same favorite animal.",
    f"{b}'s favorite animal is the {animal}.",
    f"{c}'s favorite animal is the {other}.",
  ]
  return facts, [(0, 1)]


# Kind to facts and their support, words of the answer, and the question.
_TEMPLATES: dict[str, tuple[Callable[..., Any], Sequence[str], str]] = {
  "single": (_single, _JOBS, "So {} has a job as a"),
  "duplicated": (_duplicated, _JOBS, "So {} has a job as a"),
  "distractor": (_distractor, _JOBS, "So {} has a job as a"),
  "joint": (_joint, _ANIMALS, "So {}'s favorite animal is the"),
}


def _recorded(net, name, kind, rng) -> dict[str, Any] | None:
  """A prompt with all its answers; None where the support does not decide."""
  write, words, query = _TEMPLATES[kind]
  names = [str(each) for each in rng.permutation(_NAMES)[:3]]
  word, other = (str(each) for each in rng.permutation(words)[:2])
  facts, support = write(names[0], names[1], names[2], word, other)
  texts = [*facts, *rng.permutation(FILLERS)[: _OWN - len(facts)]]
  place = rng.permutation(_OWN)
  at = np.argsort(place)
  support = [sorted(int(at[k]) for k in each) for each in support]
  sources = sources_lib.of_texts(
    [str(texts[k]) for k in place], query.format(names[0]), net.tokenizer,
    before="<|endoftext|>",
  )  # fmt: skip
  scorer = scoring.scorer(
    net, sources, f" {word}", budget=1 << _OWN, reuse=True,
    remember_bytes=1 << 24,
  )  # fmt: skip
  every = sampling.enumerate_masks(_OWN)
  with_it = np.any([every[:, each].all(axis=1) for each in support], axis=0)
  full = len(every) - 1
  of = lambda some: sum(1 << i for i in set(some))
  # Any support alone is enough; nothing is, without one of each.
  broken = [full - of(one_each) for one_each in itertools.product(*support)]
  some = np.array([full, *map(of, support), *broken])
  if not np.array_equal(scorer(every[some]).greedy(), with_it[some]):
    return None
  scores = scorer(every)
  answer = int(scorer.response[0])
  return {
    "id": name, "kind": kind, "n": _OWN, "sentences": list(sources.texts),
    "query": query.format(names[0]), "answer": f" {word}",
    "answer_id": answer, "support": support,
    "masks": (every @ (1 << np.arange(_OWN))).tolist(),
    "logit": np.round(scores.log_odds[:, 0], 5).tolist(),
    # Another token than the answer has no name here.
    "greedy": np.where(scores.greedy(), answer, -1).tolist(),
    "agreement": float((scores.greedy() == with_it).mean()),
  }  # fmt: skip


def run(config: Config, prompts: Sequence[Prompt]) -> Iterator[rows.Row]:
  """A row for each prompt, method and budget, and one for all prompts."""
  prompts = list(prompts)[: config.prompts]
  common = rows.common("context_support")
  for method in config.methods:
    for budget in config.budgets:
      precisions, found, asked = [], [], []
      for number, prompt in enumerate(prompts):
        if method == "leave_one_out" and budget <= prompt.scorer.sources.n:
          continue
        cited = context.cite(
          prompt.scorer, key=jax.random.key(number), budget=budget,
          method=method,
        )  # fmt: skip
        score = judging.average_precision(cited.values, prompt.supporting)
        precisions.append(score)
        found.append(cited.sets)
        asked.append(cited.forwards)
        yield common | {
          "prompt": prompt.name, "kind": prompt.kind, "method": method,
          "budget": budget, "forwards": cited.forwards,
          "average_precision": score, "r2": cited.r2,
          "sets": [[s.kind, list(s.sources)] for s in cited.sets],
        }  # fmt: skip
      if len(found) == len(prompts):
        precision, recall = judging.set_scores(
          found, [prompt.sets for prompt in prompts]
        )
        yield common | {
          "prompt": "all", "method": method, "budget": budget,
          "forwards": float(np.mean(asked)),
          "average_precision": float(np.mean(precisions)),
          "set_precision": precision, "set_recall": recall,
        }  # fmt: skip


def main(argv: Sequence[str]) -> None:
  """Prints the rows as JSON lines."""
  del argv
  path = pathlib.Path(flags.FLAGS.given)
  if flags.FLAGS.model is not None:
    from spex_jax.models import hub

    record(hub.load(flags.FLAGS.model), path, flags.FLAGS.own)
  for row in run(CONFIGS[flags.FLAGS.config], list(given(path))):
    print(json.dumps(row), flush=True)


def _define() -> None:
  flags.DEFINE_string(
    "given", None, "Recorded prompts, JSON lines.", required=True
  )
  flags.DEFINE_string("model", None, "A checkpoint, for own prompts.")
  flags.DEFINE_integer("own", 8, "How many own prompts, with --model.")
  flags.DEFINE_enum("config", "full", ["quick", "full"], "Setting.")


if __name__ == "__main__":
  _define()
  app.run(main)
