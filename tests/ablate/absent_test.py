"""What a masked model is shown, against plain lists."""

import chex
import jax
import numpy as np
import pytest

from spex_jax.ablate import absent, text
from tests import tokenizers_small

_BERT = tokenizers_small.bert_like()
_GPT = tokenizers_small.gpt_like()
_TEXT = "Tacky film, never boring fun!"
_ALL = np.stack(np.meshgrid(*[[False, True]] * 5), -1).reshape(-1, 5)


def _expected(prompt, mask, way, token, padding):
  """The inputs that a way gives, by a loop over the tokens."""
  ids, seen, standing = [], [], set()
  for token_id, owner in zip(prompt.encoding.ids, prompt.players.owner):
    keep = owner == prompt.n or mask[owner]
    if way == "mask":
      ids.append(token_id if keep else token)
    elif way == "hide" or keep:
      ids.append(token_id)
    elif way == "one" and owner not in standing:
      standing.add(owner)
      ids.append(token)
    if way == "hide":
      seen.append(int(keep))
  fill = prompt.num_tokens - len(ids)
  seen = seen or [1] * len(ids) + [0] * fill
  return ids + [padding] * fill, seen


@pytest.mark.slow
@pytest.mark.parametrize("way", absent.WAYS)
@pytest.mark.parametrize(
  "tokenizer, by", [(_BERT, "words"), (_GPT, [(0, 5), (6, 11), (12, 13)])]
)
def test_every_mask_against_a_loop(way, tokenizer, by):
  gpt = tokenizer is _GPT
  prompt = text.prompt(_TEXT, tokenizer, by)
  token = None if way in ("hide", "remove") else ("fun" if gpt else 4)
  see = absent.inputs(prompt, tokenizer, way, token=token)
  chex.clear_trace_counter()
  one = jax.jit(chex.assert_max_traces(lambda mask: see(mask), n=1))
  masks = np.unique(_ALL[:, : prompt.n], axis=0)
  batch = jax.vmap(see)(masks)
  padding = tokenizer.special["eos"] if gpt else 0
  stand_in = tokenizer.find("fun") if gpt else 4
  for row, mask in enumerate(masks):
    ids, seen = _expected(prompt, mask, way, stand_in, padding)
    got = one(mask)
    assert got["input_ids"].shape == (1, prompt.num_tokens)
    assert got["input_ids"][0].tolist() == ids
    assert got["attention_mask"][0].tolist() == seen
    np.testing.assert_array_equal(batch["input_ids"][row, 0], ids)
    np.testing.assert_array_equal(batch["attention_mask"][row, 0], seen)


def test_the_mask_token_is_the_default_and_one_may_be_given():
  prompt = text.prompt("the film", _BERT)
  gone = np.array([True, False])
  see = lambda **kwargs: absent.inputs(prompt, _BERT, **kwargs)(gone)
  assert see()["input_ids"].tolist() == [[2, 5, 4, 3]]
  assert see(token="!")["input_ids"].tolist() == [[2, 5, 13, 3]]
  assert see(token=7)["input_ids"].tolist() == [[2, 5, 7, 3]]


def test_a_player_in_two_places_becomes_one_token():
  named = {"ends": [(0, 3), (12, 15)], "middle": [(4, 11)]}
  prompt = text.prompt("the film is fun", _BERT, named)
  see = absent.inputs(prompt, _BERT, "one")
  got = see(np.array([False, True]))
  assert got["input_ids"].tolist() == [[2, 4, 6, 7, 3, 0]]


def test_the_kept_text():
  prompt = text.prompt(_TEXT, _BERT)
  assert absent.kept_text(prompt, np.ones(5)) == _TEXT
  # Without its space, as if it had never been written.
  assert absent.kept_text(prompt, [1, 0, 1, 1, 1]) == "Tacky never boring fun!"
  assert absent.kept_text(prompt, [0, 1, 1, 1, 0]) == " film, never boring"
  prompt = text.prompt("the film is", _GPT)
  assert absent.kept_text(prompt, [1, 0, 1]) == "the is"


def test_where_tokenizing_again_differs():
  prompt = text.prompt(_TEXT, _BERT)
  # Words of word pieces never join.
  assert not absent.retokenizes(prompt, _BERT, _ALL).any()
  spans = {"f": [(0, 1)], "z": [(1, 2)], "un": [(2, 4)]}
  prompt = text.prompt("f.un", _BERT, spans)
  masks = np.array([[1, 1, 1], [1, 0, 1], [0, 0, 1], [0, 0, 0]], bool)
  # "f.un" is [UNK] . un; without the dot, "fun" is one token.
  got = absent.retokenizes(prompt, _BERT, masks)
  assert got.tolist() == [False, True, False, False]


def test_a_first_word_that_lost_its_neighbour_is_not_counted():
  prompt = text.prompt("the film is", _GPT, add_bos=True)
  masks = np.array([[0, 1, 1], [1, 0, 1], [0, 0, 1]], bool)
  assert not absent.retokenizes(prompt, _GPT, masks).any()


@pytest.mark.parametrize(
  "way, token, message",
  [
    ("delete", None, "way='delete': choose from mask, one, hide, remove"),
    ("mask", None, "has no mask token; it has bos, eos"),
    ("mask", "zebra", "'zebra' is not one token of the vocabulary"),
    ("one", 10**6, "Token 1000000 lies outside the vocabulary"),
    ("hide", "fun", "puts no token in the place of another"),
    ("hide", None, "would leave nothing once every player is absent"),
    ("remove", None, r"add_bos=True"),
  ],
)
def test_ways_that_are_refused(way, token, message):
  prompt = text.prompt("the film is fun", _GPT)
  with pytest.raises(ValueError, match=message):
    absent.inputs(prompt, _GPT, way, token=token)


def test_a_mask_of_other_players():
  prompt = text.prompt("the film is fun", _BERT)
  with pytest.raises(ValueError, match=r"is \[4\]; got \(3,\)"):
    absent.inputs(prompt, _BERT)(np.ones(3, bool))
