"""Which attention heads does a task need, and which work together?

  python -m experiments.spex_heads --model=STORIES260K
  python -m experiments.spex_heads --model=gpt2 --tasks=pronoun,recall
  python -m experiments.spex_heads --model=DIR --tasks=gender,capital \
    --config=large --value=margin
  python -m experiments.spex_heads --model=DIR_OR_NAME --prompts=mine.txt

Heads are the players, the value is a causal language model's accuracy on a task
of `experiments.tasks` or of `circuits.tasks` (whether the right next tokens are
above the wrong ones, on prompts of a few tokens), or, with --prompts, a file
with one beginning a line, the mean log-probability of what the model itself
says next. For every task: R^2 of each decoder on held-out masks; how much of
the interactions' energy lies within layers; and pruning to k heads, as
ProxySPEX (arXiv 2505.17495, section 5) does on MMLU: heads are chosen on one
half of the questions, and accuracy is given on the other half, for

  proxyspex, spex  the optimum of the sparse expansion
  lasso            the largest of first-order effects on as many masks
  coar             the same, fitted where few heads are absent
  random           the best of as many random subsets of k heads
  greedy           dropping the head that costs least, one by one

With --value=margin heads are chosen by the mean log-probability of the right
answer above the largest other's, which says more per question.

With --layers only the heads of these are players: where a network has many, few
masks that lack half of all heads leave anything to explain.

Absent heads give zero, and what is left of a layer is scaled up (--rescale).
The accuracy of the unpruned model is printed. JSON lines, then tables;
--figure draws accuracy by heads kept.

Expect `quick` in a minute and `full` in half an hour for the three tasks of
stories260K on 2 CPU cores: pronouns 100 % right with 10 of 40 heads by
ProxySPEX, 83.3 by lasso. `large` on SmolLM2's last six layers takes two minutes
a task: gender 100 % with 14 of 54 heads, 95.3 by lasso.

Shapes: n heads, B masks, Q questions.
"""

import dataclasses
import pathlib
from collections.abc import Callable, Iterator, Sequence

import jax
import numpy as np
from absl import flags

import spex_jax as spex
from experiments import command, rows, tasks
from spex_jax import base
from spex_jax.ablate import components, likelihoods, parts, readouts
from spex_jax.circuits import tasks as circuits_tasks
from spex_jax.components import coar, layer_energy, pruning
from spex_jax.influence import datamodels
from spex_jax.masks import sampling
from spex_jax.models import hub, sites, tokens
from spex_jax.report import plots

DECODERS = ("proxyspex", "spex")
METHODS = (*DECODERS, "lasso", "coar", "random", "greedy")
# Masks that heads are chosen by, of a call; those that are judged come alone,
# and each batch is padded to its size.
_BATCH = rows.KEPT


@dataclasses.dataclass(frozen=True)
class Config:
  """What to compare.

  Attributes:
    budget: masks that each decoder may ask for.
    shares: of the heads that are kept.
    methods: of pruning.
    num_seeds: of masks, each a comparison of its own.
    most: questions of a task, the first of them; None for all.
    asked: prompts of a task of pairs that heads are chosen on.
    judged: and others that accuracy is given on.
    drawn: random subsets of each size.
    keep: the probability with which COAR's masks keep a head.
    time_limit: seconds for each search of the best subset.
    layers: whose heads are players; all where empty.
  """

  budget: int = 1000
  shares: tuple[float, ...] = (0.9, 0.75, 0.5, 0.35, 0.25)
  methods: tuple[str, ...] = METHODS
  num_seeds: int = 1
  most: int | None = None
  asked: int = 16
  judged: int = 64
  drawn: int = 1000
  keep: float = 0.9
  time_limit: float = 5.0
  layers: tuple[int, ...] = ()


CONFIGS = {
  "full": Config(),
  "quick": Config(
    budget=64,
    shares=(0.75, 0.5),
    methods=("proxyspex", "lasso", "coar", "random"),
    num_seeds=1,
    most=16,
    asked=2,
    judged=4,
    drawn=64,
    time_limit=2.0,
  ),
  "large": Config(
    methods=("proxyspex", "lasso", "random"),
    asked=8,
    drawn=200,
    time_limit=20.0,
  ),
}


@dataclasses.dataclass(frozen=True)
class Problem:
  """A task, ready to be asked.

  Attributes:
    name: of the task.
    heads: players.
    choose: value function of the questions that heads are chosen on.
    judge: of the others.
    units: of the values.
  """

  name: str
  heads: parts.Players
  choose: base.ValueFn
  judge: base.ValueFn
  units: str


def of_task(
  net: sites.Network,
  name: str,
  config: Config,
  rescale: bool,
  value: likelihoods.Value,
) -> Problem:
  """Accuracy on a task; one half of the questions, drawn, is for judging."""
  questions = tasks.TASKS[name]()
  order = np.random.default_rng(0).permutation(len(questions))
  questions = [questions[i] for i in order[: config.most]]
  value_fns, heads = [], None
  judge_by: likelihoods.Value = "accuracy"
  for part, read_as, batch in (
    (questions[::2], value, _BATCH), (questions[1::2], judge_by, 1),
  ):  # fmt: skip
    asked = tasks.rows(part, net.tokenizer)
    read = likelihoods.choice(
      asked.num_tokens, asked.num_choices, value=read_as
    )
    heads, value_fn = _evaluator(
      net, asked.inputs, read, rescale, config.layers, batch
    )
    value_fns.append(value_fn)
  assert heads is not None
  return Problem(name, heads, *value_fns, units="accuracy")


def of_pairs(
  net: sites.Network,
  name: str,
  config: Config,
  rescale: bool,
  value: likelihoods.Value,
  kept: rows.Kept,
) -> Problem:
  """A task of `circuits.tasks`; the last of its prompts are for judging."""
  made = circuits_tasks.make(
    name, net.tokenizer, config.asked + config.judged, jax.random.key(0),
    start="<|endoftext|>",
  ).pairs  # fmt: skip
  value_fns, heads = [], None
  judge_by: likelihoods.Value = "accuracy"
  for part, read_as, batch in (
    (made[: config.asked], value, _BATCH),
    (made[config.asked :], judge_by, 1),
  ):
    asked = tasks.of_pairs(part, read_as)
    heads, value_fn = _evaluator(
      net, asked.inputs, asked.read, rescale, config.layers, batch
    )
    value_fns.append(kept.values(f"{name} {read_as}", value_fn))
  assert heads is not None
  return Problem(name, heads, *value_fns, units=value)


def of_prompts(
  net: sites.Network,
  path: pathlib.Path,
  rescale: bool,
  layers: Sequence[int] = (),
) -> Problem:
  """Log-probability of the model's own next token, mean over prompts.

  Raises:
    ValueError: fewer than two prompts.
  """
  lines = [line for line in path.read_text("utf-8").splitlines() if line]
  if len(lines) < 2:
    raise ValueError(f"{path} must hold two beginnings or more, a line each.")
  value_fns, heads = [], None
  for part, batch in ((lines[::2], _BATCH), (lines[1::2], 1)):
    found = [net.tokenizer.encode(line).ids for line in part]
    inputs = tokens.padded(found, max(map(len, found)) + 1)  # Room for one.
    ids, seen = inputs["input_ids"], inputs["attention_mask"]
    ends = seen.sum(axis=1)
    logits = net.apply(
      net.params, input_ids=ids[:, :-1], attention_mask=seen[:, :-1]
    ).logits
    own = np.asarray(logits)[np.arange(len(ids)), ends - 1].argmax(axis=1)
    ids[np.arange(len(ids)), ends] = own
    seen[np.arange(len(ids)), ends] = 1
    read = likelihoods.continuation(1)
    heads, value_fn = _evaluator(net, inputs, read, rescale, layers, batch)
    value_fns.append(value_fn)
  assert heads is not None
  return Problem("prompts", heads, *value_fns, units="nat")


def _evaluator(net, inputs, read, rescale, layers, batch):
  """Heads, and the mean of `read` over rows as a value function."""
  at = components.shapes(net, net.params, **inputs)
  if layers:
    own = tuple(f"blocks.{layer}." for layer in layers)
    at = {site: shape for site, shape in at.items() if site.startswith(own)}
  heads = components.heads(at)
  mean = lambda output, given: read(output, given).mean(keepdims=True)
  if isinstance(read, readouts.Prediction):
    mean = dataclasses.replace(
      read,
      whole=lambda output, given: read.whole(output, given).mean(keepdims=True),
      of=lambda logits, given: read.of(logits, given).mean(keepdims=True),
    )
  return heads, components.evaluator(
    net, heads, inputs, mean, rescale=rescale, batch_size=batch
  )


def run(problem: Problem, config: Config) -> Iterator[rows.Row]:
  """Yields rows: the whole model, each decoder, each pruned model."""
  n = problem.heads.n
  whole = np.ones((1, n), bool)
  common = {"task": problem.name, "units": problem.units, "heads": n}
  yield common | {
    "row": "unpruned",
    "chosen_on": _value(problem.choose, whole),
    "judged_on": _value(problem.judge, whole),
    "without_any": _value(problem.judge, ~whole),
  }
  counts = sorted({max(1, round(share * n)) for share in config.shares})
  for seed in range(config.num_seeds):
    key = jax.random.fold_in(jax.random.key(0), seed)
    for number, method in enumerate(config.methods):
      chosen, fact = _CHOOSERS.get(method, _decoder)(
        problem, config, counts, jax.random.fold_in(key, number), method
      )
      if fact:
        yield common | {"row": "decoder", "method": method, "seed": seed} | fact
      for count in counts:
        choice = chosen[count]
        yield common | {
          "row": "pruned",
          "method": method,
          "seed": seed,
          "kept": count,
          "chosen_on": _value(problem.choose, choice.mask[None]),
          "judged_on": _value(problem.judge, choice.mask[None]),
          "asked": choice.asked,
          "proved": choice.proved,
        }


def _decoder(problem, config, counts, key, method):
  explanation = spex.explain(
    problem.choose,
    problem.heads.n,
    budget=config.budget,
    method=method,
    key=key,
    batch_size=_BATCH,
    names=problem.heads.names,
    units=problem.units,
  )
  fourier = explanation.fourier
  if fourier.count > _MOST:  # Beyond that a search proves nothing in time.
    fourier = fourier.truncate(_MOST)
  energy = layer_energy.energy(
    fourier, layer_energy.of_names(problem.heads.names)
  )
  chosen = {
    count: pruning.by_expansion(fourier, count, time_limit=config.time_limit)
    for count in counts
  }
  asked = explanation.num_evaluations
  chosen = {k: one._replace(asked=asked) for k, one in chosen.items()}
  score, error = explanation.faithfulness, explanation.faithfulness_std
  return chosen, {
    "r2": None if score is None else round(score, 4),
    "r2_std": None if score is None else round(error, 4),
    "terms": int(explanation.fourier.count),
    "interactions_share": _rounded(energy.interaction_share),
    "within_layers": _rounded(energy.within_share),
    "pairs_within_layers": _rounded(energy.chance),
  }


def _lasso(problem, config, counts, key, method):
  del method
  masks = sampling.uniform(key, config.budget, problem.heads.n)
  found = datamodels.lasso(masks, np.asarray(problem.choose(masks)))
  return _by_scores(found.scores[0], counts, config.budget), {}


def _coar(problem, config, counts, key, method):
  del method
  found = coar.attribute(
    problem.choose,
    problem.heads.n,
    key=key,
    budget=config.budget,
    keep=config.keep,
  )
  return _by_scores(found.scores[0], counts, config.budget), {}


def _random(problem, config, counts, key, method):
  del method
  return {
    count: pruning.best_of_random(
      problem.choose,
      problem.heads.n,
      count,
      config.drawn,
      jax.random.fold_in(key, count),
    )
    for count in counts
  }, {}


def _greedy(problem, config, counts, key, method):
  del config, key, method
  return pruning.greedy(problem.choose, problem.heads.n, counts), {}


_MOST = 300  # Terms of an expansion that is searched.
_CHOOSERS: dict[str, Callable] = {
  "lasso": _lasso,
  "coar": _coar,
  "random": _random,
  "greedy": _greedy,
}


def _by_scores(scores, counts, asked):
  return {
    count: pruning.by_scores(scores, count)._replace(asked=asked)
    for count in counts
  }


def _value(value_fn: base.ValueFn, masks: np.ndarray) -> float:
  return round(float(np.asarray(value_fn(masks))[0]), 4)


def _rounded(value: float) -> float | None:
  return round(value, 4) if np.isfinite(value) else None


def table(found: Sequence[rows.Row]) -> str:
  """Of one task: what each method keeps of its value, mean over seeds."""
  pruned = [row for row in found if row["row"] == "pruned"]
  whole = next(row for row in found if row["row"] == "unpruned")
  counts = sorted({row["kept"] for row in pruned}, reverse=True)
  lines = []
  for method in dict.fromkeys(row["method"] for row in pruned):
    own = [row for row in pruned if row["method"] == method]
    cells = [method, str(max(row["asked"] for row in own))]
    for count in counts:
      values = [row["judged_on"] for row in own if row["kept"] == count]
      cells.append(f"{np.mean(values):.3f}")
    lines.append(cells)
  head = [
    f"{whole['task']}, unpruned {whole['judged_on']:.3f}",
    "masks",
    *(f"{count} of {whole['heads']}" for count in counts),
  ]
  return rows.table(head, lines)


def draw(found: Sequence[rows.Row], path: str) -> None:
  """A panel for each task: value by heads kept."""
  names = list(dict.fromkeys(row["task"] for row in found))
  figure = plots.blank(4.2 * len(names), 3.6, arranged=True)
  panels = np.atleast_1d(figure.subplots(1, len(names)))
  for axes, name in zip(panels, names):
    own = [row for row in found if row["task"] == name]
    pruned = [row for row in own if row["row"] == "pruned"]
    for method in dict.fromkeys(row["method"] for row in pruned):
      points = {}
      for row in pruned:
        if row["method"] == method:
          points.setdefault(row["kept"], []).append(row["judged_on"])
      counts = sorted(points)
      means = [np.mean(points[count]) for count in counts]
      axes.plot(counts, means, "o-", ms=3, label=method)
    whole = next(row for row in own if row["row"] == "unpruned")
    axes.axhline(whole["judged_on"], color="black", lw=0.8, ls=":")
    axes.set_title(f"{name} (dotted: unpruned)", fontsize=9)
    axes.set_xlabel("heads kept")
    axes.set_ylabel(whole["units"])
  panels[0].legend(fontsize=7)
  plots.save(figure, path)


def main(argv):
  """Prints rows and tables."""
  del argv
  given = flags.FLAGS
  layers = tuple(map(int, given.layers))
  config = dataclasses.replace(CONFIGS[given.config], layers=layers)
  net = hub.load(given.model)
  kept = rows.Kept(
    given.workdir,
    given.model,
    given.rescale,
    config.asked,
    config.judged,
    layers,
  )
  if given.prompts:
    path = pathlib.Path(given.prompts)
    problems = [of_prompts(net, path, given.rescale, config.layers)]
  else:
    problems = [
      of_task(net, name, config, given.rescale, given.value)
      if name in tasks.TASKS
      else of_pairs(net, name, config, given.rescale, given.value, kept)
      for name in given.tasks
    ]
  common = rows.common("spex_heads")
  parts = (row for problem in problems for row in run(problem, config))
  found = rows.write((common | row for row in parts), given.output)
  for problem in problems:
    print()
    print(table([row for row in found if row["task"] == problem.name]))
  if given.figure:
    draw(found, given.figure)


if __name__ == "__main__":
  # Defined here, so that a test may import several experiments.
  flags.DEFINE_enum("config", "full", sorted(CONFIGS), "Which sizes.")
  flags.DEFINE_string("model", None, "Directory or hub name.", required=True)
  known = [*tasks.TASKS, *circuits_tasks.TASKS]
  command.some_of("tasks", tasks.TASKS, known, "Which tasks")
  flags.DEFINE_string("prompts", None, "File of beginnings, instead of tasks.")
  flags.DEFINE_enum(
    "value",
    "accuracy",
    ["accuracy", "margin"],
    "What heads are chosen by; margin: of log-probabilities. Judged is "
    "accuracy.",
  )
  flags.DEFINE_bool("rescale", True, "Scale what is left of a layer up.")
  flags.DEFINE_list("layers", [], "Whose heads are players; all by default.")
  flags.DEFINE_string("workdir", None, "Where values of pairs are kept.")
  flags.DEFINE_string("output", None, "File for the rows, as well.")
  flags.DEFINE_string("figure", None, "File for a figure.")
  command.start(main)
