r"""Makes pairs for `experiments.pecore_translation` of PECoRe's own examples.

  python third_party/pecore_pairs.py scat-marian-small-scat.tsv \
      context-mt/scat-marian-small-ctx4-cwd1-en-fr pairs.jsonl

Needs an environment with `transformers`, `sentencepiece` and the checkpoint's
tokenizer; no PyTorch. The table is one of `outputs/processed_examples` of
github.com/gsarti/pecore, of which nothing is kept here. Source and context
stand together as there, `CONTEXT<brk> CURRENT`; the response is what the
authors' model wrote. A pronoun that it wrote otherwise than the tagged
reference is a wrong translation, which has no truth and is left out, as is a
text that the tokenizer rewrites, so that its tokens cover no known characters;
both are counted. (The authors align words instead; pairs are thus those that
they call right, but for a few.)
"""

import csv
import json
import pathlib
import re
import sys
from collections.abc import Callable, Sequence

_BREAK = "<brk>"
_TAGGED = re.compile(r"<(?:p|hon)>(.*?)<(?:/p|hoff)>")
# A text to ids and their spellings, those of special tokens included.
Tokenize = Callable[[str], tuple[Sequence[int], Sequence[str]]]


def tags(text: str) -> tuple[str, list[tuple[int, int]]]:
  """The text without its tags, and the characters that stood in them."""
  plain, spans, at = "", [], 0
  for match in _TAGGED.finditer(text):
    plain += text[at : match.start()]
    spans.append((len(plain), len(plain) + len(match[1])))
    plain, at = plain + match[1], match.end()
  return plain + text[at:], spans


def touched(
  pieces: Sequence[str], text: str, spans: Sequence[tuple[int, int]]
) -> list[int] | None:
  """The tokens with a character of the spans; None where they spell another."""
  letters = [i for i, c in enumerate(text) if not c.isspace()]
  bare = [piece.replace("\u2581", "") for piece in pieces]
  if "".join(bare) != "".join(text[i] for i in letters):
    return None
  found, at = [], 0
  for number, piece in enumerate(bare):
    own = letters[at : at + len(piece)]
    at += len(piece)
    if any(a <= i < b for a, b in spans for i in own):
      found.append(number)
  return found


def pair(example: dict[str, str], source: Tokenize, target: Tokenize):
  """A line of the file, or why there is none.

  Args:
    example: a row of the table.
    source: the checkpoint's tokenizer; closes a text with one special token.
    target: the same of the other language.
  """
  context, cues = tags(example["source_context_tagged"])
  plain, wanted = tags(example["gold_target_current_tagged"])
  said = example["generated_target_current"]
  spans = []
  for start, end in wanted:
    word = re.search(
      rf"(?<!\w){re.escape(plain[start:end])}(?!\w)", said, re.IGNORECASE
    )
    if word is None:
      return "the translation has another word"
    spans.append(word.span())
  current = example["source_current"]
  ids, pieces = source(f"{context}{_BREAK} {current}")
  stop = list(pieces).index(_BREAK)
  decoder, words = target(said)
  inside = touched(pieces[:stop], context, cues)
  sensitive = touched(words[:-1], said, spans)
  if not inside or not sensitive:
    return "the tokens do not spell the text"
  return {
    "encoder_with": list(ids),
    "encoder_without": list(source(current)[0]),
    "decoder": list(decoder[:-1]),
    "context_span": [0, stop],
    "sensitive": sensitive,
    "cues": inside,
  }


def main(table: str, name: str, output: str) -> None:
  """Writes the pairs of a table."""
  import transformers

  tokenizer = transformers.AutoTokenizer.from_pretrained(name)

  def source(text):
    ids = tokenizer(text)["input_ids"]
    return ids, tokenizer.convert_ids_to_tokens(ids)

  def target(text):
    ids = tokenizer(text_target=text)["input_ids"]
    return ids, tokenizer.convert_ids_to_tokens(ids)

  left: dict[str, int] = {}
  with (
    pathlib.Path(table).open(encoding="utf-8", newline="") as file,
    pathlib.Path(output).open("w", encoding="utf-8") as out,
  ):
    rows = csv.DictReader(file, delimiter="\t", quoting=csv.QUOTE_NONE)
    for example in rows:
      found = pair(example, source, target)
      reason = found if isinstance(found, str) else "kept"
      left[reason] = left.get(reason, 0) + 1
      if not isinstance(found, str):
        out.write(json.dumps(found) + "\n")
  print(json.dumps(left))


if __name__ == "__main__":
  main(*sys.argv[1:])
