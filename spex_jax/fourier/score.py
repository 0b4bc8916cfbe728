"""How well guesses meet what is true: R², correlations, intervals.

All rooms judge by these. `indices.judging` builds what is said of attributions
on them, `indices.deletion` asks the model again.

Shapes: B masks, T targets, M things compared.
"""

import math

import chex
import numpy as np

from spex_jax import base

_LEVEL = 0.95  # Of intervals, by Student's t: targets are few.
WIDE = 1.96  # Standard errors to either side, where many stand behind one.
_MATCHED = 8 * base.ROUNDING  # Of a constant: a sum of many terms is allowed.


def r2(truth: base.Values, guess: base.Values) -> float | np.ndarray:
  """Coefficient of determination, `1 - |truth - guess|^2 / |truth - mean|^2`.

  What all values share is subtracted first, so that an offset costs no digits
  but those that float64 lost before. A truth that is constant to rounding
  (`base.ROUNDING`) has no variance to explain: the answer is 1 if the guess
  matches it (to 64 steps of float64) and 0 if not, as in scikit-learn's
  `r2_score`. It is never NaN or infinite: a guess so bad that its score is
  beyond float64 gets the lowest float64.

  Args:
    truth: `[B]`, or `[B, T]`.
    guess: the same shape.

  Returns:
    A float, or float64 `[T]`: per target.

  Raises:
    ValueError: shapes that differ, no values, NaN or infinities.
  """
  truth, guess, constant, matched = _free(truth, guess)
  # Guesses far beyond the truth may still overflow, to a score of -infinity.
  with np.errstate(over="ignore"):
    error = ((truth - guess) ** 2).sum(axis=0)
  total = ((truth - truth.mean(axis=0, keepdims=True)) ** 2).sum(axis=0)
  with np.errstate(over="ignore"):
    score = 1 - error / np.where(constant, 1.0, total)
  score = np.maximum(score, np.finfo(np.float64).min)
  score = np.where(constant, matched.astype(np.float64), score)
  return float(score) if score.ndim == 0 else score


def r2_std(
  truth: base.Values, guess: base.Values, lost: float = 0.0
) -> float | np.ndarray:
  """Standard error of `r2`: what other masks of the same kind would say.

  By the delta method: R² = 1 - E / V, the means of squared errors e² and
  deviations d², varies with each mask by `(E / V d² - e²) / V`. Of a constant
  truth it is 0. Beyond float64, and of a single mask, it is the largest one.

  Args:
    truth: `[B]`, or `[B, T]`.
    guess: the same shape.
    lost: share of the variance that is taken off R² besides, known without
      these masks: what sets hold that are left out, say.

  Raises:
    ValueError: as `r2`.
  """
  truth, guess, constant, _ = _free(truth, guess)
  count = len(truth)
  with np.errstate(over="ignore", invalid="ignore"):
    errors = (truth - guess) ** 2
    apart = (truth - truth.mean(axis=0, keepdims=True)) ** 2
    total = np.where(constant, 1.0, apart.mean(axis=0))
    share = errors.mean(axis=0) / total + lost
    moves = share * apart / total - errors / total - lost
    std = np.sqrt((moves**2).mean(axis=0) / max(1, count - 1))
  std = np.where(constant, 0.0, std)
  known = np.isfinite(std) & (count > 1)
  std = np.where(known, std, np.finfo(np.float64).max)
  return float(std) if std.ndim == 0 else std


def r2_text(truth: base.Values, guess: base.Values) -> str:
  """`r2` and its standard error, `shown`."""
  return shown(r2(truth, guess), r2_std(truth, guess))


def shown(value: base.Array | float, std: base.Array | float | None) -> str:
  """An R² and its standard error, as "0.976 ± 0.004"; of several, the means.

  As many digits as the error bears, three or more; the value alone where the
  error is not known or none. Targets share their masks, so that their errors
  may go together: the mean of these is the most that the mean's own can be.
  """
  value = float(np.mean(value))
  if std is not None:
    with np.errstate(over="ignore"):
      std = float(np.mean(std))
  if not std or std >= np.finfo(np.float64).max:
    return f"{value:.4g}"
  digits = min(6, max(3, -int(np.floor(np.log10(std))))) if std > 1e-6 else 3
  if abs(value) >= 100 or std >= 100:
    return f"{value:.4g} ± {std:.2g}"
  return f"{value:.{digits}f} ± {std:.{digits}f}"


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
    The correlation, in -1..1: a float, or float64 `[T]`.

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


def auroc(scores: base.Array, inside: base.Array) -> float:
  """The chance that a thing inside scores above one outside; ties count half.

  Args:
    scores: `[M]`, infinities allowed.
    inside: bool `[M]`.

  Raises:
    ValueError: other shapes or types, NaN, or nothing to tell apart.
  """
  import scipy.stats  # Slow to import.

  scores, inside = np.asarray(scores, np.float64), np.asarray(inside)
  if scores.ndim != 1 or scores.shape != inside.shape or inside.dtype != bool:
    raise ValueError(
      f"Need scores [M] and booleans [M]; got {scores.shape} and "
      f"{inside.dtype}{list(inside.shape)}."
    )
  if np.isnan(scores).any():
    raise ValueError("Scores must not be NaN.")
  hits, rest = int(inside.sum()), int((~inside).sum())
  if not hits or not rest:
    raise ValueError(
      f"There is nothing to tell apart: {hits} are inside, {rest} outside."
    )
  ranks = scipy.stats.rankdata(scores)[inside]
  # Mann and Whitney's U.
  return float((ranks.sum() - hits * (hits + 1) / 2) / (hits * rest))


def standard_error(each: base.Array) -> float | None:
  """The standard error of the mean over targets; None for one target."""
  if len(each) < 2:
    return None
  return float(np.std(each, ddof=1)) / math.sqrt(len(each))


def half_width(std: float, freedom: float, level: float = _LEVEL) -> float:
  """Half of an interval by Student's t about an estimate.

  Args:
    std: the standard error of the estimate.
    freedom: degrees of freedom behind it; they need not be whole.
    level: the share of such intervals that hold the truth.
  """
  from scipy import special  # Slow to import.

  return float(special.stdtrit(freedom, (1 + level) / 2)) * std


def mean_interval(
  each: base.Array,
) -> tuple[float, tuple[float, float] | None]:
  """The mean over targets, and its 95 % interval; None for one target."""
  chex.assert_rank(each, 1)
  each = np.asarray(each, np.float64)
  mean, error = float(each.mean()), standard_error(each)
  if error is None:
    return mean, None
  half = half_width(error, len(each) - 1)
  return mean, (mean - half, mean + half)


def _free(truth, guess):
  """Both without offset and units, float64; whether the truth is constant.

  And whether the guess matches it then.
  """
  base.check_unmasked(truth, "Values")
  base.check_unmasked(guess, "Guesses")
  truth, guess = np.asarray(truth), np.asarray(guess)
  if truth.shape != guess.shape or not truth.size:
    raise ValueError(
      f"Need values and guesses of one shape, at least one of each; got "
      f"{truth.shape} and {guess.shape}."
    )
  truth = base.check_values(truth, len(truth))
  if not np.isfinite(guess.astype(np.float64)).all():
    raise ValueError("The guesses hold NaN or infinity.")
  constant = base.is_constant(truth)
  # Free of units first, so that no square overflows or vanishes; and of the
  # offset before that, exactly.
  size = np.abs(truth).max(axis=0)
  start = base.origin(truth)
  truth = truth - start
  unit = np.abs(truth).max(axis=0)
  unit = np.where(unit > 0, unit, 1.0)
  with np.errstate(over="ignore"):
    guess = guess.astype(np.float64) - start
    matched = np.abs(truth - guess).max(axis=0) <= _MATCHED * size
    return truth / unit, guess / unit, constant, matched


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
