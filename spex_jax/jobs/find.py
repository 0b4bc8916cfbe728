"""`spex find run` and `spex find report`: a leaderboard of interpreters."""

import dataclasses
import json
import pathlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from spex_jax import settings
from spex_jax.agents import running, sandbox
from spex_jax.agents.find import generating, scores
from spex_jax.report import clock as clock_lib
from spex_jax.report import tables as report_tables
from spex_jax.store import folders

LEADERBOARD = "leaderboard.json"
FUNCTIONS = "functions.jsonl"
Show = Callable[[Any], None]


@dataclasses.dataclass(frozen=True)
class Find(settings.Settings):
  """`spex find run`."""

  seed: int = settings.seed("of the functions")
  categories: tuple[str, ...] = settings.field(
    tuple(generating.CATEGORIES), "of functions"
  )
  count: int = settings.field(50, "functions of each category", low=1)
  interpreters: tuple[str, ...] = settings.field(
    tuple(running.INTERPRETERS),
    "who; the ceiling (truth) and the loophole (interpolation) come along",
  )
  budget_numeric: int = settings.field(500, "queries", low=1)
  budget_strings: int = settings.field(60, "queries", low=1)
  budget_entities: int = settings.field(60, "queries", low=1)
  budget_relations: int = settings.field(60, "queries", low=1)
  budget_setfn: int = settings.field(5000, "queries", low=1)
  seconds: float = settings.field(120.0, "an interpretation may take", above=0)

  def check(self) -> None:
    """Categories and interpreters are known ones."""
    for name, given, known in (
      ("categories", self.categories, [*generating.CATEGORIES]),
      ("interpreters", self.interpreters,
       [*running.INTERPRETERS, running.CEILING]),
    ):  # fmt: skip
      for word in given:
        if word not in known:
          raise settings.SettingError(
            name, f" has {word!r}: choose from {', '.join(known)}."
          )
    if not self.categories:
      raise settings.SettingError("categories", " is empty: name one.")

  @property
  def budgets(self) -> dict[str, int]:
    """Category to queries."""
    return {
      name: getattr(self, f"budget_{name}") for name in generating.CATEGORIES
    }


def kind_of(
  word: str, given: Mapping[str, Any], where: str
) -> type[settings.Settings]:
  """The class of settings of a word: "run" alone has one."""
  del word, given, where
  return Find


def run(
  word: str, config: Find, workdir: pathlib.Path, before: float = 0.0
) -> None:
  """Runs the word "run"; raises as `scored`."""
  del word
  scored(config, workdir, before=before)


def scored(
  config: Find,
  workdir: pathlib.Path,
  show: Show | None = None,
  before: float = 0.0,
) -> list[dict[str, Any]]:
  """Interprets, judges, prints, and writes the leaderboard.

  A second run goes on where the first was stopped.

  Args:
    config: its settings.
    workdir: where leaderboard.json, functions.jsonl and all answers go.
    show: takes a line or a rich renderable; prints by default.
    before: seconds of the command that have passed already.

  Raises:
    ValueError: the workdir is another configuration's.
  """
  show = show or report_tables.printer()
  clock = clock_lib.Clock(before)
  folder = folders.opened(workdir)
  running.check_same(
    folder,
    {"seed": config.seed, "seconds": config.seconds, **config.budgets},
  )
  with clock.of("generate"):
    todo = [
      function
      for category in config.categories
      for function in generating.generate(config.seed, category, config.count)
    ]
  lines = [
    json.dumps({
      "name": own.name, "category": own.category, "about": own.about,
      "truth": own.truth,
    })
    for own in todo
  ]  # fmt: skip
  folder.replace(FUNCTIONS, ("\n".join(lines) + "\n").encode())
  with clock.of("interpret"), sandbox.Sandbox() as box:
    verdicts = running.run(
      todo, config.interpreters, folder, box, budgets=config.budgets,
      seconds=config.seconds,
    )  # fmt: skip
  rows = scores.table(verdicts)
  text = json.dumps(rows, indent=1, allow_nan=False)
  folder.replace(LEADERBOARD, text.encode() + b"\n")
  show_rows(rows, show)
  failed = [v for v in verdicts if v["error"]]
  for verdict in failed[:5]:
    show(report_tables.fact(
      "failed",
      f"{verdict['interpreter']}, {verdict['function']}: {verdict['error']}",
    ))  # fmt: skip
  show(report_tables.fact("time", str(clock)))
  show(report_tables.fact("wrote", str(workdir / LEADERBOARD)))
  return rows


def show_rows(rows: Sequence[Mapping[str, Any]], show: Show) -> None:
  """Prints a leaderboard, one table a category."""
  from rich import box, table  # Slow to import.

  for category in dict.fromkeys(row["category"] for row in rows):
    own = [row for row in rows if row["category"] == category]
    shown = table.Table(box=box.SIMPLE_HEAD, title=category)
    shown.add_column("interpreter")
    for name in ("paper", "95 %", "ours", "95 %", "family", "queries",
                 "letters", "seconds", "tokens", "failed"):  # fmt: skip
      shown.add_column(name, justify="right")
    names = dict.fromkeys(row["interpreter"] for row in own)
    for name in names:
      by_mode = {r["mode"]: r for r in own if r["interpreter"] == name}
      cells = []
      for mode in scores.MODES:
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
      shown.add_row(
        label, *cells, family, f"{row['queries']:.0f}", f"{row['length']:.0f}",
        f"{row['seconds']:.2f}", f"{row['tokens']:.0f}", str(row["failed"]),
      )  # fmt: skip
    show(shown)


def report(workdirs: Sequence[str], show: Show | None = None) -> None:
  """Prints the leaderboards of workdirs again.

  Raises:
    FileNotFoundError: one has none.
    ValueError: none is named, or one's is damaged.
  """
  show = show or report_tables.printer()
  if not workdirs:
    raise ValueError("Name a directory that `spex find run` wrote.")
  for workdir in workdirs:
    path = pathlib.Path(workdir) / LEADERBOARD
    if not path.is_file():
      raise FileNotFoundError(f"{path}: no such file; run `spex find run`.")
    try:
      rows = json.loads(path.read_text())
      show_rows(rows, show)
    except (ValueError, KeyError, TypeError) as error:
      raise ValueError(f"{path} is damaged: {error}.") from error
