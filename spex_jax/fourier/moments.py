"""Penalised least squares from second moments: one engine for fits on them.

Ridge, lasso and plain fits of subsets of columns need of the rows only

  gram     mean x x'      product   mean x y      energy   mean y^2

of columns and values, float64, on the host, centred where there is an
intercept. `regress` makes them by folds, `proxies.sparsify` of the sets of a
proxy, `of` of weighted rows (LIME, KernelSHAP, ContextCite's lasso); `normal`
streams the sums of many rows and is factored here, too. `loaded` is the ridge
of one matrix for any right sides, in its rows or its columns. `index=`, which
needs leverages, and a cue set's interval, which needs one variance, solve by
calls of NumPy of their own. A weight of a column (an adaptive lasso, a prior
variance) is a scale: see `scaled`.

Shapes: K columns, T targets, P penalties.
"""

import warnings
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

from spex_jax import base

_ROUNDING = 1e-10  # Pivots below this share of the largest column are none.


class Moments(NamedTuple):
  """Second moments; see the module's header.

  Attributes:
    gram: float64 `[K, K]`.
    product: `[K]`, or `[K, T]`.
    energy: the mean square of the centred values, `[]` or `[T]`.
    rank: the most columns that may be independent at so many rows.
  """

  gram: np.ndarray
  product: np.ndarray
  energy: Any
  rank: int

  @classmethod
  def of(cls, x: np.ndarray, y: np.ndarray, weights: base.Array) -> "Moments":
    """Those of rows, each as often as its weight says; sums, not means.

    Args:
      x: float `[B, K]`, centred where there is an intercept.
      y: `[B]` or `[B, T]`, likewise.
      weights: `[B]`, not negative.
    """
    root = np.sqrt(np.asarray(weights, np.float64))
    x, y = x * root[:, None], (y.T * root).T
    return cls(x.T @ x, x.T @ y, (y**2).sum(axis=0), len(x))

  def target(self, t: int) -> "Moments":
    """Those of one target of T."""
    return self._replace(product=self.product[:, t], energy=self.energy[t])

  def scaled(self, scale: np.ndarray) -> "Moments":
    """Of columns times `scale` `[K]`: solutions are to be multiplied by it."""
    gram = self.gram * scale[:, None] * scale
    return self._replace(gram=gram, product=(self.product.T * scale).T)

  def leading(self, count: int) -> "Moments":
    """Of the first columns alone."""
    return self._replace(
      gram=self.gram[:count, :count], product=self.product[:count]
    )

  def ridge(self, loading: float = 0.0) -> np.ndarray:
    """`(gram + loading) w = product`, or least squares: NaN if not unique."""
    if not loading and len(self.gram) > self.rank:
      return np.full(self.product.shape, np.nan)
    return _solve(self.gram, self.product, loading)

  def least_norm(self, rounding: float) -> tuple[np.ndarray, int]:
    """The smallest of all least squares solutions, and the rank of `gram`.

    Args:
      rounding: singular values below this share of the largest are 0.
    """
    found, _, rank, _ = np.linalg.lstsq(self.gram, self.product, rcond=rounding)
    return found, int(rank)

  def least_squares(self, active: np.ndarray) -> np.ndarray:
    """On the columns that are `active` alone; all NaN if not unique."""
    out = np.zeros(self.product.shape)
    if active.sum() > self.rank:
      out[:] = np.nan
    elif active.any():
      part = self.gram[np.ix_(active, active)]
      out[active] = _solve(part, self.product[active], 0.0)
      out[:] = np.where(np.isnan(out).any(), np.nan, out)
    return out

  def lasso(
    self,
    grid: Sequence[float],
    most: float,
    tolerance: float = 1e-6,
    sweeps: int = 1000,
  ) -> np.ndarray:
    """Coordinate descent for one target, warm along its penalties: `[P, K]`.

    Args:
      grid: P penalties, falling.
      most: once a fit has more columns, smaller penalties only fit noise, ever
        more slowly: they are left NaN.
      tolerance: the duality gap at which a fit ends, as a share of the energy.
      sweeps: over all columns, after which it ends as it is.
    """
    from sklearn import exceptions, linear_model

    out = np.zeros((len(grid), len(self.gram)))
    if len(self.gram) == 0 or self.energy <= 0:
      return out
    gram, product = map(np.ascontiguousarray, (self.gram, self.product))
    # With the Gram given, `X` and `y` serve only for their number of rows (1:
    # the sums are means already) and for |y|^2 in the stopping rule.
    rows = np.zeros((1, len(gram)), order="F")
    target = np.sqrt([self.energy])
    coefs = out[0]
    with warnings.catch_warnings():
      # A fit that has not converged is judged by its error, like any other.
      warnings.simplefilter("ignore", exceptions.ConvergenceWarning)
      for i, alpha in enumerate(grid):
        if np.count_nonzero(coefs) > most:
          out[i:] = np.nan
          break
        path = linear_model.lasso_path(
          rows,
          target,
          alphas=[max(alpha, 1e-12)],
          coef_init=coefs.copy(),
          precompute=gram,
          Xy=product,
          check_input=False,
          tol=tolerance,
          max_iter=sweeps,
          random_state=0,  # Without, NumPy's global generator moves.
        )[1]
        coefs = out[i] = path[:, 0]
    return out


def loaded(x: np.ndarray, loading: float) -> Callable[[np.ndarray], np.ndarray]:
  """`(x'x / B + loading)^-1` of right sides `[K]` or `[K, T]`.

  In the columns or in the rows, whichever are fewer.

  Args:
    x: float64 `[B, K]`.
    loading: above 0.
  """
  rows, columns = x.shape
  if columns <= rows:
    gram = x.T @ x / rows
    return lambda right: _solve(gram, right, loading)
  gram = x @ x.T / rows
  inner = lambda right: _solve(gram, x @ right / rows, loading)
  return lambda right: (right - x.T @ inner(right)) / loading


def factor(gram: np.ndarray, loading: base.Array | float = 0.0) -> Any:
  """The Cholesky factor of `gram` plus a loading, in the place of `gram`.

  As `scipy.linalg.cho_solve` takes it; None where columns depend on each other.
  Its lower triangle is written in place where `gram` has LAPACK's order.

  Args:
    gram: float64 `[K, K]`, symmetric, which is overwritten.
    loading: what is added to the diagonal, `[]` or `[K]`.
  """
  from scipy import linalg

  largest = gram.max(initial=0.0)
  gram[np.diag_indices(len(gram))] += loading
  try:
    found: Any = linalg.cho_factor(
      gram, lower=True, overwrite_a=True, check_finite=False
    )
  except linalg.LinAlgError:
    return None
  low = np.diag(found[0]).min(initial=np.inf) ** 2 <= _ROUNDING * largest
  return None if low else found


def _solve(gram, product, loading):
  """Refined once; NaN where it is not unique."""
  from scipy import linalg

  if not len(gram):
    return np.zeros(product.shape)
  found = factor(gram.copy(), loading)
  if found is None:
    return np.full(product.shape, np.nan)
  solution = np.asarray(linalg.cho_solve(found, product))
  left = product - gram @ solution - loading * solution
  return solution + np.asarray(linalg.cho_solve(found, left))
