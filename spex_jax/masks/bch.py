"""Binary BCH codes over GF(2^m): parity rows, and decoding of syndromes.

A set S of players is read as an error pattern: player i sits at position i of
a primitive, narrow-sense BCH code of designed distance 2t + 1, shortened to
the n players. The odd syndromes s_k = sum_{i in S} alpha^(i k), k = 1, 3, ..,
2t - 1, determine any S of at most t players. Field elements are int32 whose
bit k is the coefficient of x^k.

Two codes share one decoder:
  raw         parity rows are the bits of alpha^(i k) themselves: m t rows.
  systematic  parity rows are those of the systematic encoder (the code of
              `spectralexplain`): the longer code spends a larger m, and a
              misread parity is one more error that it may correct.

Sources: Lin and Costello, Error Control Coding, ch. 6 (Berlekamp-Massey for
binary codes, here without inversions); Chase, IEEE Trans. IT 18 (1972).

Shapes: n players, R parity rows, t designed order, W words, L code positions.
"""

import dataclasses
import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np

# Primitive polynomials, bit k = coefficient of x^k (MATLAB's defaults, which
# `galois.BCH` uses too, so that systematic codes agree).
_PRIMITIVE = {
  2: 0b111,
  3: 0b1011,
  4: 0b10011,
  5: 0b100101,
  6: 0b1000011,
  7: 0b10001001,
  8: 0b100011101,
  9: 0b1000010001,
  10: 0b10000001001,
  11: 0b100000000101,
  12: 0b1000001010011,
  13: 0b10000000011011,
  14: 0b100010001000011,
  15: 0b1000000000000011,
  16: 0b10001000000001011,
  17: 0b100000000000001001,
}
MAX_PLAYERS = (1 << max(_PRIMITIVE)) - 1
MAX_ORDER = 8


@functools.cache
def _powers(m: int) -> np.ndarray:
  """int32 `[2^m - 1]`: alpha^i."""
  out = np.empty((1 << m) - 1, np.int32)
  element = 1
  for i in range(len(out)):
    out[i] = element
    element <<= 1
    if element >> m:
      element ^= _PRIMITIVE[m]
  return out


def multiply(a: jax.Array, b: jax.Array, m: int) -> jax.Array:
  """Products in GF(2^m), elementwise with broadcasting; int32.

  Shifts and masks only: on CPU they vectorise, where table look-ups do not.
  The barrier keeps chains of products from being fused into one kernel, which
  would recompute the factors for every bit.
  """
  chex.assert_type([a, b], jnp.int32)
  a, b = jax.lax.optimization_barrier((a, b))
  product = jnp.zeros(jnp.broadcast_shapes(a.shape, b.shape), jnp.int32)
  for bit in reversed(range(m)):
    product = product << 1
    product ^= (product >> m) * _PRIMITIVE[m]
    product ^= ((b >> bit) & 1) * a
  return product


def square(a: jax.Array, m: int) -> jax.Array:
  """Squares in GF(2^m): linear over GF(2), one fixed element per bit."""
  chex.assert_type(a, jnp.int32)
  powers = _powers(m)
  out = jnp.zeros_like(a)
  for bit in range(m):
    out ^= ((a >> bit) & 1) * int(powers[(2 * bit) % len(powers)])
  return out


def inverse(a: jax.Array, m: int) -> jax.Array:
  """Inverses in GF(2^m), a^(2^m - 2); 0 for 0."""
  # Invariant: out = a^(2^k - 1); the last squaring doubles the exponent.
  out = a
  for _ in range(m - 2):
    out = multiply(square(out, m), a, m)
  return square(out, m)


def _degree(polynomial: int) -> int:
  return polynomial.bit_length() - 1


@functools.cache
def _generator(m: int, t: int) -> int:
  """Product over GF(2) of the minimal polynomials of alpha, .., alpha^(2t-1).

  Polynomials over GF(2) are Python integers, bit k for x^k.
  """
  powers = _powers(m)
  order = len(powers)
  logs = {int(element): e for e, element in enumerate(powers)}
  generator, seen = 1, set()
  for odd in range(1, 2 * t, 2):
    cosets = {odd * 2**k % order for k in range(m)}
    if min(cosets) in seen:
      continue
    seen.add(min(cosets))
    # prod (x - alpha^e) over the conjugates; its coefficients are 0 or 1.
    minimal = [1]  # Field elements, highest power first.
    for e in cosets:
      scaled = [
        0 if c == 0 else int(powers[(logs[c] + e) % order]) for c in minimal
      ]
      minimal = [a ^ b for a, b in zip([*minimal, 0], [0, *scaled])]
    factor = int("".join(map(str, minimal)), 2)
    product = 0
    for k in range(factor.bit_length()):
      product ^= (generator << k) * ((factor >> k) & 1)
    generator = product
  return generator


@dataclasses.dataclass(frozen=True)
class Code:
  """A shortened BCH code for n players; hashable, so static under jit.

  Attributes:
    n: number of players, at the code's first positions.
    t: designed order: every set of at most t players is decoded.
    kind: "raw" or "systematic".
    m: degree of the field.
  """

  n: int
  t: int
  kind: str
  m: int

  @property
  def num_rows(self) -> int:
    """R, the number of parity rows."""
    return len(self.columns)

  @property
  def num_positions(self) -> int:
    """L: the n players, then (systematic code) the parities themselves."""
    return self.n + (self.num_rows if self.kind == "systematic" else 0)

  @functools.cached_property
  def exponents(self) -> np.ndarray:
    """int64 `[L]`: e such that position p has locator alpha^e, players first.

    A systematic codeword's highest powers are the message, in encoders' order.
    """
    if self.kind == "raw":
      return np.arange(self.n)
    total = self.n + _degree(_generator(self.m, self.t))
    return np.arange(total - 1, -1, -1)

  @functools.cached_property
  def columns(self) -> np.ndarray:
    """int32 `[R, t]`: the odd syndromes that each parity bit stands for."""
    if self.kind == "raw":
      bits = 1 << np.arange(self.m, dtype=np.int32)
      # Row k * m + j is bit j of syndrome k.
      return np.kron(np.eye(self.t, dtype=np.int32), bits[:, None])
    return self._odd_powers(self.exponents[self.n :])

  def parity_rows(self) -> np.ndarray:
    """bool `[R, n]`: the parity bits of every single player."""
    if self.kind == "raw":
      syndromes = self._odd_powers(self.exponents)
      bits = (syndromes[:, :, None] >> np.arange(self.m)) & 1
      return bits.reshape(self.n, -1).T.astype(bool)
    # The parities of a player are the remainder of its power of x.
    generator = _generator(self.m, self.t)
    degree = _degree(generator)
    rows = np.zeros((degree, self.n), bool)
    remainder = generator ^ (1 << degree)  # x^degree modulo the generator.
    for player in reversed(range(self.n)):
      for row in range(degree):
        rows[row, player] = (remainder >> (degree - 1 - row)) & 1
      remainder <<= 1
      if remainder >> degree:
        remainder ^= generator
    return rows

  def _odd_powers(self, exponents: np.ndarray) -> np.ndarray:
    """int32 `[.., t]`: alpha^e, alpha^3e, .., alpha^(2t - 1)e."""
    powers = _powers(self.m)
    odd = np.arange(1, 2 * self.t, 2)
    return powers[(exponents[:, None] * odd) % len(powers)]


def make_code(n: int, t: int, kind: str = "raw") -> Code:
  """The shortest BCH code that holds n players.

  Args:
    n: players, 1 to 100,000 and more (2^17 - 1).
    t: the largest set to decode, 1 to 8.
    kind: "raw" or "systematic".

  Raises:
    ValueError: n, t or kind out of range.
  """
  if kind not in ("raw", "systematic"):
    raise ValueError(f"code must be 'raw' or 'systematic'; got {kind!r}.")
  if not 1 <= t <= MAX_ORDER:
    raise ValueError(f"t must lie in 1..{MAX_ORDER}; got {t}.")
  if n < 1:
    raise ValueError(f"A code needs at least one player; got n={n}.")
  for m in _PRIMITIVE:
    # Designed distance 2t + 1 needs 2t powers to be distinct.
    if (1 << m) - 1 < max(n, 2 * t + 1):
      continue
    if kind == "raw":
      return Code(n=n, t=t, kind=kind, m=m)
    degree = _degree(_generator(m, t))
    if n + degree <= (1 << m) - 1:
      return Code(n=n, t=t, kind=kind, m=m)
  raise ValueError(
    f"No {kind} code holds n={n} players; the largest is {MAX_PLAYERS}."
  )


def chase_patterns(num_positions: int, num_patterns: int) -> np.ndarray:
  """bool `[num_patterns, num_positions]`: which unreliable bits to flip.

  Position r is the r-th least reliable bit. Patterns come by rank sum, the
  order of total unreliability when reliabilities grow linearly in rank: a
  fixed table in place of Chase's sort per word. The first flips nothing.

  Raises:
    ValueError: more patterns than there are subsets.
  """
  if num_patterns > 2**num_positions:
    raise ValueError(
      f"{num_positions} positions have {2**num_positions} patterns; "
      f"{num_patterns} were asked for."
    )
  found: list[tuple[int, ...]] = []
  rank_sum = 0
  while len(found) < num_patterns:
    found += _distinct_parts(rank_sum, num_positions)
    rank_sum += 1
  out = np.zeros((num_patterns, num_positions), bool)
  for row, ranks in zip(out, found):
    row[[r - 1 for r in ranks]] = True
  return out


def syndromes_of(code: Code, bits: jax.Array) -> jax.Array:
  """int32 `[t]`: odd syndromes of parity bits, bool `[R]`. Unbatched."""
  chex.assert_shape(bits, (code.num_rows,))
  chex.assert_type(bits, bool)
  columns = jnp.asarray(code.columns)
  return _xor_sum(jnp.where(bits[:, None], columns, 0), axis=0)


def chase_syndromes(
  code: Code, soft: jax.Array, patterns: np.ndarray
) -> tuple[jax.Array, jax.Array]:
  """Syndromes of a soft parity word under every flip pattern. Unbatched.

  Args:
    code: the code.
    soft: float `[R]`; negative reads as parity 1, magnitude as reliability.
    patterns: bool `[Q, V]`, the flips of the V least reliable bits.

  Returns:
    int32 `[Q, t]` odd syndromes, and float `[Q]` the reliability given up.
  """
  chex.assert_shape(soft, (code.num_rows,))
  chex.assert_rank(patterns, 2)
  chex.assert_type([soft, patterns], [float, bool])
  num_flips = min(patterns.shape[1], code.num_rows)
  patterns = patterns[:, :num_flips]
  columns = jnp.asarray(code.columns)
  weakest, index = jax.lax.top_k(-jnp.abs(soft), num_flips)
  base = syndromes_of(code, soft < 0)
  flips = jnp.where(patterns[:, :, None], columns[index][None], 0)
  cost = jnp.where(patterns, -weakest[None], 0.0).sum(axis=1)
  return base[None] ^ _xor_sum(flips, axis=1), cost


def error_locator(
  code: Code, syndromes: jax.Array
) -> tuple[jax.Array, jax.Array]:
  """Berlekamp-Massey without inversions. Batched: words lie last.

  Args:
    code: the code.
    syndromes: int32 `[t, W]`, the odd syndromes of W words.

  Returns:
    int32 `[t + 1, W]` coefficients of Lambda(x) = c prod_i (1 - X_i x), lowest
    power first, with c != 0; and int32 `[W]` the number of errors it claims.
  """
  chex.assert_shape(syndromes, (code.t, None))
  chex.assert_type(syndromes, jnp.int32)
  t, m = code.t, code.m
  num_words = syndromes.shape[1]
  # All syndromes 1..2t: the even ones are squares. Row k is s_{k+1}.
  rows: list[jax.Array] = []
  for k in range(1, 2 * t + 1):
    rows.append(syndromes[k // 2] if k % 2 else square(rows[k // 2 - 1], m))
  # Reversed and padded, so that step r reads s_{r+1}, s_r, .. as one slice.
  padding = jnp.zeros((t, num_words), jnp.int32)
  table = jnp.concatenate([padding, jnp.stack(rows)])[::-1]

  def step(i, state):
    locator, helper, last, length = state
    r = 2 * i
    window = jax.lax.dynamic_slice_in_dim(table, 2 * t - 1 - r, t + 1)
    discrepancy = _xor_sum(multiply(locator, window, m), axis=0)
    shifted = jnp.concatenate([jnp.zeros_like(helper[:1]), helper[:-1]])
    updated = multiply(last[None], locator, m) ^ multiply(
      discrepancy[None], shifted, m
    )
    grows = (discrepancy != 0) & (2 * length <= r)
    helper = jnp.where(grows[None], locator, shifted)
    # The even step that follows has no discrepancy: it only shifts.
    helper = jnp.concatenate([jnp.zeros_like(helper[:1]), helper[:-1]])
    last = jnp.where(grows, discrepancy, last)
    length = jnp.where(grows, r + 1 - length, length)
    return updated, helper, last, length

  one = jnp.zeros((t + 1, num_words), jnp.int32).at[0].set(1)
  ones = jnp.ones(num_words, jnp.int32)
  state = one, one, ones, jnp.zeros(num_words, jnp.int32)
  locator, _, _, length = jax.lax.fori_loop(0, t, step, state)
  return locator, length


def splits(code: Code, locator: jax.Array) -> jax.Array:
  """Whether locators may have all their roots in the field. Batched.

  A cheap test that passes every polynomial with distinct roots in GF(2^m) and
  hardly any other (x^t is then fixed by the m-th Frobenius power modulo the
  reversed polynomial); `find_players` is the judge.

  Args:
    code: the code.
    locator: int32 `[t + 1, W]`.

  Returns:
    bool `[W]`.
  """
  chex.assert_shape(locator, (code.t + 1, None))
  chex.assert_type(locator, jnp.int32)
  t, m = code.t, code.m
  # x^t Lambda(1 / x), made monic: its lower coefficients reduce x^t.
  reduction = multiply(locator[1:], inverse(locator[:1], m), m)[::-1]

  def times_x(poly):
    shifted = jnp.concatenate([jnp.zeros_like(poly[:1]), poly[:-1]])
    return shifted ^ multiply(poly[-1:], reduction, m)

  # Squaring sends x^j to x^2j: below the degree a place, above it one of
  # these rows. Loops, not unrolled chains: fusing those recomputes them.
  _, powers = jax.lax.scan(
    lambda power, _: (times_x(power), power), reduction, None, length=t
  )
  high = np.arange((t + 1) // 2, t)
  high_powers = powers[2 * high - t]
  low = np.zeros(t, np.int64)
  low[: 2 * ((t + 1) // 2) : 2] = 1

  def frobenius(_, poly):
    squares = square(poly, m)
    total = jnp.where(low[:, None] == 1, jnp.repeat(squares, 2, axis=0)[:t], 0)
    folded = multiply(squares[high][:, None], high_powers, m)
    return total ^ _xor_sum(folded, axis=0)

  image = jax.lax.fori_loop(0, m, frobenius, reduction)
  return (image == reduction).all(axis=0)


def find_players(
  code: Code, locator: jax.Array, length: jax.Array
) -> tuple[jax.Array, jax.Array]:
  """Chien search: the sets that locators stand for. Batched: words lie last.

  Args:
    code: the code.
    locator: int32 `[t + 1, W]` from `error_locator`.
    length: int32 `[W]` from `error_locator`.

  Returns:
    int32 `[W, t]` players in ascending order, padded with n (a corrected
    parity is no player), and bool `[W]`, whether the word was decodable; rows
    of words that were not hold only padding.
  """
  chex.assert_shape(locator, (code.t + 1, None))
  chex.assert_shape(length, locator.shape[1:])
  chex.assert_type([locator, length], jnp.int32)
  order = (1 << code.m) - 1
  points = jnp.asarray(_powers(code.m)[-code.exponents % order])[None]

  def horner(i, total):
    row = jax.lax.dynamic_index_in_dim(locator, code.t - 1 - i, keepdims=False)
    return multiply(total, points, code.m) ^ row[:, None]

  start = jnp.broadcast_to(
    locator[code.t][:, None], (locator.shape[1], code.num_positions)
  )
  is_root = jax.lax.fori_loop(0, code.t, horner, start) == 0
  decoded = (length <= code.t) & (is_root.sum(axis=1) == length)
  is_root &= decoded[:, None]
  places = jnp.arange(code.num_positions)[None]
  columns = []
  for _ in range(code.t):
    first = jnp.argmax(is_root, axis=1)
    found = jnp.take_along_axis(is_root, first[:, None], axis=1)[:, 0]
    columns.append(jnp.where(found & (first < code.n), first, code.n))
    is_root &= places != first[:, None]
  return jnp.stack(columns, axis=1).astype(jnp.int32), decoded


def decode_chase(
  code: Code, soft: jax.Array, patterns: np.ndarray, keep: int
) -> tuple[jax.Array, jax.Array]:
  """Chase decoding: the sets nearest to soft parity words. Batched.

  Every flip pattern is decoded; of those whose locator splits, the `keep`
  that give up the least reliability are searched for their players.

  Args:
    code: the code.
    soft: float `[W, R]`, negative reads as parity 1.
    patterns: bool `[Q, V]`, the flips that `chase_patterns` gives.
    keep: candidates a word, at most Q.

  Returns:
    int32 `[W, keep, t]` players padded with n, cheapest first, and bool
    `[W, keep]` decodable.
  """
  chex.assert_shape(soft, (None, code.num_rows))
  chex.assert_rank(patterns, 2)
  num_words, num_patterns = len(soft), len(patterns)
  syndromes, cost = jax.vmap(
    lambda word: chase_syndromes(code, word, patterns)
  )(soft)
  locator, length = error_locator(code, syndromes.reshape(-1, code.t).T)
  if num_patterns > 1:
    good = (splits(code, locator) & (length <= code.t)).reshape(cost.shape)
    _, best = jax.lax.top_k(jnp.where(good, -cost, -jnp.inf), keep)
    index = (jnp.arange(num_words)[:, None] * num_patterns + best).reshape(-1)
    locator, length = locator[:, index], length[index]
  players, decoded = find_players(code, locator, length)
  return (
    players.reshape(num_words, -1, code.t),
    decoded.reshape(num_words, -1),
  )


def _xor_sum(x: jax.Array, axis: int) -> jax.Array:
  return jax.lax.reduce(x, np.int32(0), jax.lax.bitwise_xor, (axis,))


def _distinct_parts(total: int, largest: int) -> list[tuple[int, ...]]:
  """Sets of distinct integers in 1..largest with the given sum."""
  if total == 0:
    return [()]
  found = []
  for part in range(min(total, largest), 0, -1):
    found += [(part, *rest) for rest in _distinct_parts(total - part, part - 1)]
  return found
