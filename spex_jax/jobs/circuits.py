"""What the commands of circuits share: models, pairs, metrics, scores."""

import dataclasses
import pathlib
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from spex_jax import settings
from spex_jax.circuits import (
  ablations,
  exact_effects,
  judges,
  measured,
  metrics,
  pair_files,
  path_gradients,
  scored,
  scores,
  second,
  tasks,
)
from spex_jax.circuits import graph as graph_lib
from spex_jax.circuits import judged as judged_lib
from spex_jax.circuits import pairs as pairs_lib
from spex_jax.jobs import callables, explain, networks, subjects
from spex_jax.models import sites, tokens, transformer
from spex_jax.report import clock as clock_lib
from spex_jax.report import progress
from spex_jax.report import tables as report_tables

KEPT = "faithfulness"  # The fact of what circuits keep.

Show = Callable[..., None]


@dataclasses.dataclass(frozen=True)
class Asked(networks.OfModel):
  """A model, and what is read off it."""

  metric: str = settings.field(
    "logit_difference",
    "of one pair: logit_difference, probability_difference, kl, or a function "
    "of your own, module:function",
  )
  bos: str = settings.field(
    "auto",
    "whether a text begins with a BOS token: as its tokenizer has it, yes, no",
    choices=tokens.BOS,
  )
  start: str = settings.field(
    "", "in front of every text, such as <|endoftext|>"
  )
  seed: int = settings.field(0, "of all draws")
  batch_size: int | None = settings.field(
    None, "pairs at a time; None takes about 256 tokens", low=1
  )


@dataclasses.dataclass(frozen=True)
class Scoring(settings.Settings):
  """How edges are scored."""

  method: str = settings.field(
    "eap-ig", "of scores; exact ones are kept, and gone on with where a run "
    "was killed, by `spex circuit find` alone", choices=scores.METHODS,
  )  # fmt: skip
  backward: str = settings.field(
    "gradient", "rules of gradients", choices=scores.BACKWARD
  )
  steps: int = settings.field(5, "gradients on a path", low=1)
  rule: str = settings.field(
    "midpoint",
    "where on it they are taken",
    choices=tuple(path_gradients.RULES),
  )
  ablation: str = settings.field(
    "resample", "what a cut edge carries", choices=tuple(ablations.KINDS)
  )
  grouped: bool = settings.field(
    True, "no: keys and values that heads share have a row for each of them"
  )
  direction: str = settings.field(
    "path", "of method=second-order", choices=tuple(second.DIRECTIONS)
  )
  draws: int = settings.field(8, "of its random signs", low=1)
  exact_runs: int = settings.field(
    0, "edges with the largest corrections that get exact effects", low=0
  )
  compared: int = settings.field(
    32, "edges whose exact effects are compared; 0 for none", low=0
  )


@dataclasses.dataclass(frozen=True)
class Judging(settings.Settings):
  """How circuits are judged."""

  tolerance: float = settings.field(
    judges.TOLERANCE, "of the checks of every run, as a share of the effect; "
    "narrow dtypes need more", above=0,
  )  # fmt: skip


def load(config: Asked) -> sites.Network:
  """The causal language model of `config.model`; it may lack a tokenizer.

  Raises:
    ValueError: no name, another kind of network, or what `hub.load` refuses.
  """
  net = networks.named(config, "a causal language model")
  if not isinstance(net.module, transformer.Decoder):
    raise ValueError(
      f"model={config.model!r} ({type(net.module).__name__}) is no causal "
      "language model, whose next token a circuit is asked for. Ask about its "
      "nodes by `spex attribute components`."
    )
  return net


def metric_of(config: Asked, net: sites.Network) -> metrics.Metric:
  """The metric that is named.

  Raises:
    ValueError: an unknown name, or a function that is no metric.
  """
  if config.metric in metrics.METRICS:
    return metrics.METRICS[config.metric]
  if ":" not in config.metric:
    raise ValueError(
      f"metric={config.metric!r}: choose from {', '.join(metrics.METRICS)}, or "
      "name a function of your own, module:function."
    )
  found = callables.load(config.metric, "metric")
  metrics.check(found, net.config.vocab_size)
  return found


def units_of(config: Asked) -> str:
  """Of the metric; its name where it is one's own."""
  return metrics.UNITS.get(config.metric, config.metric)


def pairs_of(config: Asked, net: sites.Network, path: str) -> pairs_lib.Pairs:
  """Pairs of a file that the model can read.

  Raises:
    ValueError: no file is named, or as `pair_files.load` and `Pairs.check`.
    FileNotFoundError: there is none.
  """
  if not path:
    raise ValueError("--pairs is missing: a .jsonl or .csv file of pairs.")
  path = str(pathlib.Path(path).expanduser())
  found = pair_files.load(path, net.tokenizer, config.bos, config.start)
  found.check(net.config.vocab_size, net.config.max_positions)
  return found


def counted(pairs: pairs_lib.Pairs, path: str) -> str:
  """How many pairs a file has, as a fact; and whether some are the same."""
  notes = [f"{len(pairs):,} of {path}"]
  if again := pairs.repeated:
    notes.append(
      f"{again} of them for the second time, so that intervals are too narrow"
    )
  lacking = int((pairs.wrong < 0).all(axis=1).sum())
  if 0 < lacking < len(pairs):
    notes.append(
      f"{lacking} without wrong answers, of which the metric is another one"
    )
  return "; ".join(notes)


def made(config: Asked, net: sites.Network, task: str, num: int) -> tasks.Made:
  """Pairs of a task.

  Raises:
    ValueError: a model without a tokenizer, or as `tasks.make`.
  """
  if net.tokenizer is None:
    raise ValueError(
      f"model={config.model!r} has no tokenizer.json, which templates of tasks "
      "need: give a file of token ids."
    )
  key = subjects.key_of(config.seed, f"task {task}")
  return tasks.make(
    task, net.tokenizer, num, key, start=config.start, bos=config.bos
  )


def scored_by(
  config: Scoring,
  net: sites.Network,
  pairs: pairs_lib.Pairs,
  metric: metrics.Metric,
  *,
  level: str = "edge",
  size: int | None = None,
  seed: int = 0,
  keep: Callable[[int], exact_effects.Keep] | None = None,
) -> scored.Scores:
  """Scores as settings ask for them, with progress.

  Raises:
    ValueError: as `scores.score`.
  """
  what = "cuts" if config.method == "exact" else "batches"
  with progress.sweep(1) as shown:
    return scores.score(
      net,
      net.params,
      pairs,
      metric,
      method=config.method,
      backward=config.backward,
      level=level,
      steps=config.steps,
      rule=config.rule,
      ablation=config.ablation,
      grouped=config.grouped,
      direction=config.direction,
      draws=config.draws,
      exact_runs=config.exact_runs,
      check=config.compared,
      size=size,
      seed=seed,
      keep=keep,
      progress=lambda done, of: shown(done, of, what),
    )


def able(
  config: Any,
  net: sites.Network,
  pairs: pairs_lib.Pairs,
  task: str,
  said: clock_lib.Session,
) -> metrics.Metric:
  """The metric that is named, of a model that can do the task.

  Args:
    config: the settings: how a metric is read, and whether to go on by `force`.
    net: the network, with its parameters.
    pairs: the pairs of prompts that the task has.
    task: the name of the task, for messages.
    said: is told what the model does on the pairs.

  Raises:
    ValueError: as `metric_of`, `measured.measure` and `Measured.check`.
  """
  metric = metric_of(config, net)
  found = measured.measure(
    net, net.params, pairs, metric, size=config.batch_size
  )
  said.facts(measured_lines(config, found))
  found.check(task, config.force)
  return metric


def measured_lines(
  config: Asked, found: measured.Measured
) -> Mapping[str, str]:
  """What a model does on pairs, as facts."""
  units = units_of(config)
  effect = abs(found.clean - found.corrupted).max()
  size = max(1.0, abs(found.clean).max())
  notes = {}
  if effect <= 1e-5 * size:
    notes["effect"] = "none: corrupting changes nothing that could be scored"
  if config.dtype in ("bfloat16", "float16"):
    notes["precision"] = (
      f"{config.dtype}: small effects are rounding; --config.dtype=float32 "
      "tells them"
    )
  return notes | {
    "accuracy": f"{found.accuracy:.1%} of {len(found.clean)} pairs; the "
    f"likeliest token is right in {found.first.mean():.1%}",
    "metric": f"{config.metric}: clean {found.clean.mean():+.4g}, corrupted "
    f"{found.corrupted.mean():+.4g} {units}",
  }


def kept_line(found: judged_lib.Judged) -> str:
  """Faithfulness of circuits with 95 % intervals, of many the first ones."""
  ends = zip(found.names, found.faithfulness(), found.interval())
  each = [f"{name} {f:.3f} ({a:.3f}..{b:.3f})" for name, f, (a, b) in ends]
  return report_tables.some(each)


def read_lines(told: Mapping[str, str]) -> tuple[float, float, float] | None:
  """Accuracy, clean and corrupted, of facts that have `measured_lines`."""
  share = re.match(r"([\d.]+)%", told.get("accuracy", ""))
  ends = re.search(r"clean (\S+), corrupted (\S+) ", told.get("metric", ""))
  if not (share and ends):
    return None
  return float(share[1]) / 100, float(ends[1]), float(ends[2])


def scored_lines(found: scored.Scores) -> Mapping[str, str]:
  """How scores were made, and what exact effects say of them, as facts."""
  passes = " and ".join(
    f"{count:,} {kind}" for kind, count in found.cost.items() if count
  )
  lines = {
    "scores": f"{found.method}: {len(found.names):,} {found.level}s on "
    f"{report_tables.count(len(found.values), 'pair')}",
    "cost": f"{passes} passes a pair",
  }
  if found.agreement is not None:
    lines["agreement"] = str(found.agreement)
  if found.ratio is not None:
    lines["reliability"] = (
      f"second order is more than half of the whole for "
      f"{(found.ratio > 0.5).mean():.1%} of edges"
      + (
        ""
        if found.checked is None
        else f"; {int(found.checked.sum())} have exact effects instead"
      )
    )
  return lines


def edges_table(found: scored.Scores, top: int, which: Any = None) -> Any:
  """A rich table of the largest scores, with intervals.

  Args:
    found: the scores of all edges, nodes or neurons.
    top: how many rows there are at most.
    which: numbers of those that are shown; all by default.
  """
  mean = found.mean()
  if found.level == "position":
    mean = mean.sum(axis=0)
  numbers = np.arange(len(mean)) if which is None else np.asarray(which)
  order = np.argsort(-np.abs(mean[numbers]), kind="stable")[:top]
  intervals = [""] * len(order)
  if len(found.values) > 1 and found.level != "position":
    ends = zip(*found.interval(which=numbers[order]))
    intervals = [f"{low:+.3g}..{high:+.3g}" for low, high in ends]
  rows, of_edges = [], found.level in ("edge", "position")
  for number, interval in zip(numbers[order].tolist(), intervals):
    name = found.graph.name(number) if of_edges else found.names[number]
    rows.append((f"{mean[number]:+.4g}", interval, name))
  what = "edge" if of_edges else found.level
  return report_tables.grid(("score", "95 %", what), rows, (what,))


def judged_by(
  config: Any,
  net: sites.Network,
  pairs: pairs_lib.Pairs,
  circuits: Mapping[str, graph_lib.Circuit],
  metric: metrics.Metric,
  prune: bool = True,
) -> judged_lib.Judged:
  """Circuits judged, with progress.

  Args:
    config: of `ablation`, `batch_size`, `tolerance` and `seed`.
    net: the network, with its parameters.
    pairs: the pairs of prompts that circuits are judged on.
    circuits: each name to its circuit.
    metric: what of an example's logits is kept or lost.
    prune: whether dangling edges are left out, as for `judges.faithfulness`.
  """
  with progress.sweep(len(circuits)) as shown:
    return judges.faithfulness(
      net,
      net.params,
      pairs,
      circuits,
      metric,
      ablation=config.ablation,
      prune=prune,
      size=config.batch_size,
      tolerance=config.tolerance,
      seed=config.seed,
      progress=lambda done, of: shown(done, of, "circuits"),
    )


def writable(output: str | pathlib.Path) -> pathlib.Path:
  """The path of a file, whose folder is made, and can be written.

  Raises:
    ValueError: it cannot, or is a folder.
  """
  path = pathlib.Path(output)
  if path.is_dir():
    raise ValueError(f"output={str(output)!r} is a folder; name a file.")
  explain.writable(path.parent, "output's folder")
  return path


def write_rows(rows: Sequence[Mapping[str, Any]], path: pathlib.Path) -> None:
  """Rows as a CSV file with a header; floats as they are read back."""
  import csv

  with path.open("w", newline="", encoding="utf-8") as file:
    writer = csv.DictWriter(file, list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(
      {
        name: repr(value) if isinstance(value, float) else value
        for name, value in row.items()
      }
      for row in rows
    )
