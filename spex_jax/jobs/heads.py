"""A linear head on a network that gives embeddings, fitted on labelled texts.

Shapes: N texts, d width, K classes.
"""

import pathlib
import zlib
from typing import Any, NamedTuple

import jax
import ml_collections
import numpy as np

from spex_jax.datasets import text as text_data
from spex_jax.models import sites, tokens
from spex_jax.report import tables
from spex_jax.training import checkpoint

_BATCH = 8  # Texts at once, about the fastest on a CPU.
_SHORTEST = 32  # Tokens that the shortest texts are padded to.
_FOLDS = 5


class Head(NamedTuple):
  """A linear classifier of embeddings.

  Attributes:
    kernel: float32 `[d, K]`.
    bias: float32 `[K]`.
    accuracy: in cross-validation, or NaN where a class has one text only.
  """

  kernel: np.ndarray
  bias: np.ndarray
  accuracy: np.ndarray


def head(
  config: ml_collections.ConfigDict,
  net: sites.Network,
  data: text_data.Texts,
  max_tokens: int,
  workdir: pathlib.Path,
) -> tuple[Head, str]:
  """The head that `workdir` holds, or a fresh one, saved there.

  Args:
    config: with `model`, `dtype`, `data` and `head_c`.
    net: gives embeddings `[B, d]` as its logits.
    data: texts and labels.
    max_tokens: longer texts are cut, as sentence-transformers does.
    workdir: of the run.

  Returns:
    The head, and where it comes from in words.

  Raises:
    ValueError: `workdir` holds a head of other texts or settings.
  """
  path = workdir / "model"
  depends = origin(config, data, max_tokens)
  name = pathlib.Path(config.data).name
  texts = tables.count(data.num_examples, "text")
  found, cut, made = None, 0, f"saved to {path}"
  if not path.exists():
    vectors, cut = embeddings(net, data.texts, max_tokens)
    found = fit(vectors, data.labels, config.head_c)
    try:
      checkpoint.save(path, found, depends)
    except FileExistsError:  # Another task was quicker: its head holds for all.
      found = None
  if found is None:
    width, count = net.config.width, len(data.classes)
    shapes = ((width, count), (count,), ())
    like = Head(*(np.zeros(shape, np.float32) for shape in shapes))
    found, cut = checkpoint.restore(path, like, depends), 0
    made = f"restored from {path}"
  if cut:
    made = f"{tables.count(cut, 'text')} cut to {max_tokens} tokens; {made}"
  fact = f"logistic regression on the {texts} of {name}"
  if np.isfinite(found.accuracy):
    fact += f", {float(found.accuracy):.1%} right in cross-validation"
  return found, f"{fact}; {made}"


def origin(
  config: ml_collections.ConfigDict, data: text_data.Texts, max_tokens: int
) -> dict[str, Any]:
  """What a head depends on, as JSON: a saved one of another is refused."""
  everything = "\n".join((*data.texts, *map(str, data.labels)))
  return {
    "subject": config.subject,
    "model": str(config.model),
    "dtype": config.dtype,
    "data": zlib.crc32(everything.encode()),
    "head_c": config.head_c,
    "max_tokens": max_tokens,
  }


def embeddings(
  net: sites.Network, texts: tuple[str, ...], max_tokens: int
) -> tuple[np.ndarray, int]:
  """Embeddings `[N, d]` of texts, and how many of them were too long.

  Texts of about one length run together, padded to a power of two, so that
  few shapes are compiled.
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


def fit(vectors: np.ndarray, labels: np.ndarray, c: float) -> Head:
  """Logistic regression, as scikit-learn's, with its accuracy.

  Of two classes the logits are half the decision value each way, so that
  their difference is that value.

  Args:
    vectors: `[N, d]`.
    labels: int `[N]`, every class of 0..K-1 among them.
    c: inverse strength of the ridge penalty.

  Raises:
    ValueError: a `c` that is not above 0.
  """
  from sklearn import linear_model, model_selection  # Slow to import.

  if not 0 < c < np.inf:
    raise ValueError(f"head_c must be above 0; got {c}.")
  model = linear_model.LogisticRegression(C=c, max_iter=5000)
  folds = min(_FOLDS, int(np.bincount(labels).min()))
  accuracy = np.nan
  if folds > 1:
    accuracy = model_selection.cross_val_score(
      model, vectors, labels, cv=folds
    ).mean()
  model.fit(vectors, labels)
  kernel, bias = model.coef_.T, model.intercept_
  if kernel.shape[1] == 1:
    kernel = np.concatenate([-kernel, kernel], axis=1) / 2
    bias = np.concatenate([-bias, bias]) / 2
  return Head(*(np.asarray(x, np.float32) for x in (kernel, bias, accuracy)))
