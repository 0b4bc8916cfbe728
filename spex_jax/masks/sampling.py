"""Random masks from a key, and all masks.

Host functions: they return NumPy `bool[B, n]`, True = kept, the same for the
same key and arguments. Keys are consumed.

Sampling by size draws a size s in 0..n from given weights, then a uniform set
of that size. `shapley_weights` makes that the Shapley kernel (Lundberg and
Lee 2017, theorem 2), which leaves out the empty and the full mask: its
estimators ask for both anyway.

Shapes: n players, B masks.
"""

import functools
import math

import jax
import numpy as np

from spex_jax import base
from spex_jax.masks import packing

_LARGEST_TABLE = 24  # Players whose masks may be listed: 2^24 of them.
_LEAST_WORDS = 1 << 17  # A millisecond.
_SMALL = 16  # Players whose masks are ranked all at once when distinct.
_ROUNDS = 1000
_FEW_ROUNDS = 8  # Of draws, before the rest is ranked where it can be.


def enumerate_masks(n: int) -> np.ndarray:
  """Returns all masks, bool `[2^n, n]`; bit j of the row's index is player j.

  Raises:
    ValueError: n negative, or over 24, where the table would not fit.
  """
  _check_count(0, n)
  if n > _LARGEST_TABLE:
    raise ValueError(f"2**{n} masks are too many to list; at most n=24.")
  index = np.arange(1 << n)
  out = np.empty((1 << n, n), bool)
  for player in range(n):
    out[:, player] = (index >> player) & 1
  return out


def uniform(key: base.Key, num_masks: int, n: int) -> np.ndarray:
  """Returns `[num_masks, n]`, each player kept with probability 1/2.

  Raises:
    ValueError: a negative number of masks or players.
  """
  _check_count(num_masks, n)
  words = _words(key, num_masks, -(-n // 32))
  octets = words.astype("<u4").view(np.uint8)
  return np.unpackbits(octets, axis=1, count=n).view(np.bool_)


def coins(key: base.Key, shape: tuple[int, ...]) -> np.ndarray:
  """Fair coins, a bool array: as `jax.random.bernoulli(key, 0.5, shape)`.

  Args:
    key: consumed.
    shape: the shape of the result.
  """
  return _words(key, *shape) < 1 << 31


def _words(key, *shape):
  """As `jax.random.bits(key, shape)`, of few sizes: few programs to compile.

  JAX's generator counts entries from the first, whatever the shape.
  """
  count = math.prod(shape)
  size = max(_LEAST_WORDS, 1 << max(0, count - 1).bit_length())
  words = np.asarray(_bits(key, size))
  return words[:count].reshape(shape)


@functools.partial(jax.jit, static_argnames="size")
def _bits(key, size):
  return jax.random.bits(key, (size,), "uint32")  # One program, not ten.


def biased(
  key: base.Key, num_masks: int, n: int, keep: float | base.Array
) -> np.ndarray:
  """Returns `[num_masks, n]`, player i kept with probability `keep[i]`.

  Args:
    key: consumed.
    num_masks: B.
    n: number of players.
    keep: one probability, or one for each player.

  Raises:
    ValueError: probabilities outside [0, 1], or not n of them.
  """
  _check_count(num_masks, n)
  keep = np.asarray(keep, np.float32)
  if keep.shape not in ((), (n,)):
    raise ValueError(f"keep must be one probability or {n}; got {keep.shape}.")
  if not ((keep >= 0) & (keep <= 1)).all():
    raise ValueError("keep must hold probabilities, from 0 to 1.")
  draws = np.asarray(jax.random.uniform(key, (num_masks, n), "float32"))
  return draws < keep


def leave_one_out(n: int) -> np.ndarray:
  """bool `[n + 1, n]`: everybody, then all but player i in row i + 1.

  Raises:
    TypeError: no integer.
    ValueError: no player.
  """
  if base.check_integer(n, "The number of players n") < 1:
    raise ValueError(f"Need at least one player to leave out; got n={n}.")
  return np.concatenate([np.ones((1, n), bool), ~np.eye(n, dtype=bool)])


def by_size(
  key: base.Key, num_masks: int, n: int, weights: base.Array
) -> np.ndarray:
  """Returns `[num_masks, n]`: sizes from `weights`, then a uniform set.

  Args:
    key: consumed.
    num_masks: B.
    n: number of players.
    weights: `[n + 1]`, the weight of each size 0..n as a whole (not of each
      mask of the size); any scale.

  Raises:
    ValueError: not n + 1 weights, a negative one, or all 0.
  """
  _check_count(num_masks, n)
  weights = _check_weights(weights, n)
  size_key, set_key = jax.random.split(key)
  edges = np.cumsum(weights / weights.sum())
  draws = np.asarray(jax.random.uniform(size_key, (num_masks,), "float32"))
  # The last edge may round below a draw; and a weight of 0 is never drawn.
  sizes = np.searchsorted(edges, draws, side="right")
  sizes = np.minimum(sizes, np.flatnonzero(weights)[-1])
  order = np.asarray(jax.random.bits(set_key, (num_masks, n), "uint32"))
  ranks = order.argsort(axis=1, kind="stable").argsort(axis=1, kind="stable")
  return ranks < sizes[:, None]


def shapley_weights(n: int) -> np.ndarray:
  """Returns `[n + 1]` weights of sizes under the Shapley kernel, sum 1.

  A size s weighs 1 / (s (n - s)): C(n, s) masks of (n-1)/(C(n, s) s (n-s)).

  Raises:
    ValueError: n < 2, where every mask is empty or full.
  """
  if n < 2:
    raise ValueError(f"Need n >= 2 players between empty and full; got {n}.")
  sizes = np.arange(1.0, n)
  weights = np.pad(1 / (sizes * (n - sizes)), 1)
  return weights / weights.sum()


def complementary(masks: base.Masks) -> np.ndarray:
  """Pairs each mask with its complement: `[2B, n]`, rows 2i and 2i + 1.

  Antithetic pairs cancel the orders of one parity: the difference of a pair
  holds odd orders only, its sum the even ones.
  """
  masks = base.check_masks(masks)
  return np.stack([masks, ~masks], axis=1).reshape(-1, masks.shape[1])


def distinct(
  key: base.Key,
  num_masks: int,
  n: int,
  *,
  weights: base.Array | None = None,
  exclude: base.Masks | None = None,
) -> np.ndarray:
  """Returns `[num_masks, n]`, no two equal: draws without replacement.

  Exactly what drawing one by one and dropping repeats would give.

  Args:
    key: consumed.
    num_masks: the number of masks.
    n: number of players.
    weights: `[n + 1]`, the weight of each size, as in `by_size`; None for
      uniform masks.
    exclude: `[E, n]` masks that must not be drawn.

  Raises:
    ValueError: more masks than there are with a weight and not excluded; the
      message says how many there are.
    RuntimeError: weights so uneven that 1,000 rounds of draws did not do.
  """
  _check_count(num_masks, n)
  if weights is not None:
    weights = _check_weights(weights, n)
  if exclude is None:
    exclude = np.zeros((0, n), bool)
  exclude = base.check_masks(exclude, n)
  exclude = exclude[packing.distinct_masks(exclude).first]
  if weights is not None:
    exclude = exclude[weights[exclude.sum(axis=1)] > 0]
  # Are there so many masks to draw?
  available = -len(exclude)
  for size in range(n + 1) if weights is None else np.flatnonzero(weights):
    available += math.comb(n, int(size))
    if available >= num_masks:  # Enough; the rest are long numbers.
      break
  if num_masks > available:
    raise ValueError(
      f"Asked for {num_masks} distinct masks of {n} players; there are "
      f"{available}" + (" not excluded." if len(exclude) else ".")
    )
  # Drawing a quarter of all masks and more would mostly draw repeats.
  crowded = 4 * (num_masks + len(exclude)) > 1 << min(n, _LARGEST_TABLE)
  if n <= _SMALL or (n <= _LARGEST_TABLE and crowded):
    return _by_rank(key, num_masks, n, weights, exclude)
  # Rounds of draws, of which new masks are kept.
  packed, missing = packing.pack(exclude), num_masks
  for turn in range(_ROUNDS):
    missing = num_masks + len(exclude) - len(packed)
    if missing <= 0:
      rows = packed[len(exclude) : len(exclude) + num_masks]
      return packing.unpack(rows, n)
    if turn == _FEW_ROUNDS and n <= _LARGEST_TABLE:
      drawn = packing.unpack(packed, n)
      turn_key = jax.random.fold_in(key, turn)
      rest = _by_rank(turn_key, missing, n, weights, drawn)
      return np.concatenate([drawn[len(exclude) :], rest])
    turn_key = jax.random.fold_in(key, turn)
    size = max(64, 1 << (missing - 1).bit_length())  # Few shapes to compile.
    if weights is None:
      draws = uniform(turn_key, size, n)
    else:
      draws = by_size(turn_key, size, n, weights)
    packed = np.concatenate([packed, packing.pack(draws)])
    packed = packed[packing.distinct(packed).first]
  raise RuntimeError(
    f"Only {num_masks - missing} of {num_masks} distinct masks after "
    f"{_ROUNDS} rounds: the weights favour sizes that are used up. Ask for "
    "fewer masks or spread the weights."
  )


def _by_rank(key, num_masks, n, weights, exclude):
  """Successive draws by the Gumbel trick: rank all masks, keep the first.

  Holds some 40 bytes for each of the 2^n masks: 700 MB for n = 24.
  """
  words = _words(key, 2, 1 << n)
  # 53 bits, so that no two of 2^24 masks tie but for one chance in 64.
  draws = (words[0].astype(np.uint64) << np.uint64(21)) | (words[1] >> 11)
  scores = (draws.astype(np.float64) + 0.5) * 2.0**-53
  del words, draws
  if weights is not None:
    share = weights / [math.comb(n, s) for s in range(n + 1)]
    with np.errstate(divide="ignore"):
      sizes = np.bitwise_count(np.arange(1 << n, dtype=np.uint32))
      scores = np.log(share)[sizes] - np.log(-np.log(scores))
  if len(exclude):
    scores[exclude @ (1 << np.arange(n))] = -np.inf
  chosen = np.argsort(-scores, kind="stable")[:num_masks]
  out = np.empty((num_masks, n), bool)
  for player in range(n):
    out[:, player] = (chosen >> player) & 1
  return out


def _check_count(num_masks, n):
  if num_masks < 0 or n < 0:
    raise ValueError(
      f"Need num_masks >= 0 and n >= 0; got {num_masks} and {n}."
    )
  packing.check_fits(num_masks, n, "masks")


def _check_weights(weights, n):
  weights = np.asarray(weights, np.float64)
  if weights.shape != (n + 1,):
    raise ValueError(
      f"Need one weight for each size 0..{n}; got shape {weights.shape}."
    )
  if not ((weights >= 0).all() and 0 < weights.sum() < np.inf):
    raise ValueError("Weights of sizes must be finite, >= 0 and not all 0.")
  return weights
