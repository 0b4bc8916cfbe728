"""`spex maia`: agents describe units of vision models, and are judged."""

import dataclasses
import json
import math
import pathlib
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from spex_jax import settings
from spex_jax.agents import llm, running, sandbox
from spex_jax.agents.find import functions
from spex_jax.agents.maia import (
  exemplars,
  grading,
  network_units,
  scripted,
  talking,
  unit_labels,
  units,
)
from spex_jax.agents.maia import tools as tools_lib
from spex_jax.agents.world import outside, prompts, rendering, scenes
from spex_jax.jobs import endpoints
from spex_jax.report import clock as clock_lib
from spex_jax.report import page
from spex_jax.report import tables as report_tables
from spex_jax.store import folders

UNITS = "units.jsonl"
BASELINE = "exemplars.jsonl"
SUMMARY = "summary.json"
AGENTS = ("scripted", "exemplars", "model")
Agent = Callable[[tools_lib.Tools], tools_lib.Finding]
Show = Callable[[Any], None]


@dataclasses.dataclass(frozen=True)
class Maia(endpoints.Asking):
  """`spex maia`."""

  seed: int = settings.seed("of the units and the data set")
  agent: str = settings.field(
    "scripted", "who describes; exemplars come along", choices=AGENTS
  )
  kinds: tuple[str, ...] = settings.field(
    unit_labels.KINDS,
    "of synthetic units",
    choices=unit_labels.KINDS,
    filled=True,
  )
  count: int = settings.field(5, "units of each kind", low=1)
  noise: float = settings.field(
    0.0, "standard deviation, in activations of about .5 to 1", low=0
  )
  distractors: int = settings.field(
    0, "things on every picture that nobody asked for", low=0, high=3
  )
  scenes: int = settings.field(800, "of the data set", low=20)
  budget: int = settings.field(
    20_000, "pictures that a unit may be shown, besides", low=1
  )
  seconds: float = settings.field(300.0, "a description may take", above=0)
  pages: bool = settings.field(True, "an HTML page of every unit")
  network: str = settings.field(
    "", "whose units are studied instead: a directory or a hub name"
  )
  site: str = settings.field("logits", "of the network")
  numbers: tuple[int, ...] = settings.field((0,), "of units at the site")
  model: str = settings.field("", "at the endpoint, for agent=model")
  sees: bool = settings.field(
    False, "whether it is sent pictures, or their words alone"
  )
  images: str = settings.field(
    "", "a model there that draws, in the place of the world"
  )
  vision: str = settings.field("", "a model there that describes pictures")
  tools: tuple[str, ...] = settings.field(
    tuple(tools_lib.TYPES), "that a model may call",
    choices=tuple(tools_lib.TYPES),
  )  # fmt: skip
  rounds: int = settings.field(25, "of a model's talk", low=1)

  def check(self) -> None:
    """Models are at an endpoint.

    Raises:
      settings.SettingError: what goes together and is not given together.
    """
    if self.agent == "model" and not (self.endpoint and self.model):
      raise settings.SettingError("endpoint", " and model are needed.")
    if bool(self.images) != bool(self.vision):
      raise settings.SettingError("images", " and vision go together.")
    if self.images and not (self.endpoint and self.network):
      raise settings.SettingError(
        "images", " need an endpoint, and a network: synthetic units see the "
        "drawn world alone."
      )  # fmt: skip
    if self.images and self.agent != "model":
      raise settings.SettingError("images", " are for agent=model.")
    super().check()


def run(
  config: Maia,
  workdir: pathlib.Path,
  before: float = 0.0,
  show: Show | None = None,
) -> list[dict[str, Any]]:
  """Describes, judges, prints; a second run goes on where one was stopped.

  Args:
    config: the settings of the command.
    workdir: where units.jsonl, exemplars.jsonl (of exemplars alone),
      summary.json, pages and all answers go.
    before: seconds of the command that have passed already.
    show: takes a line or a rich renderable; prints by default.

  Returns:
    The rows of units.jsonl, one for each unit and agent.

  Raises:
    ValueError: the workdir is another configuration's; no such network.
  """
  said = clock_lib.Session(show, before)
  folder = folders.opened(workdir)
  # More units and agents may join; all else decides on answers.
  own = dataclasses.asdict(config) | {"world": scenes.VERSION}
  for name in ("agent", "kinds", "count", "pages", "numbers", "key_variable"):
    del own[name]
  running.check_same(folder, own)
  rng = functions.rng(config.seed, "data set")
  more = config.distractors
  with said.of("draw"):
    seen = [scenes.draw(rng, 2, 5 + more) for _ in range(config.scenes)]
    pictures = [rendering.render(scene) for scene in seen]
  todo = systems(config, seen)
  found: dict[str, list[dict[str, Any]]] = {}
  with said.of("study"), sandbox.Sandbox() as box:
    for agent in dict.fromkeys([config.agent, "exemplars"]):
      run_agent = agent_of(config, agent, folder)
      found[agent] = [
        _studied(config, folder, box, agent, run_agent, *each, pictures)
        for each in todo
      ]
      file = UNITS if agent == config.agent else BASELINE
      running.write_lines(folder, file, found[agent])
  rows = summary(found)
  running.write(folder, SUMMARY, rows)
  show_rows(rows, said.show)
  for row in [row for own in found.values() for row in own if row["error"]][:5]:
    said.tell("failed", f"{row['agent']}, {row['unit']}: {row['error']}")
  said.end(workdir / UNITS)
  return found[config.agent]


def systems(
  config: Maia, seen: Sequence[scenes.Scene]
) -> list[tuple[units.System, unit_labels.Label | None]]:
  """The units, and their truths; raises as `network_units.of_network`."""
  found: list[tuple[units.System, unit_labels.Label | None]] = []
  if config.network:
    from spex_jax import models  # Slow to import.
    from spex_jax.models import hub, pixels

    net = models.load(config.network)
    prepare = pixels.load(hub.local(config.network))
    for unit in network_units.of_network(
      net, config.site, config.numbers, prepare
    ):
      found.append((unit, None))
    return found
  for kind in config.kinds:
    for index in range(config.count):
      truth = units.generate(config.seed, kind, index, seen)
      name = f"{kind}-{index:03d}"
      found.append((units.Synthetic(name, truth, config.noise), truth))
  return found


def agent_of(config: Maia, name: str, folder: folders.Folder) -> Agent:
  """Who describes a unit, each with a budget of its own."""
  if name == "scripted":
    return scripted.run
  if name == "exemplars":
    return exemplars.run
  limits = endpoints.limits(config, config.rounds, config.seconds)
  inner = _endpoint(config, config.model, folder)
  language = "" if config.images else prompts.CAN

  def run_model(tools: tools_lib.Tools) -> tools_lib.Finding:
    chat = llm.Meter(inner, limits)
    return talking.agent(chat, config.rounds, language, config.sees)(tools)

  return run_model


def _endpoint(config: Maia, name: str, folder: folders.Folder) -> llm.Endpoint:
  service = endpoints.service(config)
  return llm.Endpoint(
    service, name, folder=folder, max_tokens=config.reply_tokens
  )


def _studied(
  config: Maia,
  folder: folders.Folder,
  box: sandbox.Sandbox,
  agent: str,
  run_agent: Agent,
  system: units.System,
  truth: unit_labels.Label | None,
  pictures: Sequence[np.ndarray],
) -> dict[str, Any]:
  """A unit's row; what goes wrong is of this unit alone."""
  file = f"answers/{agent}/{system.name}.json"
  if (row := running.kept(folder, file)) is not None:
    return row["row"]
  source: tools_lib.Source = tools_lib.World(config.seed, config.distractors)
  if config.images:
    source = outside.Source(
      endpoints.service(config),
      config.images,
      _endpoint(config, config.vision, folder),
    )
  tools = tools_lib.Tools(
    system, pictures, source, budget=config.budget, box=box,
    allowed=config.tools,
  )  # fmt: skip
  # The agent has its time; whatever it raises is an error in the row.
  start, scores = time.monotonic(), {}
  try:
    with running.limited(config.seconds):
      finding = run_agent(tools)
      if not finding.error:
        scores = grading.verdict(system, finding.label, truth, config.seed)
  except (Exception, MemoryError) as caught:
    said = f"{type(caught).__name__}: {caught}"[:300]
    finding = tools_lib.Finding(unit_labels.Label("none"), error=said)
  if finding.error:
    # No label is no half-right one.
    scores = {"predictive_score": 0.0, "description_length": 0}
    if truth is not None:
      scores |= {"truth_table_accuracy": 0.0, "right": False}
  # The row, and the answer that a later run reads instead.
  row = {
    "unit": system.name, "agent": agent,
    "kind": truth.kind if truth else "network",
    "truth": str(truth) if truth else None,
    "label": "" if finding.error else str(finding.label), **scores,
    "description": finding.description, "calls": sum(tools.calls.values()),
    "pictures": tools.asked, "seconds": round(time.monotonic() - start, 3),
    "tokens": sum(turn.get("tokens", 0) for turn in finding.transcript),
    "money": sum(turn.get("money", 0) for turn in finding.transcript),
    "error": finding.error,
  }  # fmt: skip
  row = {
    name: None if isinstance(value, float) and not math.isfinite(value)
    else value
    for name, value in row.items()
  }  # fmt: skip
  body = {
    "row": row, "error": finding.error, "calls": dict(tools.calls),
    "journal": tools.journal, "transcript": finding.transcript,
  }  # fmt: skip
  folder.replace(file, running.as_file(body))
  if config.pages:
    html = shown_page(row, finding, tools)
    folder.replace(f"pages/{agent}-{system.name}.html", html.encode())
  return row


def shown_page(
  row: Mapping[str, Any], finding: tools_lib.Finding, tools: tools_lib.Tools
) -> str:
  """The experiments of a unit, as one HTML file."""
  views = []
  if finding.interactions is not None:
    views.append(
      page.sets(
        None, [finding.interactions], title="Concepts, alone and together"
      )
    )
  if tools.shown:
    shown = [tools.picture(number) for number in tools.shown[:48]]
    title = f"Pictures {tools.shown[0]} to {tools.shown[-1]}, as displayed"
    views.append(page.image(outside.encoded(_sheet(shown)), title))
  if tools.journal:
    rows = [
      [own["tool"], json.dumps(own["arguments"])[:300], own["told"][:600]]
      for own in tools.journal
    ]
    views.append(page.table(["tool", "given", "told"], rows, "Experiments"))
  turns = [
    [turn["role"], str(turn["content"])[:2000]] for turn in finding.transcript
  ]
  if turns:
    views.append(page.table(["who", "said"], turns, "Talk"))
  views.append(page.fields(dict(row), "Row"))
  trust = [
    (name.replace("_", " "), f"{row[name]:.2f}", row[name] < least)
    for name, least in (
      ("truth_table_accuracy", 1.0),
      ("predictive_score", 0.8),
    )
    if row.get(name) is not None
  ]
  if row["error"]:
    trust.append(("failed", row["error"], True))
  calls = ", ".join(f"{name} {count}" for name, count in tools.calls.items())
  facts = {"label": row["label"] or "none", "tools": calls}
  run_of = page.Run(f"What makes {row['unit']} fire?", trust, facts, views)
  return page.html([run_of])


def _sheet(pictures: Sequence[np.ndarray]) -> np.ndarray:
  """Pictures beside each other, with a border; of several sizes the first's."""
  first = pictures[0].shape
  cells = [
    np.pad(p, ((2, 2), (2, 2), (0, 0)), constant_values=255)
    for p in pictures
    if p.shape == first
  ]
  width = min(8, len(cells))
  cells += [np.full_like(cells[0], 255)] * (-len(cells) % width)
  rows = [
    np.concatenate(cells[i : i + width], 1) for i in range(0, len(cells), width)
  ]
  return np.concatenate(rows, 0)


def summary(
  found: Mapping[str, Sequence[Mapping[str, Any]]],
) -> list[dict[str, Any]]:
  """Means by agent and kind, and of all kinds."""
  rows = []
  for agent, every in found.items():
    kinds = dict.fromkeys(row["kind"] for row in every)
    for kind in [*kinds, *(["all"] if len(kinds) > 1 else [])]:
      own = [row for row in every if kind in ("all", row["kind"])]
      names = ["predictive_score", "description_length", "calls", "pictures",
               "seconds", "tokens", "money"]  # fmt: skip
      if any("right" in row for row in own):
        names = ["right", "truth_table_accuracy", *names]
      failed = sum(bool(row["error"]) for row in own)
      rows.append(
        {"agent": agent, "kind": kind, "units": len(own)}
        | {name: _mean(own, name) for name in names}
        | {"failed": failed}
      )
  return rows


def _mean(rows: Sequence[Mapping[str, Any]], name: str) -> float:
  own = [row[name] for row in rows if row.get(name) is not None]
  return float(np.mean(own)) if own else 0.0


def show_rows(rows: Sequence[Mapping[str, Any]], show: Show) -> None:
  """Prints a summary."""
  names = (
    "right", "truth_table_accuracy", "predictive_score", "description_length",
    "calls", "pictures", "seconds", "tokens",
  )  # fmt: skip
  lines = []
  for row in rows:
    cells = []
    for name in names:
      value = row.get(name)
      close = 2 if name in names[:3] or name == "seconds" else 0
      cells.append("" if value is None else f"{value:.{close}f}")
    label = row["agent"] + " (alone)" * (row["agent"] == "exemplars")
    own = str(row["units"]), *cells, str(row["failed"])
    lines.append([label, row["kind"], *own])
  columns = ["agent", "kind", "units", *names, "failed"]
  columns = [name.replace("_", " ") for name in columns]
  show(report_tables.grid(columns, lines, columns[:2], "units"))
