"""A text with the first-order values of its players, on a terminal and drawn.

Positive values are red, negative ones blue, the stronger the darker. Where
colour cannot be shown, the strong ones have their value behind them.

Shapes: n players; `spans[i]` are the characters `text[start:end]` of player i.
"""

import dataclasses
import itertools
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from spex_jax.indices import interactions as interactions_lib
from spex_jax.report import plots

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
    text: as given to the model.
    spans: of each player.
    interactions: of these players.
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
  """A set as it stands in the text: neighbours joined, others by an ellipsis.

  Args:
    text: the whole.
    spans: of each player of the text.
    players: of the set.
    names: one printable name per player.
  """
  order = sorted(players, key=lambda player: spans[player][0][0])
  shown = names[order[0]]
  for before, player in itertools.pairwise(order):
    between = text[spans[before][-1][1] : spans[player][0][0]]
    shown += (" … " if between.strip() else " ") + names[player]
  return shown


def figure(
  text: str,
  spans: Spans,
  interactions: Interactions,
  *,
  title: str = "",
  top: int = 6,
) -> "matplotlib.figure.Figure":
  """The text in colour, with lines under the members of the strongest sets.

  Args:
    text: the whole.
    spans: of each player of the text.
    interactions: of these players.
    title: over the figure.
    top: how many sets of two or more players to underline.
  """
  from matplotlib import patches  # Slow to import.

  places, num_lines = _places(text)
  larger = [item for item in interactions if len(item[0]) > 1][:top]
  colors = plots.LINKS
  step = 1.4 + 0.14 * max(len(larger) - 2, 0)  # Room for what is underlined.
  height = step * num_lines + 1.2 * len(larger) + 3.4
  made = plots.blank(9, 0.19 * height)
  axes = made.add_axes((0.03, 0.0, 0.94, 1.0))
  axes.set(xlim=(0, _LINE), ylim=(height, 0))
  axes.axis("off")
  size = 0.94 * 9 * 72 / _LINE / 0.602  # DejaVu Sans Mono's width: .602 em.
  font = {"family": "monospace", "fontsize": size, "va": "center"}
  axes.text(0, 0.9, plots.escape(title), fontsize=size * 1.1, va="center")
  top_line = 2.4

  def draw(piece_start, piece, share):
    for row, column, run in _runs(places, piece_start, piece):
      y = top_line + step * row
      if share:
        strength = abs(share)
        color = _POSITIVE if share > 0 else _NEGATIVE
        shade = [x / 255 for x in color] + [0.12 + 0.78 * strength]
        axes.add_patch(
          patches.Rectangle(
            (column, y - 0.55), len(run), 1.1, color=shade, lw=0
          )
        )
      dark = share and abs(share) > 0.6
      axes.text(
        column, y, plots.escape(run), color="w" if dark else "k", **font
      )

  position = 0
  for piece, _, share in _pieces(text, spans, interactions):
    draw(position, piece, share)
    position += len(piece)
  names = interactions.labels()
  foot = top_line + step * num_lines
  for number, (players, value) in enumerate(larger):
    color = colors[number % len(colors)]
    for player in players:
      for start, end in spans[player]:
        for row, column, run in _runs(places, start, text[start:end]):
          y = top_line + step * row + 0.66 + 0.14 * number
          axes.plot([column, column + len(run)], [y, y], color=color, lw=1.6)
    y = foot + 1.2 * number
    label = f"{value:+.3g}  {spread(text, spans, players, names)}"
    label = label if len(label) < _LINE else label[: _LINE - 2] + "…"
    axes.text(1, y, plots.escape(label), color=color, **font)
  largest = max((abs(v) for p, v in interactions if len(p) == 1), default=0.0)
  axes.text(
    0,
    foot + 1.2 * len(larger) + 0.2,
    f"{plots.values_in(interactions)}; red positive, blue negative, darkest "
    f"{largest:.3g}",
    fontsize=0.8 * size,
    va="center",
  )
  return made


def _pieces(
  text: str, spans: Spans, interactions: Interactions
) -> Iterator[tuple[str, float | None, float]]:
  """The text in parts, each with its player's value and share of the largest.

  None and 0 for parts that nobody owns.
  """
  values = {p[0]: value for p, value in interactions if len(p) == 1}
  largest = max(map(abs, values.values()), default=0.0)
  flat = sorted(
    (start, end, player)
    for player, its_spans in enumerate(spans)
    for start, end in its_spans
  )
  at = 0
  for start, end, player in flat:
    if start > at:
      yield text[at:start], None, 0.0
    value = values.get(player, 0.0)
    # Tokens may share a character: it is shown once.
    piece = text[max(start, at) : end]
    if piece:
      yield piece, value, value / largest if largest else 0.0
    at = max(at, end)
  if at < len(text):
    yield text[at:], None, 0.0


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


def _places(text: str) -> tuple[list[tuple[int, int]], int]:
  """Row and column of every character, wrapped at spaces; number of rows."""
  places: list[tuple[int, int]] = []
  row = column = at = 0
  while at < len(text):
    if text[at] == "\n":
      places.append((row, column))
      row, column, at = row + 1, 0, at + 1
      continue
    end = at + 1
    if not text[at].isspace():
      while end < len(text) and not text[end].isspace():
        end += 1
      if column and column + end - at > _LINE:
        row, column = row + 1, 0
    for _ in range(at, end):
      if column >= _LINE:  # Longer than a line.
        row, column = row + 1, 0
      places.append((row, column))
      column += 1
    at = end
  return places, row + 1


def _runs(
  places: Sequence[tuple[int, int]], start: int, piece: str
) -> Iterator[tuple[int, int, str]]:
  """Parts of a piece on one line each: row, column, characters."""
  piece = "".join(c if c.isprintable() else " " for c in piece)
  begin = 0
  for i in range(1, len(piece) + 1):
    if i == len(piece) or places[start + i][0] != places[start + begin][0]:
      row, column = places[start + begin]
      run = piece[begin:i]
      yield row, column, run
      begin = i
