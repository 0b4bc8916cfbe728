"""Fourier to Moebius and back, and the sums over supersets behind them."""

import math

import numpy as np
import pytest

from spex_jax.fourier import sparse
from spex_jax.indices import mobius

_EPS = np.finfo(np.float64).eps


def _random(n, num_terms, order, seed=0):
  rng = np.random.default_rng(seed)
  rows = np.full((num_terms, order), n)
  for row in rows:
    size = rng.integers(0, order + 1)
    row[:size] = rng.choice(n, size, replace=False)
  return sparse.SparseFourier.from_players(n, rows, rng.normal(size=num_terms))


def _mobius_by_definition(fourier):
  """`(-2)^|T| sum_{S superset of T} F(S)`, over all T."""
  terms = [(frozenset(s), c) for s, c in fourier.terms()]
  out = {}
  for code in range(1 << fourier.n):
    t = frozenset(i for i in range(fourier.n) if code >> i & 1)
    out[t] = (-2) ** len(t) * sum(c for s, c in terms if t <= s)
  return out


def _as_dict(sets):
  return {
    frozenset(i for i in row if i < sets.n): value
    for row, value in zip(sets.players.tolist(), sets.values.tolist())
  }


@pytest.mark.parametrize("order", [None, 1, 2])
@pytest.mark.parametrize("tabulate", [True, False])
@pytest.mark.parametrize("n, num_terms", [(1, 2), (6, 8), (8, 60)])
def test_matches_definition(n, num_terms, tabulate, order, monkeypatch):
  monkeypatch.setattr(mobius, "_MAX_DENSE", 20 if tabulate else -1)
  fourier = _random(n, num_terms, min(n, 5))
  terms = mobius.terms_of(fourier)
  weight = lambda s, t: (-2) ** t
  actual = _as_dict(mobius.superset_sums(fourier.n, *terms, weight, order))
  # At most K additions, of numbers that sum to at most 2^5 sum |F|.
  atol = 60 * _EPS * 32 * np.abs(fourier.coefs).sum()
  for t, value in _mobius_by_definition(fourier).items():
    expected = value if order is None or len(t) <= order else 0.0
    assert actual.get(t, 0.0) == pytest.approx(expected, abs=atol)


def test_mobius_sums_give_values_and_all_is_the_full_mask():
  fourier = _random(7, 20, 4)
  sets = _as_dict(mobius.mobius_from_fourier(fourier))
  rng = np.random.default_rng(1)
  masks = rng.random((30, 7)) < 0.5
  masks[0] = True
  kept = [frozenset(np.flatnonzero(m).tolist()) for m in masks]
  sums = [sum(v for t, v in sets.items() if t <= k) for k in kept]
  # 20 terms of 2^4 subsets, each rounded, at most 2^4 as large as its term.
  atol = 320 * 16 * _EPS * np.abs(fourier.coefs).sum()
  np.testing.assert_allclose(sums, fourier(masks), rtol=0, atol=atol)


def test_every_set_of_14_players():
  rng = np.random.default_rng(0)
  supports = (np.arange(1 << 14)[:, None] >> np.arange(14) & 1).astype(bool)
  coefs = rng.normal(size=1 << 14)
  fourier = sparse.SparseFourier.from_supports(supports, coefs)
  sets = mobius.mobius_from_fourier(fourier)
  assert len(sets.values) == 1 << 14
  by_set = _as_dict(sets)
  t = {0, 5, 13}
  columns = sorted(t)
  expected = -8 * coefs[supports[:, columns].all(axis=1)].sum()
  # A sum of 2^11 terms of size about 8, pairwise by bits.
  assert by_set[frozenset(t)] == pytest.approx(expected, abs=1e-10)


def test_large_players_ids_are_ranked_exactly():
  # (10^5)^5 overflows int64, so prefixes are ranked on the way.
  n = 100_000
  fourier = _random(n, 3000, 5)
  sets = mobius.mobius_from_fourier(fourier)
  biggest = max(fourier.terms(), key=lambda term: len(term[0]))
  value = _as_dict(sets)[frozenset(biggest[0])]
  assert value == pytest.approx((-2) ** len(biggest[0]) * biggest[1])
  rows = [tuple(row) for row in sets.players.tolist()]
  assert len(set(rows)) == len(rows)


@pytest.mark.slow
def test_ten_thousand_terms_of_order_five():
  rng = np.random.default_rng(0)
  rows = np.argsort(rng.random((10_000, 1000)), axis=1)[:, :5]
  fourier = sparse.SparseFourier.from_players(
    1000, rows, rng.normal(size=10_000)
  )
  sets = mobius.mobius_from_fourier(fourier)
  sizes = (sets.players < 1000).sum(axis=1)
  assert (sizes == 5).sum() == len(fourier.coefs)
  assert (sizes == 1).sum() == 1000
  i = 17
  expected = -2 * sum(c for s, c in fourier.terms() if i in s)
  # About 50 terms meet at a player.
  assert _as_dict(sets)[frozenset([i])] == pytest.approx(expected, abs=1e-12)


def test_too_large_closure_says_which_order_fits():
  fourier = sparse.SparseFourier.from_terms(50, {tuple(range(40)): 1.0})
  with pytest.raises(
    ValueError, match=r"16777216 subsets of up to 40 players.*order=6 or less"
  ):
    mobius.mobius_from_fourier(fourier)
  assert sum(math.comb(40, t) for t in range(7)) <= mobius.MAX_PAIRS
  terms = mobius.terms_of(fourier)
  sets = mobius.superset_sums(50, *terms, lambda s, t: (-2) ** t, 2)
  assert len(sets.values) == 1 + 40 + 780


def test_no_terms():
  empty = sparse.SparseFourier.from_terms(3, [])
  assert len(mobius.mobius_from_fourier(empty).values) == 0


def test_targets_are_refused():
  one = _random(4, 3, 2)
  with pytest.raises(ValueError, match=r"2 targets; choose one with .*target"):
    mobius.mobius_from_fourier(sparse.SparseFourier.stack([one, one]))
