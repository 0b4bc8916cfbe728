"""Progress of evaluations: a bar on a terminal, plain lines elsewhere."""

import contextlib
import sys
import time
from collections.abc import Callable, Iterator

_SECONDS = 5.0  # Between plain lines.


@contextlib.contextmanager
def evaluations(total: int) -> Iterator[Callable[[int], None]]:
  """Yields a function to call with the number of masks evaluated so far.

  Args:
    total: the budget; fewer may be needed.
  """
  if sys.stderr.isatty():
    from rich import console, progress  # Slow to import.

    columns = (
      progress.TextColumn("evaluating"),
      progress.BarColumn(),
      progress.MofNCompleteColumn(),
      progress.TimeElapsedColumn(),
    )
    terminal = console.Console(stderr=True)
    with progress.Progress(*columns, console=terminal, transient=True) as bar:
      task = bar.add_task("evaluating", total=total)
      yield lambda done: bar.update(task, completed=min(done, total))
    return
  last = time.monotonic()

  def report(done: int) -> None:
    nonlocal last
    if time.monotonic() - last >= _SECONDS:
      last = time.monotonic()
      print(f"evaluating: {done} of {total} masks", file=sys.stderr)

  yield report
