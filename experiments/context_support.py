"""Which sentences support an answer: every method at equal forwards.

  python -m experiments.context_support --given=../shared/context/given.jsonl
  python -m experiments.context_support --given=... --model=DIR --own=8

The prompts of `--given` are recorded games: what a model answered under every
mask of the sentences, so that no model is needed; prompts of which not all
masks are there are left out. With `--model` further prompts are written by
templates (one fact among 12 sentences, twice the same fact, another person's
fact), kept where the model answers rightly with the support and not without,
and scored by it.

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
import json
import pathlib
from collections.abc import Iterator, Sequence
from typing import Any

import jax
import numpy as np
from absl import app, flags

from experiments import rows
from spex_jax import context
from spex_jax.context import judging, scoring
from spex_jax.context import sources as sources_lib

METHODS = ("auto", "contextcite", "shapley", "leave_one_out")
_KINDS = {"joint": "both", "duplicated": "either"}
_NAMES = ("Tom", "Anna", "Lucy", "Mark", "Jane", "Paul", "Emma", "Luke")
_JOBS = ("doctor", "baker", "pilot", "farmer", "teacher", "painter")
_FILLERS = (
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


def own(net: Any, count: int, seed: int = 0) -> Iterator[Prompt]:
  """Prompts by templates that the model answers by their support alone."""
  rng = np.random.default_rng(seed)
  kinds = ("single", "duplicated", "distractor")
  made = tries = 0
  while made < count and tries < 20 * count:
    kind = kinds[made % len(kinds)]
    tries += 1
    name, other = rng.permutation(_NAMES)[:2]
    job, second = rng.permutation(_JOBS)[:2]
    facts = {
      "single": [f"{name} works as a {job}."],
      "duplicated": [
        f"{name} works as a {job}.",
        f"The job of {name} is {job}.",
      ],
      "distractor": [
        f"{name} works as a {job}.",
        f"{other} works as a {second}.",
      ],
    }[kind]
    texts = [*facts, *rng.permutation(_FILLERS)[: 12 - len(facts)]]
    place = rng.permutation(len(texts))
    sentences = [texts[k] for k in place]
    where = {int(k): i for i, k in enumerate(place)}
    support = (
      ((where[0],), (where[1],)) if kind == "duplicated" else ((where[0],),)
    )
    sources = sources_lib.of_texts(
      sentences, f"So {name} has a job as a", net.tokenizer,
      before="<|endoftext|>",
    )  # fmt: skip
    scorer = scoring.scorer(
      net, sources, f" {job}", batch_size=16, remember_bytes=1 << 24
    )
    without = np.ones(sources.n, bool)
    without[[i for each in support for i in each]] = False
    alone = [np.isin(np.arange(sources.n), each) for each in support]
    rest = np.array([np.ones(sources.n, bool), *alone, without])
    if scorer(rest).greedy().tolist() == [True] * (len(alone) + 1) + [False]:
      made += 1
      yield Prompt(f"own-{kind}-{made:02}", kind, support, scorer)


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
  prompts = [] if flags.FLAGS.given is None else list(given(flags.FLAGS.given))
  if flags.FLAGS.model is not None:
    from spex_jax.models import hub

    prompts += own(hub.load(flags.FLAGS.model), flags.FLAGS.own)
  for row in run(CONFIGS[flags.FLAGS.config], prompts):
    print(json.dumps(row), flush=True)


def _define() -> None:
  flags.DEFINE_string("given", None, "Recorded prompts, JSON lines.")
  flags.DEFINE_string("model", None, "A checkpoint, for own prompts.")
  flags.DEFINE_integer("own", 8, "How many own prompts, with --model.")
  flags.DEFINE_enum("config", "full", ["quick", "full"], "Setting.")


if __name__ == "__main__":
  _define()
  app.run(main)
