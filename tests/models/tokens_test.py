"""Tokenizers from files, and the errors that name what is wrong with them."""

import sys

import numpy as np
import pytest

from spex_jax.models import tokens
from tests import tokenizers_small
from tests.models import checkpoints

_NAMES = {
  "mask_token": {"content": "[MASK]", "lstrip": True},
  "pad_token": "[PAD]",
  "cls_token": "[CLS]",
  "eos_token": None,
  "model_max_length": int(1e30),
}


def test_a_directory(tmp_path):
  tokenizers_small.save(
    tokenizers_small.wordpiece(),
    tmp_path,
    _NAMES,
    max_position_embeddings=32,
    eos_token_id=[3, 2],
    bos_token_id=999,  # Outside the vocabulary: a leftover, not a token.
  )
  (tmp_path / "special_tokens_map.json").write_text('{"sep_token": "[SEP]"}')
  tokenizer = tokens.load(tmp_path)
  assert tokenizer.special == {
    "mask": 4, "pad": 0, "cls": 2, "sep": 3, "eos": 3
  }  # fmt: skip
  assert tokenizer.max_length == 32
  assert tokenizer.vocab_size == 22


@pytest.mark.parametrize(
  "config, stated, expected",
  [
    ({}, 10**30, None),
    ({}, 20, 20),
    ({"n_positions": 16}, 20, 16),
    # RoBERTa counts its positions from behind the padding's.
    (
      {"model_type": "roberta", "max_position_embeddings": 34,
       "pad_token_id": 1},
      10**30,
      32,
    ),
  ],
)  # fmt: skip
def test_the_longest_text(tmp_path, config, stated, expected):
  names = {"model_max_length": stated}
  backend = tokenizers_small.wordpiece()
  tokenizers_small.save(backend, tmp_path, names, **config)
  assert tokens.load(tmp_path).max_length == expected


def test_saved_padding_and_truncation_are_not_applied():
  # The file says: pad to 30 tokens, cut at 8.
  encoding = tokenizers_small.bert_like().encode("the film is " * 5)
  assert len(encoding.ids) == 17
  assert encoding.special.tolist() == [True, *[False] * 15, True]


def test_offsets_are_characters():
  text = "Tacky film — Mr. Fun 😀!"
  encoding = tokenizers_small.bert_like().encode(text)
  pieces = "|".join(text[a:b] for a, b in encoding.offsets)
  assert pieces == "|Tack|y|film|—|Mr|.|Fun|😀|!|"
  assert encoding.ids.dtype == np.int32
  text = "the café 😀"
  encoding = tokenizers_small.gpt_like().encode(text)
  # Four bytes of one character are four tokens with its offsets.
  assert encoding.offsets[-4:].tolist() == [[9, 10]] * 4
  assert not encoding.special.any()


def test_decode_and_single_tokens():
  tokenizer = tokenizers_small.bert_like()
  ids = tokenizer.encode("tacky film!").ids
  assert tokenizer.decode(ids) == "tacky film!"
  assert tokenizer.decode(ids, skip_special=False).startswith("[CLS] tacky")
  assert tokenizer.token(ids[1]) == "tack"
  assert tokenizer.find("##y") == ids[2]
  assert tokenizer.find("FILM") == ids[3]
  assert tokenizer.id_of("mask") == 4


def test_pieces_join_to_the_text():
  tokenizer = tokenizers_small.gpt_like()
  for text in ("the fun, \u00e8 \u6c34! is", "\ufffd\ufffd"):
    ids = tokenizer.encode(text).ids.tolist()
    pieces = tokenizer.pieces(ids)
    assert len(pieces) == len(ids) and "".join(pieces) == text
  assert tokenizer.pieces([]) == ()
  marked = tokens.Tokenizer(tokenizers_small.unigram(), {}, max_length=40)
  # The mark before a text's first word is no space.
  assert marked.pieces([2, 3, 5]) == ("the", " film", " fun")


def test_a_first_token_is_added_once():
  tokenizer = tokenizers_small.gpt_like()
  end = tokenizer.id_of("bos")
  plain, with_bos = (
    tokenizer.encode("the fun", bos=bos) for bos in ("no", "yes")
  )
  assert with_bos.ids.tolist() == [end, *plain.ids]
  assert with_bos.special.tolist() == [True, *[False] * len(plain.ids)]
  again = tokenizer.encode("<|end|>the fun", bos="yes")
  assert again.ids.tolist() == with_bos.ids.tolist()


def test_a_first_token_is_the_tokenizer_s_own_affair():
  import tokenizers

  added = tokenizers_small.gpt_like()
  end = added.id_of("bos")
  added._backend.post_processor = tokenizers.processors.TemplateProcessing(
    single="<|end|> $A", special_tokens=[("<|end|>", end)]
  )
  plain = tokenizers_small.gpt_like().encode("the fun").ids.tolist()
  assert end not in plain  # Nothing adds one.
  for text in ("the fun", "<|end|>the fun"):  # As a chat template renders it.
    for bos in ("auto", "yes"):
      assert added.encode(text, bos=bos).ids.tolist() == [end, *plain]
  assert added.encode("the fun", bos="no").ids.tolist() == plain


def test_a_token_without_text_is_its_number():
  tokenizer = tokenizers_small.gpt_like()
  last = tokenizer.vocab_size
  ids = tokenizer.encode("the fun").ids.tolist()
  assert tokenizer.token(last + 5) == f"<{last + 5}>"
  text = tokenizer.decode([*ids, last + 5])
  assert text == tokenizer.decode(ids) + f"<{last + 5}>"


def test_recorded_text():
  directory = checkpoints.shared("stories260k")
  reference = np.load(directory / "reference.npz")
  tokenizer = tokens.load(directory)
  assert (tokenizer.special["bos"], tokenizer.max_length) == (1, 512)
  for text, ids, seen in zip(
    reference["texts"],
    reference["in_input_ids"],
    reference["in_attention_mask"],
  ):
    encoding = tokenizer.encode(str(text))
    assert encoding.ids.tolist() == ids[seen == 1].tolist()
    assert tokenizer.decode(encoding.ids) == str(text)


def test_no_text_and_other_forms(tmp_path):
  assert tokens.load(tmp_path) is None
  (tmp_path / "spiece.model").write_bytes(b"")
  with pytest.raises(ValueError, match="spiece.model and no tokenizer.json"):
    tokens.load(tmp_path)
  (tmp_path / "tokenizer.json").write_text('{"version": "1.0", "mod')
  with pytest.raises(ValueError, match="tokenizer.json is no tokenizer"):
    tokens.load(tmp_path)


def test_without_the_library(tmp_path, monkeypatch):
  tokenizers_small.save(tokenizers_small.wordpiece(), tmp_path, _NAMES)
  monkeypatch.setitem(sys.modules, "tokenizers", None)
  with pytest.raises(ImportError, match="pip install tokenizers"):
    tokens.load(tmp_path)


@pytest.mark.parametrize("body", ["{", "[]"])
def test_damaged_names(tmp_path, body):
  tokenizers_small.save(tokenizers_small.wordpiece(), tmp_path, {})
  (tmp_path / "tokenizer_config.json").write_text(body)
  with pytest.raises(ValueError, match="tokenizer_config.json"):
    tokens.load(tmp_path)


@pytest.mark.parametrize(
  "call, error, message",
  [
    (lambda t: t.encode(""), ValueError, "text is empty: ''"),
    (lambda t: t.encode("the", bos="maybe"), ValueError, "one of auto, yes"),
    (lambda t: t.encode(b"the"), TypeError, "must be a string; got bytes"),
    (lambda t: t.check(99), ValueError, "Token 99 lies outside.* 22"),
    (lambda t: t.token(-1), ValueError, "not be below 0; got -1"),
    (lambda t: t.check(1.0), TypeError, "must be an integer; got 1.0"),
    (lambda t: t.find("tacky"), ValueError, r"becomes \['tack', '##y'\]"),
    (lambda t: t.find("zebra"), ValueError, r"becomes \['\[UNK\]'\]"),
    (lambda t: t.id_of("bos"), ValueError, "no bos token; it has pad, unk"),
    (
      lambda t: t.encode("the", bos="yes"),
      ValueError,
      "has no bos token",
    ),
  ],
)
def test_bad_calls(call, error, message):
  with pytest.raises(error, match=message):
    call(tokenizers_small.bert_like())


def test_padding_stands_behind_and_is_not_seen():
  found = tokens.padded([[5, 6, 7], [8]], 4)
  assert found["input_ids"].tolist() == [[5, 6, 7, 0], [8, 0, 0, 0]]
  assert found["attention_mask"].tolist() == [[1, 1, 1, 0], [1, 0, 0, 0]]
  assert tokens.padded([[5], [6, 7]])["input_ids"].shape == (2, 2)
