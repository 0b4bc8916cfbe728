"""Texts in colour, without it, and drawn."""

import io

from rich import console

from spex_jax.indices import interactions as interactions_lib
from spex_jax.report import tables, texts

_TEXT = "is never\nboring [red]\x1b but"
_SPANS = [[(0, 2)], [(3, 8)], [(9, 15)], [(23, 26)]]


def _found(sets, n=4):
  return interactions_lib.Interactions.from_sets(
    n, sets, index="FBII", order=2, names=("is", "never", "boring", "but")
  )


_FOUND = _found(
  [((1,), -2.0), ((2,), 1.0), ((0,), 0.1), ((1, 2), 3.0), ((0, 3), -0.5)]
)


def _printed(**settings):
  out = io.StringIO()
  shown = console.Console(file=out, width=200, **settings)
  shown.print(texts.Marked(_TEXT, _SPANS, _FOUND, "text "))
  return out.getvalue()


def test_without_colour_strong_players_have_their_value():
  # 0.1 is below a fifth of the largest. What could steer a terminal is spelt.
  expected = "text is never[-2]\nboring[+1] [red]\\x1b but\n"
  assert _printed() == expected
  assert _printed(force_terminal=True, no_color=True) == expected


def test_on_a_terminal_the_strongest_is_the_darkest():
  shown = _printed(
    force_terminal=True, color_system="truecolor", no_color=False
  )
  # Blue of full strength; red half way from white; nothing on "but".
  assert "48;2;33;102;172mnever" in shown
  assert "48;2;216;140;149mboring" in shown
  assert shown.endswith(" [red]\\x1b but\n") and "[-2]" not in shown


def test_sixteen_colours_have_three_degrees():
  shown = _printed(force_terminal=True, color_system="standard", no_color=False)
  assert "\x1b[1;37;44mnever" in shown and "\x1b[1;31mboring" in shown
  assert "is " in shown and "mis" not in shown  # Below a fifth: plain.


def test_a_set_is_written_as_it_stands():
  names = ("is", "never", "boring", "but")
  spread = lambda *players: texts.spread(_TEXT, _SPANS, players, names)
  assert spread(2, 1) == "never + boring"
  assert spread(0, 2, 1) == "is + never + boring"
  assert spread(0, 3) == "is … but"
  table = tables.interactions(
    _FOUND, together=lambda players, labels: spread(*players)
  )
  out = io.StringIO()
  console.Console(file=out, width=200).print(table)
  assert "{never + boring}" in out.getvalue() and "{is … but}" in out.getvalue()


def test_tokens_that_share_a_character_show_it_once():
  out = io.StringIO()
  found = _found([((0,), 1.0), ((1,), -1.0)])
  spans = [[(0, 1)], [(0, 1)], [(1, 2)], [(2, 2)]]
  console.Console(file=out).print(texts.Marked("éa", spans, found))
  assert out.getvalue() == "é[+1]a\n"


def test_a_character_of_several_tokens_has_the_strongest_value():
  out = io.StringIO()
  # A token of space at the character, then its four bytes; one reaches on.
  found = _found([((0,), -1.0), ((1,), 5.0), ((2,), 2.0), ((3,), -6.0)])
  spans = [[(0, 1)], [(0, 1)], [(0, 2)], [(1, 2)]]
  console.Console(file=out).print(texts.Marked("日本", spans, found))
  assert out.getvalue() == "日[+5]本[-6]\n"


def test_a_figure_has_every_word_and_a_line_under_each_member():
  figure = texts.sentence(_TEXT, _SPANS, _FOUND, title="a $title$")
  (axes,) = figure.axes
  words = [text.get_text() for text in axes.texts]
  for word in ("is", "never", "boring", "but", r"a \$title\$"):
    assert word in words
  assert "  +3  never + boring" in words and "-0.5  is … but" in words
  assert len(axes.lines) == 4 and len(axes.patches) == 3
  rows = {t.get_text(): t.get_position()[1] for t in axes.texts}
  assert rows["is"] == rows["never"] < rows["boring"] == rows["but"]


def test_long_texts_are_wrapped_at_spaces():
  text = "word " * 40 + "x" * 200
  spans = [[(0, 4)], [(5, 9)], [(195, 199)], [(200, 400)]]
  figure = texts.sentence(text, spans, _FOUND)
  for drawn in figure.axes[0].texts:
    assert drawn.get_position()[0] + len(drawn.get_text()) <= 81
