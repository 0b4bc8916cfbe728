"""Sparse functions on masks: a few Fourier coefficients and their supports.

Shapes: n players, K terms, D the largest order, B masks, T targets.
"""

import dataclasses
import os
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import chex
import flax.struct
import jax
import jax.numpy as jnp
import numpy as np

from spex_jax import base, shown

_CHUNK = 128  # Terms evaluated at once: [128, B] parities stay near the cache.

Term = tuple[Sequence[int], float]


@flax.struct.dataclass(eq=False)
class SparseFourier(base.ByValue, shown.Shown):
  """f(m) = sum_k coefs[k] (-1)^(sum_{i in players[k]} m_i); a pytree.

  Build one with `from_terms` or `from_supports`, which check and merge. With
  T targets every array has a leading T.

  Example:
    >>> import numpy as np
    >>> both = {(): 0.25, (0,): -0.25, (1,): -0.25, (0, 1): 0.25}
    >>> f = SparseFourier.from_terms(3, both)
    >>> masks = np.array([[True, True, False], [True, False, True]])
    >>> np.asarray(f(masks)).tolist()  # 1 where 0 and 1 are kept.
    [1.0, 0.0]

  Attributes:
    players: int32 `[K, D]` the players of each set, ascending, padded with n.
      The empty set is a row of n only.
    coefs: `[K]` coefficients, in the units of the value function; 0 in unused
      rows. float64 NumPy from the decoders, any float array elsewhere.
    count: int32 `[]` rows in use; rows from there on are padding.
    n: number of players; static.
  """

  players: base.Array
  coefs: base.Array
  count: base.Array
  n: int = flax.struct.field(pytree_node=False)

  @classmethod
  def from_terms(
    cls, n: int, terms: Iterable[Term] | Mapping[Sequence[int], float]
  ) -> "SparseFourier":
    """Builds from `(players, coef)` pairs, or a dict; equal sets are added.

    Raises:
      TypeError: players that are no integers.
      ValueError: a player out of range or repeated in one set, or a
        coefficient that is not finite.
    """
    n = base.check_integer(n, "The number of players n")
    pairs = terms.items() if isinstance(terms, Mapping) else terms
    sets, coefs = [], []
    for players, coef in pairs:
      members = tuple(players)
      what = f"A player of the set {members}"
      sets.append(tuple(base.check_integer(i, what) for i in members))
      coefs.append(float(coef))
    width = max((len(s) for s in sets), default=0)
    rows = np.full((len(sets), width), n, np.int64)
    for row, members in zip(rows, sets):
      if len(set(members)) != len(members) or any(
        not 0 <= i < n for i in members
      ):
        raise ValueError(
          f"The set {members} must hold distinct players from 0 to {n - 1}."
        )
      row[: len(members)] = members
    return cls.from_players(n, rows, np.asarray(coefs, np.float64))

  @classmethod
  def from_supports(
    cls, supports: base.Array, coefs: base.Array
  ) -> "SparseFourier":
    """Builds from `supports` bool `[K, n]` and `coefs` `[K]`."""
    supports = base.check_masks(supports)
    n = supports.shape[1]
    width = int(supports.sum(axis=1).max(initial=0))
    order = np.argsort(~supports, axis=1, kind="stable")[:, :width]
    members = np.take_along_axis(supports, order, axis=1)
    return cls.from_players(n, np.where(members, order, n), coefs)

  @classmethod
  def from_players(
    cls, n: int, players: base.Array, coefs: base.Array
  ) -> "SparseFourier":
    """Builds from padded rows: sorts, merges equal sets, strongest first.

    Args:
      n: number of players.
      players: int `[K, D]`, padded with n, in any order within a row.
      coefs: `[K]`, finite.

    Raises:
      TypeError: players that are no integers.
      ValueError: shapes that disagree, players outside 0..n or repeated in one
        set, or a coefficient that is not finite.
    """
    rows = base.check_players(players, n)
    n = int(n)
    base.check_unmasked(coefs, "Coefficients")
    values = np.asarray(coefs, np.float64)
    if values.shape != rows.shape[:1]:
      raise ValueError(
        f"Need players [K, D] and coefs [K]; got {rows.shape} and "
        f"{values.shape}."
      )
    if not np.isfinite(values).all():
      raise ValueError("Fourier coefficients must be finite.")
    if rows.shape[1]:
      rows, inverse = np.unique(rows, axis=0, return_inverse=True)
      values = np.bincount(inverse.ravel(), values, len(rows))
    elif len(rows):
      rows, values = rows[:1], values.sum(keepdims=True)
    is_empty = (rows == n).all(axis=1)
    order = np.lexsort((-np.abs(values), ~is_empty))  # Empty set, then size.
    rows, values = rows[order], values[order]
    width = int((rows < n).sum(axis=1).max(initial=0))
    return cls(
      players=rows[:, :width].astype(np.int32),
      coefs=values,
      count=np.asarray(len(values), np.int32),
      n=n,
    )

  @classmethod
  def stack(cls, functions: "Sequence[SparseFourier]") -> "SparseFourier":
    """Joins T functions of the same players into one with a leading T."""
    if not functions:
      raise ValueError("Need at least one function to stack.")
    n = functions[0].n
    if any(f.n != n or f.num_targets is not None for f in functions):
      raise ValueError("Stacked functions must be single and share their n.")
    num_terms = max(f.players.shape[0] for f in functions)
    width = max(f.players.shape[1] for f in functions)
    players = np.full((len(functions), num_terms, width), n, np.int32)
    coefs = np.zeros((len(functions), num_terms))
    for t, f in enumerate(functions):
      rows, cols = f.players.shape
      players[t, :rows, :cols] = f.players
      coefs[t, :rows] = f.coefs
    count = np.asarray([int(f.count) for f in functions], np.int32)
    return cls(players=players, coefs=coefs, count=count, n=n)

  def __repr__(self) -> str:
    # In a notebook the arrays would fill the page; under jit they have none.
    shape = "x".join(map(str, self.coefs.shape))
    return f"SparseFourier(n={self.n}, {shape} coefficients)"

  @property
  def num_targets(self) -> int | None:
    """T, or None for a single function."""
    return None if self.coefs.ndim == 1 else self.coefs.shape[0]

  @property
  def supports(self) -> np.ndarray:
    """bool `[K, n]` (or `[T, K, n]`): a derived view, built on each call."""
    players = np.asarray(self.players)
    out = np.zeros((*players.shape[:-1], self.n + 1), bool)
    np.put_along_axis(out, players, True, axis=-1)
    return out[..., : self.n]

  @property
  def orders(self) -> np.ndarray:
    """int `[K]` (or `[T, K]`): the size of each set."""
    return (np.asarray(self.players) < self.n).sum(axis=-1)

  def target(self, t: int) -> "SparseFourier":
    """The function of target t in 0..T-1, its padding rows dropped.

    Raises:
      IndexError: no such target; they are not counted from the end.
      TypeError: t is no integer.
      ValueError: a single function.
    """
    if self.num_targets is None:
      raise ValueError("This function has a single target already.")
    t = base.check_integer(t, "A target")
    if not 0 <= t < self.num_targets:
      raise IndexError(f"No target {t}; they are 0..{self.num_targets - 1}.")
    rows = int(self.count[t])
    return type(self).from_players(
      self.n, self.players[t, :rows], self.coefs[t, :rows]
    )

  def terms(self) -> list[tuple[tuple[int, ...], float]]:
    """Host list of `(players, coef)`, the empty set first, then by |coef|."""
    self._need_single("terms")
    count = int(self.count)
    coefs = np.asarray(self.coefs)[:count].tolist()
    rows = np.asarray(self.players)[:count].tolist()
    return [
      (tuple(i for i in row if i < self.n), coef)
      for row, coef in zip(rows, coefs)
    ]

  def sheet(self) -> shown.Sheet:
    """All terms: `target` of several, `players`, `order`, `coefficient`."""
    each = (
      [self]
      if self.num_targets is None
      else [self.target(t) for t in range(self.num_targets)]
    )
    rows = [(t, *term) for t, f in enumerate(each) for term in f.terms()]
    columns: dict[str, Any] = {
      # Of objects, as tuples are not of one length.
      "players": np.fromiter((who for _, who, _ in rows), object, len(rows)),
      "order": [len(who) for _, who, _ in rows],
      "coefficient": [coef for *_, coef in rows],
    }
    if self.num_targets is not None:
      columns = {"target": [t for t, *_ in rows]} | columns
    return shown.Sheet(
      f"{len(rows):,} Fourier coefficients of {self.n} players", columns
    )

  def __call__(self, masks: base.Masks) -> base.Array:
    """Values at `masks` `[B, n]`: `[B]`, or `[B, T]`.

    On the host the sum runs in the dtype of `coefs` and returns NumPy; on
    traced values it is `evaluate`.
    """
    leaves = [masks, self.coefs, self.players]
    if any(isinstance(leaf, jax.core.Tracer) for leaf in leaves):
      return evaluate(self, masks)
    masks = base.check_masks(masks, self.n)
    coefs = np.asarray(self.coefs)
    with jax.enable_x64(coefs.dtype == np.float64):
      return np.asarray(
        _evaluate_jit(dataclasses.replace(self, coefs=coefs), masks)
      )

  def truncate(
    self, num_terms: int | None = None, *, energy: float | None = None
  ) -> "SparseFourier":
    """Keeps the empty set and the strongest sets.

    Args:
      num_terms: how many sets to keep besides the empty one.
      energy: the least share in (0, 1] of the energy (sum of squares without
        the empty set) that the kept sets must hold. Give one of the two.
    """
    self._need_single("truncate")
    if num_terms is not None and energy is not None:
      raise ValueError("Give either num_terms or energy.")
    count = int(self.count)
    players = np.asarray(self.players)[:count]
    coefs = np.asarray(self.coefs)[:count]
    is_empty = (players == self.n).all(axis=1)
    ranked = np.argsort(np.where(is_empty, np.inf, np.abs(coefs)))[::-1]
    num_empty = int(is_empty.sum())
    if num_terms is None:
      if energy is None:
        raise ValueError("Give either num_terms or energy.")
      if not 0 < energy <= 1:
        raise ValueError(f"energy must lie in (0, 1]; got {energy}.")
      strengths = np.abs(coefs[ranked[num_empty:]])
      # Free of units first, so that no square overflows or vanishes.
      unit = strengths.max(initial=0.0) or 1.0
      power = np.cumsum((strengths / unit) ** 2)
      total = power[-1] if len(power) else 0.0
      # A rounding step below the total still counts as all of it.
      num_terms = int(np.searchsorted(power, energy * total * (1 - 1e-12))) + 1
    elif num_terms < 0:
      raise ValueError(f"num_terms must be at least 0; got {num_terms}.")
    kept = ranked[: num_empty + num_terms]
    return type(self).from_players(self.n, players[kept], coefs[kept])

  def energy_by_order(self) -> np.ndarray:
    """`[D + 1]` (or `[T, D + 1]`) sums of squared coefficients by order.

    float64, in the squared units of the value function.

    Raises:
      OverflowError: a sum beyond float64, from coefficients of about 1e154 on.
    """
    orders = self.orders[..., None] == np.arange(self.players.shape[-1] + 1)
    with np.errstate(over="ignore"):
      power = np.asarray(self.coefs, np.float64)[..., None] ** 2
      energy = np.where(orders, power, 0.0).sum(-2)
    if not np.isfinite(energy).all():
      raise OverflowError(
        "The energy exceeds float64: the largest coefficient has size "
        f"{np.abs(self.coefs).max():.3g}. Scale the value function down."
      )
    return energy

  def __add__(self, other: "SparseFourier") -> "SparseFourier":
    """The sum of two single functions of the same players."""
    self._need_single("+")
    other._need_single("+")
    if self.n != other.n:
      raise ValueError(f"Cannot add n={self.n} and n={other.n} players.")
    pairs = self.terms() + other.terms()
    return type(self).from_terms(self.n, pairs)

  def shifted(self, by: float) -> "SparseFourier":
    """The same single function with a constant added."""
    self._need_single("shifted")
    if not by:
      return self
    return self + type(self).from_terms(self.n, [((), by)])

  def save(self, path: str | os.PathLike) -> None:
    """Writes `{"n", "terms": [[[i, ...], coef], ...], "sha256"}` as JSON.

    T targets are written as `"targets"`, a list of such term lists. The file
    appears whole or not at all; the checksum covers the terms.
    """
    if self.num_targets is None:
      body = {"n": self.n, "terms": [[list(s), c] for s, c in self.terms()]}
    else:
      body = {
        "n": self.n,
        "targets": [
          [[list(s), c] for s, c in self.target(t).terms()]
          for t in range(self.num_targets)
        ],
      }
    base.write_json(path, body)

  @classmethod
  def load(cls, path: str | os.PathLike) -> "SparseFourier":
    """Reads what `save` wrote; a file without a checksum is accepted.

    Raises:
      ValueError: not such a file, or contents that the checksum contradicts.
    """
    body = base.read_json(path)
    try:
      n = base.check_integer(body["n"], "n")
      if "targets" in body:
        functions = [cls.from_terms(n, t) for t in body["targets"]]
        # A saved explanation says whether its only target was a single one.
        return functions[0] if body.get("single") else cls.stack(functions)
      return cls.from_terms(n, body["terms"])
    except (KeyError, TypeError, IndexError) as error:
      raise ValueError(
        f"{path} is no saved expansion: need keys 'n' and 'terms' "
        f"({type(error).__name__}: {error})."
      ) from error

  def _need_single(self, what: str) -> None:
    if self.num_targets is not None:
      raise ValueError(f"`{what}` needs one target; choose by .target(t).")


def split_constant(fourier: SparseFourier) -> tuple[base.Array, base.Array]:
  """The empty set's coefficient, `[]` or `[T]`, and all with 0 in its place."""
  leaves = (fourier.players, fourier.coefs)
  traced = any(isinstance(leaf, jax.core.Tracer) for leaf in leaves)
  xp = jnp if traced else np
  empty = (xp.asarray(fourier.players) == fourier.n).all(axis=-1)
  coefs = xp.asarray(fourier.coefs)
  return xp.where(empty, coefs, 0).sum(-1), xp.where(empty, 0, coefs)


def weighted_sum(
  functions: Sequence[SparseFourier], weights: Sequence[float] | np.ndarray
) -> SparseFourier:
  """The expansion of a weighted sum of functions of the same players."""
  width = max(f.players.shape[1] for f in functions)
  n = functions[0].n
  rows, coefs = [], []
  for function, weight in zip(functions, weights):
    players = np.asarray(function.players)
    short = ((0, 0), (0, width - players.shape[1]))
    rows.append(np.pad(players, short, constant_values=n))
    coefs.append(np.asarray(function.coefs) * weight)
  return SparseFourier.from_players(
    n, np.concatenate(rows), np.concatenate(coefs)
  )


def evaluate(fourier: SparseFourier, masks: base.Masks) -> jax.Array:
  """Values of an expansion. Batched over masks: parities are row gathers.

  The sum runs in the dtype of `fourier.coefs`, the constant last: beside a
  large one the others would lose digits. Cost: K * D * B byte
  operations and K * B multiply-adds; memory 128 * B beside the masks.

  Args:
    fourier: an expansion of K terms of order <= D; optionally T targets.
    masks: bool `[B, n]`.

  Returns:
    `[B]`, or `[B, T]`.
  """
  chex.assert_shape(masks, (None, fourier.n))
  chex.assert_equal_rank([fourier.players, fourier.coefs[..., None]])
  # Row n stands for the padding: no player, parity 0.
  bits = jnp.pad(jnp.asarray(masks).T.astype(jnp.uint8), ((0, 1), (0, 0)))

  def one_target(players, coefs):
    num_terms, width = players.shape
    pad = -num_terms % _CHUNK
    players = jnp.pad(players, ((0, pad), (0, 0)), constant_values=fourier.n)
    coefs = jnp.pad(coefs, (0, pad))

    def add_chunk(total, chunk):
      rows, weights = chunk
      parity = jnp.zeros((_CHUNK, bits.shape[1]), jnp.uint8)
      for column in range(width):
        parity ^= bits[rows[:, column]]
      signs = 1 - 2 * parity.astype(weights.dtype)
      return total + weights @ signs, None

    start = jnp.zeros(bits.shape[1], coefs.dtype)
    num_chunks = len(coefs) // _CHUNK
    chunks = (
      players.reshape(num_chunks, _CHUNK, width),
      coefs.reshape(num_chunks, _CHUNK),
    )
    return jax.lax.scan(add_chunk, start, chunks)[0]

  constant, coefs = map(jnp.asarray, split_constant(fourier))
  players = jnp.asarray(fourier.players)
  if fourier.num_targets is None:
    return one_target(players, coefs) + constant
  out = jax.lax.map(lambda pair: one_target(*pair), (players, coefs))
  return out.T + constant[None]


_evaluate_jit = jax.jit(evaluate)
