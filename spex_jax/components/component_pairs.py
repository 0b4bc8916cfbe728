"""A component model with pairs, in the basis that fits masks which keep most.

Kept with probability p, the bits of a mask are no fair coins, and characters of
uniform masks are no longer orthogonal. The p-biased basis is:

  chi_i(m) = (m_i - p_i) / sqrt(p_i (1 - p_i))        mean 0, variance 1
  f(m) = mean + sum_i a_i chi_i(m) + sum_{i<j} b_ij chi_i(m) chi_j(m)

(O'Donnell, Analysis of Boolean Functions, section 8.4). `fit` scans all pairs
of the strongest components for what a first-order fit leaves, keeps those that
carry the most over all targets, and fits them by ridge with a penalty of their
own, chosen for each target by held-out masks; no pairs at all is a candidate,
so that a target without any is answered by its first order.

It holds near the masks it was fitted to: far from p a product of two biased
bits grows fast, and the first order may predict better. Draw masks where the
answer is to hold (see `experiments/README.md`).

`fit` holds all columns, in some 30 B (n + P) bytes: for thousands of components
make players of a part of them (`ablate.components.chosen`).

`PairModel.fourier` is the same function in characters, for `indices` and
`report`.

Shapes: n components, B masks, T targets, P pairs.
"""

import dataclasses

import numpy as np

from spex_jax import base
from spex_jax.fourier import normal, regress, sparse
from spex_jax.indices import attribution

_SINGLES = (1e-6, 1e-3, 1e-2, 1e-1)  # Loadings: shares of a column's variance.
_PAIRS = (1e-3, 1e-2, 1e-1, 1.0, 10.0)
_STRONGEST = 64  # Components whose pairs are scanned, by their energy.
_CELLS = 1 << 24  # Of products held at once: 64 MB.


@dataclasses.dataclass(frozen=True, eq=False)
class PairModel:
  """A function of masks of order 2; see the module's header.

  Attributes:
    keep: float64 `[n]`, the probability p that each component was kept.
    mean: float64 `[T]`, the mean value under masks drawn so.
    singles: float64 `[T, n]`, a.
    pairs: int `[P, 2]`, i < j.
    weights: float64 `[T, P]`, b; 0 where pairs did not help a target.
    notes: sentences on what was decided, for a reader.
  """

  keep: np.ndarray
  mean: np.ndarray
  singles: np.ndarray
  pairs: np.ndarray
  weights: np.ndarray
  notes: tuple[str, ...] = ()

  @property
  def n(self) -> int:
    return self.singles.shape[1]

  def __call__(self, masks: base.Masks) -> np.ndarray:
    """Predictions float64 `[B, T]` at `masks` bool `[B, n]`."""
    masks = base.check_masks(masks, self.n)
    parts = [np.zeros((0, len(self.mean)))]
    size = max(1, _CELLS // max(1, len(self.pairs), self.n))
    for start in range(0, len(masks), size):
      chi = _chi(masks[start : start + size], self.keep)
      products = _products(chi, self.pairs)
      guess = chi @ self.singles.T + products @ self.weights.T
      parts.append(self.mean + guess)
    return np.concatenate(parts)

  def strongest(
    self, target: int, count: int
  ) -> list[tuple[tuple[int, int], float]]:
    """Pairs of largest weight for a target, with the interaction's effect.

    The effect is f(both) - f(first) - f(second) + f(neither), in the units of
    f: the weight over the two deviations.

    Raises:
      IndexError: no such target.
    """
    if not 0 <= target < len(self.mean):
      raise IndexError(f"No target {target}; there are {len(self.mean)}.")
    weights = self.weights[target]
    order = np.argsort(-np.abs(weights), kind="stable")[:count]
    scale = _deviation(self.keep)[self.pairs].prod(axis=1)
    return [
      ((int(self.pairs[k, 0]), int(self.pairs[k, 1])),
       float(weights[k] / scale[k]))
      for k in order
      if weights[k]
    ]  # fmt: skip

  def fourier(self, target: int | None = None) -> sparse.SparseFourier:
    """The same function in characters of uniform masks.

    Args:
      target: the index of a target; None for all, stacked.
    """
    if target is None:
      every = [self.fourier(t) for t in range(len(self.mean))]
      return sparse.SparseFourier.stack(every)
    # chi_i = u_i - v_i s_i of the character s_i = 1 - 2 m_i.
    v = 0.5 / _deviation(self.keep)
    u = (0.5 - self.keep) / _deviation(self.keep)
    a, b = self.singles[target], self.weights[target]
    i, j = self.pairs.T
    constant = self.mean[target] + a @ u + b @ (u[i] * u[j])
    singles = -a * v
    np.add.at(singles, i, -b * v[i] * u[j])
    np.add.at(singles, j, -b * u[i] * v[j])
    kept = np.flatnonzero(b)
    n = self.n
    players = np.full((1 + n + len(kept), 2), n)
    players[1 : 1 + n, 0] = np.arange(n)
    players[1 + n :] = self.pairs[kept]
    coefs = np.concatenate([[constant], singles, (b * v[i] * v[j])[kept]])
    return sparse.SparseFourier.from_players(n, players, coefs)


def fit(
  masks: base.Masks,
  values: base.Values,
  *,
  keep: float | base.Array | None = None,
  most_pairs: int = 1000,
) -> PairModel:
  """Fits singles and pairs to masks and values, all targets at once.

  Args:
    masks: bool `[B, n]`, B at least 10, each bit drawn apart.
    values: `[B]` or `[B, T]`.
    keep: p, or n of them; None for the share of masks that keep each.
    most_pairs: the most pairs to choose, and at most B / 2.

  Raises:
    ValueError: fewer than 10 masks, `keep` outside (0, 1), or what
      `attribution.samples` refuses.
  """
  masks, values = attribution.samples(masks, values)
  values, *units = regress.standardise(values)
  # Targets count by their energy, of which constant ones have none.
  shares = np.where(values.any(axis=0), units[1], 0.0)
  shares = shares / (shares.max() or 1.0)
  num_masks, n = masks.shape
  if num_masks < 2 * normal.EVERY:
    raise ValueError(
      f"Pairs need at least {2 * normal.EVERY} masks; got {num_masks}."
    )
  share = masks.mean(axis=0)
  varies = (share > 0) & (share < 1)
  keep = share if keep is None else np.broadcast_to(keep, (n,))
  keep = np.where(varies, np.asarray(keep, np.float64), 0.5)
  if not ((keep > 0) & (keep < 1)).all():
    raise ValueError("keep must lie between 0 and 1.")
  held = normal.held_out(num_masks)
  chi = np.where(varies, _chi(masks, keep), 0.0)
  # First order, to see what it leaves.
  first = normal.Normal(n, values.shape[1]).add(chi[~held], values[~held])
  test = chi[held], values[held]
  best, single_error = normal.choose(first, test, _SINGLES, varies)
  alone = first.solve_each(_SINGLES, best, varies)
  left = values[~held] - first.intercept(alone) - chi[~held] @ alone
  # Pairs of the strongest components that explain the rest.
  room = min(most_pairs, num_masks // 2)
  found = _scan(chi[~held], left, alone * shares, varies, room)
  if not len(found):
    first.add(*test)
    return _scaled(
      _model(first, best, _SINGLES, varies, keep, found, ()), units
    )
  # Both orders together.
  columns = np.concatenate([chi, _products(chi, found)], axis=1)
  live = np.concatenate([varies, np.ones(len(found), bool)])
  both = normal.Normal(columns.shape[1], values.shape[1])
  both.add(columns[~held], values[~held])
  grid = [_loading(n, len(found), s, p) for s in _SINGLES for p in _PAIRS]
  test_both = columns[held], values[held]
  chosen, pair_error = normal.choose(both, test_both, grid, live)
  # Each target takes what predicts held-out masks better, fitted to all.
  helps = pair_error < single_error
  both.add(*test_both)
  first.add(*test)
  model = _model(both, chosen, grid, live, keep, found, ())
  plain = _model(first, best, _SINGLES, varies, keep, found[:0], ())
  pick = lambda with_pairs, without: np.where(
    helps.reshape(-1, *[1] * (with_pairs.ndim - 1)), with_pairs, without
  )
  of_pairs, of_singles = (
    ((shares * error) ** 2).sum() for error in (pair_error, single_error)
  )
  gain = (of_singles - of_pairs) / (of_singles or 1.0)
  model = PairModel(
    keep,
    pick(model.mean, plain.mean),
    pick(model.singles, plain.singles),
    found,
    pick(model.weights, np.zeros_like(model.weights)),
    (
      f"{len(found)} pairs of the {min(_STRONGEST, int(varies.sum()))} "
      f"strongest components help {helps.sum()} of {len(helps)} targets; their "
      f"error on {held.sum()} held-out masks is {100 * gain:.1f} % below the "
      "first order's",
    ),
  )
  return _scaled(model, units)


def _scan(chi, left, alone, varies, room) -> np.ndarray:
  """The pairs of the strongest whose products carry most of what is left."""
  energy = np.where(varies, (alone**2).sum(axis=1), -1.0)
  count = min(_STRONGEST, int(varies.sum()))
  near = np.sort(np.argsort(-energy, kind="stable")[:count])
  i, j = np.triu_indices(count, 1)
  pairs = np.stack([near[i], near[j]], axis=1)
  spread = np.sqrt((left**2).mean(axis=0))
  unit = (left / np.where(spread > 0, spread, 1.0)).astype(np.float32)
  chi = chi.astype(np.float32)
  score = np.zeros(len(pairs))
  size = max(1, _CELLS // len(chi))
  for start in range(0, len(pairs), size):
    part = slice(start, start + size)
    products = _products(chi, pairs[part])
    score[part] = ((products.T @ unit) ** 2).sum(axis=1)
  best = np.argsort(-score, kind="stable")[:room]
  return pairs[np.sort(best)]


def _model(sums, chosen, loadings, among, keep, pairs, notes) -> PairModel:
  weights = sums.solve_each(loadings, chosen, among)
  n = len(keep)
  return PairModel(
    keep,
    sums.intercept(weights),
    weights[:n].T,
    pairs,
    weights[n:].T,
    notes,
  )


def _scaled(model, units) -> PairModel:
  """In the values' units, of a model of standardised ones."""
  mean, scale = units
  return dataclasses.replace(
    model,
    mean=mean + scale * model.mean,
    singles=scale[:, None] * model.singles,
    weights=scale[:, None] * model.weights,
  )


def _loading(n, num_pairs, single, pair):
  return np.concatenate([np.full(n, single), np.full(num_pairs, pair)])


def _deviation(keep):
  return np.sqrt(keep * (1 - keep))


def _chi(masks, keep):
  return (masks - keep) / _deviation(keep)


def _products(chi, pairs):
  """`[B, P]`."""
  return chi[:, pairs[:, 0]] * chi[:, pairs[:, 1]]
