"""The best mask under an expansion, of any size or a given one.

A mixed-integer programme for HiGHS (`scipy.optimize.milp`). A set S of few
players gets a variable y_T for each subset T (the product of its masks) and
the 2^|S| constraints that hold exactly for mixtures of masks of S,

  sum_{A subset B subset S} (-1)^|B - A| y_B >= 0     for every A,

so that the relaxation is exact on every set by itself. A set of many players
gets its parity instead: `sum m_i = p + 2 q` with integers p and q.

Measured on planted terms (2 CPU cores, 15 s; "-" is not proved):
                                          these  y_T <= m_i  parity
  n = 64, 200 terms, order <= 4, free     12 s       -          -
  the same, exactly 10 kept               4.3 s      -        6.6 s
  n = 256, 500 terms, order <= 4, 20      0.6 s      -        0.4 s
  n = 1,000, 1,000 terms, order <= 3, 50  0.1 s     1.5 s     0.2 s

Shapes: n players, P that occur, K sets, V variables.
"""

from typing import Any, NamedTuple

import numpy as np

from spex_jax import base
from spex_jax.fourier import sparse
from spex_jax.indices import mobius

_MAX_ENTRIES = 1_000_000  # Of the constraint matrix: a set of d has 3^d.
_MAX_EXACT = 8  # Players in a set that is modelled by all of its subsets.


class Optimum(NamedTuple):
  """The best mask found.

  Attributes:
    mask: bool `[n]`, True = kept.
    value: the expansion at `mask`, evaluated anew, in the units of f.
    status: "optimal" (proved), or "time_limit" (the best found until then).
    bound: no mask allowed does better than this, in the units of f.
    gap: `|bound - value|`, in the units of f; at most 1e-6 of the size of the
      coefficients when "optimal".
  """

  mask: np.ndarray
  value: float
  status: str
  bound: float
  gap: float


def best_mask(
  fourier: sparse.SparseFourier,
  *,
  maximise: bool = True,
  exactly: int | None = None,
  at_most: int | None = None,
  time_limit: float = 60.0,
  tabulate: int = 16,
) -> Optimum:
  """Finds the mask where an expansion is largest, or smallest.

  Args:
    fourier: an expansion of one target on n players.
    maximise: whether the value is maximised; False to minimise it.
    exactly: the number of players kept, never fewer; or
    at_most: the largest number kept. Neither: any mask.
    time_limit: seconds for the solver; what it has by then is returned.
    tabulate: up to so many players that occur, all masks are compared instead
      (at most 24); 0 for never.

  Raises:
    TypeError: a size that is no integer.
    ValueError: both sizes given, a size outside 0..n, a time limit that is not
      positive, a negative `tabulate`, or several targets.
  """
  n = fourier.n
  if exactly is not None and at_most is not None:
    raise ValueError("Give exactly or at_most, not both.")
  size = exactly if exactly is not None else at_most
  if size is not None:
    size = base.check_integer(size, "The number kept")
    if not 0 <= size <= n:
      raise ValueError(f"The number kept must lie in 0..{n}; got {size}.")
  if not time_limit > 0:
    raise ValueError(f"time_limit must be positive; got {time_limit}.")
  if tabulate < 0:
    raise ValueError(f"tabulate must be at least 0; got {tabulate}.")
  players, coefs = mobius.terms_of(fourier)
  coefs = coefs if maximise else -coefs
  is_empty = (players == n).all(axis=1)
  constant = coefs[is_empty].sum()
  # A zero says nothing; its players are idle unless another set has them.
  varies = ~is_empty & (coefs != 0)
  players, coefs = players[varies], coefs[varies]
  active = np.unique(players[players < n])
  num_idle = n - len(active)
  most = n if size is None else size
  least = 0 if exactly is None or size is None else size
  # Players that do not occur make up the number: only these bounds remain.
  limits = (max(least - num_idle, 0), min(most, len(active)))

  num = len(active)
  ranked = np.where(players < n, np.searchsorted(active, players), num)
  if num <= min(tabulate, 24):
    kept, bound, proved = _by_table(num, ranked, coefs, limits)
  else:
    # Coefficients of size 1, so that the solver's tolerances mean the same.
    unit = np.abs(coefs).max()
    kept, bound, proved = _by_programme(
      num, ranked, coefs / unit, limits, time_limit
    )
    bound *= unit
  mask = np.zeros(n, bool)
  mask[active[kept]] = True
  idle = np.setdiff1d(np.arange(n), active)
  mask[idle[: max(least - int(mask.sum()), 0)]] = True

  value = float(fourier(mask[None])[0])
  bound = float(bound + constant) * (1 if maximise else -1)
  bound = max(bound, value) if maximise else min(bound, value)
  status = "optimal" if proved else "time_limit"
  return Optimum(mask, value, status, bound, abs(bound - value))


def _by_table(
  num: int, players: np.ndarray, coefs: np.ndarray, limits: tuple[int, int]
) -> tuple[np.ndarray, float, bool]:
  """Compares all 2^P masks: kept bool `[P]`, its value, True."""
  bits = np.append(1 << np.arange(num), 0)
  codes = bits[players].sum(axis=1, dtype=np.int64)
  values = np.bincount(codes, coefs, 1 << num).astype(np.float64)
  for bit in range(num):
    halves = values.reshape(-1, 2, 1 << bit)
    halves[:] = np.stack(
      [halves[:, 0] + halves[:, 1], halves[:, 0] - halves[:, 1]], axis=1
    )
  sizes = np.bitwise_count(np.arange(1 << num)).astype(np.int64)
  allowed = (sizes >= limits[0]) & (sizes <= limits[1])
  best = int(np.argmax(np.where(allowed, values, -np.inf)))
  kept = (best >> np.arange(num) & 1).astype(bool)
  return kept, float(values[best]), True


def _by_programme(
  num: int,
  players: np.ndarray,
  coefs: np.ndarray,
  limits: tuple[int, int],
  time_limit: float,
) -> tuple[np.ndarray, float, bool]:
  """Solves the programme: kept bool `[P]`, an upper bound, whether proved."""
  import scipy.optimize  # Slow to import.

  objective, constraints, bounds, integrality, where = _programme(
    num, players, coefs, limits
  )
  result = scipy.optimize.milp(
    -objective,
    integrality=integrality,
    bounds=bounds,
    constraints=constraints,
    options={"time_limit": time_limit, "mip_rel_gap": 0.0},
  )
  if result.status not in (0, 1):
    raise RuntimeError(f"HiGHS stopped unexpectedly: {result.message}")
  bound = np.abs(coefs).sum()
  if result.mip_dual_bound is not None:
    bound = min(bound, -result.mip_dual_bound)
  kept = _climb(num, players, coefs, limits)
  if result.x is not None:
    found = result.x[where] > 0.5
    if _signed(players, coefs, found).sum() >= (
      _signed(players, coefs, kept).sum()
    ):
      kept = found
  return kept, float(bound), result.status == 0


def _signed(
  players: np.ndarray, coefs: np.ndarray, kept: np.ndarray
) -> np.ndarray:
  """`[K]` terms at one mask."""
  odd = np.append(kept, False)[players].sum(axis=1) % 2
  return coefs * (1 - 2 * odd)


def _climb(
  num: int, players: np.ndarray, coefs: np.ndarray, limits: tuple[int, int]
) -> np.ndarray:
  """A local optimum under flips and swaps, for when time is short."""
  terms, columns = np.nonzero(players < num)
  owners = players[terms, columns]
  gain = -np.bincount(owners, coefs[terms], num)
  count = int(np.clip((gain > 0).sum(), *limits))
  kept = np.zeros(num, bool)
  kept[np.argsort(-gain, kind="stable")[:count]] = True
  value = _signed(players, coefs, kept).sum()
  while True:
    signed = _signed(players, coefs, kept)
    gain = -2 * np.bincount(owners, signed[terms], num)
    on = np.where(kept, -np.inf, gain)
    off = np.where(kept, gain, -np.inf)
    size = int(kept.sum())
    moves = [[int(on.argmax()), int(off.argmax())]] if 0 < size < num else []
    if size < limits[1]:
      moves.append([int(on.argmax())])
    if size > limits[0]:
      moves.append([int(off.argmax())])
    trials = []
    for move in moves:
      trial = kept.copy()
      trial[move] ^= True
      trials.append((_signed(players, coefs, trial).sum(), trial))
    best = max(trials, key=lambda pair: pair[0], default=(value, kept))
    if best[0] <= value + 1e-12:
      return kept
    value, kept = best


def _programme(
  num: int, players: np.ndarray, coefs: np.ndarray, limits: tuple[int, int]
) -> tuple[np.ndarray, list[Any], Any, np.ndarray, np.ndarray]:
  """Objective, constraints, bounds, integrality; and where the masks are.

  Args:
    num: P, the number of players.
    players: int `[K, D]` the players of each set, 0..P-1, padded with P.
    coefs: `[K]` coefficients of the expansion to be maximised.
    limits: the least and the largest number of players kept.
  """
  import scipy.optimize  # Slow to import.
  import scipy.sparse

  sizes = (players < num).sum(axis=1)
  threshold = _largest_exact(sizes)
  # Every player has its own set, so that it has a variable.
  singles = np.arange(num)[:, None]
  groups = [(1, singles, np.zeros(num))]
  for d in range(1, threshold + 1):
    groups.append((d, players[sizes == d, :d], coefs[sizes == d]))

  width = max(threshold, 1)
  subsets = [_subsets(rows, d, num, width) for d, rows, _ in groups]
  flat = np.concatenate([s.reshape(-1, width) for s in subsets])
  _, ids = np.unique(mobius.rank_rows(flat, num + 1), return_inverse=True)
  num_y = int(ids.max()) + 1
  ends = np.cumsum([s.shape[0] * s.shape[1] for s in subsets])[:-1]
  tables = [
    part.reshape(s.shape[:2])
    for part, s in zip(np.split(ids.ravel(), ends), subsets)
  ]  # Per group int [k, 2^d]: the variable of each subset.
  empty, where = tables[0][0, 0], tables[0][:, 1]

  large = sizes > threshold
  num_large = int(large.sum())
  num_v = num_y + 2 * num_large  # y, then p, then q.
  objective = np.zeros(num_v)
  for (d, _, c), table in zip(groups, tables):
    powers = (-2.0) ** np.bitwise_count(np.arange(1 << d)).astype(np.float64)
    np.add.at(objective, table, c[:, None] * powers[None])
  # chi = 1 - 2p.
  objective[num_y : num_y + num_large] = -2 * coefs[large]
  objective[empty] += coefs[large].sum()

  inner = np.unique(np.concatenate([t[:, :-1].ravel() for t in tables]))
  constraints = []
  for (d, _, _), table in zip(groups, tables):
    # Subsets of another set, and repeats of `singles`, add nothing.
    last = table[:, -1]
    rows = table[~np.isin(last, inner)] if d > 1 else table[:0]
    if len(rows):
      signs = _signs(d)
      above, below = np.nonzero(signs)
      matrix = scipy.sparse.coo_array(
        (
          np.tile(signs[above, below], len(rows)),
          (
            (np.arange(len(rows))[:, None] * (1 << d) + above[None]).ravel(),
            rows[:, below].ravel(),
          ),
        ),
        shape=(len(rows) << d, num_v),
      )
      constraints.append(
        scipy.optimize.LinearConstraint(matrix.tocsr(), 0, np.inf)
      )
  if num_large:
    member = players[large]
    row, col = np.nonzero(member < num)
    each = np.arange(num_large)
    matrix = scipy.sparse.coo_array(
      (
        np.concatenate(
          [np.ones(len(row)), -np.ones(num_large), -2 * np.ones(num_large)]
        ),
        (
          np.concatenate([row, each, each]),
          np.concatenate(
            [
              where[member[row, col]],
              num_y + each,
              num_y + num_large + each,
            ]
          ),
        ),
      ),
      shape=(num_large, num_v),
    )
    constraints.append(scipy.optimize.LinearConstraint(matrix.tocsr(), 0, 0))
  matrix = scipy.sparse.coo_array(
    (np.ones(num), (np.zeros(num, np.int64), where)), shape=(1, num_v)
  )
  constraints.append(scipy.optimize.LinearConstraint(matrix.tocsr(), *limits))

  lower, upper = np.zeros(num_v), np.ones(num_v)
  lower[empty] = 1
  upper[num_y + num_large :] = sizes[large] // 2
  integrality = np.zeros(num_v)
  integrality[where] = 1
  integrality[num_y:] = 1
  bounds = scipy.optimize.Bounds(lower, upper)
  return objective, constraints, bounds, integrality, where


def _largest_exact(sizes: np.ndarray) -> int:
  """The set size up to which all subsets are modelled."""
  count = np.bincount(sizes, minlength=2)[: _MAX_EXACT + 1]
  entries = np.cumsum(count * 3.0 ** np.arange(len(count)))
  return max(int((entries <= _MAX_ENTRIES).sum()) - 1, 1)


def _subsets(rows: np.ndarray, d: int, num: int, width: int) -> np.ndarray:
  """int `[k, 2^d, width]`: all subsets by bit pattern, padded with `num`."""
  chosen = (np.arange(1 << d)[:, None] >> np.arange(d)[None] & 1).astype(bool)
  out = np.full((len(rows), 1 << d, width), num)
  out[:, :, :d] = np.where(chosen[None], rows[:, None, :], num)
  return np.sort(out, axis=2)


def _signs(d: int) -> np.ndarray:
  """int `[2^d, 2^d]`: `(-1)^|B - A|` where A is a subset of B, else 0."""
  codes = np.arange(1 << d)
  a, b = codes[:, None], codes[None]
  odd = np.bitwise_count(a ^ b).astype(np.int64) % 2
  return np.where(a & b == a, 1 - 2 * odd, 0)
