"""Which sentences support an answer: every method at equal forwards.

  python -m experiments.context_support --given=given.jsonl
  python -m experiments.context_support --model=DIR --own=16 --given=own.jsonl

The prompts of `--given` are recorded games: what a model answered under every
mask of the sentences, so that no model is needed; prompts of which not all
masks are there are left out. With `--model` that many prompts are written by
templates first (one fact among 8 or 9 sentences, twice the same fact, another
person's fact, two facts that are needed together), kept where the model answers
rightly with the support and not without, and recorded behind those of the file;
a command that was killed goes on where it was. Rows that lack it get the
Jensen-Shannon divergence of leaving each sentence out, which "jsd" needs.

Shown, by method and forwards, of prompts alone, and means over "all" and over
"clear" ones, of which the answer stands where the support says so under 95 % of
the masks at least:

  average_precision    of the supporting sentences by what the method ranks by,
                       `strengths`; equal ones get no gift
                       (`citation_quality.average_precision`)
  set_precision, set_recall
                       of "either of" two equal facts, "both of" two needed
  r2_fresh, lds        of predictions, on all masks that were not asked
  removal, insertion   area under the normalised curve as the strongest
                       sentences go (low is good) and come (high is good)

Leaving one out takes n + 1 forwards, whatever the budget; a method whose budget
is too small for a prompt has no row there, and a mean counts its prompts.

Expect, of 21 own prompts recorded from SmolLM2-135M-Instruct, average precision
with 32 forwards of .980 by `auto`, .958 by ContextCite and .930 by leaving one
out, in 21 minutes on 2 busy CPU cores; to record them first was not timed.

Shapes: n sentences, B masks.
"""

import dataclasses
import itertools
import json
import pathlib
from collections.abc import Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from absl import flags

from experiments import command, rows
from spex_jax import base, context
from spex_jax.ablate import contrasts
from spex_jax.context import citation_quality, scoring
from spex_jax.context import sources as sources_lib
from spex_jax.masks import sampling
from spex_jax.models import tokens

METHODS = (
  "auto", "lasso", "proxyspex", "spex", "contextcite", "shapley",
  "leave_one_out", "jsd",
)  # fmt: skip
_KINDS = {"joint": "both", "duplicated": "either"}
_NAMES = ("Tom", "Anna", "Lucy", "Mark", "Jane", "Paul", "Emma", "Luke")
_JOBS = ("doctor", "baker", "pilot", "farmer", "teacher", "painter")
_ANIMALS = ("dog", "cat", "duck", "horse", "rabbit", "tiger", "elephant")
CITIES = ("Paris", "London", "Rome", "Berlin", "Madrid", "Vienna", "Boston")
_COLORS = ("red", "blue", "green", "yellow", "black", "white", "purple")
_SIZES = (9, 8)  # Sentences of own prompts, by turns: 512 or 256 masks.
_CLEAR = 0.95  # As of the prompts that are given.
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
  "quick": Config((32,), ("lasso", "contextcite", "leave_one_out"), 4),
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
    agreement: share of the masks under which the answer stands exactly where
      the support says so: below 1 the model reads more than the support.
  """

  name: str
  kind: str
  support: tuple[tuple[int, ...], ...]
  scorer: Any
  agreement: float = 1.0

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
    self._apart = row.get("divergence")

  def __call__(self, masks: np.ndarray) -> scoring.Scores:
    index = masks @ (1 << np.arange(self.sources.n))
    return scoring.Scores(self._odds[index], self._margins[index])

  def diverged(self, masks: np.ndarray) -> tuple[scoring.Scores, np.ndarray]:
    """Those that lack one sentence at most.

    Raises:
      ValueError: a row without divergences.
    """
    if self._apart is None:
      raise ValueError("This prompt has no divergences: see --model.")
    apart = (~masks) @ np.array(self._apart)
    return self(masks), apart[:, None]


def given(path: str | pathlib.Path) -> Iterator[Prompt]:
  """The recorded prompts of a file that have all their masks."""
  for line in pathlib.Path(path).read_text().splitlines():
    row = json.loads(line)
    if len(row["masks"]) == 1 << row["n"]:
      support = tuple(tuple(each) for each in row["support"])
      yield Prompt(
        row["id"], row["kind"], support, Recorded(row), row["agreement"]
      )


def record(net: Any, path: pathlib.Path, count: int) -> None:
  """Writes own prompts behind those of a file, until it has so many of them.

  Each is a game of all its masks, in the form of the prompts that are given.

  Raises:
    RuntimeError: a kind of prompt that the model never answers by its support.
  """
  lines = path.read_text().splitlines() if path.exists() else []
  there = {json.loads(line)["id"] for line in lines}
  for number in range(count):
    turn, place = divmod(number, len(OWN_KINDS))
    kind = OWN_KINDS[place]
    name = f"own-{kind}-{number:02}"
    if name in there:
      continue
    rng = np.random.default_rng(number)
    # Of topics that the model does not answer the next one is tried.
    rows_of = (
      _recorded(net, name, kind, turn, turn + 2 * attempt // _TRIES, rng)
      for attempt in range(_TRIES)
    )
    row = next((row for row in rows_of if row is not None), None)
    if row is None:
      raise RuntimeError(f"No {kind} prompt of {_TRIES} was answered rightly.")
    with path.open("a") as file:
      file.write(json.dumps(row) + "\n")


# A fact, the same said otherwise, the question, and words of the answer.
_FACTS = (
  ("{} works as a {}.", "The job of {} is {}.", "So {} has a job as a", _JOBS),
  ("{} lives in {}.", "The home of {} is in {}.", "So the home of {} is in",
   CITIES),
  ("{} has a pet {}.", "The pet of {} is a {}.", "So {} has a pet", _ANIMALS),
)  # fmt: skip
# What two people share, what one has, the question, and words of the answer.
_SHARED = (
  ("{} and {} have the same favorite animal.",
   "{}'s favorite animal is the {}.", "So {}'s favorite animal is the",
   _ANIMALS),
  ("{} and {} have the same favorite color.", "{}'s favorite color is {}.",
   "So {}'s favorite color is", _COLORS),
  ("{} and {} have the same job.", "{}'s job is {}.", "So {}'s job is", _JOBS),
)  # fmt: skip
OWN_KINDS = ("single", "duplicated", "distractor", "joint")


def diverge(net: Any, path: pathlib.Path) -> None:
  """Adds `divergence` to the rows of a file that lack it; rewrites the file."""
  lines = [json.loads(line) for line in path.read_text().splitlines()]
  lacking = [row for row in lines if "divergence" not in row]
  if not lacking:
    return
  prompts = [
    sources_lib.of_texts(
      [text.strip() for text in row["sentences"]], row["query"], net.tokenizer,
      before="<|endoftext|>",
    ).prompt
    for row in lacking
  ]  # fmt: skip
  longest = max(prompt.num_tokens for prompt in prompts)
  most = 1 + max(row["n"] for row in lacking)  # One shape for all prompts.

  @jax.jit
  def apart(params, given):
    logits = net.apply(params, **given).logits
    last = given["attention_mask"].sum(axis=1) - 1
    logs = jax.nn.log_softmax(logits[jnp.arange(most), last])
    return contrasts.jensen_shannon(logs, logs[:1])

  for row, prompt in zip(lacking, prompts):
    ids, owner = prompt.encoding.ids, prompt.players.owner
    runs = [ids, *(ids[owner != i] for i in range(row["n"]))]
    runs += [ids] * (most - len(runs))
    found = np.asarray(apart(net.params, tokens.padded(runs, longest)))
    row["divergence"] = found[1 : 1 + row["n"]].astype(float).tolist()
  draft = base.draft(path)
  draft.write_text("".join(json.dumps(row) + "\n" for row in lines))
  draft.replace(path)


def _written(kind, topic, rng):
  """Facts, their support, the answer's word and the question."""
  topics = _SHARED if kind == "joint" else _FACTS
  one, two, query, words = topics[topic % len(topics)]
  a, b, c = (str(each) for each in rng.permutation(_NAMES)[:3])
  word, other = (str(each) for each in rng.permutation(words)[:2])
  facts, support = [one.format(a, word)], [(0,)]
  if kind == "duplicated":
    facts, support = [*facts, two.format(a, word)], [(0,), (1,)]
  elif kind == "distractor":
    facts = [*facts, one.format(b, other)]
  elif kind == "joint":
    facts = [one.format(a, b), two.format(b, word), two.format(c, other)]
    support = [(0, 1)]
  return facts, support, word, query.format(a)


def _recorded(net, name, kind, turn, topic, rng) -> dict[str, Any] | None:
  """A prompt with all its answers; None where the support does not decide."""
  facts, support, word, query = _written(kind, topic, rng)
  size = _SIZES[turn % len(_SIZES)]
  texts = [*facts, *rng.permutation(FILLERS)[: size - len(facts)]]
  place = rng.permutation(size)
  at = np.argsort(place)
  support = [sorted(int(at[k]) for k in each) for each in support]
  sources = sources_lib.of_texts(
    [str(texts[k]) for k in place], query, net.tokenizer,
    before="<|endoftext|>",
  )  # fmt: skip
  scorer = scoring.scorer(
    net, sources, f" {word}", budget=1 << size, reuse=True,
    remember_bytes=1 << 24,
  )  # fmt: skip
  if len(scorer.response) > 1:  # A row has one answer's log-odds.
    return None
  every = sampling.enumerate_masks(size)
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
    "id": name, "kind": kind, "n": size, "sentences": list(sources.texts),
    "query": query, "answer": f" {word}",
    "answer_id": answer, "support": support,
    "masks": (every @ (1 << np.arange(size))).tolist(),
    "logit": np.round(scores.log_odds[:, 0], 5).tolist(),
    # Another token than the answer has no name here.
    "greedy": np.where(scores.greedy(), answer, -1).tolist(),
    "agreement": float((scores.greedy() == with_it).mean()),
  }  # fmt: skip


def run(config: Config, prompts: Sequence[Prompt]) -> Iterator[rows.Row]:
  """A row for each prompt, method and budget, and means over prompts."""
  prompts = list(prompts)[: config.prompts]
  common = rows.common("context_support")
  for method, budget in itertools.product(config.methods, config.budgets):
    own = []
    for number, prompt in enumerate(prompts):
      try:
        cited = context.cite(
          prompt.scorer, key=jax.random.key(number), budget=budget,
          method=method,
        )  # fmt: skip
      except ValueError:  # Too small a budget, or no divergences.
        continue
      own.append((prompt, cited, _measured(prompt, cited, number)))
      yield common | {
        "prompt": prompt.name, "kind": prompt.kind, "method": method,
        "budget": budget, "r2": cited.r2,
        "sets": [[s.kind, list(s.sources)] for s in cited.sets],
      } | own[-1][-1]  # fmt: skip
    for name, least in (("all", 0.0), ("clear", _CLEAR)):
      some = [each for each in own if each[0].agreement >= least]
      if some:
        yield common | {
          "prompt": name, "method": method, "budget": budget
        } | _summary(some)  # fmt: skip


def _summary(own) -> rows.Row:
  """Means of measures, and how good the sets are, over prompts."""
  precision, recall = citation_quality.set_scores(
    [cited.sets for _, cited, _ in own], [prompt.sets for prompt, *_ in own]
  )
  return {
    "prompts": len(own), "set_precision": precision, "set_recall": recall
  } | {
    name: _mean([measures[name] for *_, measures in own]) for name in own[0][-1]
  }  # fmt: skip


def _measured(prompt, cited, number) -> rows.Row:
  judged = citation_quality.judge(
    cited, prompt.scorer, key=jax.random.key(number), num_masks=1 << 10
  )
  none, full = judged.insertion[[0, -1]]
  area = lambda curve: float((curve - none).mean() / (full - none))
  return {
    "forwards": cited.forwards,
    "average_precision": citation_quality.average_precision(
      cited.strengths, prompt.supporting
    ),
    "r2_fresh": judged.r2, "lds": judged.lds,
    "removal": area(judged.removal), "insertion": area(judged.insertion),
  }  # fmt: skip


def _mean(values) -> float | None:
  known = [value for value in values if value is not None]
  return float(np.mean(known)) if known else None


def main(argv: Sequence[str]) -> None:
  """Prints the rows as JSON lines."""
  del argv
  path = pathlib.Path(flags.FLAGS.given)
  if flags.FLAGS.model is not None:
    from spex_jax.models import hub

    net = hub.load(flags.FLAGS.model)
    record(net, path, flags.FLAGS.own)
    diverge(net, path)
  config = CONFIGS[flags.FLAGS.config]
  if flags.FLAGS.methods:
    config = dataclasses.replace(config, methods=tuple(flags.FLAGS.methods))
  for row in run(config, list(given(path))):
    print(json.dumps(row), flush=True)


def _define() -> None:
  flags.DEFINE_string(
    "given", None, "Recorded prompts, JSON lines.", required=True
  )
  flags.DEFINE_string("model", None, "A checkpoint, for own prompts.")
  flags.DEFINE_integer("own", 16, "How many own prompts, with --model.")
  command.some_of("methods", None, METHODS, "Only these")
  flags.DEFINE_enum("config", "full", ["quick", "full"], "Setting.")


if __name__ == "__main__":
  _define()
  command.start(main)
