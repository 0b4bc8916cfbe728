"""Progress of an explanation: a bar on a terminal, plain lines elsewhere."""

import contextlib
import sys
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

_SECONDS = 5.0  # Between plain lines.
_QUIET_SECONDS = 2.0  # Of decoding, before a plain line says so.


class Monitor:
  """What is shown while masks are evaluated and their values decoded.

  Attributes:
    report: takes the number of masks evaluated so far.
  """

  def __init__(
    self,
    report: Callable[[int], None],
    begin: Callable[[], None],
    end: Callable[[], None],
  ):
    self.report = report
    self._begin, self._end = begin, end

  def watch(self, function: Callable[[Any], Any]) -> Callable[[Any], Any]:
    """`function`, while a call of which masks are being evaluated.

    Whatever happens outside of its calls, once it was called, is decoding.
    """

    def watched(masks):
      self._begin()
      values = function(masks)
      self._end()
      return values

    return watched


@contextlib.contextmanager
def evaluations(total: int) -> Iterator[Monitor]:
  """Yields a monitor, and clears up after it.

  Args:
    total: the budget; fewer masks may be needed.
  """
  shown = _on_terminal if sys.stderr.isatty() else _in_lines
  with shown(total) as monitor:
    yield monitor


@contextlib.contextmanager
def sweep(total: int) -> Iterator[Callable[[int, int, str], None]]:
  """Yields a function of rows done, all rows, and what is being done.

  Args:
    total: rows of the task.
  """
  if not sys.stderr.isatty():
    last = time.monotonic()

    def line(done: int, total: int, what: str) -> None:
      nonlocal last
      if time.monotonic() - last >= _SECONDS:
        last = time.monotonic()
        _say(f"{done} of {total} rows: {what}")

    yield line
    return
  from rich import console, progress  # Slow to import.

  columns = (
    progress.BarColumn(),
    progress.MofNCompleteColumn(),
    progress.TimeRemainingColumn(),
    progress.TextColumn("{task.description}"),
  )
  with progress.Progress(*columns, console=console.Console(stderr=True)) as bar:
    task = bar.add_task("", total=total)
    yield lambda done, total, what: bar.update(
      task, completed=done, total=total, description=what
    )


@contextlib.contextmanager
def _on_terminal(total: int) -> Iterator[Monitor]:
  from rich import console, progress  # Slow to import.

  columns = (
    progress.TextColumn("{task.description}"),
    progress.BarColumn(),
    progress.TextColumn("{task.fields[count]}"),
    progress.TimeElapsedColumn(),
  )
  with progress.Progress(*columns, console=console.Console(stderr=True)) as bar:
    asking = bar.add_task("evaluating", total=total, count=f"0/{total}")
    decoding = bar.add_task(
      "decoding", total=None, count="", visible=False, start=False
    )
    asked = 0

    def report(done: int) -> None:
      nonlocal asked
      asked = min(done, total)
      bar.update(asking, completed=asked, count=f"{asked}/{total}")

    def begin() -> None:
      bar.update(decoding, visible=False)

    def end() -> None:
      bar.reset(decoding, start=True, total=None, visible=True)

    yield Monitor(report, begin, end)
    # Both bars stay, full: all that was needed was asked and decoded.
    bar.update(asking, total=max(asked, 1), completed=max(asked, 1))
    bar.update(decoding, total=1, completed=1)


@contextlib.contextmanager
def _in_lines(total: int) -> Iterator[Monitor]:
  last = time.monotonic()
  timer: threading.Timer | None = None

  def report(done: int) -> None:
    nonlocal last
    if time.monotonic() - last >= _SECONDS:
      last = time.monotonic()
      _say(f"evaluating: {done} of {total} masks")

  def begin() -> None:
    if timer:
      timer.cancel()

  def end() -> None:
    nonlocal timer
    begin()
    timer = threading.Timer(_QUIET_SECONDS, _say, ("decoding",))
    timer.daemon = True  # Never keeps an interrupted process alive.
    timer.start()

  try:
    yield Monitor(report, begin, end)
  finally:
    begin()


def _say(line: str) -> None:
  print(line, file=sys.stderr, flush=True)
