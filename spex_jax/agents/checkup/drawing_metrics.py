"""How well drawings do: compiled, faithful, diverse, near to true pictures.

Shapes: N pictures uint8 `[N, S, S, 3]`, D numbers of an embedder.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from spex_jax.agents.checkup import embedder, renderers, three_tests

FRECHET = f"frechet_{embedder.FIXED}"


def fidelity(
  own: embedder.Embedder,
  pictures: np.ndarray,
  captions: Sequence[str],
  pool: Sequence[str],
) -> np.ndarray:
  """The percentile of each true caption among others, float64 `[N]`.

  The share of the pool's other captions that are less like the picture, those
  as much like it by half: 1 is best, .5 chance.

  Args:
    own: the embedder that compares pictures and captions.
    pictures: `[N, S, S, 3]`.
    captions: N texts, the true ones, in the order of the pictures.
    pool: others; where a true one is among them, it is left out for its own.

  Raises:
    ValueError: a pool without another caption.
  """
  if not len(captions):
    return np.zeros(0)
  seen, others = own.pictures(pictures), own.texts(pool)
  true = (seen * own.texts(captions)).sum(axis=1)
  scores = seen @ others.T
  found = []
  for row, caption in enumerate(captions):
    kept = np.array([text != caption for text in pool])
    if not kept.any():
      raise ValueError(f"The pool has no caption but {caption!r}.")
    less, same = scores[row] < true[row], scores[row] == true[row]
    found.append((less[kept] + 0.5 * same[kept]).mean())
  return np.array(found)


def diversity(features: np.ndarray) -> float:
  """The mean of 1 - cosine over all pairs, of `[N, D]`; 0 of fewer than two."""
  if len(features) < 2:
    return 0.0
  features = np.asarray(features, np.float64)
  length = np.linalg.norm(features, axis=1, keepdims=True)
  unit = features / np.where(length > 0, length, 1.0)
  cosines = unit @ unit.T
  return float(1 - cosines[np.triu_indices(len(unit), 1)].mean())


def frechet(first: np.ndarray, second: np.ndarray) -> float:
  """The Fréchet distance of two sets of features `[N, D]`, as Gaussians.

  |m - n|^2 + tr(A + B - 2 (A B)^(1/2)): Heusel et al., arXiv:1706.08500, in
  whatever network the features are of; numbers of two networks do not compare.

  Raises:
    ValueError: fewer than two pictures in a set.
  """
  if min(len(first), len(second)) < 2:
    raise ValueError("A Fréchet distance needs two pictures or more of each.")
  first, second = (np.asarray(x, np.float64) for x in (first, second))
  apart = ((first.mean(axis=0) - second.mean(axis=0)) ** 2).sum()
  one, two = (np.cov(x, rowvar=False) for x in (first, second))
  values, vectors = np.linalg.eigh(one)
  root = (vectors * np.sqrt(np.maximum(values, 0))) @ vectors.T
  # The square root of A B has the trace of that of A^(1/2) B A^(1/2).
  mixed = np.linalg.eigvalsh(root @ two @ root)
  both = np.sqrt(np.maximum(mixed, 0)).sum()
  return float(max(apart + np.trace(one) + np.trace(two) - 2 * both, 0.0))


def summary(
  records: Sequence[three_tests.Record],
  own: embedder.Embedder,
  pool: Sequence[str],
  true: np.ndarray,
) -> dict[str, Any]:
  """The metrics of drawings, as JSON; None what too few drawings leave open.

  Args:
    records: of "draw", or of one round of "improve".
    own: the embedder that compares pictures and captions.
    pool: captions that `fidelity` ranks the true one among.
    true: pictures that drawings are to be like, for the Fréchet distance.
  """
  drawn = [r for r in records if r.picture is not None]
  shown = [r for r in drawn if r.status == renderers.OK]
  seen = [np.asarray(r.picture) for r in shown]
  pictures = np.stack(seen) if seen else None
  ranks = [] if pictures is None else fidelity(
    own, pictures, [r.caption for r in shown], pool)  # fmt: skip
  far = None
  if pictures is not None and len(pictures) > 1:
    far = frechet(embedder.fixed(pictures), embedder.fixed(true))
  return {
    "programs": len(records),
    "compiled": len(drawn) / max(len(records), 1),
    "drawn": len(shown) / max(len(records), 1),
    # What drew nothing is as far from its caption as can be.
    "fidelity": float(np.sum(ranks)) / max(len(records), 1),
    "diversity": _by_level(shown, own),
    FRECHET: far,
    "embedder": own.name,
  }


def _by_level(shown: Sequence[three_tests.Record], own) -> float | None:
  """Diversity within levels, averaged; the captions of a level differ."""
  found = []
  for level in dict.fromkeys(r.level for r in shown):
    mine = np.stack([np.asarray(r.picture) for r in shown if r.level == level])
    if len(mine) > 1:
      found.append(diversity(own.pictures(mine)))
  return float(np.mean(found)) if found else None


def accuracy(records: Sequence[three_tests.Record]) -> Mapping[str, float]:
  """Recognition: the share that was right, of all and of each level."""
  right = lambda own: float(np.mean([r.answer == r.caption for r in own]))
  levels = dict.fromkeys(r.level for r in records)
  return {"all": right(records)} | {
    level: right([r for r in records if r.level == level]) for level in levels
  }
