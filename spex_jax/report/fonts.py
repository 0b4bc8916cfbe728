"""Text of any script in figures: fonts that have it, or its name instead.

matplotlib's own font has Latin, Greek, Cyrillic, Hebrew and Arabic letters. A
character that it lacks is looked for in the fonts of this machine; one that
none of them has is drawn as its name in angle brackets, or as its number,
instead of a box that could be anything.
"""

import functools
import unicodedata
from collections.abc import Iterable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
  import matplotlib.figure
  import matplotlib.text

# A mark without width: what follows it is laid out from left to right.
_FORWARD = "\u200e"
_NAME = 32  # Letters of a character's name that is still drawn.
_FIRST = ("DejaVu Sans", "DejaVu Sans Mono")  # They come with matplotlib.
# Has a box for every character there is.
_BOXES = "Last Resort"
_PLAIN = (400, "normal", "regular", "book", "medium")
_LEFT, _RIGHT = "⟨", "⟩"
# Joiners, selectors of variants and marks of direction.
_HIDDEN = {0x200B, 0x200C, 0x200D, 0x200E, 0x200F, 0xFEFF} | {
  *range(0xFE00, 0xFE10), *range(0x2060, 0x2070), *range(0x202A, 0x202F),
}  # fmt: skip
FOOTNOTE = f"in {_LEFT}{_RIGHT}: characters that no font of this machine has"


def shown(text: str) -> str:
  """`text` with the characters that no font has spelt."""
  return "".join(map(_drawn, text))


def forward(label: str) -> str:
  """A label that reads from right to left, kept from turning what is beside it.

  Any other is returned as it is.
  """
  turned = any(unicodedata.bidirectional(c) in ("R", "AL", "AN") for c in label)
  return f"{_FORWARD}{label}{_FORWARD}" if turned else label


def widths(text: str) -> list[float]:
  """How many monospaced Latin letters wide each character of `text` is."""
  return [_width(c) for c in text]


def dress(figure: "matplotlib.figure.Figure") -> None:
  """Gives every text of a figure the fonts that it needs.

  Where characters are spelt, as by `shown`, a footnote says so, once.
  """
  from matplotlib import text as text_lib  # Slow to import.

  spelt = False
  for item in figure.findobj(text_lib.Text):
    text = item.get_text()
    if text.isascii():
      continue
    spelt = spelt or (_LEFT in text and text != FOOTNOTE)
    turned = "\n".join(map(_begun, text.split("\n")))
    if turned != text:
      item.set_text(turned)
    family = item.get_fontfamily()
    more = [name for name in families(turned) if name not in family]
    if more:
      item.set_fontfamily([*family, *more])
  if spelt and not any(t.get_text() == FOOTNOTE for t in figure.texts):
    note = figure.text(0, -0.01, FOOTNOTE, fontsize=6, va="top")
    note.set_fontfamily(families(FOOTNOTE))


def families(text: Iterable[str]) -> list[str]:
  """Names of the fonts that have the characters of `text`, those of ours first.

  Without those that nobody has.
  """
  found = [_font(c) for c in text if not c.isascii()]
  return list(dict.fromkeys([_FIRST[0], *filter(None, found)]))


def _begun(line: str) -> str:
  """A line whose first word decides nothing about its direction."""
  if forward(line) == line or line.startswith(_FORWARD):
    return line
  return _FORWARD + line


def _drawn(character: str) -> str:
  if character.isascii() or _font(character) is not None:
    return character
  if ord(character) in _HIDDEN or unicodedata.combining(character):
    return ""
  name = unicodedata.name(character, "")
  if not name or len(name) > _NAME or "IDEOGRAPH" in name:
    return f"{_LEFT}U+{ord(character):04X}{_RIGHT}"
  return f"{_LEFT}{name.lower()}{_RIGHT}"


@functools.cache
def _width(character: str) -> float:
  drawn = _drawn(character)
  if drawn.isascii() or drawn != character:
    return float(len(drawn))
  if ord(character) in _HIDDEN or unicodedata.combining(character):
    return 0.0
  name = _font(character)
  assert name is not None  # It would be spelt.
  return _advance(name, character) / _advance(_FIRST[1], "m")


def _advance(name: str, character: str) -> float:
  """Of a character, in units of the font's size."""
  from matplotlib import ft2font

  font = ft2font.FT2Font(_paths()[name])
  font.set_size(100, 72)
  flags = ft2font.LoadFlags.NO_HINTING
  return font.load_char(ord(character), flags).linearHoriAdvance / 65536 / 100


@functools.cache
def _font(character: str) -> str | None:
  """The name of a font that has the character, or None."""
  for name in (*_FIRST, *_paths()):
    if ord(character) in _characters(name):
      return name
  return None


@functools.cache
def _paths() -> dict[str, str]:
  """Upright fonts of plain weight: their files by name."""
  from matplotlib import font_manager

  return {
    font.name: font.fname
    for font in sorted(
      font_manager.fontManager.ttflist, key=lambda font: font.name
    )
    if font.style == "normal"
    and font.weight in _PLAIN
    and not font.name.startswith(_BOXES)
  }


@functools.cache
def _characters(name: str) -> frozenset[int]:
  """What a font can draw; nothing if it has pictures of one size only."""
  from matplotlib import ft2font

  try:
    font = ft2font.FT2Font(_paths()[name])
    return frozenset(font.get_charmap() if font.scalable else ())
  except (KeyError, OSError, RuntimeError):  # None, or none that can be read.
    return frozenset()
