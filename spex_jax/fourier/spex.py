"""SPEX: a plan of masks, and their values to a sparse Fourier expansion.

  plan = make_plan(key, n, budget)
  result = decode(plan, value_fn(plan.masks()))

Source: SPEX (arXiv 2502.13870); see `peeling` for what deviates in decoding.

Shapes: n players, C groups, P delays, b bits, N = C P 2^b masks, T targets.
"""

import dataclasses
import functools
from typing import Any

import chex
import flax.struct
import jax
import jax.numpy as jnp
import numpy as np

from spex_jax import base
from spex_jax.fourier import folding, gram, peeling, regress, sparse, transform
from spex_jax.masks import bch, hadamard, packing, sampling

# What each decoding can read, and which of these, from and to, in each stage;
# later ones only where energy is left.
_READINGS = {
  "hard": (("hard",), [(0, 1)]),
  "soft": (("hard", "soft"), [(0, 2)]),
  "joint": (("hard", "soft", "joint"), [(0, 2), (2, 3)]),
}
_TARGETS = 16  # Targets decoded by one call.
_CYCLES = 3  # Joint readings, each followed by the first ones again.
_SCAN_FLOPS = 3e11  # Of one Gram scan; bounds the order scanned.
_SCAN_BYTES = 1 << 28  # Most that a scan may hold as signs.
_REPEATING = 40  # Players; of more no plan has a mask twice but by chance.
_ROWS = 4096  # Samples turned into characters at once.
_GROUPS = 3  # Of the smallest plan.
_MAX_BITS = 24  # 2^24 masks a delay: beyond any budget met so far.


@flax.struct.dataclass
class QueryPlan:
  """Which masks SPEX asks for; masks are built by range, never all at once.

  Attributes:
    affine: the masks, in order (group, delay, point).
    code: the BCH code behind the delays; static.
  """

  affine: hadamard.AffineMasks
  code: bch.Code = flax.struct.field(pytree_node=False)

  @property
  def n(self) -> int:
    return self.affine.n

  @property
  def num_bits(self) -> int:
    """b: every group has 2^b bins."""
    return self.affine.num_bits

  @property
  def num_masks(self) -> int:
    """N, repeats included; a plan with offsets has next to none."""
    return self.affine.num_masks

  def masks(self, start: int = 0, stop: int | None = None) -> np.ndarray:
    """Masks start..stop of the plan, bool `[stop - start, n]`."""
    return self.affine.masks(start, stop)

  def packed(self, start: int = 0, stop: int | None = None) -> np.ndarray:
    """The same as bits, in the layout of `masks.packing`."""
    return self.affine.packed(start, stop)

  def distinct(self) -> packing.Distinct:
    """The distinct masks: of few players a plan has some several times."""
    hashes = packing.hash_streamed(self.packed, self.num_masks, self.n)
    return packing.distinct_hashes(hashes)

  def shrink(self, num_bits: int) -> "tuple[QueryPlan, np.ndarray]":
    """The nested plan of fewer bits, and which of our masks it uses."""
    index = self.affine.prefix(num_bits)
    maps = np.asarray(self.affine.maps)[:, :, :num_bits]
    affine = dataclasses.replace(self.affine, maps=maps)
    return dataclasses.replace(self, affine=affine), index


@dataclasses.dataclass(frozen=True)
class SpexResult:
  """What a decode found, and how it ended; lists have one entry a target.

  Attributes:
    fourier: the expansion, in the units of the values.
    status: the name of a `peeling.Status`, in lower case.
    energy_left: the share of the variance of the values that the final
      expansion leaves, on the samples themselves.
    rounds: peeling rounds used.
  """

  fourier: sparse.SparseFourier
  status: Any
  energy_left: Any
  rounds: Any


def least_budget(
  n: int, t: int = 5, groups: int = _GROUPS, code: str = "raw"
) -> int:
  """Masks of the smallest plan that has more than one bin a group."""
  return groups * (1 + bch.make_code(n, t, code).num_rows) * 2


def make_plan(
  key: base.Key,
  n: int,
  budget: int | None = None,
  *,
  b: int | None = None,
  t: int = 5,
  groups: int | None = None,
  code: str = "raw",
) -> QueryPlan:
  """Draws the largest plan within a budget, or the one of b bits.

  Args:
    key: consumed.
    n: players, at least 1.
    budget: most masks to ask for. Give this or `b`.
    b: bits: 2^b bins in every group.
    t: largest set that can be decoded, 1 to 8.
    groups: C, at least 2; None for 3, and with a budget for as many more as
      it holds (up to 5: of 6, twice the bins are made).
    code: "raw" (fewer masks) or "systematic" (that of `spectralexplain`).

  Raises:
    ValueError: a budget below the smallest plan; the message has the least
      budget, and the smaller t that would fit. Also n, b, t out of range.
  """
  if (budget is None) == (b is None):
    raise ValueError("Give either budget or b.")
  fill, groups = groups is None, _GROUPS if groups is None else groups
  if groups < 2:
    raise ValueError(f"SPEX needs at least 2 groups; got {groups}.")
  bch_code = bch.make_code(n, t, code)
  num_delays = 1 + bch_code.num_rows
  if b is None:
    assert budget is not None
    b = 0
    while groups * num_delays << (b + 1) <= budget and b < min(n, _MAX_BITS):
      b += 1
    if b == 0:
      raise ValueError(_too_small(n, budget, t, groups, code))
    if fill and b < n:  # Else each group asks for every mask.
      groups = min(2 * _GROUPS - 1, budget // (num_delays << b))
  if not 0 <= b <= min(n, _MAX_BITS):
    raise ValueError(f"b must lie in 0..{min(n, _MAX_BITS)}; got {b}.")
  delays = np.concatenate([np.zeros((1, n), bool), bch_code.parity_rows()])
  # Without offsets, as the peer has it, groups share the masks at l = 0.
  shifts = sampling.coins(jax.random.fold_in(key, 1), (groups, n))
  maps = hadamard.random_maps(jax.random.fold_in(key, 0), groups, n, b)
  return QueryPlan(
    affine=hadamard.AffineMasks(maps=maps, delays=delays, offsets=shifts),
    code=bch_code,
  )


def _too_small(n: int, budget: int, t: int, groups: int, code: str) -> str:
  least = least_budget(n, t, groups, code)
  fits = [
    f"t={smaller} (needs {least_budget(n, smaller, groups, code)})"
    for smaller in range(t - 1, 0, -1)
    if least_budget(n, smaller, groups, code) <= budget
  ]
  return (
    f"A budget of {budget} masks is below the smallest SPEX plan of n={n} "
    f"players and sets of up to t={t}: {least} masks. "
    + (f"Raise it, or use {' or '.join(fits)}." if fits else "Raise it.")
  )


def fold(plan: QueryPlan, values: np.ndarray) -> np.ndarray:
  """Folds values `[N]` into bins, float32 `[C, B, P]`.

  U_c[j, p] = 2^-b sum_l f(M_c l + d_p + o_c) (-1)^<j, l>. Values should be
  centred and scaled first: an offset of 10,000 would cost float32 its digits.
  """
  chex.assert_shape(values, (plan.num_masks,))
  shape = plan.affine.num_groups, plan.affine.num_delays, 1 << plan.num_bits
  groups = jnp.asarray(values, jnp.float32).reshape(shape)
  return _fold_jit(groups)


@jax.jit
def _fold_jit(groups: jax.Array) -> jax.Array:
  chex.assert_rank(groups, 3)
  return transform.fourier_from_values(groups, axis=2).transpose(0, 2, 1)


def decode(
  plan: QueryPlan,
  values: base.Values,
  *,
  decoding: str = "joint",
  refit: regress.Penalty | bool = "lasso",
) -> SpexResult:
  """Recovers a sparse expansion from the values of a plan's masks.

  Args:
    plan: the plan whose masks were asked, from `make_plan`.
    values: `[N]` or `[N, T]`, in the order of the plan's masks, finite.
    decoding: "hard", "soft" (the paper's), or "joint": soft, then, where
      energy is left, the joint reading of `peeling` and the Gram scan of
      `gram` as far as they can be afforded.
    refit: "lasso" or "ridge", cross-validated on the support found with the
      empty set and singletons added; "none" for least squares; False for the
      coefficients as peeling leaves them (as the peers return them).

  Returns:
    A `SpexResult`; `fourier` has a leading T for values `[N, T]`.

  Raises:
    ValueError: values of another length, or not finite; an unknown decoding
      or refit.
    TypeError: values that are not real numbers.
  """
  if decoding not in _READINGS:
    raise ValueError(
      f"decoding must be one of {sorted(_READINGS)}; got {decoding!r}."
    )
  if refit not in ("lasso", "ridge", "none", False):
    raise ValueError(
      f"refit must be 'lasso', 'ridge', 'none' or False; got {refit!r}."
    )
  values = base.check_values(values, plan.num_masks)
  num_bins = plan.affine.num_groups << plan.num_bits
  # Most sets of one target: twice the number of bins.
  capacity = max(64, 1 << (2 * num_bins - 1).bit_length())
  decoder = _Decoder(plan, peeling.Settings(capacity=capacity), decoding, refit)
  if values.ndim == 1:
    return decoder.run(values[:, None])[0]
  results = decoder.run(values)
  return SpexResult(
    fourier=sparse.SparseFourier.stack([r.fourier for r in results]),
    status=[r.status for r in results],
    energy_left=[r.energy_left for r in results],
    rounds=[r.rounds for r in results],
  )


@dataclasses.dataclass(frozen=True)
class _Decoder:
  """One decode's choices; its steps are the methods, in order."""

  plan: QueryPlan
  settings: peeling.Settings
  decoding: str
  refit: regress.Penalty | bool

  @functools.cached_property
  def _distinct(self) -> packing.Distinct:
    """The plan's masks, each once: repeats are no evidence of their own."""
    if self.plan.n <= _REPEATING:
      return self.plan.distinct()
    every = np.arange(self.plan.num_masks)
    return packing.Distinct(every, every)

  def _once(self, values: np.ndarray) -> np.ndarray:
    """Means `[U]` of the values of equal masks, in the order of `_distinct`."""
    first, inverse = self._distinct
    if len(first) == len(values):
      return values
    return np.bincount(inverse, values) / np.bincount(inverse)

  def run(self, values: np.ndarray) -> list[SpexResult]:
    """Decodes `[N, T]`, a list of T results."""
    # Centred and scaled in float64: the rest is float32 and free of units.
    unit, mean, spread = regress.standardise(values)
    geometry = folding.make_geometry(self.plan.affine, self.plan.code)
    results: list[SpexResult] = [self._constant(float(value)) for value in mean]
    live = np.flatnonzero(unit.any(axis=0))
    for start in range(0, len(live), _TARGETS):
      batch = live[start : start + _TARGETS]
      found = self._decode_batch(geometry, unit[:, batch])
      for t, result in zip(batch, found):
        fourier = result.fourier
        fourier = dataclasses.replace(fourier, coefs=fourier.coefs * spread[t])
        results[t] = dataclasses.replace(
          result, fourier=fourier.shifted(float(mean[t]))
        )
    return results

  def _decode_batch(self, geometry, values):
    """Targets `[N, T]` of mean 0 and deviation 1: first readings together."""
    num_targets = values.shape[1]
    # Batches of one size, so that more targets compile nothing new.
    width = num_targets if num_targets == 1 else _TARGETS
    columns = np.pad(values.T, ((0, width - num_targets), (0, 0)))
    bins = jnp.stack([fold(self.plan, column) for column in columns])
    capacity, n = self.settings.capacity, self.plan.n
    players = np.full((capacity, self.plan.code.t), n, np.int32)
    used = np.arange(capacity) == 0
    peeled = self._peel(geometry, bins, players, used, 0)
    return [
      self._decode(
        geometry,
        values[:, t],
        bins[t],
        jax.tree.map(lambda x, t=t: x[t], peeled),
      )
      for t in range(num_targets)
    ]

  def _constant(self, value):
    return SpexResult(
      fourier=sparse.SparseFourier.from_terms(self.plan.n, [((), value)]),
      status="explained",
      energy_left=0.0,
      rounds=0,
    )

  def _decode(self, geometry, values, bins, peeled):
    """One target, `[N]` of mean 0 and deviation 1, from its first readings."""
    n, settings, values = self.plan.n, self.settings, self._once(values)
    peeled, rounds = self._read_jointly(geometry, bins, peeled)
    used = np.asarray(peeled.terms.used)
    rows = np.asarray(peeled.terms.players)[used]
    support = rows[(rows < n).any(axis=1)]
    status, scanned = peeling.Status(int(peeled.status)), False
    if self.decoding == "joint" and status == peeling.Status.STALLED:
      grown = self._scan(values, support)
      before = set(map(tuple, support.tolist()))
      scanned = not before.issuperset(map(tuple, grown.tolist()))
      support = grown
    if self.refit is False and not scanned:
      coefs = np.asarray(peeled.coefs)[used]
      fourier = sparse.SparseFourier.from_players(n, rows, coefs)
      left = float(peeled.energy)
    else:
      fourier, left = self._solve(values, support)
      if left <= settings.cutoff:
        status = peeling.Status.EXPLAINED
    return SpexResult(
      fourier=fourier,
      status=status.name.lower(),
      energy_left=left,
      rounds=rounds,
    )

  def _read_jointly(self, geometry, bins, peeled):
    """Joint readings while they help; the first ones again after each.

    What joint reading finds turns other bins into single sets, which the
    cheaper readings take at once.
    """
    later = range(1, len(_READINGS[self.decoding][1]))
    rounds = int(peeled.rounds)
    for stage in [*later, 0] * _CYCLES if later else ():
      if peeled.status != peeling.Status.STALLED:
        break
      before, terms = peeled.energy, peeled.terms
      peeled = jax.tree.map(
        lambda x: x[0],
        self._peel(geometry, bins[None], terms.players, terms.used, stage),
      )
      rounds += int(peeled.rounds)
      if peeled.energy >= before * (1 - 1e-6):
        break
    return peeled, rounds

  def _peel(self, geometry, bins, players, used, stage):
    """One stage of `_READINGS`, of bins `[T, C, B, P]`."""
    names, stages = _READINGS[self.decoding]
    settings = dataclasses.replace(self.settings, readings=names)
    window = map(np.int32, stages[stage])
    return _peel_batch_jit(geometry, bins, players, used, settings, *window)

  def _scan(self, values, support):
    """The Gram scan's support, where it predicts groups it was not fitted to.

    Sets out of its reach leave echoes on a plan's masks that look significant,
    but differ from group to group.
    """
    rows, width = self._distinct.first, self.plan.code.t
    n, num_masks = self.plan.n, len(rows)
    if n <= width and num_masks == 1 << n:  # All sets are determined.
      sets = np.where(sampling.enumerate_masks(n)[1:], np.arange(n), n)
      return np.pad(np.sort(sets), ((0, 0), (0, width - n)), constant_values=n)
    order = gram.affordable_order(n, num_masks, _SCAN_FLOPS)
    order = min(order, width)
    if order == 0 or 4 * n * num_masks > _SCAN_BYTES:
      return support
    grown = gram.grow_support(
      self.plan.masks()[rows],
      values,
      support,
      order,
      width=width,
      max_terms=min(num_masks // 4, self.settings.capacity),
    )
    before, after = (self._group_error(values, s) for s in (support, grown))
    return support if after >= before else grown  # NaN: nothing judges.

  def _group_error(self, values, support):
    """Mean square of what a support leaves of each group, fitted to others.

    Of few players a group has masks of the others, too, which judge nothing;
    NaN if it has no others.
    """
    masks, local = self._restrict(support)
    first, inverse = self._distinct
    masks = masks[first]
    groups = np.repeat(
      np.arange(self.plan.affine.num_groups),
      self.plan.affine.num_delays << self.plan.num_bits,
    )
    found = []
    for c in range(self.plan.affine.num_groups):
      others = np.unique(inverse[groups != c])
      mine = np.setdiff1d(inverse[groups == c], others)
      if not len(mine):
        continue
      fit = regress.refit(masks[others], values[others], local, penalty="none")
      found.append(_mean_square(masks[mine], values[mine], local, fit.coefs))
    return sum(found) if found else np.nan

  def _solve(self, values, support):
    """Coefficients of a support and its singletons, as `refit` says."""
    n, width = self.plan.n, support.shape[1]
    core = np.concatenate([np.full((1, width), n), support])
    fit, left = self._regress(values, core, "none")
    folded = self.refit in ("lasso", "ridge") and len(values) >= 3
    if folded and left > self.settings.cutoff:
      fit, left = self._regress(values, core, self.refit)
      alone = np.full((n, width), n)
      alone[:, 0] = np.arange(n)
      wide = np.unique(np.concatenate([core, alone]), axis=0)
      if len(wide) <= len(values) // 4:
        wide_fit, wide_left = self._regress(values, wide, self.refit)
        # Singletons that validation cannot tell from noise stay out.
        if 1 - wide_fit.score < 0.99 * (1 - fit.score):
          core, fit, left = wide, wide_fit, wide_left
    # A set that is left with a coefficient of the size of rounding is none.
    kept = (np.abs(fit.coefs) > 1e-9) | (core == n).all(axis=1)
    fourier = sparse.SparseFourier.from_players(n, core[kept], fit.coefs[kept])
    return fourier, left

  def _regress(self, values, sets, penalty):
    """A refit on the plan's masks, and the share of energy it leaves."""
    masks, local = self._restrict(sets)
    masks = masks[self._distinct.first]
    fit = regress.refit(masks, values, local, penalty=penalty)
    return fit, _mean_square(masks, values, local, fit.coefs)

  def _restrict(self, sets):
    """The plan's masks on the players of some sets, and the sets on those."""
    players = np.unique(np.append(sets[sets < self.plan.n], 0))
    masks = self.plan.affine.restrict(players).masks()
    return masks, np.searchsorted(players, sets)


def _mean_square(masks, values, players, coefs):
  """Mean square of the values less the expansion; by chunks, in float64."""
  total = 0.0
  for start in range(0, len(values), _ROWS):
    rows = slice(start, start + _ROWS)
    design = regress.design(masks[rows], players, dtype=np.float64)
    total += ((values[rows] - design @ coefs) ** 2).sum()
  return float(total / len(values))


def _peel_batch(geometry, bins, players, used, settings, first, stop):
  """`peeling.peel` of bins `[T, C, B, P]`, one after the other."""
  chex.assert_rank(bins, 4)
  # vmap would run every target as long as the slowest, and gained nothing.
  return jax.lax.map(
    lambda one: peeling.peel(
      geometry, one, players, used, settings, first, stop
    ),
    bins,
  )


_peel_batch_jit = jax.jit(_peel_batch, static_argnames="settings")
