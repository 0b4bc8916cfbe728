"""`spex circuit tasks`: what a language model does on every task."""

import dataclasses

from spex_jax import settings
from spex_jax.circuits import measured, tasks
from spex_jax.jobs import circuits, networks
from spex_jax.report import clock as clock_lib
from spex_jax.report import tables as report_tables


@dataclasses.dataclass(frozen=True)
class Tasks(circuits.Asked):
  """`spex circuit tasks`."""

  tasks: tuple[str, ...] = settings.field(
    tuple(tasks.TASKS), "that are made", choices=tuple(tasks.TASKS)
  )
  num_pairs: int = settings.field(32, "of each", low=1)


def run(
  config: Tasks, show: circuits.Show | None = None, before: float = 0.0
) -> dict[str, measured.Measured]:
  """`spex circuit tasks`: what a model does on every task.

  Args:
    config: the settings of the command.
    show: takes a line or a rich table; prints by default.
    before: seconds of the command that have passed already.

  Raises:
    ValueError: what is wrong with model and metric.
  """
  said = clock_lib.Session(show, before)
  with said.of("load"):
    net = circuits.load(config)
  metric = circuits.metric_of(config, net)
  said.tell("model", networks.described(net, config.model))
  columns = (
    "task", "correct", "first", "clean", "corrupted", "tokens", "rejected"
  )  # fmt: skip
  rows, found, notes = [], {}, []
  # Each is made and measured, but those that this tokenizer has no pairs of.
  for name in config.tasks:
    with said.of(name):
      try:
        given = circuits.made(config, net, name, config.num_pairs)
      except ValueError as error:  # This tokenizer has no such pairs.
        if net.tokenizer is None:
          raise
        notes.append(str(error))
        rows.append((name, "-", "", "", "", "", "all"))
        continue
      one = measured.measure(
        net, net.params, given.pairs, metric, size=config.batch_size
      )
    found[name] = one
    lengths = given.pairs.lengths
    rows.append((
      name, f"{one.accuracy:.0%}", f"{one.first.mean():.0%}",
      f"{one.clean.mean():+.2f}", f"{one.corrupted.mean():+.2f}",
      f"{lengths.min()}..{lengths.max()}",
      f"{sum(given.rejected.values()):,}",
    ))  # fmt: skip
    if one.accuracy < measured.LEAST:
      notes.append(
        f"{name}: the model fails it (under {measured.LEAST:.0%} correct), so "
        "`spex circuit find` refuses it unless it is forced"
      )
    for reason, count in given.rejected.items():
      notes.append(f"{name}: {count:,} prompts {reason} rejected")
  # What the columns mean, the table, and what is odd about some.
  said.tell(
    "metric",
    f"{config.metric} in {circuits.units_of(config)}, means of "
    f"{config.num_pairs} pairs; correct: right answers above wrong ones; "
    "first: the likeliest token is right",
  )
  said.show(report_tables.grid(columns, rows, columns[:1]))
  for note in notes:
    said.tell("note", note)
  said.end()
  return found
