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


@pytest.mark.parametrize("way", ["one", "hide", "remove"])
@pytest.mark.parametrize("length", [8, 9])
def test_short_rows_against_plain_lists(way, length):
  prompt = text.prompt(_TEXT, _BERT)
  owner, n = prompt.players.owner, prompt.n
  see = absent.inputs(prompt, _BERT, way, token="fun" if way == "one" else None)
  every = jax.vmap(
    lambda mask: (
      see.at(length)(mask), see.places(mask, length), see.owners(mask, length)
    )
  )  # fmt: skip
  need = see.need(_ALL)
  masks = _ALL[need <= length]
  assert 0 < len(masks) < len(_ALL)
  given, places, owners = every(masks)
  for row, mask in enumerate(masks):
    kept = [p for p in range(len(owner)) if owner[p] == n or mask[owner[p]]]
    stand = dict.fromkeys(kept)
    if way == "one":
      for player in np.flatnonzero(~mask):
        stand[int((owner == player).argmax())] = None
    stand = sorted(stand)
    assert len(stand) == need[_ALL.tolist().index(mask.tolist())]
    fill = length - len(stand)
    ids = [prompt.encoding.ids[p] if p in kept else _BERT.find("fun")
           for p in stand]  # fmt: skip
    assert given["input_ids"][row, 0].tolist() == ids + [0] * fill
    seen = [1] * len(stand) + [0] * fill
    assert given["attention_mask"][row, 0].tolist() == seen
    assert ("position_ids" in given) == (way == "hide")
    if way == "hide":
      assert given["position_ids"][row, 0].tolist() == stand + [0] * fill
    # And where each player's tokens are.
    where = [
      stand.index(p) if p in stand else length for p in range(len(owner))
    ]
    assert places[row].tolist() == where
    assert owners[row].tolist() == [owner[p] for p in stand] + [n] * fill


def test_places_of_rows_that_nothing_leaves():
  prompt = text.prompt("the film is", _BERT)
  gone = np.array([True, False, True])
  see = absent.inputs(prompt, _BERT, "mask")
  assert see.places(gone).tolist() == [0, 1, 2, 3, 4]
  hide = absent.inputs(prompt, _BERT, "hide")
  assert hide.places(gone).tolist() == [0, 1, 5, 3, 4]
  assert hide.places(gone, 4).tolist() == [0, 1, 4, 2, 3]
  assert hide.owners(gone).tolist() == [3, 0, 3, 2, 3]


def _pieces(pieces, separator):
  """The characters of each piece of what they are joined to."""
  ends = np.cumsum([len(piece) + len(separator) for piece in pieces])
  starts = [0, *ends[:-1]]
  return separator.join(pieces), [
    (int(a), int(a) + len(piece)) for a, piece in zip(starts, pieces)
  ]


@pytest.mark.slow_where("fun is")
@pytest.mark.parametrize("separator", ["\n", "\n\n", "\n \n"])
@pytest.mark.parametrize("before", ["", "fun is\n"])
def test_lines_are_joined_anew(separator, before):
  """Removal leaves what the tokenizer makes of the kept lines, joined."""
  lines = ["film fun", "the boring film", "is"]
  # What stands before a line goes with it.
  leads = ["\n" if before else "", separator, separator]
  body, spans = _pieces(lines, separator)
  spans = [(a + len(before), b + len(before)) for a, b in spans]
  prompt = text.prompt(before + body, _GPT, spans, bos="yes")
  see = absent.inputs(prompt, _GPT, "remove")
  masks = np.unique(_ALL[:, :3], axis=0)
  given = jax.vmap(see)(masks)
  for row, mask in enumerate(masks):
    joined = before.rstrip() + "".join(
      lead + line for lead, line, stays in zip(leads, lines, mask) if stays
    )
    joined = joined.lstrip()
    assert absent.kept_text(prompt, mask) == joined
    expected = [_GPT.id_of("bos")]
    if joined:
      expected += _GPT.encode(joined).ids.tolist()
    seen = given["attention_mask"][row, 0] > 0
    assert given["input_ids"][row, 0][seen].tolist() == expected
  assert (see.need(masks) >= given["attention_mask"].sum(axis=(1, 2))).all()
  assert not absent.retokenizes(prompt, _GPT, masks).any()


def test_a_line_break_that_is_a_player_stays():
  prompt = text.prompt("film\n fun", _GPT, "tokens", bos="yes")
  see = absent.inputs(prompt, _GPT, "remove")
  only = np.array([name == "" for name in prompt.names])
  assert only.sum() == 1
  given = see(only)
  assert given["attention_mask"].sum() == 2
  assert given["input_ids"][0, 1] == _GPT.encode("a\n").ids[-1]


def test_words_of_an_encoder_are_joined_anew():
  words = _TEXT.split()
  prompt = text.prompt(_TEXT, _BERT)
  see = jax.vmap(absent.inputs(prompt, _BERT, "remove"))(_ALL)
  for row, mask in enumerate(_ALL[1:], 1):
    joined = " ".join(word for word, stays in zip(words, mask) if stays)
    expected = _BERT.encode(joined).ids.tolist()
    seen = see["attention_mask"][row, 0] > 0
    assert see["input_ids"][row, 0][seen].tolist() == expected


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
  prompt = text.prompt("the film is", _GPT, bos="yes")
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
    ("remove", None, r"bos='yes'"),
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
