"""How good an attribution is, judged by what really happens on fresh masks.

  correlation  of predictions and outputs, target by target: COAR's measure
               (Shah et al. 2024, section 4) by Pearson's correlation
  lds          the same by ranks, the linear datamodeling score (Park et al.
               2023, arXiv 2303.14186, definition 2.3), with the most that any
               score could have
  surrogate    R^2 and rank of an expansion with its interactions, and of its
               first order alone
  brittleness  fewest removals that flip a prediction (Ilyas et al. 2022,
               section 4.1), the whole grid asked at once
  mislabelled  whether the lowest scores are the wrong labels
  (`fourier.score` has R^2, correlations and intervals as such;
  `influence.corners` judges interactions; `components.comparing` compares
  methods on masks that it draws)

Masks are to be fresh: none that the attribution was fitted to.

Shapes: n examples, B masks, T targets, S seeds, G removal counts.
"""

import dataclasses
import math
from collections.abc import Sequence

import numpy as np

from spex_jax import base
from spex_jax.fourier import score, sparse
from spex_jax.indices import attribution


@dataclasses.dataclass(frozen=True, eq=False)
class Correlation(base.ByValue):
  """How well predictions correlate with values, target by target.

  Attributes:
    per_target: float64 `[T]`; 0 where the predictions are all equal, NaN where
      the values are.
    num_masks: B.
    num_seeds: S.
    ranks: whether these are rank correlations: linear datamodeling scores.
    reliability: mean correlation of the values under two seeds; None with one
      seed.
    ceiling: what a perfect prediction of the mean over seeds would score
      against the values given, `sqrt` of the reliability of their mean
      (Spearman-Brown); None with one seed.
    ceiling_interval: the 95 % interval of its mean over targets like these, up
      to 1; None with one seed or one target.
  """

  per_target: np.ndarray
  num_masks: int
  num_seeds: int = 1
  ranks: bool = False
  reliability: float | None = None
  ceiling: float | None = None
  ceiling_interval: tuple[float, float] | None = None

  @property
  def defined(self) -> np.ndarray:
    """float64 `[<= T]`: of the targets whose values vary."""
    return self.per_target[np.isfinite(self.per_target)]

  @property
  def undefined(self) -> int:
    """How many targets never vary; they are left out of the mean."""
    return len(self.per_target) - len(self.defined)

  @property
  def mean(self) -> float:
    return float(self.defined.mean())

  @property
  def error(self) -> float | None:
    """Standard error of the mean over targets; None for one of them."""
    return score.standard_error(self.defined)

  @property
  def interval(self) -> tuple[float, float] | None:
    """95 %, of the mean over targets like these; None for one target.

    By Fisher's z = artanh(mean), whose error is that of the mean over
    1 - mean^2: correlations end at -1 and 1, and so do their intervals.
    """
    mean, interval = score.mean_interval(self.defined)
    if interval is None or interval[0] == interval[1]:
      return interval
    half = (interval[1] - interval[0]) / 2
    most = 1 - base.ROUNDING  # Its z is finite.
    mean = min(max(mean, -most), most)
    z, width = math.atanh(mean), half / (1 - mean**2)
    return math.tanh(z - width), math.tanh(z + width)

  def __str__(self) -> str:
    if not self.ranks:
      error = self.error
      return f"{self.mean:.3f}" + ("" if error is None else f" ± {error:.3f}")
    text = f"LDS {self.mean:.3f}"
    if interval := self.interval:
      text += f" [{interval[0]:.3f}, {interval[1]:.3f}]"
    if self.ceiling is None:
      text += ", ceiling not measured (one seed)"
    else:
      text += (
        f", ceiling {self.ceiling:.3f} (two retrainings agree to "
        f"{self.reliability:.3f})"
      )
    text += (
      f"; {len(self.per_target)} targets, {self.num_masks} subsets, "
      f"{self.num_seeds} seed{'s' * (self.num_seeds > 1)}"
    )
    if self.undefined:
      text += f"; {self.undefined} targets never change and are left out"
    return text


def correlation(
  predict: base.ValueFn,
  masks: base.Masks,
  values: base.Array,
  *,
  ranks: bool = False,
) -> Correlation:
  """Correlation of predictions and values over fresh masks, per target.

  Args:
    predict: masks to predictions `[B]` or `[B, T]`: an `Attribution`, an
      expansion.
    masks: bool `[B, n]`, 3 masks or more; none that the method was fitted to.
    values: `[B]`, `[B, T]`, or `[B, S, T]` for S seeds of each mask, of which
      the mean is predicted and the ceiling measured.
    ranks: whether to give Spearman's correlation, ties averaged, in place of
      Pearson's.

  Raises:
    ValueError: fewer than 3 masks, other shapes, values or predictions that
      are not finite, or values that never vary for any target.
  """
  masks, values = _checked(masks, values)
  if len(masks) < 3:
    raise ValueError(f"A correlation needs at least 3 masks; got {len(masks)}.")
  num_masks, num_seeds, num_targets = values.shape
  truth = values.mean(axis=1)
  guess = _predictions(predict, masks, num_targets)
  defined = ~base.is_constant(truth)
  if not defined.any():
    raise ValueError("The values never vary: there is nothing to predict.")
  compare = _ranks if ranks else _products
  reliability = ceiling = interval = None
  if num_seeds > 1:
    pairs = [
      compare(values[:, i], values[:, j])[defined]
      for i in range(num_seeds)
      for j in range(i)
    ]
    one = np.mean(pairs, axis=0)
    reliability = float(one.mean())
    one = np.clip(one, 0, 1)
    mean = num_seeds * one / (1 + (num_seeds - 1) * one)
    ceiling, interval = score.mean_interval(np.sqrt(mean))
    if interval is not None:
      interval = interval[0], min(1.0, interval[1])
  return Correlation(
    per_target=np.where(defined, compare(truth, guess), np.nan),
    num_masks=num_masks,
    num_seeds=num_seeds,
    ranks=ranks,
    reliability=reliability,
    ceiling=ceiling,
    ceiling_interval=interval,
  )


def lds(
  predict: base.ValueFn, masks: base.Masks, values: base.Array
) -> Correlation:
  """The linear datamodeling score: `correlation` by ranks."""
  return correlation(predict, masks, values, ranks=True)


@dataclasses.dataclass(frozen=True, eq=False)
class Surrogate(base.ByValue):
  """An expansion on fresh masks, with interactions and without.

  Attributes:
    r2, rank: float64 `[T]` R^2 and rank correlation of the whole expansion.
    first_r2, first_rank: the same of its sets of up to one player alone.
    r2_std, first_r2_std: standard errors of R^2, `fourier.score.r2_std`.
  """

  r2: np.ndarray
  rank: np.ndarray
  first_r2: np.ndarray
  first_rank: np.ndarray
  r2_std: np.ndarray
  first_r2_std: np.ndarray

  def gain(self) -> tuple[float, tuple[float, float] | None]:
    """Mean gain in R^2 by interactions, and its 95 % interval over targets."""
    return score.mean_interval(self.r2 - self.first_r2)

  def __str__(self) -> str:
    mean, interval = self.gain()
    around = f" [{interval[0]:.3f}, {interval[1]:.3f}]" if interval else ""
    whole = score.shown(self.r2, self.r2_std)
    first = score.shown(self.first_r2, self.first_r2_std)
    return (
      f"R^2 {whole}, rank {self.rank.mean():.3f}; first order alone {first}, "
      f"{self.first_rank.mean():.3f}; gain in R^2 {mean:.3f}{around}"
    )


def surrogate(
  fourier: sparse.SparseFourier, masks: base.Masks, values: base.Array
) -> Surrogate:
  """R^2 and rank of an expansion on masks that it was not fitted to.

  LDS rewards sums; this asks what the interactions add. The first order is cut
  out of the same expansion, which under uniform masks is its best linear
  approximation; compare a `datamodels` fit on the same masks, too.

  Args:
    fourier: an expansion of one target or T.
    masks: bool `[B, n]`, fresh.
    values: `[B]`, `[B, T]`, or `[B, S, T]`, of which the mean over seeds is
      meant.

  Raises:
    ValueError: as in `correlation`.
  """
  masks, values = _checked(masks, values)
  truth = values.mean(axis=1)
  many = fourier.num_targets
  functions = (
    [fourier] if many is None else [fourier.target(t) for t in range(many)]
  )
  parts = []
  for function in functions:
    low = function.orders <= 1
    parts.append(
      sparse.SparseFourier.from_players(
        fourier.n,
        np.asarray(function.players)[low],
        np.asarray(function.coefs)[low],
      )
    )
  linear = sparse.SparseFourier.stack(parts)
  whole = sparse.SparseFourier.stack(functions)
  guesses = [_predictions(f, masks, truth.shape[1]) for f in (whole, linear)]
  r2 = [np.atleast_1d(score.r2(truth, guess)) for guess in guesses]
  rank = [_ranks(truth, guess) for guess in guesses]
  std = [np.atleast_1d(score.r2_std(truth, guess)) for guess in guesses]
  return Surrogate(r2[0], rank[0], r2[1], rank[1], std[0], std[1])


@dataclasses.dataclass(frozen=True, eq=False)
class Brittleness(base.ByValue):
  """How few removals flip each prediction.

  Attributes:
    counts: int `[G]` removals tried, ascending; the first is 0.
    margins: float64 `[T, G]`, the margins after them.
    smallest: float64 `[T]`, the fewest tried that flip; infinity where none
      does, NaN where the prediction was wrong with everybody there.
  """

  counts: np.ndarray
  margins: np.ndarray
  smallest: np.ndarray

  @property
  def flipped(self) -> np.ndarray:
    """float64 `[G]`: share of right predictions flipped by so many or fewer.

    NaN where no prediction was right.
    """
    right = ~np.isnan(self.smallest)
    if not right.any():
      return np.full(len(self.counts), np.nan)
    return (self.smallest[right, None] <= self.counts[None]).mean(axis=0)

  def __str__(self) -> str:
    shares = ", ".join(
      f"{k}: {share:.0%}" for k, share in zip(self.counts, self.flipped)
    )
    right = int((~np.isnan(self.smallest)).sum())
    return f"flipped by removals ({right} right predictions): {shares}"


def brittleness(
  scores: base.Array, value_fn: base.ValueFn, counts: Sequence[int]
) -> Brittleness:
  """Removes the examples that a prediction rests on most, and retrains.

  All T * G + 1 subsets are asked in one request; equal ones once. A prediction
  flips where its margin is no longer positive.

  Args:
    scores: `[T, n]`; the largest go first, ties by number. Examples that are
      not helpful (score <= 0) are removed too once the others are gone.
    value_fn: masks to margins `[B, T]`, of the same targets.
    counts: numbers of removals, 1..n.

  Raises:
    ValueError: scores that are not finite or not `[T, n]`, counts outside
      1..n, or margins of other targets.
  """
  scores = np.asarray(scores, np.float64)
  if scores.ndim != 2 or not scores.size or not np.isfinite(scores).all():
    raise ValueError(f"Need finite scores [T, n]; got shape {scores.shape}.")
  num_targets, n = scores.shape
  grid = np.unique([base.check_integer(k, "A count") for k in counts])
  if not len(grid) or grid[0] < 1 or grid[-1] > n:
    raise ValueError(f"counts must lie in 1..{n}; got {list(counts)}.")
  order = np.argsort(-scores, axis=1, kind="stable")
  rank = np.argsort(order, axis=1, kind="stable")
  kept = rank[:, None] >= grid[:, None]  # [T, G, n]
  masks = np.concatenate([np.ones((1, n), bool), kept.reshape(-1, n)])
  distinct, inverse = np.unique(masks, axis=0, return_inverse=True)
  values = base.check_values(base.ask(value_fn, distinct), len(distinct))
  values = values.reshape(len(distinct), -1)
  if values.shape[1] != num_targets:
    raise ValueError(
      f"Scores are of {num_targets} targets, margins of {values.shape[1]}."
    )
  values = values[inverse.ravel()]
  own = values[1:].reshape(num_targets, len(grid), num_targets)
  margins = np.column_stack([values[0], np.einsum("tgt->tg", own)])
  tried = np.append(0, grid)
  over = margins <= 0
  smallest = np.where(over.any(axis=1), tried[over.argmax(axis=1)], np.inf)
  smallest = np.where(over[:, 0], np.nan, smallest)
  return Brittleness(tried, margins, smallest)


@dataclasses.dataclass(frozen=True)
class Mislabelled:
  """Whether low scores are wrong labels.

  Attributes:
    auroc: probability that a wrong label scores below a right one.
    counts: int `[G]`, how many of the lowest scores are inspected.
    recall: float64 `[G]`, the share of all wrong labels that is among them.
    precision: float64 `[G]`, the share of wrong labels among those inspected.
  """

  auroc: float
  counts: np.ndarray
  recall: np.ndarray
  precision: np.ndarray

  def __str__(self) -> str:
    recalls = ", ".join(
      f"{r:.0%} of the wrong labels among the lowest {k}"
      for k, r in zip(self.counts, self.recall)
    )
    return f"AUROC {self.auroc:.3f}; {recalls}"


def mislabelled(
  scores: base.Array,
  wrong: base.Array,
  counts: Sequence[int] | None = None,
) -> Mislabelled:
  """Ranks examples by score, lowest first, against known wrong labels.

  Args:
    scores: `[n]`, or `[T, n]`, of which the mean over targets is ranked.
    wrong: bool `[n]`.
    counts: how many of the lowest scores to inspect; None for the number of
      wrong labels.

  Returns:
    AUROC with ties counted as half; ties at a count go to the earlier.

  Raises:
    ValueError: shapes that disagree, NaN, no wrong label or none but wrong
      ones, or counts outside 1..n.
  """
  scores = np.asarray(scores, np.float64)
  scores = scores.mean(axis=0) if scores.ndim == 2 else scores
  wrong = np.asarray(wrong)
  auroc = score.auroc(-scores, wrong)
  bad = int(wrong.sum())
  grid = np.unique([bad] if counts is None else list(counts))
  if not len(grid) or grid[0] < 1 or grid[-1] > len(scores):
    raise ValueError(f"counts must lie in 1..{len(scores)}; got {counts}.")
  found = wrong[np.argsort(scores, kind="stable")].cumsum()[grid - 1]
  return Mislabelled(auroc, grid, found / bad, found / grid)


def _ranks(a, b):
  """`[T]` rank correlations; 0 where one side is all equal: it says nothing."""
  return np.atleast_1d(score.spearman(a, b, constant=0.0))


def _products(a, b):
  """The same of the values themselves."""
  return np.atleast_1d(score.pearson(a, b, constant=0.0))


def _checked(masks, values):
  """bool `[B, n]` and float64 `[B, S, T]`."""
  base.check_unmasked(values, "Values")
  values = np.asarray(values)
  if values.ndim == 3:
    flat = values.reshape(len(values), -1)
    masks, flat = attribution.samples(masks, flat)
    return masks, flat.reshape(values.shape)
  masks, values = attribution.samples(masks, values)
  return masks, values[:, None]


def _predictions(predict, masks, num_targets):
  guess = base.ask(predict, masks)
  base.check_unmasked(guess, "Predictions")
  guess = np.asarray(guess)
  if guess.ndim == 1:
    guess = guess[:, None]
  if guess.shape != (len(masks), num_targets):
    raise ValueError(
      f"Predictions have shape {guess.shape}; the values need "
      f"{(len(masks), num_targets)}."
    )
  if not np.isfinite(guess).all():
    raise ValueError("The predictions hold NaN or infinity.")
  return guess
