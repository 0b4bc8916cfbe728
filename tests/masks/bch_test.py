"""Tests of BCH codes: brute force for short ones, galois, sampled long ones."""

import itertools
import warnings

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from spex_jax.masks import bch

_KINDS = ["raw", "systematic"]


def _supports(n, sets):
  out = np.zeros((len(sets), n), bool)
  for row, players in zip(out, sets, strict=True):
    row[list(players)] = True
  return out


def _parities(code, supports):
  """Parity bits by definition: the sum modulo 2 of the players' columns."""
  rows = code.parity_rows().astype(int)
  return (supports.astype(int) @ rows.T % 2).astype(bool)


def _decode(code, bits):
  """Hard decoding of parity words, bool `[W, R]`."""
  syndromes = jax.vmap(lambda word: bch.syndromes_of(code, word))(bits)
  return bch.find_players(code, *bch.error_locator(code, syndromes.T))


def _sets(players, n):
  return [tuple(i for i in row if i < n) for row in np.asarray(players)]


@pytest.mark.parametrize("m", range(2, 18))
def test_polynomials_are_primitive(m):
  # The powers of x run through all of the field's units exactly once.
  powers = bch._powers(m)
  assert len(np.unique(powers)) == (1 << m) - 1
  assert powers.min() == 1 and powers.max() == (1 << m) - 1


@pytest.mark.slow
@pytest.mark.parametrize("m", [2, 3, 7, 8, 11, 16, 17])
def test_field_arithmetic_matches_galois(m):
  galois = pytest.importorskip("galois")
  field = galois.GF(2**m, irreducible_poly=galois.Poly.Int(bch._PRIMITIVE[m]))
  rng = np.random.default_rng(m)
  a, b = rng.integers(0, 1 << m, (2, 200)).astype(np.int32)
  a[:2], b[:1] = 0, 0
  np.testing.assert_array_equal(
    bch.multiply(jnp.asarray(a), jnp.asarray(b), m), field(a) * field(b)
  )
  np.testing.assert_array_equal(bch.square(jnp.asarray(a), m), field(a) ** 2)
  inverse = np.asarray(bch.inverse(jnp.asarray(a), m))
  units = a > 0
  np.testing.assert_array_equal(inverse[units], field(a[units]) ** -1)
  np.testing.assert_array_equal(inverse[~units], 0)


@pytest.mark.slow
@pytest.mark.parametrize(("n", "t"), [(5, 1), (20, 3), (100, 5), (300, 8)])
def test_systematic_code_matches_galois(n, t):
  galois = pytest.importorskip("galois")
  code = bch.make_code(n, t, "systematic")
  with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    peer = galois.BCH((1 << code.m) - 1, d=2 * t + 1)
  parities = np.asarray(peer.G)[peer.k - n :, peer.k :].astype(bool)
  np.testing.assert_array_equal(code.parity_rows(), parities.T)


@pytest.mark.slow
@pytest.mark.parametrize("kind", _KINDS)
@pytest.mark.parametrize(
  ("n", "t"), [(1, 1), (2, 1), (3, 2), (7, 1), (10, 2), (12, 3), (9, 4)]
)
def test_every_small_pattern_decodes(n, t, kind):
  code = bch.make_code(n, t, kind)
  sets = [
    s for k in range(min(t, n) + 1) for s in itertools.combinations(range(n), k)
  ]
  bits = _parities(code, _supports(n, sets))
  players, decoded = _decode(code, jnp.asarray(bits))
  assert players.shape == (len(sets), t) and players.dtype == jnp.int32
  assert np.all(decoded)
  assert _sets(players, n) == sets


@pytest.mark.slow_where("100000", "4000", "raw")
@pytest.mark.parametrize("kind", _KINDS)
@pytest.mark.parametrize(
  ("n", "t"), [(100, 5), (1000, 5), (1000, 8), (4000, 2), (100_000, 3)]
)
def test_sampled_long_patterns_decode(n, t, kind):
  code = bch.make_code(n, t, kind)
  rng = np.random.default_rng(n + t)
  sets = [
    tuple(sorted(rng.choice(n, rng.integers(0, t + 1), replace=False)))
    for _ in range(60 if n < 10_000 else 8)
  ]
  rows = code.parity_rows()
  bits = np.array(
    [np.logical_xor.reduce(rows[:, list(s)], axis=1) for s in sets]
  )
  players, decoded = _decode(code, jnp.asarray(bits))
  assert np.all(decoded)
  assert _sets(players, n) == sets


@pytest.mark.slow
@pytest.mark.parametrize(("n", "t"), [(7, 1), (7, 2), (12, 2), (10, 3)])
def test_raw_decoding_is_exact_on_every_word(n, t):
  # Every parity word, decodable or not, against a table of all sets.
  code = bch.make_code(n, t)
  sets = [s for k in range(t + 1) for s in itertools.combinations(range(n), k)]
  table = dict(
    zip(map(tuple, _parities(code, _supports(n, sets))), sets, strict=True)
  )
  num_rows = code.num_rows
  words = (np.arange(1 << num_rows)[:, None] >> np.arange(num_rows)) & 1
  words = words.astype(bool)
  players, decoded = _decode(code, jnp.asarray(words))
  for word, row, ok in zip(words, _sets(players, n), decoded, strict=True):
    assert bool(ok) == (tuple(word) in table)
    assert row == table.get(tuple(word), ())


@pytest.mark.slow
def test_systematic_code_corrects_misread_parities():
  code = bch.make_code(30, 4, "systematic")
  rng = np.random.default_rng(0)
  sets = [tuple(sorted(rng.choice(30, 2, replace=False))) for _ in range(40)]
  bits = _parities(code, _supports(30, sets))
  for row in bits:
    row[rng.choice(code.num_rows, 2, replace=False)] ^= True
  players, decoded = _decode(code, jnp.asarray(bits))
  assert np.all(decoded)
  assert _sets(players, 30) == sets


@pytest.mark.slow
def test_filter_passes_whatever_is_decodable():
  code = bch.make_code(60, 4)
  words = np.random.default_rng(0).random((4000, code.num_rows)) < 0.5
  syndromes = jax.vmap(lambda w: bch.syndromes_of(code, w))(jnp.asarray(words))
  locator, length = bch.error_locator(code, syndromes.T)
  _, decoded = bch.find_players(code, locator, length)
  passed = np.asarray(bch.splits(code, locator))
  assert np.asarray(decoded).sum() > 20
  assert passed[np.asarray(decoded)].all()
  assert passed.mean() < 0.2  # It filters: most random words do not split.


@pytest.mark.slow
@pytest.mark.slow
@pytest.mark.parametrize(
  "kind", [pytest.param("raw", marks=pytest.mark.slow), "systematic"]
)
def test_chase_finds_the_likeliest_set(kind):
  # With all flips allowed, Chase decoding is maximum likelihood: compare with
  # a search over all sets for the least reliability that must be flipped.
  n, t = 6, 2
  code = bch.make_code(n, t, kind)
  sets = [s for k in range(t + 1) for s in itertools.combinations(range(n), k)]
  parities = _parities(code, _supports(n, sets))
  soft = np.random.default_rng(1).normal(size=(30, code.num_rows))
  patterns = bch.chase_patterns(code.num_rows, 2**code.num_rows)
  players, decoded = bch.decode_chase(
    code, jnp.asarray(soft, jnp.float32), patterns, len(patterns)
  )
  assert np.asarray(decoded).any(axis=1).all()
  first = np.asarray(decoded).argmax(axis=1)  # Candidates come cheapest first.
  flips = (soft < 0)[:, None] != parities[None]
  cost = (flips * np.abs(soft)[:, None]).sum(axis=2)
  found = [
    sets.index(s) for s in _sets(np.asarray(players)[np.arange(30), first], n)
  ]
  if kind == "raw":
    best = cost.argmin(axis=1)
    np.testing.assert_array_equal(found, best)
  else:
    # Its decoder may correct parities for free: never worse than exact sets
    # whose flips it pays for, up to the t errors that it corrects itself.
    cheapest = np.sort(flips * np.abs(soft)[:, None], axis=2)
    sizes = np.array([len(s) for s in sets])
    free = np.array(
      [
        [c[: c.size - (t - k)].sum() for c, k in zip(row, sizes, strict=True)]
        for row in cheapest
      ]
    )
    np.testing.assert_allclose(
      free[np.arange(30), found], free.min(axis=1), atol=1e-6
    )


def test_chase_patterns_come_by_rank_sum():
  patterns = bch.chase_patterns(4, 16)
  assert len({tuple(p) for p in patterns}) == 16
  sums = (patterns * np.arange(1, 5)).sum(axis=1)
  assert (np.diff(sums) >= 0).all() and not patterns[0].any()


@pytest.mark.slow
def test_chase_survives_flips_that_hard_decoding_does_not():
  code = bch.make_code(100, 5)
  rng = np.random.default_rng(3)
  sets = [tuple(sorted(rng.choice(100, 4, replace=False))) for _ in range(30)]
  bits = _parities(code, _supports(100, sets))
  soft = np.where(bits, -1.0, 1.0) * rng.uniform(1, 2, bits.shape)
  for row in soft:
    row[rng.choice(code.num_rows, 2, replace=False)] *= -0.1
  patterns = bch.chase_patterns(10, 56)
  players, decoded = bch.decode_chase(
    code, jnp.asarray(soft, jnp.float32), patterns, 2
  )
  hits = [
    want in _sets(row, 100) for row, want in zip(players, sets, strict=True)
  ]
  hard, hard_ok = _decode(code, jnp.asarray(soft < 0))
  hard_hits = [a == b for a, b in zip(_sets(hard, 100), sets, strict=True)]
  assert np.asarray(decoded).any(axis=1).all()
  assert all(hits)
  assert not any(hard_hits)
  assert not np.asarray(hard_ok).all()


@pytest.mark.slow
def test_compiles_once_and_equals_itself_under_jit():
  code = bch.make_code(50, 3)
  chex.clear_trace_counter()
  fn = jax.jit(chex.assert_max_traces(lambda bits: _decode(code, bits), n=1))
  for seed in range(3):
    bits = np.random.default_rng(seed).random((20, code.num_rows)) < 0.5
    chex.assert_trees_all_equal(fn(bits), _decode(code, jnp.asarray(bits)))


@pytest.mark.parametrize(
  ("arguments", "message"),
  [
    ((10, 0), "t must lie in 1..8; got 0"),
    ((10, 9), "t must lie in 1..8; got 9"),
    ((0, 3), "at least one player; got n=0"),
    ((1 << 17, 3), "n=131072 players; the largest is 131071"),
    ((10, 3, "other"), "must be 'raw' or 'systematic'; got 'other'"),
  ],
)
def test_bad_input(arguments, message):
  with pytest.raises(ValueError, match=message):
    bch.make_code(*arguments)


def test_too_many_patterns():
  with pytest.raises(ValueError, match="2 positions have 4 patterns; 5"):
    bch.chase_patterns(2, 5)
