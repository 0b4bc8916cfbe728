"""From values under masks to values of sources and of their sets.

Everything ours is an expansion in Moebius terms that meets both ends,

  v(mask) = v(none) + sum over kept sets S of M(S),
  sum of all M(S) = v(all) - v(none), exactly,

so that of ln p of a token the sum is P-CXMI in nats (Fernandes et al.,
arXiv:2105.03482). `api.decode` says which sets there are; their coefficients
are then fitted again, near the decoder's, under that constraint. The value of a
source is its Shapley value, its share of each set that it is in.

`context_cite` is the peer's estimator (Cohen-Wang et al., arXiv:2409.00729, and
context-cite 0.0.4): a lasso of .01 on standardised masks against values per
token, no sets, ends not met.

Shapes: n sources, B masks, T targets, K sets.
"""

import dataclasses
import math
from collections.abc import Callable

import numpy as np

from spex_jax import api, base, explanation
from spex_jax.fourier import lasso, moments, score
from spex_jax.indices import mobius
from spex_jax.proxies import kernel_shap as shap

LASSO = 0.01  # ContextCite's.
_SWEEPS, _TOLERANCE = 10_000, 1e-10
_NEAR = 1e-3  # Of a squared error per mask: how strongly fits stay near.
_FOLDS, _FEWEST_FOLDED = 5, 4
# Of an expansion of all masks: how good it is, and why.
_KNOWN = ((1.0, 1.0), "all masks")
# Sets that one decode may leave; beyond them the largest count.
_MOST_SETS = 1 << 13


@dataclasses.dataclass(frozen=True)
class Fit:
  """An expansion of the values of one span.

  Attributes:
    values: float64 `[n]`, of each source.
    sets: K tuples of sources by number, none empty.
    moebius: float64 `[K]`, their coefficients; sum to `total`.
    none: v(none), as the model gave it.
    total: v(all) - v(none), as the model gave them.
    r2: the R^2 of this expansion, on uniform masks that neither it nor its
      decoder has seen, or 1 where all masks are known; of Shapley values and of
      budgets that set no masks aside `cross_validated`; None if never tested.
    method: the decoder that gave them.
    r2_interval: of `r2`, 95%, as `r2_of` has it; None where nothing says it.
    r2_by: what tested it, in words; "" where nothing did.
  """

  values: np.ndarray
  sets: tuple[tuple[int, ...], ...]
  moebius: np.ndarray
  none: float
  total: float
  r2: float | None
  method: str
  r2_interval: tuple[float, float] | None = None
  r2_by: str = ""

  def __call__(self, masks: base.Masks) -> np.ndarray:
    """Predicted values: float64 `[B]`."""
    return self.none + design(masks, self.sets) @ self.moebius

  def terms(self) -> list[tuple[list[int], float]]:
    """Sets and their coefficients, for JSON."""
    listed = zip(self.sets, self.moebius.tolist(), strict=True)
    return [(list(sources), value) for sources, value in listed if value]


def decoded(
  masks: np.ndarray, values: np.ndarray, method: str, ends: tuple[float, float]
) -> Fit:
  """By a decoder of `api.DECODERS`, its sets refitted to meet both ends.

  Untested, but where all masks are known.

  Args:
    masks: bool `[B, n]`, distinct.
    values: float `[B]`, of these masks.
    method: "auto" and its like.
    ends: v(none) and v(all), as the model gave them.

  Raises:
    ValueError: as `api.decode`.
  """
  n = masks.shape[1]
  none, total = ends[0], ends[1] - ends[0]
  if n == 1:
    one = np.array([total])
    return Fit(one, ((0,),), one, none, total, 1.0, "exact", *_KNOWN)
  found = api.decode(masks, values, method=method)
  return of_explanation(found, masks, values, ends)


def of_explanation(
  found: explanation.Explanation,
  masks: np.ndarray,
  values: np.ndarray,
  ends: tuple[float, float],
) -> Fit:
  """The same from a decoder's answer."""
  return _of_fourier(found.fourier, found.method, masks, values, ends)


def _of_fourier(fourier, method, masks, values, ends) -> Fit:
  n = masks.shape[1]
  none, total = ends[0], ends[1] - ends[0]
  terms = mobius.mobius_from_fourier(fourier)
  _, players, start = terms.split_empty()
  order = np.argsort(-np.abs(start), kind="stable")[:_MOST_SETS]
  sets = tuple(
    tuple(i for i in row if i < n) for row in players[order].tolist()
  )
  start = start[order]
  sets, start = _with_singles(n, sets, start)
  known = len(masks) == 1 << n
  if known:  # Nothing was left out, so nothing is to be fitted.
    moebius = _spread(start, total)
  else:
    moebius = refit(masks, values, sets, none, total, start)
  shares, r2 = shapley(n, sets, moebius), 1.0 if known else None
  interval, how = _KNOWN if known else (None, "")
  return Fit(shares, sets, moebius, none, total, r2, method, interval, how)


def redone(
  fit: Fit, masks: np.ndarray, values: np.ndarray, ends: tuple[float, float]
) -> Fit:
  """The same decoder's expansion of other masks, for `cross_validated`.

  Its sets and coefficients are found anew. Which decoder speaks, and whether a
  lasso has pairs, is not: that would cost ten times as much.

  Args:
    fit: the expansion whose decoder is used again.
    masks: bool `[B, n]`, distinct.
    values: float `[B]`, of these masks.
    ends: v(none) and v(all), as the model gave them.
  """
  if fit.method.startswith("lasso"):
    order = 1 if all(len(each) < 2 for each in fit.sets) else 2
    (found,) = lasso.fit_targets(
      masks, (values - values.mean())[:, None], order
    )
    return _of_fourier(found, fit.method, masks, values, ends)
  if fit.method != "mean":
    name = fit.method.partition(" ")[0]  # Of "gaussian reweighted".
    own = name in ("gram", "gaussian", "proxyspex")
    return decoded(masks, values, name if own else "auto", ends)
  # The mean has single sources' shares alone.
  none, total = ends[0], ends[1] - ends[0]
  sets, start = _with_singles(masks.shape[1], (), np.zeros(0))
  found = refit(masks, values, sets, none, total, start)
  return Fit(found, sets, found, none, total, None, "mean")


def r2_of(
  error: np.ndarray,
  values: np.ndarray,
  at: np.ndarray | None = None,
  groups: np.ndarray | None = None,
) -> tuple[float | None, tuple[float, float] | None]:
  """R^2, and its 95% interval by the jackknife over masks that test it.

  1 - mean squared error / variance. The masks may be few, so the variance is
  that of all values given: of the few alone it would sway the ratio. The
  interval is that of Student's t about R^2 with the standard error of leaving
  out one mask at a time (Tukey 1958), at most 1.

  Args:
    error: `[M]`, squared, of masks that were not fitted to.
    values: `[B]`, of uniform masks.
    at: int `[M]`, the rows of `values` that the errors are of; all by default.
    groups: int `[M]`, rows of one mask that was drawn more than once; each its
      own by default.

  Returns:
    None where the values do not vary; no interval of a single mask, or where
    they do not vary without one.
  """
  at = np.arange(len(values)) if at is None else at
  groups = at if groups is None else groups
  rows = np.arange(len(values))
  masks, variance = np.unique(groups), values.var()
  if not (len(error) and variance > 0):
    return None, None
  whole = float(1 - error.mean() / variance)
  if len(masks) < 2:
    return whole, None
  left = []
  for mask in masks:
    rest = values[~np.isin(rows, at[groups == mask])].var()
    if not rest > 0:
      return whole, None
    left.append(1 - error[groups != mask].mean() / rest)
  num = len(left)
  spread = np.sqrt((num - 1) * np.var(left))
  half = score.half_width(float(spread), num - 1)
  return whole, (whole - half, min(1.0, whole + half))


def kernel_shap(
  masks: np.ndarray, values: np.ndarray, ends: tuple[float, float]
) -> Fit:
  """Shapley values from masks that were drawn by Shapley's kernel.

  Lundberg and Lee 2017 (arXiv:1705.07874): least squares under the constraint
  that the values sum to v(all) - v(none); drawn masks count once each.
  """
  n = masks.shape[1]
  none, total = ends[0], ends[1] - ends[0]
  singles = tuple((i,) for i in range(n))

  def fit(masks, values):
    full, empty = np.array([none + total]), np.array([none])
    each = np.ones(len(masks))
    shares, _ = shap.solve(masks, each, values[:, None], full, empty)
    return shares[:, 0]

  found = fit(masks, values)
  r2, interval, how = cross_validated(
    masks, values, lambda some, v: lambda more: none + more @ fit(some, v)
  )
  return Fit(
    found, singles, found, none, total, r2, "kernelshap", interval, how
  )


def refit(
  masks: np.ndarray,
  values: np.ndarray,
  sets: tuple[tuple[int, ...], ...],
  none: float | np.ndarray,
  total: float | np.ndarray,
  start: np.ndarray | None = None,
  near: float = _NEAR,
) -> np.ndarray:
  """Coefficients nearest to the values and to `start` that sum to `total`.

  The least of |A x - (v - none)|^2 / B + near |x - start|^2 under sum x =
  total: one factorisation for all targets.

  Args:
    masks: bool `[B, n]`, True for sources that are kept.
    values: `[B]` or `[B, T]`.
    sets: K tuples of sources by number, none empty.
    none: v(none), `[]` or `[T]`.
    total: v(all) - v(none), `[]` or `[T]`.
    start: `[K]` or `[K, T]`; 0 by default.
    near: how strongly the answer stays near it, above 0.

  Returns:
    float64 `[K]` or `[K, T]`.
  """
  x = design(masks, sets)
  start = np.zeros((x.shape[1], *values.shape[1:])) if start is None else start
  left = values - none - x @ start
  solve = moments.loaded(x, near)
  moved = start + solve(x.T @ left / len(x))
  # What the sum lacks goes where it costs the fit least.
  along = solve(np.ones(x.shape[1]))
  lack = np.asarray(total) - moved.sum(axis=0)
  return moved + np.multiply.outer(along / along.sum(), lack)


def design(masks: base.Masks, sets: tuple[tuple[int, ...], ...]) -> np.ndarray:
  """Which sets each mask keeps whole: float64 `[B, K]`."""
  masks = np.asarray(masks, bool)
  columns = [masks[:, list(each)].all(axis=1) for each in sets]
  return np.stack(columns, axis=1).astype(float)


def all_moebius(
  masks: np.ndarray, values: np.ndarray
) -> tuple[tuple[tuple[int, ...], ...], np.ndarray]:
  """Every set's coefficients where all masks are known, by their definition.

  Args:
    masks: bool `[2^n, n]`, all of them in any order.
    values: float `[2^n, T]`, of these masks.

  Returns:
    The sets but the empty one, and float64 `[2^n - 1, T]`.
  """
  n = masks.shape[1]
  table = np.empty(values.shape)
  table[masks @ (1 << np.arange(n))] = values
  for bit in range(n):
    halves = table.reshape(-1, 2, 1 << bit, values.shape[1])
    halves[:, 1] -= halves[:, 0]
  sets = tuple(
    tuple(i for i in range(n) if index >> i & 1) for index in range(1, 1 << n)
  )
  return sets, table[1:]


def shapley(
  n: int, sets: tuple[tuple[int, ...], ...], moebius: np.ndarray
) -> np.ndarray:
  """Each source's equal share of its sets: `[n]`, or `[n, T]`."""
  out = np.zeros((n, *np.shape(moebius)[1:]))
  for each, value in zip(sets, moebius):
    out[list(each)] += value / len(each)
  return out


def context_cite(
  masks: np.ndarray, values: np.ndarray, num_tokens: int
) -> tuple[np.ndarray, float]:
  """ContextCite's weights `[n]` and bias, in the units of the values.

  Args:
    masks: bool `[B, n]`, True for sources that are kept.
    values: `[B]`, log-odds of the span in the original.
    num_tokens: the number of tokens of the span; values are divided by it for
      the penalty.
  """
  x = np.asarray(masks, float)
  mean, scale = x.mean(axis=0), x.std(axis=0)
  scale[scale == 0] = 1  # A source that is always there, or never.
  y = values / num_tokens
  x = (x - mean) / scale
  sums = moments.Moments.of(x, y - y.mean(), np.full(len(x), 1 / len(x)))
  (coefs,) = sums.lasso([LASSO], math.inf, _TOLERANCE, _SWEEPS)
  weights = coefs / scale
  bias = y.mean() - mean @ weights
  return weights * num_tokens, float(bias * num_tokens)


def context_cite_masks(num_masks: int, n: int) -> np.ndarray:
  """ContextCite's: mask i of seed i, each source kept with chance 1/2."""
  return np.stack(
    [
      np.random.RandomState(seed).choice([False, True], n, p=[0.5, 0.5])
      for seed in range(num_masks)
    ]
  )


def cross_validated(
  masks: np.ndarray,
  values: np.ndarray,
  fit: Callable[[np.ndarray, np.ndarray], Callable[[np.ndarray], np.ndarray]],
  at: np.ndarray | None = None,
) -> tuple[float | None, tuple[float, float] | None, str]:
  """R^2 of predictions of masks that a fit has not seen, five folds at most.

  A mask that was drawn more than once is in one fold.

  Args:
    masks: bool `[B, n]`, True for sources that are kept.
    values: float `[B]`, of these masks.
    fit: masks and values to a function of masks.
    at: rows that are folded, all others are always fitted to; all by default.

  Returns:
    R^2 and its interval, as `r2_of`, and what tested it in words; None of
    fewer than four distinct masks.
  """
  at = np.arange(len(masks)) if at is None else at
  _, first, group = np.unique(
    masks[at], axis=0, return_index=True, return_inverse=True
  )
  group = np.argsort(np.argsort(first))[group.reshape(-1)]  # As they came.
  folds = min(_FOLDS, len(first))
  if len(first) < _FEWEST_FOLDED or not values[at].var() > 0:
    return None, None, ""
  error = np.empty(len(at))
  for k in range(folds):
    out = at[group % folds == k]
    kept = np.setdiff1d(np.arange(len(masks)), out)
    predict = fit(masks[kept], values[kept])
    error[group % folds == k] = (predict(masks[out]) - values[out]) ** 2
  found = r2_of(error, values[at], groups=group)
  return *found, f"{folds} folds over {len(first)} masks"


def _with_singles(n, sets, start):
  """Every source is a set: the constraint and the shares have where to go."""
  missing = [(i,) for i in range(n) if (i,) not in set(sets)]
  return (*sets, *missing), np.concatenate([start, np.zeros(len(missing))])


def _spread(moebius, total):
  """Takes what rounding left of the sum off the largest coefficient."""
  moebius = moebius.copy()
  moebius[np.abs(moebius).argmax()] += total - moebius.sum()
  return moebius
