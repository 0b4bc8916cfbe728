"""How good an expansion is, and how alike two of them are.

Shapes: n players, B masks, T targets, M things compared.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from spex_jax import base
from spex_jax.fourier import sparse
from spex_jax.fourier.score import r2
from spex_jax.indices import optimum


def faithfulness(
  fn: base.ValueFn, masks: base.Masks, values: base.Values
) -> float | np.ndarray:
  """R² of `fn` (an expansion, say) on masks that it was not fitted to.

  Args:
    fn: masks `[B, n]` to guesses, `[B]` or `[B, T]`.
    masks: bool `[B, n]`, held out.
    values: the value function's answers.
  """
  return r2(values, base.ask(fn, masks))


class Removal(NamedTuple):
  """What removing k players does, for several k.

  Attributes:
    counts: int `[C]`, k.
    masks: bool `[C, n]`, True = kept.
    predicted: float64 `[C]`, the expansion's f(all) - f(mask).
    actual: float64 `[C]`, the value function's.
    full: its f(all).
    status: `[C]`, whether each set is proved the most influential
      ("optimal"), or the best found in time ("time_limit").
  """

  counts: np.ndarray
  masks: np.ndarray
  predicted: np.ndarray
  actual: np.ndarray
  full: float
  status: tuple[str, ...]


def removal_curve(
  fourier: sparse.SparseFourier,
  value_fn: base.ValueFn,
  counts: Sequence[int],
  *,
  time_limit: float = 10.0,
) -> Removal:
  """Removes the k players that matter most, and asks the model.

  They are the set whose removal changes the expansion most, up or down (SPEX,
  arXiv 2502.13870, section on feature identification). The paper divides by
  |f(all)|; here changes keep their units and `full` is beside them.

  Args:
    fourier: one target.
    value_fn: answers `[B]`.
    counts: numbers of players to remove, 0..n.
    time_limit: seconds for each of two searches per count.

  Raises:
    TypeError: a count that is no integer.
    ValueError: a count outside 0..n, or values that are not `[B]` and finite.
  """
  n = fourier.n
  removed = np.asarray(
    [base.check_integer(k, "A count of players") for k in counts], np.int64
  )
  if np.any((removed < 0) | (removed > n)):
    raise ValueError(f"counts must lie in 0..{n}; got {removed.tolist()}.")
  everyone = np.ones((1, n), bool)
  full_guess = float(np.asarray(fourier(everyone))[0])
  chosen, status = [], []
  for k in removed.tolist():
    found = [
      optimum.best_mask(
        fourier, maximise=up, exactly=n - k, time_limit=time_limit
      )
      for up in (False, True)
    ]
    best = max(found, key=lambda one: abs(one.value - full_guess))
    chosen.append(best)
    proved = all(one.status == "optimal" for one in found)
    status.append("optimal" if proved else "time_limit")
  masks = np.concatenate([everyone, *(one.mask[None] for one in chosen)])
  values = base.check_values(base.ask(value_fn, masks), len(masks))
  if values.ndim != 1:
    raise ValueError(
      f"A removal curve needs one target; values have shape {values.shape}."
    )
  return Removal(
    counts=removed,
    masks=masks[1:],
    predicted=full_guess - np.asarray([one.value for one in chosen]),
    actual=values[0] - values[1:],
    full=float(values[0]),
    status=tuple(status),
  )


def spearman(
  a: base.Array, b: base.Array, *, constant: float | None = None
) -> float | np.ndarray:
  """Rank correlation of two scores of the same things, ties averaged.

  Args:
    a: `[M]`, or `[M, T]`, of which each column is compared with its own of b.
    b: the same shape.
    constant: what columns get that are all equal on one side or both, and so
      rank nothing; None for an error.

  Returns:
    In -1..1: a float, or float64 `[T]`.

  Raises:
    ValueError: shapes that differ, NaN or infinities, or scores that rank
      nothing (fewer than two do not) where no `constant` is given.
  """
  import scipy.stats  # Slow to import.

  a, b = _scores(a, b, most_axes=2)
  flat = _flat(a, b, "rank nothing", constant)
  a, b = (scipy.stats.rankdata(scores, axis=0) for scores in (a, b))
  return _correlation(a, b, flat, constant)


def pearson(
  a: base.Array, b: base.Array, *, constant: float | None = None
) -> float | np.ndarray:
  """Linear correlation; arguments, result and errors as of `spearman`.

  Scores of any finite size are taken: their squares need not be finite.
  """
  a, b = _scores(a, b, most_axes=2)
  flat = _flat(a, b, "correlate with nothing", constant)
  if len(a):
    a, b = a - base.origin(a), b - base.origin(b)
  tops = [np.abs(scores).max(axis=0, initial=0) for scores in (a, b)]
  a, b = (
    scores / np.where(top > 0, top, 1) for scores, top in zip((a, b), tops)
  )
  return _correlation(a, b, flat, constant)


def top_k_agreement(a: base.Array, b: base.Array, k: int) -> float:
  """Share of the k largest |scores| of `a` that are among those of `b`.

  Ties at the border go to the earlier thing.

  Raises:
    ValueError: shapes that differ, k outside 1..M, NaN or infinities.
  """
  a, b = _scores(a, b)
  if not 1 <= k <= len(a):
    raise ValueError(f"k must lie in 1..{len(a)}; got {k}.")
  tops = [
    set(np.argsort(-np.abs(scores), kind="stable")[:k].tolist())
    for scores in (a, b)
  ]
  return len(tops[0] & tops[1]) / k


def _flat(
  a: np.ndarray, b: np.ndarray, fault: str, constant: float | None
) -> np.ndarray:
  """bool `[]` or `[T]`: whether all scores are equal, on one side or both."""
  found = []
  for name, scores in (("first", a), ("second", b)):
    flat = np.ones(scores.shape[1:], bool)
    if len(scores):
      flat = np.asarray(scores.min(axis=0) == scores.max(axis=0))
    if flat.any() and constant is None:
      where = f" in column {flat.argmax()}" if flat.ndim else ""
      raise ValueError(
        f"The {name} scores {fault}{where}: {len(scores)} of them, all equal."
      )
    found.append(flat)
  return found[0] | found[1]


def _correlation(
  a: np.ndarray, b: np.ndarray, flat: np.ndarray, constant: float | None
) -> float | np.ndarray:
  """Of two `[M]` or `[M, T]`; `constant` where they are flat."""
  fill = 0.0 if constant is None else constant
  out = np.full(flat.shape, fill, np.float64)
  if not flat.all():
    a, b = a - a.mean(axis=0), b - b.mean(axis=0)
    norms = np.sqrt((a**2).sum(axis=0) * (b**2).sum(axis=0))
    cosine = (a * b).sum(axis=0) / np.where(flat, 1, norms)
    out = np.where(flat, out, np.clip(cosine, -1, 1))
  return out if out.ndim else float(out)


def _scores(
  a: base.Array, b: base.Array, most_axes: int = 1
) -> tuple[np.ndarray, np.ndarray]:
  for scores in (a, b):
    base.check_unmasked(scores, "Scores")
  a, b = np.asarray(a, np.float64), np.asarray(b, np.float64)
  if not 1 <= a.ndim <= most_axes or a.shape != b.shape:
    raise ValueError(
      f"Need two score vectors of one length; got {a.shape} and {b.shape}."
    )
  if not (np.isfinite(a).all() and np.isfinite(b).all()):
    raise ValueError("Scores must be finite.")
  return a, b
