"""Where the seconds of a command went: parts that add up to the wall clock."""

import contextlib
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from spex_jax.report import progress, tables


class Clock:
  """Adds up the seconds of named parts.

  Attributes:
    seconds: the seconds of each part so far, by name, in the order of their
      first use.
  """

  def __init__(self, before: float = 0.0):
    """Starts.

    Args:
      before: seconds that have passed already, as for imports.
    """
    self._start = time.perf_counter() - before
    self.seconds: dict[str, float] = {"start": before} if before else {}

  @contextlib.contextmanager
  def of(self, name: str) -> Iterator[None]:
    """Times a part, and says now and then that it is still going on."""
    begin = time.perf_counter()
    try:
      with progress.phase(name):
        yield
    finally:
      self.add({name: time.perf_counter() - begin})

  def add(self, seconds: Mapping[str, float]) -> None:
    """Counts seconds that were measured elsewhere."""
    for name, spent in seconds.items():
      self.seconds[name] = self.seconds.get(name, 0.0) + spent

  def total(self) -> float:
    """Seconds since the start."""
    return time.perf_counter() - self._start

  def __str__(self) -> str:
    """`12.0 s: load 3.0 s, ..., rest 0.1 s`; the parts add up to the whole."""
    total = self.total()
    parts = {**self.seconds, "rest": total - sum(self.seconds.values())}
    shown = [f"{name} {spent:.1f} s" for name, spent in parts.items()]
    whole = f"{total:.1f} s"
    if total >= 60:
      whole += f" ({tables.duration(total)})"
    return f"{whole}: {', '.join(shown)}"


class Session(Clock):
  """A command that tells facts of what it does, and where its seconds went.

  Attributes:
    show: takes a line or a rich renderable.
  """

  def __init__(
    self, show: Callable[[Any], None] | None = None, before: float = 0.0
  ):
    """Starts.

    Args:
      show: takes a line or a rich table; prints by default.
      before: seconds that have passed already, as for imports.
    """
    super().__init__(before)
    self.show = show or tables.printer()

  def tell(self, name: str, text: str) -> None:
    """Shows a fact."""
    self.show(tables.fact(name, text))

  def facts(self, given: Mapping[str, str]) -> None:
    """Shows some."""
    for name, text in given.items():
      self.tell(name, text)

  def end(self, *wrote: Any) -> None:
    """Shows the seconds, and the files that were written."""
    self.tell("time", str(self))
    if wrote:
      self.tell("wrote", ", ".join(map(str, wrote)))


def evaluation(stats: Any, decoding: float = 0.0) -> dict[str, float]:
  """Parts of evaluating masks, from an evaluator's `stats`.

  Measuring batch sizes has its compilations in it.
  """
  measured = stats.probe_seconds if stats.candidates else 0.0
  compiled = 0.0 if stats.candidates else stats.compile_seconds
  return {
    "compile": compiled,
    "measure": measured,
    "head": stats.head_seconds,
    "run": stats.run_seconds,
    "decode": decoding,
  }
