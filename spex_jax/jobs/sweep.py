"""`spex sweep`: runs a sweep's task, and tells of it.

The words of the command are `ACTIONS`.
"""

import contextlib
import dataclasses
import inspect
import json
import sys
from collections.abc import Callable, Mapping
from typing import Any

from spex_jax import base, settings
from spex_jax.jobs import scheduled, sweeping
from spex_jax.jobs import sinks as sinks_of
from spex_jax.report import progress
from spex_jax.report import tables as report_tables
from spex_jax.sweeps import (
  exports,
  failures,
  grid,
  processes,
  run,
  stalls,
  state,
)

_DIRECTORY = "a directory, or a URL of an object store (gs://, s3://)"


@dataclasses.dataclass(frozen=True)
class Workdir(settings.Settings):
  """Of a sweep."""

  workdir: str = settings.field(help=_DIRECTORY, place=True)


@dataclasses.dataclass(frozen=True)
class Run(Workdir):
  """Evaluates what is missing of a sweep, shard by shard.

  The same command goes on after a kill. Exit code 0: all is tried; 75: asked to
  end by a signal, the same command goes on; 1: what trying again does not mend.
  """

  config: str = settings.field(
    help="FILE[:SIZE], with get_config() and sweep() (see "
    "spex_jax/sweeps/grid.py, experiments/configs/sweep_digits.py); "
    "--config.KEY=VALUE changes one setting of all items. It is run: take none "
    "from a stranger",
    place=True,
  )
  task_index: int | None = settings.field(
    None,
    "which part of the work; by default of the scheduler's environment "
    "(SLURM_ARRAY_TASK_ID, JOB_COMPLETION_INDEX, ...), or all of it",
    low=0,
  )
  task_count: int | None = settings.field(None, "of how many", low=1)
  distributed: bool = settings.field(
    False,
    "the task is several processes of jax.distributed, which JAX finds by "
    "itself (TPU slices, Slurm); each evaluates shards of its own on its own "
    "devices. Elsewhere:",
  )
  coordinator: str | None = settings.field(None, "HOST:PORT of process 0")
  process_id: int | None = settings.field(None, "of this process", low=0)
  num_processes: int | None = settings.field(None, "of the task", low=1)
  timeout: float = settings.field(
    60.0, "seconds to wait for all of them (60)", low=0.001
  )
  together: bool = settings.field(
    False,
    "all processes of the task evaluate every shard together, for a value "
    "function whose parameters lie on the devices of all of them",
  )
  patience: float = settings.field(
    1800.0,
    "seconds that process 0 waits for the next shard of the others (1800)",
    low=0.001,
  )
  stall: float = settings.field(
    stalls.LIMIT,
    "seconds that one call of the value function may take (3600; 0: for ever): "
    "one that does not return is told of, and ends the process with 75",
    low=0,
  )
  retry_failed: bool = settings.field(
    False, "tries shards once more that failed too often"
  )
  accept: tuple[str, ...] = settings.field(
    (),
    "goes on although these differ from what the directory was begun with; "
    "manifests of new shards tell the difference",
    choices=run.ACCEPTED,
  )
  sinks: tuple[str, ...] = settings.field(
    (), "where its numbers go, besides its log", choices=tuple(sinks_of.SINKS)
  )
  dry_run: bool = settings.field(
    False,
    "tells what the task would do; like every flag without a value it may be "
    "given as --dry_run=false, too",
  )


@dataclasses.dataclass(frozen=True)
class Status(Workdir):
  """Tells what is done, the rate, what is left, the cost, and failures."""

  price: float | None = settings.field(
    None, "of one process in an hour: tells the cost", low=0
  )
  json: bool = settings.field(False, "prints it for programs")


@dataclasses.dataclass(frozen=True)
class Verify(Workdir):
  """Reads every byte, and puts damaged shards aside.

  The next run makes them again.
  """


@dataclasses.dataclass(frozen=True)
class Export(Workdir):
  """Writes all rows as one Parquet file, with its SHA-256; or asks DuckDB.

  Refused where shards are missing or damaged, unless with --partial.
  """

  output: str | None = settings.field(
    None, "FILE.parquet, for pandas and DuckDB", place=True
  )
  sql: str | None = settings.field(
    None, "'select ... from sweep': what DuckDB answers, tab-separated"
  )
  partial: bool = settings.field(
    False, "exports, too, where shards are missing or damaged"
  )


@dataclasses.dataclass(frozen=True)
class Garbage(Workdir):
  """Removes what killed writers left, and what was put aside, if it is old."""

  older_than: float = settings.field(
    3600.0, "seconds (3600) that it has been there", low=0
  )
  dry_run: bool = settings.field(False, "names it alone")


def usage() -> str:
  """Of the words of `spex sweep`."""
  return "\n".join(
    f"usage: spex sweep {action} --workdir=DIR [--NAME=VALUE ...]\n\n"
    f"{inspect.getdoc(own)}\n\n{settings.flags_of(own)}\n"
    for action, (own, _) in ACTIONS.items()
  )


def _run(given: Run, sweep: grid.Sweep) -> None:
  try:
    _task(given, sweep)
  except (TimeoutError, ConnectionError) as error:
    # Of other processes, or of a store: they may be there the next time.
    raise InterruptedError(f"{error} The same command goes on.") from error


def _task(given: Run, sweep: grid.Sweep) -> None:
  # Which part of the sweep is this process's.
  index, count = scheduled.task_of(given.task_index, given.task_count)
  process, num_processes = _joined(given)
  group = processes.ALONE
  if not given.together:
    index, count = index * num_processes + process, count * num_processes
  elif num_processes > 1:
    group = processes.Together()
  mine = sweep.of_task(index, count)
  tell = report_tables.teller()
  rows = sum(shard.stop - shard.start for shard in mine)
  # What is asked.
  tell(
    "asked",
    f"What are {sweep.num_rows:,} masks of "
    f"{report_tables.count(len(sweep.items), 'item')} worth to "
    f"{sweep.config['build']}?",
  )
  if isinstance(sweep.config.get("model"), str):
    tell("model", sweep.config["model"])
  tell(
    "sweep",
    f"{report_tables.count(len(sweep.items), 'item')}, "
    f"{sweep.num_rows:,} rows in "
    + report_tables.count(sweep.num_shards, "shard"),
  )
  tell(
    "task",
    f"{index} of {count}: {report_tables.count(len(mine), 'shard')}, "
    f"{rows:,} rows",
  )
  if given.dry_run:
    for item in sorted({shard.item for shard in mine})[:10]:
      tell("", sweep.item_name(item))
    return
  _check_models(given, sweep, {shard.index for shard in mine})
  # The work, alone or together with other processes.
  try:
    report = _evaluate(given, sweep, index, count, rows, group)
    missing = 0
    alone = num_processes > 1 and group is processes.ALONE
    if alone and process == 0 and not report.interrupted:
      missing = _stay(given, sweep, index, count, num_processes)
  finally:
    if num_processes > 1:
      processes.leave()
  # How it ended.
  rate = report.rows / max(report.seconds, 1e-9)
  tell(
    "done",
    f"{report_tables.count(report.shards, 'shard')}, {report.rows:,} rows in "
    f"{report.seconds:.1f} s ({rate:,.0f} rows/s)"
    + f", {report.marked:,} of them without a value"
    * bool(report.marked),
  )
  _show_given_up(report.given_up, sweep)
  if report.interrupted:
    raise InterruptedError(
      "asked to end: what was begun is published; the same command goes on."
    )
  if missing:
    raise InterruptedError(
      f"other processes of this task did not publish {missing} of its shards: "
      "the same command goes on."
    )


def _check_models(given: Run, sweep: grid.Sweep, mine: set[int]) -> None:
  """Refuses a model that is nowhere before a shard fails by it.

  Raises:
    OSError, ImportError: as `sweeping.check_models`; where all is done, none.
  """
  try:
    book, _ = run.opened(given.workdir)
    mine = mine - set(book.indices())
  except ValueError:  # Not begun; of damage the run itself tells.
    pass
  if mine:
    sweeping.check_models(sweep)


def _evaluate(given: Run, sweep, index, count, rows, group) -> run.Report:
  found = run.Run(
    given.workdir,
    sweep,
    sweeping.build,
    sources=sweeping.sources(sweep),
    accept=given.accept,
  )
  # Beside this process's own log: TensorBoard takes each folder for a run.
  place = f"{found.folder.path}/{found.log}"
  with contextlib.ExitStack() as stack, progress.sweep(rows) as say:
    sinks = tuple(
      stack.enter_context(sinks_of.SINKS[name](place)) for name in given.sinks
    )
    return found.run(
      index,
      count,
      progress=say,
      sinks=sinks,
      retry_failed=given.retry_failed,
      group=group,
      stall=given.stall,
    )


def _joined(given: Run) -> tuple[int, int]:
  """This process's number, and how many the task has."""
  own = (given.coordinator, given.process_id, given.num_processes)
  if given.dry_run or (own == (None,) * 3 and not given.distributed):
    return 0, 1
  if own == (None,) * 3:
    return processes.join(timeout=given.timeout)
  address, index, count = own
  if address is None or index is None or count is None:
    raise ValueError(
      "A task of several processes needs --coordinator=HOST:PORT, "
      "--process_id=I and --num_processes=N, or --distributed where JAX finds "
      "all that by itself."
    )
  return processes.join(address, index, count, timeout=given.timeout)


def _stay(given: Run, sweep, index, count, num_processes) -> int:
  """Waits for the other processes of a task; how many shards they leave."""
  book, _ = run.opened(given.workdir)
  wanted = {
    shard.index
    for process in range(num_processes)
    for shard in sweep.of_task(index + process, count)
  }

  def left() -> int:
    done = set(book.indices())
    lost = failures.given_up(book.folder, sweep, done.intersection)
    return len(wanted - done - set(lost))

  with processes.until_signalled() as asked:
    return processes.stay(left, given.patience, asked=asked)


def _status(given: Status) -> None:
  found = state.status(given.workdir)
  if given.json:
    print(json.dumps(dataclasses.asdict(found) | {"complete": found.complete}))
    return
  tell = report_tables.teller()
  share = found.rows / max(found.num_rows, 1)
  tell(
    "done",
    f"{found.shards:,} of {found.num_shards:,} shards, {found.rows:,} of "
    f"{found.num_rows:,} rows ({share:.1%})",
  )
  if found.rate is not None and not found.complete:
    eta = report_tables.duration(found.eta or 0.0)
    tell("rate", f"{found.rate:,.1f} rows/s; {eta} left")
  tell(
    "cost",
    f"{report_tables.duration(found.cost)} of evaluation, in "
    + report_tables.count(found.processes, "process", "processes")
    + _money(given.price, found.cost),
  )
  if found.marked:
    tell(
      "marked", f"{report_tables.count(found.marked, 'row')} without a value"
    )
  causes = sorted(found.causes.items(), key=lambda pair: -pair[1])
  for cause, number in causes[:5]:
    rows = report_tables.count(number, "row")
    tell("failed", f"{rows}: {cause}")
  if found.accepted:
    number = report_tables.count(found.accepted, "shard")
    what = "with other code, versions, flags or device, as was accepted"
    tell("accepted", f"{number} made {what}")
  if found.quarantined:
    tell(
      "damaged",
      report_tables.count(found.quarantined, "shard") + " put aside so far",
    )
  if found.given_up:
    _show_given_up(found.given_up, run.opened(given.workdir)[1])


def _show_given_up(given_up: Mapping[int, str], sweep: grid.Sweep) -> None:
  tell = report_tables.teller()
  for shard, cause in list(given_up.items())[:10]:
    name = sweep.item_name(sweep.item_of(shard))
    tell("given up", f"shard {shard} ({name}): {cause}")
  more = len(given_up) - 10
  if more > 0:
    tell("", f"and {more:,} more")
  if given_up:
    tell("", "`spex sweep run --retry_failed` tries them again")


def _verify(given: Verify) -> None:
  found = state.verify(given.workdir)
  tell = report_tables.teller()
  tell(
    "sound",
    report_tables.count(found.sound, "shard")
    + f"; {found.missing:,} are not there",
  )
  for shard, reason in found.damaged.items():
    tell("damaged", f"shard {shard}: {reason}")
  for name in found.failures:
    tell("damaged", f"{name}: counts as never tried")
  for name in found.anchors:
    tell("damaged", f"{name}: the next run compares with published rows")
  for name, count in found.lines.items():
    lines = report_tables.count(count, "line")
    tell("damaged", f"{name}: {lines}; no value needs them")
  number = sum(map(len, (found.damaged, found.failures, found.anchors)))
  if number:
    raise ValueError(
      f"{report_tables.count(number, 'file')} damaged and put aside; `spex "
      "sweep run` makes them again."
    )


def _export(given: Export) -> None:
  output, sql = given.output, given.sql
  if bool(output) == bool(sql):
    raise ValueError(
      "spex sweep export needs --output=FILE.parquet, or --sql='select ... "
      "from sweep'."
    )
  if output and settings.is_url(output):
    raise ValueError(
      f"--output={output}: an export is written to a disk; give a file here, "
      "and copy it there."
    )
  partial = given.partial
  before = state.status(given.workdir)
  if not (before.complete or partial):
    retry = " --retry_failed" if before.given_up else ""
    raise ValueError(
      f"{_lacks(before)}; nothing is exported. `spex sweep run{retry}` makes "
      "them; or say --partial to export the others."
    )
  rows, found = 0, None
  if output:
    rows = exports.export(given.workdir, output, partial=partial)
  elif sql:
    found = exports.query(given.workdir, sql, partial=partial)
  if found is not None:
    print("\t".join(found.column_names))
    for row in zip(*(column.to_pylist() for column in found.columns)):
      print("\t".join(map(_cell, row)))
  else:
    tell = report_tables.teller()
    tell("wrote", f"{rows:,} rows to {output}")
  if not partial:
    return
  after = state.status(given.workdir)
  if not (before.complete and after.complete):
    # Beside a table that a program reads.
    print(f"spex: a part: {_lacks(after)}.", file=sys.stderr)


def _cell(value: Any) -> str:
  """As one cell of a table of text."""
  return "" if value is None else base.printable(str(value))


def _lacks(found: state.Status) -> str:
  """What is not there, in words."""
  shards = found.num_shards - found.shards
  parts = []
  if found.given_up:
    parts.append(f"{len(found.given_up):,} given up")
  if found.quarantined:
    parts.append(f"{found.quarantined:,} put aside as damaged so far")
  return (
    f"{shards:,} of {report_tables.count(found.num_shards, 'shard')}, "
    f"{found.num_rows - found.rows:,} of {found.num_rows:,} rows, are missing"
    + (f" ({', '.join(parts)})" if parts else "")
  )


def _gc(given: Garbage) -> None:
  removed = state.collect_garbage(
    given.workdir, older_than=given.older_than, dry_run=given.dry_run
  )
  tell = report_tables.teller()
  what = "would remove" if given.dry_run else "removed"
  tell(what, report_tables.count(len(removed), "file"))
  for name in removed[:20]:
    tell("", name)
  if len(removed) > 20:
    tell("", f"and {len(removed) - 20:,} more")


def _money(price: float | None, seconds: float) -> str:
  if price is None:
    return ""
  return f"; {price * seconds / 3600:,.2f} at {price:g} an hour"


# Flags, and what takes them; a run takes its sweep, too.
ACTIONS: Mapping[str, tuple[type[Workdir], Callable[..., None]]] = {
  "run": (Run, _run),
  "status": (Status, _status),
  "verify": (Verify, _verify),
  "export": (Export, _export),
  "gc": (Garbage, _gc),
}
