"""`spex circuit score` and `spex circuit judge`: files in, tables out."""

import dataclasses
import pathlib
from collections.abc import Sequence
from typing import Any

from spex_jax import settings
from spex_jax.circuits import (
  ablations,
  circuit_files,
  measured,
  metrics,
  scored,
)
from spex_jax.circuits import graph as graph_lib
from spex_jax.circuits import judged as judged_lib
from spex_jax.circuits import pairs as pairs_lib
from spex_jax.jobs import circuits, networks
from spex_jax.models import sites
from spex_jax.report import clock as clock_lib


@dataclasses.dataclass(frozen=True)
class Score(circuits.Scoring, circuits.Asked):
  """`spex circuit score`."""

  pairs: str = settings.field("", "a file of pairs; needed")
  level: str = settings.field(
    "edge", "what is scored", choices=graph_lib.LEVELS
  )
  output: str = settings.field("scores.csv", "that is written", place=True)
  top: int = settings.field(10, "edges that are printed", low=0)


@dataclasses.dataclass(frozen=True)
class Judge(circuits.Judging, circuits.Asked):
  """`spex circuit judge`."""

  pairs: str = settings.field("", "a file of pairs; needed")
  circuit: tuple[str, ...] = settings.field((), "files of circuits; needed")
  ablation: str = settings.field(
    "resample",
    "what edges outside a circuit carry",
    choices=tuple(ablations.KINDS),
  )
  grouped: bool = settings.field(
    True, "no: files have a row for each head at shared keys and values"
  )
  prune: bool = settings.field(
    True, "edges on no path to the output are left out first"
  )
  output: str = settings.field("judged.csv", "that is written", place=True)


def score(
  config: Score, show: circuits.Show | None = None, before: float = 0.0
) -> scored.Scores:
  """`spex circuit score`: scores of pairs into a CSV file.

  Args:
    config: the settings of the command.
    show: takes a line or a rich table; prints by default.
    before: seconds of the command that have passed already.

  Raises:
    ValueError: what is wrong with model, pairs, metric or settings.
  """
  said = clock_lib.Session(show, before)
  output = circuits.writable(config.output)
  net, pairs, metric = _opened(config, config.pairs, said)
  with said.of("score"):
    found = circuits.scored_by(
      config, net, pairs, metric,
      level=config.level, size=config.batch_size, seed=config.seed,
    )  # fmt: skip
  found.write_csv(output)
  said.facts(circuits.scored_lines(found))
  if config.top:
    said.show(circuits.edges_table(found, config.top))
  said.end(output)
  return found


def judge(
  config: Judge, show: circuits.Show | None = None, before: float = 0.0
) -> judged_lib.Judged:
  """`spex circuit judge`: what circuits of files do, into a CSV file.

  Args:
    config: the settings of the command.
    show: takes a line or a rich table; prints by default.
    before: seconds of the command that have passed already.

  Raises:
    ValueError: what is wrong with model, pairs, circuits or settings; pairs
      that show no effect on the whole, whose metrics are written.
  """
  said = clock_lib.Session(show, before)
  if not config.circuit:
    raise ValueError("--circuit is missing: one or more files of circuits.")
  output = circuits.writable(config.output)
  net, pairs, metric = _opened(config, config.pairs, said)
  graph = graph_lib.Graph.of(net, ungrouped=not config.grouped)
  found_in = {
    name: circuit_files.load(path, graph).circuit
    for name, path in zip(_names(config.circuit), config.circuit)
  }
  with said.of("judge"):
    found = circuits.judged_by(
      config, net, pairs, found_in, metric, prune=config.prune
    )
  circuits.write_rows(found.rows(), output)
  said.show(str(found))  # Refuses pairs that show no effect on the whole.
  said.tell(circuits.KEPT, circuits.kept_line(found))
  for line in found.doubts():
    said.tell("note", line)
  said.end(output)
  return found


def _opened(
  config: Any, path: str, said: clock_lib.Session
) -> tuple[sites.Network, pairs_lib.Pairs, metrics.Metric]:
  """Model, pairs and metric of a command, said and measured."""
  with said.of("load"):
    net = circuits.load(config)
    pairs = circuits.pairs_of(config, net, path)
  metric = circuits.metric_of(config, net)
  said.tell("model", networks.described(net, config.model))
  lengths = f"{pairs.lengths.min()} to {pairs.lengths.max()} tokens"
  count = circuits.counted(pairs, config.pairs)
  said.tell("pairs", f"{count}, {lengths}")
  with said.of("measure"):
    found = measured.measure(
      net, net.params, pairs, metric, size=config.batch_size
    )
  said.facts(circuits.measured_lines(config, found))
  return net, pairs, metric


def _names(paths_of: Sequence[str]) -> list[str]:
  """Stems of files, or their paths where two are alike."""
  stems = [pathlib.Path(path).stem for path in paths_of]
  names = stems if len({*stems}) == len(stems) else list(paths_of)
  if len({*names}) < len(names):
    raise ValueError(f"A circuit is given twice: {', '.join(names)}.")
  return names
