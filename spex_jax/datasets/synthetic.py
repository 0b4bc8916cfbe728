"""Planted functions: sparse Fourier expansions that are known in advance.

Needs NumPy alone, so that peers without JAX can be run on the same functions.
Convention, as everywhere: f(m) = sum_S F(S) (-1)^(sum_{i in S} m_i).

Shapes: n players, K terms, D the largest order, B masks.
"""

import dataclasses
import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

_CHUNK = 32  # Terms evaluated at once: [32, B] bytes of parities.


@dataclasses.dataclass(frozen=True, eq=False)
class Planted:
  """A sparse function whose spectrum is known; callable on masks.

  Attributes:
    n: number of players.
    players: int32 `[K, D]` the players of each set, ascending, padded with n.
    coefs: float64 `[K]` coefficients, none of them 0.
  """

  n: int
  players: np.ndarray
  coefs: np.ndarray

  @property
  def variance(self) -> float:
    """Of f over uniform masks: the energy outside the empty set."""
    nonempty = (self.players < self.n).any(axis=1)
    return float((self.coefs[nonempty] ** 2).sum())

  def terms(self) -> list[tuple[tuple[int, ...], float]]:
    """`(players, coef)` pairs in the order of planting."""
    return [
      (tuple(i for i in row if i < self.n), coef)
      for row, coef in zip(self.players.tolist(), self.coefs.tolist())
    ]

  def __call__(self, masks: Any) -> np.ndarray:
    """Values at `masks` bool `[B, n]`: float64 `[B]`.

    Raises:
      ValueError: masks of another shape than `[B, n]`.
    """
    masks = np.asarray(masks).astype(bool)
    if masks.ndim != 2 or masks.shape[1] != self.n:
      raise ValueError(f"Masks must be [B, {self.n}]; got shape {masks.shape}.")
    bits = np.zeros((self.n + 1, len(masks)), np.uint8)  # Row n: the padding.
    bits[: self.n] = masks.T
    values = np.zeros(len(masks))
    for start in range(0, len(self.coefs), _CHUNK):
      rows = self.players[start : start + _CHUNK]
      parity = np.zeros((len(rows), len(masks)), np.uint8)
      for column in rows.T:
        parity ^= bits[column]
      values += self.coefs[start : start + _CHUNK] @ (1.0 - 2.0 * parity)
    return values


def planted(
  seed: Any,
  n: int,
  num_terms: int,
  max_order: int,
  *,
  min_order: int = 1,
  hierarchical: bool = False,
  magnitudes: tuple[float, float] | None = (0.5, 1.0),
) -> Planted:
  """Draws distinct sets and their coefficients.

  Args:
    seed: an integer, a sequence of integers, or a key of `jax.random.key`
      (consumed). Equal seeds give equal functions on every machine.
    n: number of players.
    num_terms: K, how many distinct sets are planted.
    max_order: the largest order drawn.
    min_order: the smallest; flat supports only. 0 admits the empty set.
    hierarchical: False draws each order uniformly, then a uniform set of that
      order. True grows sets one player at a time, so that every set of order
      above 1 contains a planted set of one order less.
    magnitudes: range of |coef|, uniform; signs are fair coins. None draws
      standard normal coefficients, many of them small.

  Raises:
    ValueError: orders or magnitudes out of range, or more terms than sets.
  """
  if not 0 <= min_order <= max_order <= n:
    raise ValueError(
      f"Need 0 <= min_order <= max_order <= n; got {min_order}, {max_order} "
      f"and n={n}."
    )
  if magnitudes and not 0 < magnitudes[0] <= magnitudes[1] < np.inf:
    raise ValueError(f"Need 0 < low <= high magnitudes; got {magnitudes}.")
  if hierarchical and (min_order > 1 or max_order < 1):
    raise ValueError(
      "Hierarchical sets start at order 1: leave min_order at 1."
    )
  low = 1 if hierarchical else min_order
  room = sum(math.comb(n, order) for order in range(low, max_order + 1))
  if not 0 <= num_terms <= room:
    raise ValueError(
      f"num_terms must lie in 0..{room}, the number of sets of order {low} "
      f"to {max_order} of {n} players; got {num_terms}."
    )
  rng = _generator(seed)
  draw = _grow_set if hierarchical else _draw_set
  sets: dict[tuple[int, ...], None] = {}  # An ordered set.
  chosen: list[tuple[int, ...]] = []
  while len(chosen) < num_terms:
    members = draw(rng, n, low, max_order, chosen)
    if members not in sets:
      sets[members] = None
      chosen.append(members)
  width = max((len(s) for s in chosen), default=0)
  players = np.full((num_terms, width), n, np.int32)
  for row, members in zip(players, chosen):
    row[: len(members)] = members
  if magnitudes is None:
    coefs = rng.normal(size=num_terms)
  else:
    coefs = rng.uniform(*magnitudes, num_terms)
    coefs *= rng.choice([-1, 1], num_terms)
  return Planted(n=n, players=players, coefs=coefs)


def noisy(
  function: Callable[[Any], np.ndarray], seed: int, std: float
) -> Callable[[Any], np.ndarray]:
  """Adds noise of standard deviation `std` that is a function of the mask.

  The deviate is a hash of (seed, mask): asked twice, a mask gives the same
  value, in any batch and on any machine, so the sum is still a value function.

  Raises:
    ValueError: a standard deviation that is negative or not finite.
  """
  if not (np.isfinite(std) and std >= 0):
    raise ValueError(f"std must be finite and not negative; got {std}.")
  return lambda masks: function(masks) + std * hash_normal(seed, masks)


def noise_std(signal_variance: float, decibels: float) -> float:
  """The noise at which 10 log10(signal variance / noise variance) is given."""
  return float(np.sqrt(signal_variance / 10 ** (decibels / 10)))


def hash_normal(seed: int, masks: Any) -> np.ndarray:
  """Standard normal deviates, float64 `[B]`, a hash of (seed, mask).

  Two 64-bit words mixed by SplitMix64's finaliser (Steele et al., 2014), then
  Box-Muller.

  Args:
    seed: an integer; another seed gives independent deviates.
    masks: bool `[B, n]`, True for players that are kept.
  """
  masks = np.asarray(masks).astype(bool)
  packed = np.packbits(masks, axis=1, bitorder="little")
  packed = np.pad(packed, ((0, 0), (0, -packed.shape[1] % 8)))
  words = np.ascontiguousarray(packed).view("<u8")
  start = np.asarray(
    [seed % 2**64, masks.shape[1]], np.uint64
  )  # The player count tells padded zeros from ablated players.
  state = np.full(len(masks), _mix(start[:1] ^ _mix(start[1:]))[0])
  for position in range(words.shape[1]):
    state = _mix(state ^ words[:, position])
  first, second = _mix(state ^ _GOLDEN), _mix(state + _GOLDEN)
  # 53 bits each; the half step keeps the logarithm finite.
  uniform = ((first >> np.uint64(11)) + 0.5) * 2.0**-53
  angle = 2 * np.pi * (second >> np.uint64(11)) * 2.0**-53
  return np.sqrt(-2 * np.log(uniform)) * np.cos(angle)


_GOLDEN = np.uint64(0x9E3779B97F4A7C15)


def _mix(words: np.ndarray) -> np.ndarray:
  """SplitMix64: add the golden gamma, then the finaliser; wraps by design."""
  words = words + _GOLDEN
  words = (words ^ (words >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
  words = (words ^ (words >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
  return words ^ (words >> np.uint64(31))


def _generator(seed: Any) -> np.random.Generator:
  if isinstance(seed, (int, np.integer, Sequence)):
    return np.random.default_rng(seed)
  import jax  # Only for keys, so that the module needs NumPy alone.

  return np.random.default_rng(np.asarray(jax.random.key_data(seed)).ravel())


def _draw_set(rng, n, low, high, chosen) -> tuple[int, ...]:
  del chosen
  order = int(rng.integers(low, high + 1))
  return tuple(sorted(_distinct(rng, n, order)))


def _grow_set(rng, n, low, high, chosen) -> tuple[int, ...]:
  """A singleton, or a planted set with one more player, half of the time."""
  del low
  parents = [s for s in chosen if len(s) < high]
  if not parents or rng.random() < 0.5:
    return (int(rng.integers(n)),)
  parent = parents[int(rng.integers(len(parents)))]
  # Any player may come: one that the set has already gives the set again,
  # which the caller rejects.
  return tuple(sorted({*parent, int(rng.integers(n))}))


def _distinct(rng, n, size) -> set[int]:
  if size > n // 2:
    return set(rng.permutation(n)[:size].tolist())
  members: set[int] = set()
  while len(members) < size:  # At most 2 tries a member, on average.
    members.add(int(rng.integers(n)))
  return members
