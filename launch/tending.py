"""What launchers share: a sweep that is checked before, and watched after.

Completion is read from the sweep's store alone.
"""

import os
import pathlib
import time
from collections.abc import Sequence

from launch import children
from spex_jax import cli, settings
from spex_jax.report import tables
from spex_jax.store import ledger
from spex_jax.sweeps import run, state

ROOT = pathlib.Path(__file__).resolve().parents[1]

say = children.say


def checked(
  config: str, workdir: str, count: int, extra: Sequence[str] = ()
) -> tuple[str, str]:
  """Checks what would be run, before anything is; prints the first task.

  Returns:
    Config and workdir, absolute where they are paths.

  Raises:
    SystemExit: with one line that says what to do.
  """
  if count < 1:
    raise SystemExit(f"--tasks={count}: a sweep has at least one task.")
  try:
    config, workdir = settings.place(config), settings.place(workdir)
  except ValueError as error:
    raise SystemExit(f"--workdir={workdir}: {error}") from error
  file, colon, size = config.partition(":")
  config = os.path.abspath(file) + colon + size
  if "://" not in workdir:
    workdir = os.path.abspath(workdir)
    _check_writable(pathlib.Path(workdir))
  for word in extra:
    name = word.lstrip("-").partition("=")[0]
    if name in ("task_index", "task_count", "config", "workdir"):
      raise SystemExit(f"{word}: --{name} is the launcher's to give.")
  try:
    cli.command(
      [
        "sweep", "run", f"--config={config}", f"--workdir={workdir}",
        "--task_index=0", f"--task_count={count}", *extra, "--dry_run",
      ]
    )  # fmt: skip
  except (ValueError, TypeError, OSError, ImportError) as error:
    raise SystemExit(" ".join(str(error).split())) from error
  return config, workdir


class Watch:
  """A sweep's store, as a launcher looks at it again and again."""

  def __init__(self, workdir: str, count: int, *, stall: float = 1800.0):
    """Nothing is read yet.

    Args:
      workdir: of the sweep; it need not be there yet.
      count: tasks.
      stall: seconds without a new row after which it says so.
    """
    self.workdir, self.count = workdir, count
    self._stall = stall
    self._rows = -1
    self._since = time.monotonic()
    self._told = ""
    self._spans: list[tuple[int, int]] | None = None

  def look(self) -> state.Status | None:
    """What is done, and says it where that is new; None before a start.

    A store that does not answer, or is damaged, counts as one without news.
    """
    found = None
    try:
      if ledger.stored_config(self.workdir) is not None:
        found = state.status(self.workdir)
    except Exception as error:  # Each kind of store has its own.
      self._tell(error)
    if found is not None and found.rows != self._rows:
      self._rows, self._since = found.rows, time.monotonic()
      share = found.rows / max(found.num_rows, 1)
      line = f"{found.rows:,} of {found.num_rows:,} rows ({share:.1%})"
      if found.rate and not found.complete:
        line += f", {found.rate:,.1f} rows/s"
      if found.eta:
        line += f", {tables.duration(found.eta)} left"
      say(line)
    now = time.monotonic()
    if now - self._since > self._stall:
      self._since = now
      say(
        f"no new row for {tables.duration(self._stall)}: do the tasks run, "
        "and does what they say tell why?"
      )
    return found

  def missing(self) -> list[int] | None:
    """Tasks that have a shard neither published nor given up.

    All of them before a start, or where a task must mend the directory first;
    None if the store does not answer: networks fail for a while.
    """
    try:
      return self._missing()
    except Exception as error:
      self._tell(error)
      damaged = ValueError | KeyError | None
      if isinstance(error, ValueError) and isinstance(error.__cause__, damaged):
        return list(range(self.count))
      return None

  def _missing(self) -> list[int]:
    if ledger.stored_config(self.workdir) is None:
      return list(range(self.count))
    book, sweep = run.opened(self.workdir)
    if self._spans is None:
      parts = [sweep.of_task(i, self.count) for i in range(self.count)]
      self._spans = [
        (part[0].index, part[-1].index + 1) if part else (0, 0)
        for part in parts
      ]
    there = {*book.indices(), *state.status(self.workdir).given_up}
    return [
      index
      for index, (start, stop) in enumerate(self._spans)
      if any(shard not in there for shard in range(start, stop))
    ]

  def _tell(self, error: Exception) -> None:
    text = " ".join(str(error).split())[:300]
    if text != self._told:  # And not every few seconds of an outage.
      self._told = text
      say(f"the store does not answer as it should: {text}")


def unfinished(workdir: str, count: int) -> list[int]:
  """Tasks that a launcher should start; see `Watch.missing`.

  Raises:
    SystemExit: a store that does not answer.
  """
  found = Watch(workdir, count).missing()
  if found is None:
    raise SystemExit(f"--workdir={workdir} cannot be read.")
  return found


def verdict(workdir: str, found: state.Status | None) -> bool:
  """Says how it ended; returns whether all is there."""
  if found is None:
    say(f"{workdir}: nothing was started, or the store does not answer")
    return False
  for shard, cause in list(found.given_up.items())[:10]:
    say(f"shard {shard} was given up: {cause}")
  say(f"{found.shards:,} of {found.num_shards:,} shards are there")
  return found.complete


def _check_writable(path: pathlib.Path) -> None:
  """Without making anything."""
  place = path
  while not place.exists() and place != place.parent:
    place = place.parent
  if not place.is_dir():
    raise SystemExit(f"--workdir={path}: {place} is no directory.")
  if not os.access(place, os.W_OK | os.X_OK):
    raise SystemExit(
      f"--workdir={path}: no permission to write in {place}; give another."
    )
