"""Does PECoRe find the nouns that a translated pronoun needed?

  python -m experiments.pecore_translation --config=quick
  python -m experiments.pecore_translation --output=translation.jsonl
  python -m experiments.pecore_translation --config=brief
  python -m experiments.pecore_translation --model=NAME --pairs=FILE.jsonl
  python -m experiments.pecore_translation --model=NAME --retrieval=16

A toy translation whose truth is known: the source says "it", the target has a
pronoun for each of two genders, and only the context, eight words before it,
tells which: by one noun, or by two of the same gender of which either suffices.
Half of the training pairs have no context. A small T5 is trained here; where it
has not learnt to use the context its row of accuracies is the only one, as cues
of chance say nothing. Else each metric's sensitive tokens are judged against
the pronoun (CTI), each method's cues against the nouns (CCI, of the pronoun's
step): average precision, and macro F1 at mean + 1 standard deviation, per
example as in the paper (Sarti et al., arXiv:2310.01188); "random" has scores of
chance. Means over examples, right translations or not. Where there are two
nouns, "sets" tells how often the largest pair of a method is theirs, with the
sign of "either of". Each example takes some ten programs that are compiled for
its ids, so `brief` judges 12 of them.

Expect `brief` in 2.5 minutes on 2 CPU cores, half a minute of it training:
average precision 1.00 of the sensitive tokens by KL, .92 and .80 of the cues by
saliency, 1.00 and .96 by sets (one noun, two nouns). `--retrieval=12` with
SmolLM2-135M-Instruct took an hour of a busy machine: .94 by saliency, .93 by
sets.

With `--retrieval`, a causal language model finds a thing where a context says
that it was put ("Ann put the coin in the box. The key is old.") and the
response goes on for a few words that need no context (" box and found it
there."). The place is the sensitive token, and the cue.

The paper's models are hub names: `context-mt/scat-marian-small-ctx4-cwd1-en-fr`
is its Opus Small, `...-big-...` its Opus Large; mBART's kind is not read here.
`third_party/pecore_pairs.py` makes their pairs of the examples that its authors
published, a line each: `encoder_with`, `encoder_without`, `decoder`,
`context_span`, and the truth: `sensitive` (indices in the response) and `cues`
(indices in the context). Pairs are then judged apart where the pronoun is right
with the context and wrong without it ("needs context"). What the authors have
for Opus Small on SCAT+ (outputs/metrics_evals of github.com/gsarti/pecore at
0e3693c; AUPRC and macro F1 of CTI, of translations that are right and need the
context): `kl_divergence` .757 and .827, `pcxmi` .677 and .778, random .183 and
.512. The paper has CCI's in figures alone, and accuracies with context on SCAT+
of .14 before tuning and .81 after (Opus Small), .16 and .83 (Opus Large).

Shapes: B pairs, P positions.
"""

import dataclasses
import itertools
import json
import pathlib
from collections.abc import Collection, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from absl import app, flags

from experiments import command, rows
from spex_jax.circuits import tasks
from spex_jax.context import citation_quality, cues, selectors, sensitivity
from spex_jax.context import response_runs as runs_lib
from spex_jax.models import hub, sites, t5

Row = rows.Row
METRICS = sensitivity.NAMES
# Methods of cues, and the masks that they may ask for; SPEX-CCI last, with
# absent words taken out, and unknown ones in their place.
METHODS = dict.fromkeys(
  ("saliency", "input_x_gradient", "integrated_gradients", "attention",
   "occlusion", "lime", "auto", "auto, unknown"),
  64,
) | {"exact": 256, "exact, unknown": 256}  # fmt: skip
# Those that attribute a target; attention knows none.
TARGETS = ("contrast_prob_diff", "kl_divergence")
# Ids: start and padding, break, "it", two pronouns; then words by kind.
_START, _BREAK, _IT, _PRONOUNS = 0, 1, 2, (3, 4)
_NOUNS = (np.arange(5, 11), np.arange(11, 17))  # By gender.
_VERBS, _ADVERBS = np.arange(17, 23), np.arange(23, 29)
_FOREIGN = 12  # Added to a verb or an adverb: its translation.
_SIZE = 41
_CONTEXT = 8  # Words of the context.
# Fresh matrices are those of wide networks, .02: so narrow a one barely learns
# from them.
_WIDER = 5.0
_DRAWS = 50  # Of random scores, an example.
# Of `retrieval`: where the context ends, and what follows the place.
_CURRENT, _GOES_ON, _TRIES = " In the evening", " and found it there.", 20


@dataclasses.dataclass(frozen=True)
class Config:
  """Sizes.

  Attributes:
    width: of the T5's stream.
    blocks: of its encoder, and of its decoder.
    steps: of training.
    batch: pairs a step.
    examples: judged, half of them of two nouns.
    held: pairs that its accuracy is measured on.
    least: of its accuracy, for anything to be judged.
  """

  width: int = 48
  blocks: int = 2
  steps: int = 500
  batch: int = 128
  examples: int = 100
  held: int = 1000
  least: float = 0.98


CONFIGS = {
  "quick": Config(
    width=8, blocks=1, steps=3, batch=8, examples=2, held=8, least=0.0
  ),
  "brief": Config(examples=12),
  "full": Config(),
}


@dataclasses.dataclass(frozen=True)
class Pair:
  """A translation, and what is true of it.

  Attributes:
    given: as `Runs.of_dict` takes it.
    sensitive: indices of the response that need the context.
    cues: indices of the context that they need.
    kind: pairs of a kind are judged together.
  """

  given: dict
  sensitive: tuple[int, ...]
  cues: tuple[int, ...]
  kind: str = ""


def made(rng: np.random.Generator, nouns: int | None = None) -> Pair:
  """Words with a noun or two among them / it, verb, adverb; in any order."""
  gender = int(rng.integers(2))
  nouns = int(rng.integers(1, 3)) if nouns is None else nouns
  context = rng.choice(np.concatenate([_VERBS, _ADVERBS]), _CONTEXT)
  cues = np.sort(rng.choice(_CONTEXT, nouns, replace=False))
  context[cues] = rng.choice(_NOUNS[gender], nouns)
  verb, adverb = rng.choice(_VERBS), rng.choice(_ADVERBS)
  # The target's verb comes last, so that the pronoun's place is not its first.
  pronoun = int(rng.integers(2))  # Whether an adverb stands before it.
  words = [adverb + _FOREIGN, _PRONOUNS[gender]]
  current = [_IT, verb, adverb]
  if not pronoun:
    words.reverse()
    current = [_IT, adverb, verb]
  given = {
    "encoder_with": [int(i) for i in (*context, _BREAK, *current)],
    "encoder_without": [int(i) for i in current],
    "decoder": [int(i) for i in (*words, verb + _FOREIGN)],
    "context_span": [0, _CONTEXT],
  }
  kind = "one noun" if nouns == 1 else "two nouns"
  return Pair(given, (pronoun,), tuple(cues.tolist()), kind)


def batch(rng: np.random.Generator, size: int) -> dict[str, np.ndarray]:
  """Pairs as arrays: the context is there in half of them."""
  pairs = [made(rng).given for _ in range(size)]
  ids, seen = np.zeros((2, size, _CONTEXT + 4), np.int32)
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
      num_buckets=8, max_distance=16, tied=False, output_scale=1.0,
    )
  )  # fmt: skip
  params = jax.tree.map(
    lambda x: _WIDER * x if x.ndim > 1 else x, net.init(jax.random.key(seed))
  )
  schedule = optax.warmup_cosine_decay_schedule(
    0.0, 3e-3, config.steps // 10, config.steps
  )
  optimizer = optax.chain(optax.clip_by_global_norm(1.0), optax.adam(schedule))

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
  net: sites.Network, pairs: list[Pair], key: jax.Array, split: bool = False
) -> Iterator[Row]:
  """Rows of CTI by metric, and of CCI by method and target.

  Args:
    net: of these pairs.
    pairs: each with a sensitive token and a cue at least.
    key: consumed; where masks are drawn.
    split: kinds of pairs are those that need the context and the others.
  """
  found: dict[tuple[str, ...], list[tuple[float, ...]]] = {}
  rng = np.random.default_rng(0)

  def keep(name, values, truth):
    values = np.abs(values)
    precision = citation_quality.average_precision(values, truth)
    chosen = selectors.select(values)
    scores = precision, f1(chosen, truth, len(values))
    found.setdefault(name, []).append(scores)

  for number, pair in enumerate(pairs):
    runs = runs_lib.Runs.of_dict(net, pair.given)
    both = sensitivity.logits(net, runs)
    kind, at = pair.kind, list(pair.sensitive)
    if split:
      right, bare = (
        np.asarray(x.argmax(axis=-1) == runs.response)[at].all() for x in both
      )
      kind = "needs context" if right and not bare else "other"
    for metric in METRICS:
      values = sensitivity.scores(net, runs, metric, predictions=both)
      keep(("cti", kind, metric, ""), values, pair.sensitive)
    for step, size, truth in (
      ("cti", len(runs.response), pair.sensitive),
      ("cci", runs.num_context, pair.cues),
    ):
      for draw in rng.normal(size=(_DRAWS, size)):
        keep((step, kind, "random", ""), draw, truth)
    for (name, budget), target in itertools.product(METHODS.items(), TARGETS):
      if name == "attention" and target != TARGETS[0]:
        continue
      if name.startswith("exact") and budget < 2**runs.num_context:
        continue  # Of longer contexts than the toy's.
      cue = cues.impute(
        net, runs, pair.sensitive, both,
        method=name.split(",")[0], target=target, budget=budget,
        way="mask" if name.endswith("unknown") else "remove",
        key=jax.random.fold_in(key, number),
      )  # fmt: skip
      shown = "" if name == "attention" else target
      for scored in cue.scores:
        keep(("cci", kind, name, shown), scored, pair.cues)
      if cue.sets is not None and len(pair.cues) == 2:
        hit = _is_either(cue.sets, pair.cues)
        found.setdefault(("sets", kind, name, shown), []).append((hit,))
  for (step, kind, name, target), scores in found.items():
    means = np.round(np.mean(scores, axis=0), 4).tolist()
    measures = ("found",) if step == "sets" else ("average_precision", "f1")
    yield {
      "step": step, "kind": kind, "name": name, "target": target,
      "judged": len(scores),
    } | dict(zip(measures, means))  # fmt: skip


def _is_either(found: Any, pair: tuple[int, ...]) -> float:
  """Whether the largest pair of an explanation is this one, and negative."""
  single = found.fourier.num_targets is None
  values = found.interactions("BII", order=2, target=None if single else 0)
  sets = [(who, value) for who, value in values if len(who) == 2]
  if not sets:
    return 0.0
  who, value = max(sets, key=lambda each: abs(each[1]))
  return float(who == pair and value < 0)


def retrieved(net: sites.Network, count: int, seed: int = 0) -> list[Pair]:
  """Pairs of the task `retrieval` of `circuits.tasks`, for a causal model.

  Args:
    net: with a tokenizer that has places as single tokens; others are left out.
    count: the number of pairs.
    seed: of the draws.

  Raises:
    ValueError: no place is a single token.
  """
  rng, pairs = np.random.default_rng(seed), []
  (draw,) = tasks.TASKS["retrieval"]
  encode = lambda text: net.tokenizer.encode(
    text, add_special=False
  ).ids.tolist()
  front = encode("<|endoftext|>")
  for _ in range(_TRIES * count):
    drawn = draw(rng)
    text = drawn.template.format(**drawn.clean)
    at = text.index(_CURRENT)
    context, current = encode(text[:at]), encode(text[at:])
    place = encode(drawn.right[0])
    if len(place) > 1 or context.count(place[0]) != 1:
      continue
    response = place + encode(_GOES_ON)
    given = {
      "with_context": front + context + current + response,
      "without_context": front + current + response,
      "response_ids": response,
      "context_span": [len(front), len(front) + len(context)],
    }
    pairs.append(Pair(given, (0,), (context.index(place[0]),)))
    if len(pairs) == count:
      return pairs
  raise ValueError("No place of the task is a single token of this model.")


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
  held = [made(rng, 1 + i % 2) for i in range(config.held)]
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
  given = flags.FLAGS
  if bool(given.model) != (bool(given.pairs) or bool(given.retrieval)):
    raise app.UsageError("--model goes with --pairs or --retrieval.")
  if not given.model:
    found = run(CONFIGS[given.config], common)
  else:
    net = hub.load(given.model)
    pairs = (
      read(given.pairs) if given.pairs else retrieved(net, given.retrieval)
    )
    found = (
      common | row for row in judged(net, pairs, jax.random.key(2), split=True)
    )
  rows.write(found, flags.FLAGS.output)


def _define() -> None:
  flags.DEFINE_enum("config", "full", list(CONFIGS), "Sizes.")
  flags.DEFINE_string(
    "model", None, "A directory or hub name of a model that generates."
  )
  flags.DEFINE_string("pairs", None, "Its pairs, .jsonl of ids.")
  flags.DEFINE_integer(
    "retrieval", 0, "Pairs of a task that are drawn.", lower_bound=0
  )
  flags.DEFINE_string("output", None, "A file for the rows, too.")


if __name__ == "__main__":
  _define()
  command.start(main)
