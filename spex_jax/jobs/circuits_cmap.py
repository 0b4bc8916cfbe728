"""`spex circuit cmap`: heads of a fine-tuned model put into its base."""

import dataclasses
import pathlib

import numpy as np

from spex_jax import settings
from spex_jax.circuits import cmap, swaps
from spex_jax.jobs import circuits, circuits_find, circuits_paths, explain
from spex_jax.models import hub, lora
from spex_jax.report import circuit_plots as figures
from spex_jax.report import clock as clock_lib
from spex_jax.report import plots


@dataclasses.dataclass(frozen=True)
class Cmap(circuits.Asked):
  """What of which model is put into which."""

  tuned: str = settings.field(
    "", "the fine-tuned model, or a LoRA adapter of the base; needed"
  )
  task: str = settings.field("ioi", "a task, or a file of pairs")
  num_pairs: int = settings.field(64, "of a task", low=1)
  groups: str = settings.field(
    "layers", "layers, or a file of groups that `spex circuit paths` wrote"
  )
  place: str = settings.field(
    "all", "of groups=layers: a span, a position, or all"
  )
  forms: tuple[str, ...] = settings.field(
    ("out",), "what is put in", choices=swaps.FORMS
  )


def run(
  config: Cmap,
  workdir: pathlib.Path,
  show: circuits.Show | None = None,
  before: float = 0.0,
) -> cmap.Mapped:
  """Puts groups in, and writes a table and a figure into `workdir`.

  Args:
    config: the settings of the command.
    workdir: made if it does not exist.
    show: takes a line or a rich table; prints by default.
    before: seconds of the command that have passed already.

  Raises:
    ValueError: what is wrong with models, task or settings; models of two
      architectures.
  """
  explain.writable(workdir)
  said = clock_lib.Session(show, before)
  if not config.tuned:
    raise ValueError("--tuned is missing: a fine-tuned model, or an adapter.")
  with said.of("load"):
    asked = circuits_find.of_task(config, config.task, config.num_pairs)
    net, facts = asked.net, dict(asked.facts)
    folder = hub.local(config.tuned)
    if (folder / lora.CONFIG).is_file():
      named = lora.Adapter(folder).base
      facts["adapter"] = f"{config.tuned}, which names its base {named!r}"
      other = hub.load(config.model, config.dtype, ignore=config.ignore,
                       adapter=folder)  # fmt: skip
    else:
      other = hub.load(folder, config.dtype, ignore=config.ignore)
  # Both models have to be of one architecture, or parts do not fit.
  ours, theirs = (
    {"kind": type(x.config).__name__, **dataclasses.asdict(x.config)}
    for x in (net, other)
  )
  if unlike := [
    f"{name} {value} and {theirs.get(name)}"
    for name, value in ours.items()
    if theirs.get(name) != value
  ]:
    raise ValueError(
      f"model={config.model!r} and tuned={config.tuned!r} are of two "
      f"architectures: {', '.join(unlike)}."
    )
  said.facts(facts)
  # Groups of heads: all of a layer, or those that a file names.
  if config.groups == "layers":
    place = circuits_paths.place_of(config.place)
    groups = {
      f"layer {i}": tuple(
        (name, place)
        for name in swaps.heads_of(net)
        if name.startswith(f"blocks.{i}.")
      )
      for i in range(net.config.num_blocks)
    }
  else:
    groups = circuits_paths.load(config.groups)
  with said.of("cmap"):
    found = cmap.run(
      net, net.params, other.params, asked.pairs, groups,
      circuits.metric_of(config, net), forms=config.forms,
      size=config.batch_size,
    )  # fmt: skip
  # A table of all pairs, and a figure of the mean change.
  for line in str(found).splitlines():
    said.show(line)
  path = workdir / "cmap.csv"
  circuits.write_rows(found.rows(config.seed), path)
  change = found.values.mean(axis=1) - found.base[0].mean()
  figure = figures.heatmap(
    np.asarray(change).reshape(len(config.forms), -1),
    config.forms, tuple(groups),
    row_name="what is put in", units=f"change, {circuits.units_of(config)}",
    title=f"{config.tuned} in {config.model}, {asked.task}",
  )  # fmt: skip
  plots.save(figure, workdir / "cmap.png")
  said.end(path, workdir / "cmap.png")
  return found
