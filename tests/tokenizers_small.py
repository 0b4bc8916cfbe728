"""Small tokenizers of the four common kinds, made by the tests themselves."""

import json
import re

import tokenizers
from tokenizers import (
  decoders,
  models,
  normalizers,
  pre_tokenizers,
  processors,
)

from spex_jax.models import tokens

_PIECES = re.findall(
  r"\S+",
  "the film is never boring and great fun ! . , mr tack ##y ##s un ##fun",
)


def wordpiece():
  """BERT's kind: no spaces in tokens, [CLS] and [SEP] around, padded to 30."""
  specials = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
  vocab = {piece: i for i, piece in enumerate([*specials, *_PIECES])}
  backend = tokenizers.Tokenizer(models.WordPiece(vocab, unk_token="[UNK]"))
  backend.normalizer = normalizers.BertNormalizer(lowercase=True)
  backend.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
  backend.post_processor = processors.TemplateProcessing(
    single="[CLS] $A [SEP]",
    special_tokens=[("[CLS]", 2), ("[SEP]", 3)],
  )
  backend.decoder = decoders.WordPiece()
  backend.add_special_tokens(specials)
  backend.enable_padding(length=30)
  backend.enable_truncation(8)
  return backend


def byte_level():
  """GPT-2's kind: a space belongs to the token behind it; none is added."""
  alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
  merges = []
  words = ["Ġfilm", "Ġis", "Ġthe", "fun", "Ġfun"]
  for word in words:
    left = word[0]
    for character in word[1:]:
      if (left, character) not in merges:
        merges.append((left, character))
      left += character
  joined = [left + right for left, right in merges]
  vocab = {piece: i for i, piece in enumerate([*alphabet, *joined, "<|end|>"])}
  backend = tokenizers.Tokenizer(models.BPE(vocab, merges))
  backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
  backend.decoder = decoders.ByteLevel()
  backend.post_processor = processors.ByteLevel(trim_offsets=False)
  backend.add_special_tokens(["<|end|>"])
  return backend


def unigram():
  """SentencePiece's kind, as of translators: a space is a mark before a word.

  Of 11 pieces; a text ends with the first, the last is padding.
  """
  words = ["▁the", "▁film", "▁is", "▁fun", "▁", "n", "o", "t"]
  scores = {"</s>": 0.0, "<unk>": 0.0, **dict.fromkeys(words, -1.0), "<pad>": 0}
  vocab = [(piece, float(score)) for piece, score in scores.items()]
  backend = tokenizers.Tokenizer(models.Unigram(vocab, unk_id=1))
  backend.pre_tokenizer = pre_tokenizers.Metaspace()
  backend.decoder = decoders.Metaspace()
  backend.post_processor = processors.TemplateProcessing(
    single="$A </s>", special_tokens=[("</s>", 0)]
  )
  backend.add_special_tokens(["</s>", "<unk>", "<pad>"])
  return backend


def save(backend, directory, names, **config):
  """A tokenizer's files as Hugging Face writes them."""
  backend.save(str(directory / "tokenizer.json"))
  (directory / "tokenizer_config.json").write_text(json.dumps(names))
  (directory / "config.json").write_text(json.dumps(config))


def bert_like():
  """The tokenizer of `wordpiece` with its special tokens."""
  special = {"pad": 0, "unk": 1, "cls": 2, "sep": 3, "mask": 4}
  return tokens.Tokenizer(wordpiece(), special, max_length=40)


def gpt_like():
  """The tokenizer of `byte_level`, whose one special token ends a text."""
  backend = byte_level()
  end = backend.token_to_id("<|end|>")
  return tokens.Tokenizer(backend, {"bos": end, "eos": end}, max_length=40)
