"""`spex find run` and `spex find report`: a leaderboard of interpreters."""

import dataclasses
import json
import pathlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from spex_jax import settings
from spex_jax.agents import llm, running, sandbox
from spex_jax.agents.find import (
  functions,
  generating,
  interpretations,
  model_referee,
  official,
  referees,
)
from spex_jax.agents.interpreters import agent
from spex_jax.jobs import endpoints
from spex_jax.report import clock as clock_lib
from spex_jax.report import tables as report_tables
from spex_jax.store import folders

LEADERBOARD = "leaderboard.json"
DETAILS = "details.json"  # Its rows, with intervals, costs and kinds.
FUNCTIONS = "functions.jsonl"
_COLUMNS = ("interpreter", "category", "score", "mode", "functions", "queries")
_LONGEST = 1 << 20  # Bytes of an endpoint's answer.
MODELS = ("agent", "one-shot")  # Interpreters that are language models.
Show = Callable[[Any], None]


@dataclasses.dataclass(frozen=True)
class Find(endpoints.Asking):
  """`spex find run`."""

  seed: int = settings.seed("of the functions")
  categories: tuple[str, ...] = settings.field(
    tuple(generating.CATEGORIES), "of functions", filled=True,
    choices=tuple(running.BUDGETS),
  )  # fmt: skip
  count: int = settings.field(50, "functions of each category", low=1)
  interpreters: tuple[str, ...] = settings.field(
    tuple(running.INTERPRETERS),
    "who; the ceiling (truth) and the loophole (interpolation) come along",
    choices=(*running.INTERPRETERS, running.CEILING, *MODELS),
  )
  budget_numeric: int = settings.field(500, "queries", low=1)
  budget_strings: int = settings.field(60, "queries", low=1)
  budget_entities: int = settings.field(60, "queries", low=1)
  budget_relations: int = settings.field(60, "queries", low=1)
  budget_setfn: int = settings.field(5000, "queries", low=1)
  budget_unit: int = settings.field(200, "queries", low=1)
  seconds: float = settings.field(600.0, "an interpretation may take", above=0)
  network: str = settings.field(
    "", "whose units are functions, of category unit: a directory or a hub name"
  )
  official: str = settings.field(
    "", "the paper's own functions in the place of ours: its zip, or a folder"
  )
  model: str = settings.field(
    "", "the interpreters agent and one-shot, at the endpoint"
  )
  judge: str = settings.field(
    "", "a model there that scores descriptions of texts and words, too"
  )
  oracle: str = settings.field(
    "", "a model there that answers for the paper's own entities and relations"
  )
  rounds: int = settings.field(25, "of an interpretation, by a model", low=1)

  def check(self) -> None:
    """What is asked of models, and of a network, is named.

    Raises:
      settings.SettingError: what a model, a network or an oracle is needed for,
        and is not named.
    """
    if generating.UNIT in self.categories and not self.network:
      raise settings.SettingError("network", " is needed for unit.")
    if {*MODELS} & {*self.interpreters} and not (self.endpoint and self.model):
      raise settings.SettingError(
        "endpoint", f" and model are needed for {' and '.join(MODELS)}."
      )
    if (self.judge or self.oracle) and not self.endpoint:
      raise settings.SettingError("endpoint", " is where they are: name it.")
    super().check()
    of_words = {"entities", "relations"} & {*self.categories}
    if self.official and of_words and not self.oracle:
      raise settings.SettingError(
        "oracle", f" is needed for the paper's {' and '.join(of_words)}."
      )

  @property
  def budgets(self) -> dict[str, int]:
    """Category to queries."""
    return {name: getattr(self, f"budget_{name}") for name in running.BUDGETS}


def scored(
  config: Find,
  workdir: pathlib.Path,
  show: Show | None = None,
  before: float = 0.0,
) -> list[dict[str, Any]]:
  """Interprets, judges, prints, and writes the leaderboard.

  A second run goes on where the first was stopped.

  Args:
    config: the settings of the command.
    workdir: where leaderboard.json, the same for the same settings,
      details.json (intervals, costs, seconds), functions.jsonl and all answers
      go.
    show: takes a line or a rich renderable; prints by default.
    before: seconds of the command that have passed already.

  Raises:
    ValueError: the workdir is another configuration's.
  """
  said = clock_lib.Session(show, before)
  folder = folders.opened(workdir)
  # More functions and interpreters may join; all else decides on answers.
  own = dataclasses.asdict(config)
  for name in ("categories", "count", "interpreters", "key_variable"):
    del own[name]
  running.check_same(folder, own)
  judge = _endpoint(config, folder, "judge")
  # A stranger's functions run there, too.
  modules = official.MODULES if config.official else ()
  with sandbox.Sandbox(modules=modules) as box:
    with said.of("generate"):
      oracle = _endpoint(config, folder, "oracle")
      todo = functions_of(config, box, said, oracle)
    with said.of("interpret"):
      verdicts = running.run(
        todo, config.interpreters, folder, box, budgets=config.budgets,
        seconds=config.seconds, more=models_of(config, folder),
        judge=model_referee.referee(
          _metered(config, judge, model_referee.TESTS)
        ) if judge else None,
      )  # fmt: skip
  rows = referees.table(verdicts)
  names = ("name", "category", "about", "truth")
  # Behind all interpretations: nobody reads a truth meanwhile.
  truths = [{n: getattr(own, n) for n in names} for own in todo]
  running.write_lines(folder, FUNCTIONS, truths)
  short = [{name: row[name] for name in _COLUMNS} for row in rows]
  running.write(folder, LEADERBOARD, short)
  running.write(folder, DETAILS, rows)
  show_rows(rows, said.show)
  failed = [v for v in verdicts if v["error"]]
  for verdict in failed[:5]:
    named = f"{verdict['interpreter']}, {verdict['function']}"
    said.tell("failed", f"{named}: {verdict['error']}")
  said.end(workdir / LEADERBOARD)
  return rows


def functions_of(
  config: Find,
  box: sandbox.Sandbox,
  said: clock_lib.Session,
  oracle: llm.Chat | None = None,
) -> list[functions.Function]:
  """The functions of a run; raises as `generate` and `official.load`."""
  found: list[functions.Function] = []
  net = None
  if generating.UNIT in config.categories:
    from spex_jax import models  # Slow to import.

    net = models.load(config.network)
  for category in config.categories:
    if config.official:
      own, left_out = official.load(
        config.official, category, box, config.count, oracle
      )
      found += own
      if left_out:
        said.tell("left out", f"{left_out} of {category}")
    else:
      found += generating.generate(config.seed, category, config.count, net=net)
  return found


def models_of(
  config: Find, folder: folders.Folder
) -> dict[str, dict[str, interpretations.Interpreter]]:
  """The interpreters that are language models; none without a model."""
  endpoint = _endpoint(config, folder, "model")
  if endpoint is None:
    return {}
  meter = _metered(config, endpoint, config.rounds)

  def metered(make: Callable[[llm.Chat], interpretations.Interpreter]):
    return lambda query, budget: make(meter())(query, budget)

  known: dict[str, Callable[[llm.Chat], interpretations.Interpreter]] = {
    "agent": lambda chat: agent.interactive(chat, config.rounds),
    "one-shot": agent.one_shot,
  }
  return {
    name: dict.fromkeys(running.BUDGETS, metered(make))
    for name, make in known.items()
  }


def _metered(
  config: Find, endpoint: llm.Endpoint, rounds: int
) -> Callable[[], llm.Meter]:
  """Makes a budget of its own for each interpretation, or judgement."""
  limits = endpoints.limits(config, rounds, config.seconds)
  return lambda: llm.Meter(endpoint, limits)


def _endpoint(
  config: Find, folder: folders.Folder, role: str
) -> llm.Endpoint | None:
  """The model of a role; None where the settings name none."""
  name = getattr(config, role)
  if not name:
    return None
  return llm.Endpoint(
    endpoints.service(config, _LONGEST), name,
    folder=folder,
    max_tokens={"judge": 8, "oracle": 32}.get(role, config.reply_tokens),
    alternatives=5 if role == "oracle" else 0,
  )  # fmt: skip


def show_rows(rows: Sequence[Mapping[str, Any]], show: Show) -> None:
  """Prints a leaderboard, one table a category, and one by kinds in it."""
  shares = ("score", "family", "parameters", "overlap", "recall")
  for category in dict.fromkeys(row["category"] for row in rows):
    own = [row for row in rows if row["category"] == category]
    lines = []
    for name in dict.fromkeys(row["interpreter"] for row in own):
      by_mode = {r["mode"]: r for r in own if r["interpreter"] == name}
      cells = []
      for mode in referees.MODES:
        row = by_mode.get(mode)
        cells += (
          [f"{row['score']:.2f}", f"{row['low']:.2f}..{row['high']:.2f}"]
          if row
          else ["", ""]
        )
      row = by_mode.get("ours") or by_mode["paper"]
      family = f"{row['family']:.2f}" if "family" in row else ""
      label = name
      label += " (ceiling)" * (name == running.CEILING)
      label += " (loophole)" * (name == running.LOOPHOLE)
      lines.append([
        label, *cells, family, f"{row['queries']:.0f}", f"{row['length']:.0f}",
        f"{row['seconds']:.2f}", f"{row['tokens']:.0f}", f"{row['money']:.2g}",
        str(row["failed"]),
      ])  # fmt: skip
    columns = ("interpreter", "paper", "95 %", "ours", "95 %", "language",
               "95 %", "family", "queries", "letters", "seconds", "tokens",
               "money", "failed")  # fmt: skip
    show(report_tables.grid(columns, lines, columns[:1], category))
    kinds = [
      [row["interpreter"], kind, row["mode"], str(part["functions"]),
       *(f"{part[n]:.2f}" if n in part else "" for n in shares)]
      for row in own
      for kind, part in (row["by"].items() if len(row["by"]) > 1 else ())
    ]  # fmt: skip
    if kinds:
      columns = ("interpreter", "kind", "mode", "functions", *shares)
      show(report_tables.grid(columns, kinds, columns, f"{category}, by kind"))


def report(workdirs: Sequence[str]) -> None:
  """Prints the leaderboards of workdirs again.

  Raises:
    FileNotFoundError: one has none.
    ValueError: none is named, or one's is damaged.
  """
  if not workdirs:
    raise ValueError("Name a directory that `spex find run` wrote.")
  for workdir in workdirs:
    path = pathlib.Path(workdir) / DETAILS
    if not path.is_file():
      raise FileNotFoundError(f"{path}: no such file; run `spex find run`.")
    try:
      rows = json.loads(path.read_text())
      show_rows(rows, report_tables.printer())
    except (ValueError, KeyError, TypeError) as error:
      raise ValueError(f"{path} is damaged: {error}.") from error
