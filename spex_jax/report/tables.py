"""What was asked, what it cost, and what came out, as text.

On a terminal rich lays it out; elsewhere it is plain lines.
"""

import contextlib
import contextvars
import sys
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from typing import Any

from spex_jax import base
from spex_jax.indices import interactions as interactions_lib

_WIDTH = 14  # Of the names of facts.

Told = list[tuple[str, str]]
_RECORD: contextvars.ContextVar[Told | None] = contextvars.ContextVar(
  "told", default=None
)


class Fact(str):
  """A line of a name and what is told under it.

  Attributes:
    name: the name of the fact.
    value: the text that is told under that name.
  """

  name: str
  value: str


@contextlib.contextmanager
def recorded() -> Iterator[Told]:
  """Names and values of the facts that printers made within it print."""
  told: Told = []
  token = _RECORD.set(told)
  try:
    yield told
  finally:
    _RECORD.reset(token)


def printer() -> Callable[[Any], None]:
  """A function that prints text or a rich renderable to stdout."""
  from rich import console  # Slow to import.

  if sys.stdout.isatty():
    terminal = console.Console(highlight=False, emoji=False)
  else:
    # Wider than any line: nothing is wrapped or cut in a file.
    terminal = console.Console(
      highlight=False, emoji=False, no_color=True, width=1 << 16
    )
  told = _RECORD.get()

  def show(item: Any) -> None:
    if told is not None and isinstance(item, Fact):
      told.append((item.name, item.value))
    terminal.print(item, markup=False, soft_wrap=True)

  return show


def fact(name: str, value: str) -> Fact:
  """One named fact on a line, whatever its text holds."""
  value = base.printable(value)
  line = Fact(f"{name:<{_WIDTH}}{value}")
  line.name, line.value = name, value
  return line


def teller(
  show: Callable[..., None] | None = None,
) -> Callable[[str, str], None]:
  """What shows named facts, one at a call; it prints them by default."""
  show = show or printer()
  return lambda name, text: show(fact(name, text))


def count(number: int, noun: str, plural: str | None = None) -> str:
  """`1 mask`, `2,000 masks`."""
  return f"{number:,} {noun if number == 1 else plural or noun + 's'}"


def duration(seconds: float) -> str:
  """`45 s`, `3 min 20 s`, `2 h 5 min`, `3 d 4 h`."""
  whole = round(seconds)
  for size, unit, small, name in (
    (86400, "d", 3600, "h"), (3600, "h", 60, "min"), (60, "min", 1, "s"),
  ):  # fmt: skip
    if whole >= size:
      rest = whole % size // small
      return f"{whole // size} {unit}" + (f" {rest} {name}" if rest else "")
  return f"{whole} s"


def cost(stats: Any, decode_seconds: float) -> str:
  """What an evaluator's `stats` say, beside the seconds of decoding.

  Batches are given as settings of the evaluator, which would make the same
  ones again: its `microbatch` where it is not a whole batch of a device.
  """
  text = count(stats.batches, "batch", "batches")
  if stats.batch_shape is not None:
    size = f"batch_size={stats.batch_shape[0]}"
    if stats.microbatch != stats.device_batch:
      size += f", microbatch={stats.microbatch}"
    size += f"; {count(stats.padded, 'row')} of padding"
    if stats.sizes:
      shares = [f"{run:,} of {length}" for length, run in stats.sizes.items()]
      size += f"; rows by length: {', '.join(shares)}"
    if stats.chosen:
      size += f"; {stats.chosen}"
    text += f" ({size})"
  return (
    f"{text} on {stats.device}; compile {stats.compile_seconds:.2f} s, run "
    f"{stats.run_seconds:.2f} s, decode {decode_seconds:.2f} s"
  )


def some(names: Sequence[str], most: int = 10) -> str:
  """The first names of many, and how many there are."""
  shown = ", ".join(names[:most])
  return shown if len(names) <= most else f"{shown}, ... ({len(names):,})"


def grid(
  columns: Sequence[str],
  rows: Iterable[Sequence[str]],
  texts: Collection[str],
  title: str | None = None,
) -> Any:
  """A rich table.

  Args:
    columns: the names of the columns.
    rows: cells, none of which is markup.
    texts: columns of texts; all others are of numbers, and stand to the right.
    title: what stands above the table.
  """
  from rich import box, table, text  # Slow to import.

  shown = table.Table(box=box.SIMPLE_HEAD, title=title)
  for name in columns:
    shown.add_column(name, justify="left" if name in texts else "right")
  for row in rows:
    shown.add_row(*map(text.Text, row))
  return shown


def interactions(
  found: interactions_lib.Interactions,
  top: int = 10,
  together: Callable[[tuple[int, ...], Sequence[str]], str] | None = None,
) -> Any:
  """A rich table: the `top` strongest players, then sets of two or more.

  Standard errors have a column where they are known.

  Args:
    found: the values of players and sets.
    top: how many players, and how many sets of two or more.
    together: members of a set and all labels to how the set is written.
  """
  from rich import box, table, text  # Slow to import.

  # Text: neither an index, nor units, nor a label is ever markup.
  name = base.printable(found.index)
  title = text.Text(f"{name}, order up to {found.order}", style="table.title")
  units = base.printable(found.units or "")
  rows = table.Table(box=box.SIMPLE_HEAD, title=title, title_justify="left")
  rows.add_column("value", justify="right")
  if found.std is not None:
    rows.add_column("+/-", justify="right")
  rows.add_column("units")
  rows.add_column("set")
  labels = found.labels()
  errors = [[]] * len(found)
  if found.std is not None:
    errors = [[text.Text(f"{std:.4g}")] for std in found.std]
  sets = [(*item, error) for item, error in zip(found, errors)]
  single = [item for item in sets if len(item[0]) == 1]  # Strongest first.
  larger = [item for item in sets if len(item[0]) > 1]
  for part in (single[:top], larger[:top]):
    for players, value, error in part:
      members = ", ".join(labels[player] for player in players)
      if together is not None:
        members = together(players, labels)
      rows.add_row(
        text.Text(f"{value:+.4g}", style="red" if value > 0 else "blue"),
        *error,
        text.Text(units),
        text.Text(f"{{{members}}}"),
      )
    rows.add_section()
  return rows
