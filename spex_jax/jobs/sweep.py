"""`spex sweep`: runs a sweep's task, and tells of it.

The words of the command are `ACTIONS`.
"""

import contextlib
import dataclasses
import json
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from spex_jax import base
from spex_jax.jobs import flags as flags_of
from spex_jax.jobs import sinks as sinks_of
from spex_jax.jobs import sweeping
from spex_jax.report import progress
from spex_jax.report import tables as report_tables
from spex_jax.sweeps import (
  failures,
  grid,
  processes,
  run,
  stalls,
  state,
  tables,
)

# Pairs of variables: a task's index and count, as schedulers give them.
SCHEDULERS = (
  ("SPEX_TASK_INDEX", "SPEX_TASK_COUNT"),
  ("SLURM_ARRAY_TASK_ID", "SLURM_ARRAY_TASK_COUNT"),
  ("JOB_COMPLETION_INDEX", "SPEX_TASK_COUNT"),  # Kubernetes, Indexed Job.
)


def command(arguments: Sequence[str]) -> None:
  """Carries out `spex sweep ACTION ...`.

  Raises:
    ValueError: an unknown action or flag, or one that is missing; and what the
      actions raise.
  """
  action, *rest = arguments or [""]
  if action not in ACTIONS:
    raise ValueError(
      f"`spex sweep` has the words {', '.join(ACTIONS)}; got {action!r}."
    )
  flags, overrides = flags_of.read(rest, _KNOWN[action])
  if not flags.get("workdir"):
    raise ValueError(f"spex sweep {action} needs --workdir=DIR.")
  ACTIONS[action](flags, overrides)


def task_of(
  flags: Mapping[str, str], environment: Mapping[str, str] | None = None
) -> tuple[int, int]:
  """A task's index and count: of flags, of the scheduler, or all of the work.

  Raises:
    ValueError: one without the other, or no whole numbers.
  """
  environment = os.environ if environment is None else environment
  pairs = [(flags.get("task_index"), flags.get("task_count"), "--task_index")]
  for index, count in SCHEDULERS:
    # An array of Slurm need not begin at 0.
    first = environment.get("SLURM_ARRAY_TASK_MIN", "0")
    given = environment.get(index)
    if given and index.startswith("SLURM") and given.isdigit():
      given = str(int(given) - int(first))
    pairs.append((given, environment.get(count), index))
  for index, count, name in pairs:
    if index is None and count is None:
      continue
    if index is None and name != "--task_index":
      continue  # A count without an index is nobody's task.
    if index is None or count is None:
      raise ValueError(
        f"{name} needs both an index and a count of tasks; got {index} of "
        f"{count}. Give --task_index=I --task_count=N."
      )
    if not (index.isdigit() and count.isdigit()):
      raise ValueError(f"{name}: {index!r} of {count!r} are no whole numbers.")
    return int(index), int(count)
  return 0, 1


def _run(flags: Mapping[str, str], overrides: Mapping[str, Any]) -> None:
  try:
    _task(flags, overrides)
  except (TimeoutError, ConnectionError) as error:
    # Of other processes, or of a store: they may be there the next time.
    raise InterruptedError(f"{error} The same command goes on.") from error


def _task(flags: Mapping[str, str], overrides: Mapping[str, Any]) -> None:
  if not flags.get("config"):
    raise ValueError("spex sweep run needs --config=FILE[:SIZE].")
  sweep = grid.load(flags["config"], overrides)
  index, count = task_of(flags)
  process, num_processes = _joined(flags)
  group = processes.ALONE
  if "together" not in flags:
    index, count = index * num_processes + process, count * num_processes
  elif num_processes > 1:
    group = processes.Together()
  mine = sweep.of_task(index, count)
  show = report_tables.printer()
  rows = sum(shard.stop - shard.start for shard in mine)
  show(
    report_tables.fact(
      "sweep",
      f"{report_tables.count(len(sweep.items), 'item')}, "
      f"{sweep.num_rows:,} rows in "
      + report_tables.count(sweep.num_shards, "shard"),
    )
  )
  show(
    report_tables.fact(
      "task",
      f"{index} of {count}: {report_tables.count(len(mine), 'shard')}, "
      f"{rows:,} rows",
    )
  )
  if "dry_run" in flags:
    for item in sorted({shard.item for shard in mine})[:10]:
      show(report_tables.fact("", sweep.item_name(item)))
    return
  try:
    report = _evaluate(flags, sweep, index, count, rows, group)
    missing = 0
    alone = num_processes > 1 and group is processes.ALONE
    if alone and process == 0 and not report.interrupted:
      missing = _stay(flags, sweep, index, count, num_processes)
  finally:
    if num_processes > 1:
      processes.leave()
  rate = report.rows / max(report.seconds, 1e-9)
  show(
    report_tables.fact(
      "done",
      f"{report_tables.count(report.shards, 'shard')}, {report.rows:,} rows in "
      f"{report.seconds:.1f} s ({rate:,.0f} rows/s)"
      + f", {report.marked:,} of them without a value"
      * bool(report.marked),
    )
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


def _evaluate(flags, sweep, index, count, rows, group) -> run.Report:
  names = sinks_of.named(flags.get("sinks", ""))
  found = run.Run(
    flags["workdir"],
    sweep,
    sweeping.build,
    sources=sweeping.sources(sweep),
    accept=flags_of.words(flags.get("accept", "")),
  )
  # Beside this process's own log: TensorBoard takes each folder for a run.
  place = f"{found.folder.path}/{found.log}"
  with contextlib.ExitStack() as stack, progress.sweep(rows) as say:
    sinks = tuple(
      stack.enter_context(sinks_of.SINKS[name](place)) for name in names
    )
    return found.run(
      index,
      count,
      progress=say,
      sinks=sinks,
      retry_failed="retry_failed" in flags,
      group=group,
      stall=flags_of.seconds(flags, "stall", stalls.LIMIT, least=0.0),
    )


def _joined(flags: Mapping[str, str]) -> tuple[int, int]:
  """This process's number, and how many the task has."""
  names = ("coordinator", "process_id", "num_processes")
  given = [flags.get(name) for name in names]
  if "dry_run" in flags or (given == [None] * 3 and "distributed" not in flags):
    return 0, 1
  timeout = flags_of.seconds(flags, "timeout", 60.0)
  if given == [None] * 3:
    return processes.join(timeout=timeout)
  if None in given:
    raise ValueError(
      "A task of several processes needs --coordinator=HOST:PORT, "
      "--process_id=I and --num_processes=N, or --distributed where JAX finds "
      "all that by itself."
    )
  address, index, count = map(str, given)
  if not (index.isdigit() and count.isdigit()):
    raise ValueError(
      f"process_id={index!r} and num_processes={count!r} must be whole numbers."
    )
  return processes.join(address, int(index), int(count), timeout=timeout)


def _stay(flags, sweep, index, count, num_processes) -> int:
  """Waits for the other processes of a task; how many shards they leave."""
  book, _ = run.opened(flags["workdir"])
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
    return processes.stay(
      left, flags_of.seconds(flags, "patience", 1800.0), asked=asked
    )


def _status(flags: Mapping[str, str], overrides: Mapping[str, Any]) -> None:
  del overrides
  found = state.status(flags["workdir"])
  if "json" in flags:
    print(json.dumps(dataclasses.asdict(found) | {"complete": found.complete}))
    return
  show = report_tables.printer()
  share = found.rows / max(found.num_rows, 1)
  show(
    report_tables.fact(
      "done",
      f"{found.shards:,} of {found.num_shards:,} shards, {found.rows:,} of "
      f"{found.num_rows:,} rows ({share:.1%})",
    )
  )
  if found.rate is not None and not found.complete:
    eta = report_tables.duration(found.eta or 0.0)
    show(report_tables.fact("rate", f"{found.rate:,.1f} rows/s; {eta} left"))
  show(
    report_tables.fact(
      "cost",
      f"{report_tables.duration(found.cost)} of evaluation, in "
      + report_tables.count(found.processes, "process", "processes")
      + _money(flags, found.cost),
    )
  )
  if found.marked:
    show(
      report_tables.fact(
        "marked", f"{report_tables.count(found.marked, 'row')} without a value"
      )
    )
  causes = sorted(found.causes.items(), key=lambda pair: -pair[1])
  for cause, number in causes[:5]:
    rows = report_tables.count(number, "row")
    show(report_tables.fact("failed", f"{rows}: {cause}"))
  if found.accepted:
    number = report_tables.count(found.accepted, "shard")
    what = "with other code, versions, flags or device, as was accepted"
    show(report_tables.fact("accepted", f"{number} made {what}"))
  if found.quarantined:
    show(
      report_tables.fact(
        "damaged",
        report_tables.count(found.quarantined, "shard") + " put aside so far",
      )
    )
  if found.given_up:
    _show_given_up(found.given_up, run.opened(flags["workdir"])[1])


def _show_given_up(given_up: Mapping[int, str], sweep: grid.Sweep) -> None:
  show = report_tables.printer()
  for shard, cause in list(given_up.items())[:10]:
    name = sweep.item_name(sweep.item_of(shard))
    show(report_tables.fact("given up", f"shard {shard} ({name}): {cause}"))
  more = len(given_up) - 10
  if more > 0:
    show(report_tables.fact("", f"and {more:,} more"))
  if given_up:
    show(
      report_tables.fact("", "`spex sweep run --retry_failed` tries them again")
    )


def _verify(flags: Mapping[str, str], overrides: Mapping[str, Any]) -> None:
  del overrides
  found = state.verify(flags["workdir"])
  show = report_tables.printer()
  show(
    report_tables.fact(
      "sound",
      report_tables.count(found.sound, "shard")
      + f"; {found.missing:,} are not there",
    )
  )
  for shard, reason in found.damaged.items():
    show(report_tables.fact("damaged", f"shard {shard}: {reason}"))
  for name in found.failures:
    show(report_tables.fact("damaged", f"{name}: counts as never tried"))
  for name in found.anchors:
    show(
      report_tables.fact(
        "damaged", f"{name}: the next run compares with published rows"
      )
    )
  for name, count in found.lines.items():
    lines = report_tables.count(count, "line")
    show(report_tables.fact("damaged", f"{name}: {lines}; no value needs them"))
  number = sum(map(len, (found.damaged, found.failures, found.anchors)))
  if number:
    raise ValueError(
      f"{report_tables.count(number, 'file')} damaged and put aside; `spex "
      "sweep run` makes them again."
    )


def _export(flags: Mapping[str, str], overrides: Mapping[str, Any]) -> None:
  del overrides
  output, sql = flags.get("output"), flags.get("sql")
  if bool(output) == bool(sql):
    raise ValueError(
      "spex sweep export needs --output=FILE.parquet, or --sql='select ... "
      "from sweep'."
    )
  if output and flags_of.is_url(output):
    raise ValueError(
      f"--output={output}: an export is written to a disk; give a file here, "
      "and copy it there."
    )
  partial = "partial" in flags
  before = state.status(flags["workdir"])
  if not (before.complete or partial):
    retry = " --retry_failed" if before.given_up else ""
    raise ValueError(
      f"{_lacks(before)}; nothing is exported. `spex sweep run{retry}` makes "
      "them; or say --partial to export the others."
    )
  rows, found = 0, None
  if output:
    rows = tables.export(flags["workdir"], output, partial=partial)
  else:
    found = tables.query(flags["workdir"], flags["sql"], partial=partial)
  if found is not None:
    print("\t".join(found.column_names))
    for row in zip(*(column.to_pylist() for column in found.columns)):
      print("\t".join(map(_cell, row)))
  else:
    show = report_tables.printer()
    show(report_tables.fact("wrote", f"{rows:,} rows to {output}"))
  if not partial:
    return
  after = state.status(flags["workdir"])
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


def _gc(flags: Mapping[str, str], overrides: Mapping[str, Any]) -> None:
  del overrides
  dry_run = "dry_run" in flags
  removed = state.collect_garbage(
    flags["workdir"],
    older_than=flags_of.seconds(flags, "older_than", 3600.0, least=0.0),
    dry_run=dry_run,
  )
  show = report_tables.printer()
  what = "would remove" if dry_run else "removed"
  show(report_tables.fact(what, report_tables.count(len(removed), "file")))
  for name in removed[:20]:
    show(report_tables.fact("", name))
  if len(removed) > 20:
    show(report_tables.fact("", f"and {len(removed) - 20:,} more"))


ACTIONS: Mapping[str, Callable[..., None]] = {
  "run": _run,
  "status": _status,
  "verify": _verify,
  "export": _export,
  "gc": _gc,
}
_KNOWN: Mapping[str, tuple[str, ...]] = {
  "run": (
    "config", "workdir", "task_index", "task_count", "retry_failed", "sinks",
    "dry_run", "distributed", "together", "coordinator", "process_id",
    "num_processes", "timeout", "patience", "accept", "stall",
  ),
  "status": ("workdir", "json", "price"),
  "verify": ("workdir",),
  "export": ("workdir", "output", "sql", "partial"),
  "gc": ("workdir", "dry_run", "older_than"),
}  # fmt: skip


def _money(flags: Mapping[str, str], seconds: float) -> str:
  if "price" not in flags:
    return ""
  try:
    price = float(flags["price"])
    if not 0 <= price < float("inf"):
      raise ValueError
  except ValueError:
    raise ValueError(
      f"price={flags['price']!r}: of one process in an hour, a number from 0."
    ) from None
  return f"; {price * seconds / 3600:,.2f} at {price:g} an hour"
