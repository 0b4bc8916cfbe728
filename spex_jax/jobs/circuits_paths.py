"""`spex circuit paths`: path patching, and groups of heads by it."""

import dataclasses
import json
import pathlib
import re
from collections.abc import Sequence
from typing import Any

import numpy as np

from spex_jax import settings
from spex_jax.circuits import ablations, groups, patching, paths, swaps, walks
from spex_jax.jobs import circuits, circuits_find, explain
from spex_jax.models import sites
from spex_jax.report import circuit_plots as figures
from spex_jax.report import clock as clock_lib
from spex_jax.report import plots

_STEP = re.compile(r"([^=@.]+)=([^=@.]+)(?:\.([qkv]))?@([^@:]+):(\d+|0?\.\d+)")


@dataclasses.dataclass(frozen=True)
class Paths(circuits.Asked):
  """Which paths are patched."""

  task: str = settings.field("ioi", "a task, or a file of pairs")
  num_pairs: int = settings.field(16, "of a task", low=1)
  steps: tuple[str, ...] = settings.field(
    ("heads=logits@-1:8",),
    "groups of heads, from the answer backwards: NAME=INTO@PLACE:TOP, where "
    "INTO is logits or an earlier NAME with .q, .k or .v, PLACE a span, a "
    "position or all, and TOP a number of heads or a least share of the effect",
  )
  convention: str = settings.field(
    "ioi",
    "ioi: MLPs on the path follow; direct: nothing does, and norms stay",
    choices=tuple(paths.CONVENTIONS),
  )
  source: str = settings.field(
    "resample", "what senders write instead", choices=tuple(ablations.KINDS)
  )
  random: int = settings.field(10, "random circuits beside the groups", low=0)
  force: bool = settings.field(False, "asks though the model fails the task")


def run(
  config: Paths,
  workdir: pathlib.Path,
  show: circuits.Show | None = None,
  before: float = 0.0,
) -> tuple[walks.Group, ...]:
  """Finds groups, and writes tables and heatmaps of them into `workdir`.

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
  steps = [step_of(text) for text in config.steps]
  with said.of("load"):
    asked = circuits_find.of_task(config, config.task, config.num_pairs)
  net, pairs = asked.net, asked.pairs
  said.facts(asked.facts)
  with said.of("measure"):
    metric = circuits.able(config, net, pairs, asked.task, said)
  with said.of("paths"):
    found = walks.walk(
      net, net.params, pairs, steps, metric, source=config.source,
      size=config.batch_size, **paths.CONVENTIONS[config.convention],
    )  # fmt: skip
  wrote = [workdir / "groups.json"]
  save(found, wrote[0])
  for group in found:
    assert group.patched is not None
    said.tell(group.name, f"{', '.join(group.heads)} at {group.at}")
    wrote += [workdir / f"{group.name}.csv", workdir / f"{group.name}.png"]
    circuits.write_rows(group.patched.rows(), wrote[-2])
    title = f"into {group.patched.site}, {asked.task}"
    plots.save(_picture(net, group.patched, title), wrote[-1])
  wrote.append(workdir / "groups.png")
  plots.save(_by_layer(net, found, asked.task), wrote[-1])
  with said.of("judge"):
    judged = groups.evaluate(
      net, net.params, pairs, found, metric, random=config.random,
      seed=config.seed, size=config.batch_size,
    )  # fmt: skip
  for line in str(judged).splitlines():
    name, _, text = line.partition(" ")
    said.tell(name, text.strip())
  said.end(*wrote)
  return found


def step_of(text: str) -> walks.Step:
  """A step, as `Paths.steps` spells it.

  Raises:
    ValueError: another spelling; as `walks.Step`.
  """
  found = _STEP.fullmatch(text)
  if found is None:
    raise ValueError(
      f"steps={text!r} must be NAME=INTO@PLACE:TOP, such as a=logits@end:4 or "
      "b=a.q@-1:0.05."
    )
  name, into, port, at, top = found.groups()
  whole = top.isdecimal()
  return walks.Step(
    name, into, port or "", place_of(at), int(top) if whole else None,
    None if whole else float(top),
  )  # fmt: skip


def place_of(text: str) -> swaps.Place:
  """A place by its name: a span, a position, or all of them."""
  if re.fullmatch(r"-?\d+", text):
    return int(text)
  return None if text == "all" else text


def save(found: Sequence[walks.Group], path: pathlib.Path) -> None:
  """Writes groups as JSON: name to place and heads."""
  rows = {g.name: {"at": g.at, "heads": list(g.heads)} for g in found}
  path.write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")


def load(path: str | pathlib.Path) -> dict[str, tuple[swaps.Member, ...]]:
  """Members of groups that `save` wrote.

  Raises:
    FileNotFoundError: there is no such file.
    ValueError: it holds no groups.
  """
  path = pathlib.Path(path).expanduser()
  if not path.is_file():
    raise FileNotFoundError(f"There is no file {path}.")
  try:
    rows = json.loads(path.read_text(encoding="utf-8"))
    return {
      name: tuple((str(head), row["at"]) for head in row["heads"])
      for name, row in rows.items()
    }
  except (ValueError, KeyError, TypeError, AttributeError) as error:
    raise ValueError(
      f"{path} holds no groups of heads, name to at and heads: {error!r}."
    ) from None


def picture(
  net: sites.Network, writers: Sequence[str], values: Any, units: str,
  title: str,
) -> Any:  # fmt: skip
  """A heatmap of values of heads, by layer and head; 0 where there is none."""
  table = np.zeros((net.config.num_blocks, net.config.num_heads))
  for name, value in zip(writers, values):
    _, block, _, head = name.split(".")
    table[int(block), int(head)] = value
  return figures.heatmap(
    table,
    [str(i) for i in range(len(table))],
    [str(i) for i in range(table.shape[1])],
    row_name="layer",
    column_name="head",
    units=units,
    title=title,
  )


def _picture(net, patched: patching.Patched, title: str):
  units = "share of the effect moved"
  return picture(net, patched.labels[0], patched.moved()[:, 0], units, title)


def _by_layer(net, found: Sequence[walks.Group], title: str):
  """How many heads each group has in every layer, and where they write."""
  layers = [str(i) for i in range(net.config.num_blocks)]
  table = np.array(
    [
      [sum(head.split(".")[1] == i for head in group.heads) for group in found]
      for i in layers
    ]
  )
  return figures.heatmap(
    table, layers, [f"{group.name} @ {group.at}" for group in found],
    row_name="layer", column_name="group and position", units="heads",
    title=title,
  )  # fmt: skip
