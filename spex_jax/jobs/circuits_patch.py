"""`spex circuit patch`: parts of one run put into another, as a heatmap."""

import dataclasses
import itertools
import pathlib

import numpy as np

from spex_jax import settings
from spex_jax.circuits import patching
from spex_jax.jobs import circuits, circuits_find, explain
from spex_jax.report import circuit_plots as figures
from spex_jax.report import clock as clock_lib
from spex_jax.report import plots, progress


@dataclasses.dataclass(frozen=True)
class Patch(circuits.Asked):
  """What is patched, and where."""

  subject: str = settings.field("lm", choices=("lm",))
  task: str = settings.field("ioi", "a task, or a file of pairs")
  num_pairs: int = settings.field(16, "of a task", low=1)
  sweep: str = settings.field(
    "resid_pre",
    "what is patched, one by one",
    choices=(*patching.SWEEPS, *patching.STACKS),
  )
  direction: str = settings.field(
    "denoise",
    "denoise puts the clean run's parts into the corrupted one, noise the "
    "reverse",
    choices=patching.DIRECTIONS,
  )
  spans: bool = settings.field(
    False, "places are the parts of the template, not positions"
  )
  force: bool = settings.field(False, "asks though the model fails the task")


def run(
  config: Patch,
  workdir: pathlib.Path,
  show: circuits.Show | None = None,
  before: float = 0.0,
) -> dict[str, patching.Patched]:
  """Patches, and writes a table and a heatmap of each sweep into `workdir`.

  Args:
    config: the settings of the command.
    workdir: made if it does not exist.
    show: takes a line or a rich table; prints by default.
    before: seconds of the command that have passed already.

  Raises:
    ValueError: what is wrong with model, task or settings.
  """
  explain.writable(workdir)
  said = clock_lib.Session(show, before)
  with said.of("load"):
    asked = circuits_find.of_task(config, config.task, config.num_pairs)
  net, pairs = asked.net, asked.pairs
  said.tell("asked", f"What does patching {config.sweep} do in {asked.task}?")
  said.facts(asked.facts)
  with said.of("measure"):
    metric = circuits.able(config, net, pairs, asked.task, said)
  found, wrote = {}, []
  for name in patching.STACKS.get(config.sweep, (config.sweep,)):
    with said.of(name), progress.sweep(1) as shown:
      one = patching.sweep(
        net,
        net.params,
        pairs,
        name,
        metric,
        direction=config.direction,
        spans=config.spans,
        size=config.batch_size,
        progress=lambda done, of: shown(done, of, "batches"),
      )
    found[name] = one
    rows = one.rows()
    circuits.write_rows(rows, workdir / f"{name}.csv")
    plots.save(_heatmap(one, name, config), workdir / f"{name}.png")
    wrote += [workdir / f"{name}.csv", workdir / f"{name}.png"]
    rows.sort(key=lambda row: -abs(row["moved"]))
    strongest = [
      f"{row['moved']:+.2f} at "
      + ", ".join(f"{axis} {row[axis]}" for axis in one.axes)
      for row in rows[:3]
    ]
    said.tell(name, f"share of the effect moved: {'; '.join(strongest)}")
  said.end(*wrote)
  return found


def _heatmap(one: patching.Patched, name: str, config: Patch):
  """Layers upwards; of several axes, the others side by side."""
  values = one.moved()
  columns = [" ".join(at) for at in itertools.product(*one.labels[1:])]
  flat = values.reshape(len(one.labels[0]), -1)
  return figures.heatmap(
    np.asarray(flat),
    one.labels[0],
    columns,
    row_name=one.axes[0],
    column_name=", ".join(one.axes[1:]),
    units="share of the effect moved",
    title=f"{name}, {config.direction}, {config.task}",
  )
