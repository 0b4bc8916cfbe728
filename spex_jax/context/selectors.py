"""Which tokens count as sensitive: from scores to a choice, perhaps an empty.

  mean_std     |s| >= mean + k std, the strongest first (Sarti et al.,
               arXiv:2310.01188: k = 1 in its evaluation). The standard
               deviation has ddof = 1 and the threshold is that of the signed
               scores, as Inseq has them: of one score, or where k is 0, the
               mean; where k is None all are chosen.
  top_k        the k largest
  top_p        the fewest whose |s| are a share p of the sum
  quantile     |s| at or above the q-quantile of |s|
  calibrated   |s| >= a number, such as one that held-out answers gave

Scores are compared by size; `signed` compares them as they are, so that a
token which the context makes less likely is not chosen. Ties keep the order of
the tokens. That nothing is chosen is an answer, an empty tuple.

Shapes: R scores.
"""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from spex_jax import base


def mean_std(scores: np.ndarray, k: float | None = 1.0) -> float:
  """The threshold mean + k std, in float64, of scores `[R]`; 0 for None."""
  if k is None:
    return 0.0
  spread = scores.std(ddof=1) if k and len(scores) > 1 else 0.0
  return float(scores.mean() + k * spread)


def quantile(scores: np.ndarray, q: float = 0.75) -> float:
  """The q-quantile of scores `[R]`, q in [0, 1]."""
  _share("q", q)
  return float(np.quantile(scores, q))


def top_k(scores: np.ndarray, k: int = 3) -> float:
  """The k-th largest of scores `[R]`.

  Raises:
    ValueError: a k below 1.
    TypeError: a k that is no integer.
  """
  if base.check_integer(k, "k") < 1:
    raise ValueError(f"top_k: k must be at least 1; got {k}.")
  return float(np.sort(scores)[::-1][min(k, len(scores)) - 1])


def top_p(scores: np.ndarray, p: float = 0.5) -> float:
  """The least of the fewest sizes whose sum is a share p of all."""
  _share("p", p)
  order = np.sort(scores)[::-1]
  reached = np.cumsum(np.maximum(order, 0))
  if not p or not reached[-1]:
    return np.inf
  return float(order[(reached >= p * reached[-1] * (1 - 1e-12)).argmax()])


def calibrated(scores: np.ndarray, threshold: float = 0.0) -> float:
  """A threshold that is given, in the units of the scores."""
  del scores
  return float(threshold)


# Each of the scores' sizes `[R]` but `mean_std`, of the scores themselves.
SELECTORS: Mapping[str, Callable[..., float]] = {
  "mean_std": mean_std,
  "top_k": top_k,
  "top_p": top_p,
  "quantile": quantile,
  "calibrated": calibrated,
}


def select(
  scores: base.Array,
  selector: str = "mean_std",
  *,
  signed: bool = False,
  most: int | None = None,
  **settings: Any,
) -> tuple[int, ...]:
  """The tokens chosen, the strongest first; empty where there is none.

  Args:
    scores: float `[R]`, finite, one for each token.
    selector: how the threshold is found, of `SELECTORS`.
    signed: whether scores are compared as they are, not by their sizes.
    most: of those, only so many, the strongest.
    **settings: `k`, `p`, `q` or `threshold` of the selector.

  Raises:
    TypeError: a setting that the selector does not have.
    ValueError: an unknown selector, a setting out of range, or scores that are
      no finite `[R]`.
  """
  if selector not in SELECTORS:
    raise ValueError(
      f"selector={selector!r}: choose from {', '.join(SELECTORS)}."
    )
  given = np.asarray(scores, np.float64)
  if given.ndim != 1 or not np.isfinite(given).all():
    raise ValueError(f"Scores must be finite [R]; got {given!r}.")
  if not given.size:
    return ()
  sizes = given if signed else np.abs(given)
  ruled = given if selector == "mean_std" else sizes
  limit = SELECTORS[selector](ruled, **settings)
  order = np.argsort(-sizes, kind="stable")
  chosen = [int(i) for i in order if sizes[i] >= limit]
  if selector == "top_k":
    chosen = chosen[: settings.get("k", 3)]
  elif selector == "top_p":  # Of equal sizes no more than are needed.
    chosen = chosen[: _needed(sizes[order], settings.get("p", 0.5))]
  return tuple(chosen if most is None else chosen[:most])


def _needed(order: np.ndarray, p: float) -> int:
  reached = np.cumsum(np.maximum(order, 0))
  return int((reached < p * reached[-1] * (1 - 1e-12)).sum()) + 1


def _share(name: str, value: float) -> None:
  if not 0 <= value <= 1:
    raise ValueError(f"{name} must lie in 0..1; got {value}.")
