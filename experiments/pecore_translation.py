"""Does PECoRe find the noun that a translated pronoun needed?

  python -m experiments.pecore_translation --config=quick
  python -m experiments.pecore_translation --output=translation.jsonl
  python -m experiments.pecore_translation --model=DIR --pairs=FILE.jsonl

A toy translation whose truth is known: the source says "it", the target has a
pronoun for each of two genders, and only a noun of the sentence before, the
context, tells which. Half of the training pairs have no context. A small T5 is
trained here for a fixed number of steps; where it has not learnt to use the
context its row of accuracies is the only one, as cues of chance say nothing.
Else each metric's sensitive
tokens are judged against the pronoun (CTI), each method's cues against the noun
(CCI, of the pronoun's step): average precision, and F1 at mean + 1 standard
deviation, per example as in the paper (Sarti et al., arXiv:2310.01188). Means
over examples; all examples are judged, right translations or not, and the
accuracy stands beside.

For the paper's models (Opus, Marian checkpoints fine-tuned for context) give
`--model` and a file of pairs, a line each: `encoder_with`, `encoder_without`,
`decoder`, `context_span`, and the truth: `sensitive` (indices in the response)
and `cues` (indices in the context). The paper has its F1 in figures alone; its
accuracies with context, of SCAT+: Opus Small .14 before tuning, .81 after,
Opus Large .16 and .83, mBART-50 .26 and .82.

Shapes: B pairs, P positions.
"""

import dataclasses
import json
import pathlib
from collections.abc import Collection, Iterator

import jax
import jax.numpy as jnp
import numpy as np
import optax
from absl import app, flags

from experiments import rows
from spex_jax.context import cues, judging, selectors, sensitivity
from spex_jax.context import runs as runs_lib
from spex_jax.models import hub, sites, t5

Row = rows.Row
METRICS = sensitivity.NAMES
METHODS = (
  "saliency", "input_x_gradient", "integrated_gradients", "attention",
  "occlusion", "exact",
)  # fmt: skip
# Those that attribute a target; attention knows none.
TARGETS = ("contrast_prob_diff", "kl_divergence")
# Ids: start and padding, break, "it", two pronouns; then words by kind.
_START, _BREAK, _IT, _PRONOUNS = 0, 1, 2, (3, 4)
_NOUNS = (np.arange(5, 11), np.arange(11, 17))  # By gender.
_VERBS, _ADVERBS = np.arange(17, 23), np.arange(23, 29)
_FOREIGN = 12  # Added to a verb or an adverb: its translation.
_SIZE = 41
_CONTEXT = 5  # Tokens of the context, its break included.


@dataclasses.dataclass(frozen=True)
class Config:
  """Sizes.

  Attributes:
    width: of the T5's stream.
    blocks: of its encoder, and of its decoder.
    steps: of training.
    batch: pairs a step.
    examples: judged.
    held: pairs that its accuracy is measured on.
    least: of its accuracy, for anything to be judged.
  """

  width: int = 48
  blocks: int = 2
  steps: int = 1500
  batch: int = 128
  examples: int = 100
  held: int = 1000
  least: float = 0.9


CONFIGS = {
  "quick": Config(
    width=8, blocks=1, steps=3, batch=8, examples=2, held=8, least=0.0
  ),
  "full": Config(),
}


@dataclasses.dataclass(frozen=True)
class Pair:
  """A translation, and what is true of it.

  Attributes:
    given: as `Runs.of_dict` takes it.
    sensitive: indices of the response that need the context.
    cues: indices of the context that they need.
  """

  given: dict
  sensitive: tuple[int, ...]
  cues: tuple[int, ...]


def made(rng: np.random.Generator) -> Pair:
  """A pair: noun, verb, adverbs / it, verb, adverb; their order varies."""
  gender = int(rng.integers(2))
  noun, verbs = rng.choice(_NOUNS[gender]), rng.choice(_VERBS, 2)
  adverbs = rng.choice(_ADVERBS, _CONTEXT - 2)
  context = np.insert(adverbs[:-1], 0, verbs[0])
  at = int(rng.integers(len(context) + 1))
  context = np.insert(context, at, noun)
  current = [_IT, verbs[1], adverbs[-1]]
  # The target's verb comes last, so that the pronoun's place is not its first.
  pronoun = int(rng.integers(2))  # Whether an adverb stands before it.
  words = [adverbs[-1] + _FOREIGN, _PRONOUNS[gender]]
  if not pronoun:
    words.reverse()
    current = [current[0], current[2], current[1]]
  response = [*words, verbs[1] + _FOREIGN]
  given = {
    "encoder_with": [int(i) for i in (*context, _BREAK, *current)],
    "encoder_without": [int(i) for i in current],
    "decoder": [int(i) for i in response],
    "context_span": [0, len(context)],
  }
  return Pair(given, (pronoun,), (at,))


def batch(rng: np.random.Generator, size: int) -> dict[str, np.ndarray]:
  """Pairs as arrays: the context is there in half of them."""
  pairs = [made(rng).given for _ in range(size)]
  length = _CONTEXT + 3
  ids, seen = np.zeros((2, size, length), np.int32)
  for row, pair in enumerate(pairs):
    has = rng.integers(2)
    words = pair["encoder_with"] if has else pair["encoder_without"]
    ids[row, : len(words)], seen[row, : len(words)] = words, 1
  targets = np.array([pair["decoder"] for pair in pairs], np.int32)
  fed = np.insert(targets[:, :-1], 0, _START, axis=1)
  return {
    "input_ids": ids, "attention_mask": seen, "decoder_input_ids": fed,
    "targets": targets,
  }  # fmt: skip


def trained(config: Config, seed: int = 0) -> sites.Network:
  """A T5 that translates, by Adam on new pairs at each step."""
  net = t5.network(
    t5.config(
      vocab_size=_SIZE, width=config.width, num_heads=4,
      head_width=config.width // 4, num_neurons=2 * config.width,
      num_blocks=config.blocks, num_decoder_blocks=config.blocks,
      num_buckets=8, max_distance=16,
    )
  )  # fmt: skip
  params = net.init(jax.random.key(seed))
  schedule = optax.cosine_decay_schedule(3e-3, config.steps)
  optimizer = optax.adam(schedule)

  def loss(params, given):
    inputs = {k: v for k, v in given.items() if k != "targets"}
    logits = net.apply(params, **inputs).logits
    return optax.softmax_cross_entropy_with_integer_labels(
      logits, given["targets"]
    ).mean()

  @jax.jit
  def step(params, state, given):
    slope = jax.grad(loss)(params, given)
    change, state = optimizer.update(slope, state, params)
    return optax.apply_updates(params, change), state

  rng = np.random.default_rng(seed)
  state = optimizer.init(params)
  for _ in range(config.steps):
    params, state = step(params, state, batch(rng, config.batch))
  return dataclasses.replace(net, params=params)


def accuracy(net: sites.Network, pairs: list[Pair]) -> tuple[float, float]:
  """Share of pronouns that are right with the context, and without it."""
  found = []
  for name in ("encoder_with", "encoder_without"):
    ids = jnp.asarray([pair.given[name] for pair in pairs])
    targets = np.array([pair.given["decoder"] for pair in pairs])
    fed = np.insert(targets[:, :-1], 0, _START, axis=1)
    logits = net.apply(net.params, input_ids=ids, decoder_input_ids=fed).logits
    guess = np.asarray(logits.argmax(axis=-1))
    at = np.arange(len(pairs)), [pair.sensitive[0] for pair in pairs]
    found.append(float((guess[at] == targets[at]).mean()))
  return found[0], found[1]


def f1(chosen: Collection[int], truth: Collection[int], size: int) -> float:
  """Macro F1 of both classes, the paper's: the mean of in and not in."""
  inside, true = {*chosen}, {*truth}
  everyone = {*range(size)}
  parts = []
  for own, right in ((inside, true), (everyone - inside, everyone - true)):
    total = len(own) + len(right)
    parts.append(2 * len(own & right) / total if total else 1.0)
  return float(np.mean(parts))


def judged(
  net: sites.Network, pairs: list[Pair], key: jax.Array
) -> Iterator[Row]:
  """Rows of CTI by metric, and of CCI by method and target."""
  scores: dict[tuple[str, str, str], list[tuple[float, float]]] = {}

  def keep(name, values, truth):
    values = np.abs(values)
    found = (
      judging.average_precision(values, truth),
      f1(selectors.select(values), truth, len(values)),
    )
    scores.setdefault(name, []).append(found)

  for number, pair in enumerate(pairs):
    runs = runs_lib.Runs.of_dict(net, pair.given)
    both = sensitivity.logits(net, runs)
    for metric in METRICS:
      found = sensitivity.scores(net, runs, metric, predictions=both)
      keep(("cti", metric, ""), found, pair.sensitive)
    for method in METHODS:
      for target in TARGETS[: 1 if method == "attention" else 2]:
        found = cues.impute(
          net, runs, pair.sensitive, both,
          method=method, target=target, budget=256,
          key=jax.random.fold_in(key, number),
        )  # fmt: skip
        shown = "" if method == "attention" else target
        for scored in found.scores:
          keep(("cci", method, shown), scored, pair.cues)
  for (step, name, target), found in scores.items():
    precision, macro = np.mean(found, axis=0)
    yield {
      "step": step, "name": name, "target": target, "examples": len(pairs),
      "average_precision": round(float(precision), 4),
      "f1": round(float(macro), 4),
    }  # fmt: skip


def read(path: str) -> list[Pair]:
  """Pairs of a file.

  Raises:
    ValueError: a line without its truth.
  """
  pairs = []
  lines = pathlib.Path(path).read_text(encoding="utf-8").splitlines()
  for number, line in enumerate(lines, 1):
    given = json.loads(line)
    if not {"sensitive", "cues"} <= {*given}:
      raise ValueError(f"{path}, line {number}: sensitive and cues are needed.")
    truth = tuple(given.pop("sensitive")), tuple(given.pop("cues"))
    pairs.append(Pair(given, *truth))
  return pairs


def run(config: Config, common: Row) -> Iterator[Row]:
  """Trains, measures and judges."""
  net = trained(config)
  rng = np.random.default_rng(1)
  held = [made(rng) for _ in range(config.held)]
  within, without = accuracy(net, held)
  yield common | {
    "step": "model", "accuracy": within, "accuracy_without": without
  }  # fmt: skip
  if within < config.least:
    return
  for row in judged(net, held[: config.examples], jax.random.key(2)):
    yield common | row


def main(argv):
  """Prints the rows."""
  del argv
  common = rows.common("pecore_translation")
  if (flags.FLAGS.model is None) != (flags.FLAGS.pairs is None):
    raise app.UsageError("--model and --pairs go together.")
  if flags.FLAGS.model is None or flags.FLAGS.pairs is None:
    found = run(CONFIGS[flags.FLAGS.config], common)
  else:
    net = hub.load(flags.FLAGS.model)
    found = (
      common | row
      for row in judged(net, read(flags.FLAGS.pairs), jax.random.key(2))
    )
  rows.write(found, flags.FLAGS.output)


def _define() -> None:
  flags.DEFINE_enum("config", "full", list(CONFIGS), "Sizes.")
  flags.DEFINE_string("model", None, "A trained encoder-decoder.")
  flags.DEFINE_string("pairs", None, "Its pairs, .jsonl of ids.")
  flags.DEFINE_string("output", None, "A file for the rows, too.")


if __name__ == "__main__":
  _define()
  app.run(main)
