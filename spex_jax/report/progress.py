"""Progress of an explanation: a bar on a terminal, plain lines elsewhere.

Nothing is silent for long: where a batch, a decoder or a model's loading takes
its time, a line says so after a few seconds, and again whenever twice as many
have passed, so that the log of an hour stays short.
"""

import contextlib
import sys
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

from spex_jax.report import tables

_SECONDS = 5.0  # Until a plain line; then 10, 20, 40, ...
_MOST_SECONDS = 300.0  # Between two, in the end.
_QUIET_SECONDS = 1.0  # Between looks whether one is due.


class Pace:
  """How far the masks of an explanation are, in words.

  Attributes:
    total: how many masks are asked, at most.
    done: how many masks have their values.
    calls: seconds in the value function, without the call that lasts.
    decoding: whether it is not being called, after it was.
    since: when that began, in seconds of a clock that never goes back.
  """

  def __init__(self, total: int, compiled: bool = False):
    self.total, self.done, self.calls = total, 0, 0.0
    self._first = "compiling, once" if compiled else "evaluating"
    self.decoding, self.since = False, time.monotonic()
    self._start: float | None = self.since  # Until calls are counted.

  def begin(self) -> None:
    """The value function is called."""
    self.decoding, self.since, self._start = False, time.monotonic(), None

  def end(self) -> None:
    """It has returned."""
    now = time.monotonic()
    self.calls += now - self.since
    self.decoding, self.since = True, now

  @property
  def doing(self) -> str:
    """What the first call does before any mask is done, or `evaluating`."""
    return "evaluating" if self.done else self._first

  def rate(self) -> str:
    """`20 masks/s, 3 min 5 s left`, or "" before anything is known."""
    spent = self.calls
    if self._start is not None:  # Masks are counted; calls are not.
      spent = time.monotonic() - self._start
    if not self.done or spent <= 0:
      return ""
    rate = self.done / spent
    shown = f"{rate:,.0f}" if rate >= 10 else f"{rate:.2g}"
    left = max(self.total - self.done, 0) / rate
    return f"{shown} masks/s, {tables.duration(left)} left"

  def __str__(self) -> str:
    lasted = tables.duration(time.monotonic() - self.since)
    if self.decoding:
      return f"decoding: {lasted}"
    rate = self.rate() or f"for {lasted}"
    return f"{self.doing}: {self.done:,} of {self.total:,} masks, {rate}"


class Due:
  """Whether a plain line is due: the pauses between them double."""

  def __init__(self):
    self._last, self._pause = time.monotonic(), _SECONDS

  def __call__(self) -> bool:
    """True once for each pause that is over."""
    now = time.monotonic()
    if now - self._last < self._pause:
      return False
    self._last = now
    self._pause = min(2 * self._pause, max(_MOST_SECONDS, _SECONDS))
    return True


class Monitor:
  """What is shown while masks are evaluated and their values decoded."""

  def __init__(
    self,
    report: Callable[[int], None],
    begin: Callable[[], None],
    end: Callable[[], None],
  ):
    self._report, self._done = report, 0
    self._begin, self._end = begin, end

  def report(self, done: int) -> None:
    """Takes the number of masks evaluated so far."""
    self._done = done
    self._report(done)

  def within(self, done: int, asked: int) -> None:
    """Takes what an evaluator says of its own batches, inside of one call."""
    del asked
    self._report(self._done + done)

  def progress(self, done: int, budget: int) -> None:
    """`report`, as `explain` calls its `progress`."""
    del budget
    self.report(done)

  def watch(self, function: Callable[[Any], Any]) -> Callable[[Any], Any]:
    """`function`, while a call of which masks are being evaluated.

    Whatever happens outside of its calls, once it was called, is decoding.
    """

    def watched(masks):
      self._begin()
      values = function(masks)
      self._end()
      return values

    watched.__wrapped__ = function  # pyrefly: ignore
    return watched


@contextlib.contextmanager
def evaluations(total: int, compiled: bool = False) -> Iterator[Monitor]:
  """Yields a monitor, and clears up after it.

  Args:
    total: the budget; fewer masks may be needed.
    compiled: whether the first call compiles a model before its first mask.
  """
  shown = _on_terminal if sys.stderr.isatty() else _in_lines
  with shown(Pace(total, compiled)) as monitor:
    yield monitor


@contextlib.contextmanager
def sweep(total: int) -> Iterator[Callable[[int, int, str], None]]:
  """Yields a function of rows done, all rows, and what is being done.

  Args:
    total: how many rows the task has.
  """
  if not sys.stderr.isatty():
    due = Due()

    def line(done: int, total: int, what: str) -> None:
      if due():
        _say(f"{what}: {done} of {total}")

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
def phase(name: str) -> Iterator[None]:
  """Says now and then that something without numbers is still going on.

  Args:
    name: the name of it, as in "loading".
  """
  began = time.monotonic()
  lasted = lambda: f"{name}: {tables.duration(time.monotonic() - began)}"
  with _now_and_then(lasted):
    yield


@contextlib.contextmanager
def _on_terminal(pace: Pace) -> Iterator[Monitor]:
  from rich import console, progress  # Slow to import.

  columns = (
    progress.TextColumn("{task.description}"),
    progress.BarColumn(),
    progress.TextColumn("{task.fields[count]}"),
    progress.TimeElapsedColumn(),
  )
  total = pace.total
  with progress.Progress(*columns, console=console.Console(stderr=True)) as bar:
    asking = bar.add_task(pace.doing, total=total, count=f"0/{total}")
    decoding = bar.add_task(
      "decoding", total=None, count="", visible=False, start=False
    )

    def count() -> str:
      rate = pace.rate()
      return f"{pace.done}/{total}" + (f", {rate}" if rate else "")

    def report(done: int) -> None:
      pace.done = min(done, total)
      bar.update(
        asking, completed=pace.done, count=count(), description=pace.doing
      )

    def begin() -> None:
      pace.begin()
      bar.update(decoding, visible=False)

    def end() -> None:
      pace.end()
      bar.reset(decoding, start=True, total=None, visible=True)

    yield Monitor(report, begin, end)
    # Both bars stay, full: all that was needed was asked and decoded.
    done = max(pace.done, 1)
    bar.update(asking, total=done, completed=done, count=f"{pace.done}/{total}")
    bar.update(decoding, total=1, completed=1)


@contextlib.contextmanager
def _in_lines(pace: Pace) -> Iterator[Monitor]:
  def report(done: int) -> None:
    pace.done = min(done, pace.total)  # Repeats are beyond the budget.

  with _now_and_then(lambda: str(pace)):
    yield Monitor(report, pace.begin, pace.end)


@contextlib.contextmanager
def _now_and_then(line: Callable[[], str]) -> Iterator[None]:
  """Says a line whenever one is due."""
  over = threading.Event()

  def tell() -> None:
    due = Due()
    while not over.wait(min(_QUIET_SECONDS, _SECONDS)):
      if due():
        _say(line())

  # Never keeps an interrupted process alive.
  thread = threading.Thread(target=tell, daemon=True)
  thread.start()
  try:
    yield
  finally:
    over.set()
    thread.join()


def _say(line: str) -> None:
  with contextlib.suppress(OSError, ValueError):  # Nobody listens any more.
    print(line, file=sys.stderr, flush=True)
