"""A text with the first-order values of its players, on a terminal and drawn.

Positive values are red, negative ones blue, the stronger the darker. Where
colour cannot be shown, the strong ones have their value behind them.

Shapes: n players; `spans[i]` are the characters `text[start:end]` of player i.
"""

import bisect
import dataclasses
import itertools
import unicodedata
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from spex_jax.indices import interactions as interactions_lib
from spex_jax.report import fonts, plots

if TYPE_CHECKING:
  import matplotlib.figure

Interactions = interactions_lib.Interactions
Spans = Sequence[Sequence[tuple[int, int]]]

_STRONG = 0.2  # Of the largest value: below, no value stands behind a player.
_SHADES = ("truecolor", "256")  # Systems of rich's with many colours.
_LINE = 80  # Characters of a drawn line.
_POSITIVE, _NEGATIVE = (178, 24, 43), (33, 102, 172)


@dataclasses.dataclass(frozen=True)
class Marked:
  """A rich renderable: the text in colour, or with values in brackets.

  Attributes:
    text: the text, as the model was given it.
    spans: the spans of characters of each player.
    interactions: the values of these players and their sets.
    label: in front, such as the name of a fact.
  """

  text: str
  spans: Spans
  interactions: Interactions
  label: str = ""

  def __rich_console__(self, console: Any, options: Any) -> Iterator[Any]:
    from rich import text as rich_text  # Slow to import.

    del options
    plain = console.no_color or not console.color_system
    style = _shade if console.color_system in _SHADES else _ink
    body = rich_text.Text(self.label)
    for piece, value, share in _pieces(
      self.text, self.spans, self.interactions
    ):
      piece = _visible(piece)
      if value is None or not share:
        body.append(piece)
      elif plain:
        body.append(piece)
        if abs(share) >= _STRONG:
          body.append(f"[{value:+.2g}]")
      else:
        body.append(piece, style=style(share))
    yield body


def spread(
  text: str, spans: Spans, players: Sequence[int], names: Sequence[str]
) -> str:
  """A set as it stands in the text: neighbours with a plus between, others "…".

  Args:
    text: the whole text, as the model was given it.
    spans: the spans of each player of the text.
    players: the numbers of the set's players.
    names: one printable name for each player.
  """
  order = sorted(players, key=lambda player: spans[player][0][0])
  shown = fonts.forward(names[order[0]])
  for before, player in itertools.pairwise(order):
    between = text[spans[before][-1][1] : spans[player][0][0]]
    shown += " … " if between.strip() else " + "
    shown += fonts.forward(names[player])
  return shown


def sentence(
  text: str,
  spans: Spans,
  interactions: Interactions,
  *,
  title: str = "",
  top: int = 6,
) -> "matplotlib.figure.Figure":
  """The text in colour, with lines under the members of the strongest sets.

  Args:
    text: the whole text, as the model was given it.
    spans: the spans of each player of the text.
    interactions: the values of these players and their sets.
    title: the text over the figure; "" for none.
    top: how many sets of two or more players to underline.
  """
  from matplotlib import patches  # Slow to import.

  places = _Places(text)
  num_lines = places.num_rows
  larger = [item for item in interactions if len(item[0]) > 1][:top]
  colors = plots.LINKS
  step = 1.4 + 0.14 * max(len(larger) - 2, 0)  # Room for what is underlined.
  height = step * num_lines + 1.2 * len(larger) + 3.4
  made = plots.blank(9, 0.19 * height)
  axes = made.add_axes((0.03, 0.0, 0.94, 1.0))
  axes.set(xlim=(0, _LINE), ylim=(height, 0))
  axes.axis("off")
  # The head, in a font whose letters fill a line.
  size = 0.94 * 9 * 72 / _LINE / 0.602  # DejaVu Sans Mono's width: .602 em.
  font = {"family": "monospace", "fontsize": size, "va": "center"}
  axes.text(0, 0.9, plots.escape(title), fontsize=size * 1.1, va="center")
  top_line = 2.4

  def draw(piece_start, piece, share):
    for row, column, width, run in _runs(places, piece_start, piece):
      y = top_line + step * row
      if share:
        strength = abs(share)
        color = _POSITIVE if share > 0 else _NEGATIVE
        shade = [x / 255 for x in color] + [0.12 + 0.78 * strength]
        axes.add_patch(
          patches.Rectangle((column, y - 0.55), width, 1.1, color=shade, lw=0)
        )
      dark = share and abs(share) > 0.6
      axes.text(
        column, y, plots.escape(run), color="w" if dark else "k", **font
      )

  # The text, each player shaded.
  position = 0
  for piece, _, share in _pieces(text, spans, interactions):
    draw(position, piece, share)
    position += len(piece)
  # Larger sets: underlined in the text, spelt below it.
  names = interactions.labels()
  told = [f"{value:+.3g}" for _, value in larger]
  foot = top_line + step * num_lines
  for number, (players, value) in enumerate(larger):
    color = colors[number % len(colors)]
    for player in players:
      for start, end in spans[player]:
        for row, column, width, _ in _runs(places, start, text[start:end]):
          y = top_line + step * row + 0.66 + 0.14 * number
          axes.plot(
            [column, column + width], [y, y], color=color, lw=1.6,
            ls="-" if value > 0 else (0, (3, 1)),
          )  # fmt: skip
    y = foot + 1.2 * number
    label = told[number].rjust(max(map(len, told)))
    label += f"  {spread(text, spans, players, names)}"
    label = _cut(label)
    axes.text(1, y, plots.escape(label), color=color, **font)
  largest = max((abs(v) for p, v in interactions if len(p) == 1), default=0.0)
  axes.text(
    0,
    foot + 1.2 * len(larger) + 0.2,
    f"{plots.values_in(interactions)}; red positive, blue negative, darkest "
    f"{largest:.3g}" + "; dashed sets are negative" * bool(larger),
    fontsize=0.8 * size,
    va="center",
  )
  return made


def _pieces(
  text: str, spans: Spans, interactions: Interactions
) -> Iterator[tuple[str, float | None, float]]:
  """The text in parts, each with its player's value and share of the largest.

  None and 0 for parts that nobody owns. A part that several own, as tokens may
  share a character, has the strongest of their values.
  """
  values = {p[0]: value for p, value in interactions if len(p) == 1}
  largest = max(map(abs, values.values()), default=0.0)
  owned = [
    (start, end, values.get(player, 0.0))
    for player, its_spans in enumerate(spans)
    for start, end in its_spans
    if start < end
  ]
  ends = sorted({0, len(text)} | {end for span in owned for end in span[:2]})
  before: list[int] = []
  begin = 0
  for start in ends[:-1]:
    # The owners of a piece; tokens may share a character.
    now = [i for i, span in enumerate(owned) if span[0] <= start < span[1]]
    if now != before and start > begin:
      yield _piece(text[begin:start], before, owned, largest)
      begin = start
    before = now
  if begin < len(text):
    yield _piece(text[begin:], before, owned, largest)


def _piece(
  piece: str,
  owners: Sequence[int],
  owned: Sequence[tuple[int, int, float]],
  largest: float,
) -> tuple[str, float | None, float]:
  if not owners:
    return piece, None, 0.0
  value = max((owned[i][2] for i in owners), key=abs)
  return piece, value, value / largest if largest else 0.0


def _ink(share: float) -> str:
  """Of a terminal with 16 colours: no shades, so three degrees."""
  color = "red" if share > 0 else "blue"
  if abs(share) > 0.6:
    return f"bold white on {color}"
  return f"bold {color}" if abs(share) >= _STRONG else ""


def _shade(share: float) -> str:
  strength = abs(share)
  color = _POSITIVE if share > 0 else _NEGATIVE
  shade = [round(255 - strength * (255 - x)) for x in color]
  ink = "white" if strength > 0.6 else "black"
  return f"{ink} on rgb({','.join(map(str, shade))})"


def _visible(piece: str) -> str:
  """Control characters escaped, but for line ends."""
  return "".join(
    c if c.isprintable() or c == "\n" else c.encode("unicode_escape").decode()
    for c in piece
  )


class _Places:
  """Where every character of a text stands, wrapped at spaces.

  Attributes:
    rows: of each character.
    columns: where each begins, in monospaced Latin letters.
    widths: of each, in the same.
  """

  def __init__(self, text: str):
    self.widths = fonts.widths(_spaced(text))
    self.rows: list[int] = []
    self.columns: list[float] = []
    row, column, at = 0, 0.0, 0
    while at < len(text):
      if text[at] == "\n":
        self._put(row, column)
        row, column, at = row + 1, 0.0, at + 1
        continue
      end = at + 1
      if not text[at].isspace():
        while end < len(text) and not text[end].isspace():
          end += 1
        if column and column + sum(self.widths[at:end]) > _LINE:
          row, column = row + 1, 0.0
      for width in self.widths[at:end]:
        if column and column + width > _LINE:  # Longer than a line.
          row, column = row + 1, 0.0
        self._put(row, column)
        column += width
      at = end
    self.num_rows = row + 1

  def _put(self, row: int, column: float) -> None:
    self.rows.append(row)
    self.columns.append(column)


def _runs(
  places: _Places, start: int, piece: str
) -> Iterator[tuple[int, float, float, str]]:
  """Parts of a piece on one line each: row, column, width, characters."""
  piece = _spaced(piece)
  begin = 0
  for i in range(1, len(piece) + 1):
    row = places.rows[start + begin]
    if i == len(piece) or places.rows[start + i] != row:
      width = sum(places.widths[start + begin : start + i])
      yield row, places.columns[start + begin], width, piece[begin:i]
      begin = i


def _spaced(text: str) -> str:
  """Spaces for what cannot be printed; joiners and marks stay."""
  return "".join(
    c if c.isprintable() or unicodedata.category(c) == "Cf" else " "
    for c in text
  )


def _cut(label: str) -> str:
  """A label that fits on a line."""
  ends = list(itertools.accumulate(fonts.widths(label)))
  if not ends or ends[-1] < _LINE:
    return label
  return label[: bisect.bisect_right(ends, _LINE - 2)] + "…"
