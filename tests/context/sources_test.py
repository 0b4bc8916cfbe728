"""Sources at nested levels, and contexts that are none."""

import numpy as np
import pytest

from spex_jax.ablate import text as text_lib
from spex_jax.context import sources
from tests.context import games

_TEXTS = [
  "The film is fun. The fun is over!\n\nIt is the end.",
  "One film. Two films.",
]
_SIZES = {"document": 2, "passage": 3, "sentence": 5, "word": 16}


def _made(level="document", **settings):
  return sources.of_texts(
    _TEXTS, "So the film", games.tokenizer(), level=level, **settings
  )


@pytest.mark.parametrize("level", _SIZES)
def test_levels_tile_the_documents(level):
  made = _made(level, before="Read:\n")
  assert made.n == _SIZES[level]
  owned = made.prompt.players.owner < made.n
  offsets = made.prompt.encoding.offsets
  written = "".join(made.prompt.text[a:b] for a, b in offsets[owned])
  assert written == "".join(text + "\n" for text in _TEXTS)
  # A source's text is what was written, without the space around it.
  assert " ".join(" ".join(made.texts).split()) == " ".join(
    " ".join(_TEXTS).split()
  )


@pytest.mark.parametrize(
  "parts",
  [
    ["我们去。", "他来了！」", "真的？"],
    ["- a\n", "- b\n", "- c"],
    ["Read:\n", "1. One. \n", "2. Two, e.g. A.\n", "Then it is 3. ", "So."],
    ["Dr. Smith met Mr. Jones. ", "He left."],
    ["“Is it?” ", "(Yes!) ", "So i.e. no... and\n\n", "Fig. 2"],
  ],
)
def test_sentences(parts):
  whole = "".join(parts)
  starts = [start for start, _ in text_lib.cut(whole, "sentences")]
  ends = np.cumsum([len(part) for part in parts])
  assert starts == [0, *ends[:-1]]


def test_each_level_lies_within_the_one_above():
  token = _made("token")
  for above in ("word", "sentence", "passage", "document"):
    coarse = _made(above)
    parents = token.within(coarse)
    owner = token.prompt.players.owner
    inside = owner < token.n
    np.testing.assert_array_equal(
      parents[owner[inside]], coarse.prompt.players.owner[inside]
    )
  with pytest.raises(ValueError, match="levels nest"):
    _made("document").within(_made("word"))


def test_other_levels_are_of_the_same_tokens():
  made = _made("sentence")
  np.testing.assert_array_equal(
    made.at("word").prompt.players.owner, _made("word").prompt.players.owner
  )


def test_what_is_kept_is_the_text_of_the_kept_sources():
  made = _made("sentence", before="Read: ")
  kept = made.kept_text([1, 4])
  assert kept == "Read: The fun is over!\n\nTwo films.\nSo the film"
  with pytest.raises(ValueError, match=r"0\.\.4"):
    made.kept_text([5])


def test_ids_are_taken_as_they_are():
  made = sources.of_ids([[3, 4], [5]], [6, 7], games.tokenizer(), before=[1])
  assert made.prompt.encoding.ids.tolist() == [1, 3, 4, 5, 6, 7]
  assert made.prompt.players.owner.tolist() == [2, 0, 0, 1, 2, 2]
  with pytest.raises(ValueError, match="no levels"):
    made.at("word")


def _texts(*texts, query="the film", **settings):
  return sources.of_texts(texts, query, games.tokenizer(), **settings)


def _spans(text, spans):
  return sources.of_spans(text, spans, games.tokenizer())


def _ids(*ids, query=(1,), **settings):
  return sources.of_ids(ids, query, games.tokenizer(), **settings)


@pytest.mark.parametrize(
  "make, error, match",
  [
    (lambda: _texts(), ValueError, "context is empty"),
    (lambda: _texts("a", "  "), ValueError, "Document 1 is empty"),
    (lambda: _texts("a", query=" "), ValueError, "query is empty"),
    (lambda: _texts("a", level="page"), ValueError, "choose from document"),
    (lambda: _texts("a b c", max_length=5), ValueError, "model takes 5"),
    (lambda: _texts("a", 3), TypeError, "Document 1 must be a string"),
    (
      lambda: sources.of_texts("abc", "q", games.tokenizer()),
      TypeError,
      "not one string",
    ),
    (lambda: _spans("the film", [(0, 5), (3, 8)]), ValueError, "overlap"),
    (lambda: _spans("the film", [(0, 9)]), ValueError, "outside the text"),
    (lambda: _spans("the film", []), ValueError, "context is empty"),
    # " film" is one token, most of which the second span has.
    (lambda: _spans("a film", [(1, 3), (3, 6)]), ValueError, "no token"),
    (lambda: _ids([1], []), ValueError, "Source 1 covers no token"),
    (lambda: _ids([1], query=()), ValueError, "query has no tokens"),
    (lambda: _ids([10**6]), ValueError, "outside the vocabulary"),
    (lambda: _ids([1, 2], max_length=2), ValueError, "model takes 2"),
  ],
)
def test_what_is_no_context_is_named(make, error, match):
  with pytest.raises(error, match=match):
    make()
