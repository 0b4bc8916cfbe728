"""R²: how much of a function an expansion explains.

Shapes: B masks, T targets.
"""

import numpy as np

from spex_jax import base

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


def told(truth: base.Values, guess: base.Values) -> str:
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
