"""Embeddings of many texts, by a network whose logits are such.

Shapes: N texts, d width.
"""

import jax
import numpy as np

from spex_jax.models import sites, tokens

_BATCH = 8  # Texts at once, about the fastest on a CPU.
_SHORTEST = 32  # Tokens that the shortest texts are padded to.


def of_texts(
  net: sites.Network, texts: tuple[str, ...], max_tokens: int
) -> tuple[np.ndarray, int]:
  """Embeddings `[N, d]` of texts, and how many of them were too long.

  Texts of about one length run together, padded to a power of two, so that
  few shapes are compiled.

  Args:
    net: gives embeddings `[B, d]` as its logits, and has a tokenizer.
    texts: the N texts, in any order of lengths.
    max_tokens: longer texts are cut, as sentence-transformers does.

  Returns:
    float32 `[N, d]`, and the number of texts that were cut.
  """
  run = jax.jit(lambda params, **inputs: net.apply(params, **inputs).logits)
  rows, cut = [], 0
  for text in texts:
    ids = net.tokenizer.encode(text).ids
    if len(ids) > max_tokens:
      # The last token closes a text.
      ids, cut = np.append(ids[: max_tokens - 1], ids[-1]), cut + 1
    rows.append(ids)
  order = sorted(range(len(rows)), key=lambda row: len(rows[row]))
  vectors = np.zeros((len(rows), net.config.width), np.float32)
  for start in range(0, len(order), _BATCH):
    some = order[start : start + _BATCH]
    length = _SHORTEST
    while length < len(rows[some[-1]]):
      length *= 2
    batch = [rows[row] for row in some]
    batch += [np.zeros(1, np.int32)] * (_BATCH - len(some))  # See a token.
    inputs = tokens.padded(batch, min(length, max_tokens))
    found = run(net.params, **inputs)
    vectors[some] = np.asarray(found, np.float32)[: len(some)]
  return vectors, cut
