"""The removal test: what changes when the most influential features go?

  python -m experiments.spex_removal --config=full --figure=removal.png

Every method explains the same inputs with the same budget of masks. Then the k
features whose removal its answer says changes the output most, up or down, are
removed (SPEX, arXiv 2502.13870, section on feature identification): the
optimum of the expansion, which for one value a feature is its largest values of
one sign. Shown is |f(all) - f(without them)| / |f(all)| as the paper has it,
with the standard error over inputs; more is better. `random` removes k drawn
features, the mean of 16 draws.

Any configuration of `spex explain` will do, with a setting that numbers its
inputs, or a family of `experiments.games`, with its seeds (a recorded game
cannot be asked for the masks of this test):

  python -m experiments.spex_removal --subject=cancer --vary=row \
    --set=model.kind=mlp
  python -m experiments.spex_removal --game=pixels64

Expect, on digits with `--inputs=4 --budget=600`, that any method changes .34 to
.37 of |f(all)| by one pixel of 64 and 2.05 to 2.20 by 16 (`random`: .04 and
.41), in 10 minutes on 2 busy CPU cores, most of it `auto`; `full` asks for more
of both. `quick` takes under a minute.

Shapes: n players, k of them removed.
"""

import dataclasses
import pathlib
import tempfile
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
from absl import flags, logging

import spex_jax as spex
from experiments import command, games, rows
from spex_jax import base, cli
from spex_jax.ablate import gradients
from spex_jax.indices import deletion
from spex_jax.jobs import explain as job
from spex_jax.report import plots

_DRAWS = 16
METHODS = ("auto", "lasso", "occlusion", "lime", "kernelshap")


@dataclasses.dataclass(frozen=True)
class Config:
  """What to compare.

  Attributes:
    num_inputs: how many are explained, from number 0 on.
    budget: masks that each method may ask for.
    counts: numbers of features to remove; those above n are left out.
    methods: of masks; those by gradients come on top where there are any.
    time_limit: seconds for each search of the best set.
  """

  num_inputs: int
  budget: int
  counts: tuple[int, ...]
  methods: tuple[str, ...] = METHODS
  time_limit: float = 2.0


CONFIGS = {
  "quick": Config(2, 150, (1, 2, 4), ("lasso", "occlusion", "kernelshap")),
  "full": Config(8, 2000, (1, 2, 3, 4, 6, 8, 12, 16)),
}


class Question(NamedTuple):
  """One input to be explained.

  Attributes:
    name: of the input.
    n: players.
    value_fn: answers `[B]`.
    explain: a method and a budget to an `Explanation`.
    methods: that it has besides those of masks.
  """

  name: str
  n: int
  value_fn: base.ValueFn
  explain: Callable[[str, int], spex.Explanation]
  methods: tuple[str, ...] = ()


def of_subject(
  name: str, vary: str, changes: dict[str, Any], number: int, workdir: str
) -> Question:
  """Input `number` of a configuration of `spex explain`.

  Args:
    name: of the configuration, or a file, with `:SIZE`.
    vary: the setting that numbers its inputs.
    changes: of other settings, by dotted name.
    number: of the input.
    workdir: where a trained network is kept.

  Raises:
    ValueError: a setting that it does not have, or a value that it is not.
  """
  # Texts and images offer their gradient only to a method that goes by it.
  changes = {
    **changes, vary: number, "method": gradients.METHODS[0],
    "target_faithfulness": None,
  }  # fmt: skip
  config = cli.load_config(name, changes=changes)
  subject = job.subject_of(config, pathlib.Path(workdir))

  def explain(method, budget):
    asked = dataclasses.replace(config, method=method, budget=budget)
    return job.answer(subject, subject.evaluator, asked)

  more = gradients.METHODS if subject.game is not None else ()
  evaluator = subject.evaluator
  return Question(f"{vary} {number}", evaluator.n, evaluator, explain, more)


def of_game(family: str, seed: int) -> Question:
  """A game of `experiments.games`, drawn by a seed."""
  game = games.make(family, seed)
  value_fn: Any = game.value_fn
  clean: Any = game.clean

  def explain(method, budget):
    return spex.explain(
      value_fn,
      game.n,
      budget=budget,
      method=method,
      key=jax.random.key(seed),
    )

  return Question(f"seed {seed}", game.n, clean, explain)


def run(config: Config, ask: Callable[[int], Question]) -> Iterator[rows.Row]:
  """Yields a row per input, method and k.

  Args:
    config: what to compare.
    ask: the question of a number.
  """
  common = rows.common("spex_removal")
  for number in range(config.num_inputs):
    question = ask(number)
    counts = [k for k in config.counts if k <= question.n]
    head = common | {
      "input": question.name,
      "n": question.n,
      "budget": config.budget,
    }
    yield from (head | row for row in _by_chance(question, counts, number))
    for method in (*config.methods, *question.methods):
      found = question.explain(method, config.budget)
      curve = deletion.removal_curve(
        found.fourier,
        question.value_fn,
        counts,
        time_limit=config.time_limit,
      )
      score = found.faithfulness
      for i, k in enumerate(counts):
        yield head | {
          "method": method,
          "k": k,
          "change": float(abs(curve.actual[i] / curve.full)),
          "predicted": float(abs(curve.predicted[i] / curve.full)),
          "proved": curve.status[i] == "optimal",
          "r2": None if score is None else float(score),
          "r2_std": None if score is None else float(found.faithfulness_std),
          "masks": found.num_evaluations,
          "seconds": round(found.seconds["total"], 2),
        }


def _by_chance(question, counts, number):
  rng = np.random.default_rng([number, 7])
  for k in counts:
    draws = rng.random((_DRAWS, question.n))
    masks = draws.argsort(axis=1).argsort(axis=1) >= k
    masks = np.concatenate([np.ones((1, question.n), bool), masks])
    full, *values = np.asarray(question.value_fn(masks), np.float64)
    change = np.abs((full - np.asarray(values)) / full).mean()
    yield {"method": "random", "k": k, "change": float(change)}


def curves(
  measured: Sequence[rows.Row],
) -> dict[str, dict[int, tuple[float, float]]]:
  """Method to k to the mean change and its standard error over inputs."""
  cells: dict[str, dict[int, list[float]]] = {}
  for row in measured:
    by_count = cells.setdefault(row["method"], {})
    by_count.setdefault(row["k"], []).append(row["change"])
  return {
    method: {k: _mean_and_error(changes) for k, changes in by_count.items()}
    for method, by_count in cells.items()
  }


def _mean_and_error(changes):
  if len(changes) < 2:
    return float(np.mean(changes)), 0.0
  error = np.std(changes, ddof=1) / np.sqrt(len(changes))
  return float(np.mean(changes)), float(error)


def table(measured: Sequence[rows.Row]) -> str:
  """A markdown table: methods by k; the largest change of a column is bold."""
  found = curves(measured)
  counts = sorted({row["k"] for row in measured})
  best = {k: max(c[k][0] for c in found.values() if k in c) for k in counts}
  lines = []
  for method, by_count in found.items():
    own = [row for row in measured if row["method"] == method]
    scores = [row["r2"] for row in own if row.get("r2") is not None]
    told = "{:.2f} ± {:.2f}".format(*_mean_and_error(scores)) if scores else "–"
    cells = [method, told]
    for k in counts:
      mean, error = by_count.get(k, (np.nan, np.nan))
      text = f"{mean:.2f} ± {error:.2f}"
      cells.append(f"**{text}**" if mean == best[k] else text)
    lines.append(cells)
  return rows.table(["method", "R²", *(f"k = {k}" for k in counts)], lines)


def draw(measured: Sequence[rows.Row], path: pathlib.Path) -> None:
  """The curves, with bars of one standard error."""
  from matplotlib import figure  # Slow to import.

  drawn = figure.Figure(figsize=(6, 4), layout="constrained")
  axes = drawn.subplots()
  for method, by_count in curves(measured).items():
    counts = sorted(by_count)
    means, errors = zip(*(by_count[k] for k in counts))
    style = "--" if method == "random" else "-"
    axes.errorbar(
      counts, means, errors, label=method, marker="o", ms=3, ls=style
    )
  axes.set_xlabel("features removed, k")
  axes.set_ylabel("|f(all) - f(without them)| / |f(all)|")
  axes.legend()
  plots.save(drawn, path)


def _changes(pairs: Sequence[str]) -> dict[str, Any]:
  """`KEY=VALUE` with values as Python literals, or else as text."""
  import ast

  out: dict[str, Any] = {}
  for pair in pairs:
    key, equals, text = pair.partition("=")
    if not equals:
      raise ValueError(f"--set={pair}: write KEY=VALUE.")
    try:
      out[key] = ast.literal_eval(text)
    except (ValueError, SyntaxError):
      out[key] = text
  return out


def main(argv):
  """Prints rows and a table; draws where the flags say."""
  del argv
  args = flags.FLAGS
  logging.set_verbosity(logging.WARNING)  # Checkpoints would be told of.
  config = CONFIGS[args.config]
  changes: dict[str, Any] = {
    "num_inputs": args.inputs,
    "budget": args.budget,
    "methods": tuple(args.methods) or None,
  }
  config = dataclasses.replace(
    config, **{k: v for k, v in changes.items() if v is not None}
  )
  settings = _changes(args.set)
  with tempfile.TemporaryDirectory() as folder:
    workdir = args.workdir or folder
    ask = lambda number: of_subject(
      args.subject, args.vary, settings, number, workdir
    )
    if args.game:
      ask = lambda seed: of_game(args.game, seed)
    measured = rows.write(run(config, ask), args.output)
  if args.figure:
    draw(measured, pathlib.Path(args.figure))
  print(table(measured))


if __name__ == "__main__":
  flags.DEFINE_string("subject", "digits", "Configuration of `spex explain`.")
  flags.DEFINE_string("vary", "image", "Its setting that numbers the inputs.")
  flags.DEFINE_multi_string("set", [], "KEY=VALUE: another of its settings.")
  flags.DEFINE_string("workdir", None, "Where its network is kept.")
  flags.DEFINE_string("game", None, f"Instead: of {', '.join(games.FAMILIES)}.")
  flags.DEFINE_integer("inputs", None, "How many, instead.")
  flags.DEFINE_integer("budget", None, "Masks, instead.")
  flags.DEFINE_list("methods", [], "Methods of masks, instead.")
  flags.DEFINE_string("figure", None, "File for the figure.")
  command.run(main, CONFIGS)
