"""Linear functions of which training examples are there, fitted to retrainings.

  leave_one_out  f(all) - f(all but i), from a bank that holds these masks
  least_squares  by normal equations, exact, with standard errors
  ridge          the same with a penalty, chosen by exact leave-one-out errors
  lasso          the datamodels of Ilyas et al. 2022 (arXiv 2202.00622): a lasso
                 path per target, the penalty chosen by cross-validation

All fit `f(m) = baseline + sum_{i kept} score_i` to `masks` and `values`, all
targets at once. On uniform masks the scores of least squares estimate Banzhaf
values, -2 F({i}), and what they leave is the energy of interactions.

Least squares and ridge work on the smaller of the two Gram matrices, of the n
columns (`fourier.normal`) or of the B masks, in float64, on the host: a
Cholesky factor for least squares, an eigendecomposition for penalties or for
columns that are not independent.

Shapes: n examples, B masks, T targets, r = min(n, B).
"""

from collections.abc import Sequence

import numpy as np

from spex_jax import base
from spex_jax.fourier import lasso as fourier_lasso
from spex_jax.fourier import moments, normal, regress
from spex_jax.indices import attribution

PENALTIES = tuple(10.0 ** (k / 2) for k in range(-8, 5))
_ROUNDING = 1e-10  # Eigenvalues below this share of the largest are none.


def leave_one_out(
  masks: base.Masks, values: base.Values
) -> attribution.Attribution:
  """Scores f(all) - f(all but i) from the rows of a bank that say so.

  Rows that are asked several times (under several seeds, say) are averaged;
  rows that drop two or more players are not read.

  Args:
    masks: bool `[B, n]`; those of `sampling.leave_one_out` are among them.
    values: `[B]` or `[B, T]`.

  Returns:
    Scores; `std` where every row was asked at least twice, by pooled
    variances of the repeats.

  Raises:
    ValueError: a needed mask that is not there; the message counts them.
  """
  masks, values = attribution.samples(masks, values)
  n = masks.shape[1]
  dropped = n - masks.sum(axis=1)
  which = np.where(dropped == 1, masks.argmin(axis=1), n)  # n: everybody.
  rows = dropped <= 1
  which, values = which[rows], values[rows]
  counts = np.bincount(which, minlength=n + 1)
  if not counts.all():
    missing = np.flatnonzero(counts == 0)
    raise ValueError(
      f"Leave-one-out needs {n + 1} masks, and {len(missing)} of them are not "
      "there: "
      + ("the full one" if missing[0] == n else f"without player {missing[0]}")
      + " is the first. Ask for sampling.leave_one_out(n)."
    )
  sums = np.zeros((n + 1, values.shape[1]))
  np.add.at(sums, which, values)
  means = sums / counts[:, None]
  scores = means[n] - means[:n]
  std = None
  if counts.min() >= 2:
    scale = regress.standardise(values)[2]  # No square overflows or vanishes.
    left = (values - means[which]) / scale
    spread = (left**2).sum(axis=0) / (counts - 1).sum()
    std = np.sqrt(spread * (1 / counts[:n] + 1 / counts[n])[:, None]) * scale
    std = std.T
  # So that the full mask is met; n scores speak of its neighbourhood alone.
  baseline = means[n] - scores.sum(axis=0)
  return attribution.Attribution(scores.T, baseline, "leave-one-out", std)


def least_squares(
  masks: base.Masks, values: base.Values
) -> attribution.Attribution:
  """Least squares with an intercept.

  Where masks cannot tell columns apart the solution of least norm is returned.

  Args:
    masks: bool `[B, n]`.
    values: `[B]` or `[B, T]`.

  Returns:
    Scores, with standard errors where there are more masks than columns (errors
    independent and of one size per target).

  Raises:
    ValueError: what `attribution.samples` refuses.
  """
  masks, values = attribution.samples(masks, values)
  unit, *units = regress.standardise(values)
  (num_masks, n), std = masks.shape, None
  if n > num_masks:
    weights = _wide(masks, unit)
  else:
    sums = normal.Normal(n, unit.shape[1]).add(masks, unit)
    weights = sums.solve()
    if weights is not None:
      std = sums.errors(weights, np.ones(n, bool))
  notes: tuple[str, ...] = ()
  if weights is None:
    # Columns depend on each other: only the spectrum tells the least norm.
    spectrum = _Spectrum(masks, unit)
    weights, notes = spectrum.solve(0.0), spectrum.note()
  return _answer(masks, units, weights, std, "least squares", notes)


def ridge(
  masks: base.Masks,
  values: base.Values,
  *,
  penalties: Sequence[float] = PENALTIES,
) -> attribution.Attribution:
  """Ridge whose penalty is chosen, per target, by leave-one-out errors.

  Minimises `1/B |y - b - M w|^2 + penalty / 4 |w|^2`: the penalty weighs
  Fourier coefficients, as in `fourier.regress`. One eigendecomposition serves
  all penalties and targets; the errors are exact (`(y - guess) / (1 -
  leverage)`, Allen 1974), nothing is fitted twice.

  Args:
    masks: bool `[B, n]`, B at least 3.
    values: `[B]` or `[B, T]`.
    penalties: the grid, all above 0.

  Raises:
    ValueError: no penalty, one that is not positive, or fewer than 3 masks.
  """
  grid = sorted(penalties, reverse=True)
  if not grid or not 0 < grid[-1] <= grid[0] < np.inf:
    raise ValueError(f"penalties must be finite and positive; got {penalties}.")
  masks, values = attribution.samples(masks, values)
  if len(masks) < 3:
    raise ValueError(f"Leaving one out needs 3 masks; got {len(masks)}.")
  unit, *units = regress.standardise(values)
  spectrum = _Spectrum(masks, unit)
  errors = np.stack([spectrum.left_out(penalty) for penalty in grid])
  chosen = errors.argmin(axis=0)
  weights = np.empty((spectrum.n, values.shape[1]))
  for number in np.unique(chosen):
    columns = chosen == number
    weights[:, columns] = spectrum.solve(grid[number])[:, columns]
  used = ", ".join(f"{grid[number]:.3g}" for number in np.unique(chosen))
  notes = (f"penalties {used}", *spectrum.note())
  return _answer(masks, units, weights, None, "ridge", notes)


def lasso(
  masks: base.Masks,
  values: base.Values,
  *,
  relaxed: bool = False,
  max_columns: int | None = None,
) -> attribution.Attribution:
  """Datamodels: a lasso path per target, the penalty by cross-validation.

  Args:
    masks: bool `[B, n]`, B at least 3.
    values: `[B]` or `[B, T]`.
    relaxed: whether least squares on each lasso's support compete, too
      (Meinshausen 2007); the paper's are shrunk.
    max_columns: most examples in one target's regression, the most correlated
      ones (screening); None for all. Gram matrices take 48 bytes for each
      pair of columns.

  Raises:
    ValueError: what `fourier.lasso.fit_targets` refuses.
  """
  masks, values = attribution.samples(masks, values)
  n = masks.shape[1]
  functions = fourier_lasso.fit_targets(
    masks,
    values,
    1,
    max_columns=max_columns or n + 1,
    penalty="lasso" if relaxed else "shrunk",
  )
  scores = np.zeros((len(functions), n))
  baseline = np.zeros(len(functions))
  for t, function in enumerate(functions):
    players = np.asarray(function.players)
    coefs = np.asarray(function.coefs)
    single = (players < n).any(axis=1)
    # F (-1)^m = F - 2 F m: a kept player moves f by -2 F.
    scores[t, players[single].min(axis=1, initial=n)] = -2 * coefs[single]
    baseline[t] = coefs.sum()
  return attribution.Attribution(scores, baseline, "lasso")


def _wide(masks, values):
  """By the Gram matrix of the masks, the smaller one here; None if singular."""
  from scipy import linalg

  num_masks = len(masks)
  x, y = masks - masks.mean(axis=0), values - values.mean(axis=0)
  with regress.blas_threads(num_masks):
    gram = x @ x.T
    # Centred rows sum to 0, and so do y: this fills that direction alone.
    gram += gram.max() / num_masks
    factor = moments.factor(gram.T)
    if factor is None:
      return None
    return x.T @ np.asarray(linalg.cho_solve(factor, y))


def _answer(masks, units, weights, std, method, notes=()):
  """By weights and errors `[n, T]` of standardised values; `units` undo it."""
  mean, scale = units
  weights = weights * scale
  baseline = mean - masks.mean(axis=0) @ weights
  std = None if std is None else (std * scale).T
  return attribution.Attribution(weights.T, baseline, method, std, notes)


class _Spectrum:
  """Centred masks `x` = left roots right', and centred values `y`."""

  def __init__(self, masks: np.ndarray, values: np.ndarray):
    self.n = masks.shape[1]
    self.x = masks - masks.mean(axis=0)
    self.y = values - values.mean(axis=0)
    wide = self.n > len(masks)
    with regress.blas_threads(min(self.x.shape)):
      gram = self.x @ self.x.T if wide else self.x.T @ self.x
      squares, vectors = np.linalg.eigh(gram)
      kept = squares > _ROUNDING * squares.max(initial=0.0)
      self.roots = np.sqrt(squares[kept])
      self.rank = len(self.roots)
      known = vectors[:, kept]
      other = (self.x.T if wide else self.x) @ known / self.roots
    self.left, self.right = (known, other) if wide else (other, known)

  def _shares(self, penalty: float) -> np.ndarray:
    """`[r]`: how much of each direction the ridge keeps."""
    loading = penalty / 4 * len(self.y)
    return self.roots**2 / (self.roots**2 + loading)

  def solve(self, penalty: float) -> np.ndarray:
    """Weights `[n, T]`."""
    along = (self.left.T @ self.y) / self.roots[:, None]
    return self.right @ (self._shares(penalty)[:, None] * along)

  def left_out(self, penalty: float) -> np.ndarray:
    """`[T]` mean squared errors of each mask's prediction by the others."""
    shares = self._shares(penalty)
    guess = self.left @ (shares[:, None] * (self.left.T @ self.y))
    leverage = 1 / len(self.y) + (self.left**2 * shares).sum(axis=1)
    room = np.maximum(1 - leverage, 1e-12)  # 0: a mask that rules alone.
    return (((self.y - guess) / room[:, None]) ** 2).mean(axis=0)

  def note(self) -> tuple[str, ...]:
    if self.rank == min(self.n, len(self.y) - 1):
      return ()
    return (
      f"the masks tell {self.rank} directions of {self.n} apart; the rest is "
      "of least norm",
    )
