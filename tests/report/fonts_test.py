"""Scripts beyond Latin in figures: drawn, or spelt, never a box."""

import itertools
import warnings

import pytest
from matplotlib.backends import backend_agg

from spex_jax.indices import interactions as interactions_lib
from spex_jax.report import fonts, plots, texts

_TEXT = "One שלום 日本語 🙂 नमस्ते مرحبا word"
_WORDS = _TEXT.split()


def _spans():
  at, spans = 0, []
  for word in _WORDS:
    at = _TEXT.index(word, at)
    spans.append(((at, at + len(word)),))
    at += len(word)
  return spans


def _found(sets, names=None, n=None):
  n = n or len(names)
  order = max(len(players) for players, _ in sets)
  return interactions_lib.Interactions.from_sets(
    n, sets, index="FBII", order=order, names=names
  )


def _drawn(figure):
  """Draws as `savefig` does, with every warning an error."""
  canvas = backend_agg.FigureCanvasAgg(figure)
  with warnings.catch_warnings():
    warnings.simplefilter("error")
    canvas.draw()
  return canvas.get_renderer()


_SETS = [((i,), 1.0 + i) for i in range(7)] + [
  ((1, 2), 1.07), ((1, 3), -1.5), ((4, 5), 0.3)
]  # fmt: skip


@pytest.mark.parametrize("kind", ["text", "bars", "network"])
def test_any_script_is_drawn_without_a_warning(kind):
  found = _found(_SETS, _WORDS)
  if kind == "text":
    figure = texts.sentence(_TEXT, _spans(), found)
  else:
    figure = getattr(plots, kind)(found, title=_TEXT)
  _drawn(figure)


def test_words_of_a_text_do_not_run_over_one_another():
  figure = texts.sentence(_TEXT, _spans(), _found(_SETS[:7], _WORDS))
  renderer = _drawn(figure)
  # The title, then words and spaces, and what is below them.
  drawn = figure.axes[0].texts[1 : 2 * len(_WORDS)]
  boxes = [
    (t.get_position()[1], t.get_window_extent(renderer))
    for t in drawn
    if t.get_text().strip()
  ]
  assert len(boxes) == len(_WORDS)
  for (row, left), (next_row, right) in itertools.pairwise(boxes):
    # Letters are a little wider where there are few pixels.
    assert next_row > row or left.x1 <= right.x0 + 1 + 0.03 * left.width


def test_what_no_font_has_is_spelt_and_said_once(monkeypatch):
  fonts._width.cache_clear()
  has = lambda c: "DejaVu Sans" if ord(c) < 0x2000 or c in "⟨⟩" else None
  monkeypatch.setattr(fonts, "_font", has)
  assert fonts.shown("a🙂日") == "a⟨slightly smiling face⟩⟨U+65E5⟩"
  assert fonts.shown("👩\u200d🚀") == "⟨woman⟩⟨rocket⟩"  # No box for a joiner.
  assert fonts.widths("a日") == [1, len("⟨U+65E5⟩")]
  fonts._width.cache_clear()
  figure = plots.bars(_found([((0,), 1.0), ((1,), 2.0)], ["🙂", "日"]))
  for _ in range(2):
    _drawn(figure)
  assert [t.get_text() for t in figure.texts] == [fonts.FOOTNOTE]


def test_latin_text_is_left_alone():
  figure = plots.bars(_found([((0,), 1.0)], ["naïve"]))
  _drawn(figure)
  assert not figure.texts
  assert fonts.widths("ab") == [1, 1]


@pytest.mark.parametrize("name", ["שלום", "مرحبا"])
def test_a_label_from_right_to_left_leaves_its_value_in_front(name):
  figure = texts.sentence(
    f"{name} b", [((0, len(name)),), ((len(name) + 1, len(name) + 2),)],
    _found([((0, 1), 1.07)], [name, "b"]),
  )  # fmt: skip
  _drawn(figure)
  (label,) = [t for t in figure.axes[0].texts if "1.07" in t.get_text()]
  # A mark of direction comes before the first letter that has one.
  assert label.get_text().index("\u200e") < label.get_text().index(name[0])
  assert fonts.forward("abc") == "abc"


@pytest.mark.parametrize("size", [1, 2, 3, 8, 40])
@pytest.mark.parametrize("long", [False, True])
def test_labels_of_sets_of_any_size_stand_apart(size, long):
  names = [
    f"mean_of_the_feature_{i}_over_the_last_thirty_days_divided_by_deviation"
    if long else f"x{i}"
    for i in range(46)
  ]  # fmt: skip
  sets = [(tuple(range(i, i + size)), 1.0 + i) for i in range(6)]
  figure = plots.bars(_found(sets, names))
  renderer = _drawn(figure)
  labels = [
    t.get_window_extent(renderer) for t in figure.axes[0].get_yticklabels()
  ]
  labels.sort(key=lambda box: -box.y1)
  for above, below in itertools.pairwise(labels):
    assert below.y1 <= above.y0 + 1
  assert figure.axes[0].get_window_extent(renderer).width > 2 * figure.dpi


def test_long_names_are_broken_not_shortened():
  names = ["x" * 70 + end for end in "ab"]
  found = _found([((0, 1), 1.0)], names)
  shown = plots.label(found, (0, 1), wrap=30)
  assert shown.replace("\n", "") == f"{names[0]},{names[1]}"
  assert max(map(len, shown.split("\n"))) <= 30
  many = _found([(tuple(range(60)), 1.0)], n=60)
  assert plots.label(many, tuple(range(60)), " &\n", wrap=30).endswith(
    "\n… and 47 more"
  )
