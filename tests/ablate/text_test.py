"""Players of a text: who owns which token, on three kinds of tokenizer."""

import re

import numpy as np
import pytest

from spex_jax.ablate import text
from spex_jax.models import tokens
from tests import tokenizers_small
from tests.models import checkpoints

_BERT = tokenizers_small.bert_like()
_GPT = tokenizers_small.gpt_like()


def _owned(prompt):
  """Player to the characters of its tokens."""
  owner, offsets = prompt.players.owner, prompt.encoding.offsets
  return {
    name: [prompt.text[a:b] for (a, b), o in zip(offsets, owner) if o == player]
    for player, name in enumerate(prompt.names)
  }


def test_words_of_word_pieces():
  prompt = text.prompt("Tacky film, great tacky fun", _BERT)
  assert _owned(prompt) == {
    "Tacky": ["Tack", "y"],
    "film,": ["film", ","],
    "great": ["great"],
    "tacky": ["tack", "y"],
    "fun": ["fun"],
  }
  # [CLS] and [SEP] belong to nobody.
  assert prompt.players.owner.tolist() == [5, 0, 0, 1, 1, 2, 3, 3, 4, 5]
  assert prompt.spans[1] == ((6, 11),)
  assert prompt.num_tokens == 10


def test_words_said_again_are_numbered():
  prompt = text.prompt("the fun the fun the (2) fun", _BERT)
  assert prompt.names == (
    "the", "fun", "the (2)", "fun (2)", "the (3)", "(2)", "fun (3)"
  )  # fmt: skip


def test_a_space_goes_with_the_token_behind_it():
  # "great" has no merge: the space before it is a token of its own.
  prompt = text.prompt("the film  is great", _GPT)
  assert _owned(prompt) == {
    "the": ["t", "h", "e"],
    "film": [" film"],
    "is": [" ", " is"],
    "great": [" ", "g", "r", "e", "a", "t"],
  }


def test_sentences():
  body = (
    'Mr. tack is boring! "Fun?" The film, e.g. the fun, is 1.5 long... '
    "And\n\n great"
  )
  prompt = text.prompt(body, _BERT, "sentences")
  assert prompt.names == (
    "Mr. tack is boring!",
    '"Fun?"',
    "The film, e.g. the fun, is 1.5 long...",
    "And",
    "great",
  )
  assert (prompt.players.owner[1:-1] < 5).all()


def test_tokens_are_players():
  prompt = text.prompt("the film", _GPT, "tokens", bos="yes")
  assert prompt.names == ("t", "h", "e", "film")
  assert prompt.players.owner.tolist() == [4, 0, 1, 2, 3]
  assert prompt.spans[3] == ((3, 8),)


def test_matches_of_an_expression():
  prompt = text.prompt("the film, the fun", _BERT, re.compile("f[a-z]+|,|x*"))
  assert prompt.names == ("film", ",", "fun")
  assert prompt.players.owner.tolist() == [3, 3, 0, 1, 3, 2, 3]


def test_spans_and_named_spans():
  prompt = text.prompt("the film is fun", _GPT, [(4, 8), (12, 15)])
  # The space in the token before "film" does not count against it.
  assert _owned(prompt) == {"film": [" film"], "fun": [" fun"]}
  named = {"ends": [(0, 3), (12, 15)], "middle": [(4, 11)]}
  prompt = text.prompt("the film is fun", _BERT, named)
  assert prompt.players.owner.tolist() == [2, 0, 1, 1, 0, 2]
  assert prompt.spans == (((0, 3), (12, 15)), ((4, 11),))


def test_a_token_in_two_spans_goes_to_the_larger_share():
  prompt = text.prompt("film boring", _BERT, [(0, 6), (6, 11)])
  assert _owned(prompt) == {"film b": ["film"], "oring": ["boring"]}


def test_bytes_of_one_character_stay_together():
  prompt = text.prompt("the 😀 fun", _GPT)
  assert len(_owned(prompt)["😀"]) == 5  # Its space, and four bytes.


def test_recorded_tokenizer():
  tokenizer = tokens.load(checkpoints.shared("stories260k"))
  prompt = text.prompt("Once upon a time, Lily met 😀 frogs.", tokenizer)
  assert prompt.names == (
    "Once", "upon", "a", "time,", "Lily", "met", "😀", "frogs."
  )  # fmt: skip
  owner = prompt.players.owner
  assert owner[0] == prompt.n  # <s>.
  assert (np.diff(owner[1:]) >= 0).all() and owner[-1] == prompt.n - 1


@pytest.mark.parametrize(
  "body, by, message",
  [
    ("", "words", "text is empty"),
    ("the " * 39, "words", "has 41 tokens, and the model takes 40"),
    ("the", "lines", "by='lines': choose words, sentences or tokens"),
    ("the", re.compile("z+"), "'z\\+' matches nothing in 'the'"),
    ("the", [], "so no players"),
    ("the", {}, "so no players"),
    ("the", [(0, 4)], r"0 has the span \(0, 4\).* 3 characters"),
    ("the", [(2, 2)], r"the span \(2, 2\), which is empty"),
    ("the", [(0, 1, 2)], "A span is"),
    ("the", {"a": [(-1, 2)]}, r"'a' has the span \(-1, 2\)"),
    ("the film", [(0, 5), (3, 8)], "'the f' and 'film' overlap in ' film'"),
    ("film", [(0, 3), (3, 4)], r"Player 1 \('m'\) covers no token"),
    ("the fun", {"a": [(0, 3)], "gap": [(3, 4)]}, r"Player 1 \('gap'\) covers"),
    ("the fun", {"a": [(0, 3)], "b": []}, r"Player 1 \('b'\) covers no token"),
  ],
)
def test_bad_texts_and_players(body, by, message):
  with pytest.raises(ValueError, match=message):
    text.prompt(body, _BERT, by)


def test_a_longer_text_where_the_caller_says_so():
  assert text.prompt("the " * 39, _BERT, max_length=50).n == 39
  with pytest.raises(ValueError, match="has 5 tokens, and the model takes 4"):
    text.prompt("the the the", _BERT, max_length=4)


def test_a_continuation_belongs_to_nobody():
  prompt = text.prompt("the film", _GPT, bos="yes")
  longer, count = text.continued(prompt, " is fun", _GPT)
  assert (count, longer.n, longer.text) == (2, 2, "the film is fun")
  assert longer.players.owner.tolist() == [2, 0, 0, 0, 1, 2, 2]
  pieces = [longer.text[a:b] for a, b in longer.encoding.offsets[-2:]]
  assert pieces == [" is", " fun"]
  ids = longer.encoding.ids[-2:].tolist()
  again, count = text.continued(prompt, ids, _GPT)
  assert again.encoding.ids.tolist() == longer.encoding.ids.tolist()


@pytest.mark.parametrize(
  "body, tokenizer, more, message",
  [
    ("the film", _BERT, " is", r"closes a text with '\[SEP\]'"),
    ("the f", _GPT, "un", "would join over the border of prompt and 'un'"),
    ("the film", _GPT, [], "continuation is empty"),
    ("the film", _GPT, "", "continuation is empty"),
    ("the film", _GPT, [-1], "not be below 0; got -1"),
    ("the film", _GPT, " fun" * 40, "has 44 tokens, and the model takes 40"),
  ],
)
def test_continuations_that_are_refused(body, tokenizer, more, message):
  prompt = text.prompt(body, tokenizer)
  with pytest.raises(ValueError, match=message):
    text.continued(prompt, more, tokenizer)


@pytest.mark.parametrize("by", ["words", "tokens", re.compile("f[a-z]+")])
def test_what_is_outside_of_a_part_nobody_owns(by):
  tokenizer = tokenizers_small.bert_like()
  whole = "fun film is great fun . never boring"
  start, end = 4, 21  # "film is great fun"
  inner = text.prompt(whole[start:end], tokenizer, by)
  found = text.prompt(whole, tokenizer, by, within=(start, end))
  assert found.names == inner.names
  assert found.spans == tuple(
    tuple((a + start, b + start) for a, b in spans) for spans in inner.spans
  )
  owner = found.players.owner
  # [CLS] and "fun" in front; ".", "never", "boring" and [SEP] behind.
  np.testing.assert_array_equal(owner[2:6], inner.players.owner[1:-1])
  assert (owner[[0, 1, 6, 7, 8, 9]] == found.n).all()


def test_parts_that_are_refused():
  tokenizer = tokenizers_small.bert_like()
  with pytest.raises(ValueError, match="empty or outside the text of 3 ch"):
    text.prompt("fun", tokenizer, within=(2, 9))
  with pytest.raises(ValueError, match="spans that are given say themselves"):
    text.prompt("fun", tokenizer, [(0, 3)], within=(0, 3))
